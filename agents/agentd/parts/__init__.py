"""What the reconciler keeps right, one part per module; each plans by comparing values and performs nothing."""
