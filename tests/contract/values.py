"""One value of each message, with every field set away from its default: what the golden files hold."""

from __future__ import annotations

from dataclasses import replace

from agents.contract.actions import Action, ActionResult, Verb
from agents.contract.carriage import Attachment, Carriage, Context, DfBit, StaticRoute
from agents.contract.config import (
    AuthKind,
    Certificate,
    Child,
    Childless,
    ConnectionType,
    DataPlane,
    DpdAction,
    Endpoint,
    ExchangeMode,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
    LocalAuthentication,
    Mode,
    PostquantumKey,
    PresharedKey,
    Reauthentication,
    RemoteAuthentication,
    Retransmission,
    Revocation,
    SequenceNumbers,
    TrafficSelector,
    TrustAnchor,
    Tunnel,
    TunnelKind,
    UniquePolicy,
)
from agents.contract.enrolment import EnrolmentGrant, EnrolmentRequest, SignedGrant, SignedRequest
from agents.contract.events import Event, EventPage, Severity
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import (
    CaptureStatus,
    ChildSaStatus,
    ChildStatus,
    ComponentHealth,
    Counters,
    DataPlaneStatus,
    ExchangeCounters,
    FilterCounters,
    GatewayStatus,
    IkeSaStatus,
    NamedCount,
    ProcessTrace,
    QueueStatus,
    Reason,
    Refusal,
    Rejections,
    RouteRecord,
    TraceStatus,
    TunnelState,
    TunnelStatus,
)

GATEWAY_ID = "3f2c1a9e-7b64-4d1e-9a53-0c2f6e8b1d70"
TUNNEL_ID = "a1b2c3d4-5e6f-4a7b-8c9d-0e1f2a3b4c5d"
OTHER_TUNNEL_ID = "b2c3d4e5-6f7a-4b8c-9d0e-1f2a3b4c5d6e"

FIRST_DOCUMENT = GatewayDocument(
    gateway_id=GATEWAY_ID,
    gateway_name="paris",
    generation=42,
    nonce="00112233445566778899aabbccddeeff",
    data_plane=DataPlane.USERSPACE,
    retransmission=Retransmission(initial_ms=500, factor=1.5, tries=8),
    preshared_keys=(
        PresharedKey(
            id="psk-lyon",
            secret=Secret(bytes(range(32))),
            local_address="192.0.2.1",
            remote_address="198.51.100.2",
            local_identity=Identity(type=IdentityType.FQDN, value="paris.example.org"),
            remote_identity=Identity(type=IdentityType.EMAIL, value="lyon@example.org"),
        ),
        PresharedKey(id="psk-any", secret=Secret("schlüssel'\"".encode())),
    ),
    tunnels=(
        Tunnel(
            id=TUNNEL_ID,
            name="paris-lyon",
            local=Endpoint(address="192.0.2.1", identity=Identity(type=IdentityType.FQDN, value="paris.example.org")),
            remote=Endpoint(
                address="198.51.100.2", identity=Identity(type=IdentityType.EMAIL, value="lyon@example.org")
            ),
            ike=IkePolicy(
                proposals=(
                    IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-384", group="group-20"),
                    IkeProposal(
                        encryption="aes-256-cbc",
                        integrity="hmac-sha2-256-128",
                        prf="prf-hmac-sha2-256",
                        group="group-14",
                    ),
                ),
                lifetime_s=28_800,
                dpd_interval_s=10,
            ),
            children=(
                Child(
                    name="net",
                    local_ts=(
                        TrafficSelector(network="10.1.0.0/24"),
                        TrafficSelector(network="10.1.9.0/24", protocol=6, start_port=80, end_port=443),
                    ),
                    remote_ts=(TrafficSelector(network="10.2.0.0/16"),),
                    proposals=(
                        IpsecProposal(encryption="chacha20-poly1305"),
                        IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96"),
                    ),
                    pfs_groups=("group-31", "group-19"),
                    lifetime_s=1_800,
                    lifetime_bytes=1_000_000_000,
                    lifetime_packets=1_000_000,
                    replay_window=256,
                ),
            ),
            connection_type=ConnectionType.RESPONDER_ONLY,
            enabled=False,
            force_udp_encapsulation=True,
            add_routes=False,
            mtu=1_380,
        ),
        Tunnel(
            id=OTHER_TUNNEL_ID,
            name="paris-six",
            local=Endpoint(address="2001:db8::1", identity=Identity(type=IdentityType.IPV6, value="2001:db8::1")),
            remote=Endpoint(address="2001:db8::2", identity=Identity(type=IdentityType.KEY_ID, value="00ff")),
            ike=IkePolicy(
                proposals=(IkeProposal(encryption="chacha20-poly1305", prf="prf-hmac-sha2-512", group="group-31"),)
            ),
            children=(
                Child(
                    name="six",
                    local_ts=(TrafficSelector(network="fd01::/64"),),
                    remote_ts=(TrafficSelector(network="fd02::/64"),),
                    proposals=(IpsecProposal(encryption="aes-128-gcm-16"),),
                ),
            ),
        ),
    ),
)

