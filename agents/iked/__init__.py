"""The IKE daemon: a shell around :class:`agents.ike.engine.Engine`.

It owns what the engine may not touch: sockets, the clock, entropy, the configured keys, the data plane driver and the
control socket. Decisions of the protocol are not here.
"""
