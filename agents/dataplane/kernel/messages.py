"""XFRM netlink messages as pyroute2 message classes: layouts of ``linux/xfrm.h``, nothing that acts.

Attributes stay octets here (``cdata``); :mod:`agents.dataplane.kernel.rows` packs and reads them. Field names repeat in
the kernel's nested structs (a selector and a state both have a ``daddr``), so those of a selector start with ``sel_``,
of limits with ``lft_``, of current values with ``cur_``, of statistics with ``st_``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pyroute2.netlink import nlmsg
from pyroute2.netlink.marshal import Marshal

NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, GETPOLICY = range(0x10, 0x16)
ACQUIRE, EXPIRE, UPDPOLICY, UPDSA = range(0x17, 0x1B)
FLUSHSA, FLUSHPOLICY = 0x1C, 0x1D
MAPPING = 0x26

GROUP_ACQUIRE, GROUP_EXPIRE, GROUP_SA, GROUP_POLICY = 0x01, 0x02, 0x04, 0x08
GROUP_MAPPING = 0x80
"""Multicast groups as bits of a socket address."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_Fields = tuple[tuple[str, str], ...]

_SELECTOR: _Fields = (
    ("sel_daddr", "16s"), ("sel_saddr", "16s"),
    ("sel_dport", ">H"), ("sel_dport_mask", ">H"), ("sel_sport", ">H"), ("sel_sport_mask", ">H"),
    ("sel_family", "H"), ("sel_prefixlen_d", "B"), ("sel_prefixlen_s", "B"), ("sel_proto", "B"),
    ("__pad", "3x"), ("sel_ifindex", "i"), ("sel_user", "I"),
)  # fmt: skip
_ID: _Fields = (("daddr", "16s"), ("spi", ">I"), ("proto", "B"), ("__pad", "3x"))
_LIMITS: _Fields = tuple(
    (f"lft_{name}", "Q")
    for name in (
        "soft_byte", "hard_byte", "soft_packet", "hard_packet", "soft_add", "hard_add", "soft_use", "hard_use"
    )
)  # fmt: skip
_CURRENT: _Fields = tuple((f"cur_{name}", "Q") for name in ("bytes", "packets", "add_time", "use_time"))
_STATE: _Fields = (
    *_SELECTOR, *_ID, ("saddr", "16s"), *_LIMITS, *_CURRENT,
    ("st_replay_window", "I"), ("st_replay", "I"), ("st_integrity", "I"),
    ("seq", "I"), ("reqid", "I"), ("family", "H"), ("mode", "B"), ("replay_window", "B"), ("flags", "B"),
    ("__pad", "7x"),
)  # fmt: skip
_POLICY: _Fields = (
    *_SELECTOR, *_LIMITS, *_CURRENT,
    ("priority", "I"), ("index", "I"), ("dir", "B"), ("action", "B"), ("flags", "B"), ("share", "B"), ("__pad", "4x"),
)  # fmt: skip
_STATE_ID: _Fields = (("daddr", "16s"), ("spi", ">I"), ("family", "H"), ("proto", "B"), ("__pad", "1x"))

