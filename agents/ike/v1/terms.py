"""What a transform of an IKEv1 SA payload says: its attributes, read into numbers that can be compared.

Phase 1: RFC 2409 appendix A; phase 2: RFC 2407 section 4.5, RFC 4304 for extended sequence numbers. An attribute that
is unknown, repeated, in a form or with a value that it cannot have makes its transform unusable, never the whole
offer: ``fault`` says why and ``attribute`` which. The octets themselves stay with the transform, because an answer
repeats them (RFC 2408 section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from agents.ike.errors import WireError
from agents.ike.wire.isakmp import attributes as attribute_list
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.payloads import Transform
from agents.ike.wire.isakmp.registry import LifeType, Phase1Attribute, Phase2Attribute

DEFAULT_LIFETIME_S = 28_800
"""What a peer means that says no lifetime in seconds (RFC 2407 section 4.5.4)."""

MOST_DURATION = 2**32 - 1
"""The longest duration offered: four octets, as every peer reads."""

_PHASE1: Mapping[int, str] = MappingProxyType(
    {
        Phase1Attribute.ENCRYPTION: "encryption",
        Phase1Attribute.KEY_LENGTH: "key_length",
        Phase1Attribute.HASH: "hash",
        Phase1Attribute.GROUP: "group",
        Phase1Attribute.AUTHENTICATION_METHOD: "method",
    }
)
_PHASE2: Mapping[int, str] = MappingProxyType(
    {
        Phase2Attribute.KEY_LENGTH: "key_length",
        Phase2Attribute.AUTHENTICATION: "authentication",
        Phase2Attribute.GROUP: "group",
        Phase2Attribute.ENCAPSULATION_MODE: "encapsulation",
        Phase2Attribute.EXTENDED_SEQUENCE_NUMBER: "esn",
    }
)
_EXTENDED = 1
_MOST_ATTRIBUTES = 16
"""Of one transform; none that could be used has more than nine, and reading the rest would cost time for nothing."""
_MOST_DURATION_OCTETS = 8


class _FaultError(Exception):
    """What makes a transform unusable: the attribute and the words for people."""

    def __init__(self, attribute: int, words: str) -> None:
        super().__init__(words)
        self.attribute = attribute
        self.words = words


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """Durations of one transform; None where it says none."""

    seconds: int | None = None
    kilobytes: int | None = None

    def within(self, offered: Lifetimes) -> bool:
        """Return whether an answer's durations are not longer than those offered; leaving one out is no change."""
        pairs = ((self.seconds, offered.seconds), (self.kilobytes, offered.kilobytes))
        return all(ours is None or theirs is None or ours <= theirs for ours, theirs in pairs)

    def shortest(self, other: Lifetimes) -> Lifetimes:
        """Return the shorter of both for each unit."""
        return Lifetimes(
            seconds=_shortest(self.seconds, other.seconds), kilobytes=_shortest(self.kilobytes, other.kilobytes)
        )


def _shortest(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase1Terms:
    """A transform of phase 1 as numbers of RFC 2409 appendix A."""

    encryption: int | None = None
    key_length: int | None = None
    hash: int | None = None
    group: int | None = None
    method: int | None = None
    lifetimes: Lifetimes = Lifetimes()
    fault: str | None = None
    attribute: int | None = None

    @property
    def suite(self) -> tuple[int | None, ...]:
        """Return what makes two transforms the same whatever their lifetimes."""
        return self.encryption, self.key_length, self.hash, self.group, self.method


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickTerms:
    """A transform of phase 2 as numbers of RFC 2407 section 4.5; ``id`` is the transform's own."""

    id: int
    key_length: int | None = None
    authentication: int | None = None
    group: int | None = None
    encapsulation: int | None = None
    esn: bool = False
    lifetimes: Lifetimes = Lifetimes()
    fault: str | None = None
    attribute: int | None = None

    @property
    def suite(self) -> tuple[int | None, ...]:
        """Return what makes two transforms the same whatever their lifetimes."""
        return self.id, self.key_length, self.authentication, self.group, self.encapsulation, int(self.esn)


def read_phase1(transform: Transform) -> Phase1Terms:
    """Read a transform of phase 1."""
    types = (Phase1Attribute.LIFE_TYPE, Phase1Attribute.LIFE_DURATION)
    values, lifetimes, fault = _read(transform.attributes, _PHASE1, types)
    return Phase1Terms(
        encryption=values.get("encryption"),
        key_length=values.get("key_length"),
        hash=values.get("hash"),
        group=values.get("group"),
        method=values.get("method"),
        lifetimes=lifetimes,
        fault=None if fault is None else fault.words,
        attribute=None if fault is None else fault.attribute,
    )


def read_quick(transform: Transform) -> QuickTerms:
    """Read a transform of phase 2."""
    types = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)
    values, lifetimes, fault = _read(transform.attributes, _PHASE2, types)
    esn = values.get("esn")
    if fault is None and esn not in (None, _EXTENDED):
        fault = _unsupported_value(Phase2Attribute.EXTENDED_SEQUENCE_NUMBER, esn)
    return QuickTerms(
        id=transform.id,
        key_length=values.get("key_length"),
        authentication=values.get("authentication"),
        group=values.get("group"),
        encapsulation=values.get("encapsulation"),
        esn=esn == _EXTENDED,
        lifetimes=lifetimes,
        fault=None if fault is None else fault.words,
        attribute=None if fault is None else fault.attribute,
    )


