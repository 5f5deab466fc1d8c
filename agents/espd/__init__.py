"""The userspace data plane's process: TUNs, sockets and the loop between them, served on ``espd.sock``."""
