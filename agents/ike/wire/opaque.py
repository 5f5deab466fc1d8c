"""Length rules of payloads that are carried unread: CP and EAP, for the remote access that is not offered here.

What they hold is kept as octets (:class:`agents.ike.wire.payloads.Opaque`); here is what must hold whoever reads it.
"""

from __future__ import annotations

from agents.ike.wire.buffer import Reader, malformed


def check_configuration(body: bytes) -> None:
    """Check type and lengths of a CP payload (section 3.15), not which attributes there are. Raises WireError."""
    reader = Reader(body, "CP payload", "wire.cp-payload")
    kind, _reserved = reader.number(1), reader.take(3)
    if not 1 <= kind <= 4:
        raise malformed(f"a CP payload of type {kind}", "wire.invalid-attribute", received=kind, expected="1 to 4")
    while reader.left:
        if reader.left < 4:
            raise malformed(
                "a configuration attribute ends within its header",
                "wire.incomplete-attribute",
                received=f"{reader.left} octets",
                expected="4 octets",
            )
        _attribute, length = reader.number(2), reader.number(2)
        if length > reader.left:
            raise malformed(
                "a configuration attribute longer than its payload",
                "wire.incomplete-attribute",
                received=f"{reader.left} octets",
                expected=f"{length} octets",
            )
        reader.take(length)


def check_eap(body: bytes) -> None:
    """Check code and length of an EAP packet (section 3.16, RFC 3748 section 4). Raises WireError."""
    reader = Reader(body, "EAP payload", "wire.eap-payload")
    code, _identifier, length = reader.number(1), reader.number(1), reader.number(2)
    if not 1 <= code <= 4:
        raise malformed(f"an EAP packet of code {code}", "wire.eap-payload", received=code, expected="1 to 4")
    if length != len(body) or (code in (1, 2) and length < 5):
        raise malformed(
            "an EAP packet of a wrong length", "wire.eap-payload", received=len(body), expected=max(length, 5)
        )
