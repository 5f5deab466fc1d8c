"""Protecting the messages of one IKE SA: suite, keys, a cipher per direction, IVs that never repeat, fragments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from agents.ike.crypto.cipher import SkCipher
from agents.ike.crypto.suite import IkeSuite
from agents.ike.outputs import Entropy
from agents.ike.v2.keymat import IkeKeys
from agents.ike.wire import fragments
from agents.ike.wire.fragments import Fragment, Place
from agents.ike.wire.header import HEADER_OCTETS, Header
from agents.ike.wire.message import GENERIC, Inner, Message, encode, open_inner, seal_inner


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

    def _iv(self, entropy: Entropy) -> bytes:
        """Return the next IV: a counter where none may repeat (RFC 5282, RFC 5930), drawn for CBC (RFC 3602)."""
        octets = self.cipher_out.iv_octets
        if self.suite.encryption.block_octets == 1:  # an AEAD, or counter mode
            self._counter += 1
            return self._counter.to_bytes(octets, "big")
        return entropy.octets(octets)

    def seal(self, message: Message, entropy: Entropy) -> bytes:
        """Return the datagram."""
        return self.seal_inner(message.header, encode(message.payloads), entropy)

    def seal_inner(self, header: Header, inner: Inner, entropy: Entropy) -> bytes:
        """Return the datagram."""
        return seal_inner(header, inner, self.cipher_out, self._iv(entropy))

    def seal_fragments(self, header: Header, inner: Inner, most_octets: int, entropy: Entropy) -> tuple[bytes, ...]:
        """Return the message in datagrams of at most this many octets (RFC 7383 section 2.5)."""
        pieces = fragments.cut(inner, fragments.content_octets(most_octets, self.cipher_out))
        return tuple(
            fragments.seal_fragment(
                header,
                Fragment(
                    place=Place(number=number, total=len(pieces)),
                    first=inner.first if number == 1 else 0,
                    reserved=0,
                    content=piece,
                ),
                self.cipher_out,
                self._iv(entropy),
            )
            for number, piece in enumerate(pieces, 1)
        )

    def whole_octets(self, inner: Inner) -> int:
        """Return how long the datagram is that :meth:`seal_inner` makes of this."""
        return HEADER_OCTETS + GENERIC.size + len(inner.chain) + self.cipher_out.overhead(len(inner.chain))

    def open(self, datagram: bytes, header: Header) -> Inner:
        """Return the content of a message that is not a fragment. Raises IntegrityError or WireError."""
        return open_inner(datagram, header, self.cipher_in)

    def open_fragment(self, datagram: bytes, header: Header) -> Fragment:
        """Return a fragment. Raises IntegrityError or WireError."""
        return fragments.open_fragment(datagram, header, self.cipher_in)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message as it was sent, to be sent again.

    ``inner`` and ``protection`` are kept where a narrower path could make it necessary to cut the message anew.
    """

    header: Header
    datagrams: tuple[bytes, ...]
    inner: Inner | None = dataclasses.field(default=None, repr=False)
    protection: Protection | None = dataclasses.field(default=None, repr=False)
