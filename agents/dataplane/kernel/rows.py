"""Between the seam's values and the kernel's rows: names, policies and their templates, reading dumps and notices.

Pure: no socket here. A row is ours when its ``reqid`` lies in our range (:func:`is_ours`); for a policy, when that of
its first template does. How an SA becomes states is in :mod:`agents.dataplane.kernel.bundles`.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agents.contract.config import Mode
from agents.contract.status import Counters
from agents.contract.traffic import TYPED, types_and_codes
from agents.dataplane.base import REQID_BASE, DataplaneError, Direction, Limits, PolicySpec, SaId, SaProtocol, Selector
from agents.dataplane.kernel import messages

PROTOCOL_ESP = socket.IPPROTO_ESP
PROTOCOL_AH = socket.IPPROTO_AH
PROTOCOL_COMPRESSION = 108
"""IPComp (RFC 3173); its CPI takes the place of the SPI."""

UNLIMITED = 2**64 - 1
"""``XFRM_INF``. A byte or packet limit left at 0 would mean used up already."""

POLICY_IN, POLICY_OUT, POLICY_FORWARD = 0, 1, 2
MODES: Mapping[Mode, int] = MappingProxyType({Mode.TRANSPORT: 0, Mode.TUNNEL: 1})
_NUMBERS: Mapping[SaProtocol, int] = MappingProxyType({SaProtocol.ESP: PROTOCOL_ESP, SaProtocol.AH: PROTOCOL_AH})
_PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}
_NAMES = {PROTOCOL_ESP: "esp", PROTOCOL_AH: "ah", PROTOCOL_COMPRESSION: "comp"}
_CURRENT_OFFSET = 56 + 24 + 16 + 64
"""Of the current values in ``struct xfrm_usersa_info``: behind selector, id, source address and limits."""
_NO_LIMITS = Limits()
_TEMPLATE = struct.Struct("=16sIB3xH2x16sIBBBxIII")  # struct xfrm_user_tmpl; the SPI is always 0
_EVERY_ALGORITHM = 0xFFFFFFFF
_WHOLE_MARK = 0xFFFFFFFF
_EVERY_PORT = (0, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """What ties states and policies to an interface: ``if_id`` to an xfrm interface, ``mark`` to a VTI; 0 is none."""

    if_id: int = 0
    mark: int = 0

    def attributes(self) -> list[tuple[str, bytes]]:
        """Return what says so in a message about a state or policy."""
        found = []
        if self.mark:
            found.append(("XFRMA_MARK", struct.pack("=II", self.mark, _WHOLE_MARK)))
        if self.if_id:
            found.append(("XFRMA_IF_ID", struct.pack("=I", self.if_id)))
        return found


SHARED = Steering()
"""No interface: policies steer by what they select alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateId:
    """What names one of the kernel's states: an IP protocol's number, SPI (for IPComp the CPI), destination.

    The kernel finds a state that has a mark by that mark only, so the name carries it.
    """

    protocol: int
    spi: int
    destination: str
    mark: int = dataclasses.field(default=0, compare=False)

    @classmethod
    def of(cls, sa: SaId) -> StateId:
        """Return the state that an SA is known by."""
        return cls(protocol=_NUMBERS[sa.protocol], spi=sa.spi, destination=sa.destination)

    @property
    def sa(self) -> SaId | None:
        """The seam's name of this state; None for IPComp's, which is no SA by itself."""
        protocol = _PROTOCOLS.get(self.protocol)
        return None if protocol is None else SaId(spi=self.spi, destination=self.destination, protocol=protocol)

    def __str__(self) -> str:
        return f"{_NAMES[self.protocol]} {self.spi:08x} to {self.destination}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    """A kernel SA in a dump; ``octets`` and ``packets`` are of one direction, ``last_used`` is Unix seconds."""

    id: StateId
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
class Template:
    """One transformation that a policy asks for; transport mode has no addresses. ``optional`` is IPComp's way in."""

    protocol: int
    mode: int
    reqid: int
    family: int
    source: str = ""
    destination: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """One kernel policy: ``direction`` and ``index`` name it to the kernel; templates are innermost first."""

    direction: int
    index: int
    selector: Selector
    priority: int
    templates: tuple[Template, ...]
    steering: Steering = SHARED

    @property
    def reqid(self) -> int:
        """The reqid of the first template, which is that of all in a policy of ours."""
        return self.templates[0].reqid


