"""The IKE protocol, pure: no sockets, no clock, no randomness of its own.

A machine takes one input (a datagram, a timer, a verb, the result of an effect), after which its outputs are drained to
empty before the next input. See :mod:`agents.ike.outputs` for what comes out and :mod:`agents.ike.engine` for the door.
"""