def _read(
    attributes: Sequence[Attribute], basic: Mapping[int, str], types: tuple[int, int]
) -> tuple[dict[str, int], Lifetimes, _FaultError | None]:
    """Read all that can be read; the first fault is kept, so that the other attributes can still be compared."""
    life_type, life_duration = types
    values: dict[str, int] = {}
    durations: dict[int, int] = {}
    unit: int | None = None
    fault: _FaultError | None = None
    for attribute in attributes[:_MOST_ATTRIBUTES]:
        try:
            if attribute.type == life_type:
                unit, pending = None, unit
                unit = _unit(attribute, pending)
            elif attribute.type == life_duration:
                unit, pending = None, unit
                _duration(attribute, pending, durations)
            else:
                _basic(attribute, basic, values)
        except _FaultError as found:
            fault = fault or found
    if len(attributes) > _MOST_ATTRIBUTES:
        beyond = attributes[_MOST_ATTRIBUTES].type
        fault = fault or _FaultError(beyond, f"more than {_MOST_ATTRIBUTES} attributes")
    if unit is not None:
        fault = fault or _FaultError(life_type, f"attribute ({life_type}) without a duration")
    lifetimes = Lifetimes(seconds=durations.get(LifeType.SECONDS), kilobytes=durations.get(LifeType.KILOBYTES))
    return values, lifetimes, fault


def _basic(attribute: Attribute, known: Mapping[int, str], values: dict[str, int]) -> None:
    name = known.get(attribute.type)
    if name is None:
        raise _FaultError(attribute.type, f"unsupported attribute ({attribute.type})")
    if not attribute.short:  # what is basic must not be encoded as variable (RFC 2409 appendix A)
        raise _FaultError(attribute.type, f"attribute ({attribute.type}) in the long form")
    if name in values:
        raise _FaultError(attribute.type, f"repeated attribute ({attribute.type})")
    values[name] = attribute.number


def _unit(attribute: Attribute, pending: int | None) -> int:
    if pending is not None:
        raise _FaultError(attribute.type, f"attribute ({attribute.type}) without a duration")
    if not attribute.short or attribute.number not in (LifeType.SECONDS, LifeType.KILOBYTES):
        raise _unsupported_value(attribute.type, attribute.number)
    return attribute.number


def _duration(attribute: Attribute, unit: int | None, durations: dict[int, int]) -> None:
    if unit is None:  # it follows the type that says its unit (RFC 2407 section 4.5)
        raise _FaultError(attribute.type, f"attribute ({attribute.type}) without its type")
    if unit in durations:
        raise _FaultError(attribute.type, f"repeated attribute ({attribute.type})")
    if not 0 < len(attribute.data) <= _MOST_DURATION_OCTETS:
        raise _FaultError(attribute.type, f"unsupported length {len(attribute.data)} of attribute ({attribute.type})")
    if attribute.number:  # a peer that does not rekey by itself says 0 (strongSwan): no limit of its own
        durations[unit] = attribute.number


def _unsupported_value(attribute: int, value: int | None) -> _FaultError:
    return _FaultError(attribute, f"unsupported value {value} of attribute ({attribute})")


def lifetime(types: tuple[int, int], unit: LifeType, duration: int) -> tuple[Attribute, Attribute]:
    """Return a life type and its duration, in the short form where that fits into 16 bits."""
    life_type, life_duration = types
    return attribute_list.short(life_type, unit), attribute_list.number(life_duration, min(duration, MOST_DURATION))


def effective(ours_s: int, ours_kilobytes: int, theirs: Lifetimes) -> tuple[int, int]:
    """Return the lifetimes in force: the shorter of both sides', 0 kilobytes where neither has such a limit.

    Both sides end up with the same ones whoever said the shorter.
    """
    seconds = DEFAULT_LIFETIME_S if theirs.seconds is None else theirs.seconds
    kilobytes = [each for each in (ours_kilobytes, theirs.kilobytes) if each]
    return min(ours_s, seconds), min(kilobytes, default=0)


def read_lifetimes(types: tuple[int, int], octets: bytes) -> Lifetimes | None:
    """Read the attributes of RESPONDER-LIFETIME (RFC 2407 section 4.6.3.1); None where they cannot be read."""
    try:
        _values, lifetimes, fault = _read(attribute_list.parse(octets), {}, types)
    except WireError:
        return None
    return None if fault is not None else lifetimes
