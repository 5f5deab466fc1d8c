"""Forms about keys, policies and tunnels. They shape input; the rules are the services'."""
