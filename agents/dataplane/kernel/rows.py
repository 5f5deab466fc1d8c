"""Between the seam's values and the kernel's rows: packing states and policies, reading dumps and notices.

Pure: no socket here. A row is ours when its ``reqid`` lies in our range (:func:`is_ours`); for a policy, when that of
its template does.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.contract.status import Counters
from agents.dataplane.base import (
    REQID_BASE,
    DataplaneError,
    Direction,
    Limits,
    PolicySpec,
    SaId,
    SaSpec,
    Selector,
    UdpEncapsulation,
)
from agents.dataplane.kernel import messages
from agents.dataplane.kernel.suites import algorithm_attributes

PROTOCOL_ESP = socket.IPPROTO_ESP
UNLIMITED = 2**64 - 1
"""``XFRM_INF``. A byte or packet limit left at 0 would mean used up already."""

POLICY_IN, POLICY_OUT, POLICY_FORWARD = 0, 1, 2
MODE_TUNNEL = 1
_UDP_ENCAP_ESPINUDP = 2
_STATE_AF_UNSPEC = 32
"""The inner family may differ from the outer one, and one SA may carry both."""
_MAPPING_INTERVAL_S = 10
"""``XFRMA_MTIMER_THRESH``: say once in this time that a peer sends from elsewhere, not for every packet."""
_REPLAY_WINDOW_MOST = 4096  # XFRMA_REPLAY_ESN_MAX
_CURRENT_OFFSET = 56 + 24 + 16 + 64
"""Of the current values in ``struct xfrm_usersa_info``: behind selector, id, source address and limits."""
_SOFT_SEQUENCE = 2**32 - 2**28
"""The kernel stops sending, without a word, when 32 bits of sequence number are used up: ask for a rekey before."""
_NO_LIMITS = Limits()
_TEMPLATE = struct.Struct("=16sIB3xH2x16sIBBBxIII")  # struct xfrm_user_tmpl; the SPI is always 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    """A kernel SA in a dump; ``octets`` and ``packets`` are of one direction, ``last_used`` is Unix seconds."""

    id: SaId
    reqid: int
    source: str
    octets: int
    packets: int
    replay_window: int
    last_used: float | None
    late: int
    replayed: int
    unauthentic: int

    def counters(self, direction: Direction) -> Counters:
        """Return the counts on the side they belong to."""
        if direction is Direction.IN:
            return Counters(bytes_in=self.octets, packets_in=self.packets)
        return Counters(bytes_out=self.octets, packets_out=self.packets)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One kernel policy: ``direction`` and ``index`` name it to the kernel; addresses and reqid are its template's."""

    direction: int
    index: int
    selector: Selector
    source: str
    destination: str
    reqid: int
    priority: int


def is_ours(reqid: int) -> bool:
    """Whether a reqid marks a row of this product."""
    return REQID_BASE < reqid <= REQID_BASE + 0xFFFF


def state_target(sa: SaId) -> str:
    """Name an SA in an error sentence."""
    return f"esp {sa.spi:08x} to {sa.destination}"


def policy_target(spec: PolicySpec) -> str:
    """Name a policy in an error sentence."""
    return f"{spec.direction} {spec.selector.source} to {spec.selector.destination}"


def state_message(spec: SaSpec, resume: Sequence[tuple[str, bytes]] = ()) -> messages.StateMessage:
    """Return the NEWSA body of an SA; ``resume`` are attributes that make it go on where an earlier one ended.

    Raises :class:`DataplaneError` (EINVAL) for what the kernel cannot express.
    """
    outer = ipaddress.ip_address(spec.destination)
    body: dict[str, Any] = {
        "daddr": outer.packed,
        "saddr": ipaddress.ip_address(spec.source).packed,
        "spi": spec.spi,
        "proto": PROTOCOL_ESP,
        "family": _family(outer.version),
        "mode": MODE_TUNNEL,
        "reqid": spec.reqid,
        "flags": _STATE_AF_UNSPEC,
        **limit_fields(spec.limits),
    }
    if spec.direction is Direction.OUT:
        body["lft_soft_packet"] = min(body["lft_soft_packet"], _SOFT_SEQUENCE)
    attributes: list[tuple[str, bytes]] = algorithm_attributes(spec)
    # An outbound SA has no window: that also tells the directions apart in a dump.
    if spec.direction is Direction.IN and spec.replay_window > 0:
        if spec.replay_window > _REPLAY_WINDOW_MOST:
            reason = f"a replay window of {spec.replay_window} packets is more than the kernel's {_REPLAY_WINDOW_MOST}"
            raise DataplaneError("add_sa", state_target(spec.id), errno.EINVAL, reason)
        if spec.replay_window <= 32:
            body["replay_window"] = spec.replay_window
        elif not any(name == "XFRMA_REPLAY_ESN_VAL" for name, _ in resume):
            attributes.append(("XFRMA_REPLAY_ESN_VAL", _replay_bitmap(spec.replay_window)))
    if spec.encapsulation is not None:
        attributes.append(("XFRMA_ENCAP", encapsulation_attribute(spec.encapsulation)))
        if spec.direction is Direction.IN:
            attributes.append(("XFRMA_MTIMER_THRESH", struct.pack("I", _MAPPING_INTERVAL_S)))
    return messages.StateMessage.of({**body, "attrs": [*attributes, *resume]})


