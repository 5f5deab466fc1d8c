"""The primitives IKE needs, over ``cryptography`` and ``hmac``; nothing here knows a message or an exchange.

Every function takes key octets and algorithm rows of :mod:`agents.contract.algorithms`. Randomness comes from the
caller's :class:`~agents.ike.outputs.Entropy`, so a seeded run repeats octet by octet; where the library draws its own
(RSA-PSS salts, ECDSA, ML-KEM ciphertexts), the module says so.

===================  =======================================================================
``dh``               key exchange, both roles; over ``ffdh`` (MODP) and ``brainpool224``
``prf``, ``cipher``  prf and prf+, the Encrypted payload's protection
``signature``        AUTH by signature
``hash_signature``   SIG of IKEv1
``primitives``       AEADs, block ciphers and MACs behind one form; userspace ESP has them too
``decrepit``         the shelf of what is broken: DES, 3DES, MD5
``suite``            the transforms of an IKE SA in one value
===================  =======================================================================
"""
