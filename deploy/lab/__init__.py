"""A network of namespaces on one machine: gateways, the hosts behind them and an internet between.

Nothing here makes a link, an address or a route in the namespace it is started from, so the same code runs as root and
inside an unprivileged user namespace.
"""