def is_ours(reqid: int) -> bool:
    """Whether a reqid marks a row of this product."""
    return REQID_BASE < reqid <= REQID_BASE + 0xFFFF


def policy_target(spec: PolicySpec) -> str:
    """Name a policy in an error sentence."""
    return f"{spec.direction} {spec.selector.source} to {spec.selector.destination}"


def state_id_message(state: StateId) -> messages.StateIdMessage:
    """Return the body that names one state (DELSA, GETSA)."""
    outer = ipaddress.ip_address(state.destination)
    return messages.StateIdMessage.of(
        {
            "daddr": outer.packed,
            "spi": state.spi,
            "family": family_of(outer.version),
            "proto": state.protocol,
            "attrs": Steering(mark=state.mark).attributes(),
        }
    )


def templates(spec: PolicySpec) -> tuple[Template, ...]:
    """Return what a policy asks for, innermost first: only that one is in tunnel mode, the others go around it.

    IPComp is optional on the way in: a packet that did not get smaller comes without (RFC 3173 section 2.2).
    """
    protocols = [PROTOCOL_COMPRESSION] if spec.compressed else []
    protocols += [_NUMBERS[protocol] for protocol in spec.protocols]
    family = family_of(ipaddress.ip_address(spec.destination).version)
    found = []
    for place, protocol in enumerate(protocols):
        mode = spec.mode if place == 0 else Mode.TRANSPORT
        tunnel = mode is Mode.TUNNEL
        found.append(
            Template(
                protocol=protocol,
                mode=MODES[mode],
                reqid=spec.reqid,
                family=family,
                source=spec.source if tunnel else "",
                destination=spec.destination if tunnel else "",
                optional=protocol == PROTOCOL_COMPRESSION and spec.direction is Direction.IN,
            )
        )
    return tuple(found)


