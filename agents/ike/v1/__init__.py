"""IKEv1 (RFC 2407, 2408, 2409): key derivation, the state of one ISAKMP SA, its exchanges."""
