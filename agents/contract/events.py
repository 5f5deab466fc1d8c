"""Events: what happened on a gateway, with stable codes the console's diagnosis is built on.

``KINDS`` is the registry: a code that is not in it cannot be emitted. The text is for the operator; ``action`` says
what to do and is empty for plain information. Received and configured values travel beside the text, never inside it only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agents.contract.errors import FieldError


class Severity(StrEnum):
    """How much an event matters to a person."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One sort of event. ``field`` is the document field that usually mends it, or empty."""

    code: str
    severity: Severity
    summary: str
    action: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One journal entry. ``sequence`` counts per gateway from 1 without gaps; ``time`` is Unix seconds."""

    sequence: int
    time: float
    code: str
    severity: Severity
    message: str
    tunnel_id: str | None = None
    received: str | None = None
    configured: str | None = None
    field: str | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sequence < 0:
            raise FieldError("sequence", "must not be negative")
        if len(self.message) > 2_000:
            raise FieldError("message", "must be at most 2000 characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Answer to ``GET /v1/events?after=N``. ``oldest`` is the first sequence still kept (gap when it is above N + 1)."""

    events: tuple[Event, ...]
    oldest: int
    last: int


_CHECK_IKE = "Compare the IKE policies of both ends."
_RESET = "Reset the VPN connection (clear the IKE SA); if it persists, contact support."
_SUPPORT = "Contact support with this event: the peer sends what no IKEv1 daemon should."
_PEER_SOFTWARE = "Contact the peer's operator: its IKE daemon sends what this one cannot read."
_CHECK_IPSEC = "Compare the IPsec policies of both ends."

_I, _W, _E = Severity.INFO, Severity.WARNING, Severity.ERROR

