"""IKEv1 (RFC 2407 to 2409): its own machine and states; it shares the hub with IKEv2, and no class."""