_FIRST_TUNNEL, _SECOND_TUNNEL = FIRST_DOCUMENT.tunnels

SECOND_DOCUMENT = replace(
    FIRST_DOCUMENT,
    allow_legacy=True,
    postquantum_keys=(PostquantumKey(id="ppk-1", secret=Secret(b"a post-quantum key")),),
    certificates=(Certificate(id="gateway-2026", chain=("bGVhZg==", "aW50ZXJtZWRpYXRl")),),
    trust_anchors=(TrustAnchor(id="corporate-root", certificate="cm9vdA=="),),
    tunnels=(
        replace(
            _FIRST_TUNNEL,
            local=replace(_FIRST_TUNNEL.local, more_addresses=("192.0.2.9",)),
            remote=replace(
                _FIRST_TUNNEL.remote, identity=Identity(type=IdentityType.DN, value="CN=*,O=Example"), more_addresses=()
            ),
            ike=replace(
                _FIRST_TUNNEL.ike,
                proposals=(
                    replace(_FIRST_TUNNEL.ike.proposals[0], additional_key_exchanges=("ml-kem-768",)),
                    IkeProposal(encryption="3des-cbc", integrity="hmac-md5-96", prf="prf-hmac-md5", group="group-2"),
                ),
                dpd_action=DpdAction.HOLD,
                reauth_s=14_400,
                reauthentication=Reauthentication.BREAK_BEFORE_MAKE,
                keepalive_s=15,
                mobike=False,
                fragmentation=False,
                fragment_octets=1_400,
                unique=UniquePolicy.KEEP,
                childless=Childless.PREFER,
            ),
            children=(
                replace(
                    _FIRST_TUNNEL.children[0],
                    proposals=(
                        IpsecProposal(ah_integrity="hmac-sha2-256-128"),
                        IpsecProposal(encryption="aes-256-gcm-16", ah_integrity="aes-xcbc-96"),
                    ),
                    mode=Mode.TRANSPORT,
                    sequence_numbers=SequenceNumbers.EXTENDED,
                    ipcomp=True,
                ),
            ),
            local_auth=LocalAuthentication(
                kind=AuthKind.CERTIFICATE, certificate="gateway-2026", signatures=("rsa-pss-sha2-256",)
            ),
            remote_auth=RemoteAuthentication(
                kind=AuthKind.CERTIFICATE,
                trust_anchors=("corporate-root",),
                signatures=("ed25519", "ecdsa-sha2-384"),
                revocation=Revocation.HARD_FAIL,
                validate_identity=False,
                fetch_private=True,
            ),
            ppk="ppk-1",
            ppk_required=True,
        ),
        _SECOND_TUNNEL,
    ),
)

_LATER_TUNNEL = SECOND_DOCUMENT.tunnels[0]

THIRD_DOCUMENT = replace(
    SECOND_DOCUMENT,
    tunnels=(
        replace(
            _LATER_TUNNEL,
            version=IkeVersion.V2_ELSE_V1,
            ike=replace(_LATER_TUNNEL.ike, lifetime_kilobytes=4_608_000, exchange_mode=ExchangeMode.AGGRESSIVE),
        ),
        _SECOND_TUNNEL,
    ),
)

ON_DEMAND_TUNNEL_ID = "c3d4e5f6-7a8b-4c9d-8e1f-2a3b4c5d6e7f"
MANUAL_TUNNEL_ID = "d4e5f6a7-8b9c-4d0e-9f2a-3b4c5d6e7f80"

