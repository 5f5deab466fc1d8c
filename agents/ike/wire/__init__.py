"""Octets <-> frozen values (RFC 7296 section 3). Nothing here acts, keeps state or knows a key."""
