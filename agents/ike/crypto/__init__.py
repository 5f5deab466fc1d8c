"""The primitives IKE needs, over ``cryptography`` and ``hmac``; nothing here knows a message or an exchange.

Every function takes key octets and algorithm rows of :mod:`agents.contract.algorithms`. Randomness comes from the
caller's :class:`~agents.ike.outputs.Entropy`, so a seeded run repeats octet by octet.
"""
