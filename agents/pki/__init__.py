"""Certificates and private keys: reading, chains (RFC 5280 section 6), the gateway's key folder. No network, no clock.

``iked`` judges peers with it, ``agentd`` checks documents, the command line makes keys. Revocation is
:mod:`agents.iked.credentials`: it needs the network. ADR 0007 says why the path validation is our own.
"""
