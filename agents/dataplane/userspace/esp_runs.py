"""ESP packets of an AEAD, many at once: those of one length with consecutive numbers.

They lie in memory that the cipher writes to. :mod:`agents.dataplane.userspace.esp` does the same packet by packet.

Apart from it since ``iked`` and ``agentd``, which ask it for lengths only, need no NumPy.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.utils import Buffer

from agents.dataplane.userspace import vector
from agents.dataplane.userspace.esp import HEADER_OCTETS, AeadTransform, Transform
from agents.dataplane.userspace.rows import Octets, Rows, Run
from agents.ike.crypto.primitives import AeadInto

_SEALED_AT = HEADER_OCTETS + 8
"""Where the ciphertext begins: behind SPI, sequence number and IV."""
MOST_ADDED = _SEALED_AT + 16
"""What an AEAD adds to a plaintext with its trailer."""


class AeadRuns:
    """The runs of one SA; ``transform`` is what does the same packet by packet."""

    __slots__ = ("_cipher", "_extended", "_icv_octets", "_least", "_salt", "_spi")

    def __init__(self, transform: AeadTransform, cipher: AeadInto) -> None:
        self._cipher = cipher
        self._extended = transform.extended
        self._icv_octets = transform.icv_octets
        self._least = transform.least
        self._salt = transform.salt
        self._spi = struct.pack("!I", transform.spi)

    def seal(self, sequence: int, plain: Run, sealed: Rows) -> Run:
        """Return ESP packets for plaintexts with their trailers, numbered from ``sequence``.

        They are in ``sealed``, which must have room for :data:`MOST_ADDED` octets more a packet.
        """
        packets = Run(sealed, _SEALED_AT + plain.octets + self._icv_octets, plain.count)
        table, numbers = packets.table(), vector.numbered(sequence, plain.count)
        table[:, :4] = np.frombuffer(self._spi, np.uint8)
        table[:, 4:8] = numbers[:, 4:]
        table[:, 8:_SEALED_AT] = numbers
        _each(
            self._cipher.encrypt_into,
            vector.prefixed(self._salt, numbers),
            plain.pieces(0, plain.octets),
            self._associated(packets, numbers),
            packets.pieces(_SEALED_AT, packets.octets),
        )
        return packets

    def open(self, packets: Run, sequence: int, plain: Rows) -> Run | None:
        """Return the plaintexts, in ``plain``, of packets whose numbers follow each other from ``sequence`` on.

        None where one is not authentic, or their length is wrong: then each is to be looked at by itself.
        """
        opened = Run(plain, packets.octets - _SEALED_AT - self._icv_octets, packets.count)
        if packets.octets < self._least or packets.octets & 3 or not plain.fit(opened.octets, opened.count):
            return None
        try:
            _each(
                self._cipher.decrypt_into,
                vector.prefixed(self._salt, packets.table()[:, 8:_SEALED_AT]),
                packets.pieces(_SEALED_AT, packets.octets),
                self._associated(packets, vector.numbered(sequence, packets.count)),
                opened.pieces(0, opened.octets),
            )
        except InvalidTag:
            return None
        return opened

    def _associated(self, packets: Run, numbers: Octets) -> Sequence[Buffer]:
        """Return what the ICVs cover beside the ciphertext (RFC 4106 section 5): SPI and number, the whole of it."""
        return vector.prefixed(self._spi, numbers) if self._extended else packets.pieces(0, HEADER_OCTETS)


def runs_of(transform: Transform) -> AeadRuns | None:
    """Return what does a transform's work for runs; None where that goes one by one only.

    So it is for everything but AEADs, and for those with an ICV cut short.
    """
    if isinstance(transform, AeadTransform) and isinstance(transform.cipher, AeadInto):
        return AeadRuns(transform, transform.cipher)
    return None


def _each(work: Callable[[Buffer, Buffer, Buffer, Buffer], int], *arguments: Iterable[Buffer]) -> None:
    """Call for one packet after the other, without a step of the interpreter between them."""
    deque(map(work, *arguments), maxlen=0)
