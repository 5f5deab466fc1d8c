"""One SA of the seam as the kernel's states: IPComp, ESP and AH are a state each, applied in this order on the way out.

Pure: what goes into NEWSA messages. The innermost state is in the SA's mode, those around it are in transport mode
(the packet they see has its outer header already). What the SA says of the outer header is the innermost state's, which
makes it. Limits are on the SA's own state, the one its id names: the driver
takes the others along when that ends. Not here: the ``ipip`` state that the kernel makes beside IPComp in tunnel mode,
for packets that did not get smaller.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agents.contract.carriage import DfBit
from agents.contract.config import Mode
from agents.dataplane.base import DataplaneError, Direction, SaSpec, UdpEncapsulation
from agents.dataplane.kernel import messages, rows, suites
from agents.dataplane.kernel.rows import SHARED, StateId, Steering
from agents.dataplane.kernel.suites import Attributes
from agents.dataplane.outer import OUTER_MARK, WHOLE_MARK

_UDP_ENCAP_ESPINUDP = 2
_STATE_NOPMTUDISC = 4
"""The outer IPv4 header never has the Don't Fragment bit; without this flag it has the inner header's."""
_STATE_AF_UNSPEC = 32
"""The inner family may differ from the outer one, and one SA may carry both; only tunnel mode can."""
_STATE_ALIGN4 = 64
"""AH over IPv4 is padded to 4 octets (RFC 4302 section 3.3.3.2.1); left to itself the kernel pads to 8, as for IPv6."""
_STATE_ESN = 128
_EXTRA_DONT_ENCAP_DSCP = 1
"""In ``XFRMA_SA_EXTRA_FLAGS``: the outer header's DSCP is 0 instead of the inner one's; ECN is not touched by it."""
_MAPPING_INTERVAL_S = 10
"""``XFRMA_MTIMER_THRESH``: say once in this time that a peer sends from elsewhere, not for every packet."""
_REPLAY_WINDOW_MOST = 4096  # XFRMA_REPLAY_ESN_MAX
_REPLAY_WINDOW_PLAIN = 32  # what fits into struct xfrm_usersa_info's own window
_SOFT_SEQUENCE = 2**32 - 2**28
"""The kernel stops sending, without a word, when 32 bits of sequence number are used up: ask for a rekey before."""
OUTBOUND_ESN_WINDOW = 1
"""The kernel wants a window of every SA with extended numbers, also where nothing arrives: the smallest there is."""

_NOTHING: Mapping[StateId, Attributes] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state to install: its name and the NEWSA body."""

    id: StateId
    message: messages.StateMessage


def state_ids(spec: SaSpec, steering: Steering = SHARED) -> tuple[StateId, ...]:
    """Return the names of an SA's states, innermost first."""
    found = []
    if spec.compression_cpi is not None:
        found.append((rows.PROTOCOL_COMPRESSION, spec.compression_cpi))
    if spec.encryption is not None:
        found.append((rows.PROTOCOL_ESP, spec.spi))
    if spec.ah is not None:
        found.append((rows.PROTOCOL_AH, spec.spi if spec.encryption is None else spec.ah.spi))
    return tuple(
        StateId(protocol=protocol, spi=spi, destination=spec.destination, mark=steering.mark) for protocol, spi in found
    )


def states(
    spec: SaSpec, resume: Mapping[StateId, Attributes] = _NOTHING, steering: Steering = SHARED
) -> tuple[State, ...]:
    """Return an SA's states, innermost first; ``resume`` has attributes that make a state go on where another ended.

    Raises :class:`DataplaneError` (EINVAL) for what the kernel cannot express.
    """
    names = state_ids(spec, steering)
    if StateId.of(spec.id) not in names:
        raise _refusal(spec, "an SA needs encryption or AH")
    if spec.ah is not None and spec.encapsulation is not None:
        raise _refusal(spec, "AH covers the outer addresses, so it cannot go in UDP through a NAT")
    if steering.mark and len(names) > 1:  # a VTI takes in no state in transport mode, which those around are
        raise _refusal(spec, "a VTI carries ESP or AH alone: give up the other and IPComp, or let the tunnel share")
    if spec.direction is Direction.IN and spec.replay_window > _REPLAY_WINDOW_MOST:
        reason = f"a replay window of {spec.replay_window} packets is more than the kernel's {_REPLAY_WINDOW_MOST}"
        raise _refusal(spec, reason)
    if steering == SHARED and spec.direction is Direction.OUT and _is_to_set(spec):
        # Nothing would cut long packets before they are encrypted, and nobody could afterwards (docs/adr/0014).
        reason = "the kernel copies the outer Don't Fragment bit or clears it, but cannot always set it where a tunnel "
        reason += "shares: choose propagate or clear, or give it an interface of its own or the userspace data plane"
        raise _refusal(spec, reason)
    found = []
    for place, name in enumerate(names):
        mode = spec.mode if place == 0 else Mode.TRANSPORT
        more = [*resume.get(name, []), *steering.attributes()]
        found.append(State(id=name, message=_message(spec, name, mode, more)))
    return tuple(found)