def state_id_message(sa: SaId) -> messages.StateIdMessage:
    """Return the body that names one SA (DELSA, GETSA)."""
    outer = ipaddress.ip_address(sa.destination)
    return messages.StateIdMessage.of(
        {"daddr": outer.packed, "spi": sa.spi, "family": _family(outer.version), "proto": PROTOCOL_ESP}
    )


def policy_message(spec: PolicySpec, direction: int) -> messages.PolicyMessage:
    """Return the NEWPOLICY body of a piece for one of the kernel's three directions; raises as its selector does."""
    outer = ipaddress.ip_address(spec.destination)
    every = 0xFFFFFFFF
    template = _TEMPLATE.pack(
        outer.packed.ljust(16, b"\0"), 0, PROTOCOL_ESP, _family(outer.version),
        ipaddress.ip_address(spec.source).packed.ljust(16, b"\0"),
        spec.reqid, MODE_TUNNEL, 0, 0, every, every, every,
    )  # fmt: skip
    return messages.PolicyMessage.of(
        {
            **selector_fields(spec),
            **limit_fields(),
            "priority": spec.priority,
            "dir": direction,
            "attrs": [("XFRMA_TMPL", template)],
        }
    )


def policy_id_message(*, direction: int, spec: PolicySpec | None = None, index: int = 0) -> messages.PolicyIdMessage:
    """Return the body that names one policy, by selector or by the kernel's own index."""
    fields = selector_fields(spec) if spec is not None else {}
    return messages.PolicyIdMessage.of({**fields, "index": index, "dir": direction})


def pieces(spec: PolicySpec) -> tuple[PolicySpec, ...]:
    """Split a policy into policies whose port ranges the kernel can express: value and mask, so blocks of 2^n ports."""
    selector = spec.selector
    return tuple(
        dataclasses.replace(
            spec, selector=dataclasses.replace(selector, source_ports=source, destination_ports=destination)
        )
        for source in _port_blocks(selector.source_ports)
        for destination in _port_blocks(selector.destination_ports)
    )


def selector_fields(spec: PolicySpec) -> dict[str, Any]:
    """Return the kernel's selector of a policy whose port ranges are blocks (:func:`pieces`).

    Raises :class:`DataplaneError` (EINVAL) for networks of two IP versions.
    """
    selector = spec.selector
    source = ipaddress.ip_network(selector.source)
    destination = ipaddress.ip_network(selector.destination)
    if source.version != destination.version:
        raise DataplaneError("policy", policy_target(spec), errno.EINVAL, "the networks are of different IP versions")
    return {
        "sel_saddr": source.network_address.packed,
        "sel_daddr": destination.network_address.packed,
        "sel_prefixlen_s": source.prefixlen,
        "sel_prefixlen_d": destination.prefixlen,
        "sel_family": _family(source.version),
        "sel_proto": selector.protocol,
        "sel_sport": selector.source_ports[0],
        "sel_sport_mask": _port_mask(selector.source_ports),
        "sel_dport": selector.destination_ports[0],
        "sel_dport_mask": _port_mask(selector.destination_ports),
    }


def encapsulation_attribute(ports: UdpEncapsulation) -> bytes:
    """Pack ``struct xfrm_encap_tmpl`` for ESP in UDP."""
    return struct.pack("=H", _UDP_ENCAP_ESPINUDP) + struct.pack(">HH2x16x", ports.source_port, ports.destination_port)