_CARRIAGE = Carriage(
    attachment=Attachment.INTERFACE,
    df_bit=DfBit.CLEAR,
    copy_dscp=False,
    clamp_tcp_mss=True,
    queues=4,
    context="blue",
    route_cost=5,
    routes=(StaticRoute(network="10.9.0.0/16", cost=10),),
)

MANUAL_TUNNEL = ManualTunnel(
    id=MANUAL_TUNNEL_ID,
    name="paris-manual",
    local_address="192.0.2.1",
    remote_address="198.51.100.9",
    enabled=False,
    mtu=1_400,
    carriage=_CARRIAGE,
    children=(
        ManualChild(
            name="rule-1",
            local_ts=TrafficSelector(network="10.1.0.0/24", protocol=17, start_port=53, end_port=53),
            remote_ts=TrafficSelector(network="10.8.0.0/24"),
            inbound=ManualSa(
                esp_spi=4_096,
                encryption="3des-cbc",
                encryption_key=Secret(bytes(range(24))),
                integrity="hmac-md5-96",
                integrity_key=Secret(bytes(range(16))),
                ah_spi=4_097,
                ah_integrity="hmac-sha1-96",
                ah_key=Secret(bytes(range(20))),
            ),
            outbound=ManualSa(
                esp_spi=4_098,
                encryption="null",
                integrity="hmac-sha2-256-128",
                integrity_key=Secret(bytes(range(32))),
                ah_spi=4_099,
                ah_integrity="aes-xcbc-96",
                ah_key=Secret(bytes(range(16))),
            ),
            mode=Mode.TRANSPORT,
            replay_window=128,
            ipcomp=True,
        ),
    ),
)

