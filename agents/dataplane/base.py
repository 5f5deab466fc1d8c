"""The seam between ``iked`` and whatever carries ESP.

One protocol (:class:`Driver`), three implementations, one conformance suite (``tests/dataplane/conformance``). A driver
acts on exactly the SAs and policies it is told about and on no others: rows carry our ``reqid``, and there is no flush.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from agents.contract.carriage import Attachment, DfBit
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.contract.status import NO_REJECTIONS, Counters, NamedCount, QueueStatus, Rejections

REQID_BASE = 0x56430000
"""Our reqids are ``REQID_BASE + n``, n from 1 to 65535 ("VC"): the mark of the rows we own in the kernel."""


class DataplaneError(Exception):
    """The data plane refused an operation: which one, on what, and the errno (0 where there is none)."""

    def __init__(self, operation: str, target: str, errno: int, reason: str) -> None:
        super().__init__(f"{operation} {target}: {reason}")
        self.operation = operation
        self.target = target
        self.errno = errno
        self.reason = reason


class Direction(StrEnum):
    """As the gateway sees it."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpEncapsulation:
    """ESP in UDP (RFC 3948): ports of the outer header as this SA's packets carry them."""

    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Lifetimes; soft asks for a rekey, hard ends the SA; 0 means none."""

    soft_s: int = 0
    hard_s: int = 0
    soft_bytes: int = 0
    hard_bytes: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Inner traffic: prefixes as text, protocol 0 for any, inclusive port ranges.

    Where types stand in for ports (``agents.contract.traffic``) they are the source's; the destination has every port.
    """

    source: str
    destination: str
    protocol: int = 0
    source_ports: tuple[int, int] = (0, 65535)
    destination_ports: tuple[int, int] = (0, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalAddresses:
    """The addresses between which a peer in transport mode sends, as it sees them: a NAT changes them on the way."""

    source: str
    destination: str


class SaProtocol(StrEnum):
    """The protocol of an SA."""

    ESP = "esp"
    AH = "ah"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaId:
    """What names an SA: protocol, SPI and destination address (RFC 4301 section 4.1)."""

    spi: int
    destination: str
    protocol: SaProtocol = SaProtocol.ESP


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationHeader:
    """AH (RFC 4302): around the ESP of the same :class:`SaSpec`, or alone where that has no encryption."""

    spi: int
    integrity: str
    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SaSpec:
    """One direction of a child: ESP, AH, or ESP inside AH. Keys are as cut from KEYMAT: ``encryption_key`` with salt.

    ``spi`` is ESP's, or AH's where ``encryption`` is None (then ``ah`` has the same). ``compression_cpi`` is the IPComp
    CPI (RFC 3173) of packets in this direction, None without compression. ``extended_sequence_numbers`` asks for 64-bit
    ones (RFC 4303 section 2.2.1). ``df_bit`` and ``copy_dscp`` are about the outer header of tunnel mode. ``original``
    is an inbound SA's, whose packets have checksums made with those addresses (RFC 3948 section 3.1.2).
    """

    tunnel_id: str
    direction: Direction
    spi: int
    source: str
    destination: str
    reqid: int
    encryption: str | None = None
    encryption_key: Secret | None = None
    integrity: str | None = None
    integrity_key: Secret | None = None
    ah: AuthenticationHeader | None = None
    mode: Mode = Mode.TUNNEL
    extended_sequence_numbers: bool = False
    compression_cpi: int | None = None
    encapsulation: UdpEncapsulation | None = None
    original: OriginalAddresses | None = None
    replay_window: int = 64
    limits: Limits = Limits()
    df_bit: DfBit = DfBit.PROPAGATE
    copy_dscp: bool = True

    @property
    def id(self) -> SaId:
        """The name of the direction's SA: ESP's where there is one."""
        protocol = SaProtocol.AH if self.encryption is None else SaProtocol.ESP
        return SaId(spi=self.spi, destination=self.destination, protocol=protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """Which inner traffic takes which tunnel. ``source``/``destination`` are the outer addresses of that direction.

    The outbound SA used is the newest one added with this ``reqid``. An ``in`` policy covers forwarded traffic too.
    ``protocols`` are those of the SAs, the inner one first; ``compressed`` means that IPComp comes before them.
    """

    tunnel_id: str
    direction: Direction
    selector: Selector
    source: str
    destination: str
    reqid: int
    priority: int = 1_000
    mode: Mode = Mode.TUNNEL
    protocols: tuple[SaProtocol, ...] = (SaProtocol.ESP,)
    compressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelLink:
    """The link of one tunnel: a TUN of this name in userspace mode; in the kernel an xfrm interface or VTI where the
    tunnel has an interface of its own, and nothing where it shares. ``local`` and ``remote`` are its outer addresses,
    ``table`` the routing table of its context (None: the main one), ``queues`` 1 or 4 with strict priority by DSCP, and
    ``rate_kbps`` what they let go at most, as the packets are inside.
    """

    tunnel_id: str
    name: str
    mtu: int
    attachment: Attachment = Attachment.SHARED
    queues: int = 1
    rate_kbps: int | None = None
    table: int | None = None
    local: str | None = None
    remote: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaState:
    """One SA as the data plane has it. ``last_used`` is Unix seconds or None."""

    id: SaId
    tunnel_id: str | None
    direction: Direction
    reqid: int
    counters: Counters
    last_used: float | None = None
    rejected: Rejections = NO_REJECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a driver can do here, asked not guessed; ``reason`` is the sentence the agent reports."""

    driver: str
    available: bool
    reason: str
    encryptions: frozenset[str] = frozenset()
    integrities: frozenset[str] = frozenset()
    modes: frozenset[Mode] = frozenset({Mode.TUNNEL})
    protocols: frozenset[SaProtocol] = frozenset({SaProtocol.ESP})
    extended_sequence_numbers: bool = False
    compression: bool = False
    plain_esp: bool = True
    owns_port_4500: bool = False

    def can(self, encryption: str | None, integrity: str | None, ah_integrity: str | None) -> bool:
        """Return whether SAs of this suite can be installed; None for what it does not have."""
        if ah_integrity is not None and SaProtocol.AH not in self.protocols:
            return False
        return encryption in {None, *self.encryptions} and {integrity, ah_integrity} - {None} <= self.integrities


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """An SA reached a limit; ``hard`` means the driver has already removed it."""

    id: SaId
    hard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """Outbound traffic matched a policy that has no SA."""

    reqid: int
    selector: Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """An authenticated packet of this SA came from another address or port (NAT moved it)."""

    id: SaId
    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Packets refused since the last such notice; ``code`` is an event code ``esp.*``."""

    code: str
    count: int
    id: SaId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Somebody removed something of ours and the driver put it back; ``detail`` is a sentence."""

    reqid: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The data plane lost every SA it had (the process died, the table was flushed): negotiate anew."""

    reason: str


Notice = Expired | Acquired | Mapped | Rejected | Repaired | Lost


class Driver(Protocol):
    """A data plane. Every method may raise :class:`DataplaneError`; removing what is not there is not an error."""

    async def features(self) -> Features:
        """Probe what works on this machine without leaving anything behind."""
        ...

    async def open(self) -> None:
        """Start: connect, and remove SAs and policies that an earlier run of ours left."""
        ...

    async def close(self) -> None:
        """Stop and remove everything this driver put in place."""
        ...

    async def open_link(self, link: TunnelLink) -> None:
        """Make the tunnel's link exist with this MTU, up; a repeat with other values changes it."""
        ...

    async def close_link(self, tunnel_id: str) -> None:
        """Remove the tunnel's link."""
        ...

    async def add_sa(self, spec: SaSpec) -> None:
        """Install one SA (with AH or IPComp: its bundle). For direction out its policies use it from now on."""
        ...

    async def remove_sa(self, sa: SaId) -> None:
        """Remove one SA."""
        ...

    async def add_policy(self, spec: PolicySpec) -> None:
        """Install or replace one policy, by direction and selector."""
        ...

    async def remove_policy(self, spec: PolicySpec) -> None:
        """Remove one policy, unless one of another reqid, mode or protocols has taken its place."""
        ...

    async def update_mapping(
        self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None
    ) -> None:
        """Move an SA to other outer addresses, or into or out of UDP; the id changes when the destination does."""
        ...

    async def list_sas(self) -> tuple[SaState, ...]:
        """Return every SA of ours that the data plane holds, with counters (inner octets and packets)."""
        ...

    async def list_policies(self) -> tuple[PolicySpec, ...]:
        """Return every policy of ours that the data plane holds (priority and ports as far as it stores them)."""
        ...

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return the priority queues of each tunnel by its id, cumulative since its link was opened.

        A tunnel with one queue is left out or has an empty tuple.
        """
        ...

    async def counts(self) -> tuple[NamedCount, ...]:
        """Return the data plane's own counters under its own names, cumulative since it started."""
        ...

    def notices(self) -> AsyncIterator[Notice]:
        """Yield what the data plane has to say until :meth:`close`."""
        ...