def current_values(state: bytes) -> bytes:
    """Cut ``struct xfrm_lifetime_cur`` out of a ``struct xfrm_usersa_info``: the value of ``XFRMA_LTIME_VAL``."""
    return state[_CURRENT_OFFSET : _CURRENT_OFFSET + 32]


def read_state(message: Any) -> StateRow | None:
    """Read a dumped state; None for other protocols and for the nameless ones that wait for an acquire."""
    if message["proto"] != PROTOCOL_ESP or message["spi"] == 0:
        return None
    last_used = message.get_attr("XFRMA_LASTUSED")
    esn = message.get_attr("XFRMA_REPLAY_ESN_VAL")
    return StateRow(
        id=SaId(spi=message["spi"], destination=read_address(message["daddr"], message["family"])),
        reqid=message["reqid"],
        source=read_address(message["saddr"], message["family"]),
        octets=message["cur_bytes"],
        packets=message["cur_packets"],
        replay_window=message["replay_window"] if esn is None else struct.unpack_from("=6I", esn)[5],
        last_used=None if last_used is None else float(struct.unpack("=Q", last_used)[0]),
        late=message["st_replay_window"],
        replayed=message["st_replay"],
        unauthentic=message["st_integrity"],
    )


def read_policy(message: Any) -> PolicyRow | None:
    """Read a dumped policy; None unless it has exactly one template and that is ESP in tunnel mode."""
    template = message.get_attr("XFRMA_TMPL")
    if template is None or len(template) != _TEMPLATE.size:
        return None
    destination, _spi, protocol, family, source, reqid, mode, *_rest = _TEMPLATE.unpack(template)
    if protocol != PROTOCOL_ESP or mode != MODE_TUNNEL:
        return None
    return PolicyRow(
        direction=message["dir"],
        index=message["index"],
        selector=read_selector(message, "sel"),
        source=read_address(source, family),
        destination=read_address(destination, family),
        reqid=reqid,
        priority=message["priority"],
    )


def read_template_reqid(message: Any) -> int:
    """Return the reqid of an acquire's template, 0 where there is none."""
    template = message.get_attr("XFRMA_TMPL")
    return 0 if template is None else int(_TEMPLATE.unpack_from(template)[5])


def read_selector(message: Any, prefix: str) -> Selector:
    """Read the kernel's selector from the fields that begin with ``prefix``."""

    def field(name: str) -> Any:
        return message[f"{prefix}_{name}"]

    family = field("family")
    return Selector(
        source=f"{read_address(field('saddr'), family)}/{field('prefixlen_s')}",
        destination=f"{read_address(field('daddr'), family)}/{field('prefixlen_d')}",
        protocol=field("proto"),
        source_ports=(field("sport"), field("sport") | ~field("sport_mask") & 0xFFFF),
        destination_ports=(field("dport"), field("dport") | ~field("dport_mask") & 0xFFFF),
    )


def read_address(octets: bytes, family: int) -> str:
    """Return the text of an ``xfrm_address_t``."""
    if family == socket.AF_INET6:
        return str(ipaddress.IPv6Address(octets))
    return str(ipaddress.IPv4Address(octets[:4]))


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def limit_fields(limits: Limits = _NO_LIMITS) -> dict[str, int]:
    """Return ``struct xfrm_lifetime_cfg``: no limit is the highest number of octets and packets, and 0 seconds."""
    return {
        "lft_soft_byte": limits.soft_bytes or UNLIMITED,
        "lft_hard_byte": limits.hard_bytes or UNLIMITED,
        "lft_soft_packet": limits.soft_packets or UNLIMITED,
        "lft_hard_packet": limits.hard_packets or UNLIMITED,
        "lft_soft_add": limits.soft_s,
        "lft_hard_add": limits.hard_s,
    }


def _replay_bitmap(window: int) -> bytes:
    """Pack an empty ``struct xfrm_replay_state_esn``; without the ESN flag it is a wide window of 32-bit numbers."""
    words = (window + 31) // 32
    return struct.pack(f"=6I{words}I", words, 0, 0, 0, 0, window, *([0] * words))


def _port_blocks(ports: tuple[int, int]) -> list[tuple[int, int]]:
    """Cut an inclusive range into the fewest blocks of 2^n ports that begin at a multiple of 2^n."""
    low, high = ports
    found = []
    while low <= high:
        size = low & -low or 0x10000
        while low + size - 1 > high:
            size //= 2
        found.append((low, low + size - 1))
        low += size
    return found


def _port_mask(block: tuple[int, int]) -> int:
    return 0xFFFF - (block[1] - block[0])
