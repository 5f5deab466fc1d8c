"""IKEv2 (RFC 7296): key derivation, the state of one IKE SA, its exchanges."""