def _message(spec: SaSpec, name: StateId, mode: Mode, more: Attributes) -> messages.StateMessage:
    outer = ipaddress.ip_address(spec.destination)
    own = name == StateId.of(spec.id)
    body: dict[str, Any] = {
        "daddr": outer.packed,
        "saddr": ipaddress.ip_address(spec.source).packed,
        "spi": name.spi,
        "proto": name.protocol,
        "family": rows.family_of(outer.version),
        "mode": rows.MODES[mode],
        "reqid": spec.reqid,
        "flags": _STATE_AF_UNSPEC if mode is Mode.TUNNEL else 0,
        **(rows.limit_fields(spec.limits) if own else rows.limit_fields()),
    }
    if name.protocol == rows.PROTOCOL_AH and outer.version == 4:
        body["flags"] |= _STATE_ALIGN4
    attributes = _keys(spec, name.protocol)
    if mode is Mode.TUNNEL and spec.direction is Direction.OUT:
        _outer_header(spec, body, attributes)
    if name.protocol != rows.PROTOCOL_COMPRESSION:
        if own and spec.direction is Direction.OUT and not spec.extended_sequence_numbers:
            body["lft_soft_packet"] = min(body["lft_soft_packet"], _SOFT_SEQUENCE)
        _number(spec, body, attributes, more)
    if name.protocol == rows.PROTOCOL_ESP and spec.encapsulation is not None:
        attributes.append(("XFRMA_ENCAP", _encapsulation(spec.encapsulation)))
        if spec.direction is Direction.IN:
            attributes.append(("XFRMA_MTIMER_THRESH", struct.pack("I", _MAPPING_INTERVAL_S)))
    return messages.StateMessage.of({**body, "attrs": [*attributes, *more]})


def _outer_header(spec: SaSpec, body: dict[str, Any], attributes: Attributes) -> None:
    """Add what differs from the kernel's habit, which is to copy DF (of an IPv6 packet: set), DSCP and ECN.

    The mark is the one by which rules know what is outside the tunnels; its route is looked for with that mark. One
    more bit of it asks for DF always, which a rule of :mod:`agents.agentd.parts.dont_fragment` sets.
    """
    mark = OUTER_MARK | WHOLE_MARK if _is_to_set(spec) else OUTER_MARK
    attributes.append(("XFRMA_SET_MARK", struct.pack("I", mark)))
    if spec.df_bit is DfBit.CLEAR and _makes_ipv4_headers(spec):
        body["flags"] |= _STATE_NOPMTUDISC
    if not spec.copy_dscp:
        attributes.append(("XFRMA_SA_EXTRA_FLAGS", struct.pack("I", _EXTRA_DONT_ENCAP_DSCP)))


def _is_to_set(spec: SaSpec) -> bool:
    return spec.df_bit is DfBit.SET and _makes_ipv4_headers(spec)


def _makes_ipv4_headers(spec: SaSpec) -> bool:
    """Whether there is a Don't Fragment bit to speak of: IPv6 has none, and nobody on the way fragments it."""
    return spec.mode is Mode.TUNNEL and ipaddress.ip_address(spec.destination).version == 4


def _keys(spec: SaSpec, protocol: int) -> Attributes:
    if protocol == rows.PROTOCOL_COMPRESSION:
        return suites.compression_attributes()
    if protocol == rows.PROTOCOL_ESP:
        return suites.esp_attributes(spec)
    assert spec.ah is not None
    return suites.ah_attributes(spec, spec.ah)


def _number(spec: SaSpec, body: dict[str, Any], attributes: Attributes, resume: Sequence[tuple[str, bytes]]) -> None:
    """Add what sequence numbers and the window against replays need.

    An outbound SA without extended numbers has no window: that also tells the directions apart in a dump.
    """
    window = spec.replay_window if spec.direction is Direction.IN else 0
    if spec.extended_sequence_numbers:
        body["flags"] |= _STATE_ESN
        if spec.direction is Direction.OUT:
            window = OUTBOUND_ESN_WINDOW
    elif window <= _REPLAY_WINDOW_PLAIN:
        body["replay_window"] = window
        return
    if not any(name == "XFRMA_REPLAY_ESN_VAL" for name, _ in resume):
        attributes.append(("XFRMA_REPLAY_ESN_VAL", replay_state(window)))


def replay_state(window: int, *, sent: int = 0, received: int = 0) -> bytes:
    """Pack a ``struct xfrm_replay_state_esn`` with an empty bitmap, after these 64-bit sequence numbers.

    Without the ESN flag it is a wide window of 32-bit numbers.
    """
    words = (window + 31) // 32
    low, high = 0xFFFFFFFF, 32
    return struct.pack(
        f"=6I{words}I", words, sent & low, received & low, sent >> high, received >> high, window, *([0] * words)
    )


def _encapsulation(ports: UdpEncapsulation) -> bytes:
    """Pack ``struct xfrm_encap_tmpl`` for ESP in UDP."""
    return struct.pack("=H", _UDP_ENCAP_ESPINUDP) + struct.pack(">HH2x16x", ports.source_port, ports.destination_port)


def _refusal(spec: SaSpec, reason: str) -> DataplaneError:
    return DataplaneError("add_sa", str(StateId.of(spec.id)), errno.EINVAL, reason)