def kinds(of: tuple[Template, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return what tells a policy from one that took its place: tunnel, protocols and modes, but not addresses."""
    return tuple((each.reqid, each.protocol, each.mode) for each in of)


def policy_message(spec: PolicySpec, direction: int, steering: Steering = SHARED) -> messages.PolicyMessage:
    """Return the NEWPOLICY body of a piece for one of the kernel's three directions.

    Raises as :func:`selector_fields` does, and :class:`DataplaneError` (EAFNOSUPPORT) for a bundle of states whose
    inner and outer IP versions differ: only a state in tunnel mode may take another version, and the outer ones of a
    bundle are not, so the kernel would drop what is sent without a word.
    """
    chosen = templates(spec)
    inner = ipaddress.ip_network(spec.selector.source).version
    if len(chosen) > 1 and family_of(inner) != chosen[0].family:
        reason = f"the kernel carries IPv{inner} in AH around ESP, or in IPComp, only over IPv{inner}: leave them out"
        raise DataplaneError("add_policy", policy_target(spec), errno.EAFNOSUPPORT, reason)
    return messages.PolicyMessage.of(
        {
            **selector_fields(spec),
            **limit_fields(),
            "priority": spec.priority,
            "dir": direction,
            "attrs": [
                ("XFRMA_TMPL", b"".join(map(_template_octets, chosen))),
                *steering.attributes(),
            ],
        }
    )


def _template_octets(template: Template) -> bytes:
    every = _EVERY_ALGORITHM
    return _TEMPLATE.pack(
        _address_octets(template.destination), 0, template.protocol, template.family,
        _address_octets(template.source), template.reqid, template.mode, 0, template.optional, every, every, every,
    )  # fmt: skip


def _address_octets(address: str) -> bytes:
    return ipaddress.ip_address(address).packed.ljust(16, b"\0") if address else bytes(16)


def policy_id_message(
    *, direction: int, spec: PolicySpec | None = None, index: int = 0, steering: Steering = SHARED
) -> messages.PolicyIdMessage:
    """Return the body that names one policy, by selector or by the kernel's own index; in both its steering counts."""
    fields = selector_fields(spec) if spec is not None else {}
    attributes = steering.attributes()
    return messages.PolicyIdMessage.of({**fields, "index": index, "dir": direction, "attrs": attributes})


def pieces(spec: PolicySpec) -> tuple[PolicySpec, ...]:
    """Split a policy into policies whose port ranges the kernel can express: value and mask, so blocks of 2^n ports.

    Of ICMP the kernel has the type for the source port and the code for the destination's (xfrm_flowi_sport and
    xfrm_flowi_dport of include/net/xfrm.h).
    """
    selector = spec.selector
    pairs = [(selector.source_ports, selector.destination_ports)]
    if selector.protocol in TYPED and selector.source_ports != _EVERY_PORT:
        pairs = types_and_codes(selector.source_ports)
    return tuple(
        dataclasses.replace(
            spec, selector=dataclasses.replace(selector, source_ports=source, destination_ports=destination)
        )
        for sources, destinations in pairs
        for source in _port_blocks(sources)
        for destination in _port_blocks(destinations)
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
        "sel_family": family_of(source.version),
        "sel_proto": selector.protocol,
        "sel_sport": selector.source_ports[0],
        "sel_sport_mask": _port_mask(selector.source_ports),
        "sel_dport": selector.destination_ports[0],
        "sel_dport_mask": _port_mask(selector.destination_ports),
    }


def current_values(state: bytes) -> bytes:
    """Cut ``struct xfrm_lifetime_cur`` out of a ``struct xfrm_usersa_info``: the value of ``XFRMA_LTIME_VAL``."""
    return state[_CURRENT_OFFSET : _CURRENT_OFFSET + 32]


def read_state_id(message: Any) -> StateId:
    """Read the name of the state that a message is about."""
    destination = read_address(message["daddr"], message["family"])
    mark = read_steering(message).mark
    return StateId(protocol=message["proto"], spi=message["spi"], destination=destination, mark=mark)


def read_steering(message: Any) -> Steering:
    """Read which interface a state or policy is tied to, in a dump or a notice."""
    mark, if_id = message.get_attr("XFRMA_MARK"), message.get_attr("XFRMA_IF_ID")
    return Steering(
        if_id=0 if if_id is None else struct.unpack("=I", if_id)[0],
        mark=0 if mark is None else struct.unpack_from("=I", mark)[0],
    )


def read_state(message: Any) -> StateRow | None:
    """Read a dumped state; None for other protocols and for the nameless ones that wait for an acquire."""
    if message["proto"] not in _NAMES or message["spi"] == 0:
        return None
    last_used = message.get_attr("XFRMA_LASTUSED")
    esn = message.get_attr("XFRMA_REPLAY_ESN_VAL")
    return StateRow(
        id=read_state_id(message),
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
    """Read a dumped policy; None for one without templates (it lets pass or blocks)."""
    octets = message.get_attr("XFRMA_TMPL")
    if not octets:
        return None
    return PolicyRow(
        direction=message["dir"],
        index=message["index"],
        selector=read_selector(message, "sel"),
        priority=message["priority"],
        templates=tuple(_read_template(fields) for fields in _TEMPLATE.iter_unpack(octets)),
        steering=read_steering(message),
    )


def _read_template(fields: tuple[Any, ...]) -> Template:
    destination, _spi, protocol, family, source, reqid, mode, _share, optional, *_algorithms = fields
    tunnel = mode == MODES[Mode.TUNNEL]
    return Template(
        protocol=protocol,
        mode=mode,
        reqid=reqid,
        family=family,
        source=read_address(source, family) if tunnel else "",
        destination=read_address(destination, family) if tunnel else "",
        optional=bool(optional),
    )


def unknown_policy(direction: Direction, row: PolicyRow) -> PolicySpec:
    """Return a row of ours that is not as this driver wrote it; addresses of transport mode are those it selects."""
    first = row.templates[0]
    return PolicySpec(
        tunnel_id="",
        direction=direction,
        selector=row.selector,
        source=first.source or row.selector.source.partition("/")[0],
        destination=first.destination or row.selector.destination.partition("/")[0],
        reqid=row.reqid,
        priority=row.priority,
        mode=Mode.TUNNEL if first.mode == MODES[Mode.TUNNEL] else Mode.TRANSPORT,
        protocols=tuple(_PROTOCOLS[each.protocol] for each in row.templates if each.protocol in _PROTOCOLS),
        compressed=first.protocol == PROTOCOL_COMPRESSION,
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


def family_of(version: int) -> int:
    """Return the address family of an IP version."""
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
