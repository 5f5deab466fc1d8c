"""What the agent's processes share: local RPC, logging, paths, the supervisor. No protocol, no policy."""
