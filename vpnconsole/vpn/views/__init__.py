"""Pages that change keys, policies and tunnels. What was observed of tunnels is shown by ``monitor``."""