_ATTRIBUTES = (
    "UNSPEC", "ALG_AUTH", "ALG_CRYPT", "ALG_COMP", "ENCAP", "TMPL", "SA", "POLICY", "SEC_CTX", "LTIME_VAL",
    "REPLAY_VAL", "REPLAY_THRESH", "ETIMER_THRESH", "SRCADDR", "COADDR", "LASTUSED", "POLICY_TYPE", "MIGRATE",
    "ALG_AEAD", "KMADDRESS", "ALG_AUTH_TRUNC", "MARK", "TFCPAD", "REPLAY_ESN_VAL", "SA_EXTRA_FLAGS", "PROTO",
    "ADDRESS_FILTER", "PAD", "OFFLOAD_DEV", "SET_MARK", "SET_MARK_MASK", "IF_ID", "MTIMER_THRESH", "SA_DIR",
    "NAT_KEEPALIVE_INTERVAL", "SA_PCPU",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A message's fields as one struct in native order; ``shorts`` and ``longs`` are those in network order."""

    struct: struct.Struct
    names: tuple[str, ...]
    shorts: tuple[str, ...]
    longs: tuple[str, ...]


@cache
def _layout(fields: _Fields) -> _Layout:
    return _Layout(
        struct=struct.Struct("=" + "".join(part.removeprefix(">") for _, part in fields)),
        names=tuple(name for name, part in fields if not part.endswith("x")),
        shorts=tuple(name for name, part in fields if part == ">H"),
        longs=tuple(name for name, part in fields if part == ">I"),
    )


class XfrmMessage(nlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """What all XFRM messages share: the attributes, in the order of ``enum xfrm_attr_type_t``."""

    prefix = "XFRMA_"
    nla_map = tuple((f"XFRMA_{name}", "cdata") for name in _ATTRIBUTES)
    fields: _Fields = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return a message with these fields and ``attrs``; the rest stays zero."""
        message = cls()
        message.update(values)
        return message

    def __repr__(self) -> str:
        """Show the kind only: pyroute2 logs whole messages at debug level, and a dumped state has its keys in it."""
        return f"{type(self).__name__}()"

    __str__ = __repr__

    def ft_decode(self, offset: int) -> None:
        """Read all fields at once: pyroute2's way, field by field, takes most of a dump's time."""
        layout = _layout(self.fields)
        self.update(zip(layout.names, layout.struct.unpack_from(self.data, offset), strict=True))
        for name in layout.shorts:
            self[name] = socket.ntohs(self[name])
        for name in layout.longs:
            self[name] = socket.ntohl(self[name])
        self.decode_nlas((offset + layout.struct.size + 3) & ~3)

    def encode(self) -> None:
        """Fill in absent octet fields: pyroute2 would pack the integer 0 and fail."""
        for name, layout in self.fields:
            if layout.endswith("s") and name not in self:
                self[name] = b""
        super().encode()


class StateMessage(XfrmMessage):
    """``struct xfrm_usersa_info``."""

    fields = _STATE


class StateIdMessage(XfrmMessage):
    """``struct xfrm_usersa_id``; in a DELSA notice the whole state follows as ``XFRMA_SA``."""

    fields = _STATE_ID


class PolicyMessage(XfrmMessage):
    """``struct xfrm_userpolicy_info``."""

    fields = _POLICY


class PolicyIdMessage(XfrmMessage):
    """``struct xfrm_userpolicy_id``; in a DELPOLICY notice the whole policy follows as ``XFRMA_POLICY``."""

    fields = (*_SELECTOR, ("index", "I"), ("dir", "B"), ("__pad", "3x"))


def policy_of(octets: bytes) -> PolicyMessage:
    """Read the ``struct xfrm_userpolicy_info`` of an ``XFRMA_POLICY``."""
    message = PolicyMessage(_HEADER.pack(_HEADER.size + len(octets), NEWPOLICY, 0, 0, 0) + octets)
    message.decode()
    return message


class AcquireMessage(XfrmMessage):
    """``struct xfrm_user_acquire``: ``acq_`` is the packet's own selector; the templates follow as ``XFRMA_TMPL``."""

    fields = (
        *_ID, ("saddr", "16s"),
        *((name.replace("sel_", "acq_"), layout) for name, layout in _SELECTOR),
        *_POLICY, ("aalgos", "I"), ("ealgos", "I"), ("calgos", "I"), ("seq", "I"),
    )  # fmt: skip


class ExpireMessage(XfrmMessage):
    """``struct xfrm_user_expire``."""

    fields = (*_STATE, ("hard", "B"), ("__pad", "7x"))


class MappingMessage(XfrmMessage):
    """``struct xfrm_user_mapping``."""

    fields = (
        *_STATE_ID, ("reqid", "I"), ("old_saddr", "16s"), ("new_saddr", "16s"),
        ("old_sport", ">H"), ("new_sport", ">H"),
    )  # fmt: skip


class FlushMessage(XfrmMessage):
    """``struct xfrm_usersa_flush``: only ever heard, never sent."""

    fields = (("proto", "B"),)


class EmptyMessage(XfrmMessage):
    """No body: a dump request, a notice that all policies were flushed."""


class MarshalXfrm(Marshal):  # type: ignore[misc]
    """Which class reads which message type."""

    msg_map = {
        NEWSA: StateMessage,
        UPDSA: StateMessage,
        DELSA: StateIdMessage,
        NEWPOLICY: PolicyMessage,
        DELPOLICY: PolicyIdMessage,
        UPDPOLICY: PolicyMessage,
        ACQUIRE: AcquireMessage,
        EXPIRE: ExpireMessage,
        FLUSHSA: FlushMessage,
        FLUSHPOLICY: EmptyMessage,
        MAPPING: MappingMessage,
    }