_ROWS: tuple[tuple[str, Severity, str, str, str], ...] = (
    # IKE: the life of a negotiation (FEATURES A23)
    ("ike.initiate", _I, "Negotiation started", "", ""),
    ("ike.peer-initiates", _I, "The peer asks for an IKE SA", "", ""),
    ("ike.sa-requested", _I, "IKE SA requested", "", ""),
    ("ike.sa-established", _I, "IKE SA established", "", ""),
    ("ike.sa-rekeyed", _I, "IKE SA rekeyed", "", ""),
    ("ike.sa-deleted", _I, "IKE SA deleted", "", ""),
    ("ike.sa-failed", _E, "IKE SA could not be established", _CHECK_IKE, ""),
    ("ike.peer-unresponsive", _E, "The peer does not answer", "Check reachability, UDP ports 500 and 4500, and that the peer is configured.", "remote.address"),
    ("ike.dpd-failed", _E, "The peer stopped answering liveness checks", "Check the path to the peer.", ""),
    ("ike.retransmit", _I, "Request sent again", "", ""),
    ("ike.cookie-required", _I, "The peer asked for a cookie", "", ""),
    ("ike.cookie-demanded", _I, "A cookie was demanded from the peer", "", ""),
    ("ike.group-changed", _I, "The peer asked for another key exchange group", "", ""),
    ("ike.nat-detected", _I, "NAT found on the path", "", ""),
    ("ike.nat-changed", _I, "A NAT appeared on the path or is gone from it", "", ""),
    ("ike.nat-moved", _I, "The NAT in front of the peer gave it another address or port", "If it happens often, shorten the keepalive interval of the end behind the NAT.", "ike.keepalive_s"),
    ("ike.nat-refused", _W, "The peer takes no NAT on the path and there is one", "Allow NAT at the peer, or take the NAT off the path.", "remote.address"),
    ("ike.mobike-moved", _I, "The tunnel moved to other addresses", "", ""),
    ("ike.address-lost", _W, "An address that the tunnel uses is gone from this gateway", "Check the interface that had it.", "local.address"),
    ("ike.address-back", _I, "An address of the tunnel is on this gateway again", "", ""),
    ("ike.address-announced", _I, "The peer told its further addresses", "", ""),
    ("ike.address-probed", _W, "The path does not answer; the tunnel's other addresses are tried", "Check the path to the peer.", ""),
    ("ike.address-refused", _W, "The peer moved to an address that the tunnel does not have", "Add the address to the peer's further addresses.", "remote.more_addresses"),
    ("ike.address-peer-refused", _W, "The peer refuses our address", "Add the address to this end's further addresses at the peer.", "local.more_addresses"),
    ("ike.address-unverified", _W, "The peer's new address could not be proven", "Check what forwards packets between the ends.", ""),
    ("ike.dpd-restart", _I, "Negotiating anew because the peer stopped answering", "", "ike.dpd_action"),
    ("ike.dpd-clear", _W, "The tunnel waits for the peer or an operator", "Bring the tunnel up when the peer is back.", "ike.dpd_action"),
    ("ike.dpd-hold", _I, "The tunnel waits for traffic", "", "ike.dpd_action"),
    ("ike.initial-contact", _I, "The peer starts anew; older SAs with it are gone", "", ""),
    ("ike.redirected-port", _I, "Moved to UDP port 4500", "", ""),
    ("ike.simultaneous", _I, "Both ends acted at once; one exchange was dropped", "", ""),
    ("ike.reauthentication", _I, "The IKE SA is authenticated anew", "", ""),
    ("ike.authentication-lapsed", _W, "The authentication was not renewed in time; the IKE SA ends", "See why the new negotiation fails.", "ike.reauth_s"),
    ("child.requested", _I, "IPsec SA requested", "", ""),
    ("child.established", _I, "IPsec SA established", "", ""),
    ("child.rekeyed", _I, "IPsec SA rekeyed", "", ""),
    ("child.deleted", _I, "IPsec SA deleted", "", ""),
    ("child.failed", _E, "IPsec SA could not be established", _CHECK_IPSEC, ""),
    ("child.installed", _I, "SA in the data plane", "", ""),
    ("child.policies-installed", _I, "Policies (filter rules) of the SA are in place", "", ""),
    ("child.install-failed", _E, "The data plane refused the SA", "See the reason; check which data plane the gateway uses.", ""),
    # IKE: refusals, ours or the peer's
    ("ike.no-proposal", _E, "No IKE proposal matches", _CHECK_IKE, "ike.proposals"),
    ("ike.no-tunnel", _W, "No tunnel is configured for this peer", "Define a tunnel for this pair of addresses and identities, or correct them.", "remote.address"),
    ("ike.identity-mismatch", _E, "The peer's identity is not the configured one", "Make the identity equal on both ends.", "remote.identity"),
    ("ike.psk-missing", _E, "No pre-shared key for this pair of addresses and identities", "Assign a pre-shared key to the tunnel.", "preshared_keys"),
    ("ike.psk-mismatch", _E, "Authentication failed: the pre-shared keys differ", "Set the same pre-shared key on both ends.", "preshared_keys"),
    ("ike.auth-method", _E, "The peer authenticates by another method", "Choose the same kind of authentication for each direction on both ends.", "remote_auth.kind"),
    ("ike.eap-refused", _E, "EAP is not offered by this tunnel", "Set the peer to a pre-shared key or a certificate.", "remote_auth.kind"),
    ("ike.multiple-auth-refused", _E, "The peer wants a second round of authentication", "Set the peer to one authentication only.", "remote_auth.kind"),
    ("ike.configuration-ignored", _I, "The peer asks for an address or other settings; none are given out", "", ""),
    ("ike.certificate-missing", _E, "The peer sent no certificate", "Make the peer send its certificate, with the intermediate CAs.", "remote_auth.kind"),
    ("ike.certificate-invalid", _E, "The peer's certificate cannot be used", "See the reason; issue a certificate fit for IKE.", "remote_auth"),
    ("ike.certificate-untrusted", _E, "The peer's certificate chain does not end at a trusted CA", "Add the CA to the trust anchors, or give the peer a certificate of a trusted CA with its intermediates.", "remote_auth.trust_anchors"),
    ("ike.certificate-expired", _E, "A certificate of the peer's chain has expired", "Renew the peer's certificate; check both clocks.", "remote_auth"),
    ("ike.certificate-not-yet-valid", _E, "A certificate of the peer's chain is not valid yet", "Check both clocks.", "remote_auth"),
    ("ike.certificate-revoked", _E, "A certificate of the peer's chain is revoked", "Give the peer a new certificate.", "remote_auth.revocation"),
    ("ike.certificate-revocation-unknown", _E, "Whether the peer's certificate is revoked could not be found out", "Make CRL or OCSP responder reachable, or choose soft-fail.", "remote_auth.revocation"),
    ("ike.certificate-revocation-unchecked", _W, "The peer's certificate was accepted without revocation data", "Make CRL or OCSP responder reachable.", "remote_auth.revocation"),
    ("ike.certificate-identity", _E, "The identity the peer shows is not in its certificate", "Give the peer a certificate that names its identity, or change its identity.", "remote_auth.validate_identity"),
    ("ike.certificate-own", _E, "This gateway's certificate or private key cannot be used", "Enrol the certificate on this gateway again.", "local_auth.certificate"),
    ("ike.signature-refused", _E, "The peer signs in a way that is not accepted", "Accept the peer's signature algorithm, or choose another one on the peer.", "remote_auth.signatures"),
    ("ike.signature-unsupported", _E, "No way to sign that both key and peer support", "Choose other signature algorithms, or a certificate with another kind of key.", "local_auth.signatures"),
    ("ike.signature-mismatch", _E, "Authentication failed: the signature is not valid", "The peer does not have the certificate's private key, or the messages were changed on the way.", "remote_auth"),
    ("ike.ppk-required", _E, "The peer does not use a post-quantum key", "Configure the same post-quantum key on the peer, or do not require it.", "ppk_required"),
    ("ike.ppk-mismatch", _E, "The post-quantum keys differ", "Set the same post-quantum key and id on both ends.", "ppk"),
    ("ike.ppk-unused", _W, "The IKE SA stands without post-quantum key", "Configure the same post-quantum key on the peer.", "ppk"),
    ("ike.childless-unsupported", _E, "The peer does not support IKE SAs without a child", "Choose another childless policy.", "ike.childless"),
    ("ike.childless-refused", _E, "The first child is not where the childless policy wants it", "Make the childless policies of both ends fit.", "ike.childless"),
    ("ike.unique-kept", _E, "A second IKE SA of the same peer was refused", "The unique policy keeps the first one; choose replace if the newer one is to win.", "ike.unique"),
    ("ike.too-many-peers", _E, "An on-demand tunnel serves as many peers as it may", "Raise the most peers of the tunnel, or see which of its peers should not be there.", "most_peers"),
    ("ike.peer-refused-auth", _E, "The peer refused our authentication", "Compare identities and pre-shared key or certificates on both ends.", "preshared_keys"),
    ("ike.peer-refused-proposal", _E, "The peer accepts none of our IKE proposals", _CHECK_IKE, "ike.proposals"),
    ("ike.peer-notify", _W, "The peer reported an error", "See the notify type.", ""),
    ("ike.version-unsupported", _W, "The peer speaks another IKE version", "Set the same IKE version on both ends.", "version"),
    ("ike.version-fallback", _I, "The peer does not answer by one IKE version; the other is tried", "", "version"),
    ("ike.invalid-ke", _W, "The key exchange value is not valid", "Contact the peer's operator.", ""),
    ("child.no-proposal", _E, "No IPsec proposal matches", _CHECK_IPSEC, "children.proposals"),
    ("child.protocols-mismatch", _E, "One end wants ESP, AH or both, the other does not", _CHECK_IPSEC, "children.proposals"),
    ("child.encryption-mismatch", _E, "The encryption algorithms do not match", _CHECK_IPSEC, "children.proposals"),
    ("child.integrity-mismatch", _E, "The integrity algorithms do not match", _CHECK_IPSEC, "children.proposals"),
    ("child.ah-mismatch", _E, "The AH algorithms do not match", _CHECK_IPSEC, "children.proposals"),
    ("child.ts-unacceptable", _E, "The traffic selectors do not match", "Mirror the protected networks on both ends.", "children.local_ts"),
    ("child.peer-refused-proposal", _E, "The peer accepts none of our IPsec proposals", _CHECK_IPSEC, "children.proposals"),
    ("child.peer-refused-ts", _E, "The peer refused our traffic selectors", "Mirror the protected networks on both ends.", "children.local_ts"),
    ("child.configuration-refused", _E, "The peer asks for an inner address; none are given out", "Set the peer's protected networks instead.", "children.remote_ts"),
    ("child.configuration-required", _E, "The peer makes an IPsec SA only for those that ask it for an address", "Set the peer to a site-to-site connection.", ""),
    ("child.pfs-mismatch", _E, "The PFS groups do not match", _CHECK_IPSEC, "children.pfs_groups"),
    ("child.narrowed", _I, "Traffic selectors were narrowed", "", ""),
    ("child.esn-mismatch", _E, "Extended sequence numbers do not match", _CHECK_IPSEC, "children.sequence_numbers"),
    ("child.mode-mismatch", _E, "One end wants tunnel mode, the other transport mode", "Set the same mode on both ends.", "children.mode"),
    ("child.transport-nat", _E, "Another host behind the same NAT address is in transport mode already", "Use tunnel mode.", "children.mode"),
    ("child.too-many", _W, "The peer asks for one child too often", "Compare the protected networks of both ends.", "children"),
    ("child.selectors-taken", _E, "Another tunnel protects the same traffic", "Let only one tunnel have these networks.", "children.remote_ts"),
    # IKE: payloads that cannot be read (FEATURES A21; the table is agents.ike.wire.families)
    ("wire.auth-payload", _W, "Authentication payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.cert-payload", _W, "Certificate payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.cp-payload", _W, "Configuration payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.default-payload", _W, "Payload of an unknown type with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.delete-payload", _W, "Delete payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.eap-payload", _W, "EAP payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.encrypted-payload", _W, "Encrypted payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.id-payload", _W, "Identification payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.ke-payload", _W, "Key exchange payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.nonce-payload", _W, "Nonce payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.notify-payload", _W, "Notify payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.proposal-payload", _W, "Proposal with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.sa-payload", _W, "Security association payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.ts-payload", _W, "Traffic selector payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.vendor-id-payload", _W, "Vendor ID payload with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.transform", _W, "Transform with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.header", _W, "IKE header with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.incomplete-attribute", _W, "Attribute with a wrong length or content", _PEER_SOFTWARE, ""),
    ("wire.invalid-attribute", _W, "A value that the protocol does not have", _PEER_SOFTWARE, ""),
    ("wire.mismatched-attribute", _W, "A proposal without or with too many transforms", _PEER_SOFTWARE, ""),
    ("wire.ts-attribute", _W, "Incomplete traffic selector", _PEER_SOFTWARE, ""),
    # IKEv1: what is refused, and what the peer refuses (FEATURES A20, in its order; the table is agents.ike.wire.isakmp.families)
    ("ikev1.psk-mismatch", _E, "Possibly mismatching pre-shared keys", _CHECK_IKE + " Set the same pre-shared key on both.", "preshared_keys"),
    ("ikev1.group-mismatch", _E, "The Diffie-Hellman groups differ", _CHECK_IKE, "ike.proposals"),
    ("ikev1.exchange-mode-mismatch", _E, "One end uses Main Mode, the other Aggressive Mode", _CHECK_IKE, "ike.exchange_mode"),
    ("ikev1.hash-mismatch", _E, "The authentication (hash) algorithms differ", _CHECK_IKE, "ike.proposals"),
    ("ikev1.encryption-mismatch", _E, "The encryption algorithms differ", _CHECK_IKE, "ike.proposals"),
    ("ikev1.auth-method-mismatch", _E, "The authentication methods differ", _CHECK_IKE, "remote_auth.kind"),
    ("ikev1.certificate-identity-mismatch", _E, "The identity of the peer's certificate is not the configured one", _CHECK_IKE, "remote.identity"),
    ("ikev1.no-tunnel-for-identity", _E, "No tunnel is configured for the identity of the peer's certificate", _CHECK_IKE, "remote.identity"),
    ("ikev1.psk-identity-mismatch", _E, "The peer's identity is not the configured one", _CHECK_IKE, "remote.identity"),
    ("ikev1.identity-not-in-certificate", _E, "The identity the peer shows is not that of its certificate", _CHECK_IKE, "remote_auth.validate_identity"),
    ("ikev1.identity-refused-by-peer", _E, "The peer refuses our identity", _CHECK_IKE, "local.identity"),
    ("ikev1.next-payload", _W, "Invalid next payload", _CHECK_IKE, ""),
    ("ikev1.doi", _W, "Domain of interpretation other than IPsec", _SUPPORT, ""),
    ("ikev1.situation", _W, "Situation other than identity only", _SUPPORT, ""),
    ("ikev1.initiator-cookie", _W, "Invalid initiator cookie", _RESET, ""),
    ("ikev1.major-version", _W, "Invalid major version", _SUPPORT, ""),
    ("ikev1.minor-version", _W, "Invalid minor version", _SUPPORT, ""),
    ("ikev1.exchange-without-sa", _W, "Exchange for an IKE SA that does not exist", _RESET, ""),
    ("ikev1.flags", _W, "Invalid flags", _RESET, ""),
    ("ikev1.message-id", _W, "Invalid message ID", _SUPPORT, ""),
    ("ikev1.protocol-id", _W, "Invalid protocol ID", _SUPPORT, ""),
    ("ikev1.transform-id", _W, "Invalid transform ID", _CHECK_IKE, ""),
    ("ikev1.attribute", _W, "Unsupported attribute", _CHECK_IKE, ""),
    ("ikev1.proposal-mismatch", _E, "No IKE proposal matches", _CHECK_IKE, "ike.proposals"),
    ("ikev1.reserved-field", _W, "A reserved field is not zero", _CHECK_IKE, ""),
    ("ikev1.payload-malformed", _W, "Malformed payload", _CHECK_IKE, ""),
    ("ikev1.exchange-unsupported", _W, "Exchange type that is not supported", _CHECK_IKE, ""),
    ("ikev1.sa-length", _W, "The length of the SA payload is not that of its parts", _CHECK_IKE, ""),
    ("ikev1.pfs-mismatch", _E, "The PFS groups of phase 2 differ", _CHECK_IPSEC, "children.pfs_groups"),
    ("ikev1.child-integrity-mismatch", _E, "The authentication algorithms of phase 2 differ", _CHECK_IPSEC, "children.proposals"),
    ("ikev1.child-encryption-mismatch", _E, "The encryption algorithms of phase 2 differ", _CHECK_IPSEC, "children.proposals"),
    ("ikev1.selectors-sent", _I, "Traffic selectors sent", "", ""),
    ("ikev1.selectors-received", _I, "Traffic selectors received", "", ""),
    ("ikev1.selectors-mismatch", _E, "No IPsec policy for the traffic selectors received", _CHECK_IPSEC, "children.local_ts"),
    ("ikev1.protocols-mismatch", _E, "The security protocols (AH, ESP) differ", _CHECK_IPSEC, "children.proposals"),
    ("ikev1.lifetime-seconds", _I, "The lifetime in seconds was brought down to the shorter one", "", ""),
    ("ikev1.lifetime-kilobytes", _I, "The lifetime in kilobytes was brought down to the smaller one", "", ""),
    ("ikev1.delete-received", _I, "The peer deleted an SA", "", ""),
    # IKEv1: the rest
    ("ikev1.proposal-refused-by-peer", _E, "The peer refuses our proposal", _CHECK_IKE, "ike.proposals"),
    ("ikev1.weak-aggressive-psk", _W, "Aggressive Mode shows a hash of a short pre-shared key: it can be guessed offline", "Use Main Mode, IKEv2 or certificates, or a random key of 20 octets or more.", "ike.exchange_mode"),
    ("ikev1.unprotected-notify", _I, "An unprotected notify of the peer; it is not acted on", "", ""),
    ("ikev1.peer-vendor", _I, "The peer says what it is", "", ""),
    ("ikev1.dpd-unsupported", _I, "The peer answers no liveness checks (RFC 3706)", "", ""),
    # IKE: silent drops, each with its name
    ("drop.malformed", _W, "Malformed datagram dropped", "", ""),
    ("drop.version", _W, "Datagram of an unknown major version", "", ""),
    ("drop.unknown-spi", _W, "Message for an IKE SA that does not exist", "", ""),
    ("drop.integrity", _W, "Message with a wrong checksum dropped", "", ""),
    ("drop.message-id", _I, "Message outside the window dropped", "", ""),
    ("drop.duplicate", _I, "Message already answered or processed", "", ""),
    ("drop.direction", _W, "Message with wrong direction flags dropped", "", ""),
    ("drop.state", _W, "Message not allowed in this state dropped", "", ""),
    ("drop.critical-payload", _W, "Unknown critical payload", "", ""),
    ("drop.exchange-type", _W, "Unknown exchange type", "", ""),
    ("drop.payload-rules", _W, "Payloads not allowed in this message", "", ""),
    ("drop.cookie", _W, "Wrong or missing cookie", "", ""),
    ("drop.half-open-limit", _W, "Too many half-open negotiations", "", ""),
    ("drop.fragment", _W, "Fragment of a message dropped", "", ""),
    ("drop.ikev1", _W, "IKEv1 message dropped: no tunnel of this gateway speaks it", "", ""),
    # Certificates
    ("ike.certificate-weak", _E, "The peer's certificate uses a key or hash that is too weak", "Let its CA issue one with a key and a hash named.", "remote_auth"),
    ("ike.certificate-usage", _E, "The peer's certificate is not for this use", "Let its CA issue one whose key usages allow IKE.", "remote_auth"),
    ("ike.certificate-constraint", _E, "The peer's certificate is outside what its CA may certify", "See which constraint of which CA.", "remote_auth"),
    ("ike.certificate-busy", _W, "Too many certificates to check at once", "If it persists, find out who floods this gateway.", ""),
    ("ike.key-missing", _E, "The private key of a certificate is not on this gateway", "Import it with vpn-agent key import, or make one with vpn-agent key new and have it certified.", "certificates"),
    ("ike.key-refused", _E, "A private key file is not used", "Correct the file: only the agent's user may own and read it.", "certificates"),
    ("ike.own-certificate-expired", _E, "A certificate of this gateway is not valid now", "Renew it; peers will refuse it.", "certificates"),
    ("ike.sign-failed", _E, "This gateway could not sign", "See the reason.", "local_auth"),
    ("ike.bug", _E, "Internal error while handling a message", "Report it with the event log.", ""),
    # ESP (FEATURES A22)
    ("esp.integrity", _W, "ESP packets failed authentication", "Possibly mismatching keys; clear the IPsec SA.", ""),
    ("esp.replay", _I, "Repeated ESP packets dropped", "", ""),
    ("esp.late", _I, "Late ESP packets outside the window", "", ""),
    ("esp.no-sa", _I, "ESP packets for an SPI that does not exist", "", ""),
    ("esp.malformed", _W, "Malformed ESP packets", "", ""),
    ("esp.policy", _W, "Decrypted packets outside the traffic selectors dropped", "Mirror the protected networks on both ends.", ""),
    ("esp.mode", _W, "Packets in the other encapsulation mode dropped", "Set the same mode, tunnel or transport, on both ends.", ""),
    # Manual keys (FEATURES A14d)
    ("manual.up", _I, "The SAs of a tunnel with manual keys stand", "", ""),
    ("manual.down", _W, "The SAs of a tunnel with manual keys are gone", "", ""),
    ("manual.install-failed", _E, "An SA with manual keys could not be installed", "See the reason; check which data plane the gateway uses.", "manual_tunnels.children"),
    ("manual.reinstalled", _I, "SAs with manual keys were installed anew", "", ""),
    # The agent
    ("agent.started", _I, "Agent started", "", ""),
    ("agent.enrolled", _I, "Gateway enrolled", "", ""),
    ("agent.config-accepted", _I, "Configuration accepted", "", ""),
    ("agent.config-applied", _I, "Configuration in force", "", ""),
    ("agent.config-refused", _E, "Configuration refused", "See the field named.", ""),
    ("agent.client-refused", _W, "API client refused", "Check who connects to the agent's port.", ""),
    ("agent.component-lost", _E, "A component of the agent stopped", "It is started again by itself; if it persists, see its log.", ""),
    ("agent.component-back", _I, "A component of the agent is back", "", ""),
    ("agent.repaired", _W, "Something was changed behind the agent's back and was put right", "Find out who changed it.", ""),
    ("agent.repair-failed", _E, "Something could not be put right", "See the reason.", ""),
    ("agent.data-plane", _I, "Data plane chosen", "", ""),
    ("agent.route-added", _I, "Route added", "", ""),
    ("agent.route-withdrawn", _I, "Route withdrawn", "", ""),
    ("agent.context-made", _I, "Routing context made", "", ""),
    ("agent.context-removed", _I, "Routing context removed", "", ""),
    ("agent.route-moved", _W, "Traffic to a network moved to another tunnel", "See why in the event; when the preferred tunnel is back, traffic goes back by itself.", ""),
    ("agent.filter-on", _I, "Packet filter in force", "", ""),
    ("agent.filter-off", _I, "Packet filter removed", "", ""),
    ("agent.action", _I, "Action performed", "", ""),
    ("agent.trace", _I, "Trace switched on or off, or read by the console", "", ""),
    ("agent.capture-started", _I, "Packet capture started", "", ""),
    ("agent.capture-ended", _I, "Packet capture ended", "", ""),
    ("agent.capture-read", _I, "Packet capture read by the console", "", ""),
)  # fmt: skip

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        code: Kind(code=code, severity=severity, summary=summary, action=action, field=field)
        for code, severity, summary, action, field in _ROWS
    }
)

STEPS: Mapping[str, int] = MappingProxyType(
    {
        "ike.initiate": 1,
        "ike.sa-requested": 2,
        "ike.sa-established": 3,
        "ike.sa-failed": 3,
        "child.requested": 4,
        "child.established": 5,
        "child.failed": 5,
        "child.installed": 6,
        "child.policies-installed": 7,
    }
)
"""The steps of a negotiation in the order a person expects them (FEATURES A23); a responder begins at the third.

IKE_AUTH asks for IKE SA and first child in one message, so there the events come 1, 2, 4, 3, 5, 6, 7: a page sorts by step.
"""
