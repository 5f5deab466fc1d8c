"""Protecting the messages of one IKE SA: suite, keys, a cipher per direction, and IVs that never repeat."""

from __future__ import annotations

from agents.ike.crypto.cipher import SkCipher
from agents.ike.crypto.suite import IkeSuite
from agents.ike.outputs import Entropy
from agents.ike.v2.keymat import IkeKeys
from agents.ike.wire.header import Header
from agents.ike.wire.message import Message, open_message, seal_message


class Protection:
    """What IKE_SA_INIT or a rekey agreed on; ``cipher_out`` seals what we send, ``cipher_in`` opens what comes."""

    __slots__ = ("_counter", "cipher_in", "cipher_out", "keys", "suite")

    def __init__(self, suite: IkeSuite, keys: IkeKeys, initiator: bool) -> None:
        """Make the ciphers; ``initiator`` says which end of this SA we are."""
        self.suite = suite
        self.keys = keys
        towards_responder = SkCipher(suite.encryption, suite.integrity, keys.sk_ei, keys.sk_ai)
        towards_initiator = SkCipher(suite.encryption, suite.integrity, keys.sk_er, keys.sk_ar)
        self.cipher_out = towards_responder if initiator else towards_initiator
        self.cipher_in = towards_initiator if initiator else towards_responder
        self._counter = 0

    def seal(self, message: Message, entropy: Entropy) -> bytes:
        """Return the datagram. An AEAD's IV is a counter (RFC 5282 section 3.1), CBC's is drawn (RFC 3602)."""
        octets = self.cipher_out.iv_octets
        if self.suite.encryption.aead:
            self._counter += 1
            iv = self._counter.to_bytes(octets, "big")
        else:
            iv = entropy.octets(octets)
        return seal_message(message, self.cipher_out, iv)

    def open(self, datagram: bytes, header: Header) -> Message:
        """Return the message. Raises IntegrityError or WireError."""
        return open_message(datagram, header, self.cipher_in)
