"""IKEv1 (RFC 2407, 2408, 2409): octets <-> frozen values, beside those of IKEv2. Nothing here acts or knows a key."""
