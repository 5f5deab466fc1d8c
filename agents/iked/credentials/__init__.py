"""The daemon's credentials: what the core asks to be signed and validated.

:mod:`desk` takes the core's ``Sign`` and ``Validate`` and answers them; :mod:`revocation` finds out whether a chain's
certificates are revoked, from :mod:`crl` and :mod:`ocsp` data that :mod:`fetch` brings. Chains and keys themselves are
:mod:`agents.pki`; pre-shared keys are :mod:`agents.ike.psk`.
"""
