"""The words of the gateway document: what its fields of few values may say."""

from __future__ import annotations

from enum import StrEnum


class DataPlane(StrEnum):
    """Which data plane carries ESP; ``auto`` probes and prefers the kernel."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


class IdentityType(StrEnum):
    """Kinds of IKE identity (RFC 7296 section 3.5); ``any`` takes whatever the peer shows, once it is proven."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    FQDN = "fqdn"
    EMAIL = "email"
    KEY_ID = "key-id"
    DN = "dn"
    ANY = "any"


class ConnectionType(StrEnum):
    """Who may start the negotiation; seed 003 section 6.4."""

    INITIATOR_ONLY = "initiator-only"
    RESPONDER_ONLY = "responder-only"
    BOTH = "both"


class IkeVersion(StrEnum):
    """IKE versions a tunnel may ask for; ``v2-else-v1`` begins with IKEv2 and takes a peer that speaks either."""

    V1 = "v1"
    V2 = "v2"
    V2_ELSE_V1 = "v2-else-v1"

    @property
    def allows_v1(self) -> bool:
        """Whether IKEv1 may be spoken."""
        return self is not IkeVersion.V2

    @property
    def allows_v2(self) -> bool:
        """Whether IKEv2 may be spoken."""
        return self is not IkeVersion.V1


class TunnelKind(StrEnum):
    """Whether both ends are known, or any number of peers come to this end when they need it (seed 003 section 9).

    Tunnels with manual keys are :class:`~agents.contract.manual.ManualTunnel`.
    """

    STATIC = "static"
    ON_DEMAND = "on-demand"


class ExchangeMode(StrEnum):
    """Phase 1 of IKEv1 (RFC 2409 sections 5.1 to 5.4): Main Mode hides the identities, Aggressive Mode does not."""

    MAIN = "main"
    AGGRESSIVE = "aggressive"


class AuthKind(StrEnum):
    """How an end proves who it is."""

    PSK = "psk"
    CERTIFICATE = "certificate"


class Revocation(StrEnum):
    """What a peer certificate's revocation check does: ``soft-fail`` lets an unreachable CRL or OCSP responder pass."""

    HARD_FAIL = "hard-fail"
    SOFT_FAIL = "soft-fail"
    OFF = "off"


class DpdAction(StrEnum):
    """What happens to a tunnel whose peer no longer answers.

    ``restart`` negotiates anew at once, ``clear`` waits for the peer or an operator, ``hold`` negotiates again when
    traffic asks for it.
    """

    RESTART = "restart"
    CLEAR = "clear"
    HOLD = "hold"


class Reauthentication(StrEnum):
    """Order of the new IKE SA and the old one's end when ``reauth_s`` has passed (RFC 7296 section 2.8.3)."""

    MAKE_BEFORE_BREAK = "make-before-break"
    BREAK_BEFORE_MAKE = "break-before-make"


class UniquePolicy(StrEnum):
    """What a second IKE SA with the same identities does to the first: replace it, be refused, or stand beside it."""

    REPLACE = "replace"
    KEEP = "keep"
    NEVER = "never"


class Childless(StrEnum):
    """Whether an IKE SA may come up without a child (RFC 6023): as responder, as initiator too, or only so."""

    ALLOW = "allow"
    NEVER = "never"
    PREFER = "prefer"
    FORCE = "force"


class SequenceNumbers(StrEnum):
    """Extended sequence numbers (RFC 4303 section 2.2.1): not offered, offered first, or required."""

    NORMAL = "normal"
    PREFER_EXTENDED = "prefer-extended"
    EXTENDED = "extended"
