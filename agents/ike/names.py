"""Distinguished names: DER (X.501, RFC 5280 section 4.1.2.4) <-> RFC 4514 text, and comparing them.

Names compare as RFC 5280 section 7.1 asks for: attribute by attribute in order, the values of a multi-valued RDN in any
order, text without regard to case, kind of string and repeated white space. A configured name may have ``*`` for a
value. Not here: which name is whose (:mod:`agents.ike.identity`).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

_SHORT = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.42": "GN",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "E",
}
_BY_NAME = {
    **{name: x509.ObjectIdentifier(oid) for oid, name in _SHORT.items()},
    "emailAddress": x509.ObjectIdentifier("1.2.840.113549.1.9.1"),
}
_TEXTS = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
"""Tags of the string types of a DirectoryString and IA5String, and how they are read."""

_COUNTRY_WILDCARD = re.compile(r"(^|[,+])C=\*(?=$|[,+])")
_WILDCARDS = ("*", "**")
_MOST_OCTETS = 4_096
_MOST_ATTRIBUTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One attribute of a name: dotted OID and value, as text where the value is a string, else None."""

    oid: str
    text: str | None
    octets: bytes

    @property
    def canonical(self) -> tuple[str, str | bytes]:
        """What of it is compared."""
        if self.text is None:
            return (self.oid, self.octets)
        return (self.oid, " ".join(unicodedata.normalize("NFKC", self.text).casefold().split()))


Rdn = tuple[Attribute, ...]


@functools.lru_cache(maxsize=1024)
def to_der(text: str) -> bytes:
    """Return the DER of an RFC 4514 name. Raises ValueError; spaces after a comma are taken as RFC 2253 did."""
    # A country has two characters, so its wildcard gets two as well: x509.Name would refuse one.
    tight = _COUNTRY_WILDCARD.sub(r"\1C=**", _without_padding(text))
    try:
        name = x509.Name.from_rfc4514_string(tight, _BY_NAME)
    except ValueError:
        raise ValueError("not a distinguished name like CN=gw.example.org,O=Example") from None
    return name.public_bytes()


@functools.lru_cache(maxsize=1024)
def read(der: bytes) -> tuple[Rdn, ...]:
    """Return the attributes of a name in DER, the most general RDN first. Raises ValueError for anything else."""
    if len(der) > _MOST_OCTETS:
        raise ValueError("the name is too long")
    content, rest = _take(der, 0x30)
    if rest:
        raise ValueError("octets after the name")
    rdns: list[Rdn] = []
    count = 0
    while content:
        members, content = _take(content, 0x31)
        rdn = []
        while members:
            pair, members = _take(members, 0x30)
            oid, value = _take(pair, 0x06)
            rdn.append(_attribute(oid, value))
            count += 1
        if not rdn or count > _MOST_ATTRIBUTES:
            raise ValueError("an RDN of no attribute, or too many attributes")
        rdns.append(tuple(rdn))
    return tuple(rdns)


def equal(one: bytes, other: bytes) -> bool:
    """Return whether two names in DER are the same name; one that cannot be read equals nothing."""
    try:
        return _canonical(one) == _canonical(other)
    except ValueError:
        return False


def fits(pattern: bytes, shown: bytes) -> bool:
    """Return whether a name fits a configured one, whose values ``*`` take anything."""
    try:
        wanted, got = read(pattern), _canonical(shown)
    except ValueError:
        return False
    return len(wanted) == len(got) and all(map(_rdn_fits, wanted, got))


def to_text(der: bytes) -> str:
    """Return a name as RFC 4514 text, whatever characters it has. Raises ValueError."""
    return ",".join("+".join(_describe(each, _escaped) for each in rdn) for rdn in reversed(read(der)))


def describe(der: bytes) -> str:
    """Return a name as RFC 4514 text of printable ASCII; what else stands there becomes a dot. Raises ValueError."""
    return ",".join("+".join(_describe(each, _safe) for each in rdn) for rdn in reversed(read(der)))


@functools.lru_cache(maxsize=1024)
def _canonical(der: bytes) -> tuple[frozenset[tuple[str, str | bytes]], ...]:
    return tuple(frozenset(each.canonical for each in rdn) for rdn in read(der))


def _rdn_fits(wanted: Rdn, got: frozenset[tuple[str, str | bytes]]) -> bool:
    if len(wanted) != len(got):
        return False
    left = set(got)
    for each in sorted(wanted, key=lambda attribute: attribute.text in _WILDCARDS):  # exact values take theirs first
        if each.text in _WILDCARDS:
            found = next((pair for pair in left if pair[0] == each.oid), None)
        else:
            found = each.canonical if each.canonical in left else None
        if found is None:
            return False
        left.remove(found)
    return True


def _describe(attribute: Attribute, show: Callable[[str], str]) -> str:
    name = _SHORT.get(attribute.oid, attribute.oid)
    return f"{name}=#{attribute.octets[:32].hex()}" if attribute.text is None else f"{name}={show(attribute.text)}"


def _escaped(text: str) -> str:
    escaped = "".join(f"\\{char}" if char in ',+"\\<>;=' else char for char in text)
    if escaped.endswith(" "):
        escaped = f"{escaped[:-1]}\\ "
    return f"\\{escaped}" if escaped.startswith((" ", "#")) else escaped


def _safe(text: str) -> str:
    return _escaped("".join(char if " " <= char <= "~" else "." for char in text))


def _take(octets: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the DER value at the front and what follows it."""
    found, content, rest = _value(octets)
    if found != tag:
        raise ValueError(f"tag {found:#x} where {tag:#x} is expected")
    return content, rest


def _value(octets: bytes) -> tuple[int, bytes, bytes]:
    if len(octets) < 2:
        raise ValueError("the name ends too early")
    tag, length, start = octets[0], octets[1], 2
    if length >= 0x80:
        more = length & 0x7F
        start += more
        length = int.from_bytes(octets[2:start], "big")
        if not 1 <= more <= 2 or len(octets) < start or length < (0x80 if more == 1 else 0x100):
            raise ValueError("a length that is not DER")
    if len(octets) < start + length:
        raise ValueError("the name ends too early")
    return tag, octets[start : start + length], octets[start + length :]


def _attribute(oid: bytes, value: bytes) -> Attribute:
    tag, content, rest = _value(value)
    if rest:
        raise ValueError("octets after an attribute's value")
    encoding = _TEXTS.get(tag)
    text = None if encoding is None else content.decode(encoding)  # UnicodeDecodeError is a ValueError
    return Attribute(oid=_dotted(oid), text=text, octets=content)


def _dotted(octets: bytes) -> str:
    if not octets or octets[-1] & 0x80 or len(octets) > 32:
        raise ValueError("an OID that is not DER")
    numbers, number = [], 0
    for octet in octets:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(each) for each in (first, numbers[0] - 40 * first, *numbers[1:]))


def _without_padding(text: str) -> str:
    """Return the text without spaces around unescaped commas and plus signs."""
    parts, part, escaped = [], "", False
    for char in text:
        if char in ",+" and not escaped:
            parts += [_stripped(part), char]
            part = ""
        else:
            part += char
        escaped = char == "\\" and not escaped
    return "".join([*parts, _stripped(part)])


def _stripped(part: str) -> str:
    bare = part.strip(" ")
    return f"{bare} " if bare.endswith("\\") and part.rstrip(" ") != part else bare
