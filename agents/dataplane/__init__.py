"""ESP under one driver protocol: kernel XFRM, the userspace engine, and a fake for tests."""