ON_DEMAND_TUNNEL = Tunnel(
    id=ON_DEMAND_TUNNEL_ID,
    name="paris-roaming",
    kind=TunnelKind.ON_DEMAND,
    most_peers=20,
    local=Endpoint(address="192.0.2.1", identity=Identity(type=IdentityType.FQDN, value="paris.example.org")),
    remote=Endpoint(address="0.0.0.0", identity=Identity(type=IdentityType.FQDN, value="*.branch.example.org")),
    connection_type=ConnectionType.RESPONDER_ONLY,
    ike=IkePolicy(proposals=(IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-256", group="group-31"),)),
    children=(
        Child(
            name="rule-1",
            local_ts=(TrafficSelector(network="10.1.0.0/24"),),
            remote_ts=(TrafficSelector(network="10.64.0.0/10"),),
            proposals=(IpsecProposal(encryption="aes-256-gcm-16"),),
        ),
    ),
    carriage=_CARRIAGE,
)

FOURTH_DOCUMENT = replace(
    THIRD_DOCUMENT,
    tunnels=(*THIRD_DOCUMENT.tunnels, ON_DEMAND_TUNNEL),
    manual_tunnels=(MANUAL_TUNNEL,),
    contexts=(Context(name="blue", table=100),),
    packet_filter=True,
)

GATEWAY_DOCUMENT = replace(
    FOURTH_DOCUMENT,
    tunnels=(
        *THIRD_DOCUMENT.tunnels,
        replace(
            ON_DEMAND_TUNNEL,
            local=replace(ON_DEMAND_TUNNEL.local, address="192.0.2.20"),
            carriage=replace(_CARRIAGE, endpoint_context="uplink-a", rate_kbps=8_000),
        ),
    ),
    contexts=(*FOURTH_DOCUMENT.contexts, Context(name="uplink-a", table=101)),
)

_COUNTERS = Counters(bytes_in=1, bytes_out=2, packets_in=3, packets_out=4)

FIRST_STATUS = GatewayStatus(
    gateway_id=GATEWAY_ID,
    agent_version="0.1.0",
    boot_id="boot",
    observed_at=1_700_000_000.5,
    accepted_generation=42,
    accepted_digest="ab" * 32,
    applied_generation=41,
    refusal=Refusal(generation=43, path="tunnels[0].mtu", message="is too small", at=1_700_000_001.0),
    problems=("one", "two"),
    data_plane=DataPlaneStatus(driver="userspace", reason="the kernel has no ESP"),
    components=(
        ComponentHealth(name="iked", healthy=True, version="0.1.0", pid=7, started_at=1_699_999_999.0, detail="fine"),
    ),
    tunnels=(
        TunnelStatus(
            id=TUNNEL_ID,
            name="paris-lyon",
            state=TunnelState.PARTLY_UP,
            since=1_699_999_999.25,
            step="CREATE_CHILD_SA sent",
            reason=Reason(
                code="child.ts-unacceptable", message="no", received="a", configured="b", field="children.local_ts"
            ),
            ike_sas=(
                IkeSaStatus(
                    spi_i="0123456789abcdef",
                    spi_r="fedcba9876543210",
                    initiator=True,
                    state="established",
                    local="192.0.2.1:4500",
                    remote="198.51.100.2:4500",
                    nat_local=False,
                    nat_remote=True,
                    encryption="aes-256-cbc",
                    integrity="hmac-sha2-256-128",
                    prf="prf-hmac-sha2-256",
                    group="group-14",
                    established_at=1_699_999_998.0,
                    rekey_at=1_700_003_598.0,
                ),
            ),
            children=(
                ChildStatus(
                    name="net",
                    up=True,
                    sas=(
                        ChildSaStatus(
                            spi_in="c0000001",
                            spi_out="c0000002",
                            encryption="aes-128-cbc",
                            integrity="hmac-sha1-96",
                            group="group-31",
                            udp_encapsulation=True,
                            local_ts=("10.1.0.0/24",),
                            remote_ts=("10.2.0.0/16",),
                            installed_at=1_699_999_998.0,
                            rekey_at=1_700_001_000.0,
                            expires_at=1_700_001_800.0,
                            counters=_COUNTERS,
                        ),
                    ),
                ),
            ),
            counters=_COUNTERS,
            interface="vpna1b2c3d4",
            routes=("10.2.0.0/16",),
        ),
    ),
    last_event=99,
)

_TUNNEL_STATUS = FIRST_STATUS.tunnels[0]
_CHILD_STATUS = _TUNNEL_STATUS.children[0]

SECOND_STATUS = replace(
    FIRST_STATUS,
    exchanges=(
        ExchangeCounters(
            exchange="ike-auth",
            requests_in=1,
            requests_out=2,
            responses_in=3,
            responses_out=4,
            retransmissions_in=5,
            retransmissions_out=6,
            refused=7,
        ),
    ),
    tunnels=(
        replace(
            _TUNNEL_STATUS,
            ike_sas=(
                replace(
                    _TUNNEL_STATUS.ike_sas[0],
                    additional_key_exchanges=("ml-kem-768",),
                    local_auth="rsa-pss-sha2-256",
                    remote_auth="psk",
                    remote_identity="fqdn lyon.example.org",
                    reauth_at=1_700_014_398.0,
                    fragmentation=True,
                    mobike=True,
                    ppk=True,
                ),
            ),
            children=(
                replace(
                    _CHILD_STATUS,
                    sas=(
                        replace(
                            _CHILD_STATUS.sas[0],
                            ah_integrity="hmac-sha2-256-128",
                            mode="transport",
                            esn=True,
                            ipcomp=True,
                        ),
                    ),
                ),
            ),
        ),
        *FIRST_STATUS.tunnels[1:],
    ),
)

_LATER_TUNNEL_STATUS = SECOND_STATUS.tunnels[0]

THIRD_STATUS = replace(
    SECOND_STATUS,
    components=(replace(SECOND_STATUS.components[0], log_level="info"),),
    tunnels=(
        replace(
            _LATER_TUNNEL_STATUS,
            ike_sas=(replace(_LATER_TUNNEL_STATUS.ike_sas[0], version="v1", exchange_mode="aggressive"),),
        ),
    ),
)

_REJECTIONS = Rejections(integrity=1, replayed=2, late=3, malformed=4, selectors=5, mode=6)
_THIRD_TUNNEL_STATUS = THIRD_STATUS.tunnels[0]
_THIRD_CHILD_STATUS = _THIRD_TUNNEL_STATUS.children[0]

FOURTH_STATUS = replace(
    THIRD_STATUS,
    tunnels=(
        replace(
            _THIRD_TUNNEL_STATUS,
            kind="on-demand",
            peers=2,
            rejected=_REJECTIONS,
            queues=(QueueStatus(queue=3, packets=1, bytes=2, dropped_packets=3, depth_packets=4),),
            filter=FilterCounters(admitted_ike=1, admitted_ipsec=2, dropped_clear=3, dropped_leaving=4),
            children=(
                replace(
                    _THIRD_CHILD_STATUS,
                    sas=(replace(_THIRD_CHILD_STATUS.sas[0], rejected=_REJECTIONS),),
                    counters=_COUNTERS,
                    rejected=_REJECTIONS,
                ),
            ),
        ),
    ),
    route_ledger=(
        RouteRecord(
            network="10.2.0.0/16",
            interface="vpna1b2c3d4",
            gateway="192.0.2.254",
            context="blue",
            cost=5,
            tunnel_id=TUNNEL_ID,
            child="net",
            spis=("c0000001",),
            cause="selector",
            since=1_699_999_998.0,
            until=1_700_000_000.0,
        ),
    ),
    data_plane_counts=(NamedCount(name="XfrmInNoStates", count=7),),
    captures=(
        CaptureStatus(
            id="9b1c",
            tunnel_id=TUNNEL_ID,
            view="outer",
            running=True,
            started_at=1_699_999_998.0,
            packets=1,
            octets=2,
            ended_because="60 s are over",
        ),
    ),
    ipsec_counts=(NamedCount(name="esp.in", count=8),),
)

FIFTH_STATUS = replace(
    FOURTH_STATUS,
    trace=TraceStatus(
        id="9b1d",
        categories=("error", "tunnel-information"),
        started_at=1_699_999_998.0,
        ends_at=1_700_000_058.0,
        octets=1_048_576,
        version=6,
        processes=(ProcessTrace(process="iked", running=True, records=2, ended_because="60 s are over"),),
    ),
)

GATEWAY_STATUS = replace(FIFTH_STATUS, tunnels=(replace(FIFTH_STATUS.tunnels[0], rate_kbps=8_000),))

EVENT_PAGE = EventPage(
    events=(
        Event(
            sequence=7,
            time=1_700_000_000.125,
            code="ike.no-proposal",
            severity=Severity.ERROR,
            message="No IKE proposal matches: wählen Sie andere",
            tunnel_id=TUNNEL_ID,
            received="aes-128-cbc",
            configured="aes-256-gcm-16",
            field="ike.proposals",
            attributes={"peer": "198.51.100.2"},
        ),
    ),
    oldest=3,
    last=7,
)

ACTION = Action(id="9b1c", verb=Verb.REKEY_CHILD, tunnel_id=TUNNEL_ID)
ACTION_RESULT = ActionResult(id="9b1c", accepted=True, message="rekeying")
SIGNED_REQUEST = SignedRequest(
    request=EnrolmentRequest(
        token_id="0123456789abcdef",
        csr_pem="-----BEGIN CERTIFICATE REQUEST-----\n",
        agent_version="0.1.0",
        hostname="paris",
        agent_port=8470,
    ),
    proof="aa" * 32,
)
SIGNED_GRANT = SignedGrant(
    grant=EnrolmentGrant(gateway_id=GATEWAY_ID, gateway_name="paris", certificate_pem="cert\n", fleet_ca_pem="ca\n"),
    proof="bb" * 32,
)

GOLDEN: dict[str, object] = {
    "gateway-document-v5": GATEWAY_DOCUMENT,
    "gateway-status-v6": GATEWAY_STATUS,
    "event-page-v1": EVENT_PAGE,
    "action-v1": ACTION,
    "action-result-v1": ACTION_RESULT,
    "signed-request-v1": SIGNED_REQUEST,
    "signed-grant-v1": SIGNED_GRANT,
}
"""Golden file name to the value it holds in the present schemas. A file stays for ever; a new schema adds one."""

EARLIER: dict[str, object] = {
    "gateway-document-v1": FIRST_DOCUMENT,
    "gateway-status-v1": replace(FIRST_STATUS, schema=1),
    "gateway-document-v2": SECOND_DOCUMENT,
    "gateway-status-v2": replace(SECOND_STATUS, schema=2),
    "gateway-document-v3": THIRD_DOCUMENT,
    "gateway-document-v4": FOURTH_DOCUMENT,
    "gateway-status-v3": replace(THIRD_STATUS, schema=3),
    "gateway-status-v4": replace(FOURTH_STATUS, schema=4),
    "gateway-status-v5": replace(FIFTH_STATUS, schema=5),
}
"""Golden files of earlier schemas to what they are read as today."""
