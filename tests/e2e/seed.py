"""A console with a bit of everything: tunnels in every state, as their gateways would have reported them.

Intent is made by the services, documents by the real compiler, observations by the real poll out of
statuses written here.
"""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db.models import F
from django.utils import timezone

from agents.contract import status as contract
from agents.contract.events import KINDS, Event
from agents.contract.status import TunnelState
from tests.console import cast
from tests.e2e import seed_kinds
from vpnconsole.accounts.access import Access, set_access
from vpnconsole.accounts.models import User
from vpnconsole.accounts.services import create_api_token, create_first_user, create_user
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling
from vpnconsole.monitor.models import (
    ActionJob,
    CounterSample,
    GatewayObservation,
    StopJob,
    TraceJob,
    TunnelObservation,
)
from vpnconsole.rollout import delivery as rollout_delivery
from vpnconsole.rollout import services as rollout
from vpnconsole.rollout.models import Delivery, Revision
from vpnconsole.vpn import keys
from vpnconsole.vpn.inputs import EndInput, SelectorInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, Tunnel
from vpnconsole.vpn.services import create_tunnel, set_enabled

USERNAME, PASSWORD = "alice", "seven-copper-lanterns"
BOOT = "0f5a4b52-8a3f-4a55-9d5e-6a0e8b3c7d11"
SILENT_FOR = timedelta(minutes=7)
"""How long ago the gateway that fell silent was heard."""


def seed() -> User:
    """Fill the database and return the user to log in as."""
    alice = create_first_user(username=USERNAME, password=PASSWORD)
    create_api_token(alice, alice, "monitoring")
    _people(alice)
    gateways = _gateways()
    tunnels = _tunnels(gateways)
    deployment = rollout.deploy(
        alice, [gateways["paris"].pk, gateways["lyon"].pk, gateways["madrid"].pk], "first roll-out"
    )
    for row in deployment.deliveries.all():
        rollout_delivery.compile_delivery(row.pk)
    _report(
        gateways["paris"],
        tunnels,
        ("paris-lyon", "paris-extranet", "paris-madrid", "paris-lyon-voice", "paris-lyon-trap", "paris-aix"),
    )
    _report(gateways["lyon"], tunnels, ("paris-lyon", "paris-lyon-voice", "paris-lyon-trap", "lyon-pbx"))
    _report(gateways["madrid"], tunnels, ("paris-madrid",))
    _not_stopped(alice, gateways["madrid"], tunnels["paris-madrid"])
    Delivery.objects.filter(deployment=deployment).update(
        state="applied", step="In force", percent=100, attempts=1, finished_at=timezone.now()
    )
    _refuse(gateways["madrid"])
    _history(tunnels["paris-lyon"], gateways["paris"])
    set_enabled(alice, tunnels["paris-lyon-old"], False)
    cast.make_tunnel(
        gateways["lyon"],
        gateways["extranet"],
        keys.generate_psk(alice, name="lyon-extranet"),
        description="not deployed yet",
    )
    ActionJob.objects.create(
        tunnel=tunnels["paris-lyon"],
        gateway=gateways["paris"],
        verb="rekey-child",
        requested_by=alice,
        state="accepted",
        message="rekey of pair-1 started",
    )
    advance()
    return alice


def _people(alice: User) -> None:
    """Make an operator who may capture, and one who may not log in any more."""
    for name, capture, active in (("bob", True, True), ("charlie", False, False)):
        user = create_user(alice, username=name, password=f"{name}-{PASSWORD}")
        set_access(alice, user, Access(administrator=False, capture=capture, active=active))


def advance() -> list[object]:
    """Let a second's worth of traffic pass and be read where the gateway is in reach; return the tunnels.

    A silent gateway stays silent for as long as it was: what depends on that is the same at the end of a long run.
    """
    now = timezone.now()
    silent = GatewayObservation.objects.filter(reachable=False, read_at__isnull=False)
    silent.update(read_at=now - SILENT_FOR, reachable_since=now - SILENT_FOR)
    TunnelObservation.objects.filter(gateway__observation__in=silent).update(read_at=now - SILENT_FOR)
    GatewayObservation.objects.filter(reachable=True).update(read_at=now)
    heard = TunnelObservation.objects.filter(gateway__observation__reachable=True)
    heard.update(read_at=now)
    heard.filter(state="up").update(
        bytes_in=F("bytes_in") + 476_500,
        bytes_out=F("bytes_out") + 1_775_125,
        packets_in=F("packets_in") + 520,
        packets_out=F("packets_out") + 1_350,
    )
    return list(heard.values_list("tunnel_id", flat=True))


def _gateways() -> dict[str, Gateway]:
    made = {
        "paris": cast.make_gateway(
            "paris", "192.0.2.1", "10.1.0.0/24", "10.1.64.0/20", description="head office", agent_host="10.0.0.11"
        ),
        "lyon": cast.make_gateway("lyon", "198.51.100.1", "10.2.0.0/24", description="plant", agent_host="10.0.0.12"),
        "madrid": cast.make_gateway("madrid", "203.0.113.40", "10.3.0.0/24", agent_host="10.0.0.13"),
        "berlin": cast.make_gateway("berlin", "203.0.113.50", "10.4.0.0/24"),
        "extranet": cast.make_extranet(),
        "aix": cast.make_gateway("aix", "203.0.113.60", "10.5.0.0/24", kind="extranet", profile="aix"),
        "pbx": cast.make_gateway("pbx", "203.0.113.61", "10.6.0.0/24", kind="extranet", profile="omnipcx-office"),
    }
    for name in ("paris", "lyon", "madrid"):
        Gateway.objects.filter(pk=made[name].pk).update(
            enrolled_at=timezone.now() - timedelta(days=12), agent_version="0.1.0"
        )
        made[name].refresh_from_db()
    return made


def _tunnels(gateways: dict[str, Gateway]) -> dict[str, Tunnel]:
    paris, lyon, madrid, extranet = (gateways[name] for name in ("paris", "lyon", "madrid", "extranet"))
    compatible = IPsecPolicy.objects.get(name="compatible")
    made = [
        cast.make_tunnel(paris, lyon, description="office to plant"),
        cast.make_tunnel(paris, extranet, description="partner"),
        cast.make_tunnel(paris, madrid),
        _second(
            paris,
            lyon,
            "paris-lyon-voice",
            SelectorInput(network_a="10.1.80.0/24", network_b="10.2.80.0/24"),
            SelectorInput(network_a="10.1.81.0/24", network_b="10.2.81.0/24", ipsec_policy=compatible),
        ),
        _second(paris, lyon, "paris-lyon-trap", SelectorInput(network_a="10.1.90.0/24", network_b="10.2.90.0/24")),
        _second(paris, lyon, "paris-lyon-old", SelectorInput(network_a="10.1.99.0/24", network_b="10.2.99.0/24")),
        _old(paris, gateways["aix"], "payroll"),
        _old(lyon, gateways["pbx"], "telephone exchange"),
        *seed_kinds.tunnels(paris, lyon, extranet),
    ]
    return {row.name: row for row in made}


def _old(a: Gateway, b: Gateway, description: str) -> Tunnel:
    """Return a tunnel that speaks IKEv1."""
    policies = {
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }
    return cast.make_tunnel(a, b, description=description, version="v1", **policies)


def _second(a: Gateway, b: Gateway, name: str, *pairs: SelectorInput) -> Tunnel:
    ends = [
        EndInput(
            gateway=gateway,
            address=gateway.addresses.all()[0].address,
            identity_type="fqdn",
            identity_value=f"{name}.{gateway.name}",
        )
        for gateway in (a, b)
    ]
    data = dataclasses.replace(
        cast.tunnel_input(a, b, keys.generate_psk(None, name=name)),
        name=name,
        end_a=ends[0],
        end_b=ends[1],
        selectors=pairs,
    )
    return create_tunnel(None, data)


def _sa(pair: int, local: str, remote: str, since: float, group: str) -> contract.ChildSaStatus:
    counters = contract.Counters(
        bytes_in=648_213_991, bytes_out=1_391_222_118, packets_in=751_204, packets_out=1_300_112
    )
    return contract.ChildSaStatus(
        spi_in=f"c0ffee{pair:02x}",
        spi_out=f"deadbe{pair:02x}",
        encryption="aes-256-gcm-16",
        integrity=None,
        group=group,
        udp_encapsulation=True,
        local_ts=(local,),
        remote_ts=(remote,),
        installed_at=since,
        rekey_at=since + 3000,
        expires_at=since + 3600,
        counters=counters,
        rejected=contract.Rejections(replayed=3, late=41) if pair == 1 else contract.NO_REJECTIONS,
    )


_IKEV1: dict[str, Any] = {
    "version": "v1",
    "exchange_mode": "main",
    "encryption": "aes-256-cbc",
    "integrity": "hmac-sha2-256-128",
    "prf": "prf-hmac-sha2-256",
    "group": "group-14",
    "additional_key_exchanges": (),
    "fragmentation": False,
    "mobike": False,
}
_PARTS = (
    ("agentd", None),
    ("iked", "info"),
    ("iked.router", "info"),
    ("iked.v1", "debug"),
    ("iked.v2", "info"),
    ("iked.credentials", "info"),
    ("iked.tunnels", "info"),
    ("espd", "warning"),
)


def _status(tunnel: Tunnel, here: str) -> contract.TunnelStatus:
    """Return what the gateway ``here`` says of a tunnel, by the tunnel's name."""
    state = {
        "paris-lyon": TunnelState.UP,
        "paris-extranet": TunnelState.DOWN,
        "paris-madrid": TunnelState.UP,
        "paris-lyon-voice": TunnelState.PARTLY_UP,
        "paris-lyon-trap": TunnelState.IDLE,
        "paris-aix": TunnelState.UP,
        "lyon-pbx": TunnelState.DOWN,
    }[tunnel.name]
    since = time.time() - 700
    here_end, there_end = (
        (tunnel.end_a, tunnel.end_b) if tunnel.end_a.gateway.name == here else (tunnel.end_b, tunnel.end_a)
    )
    alive = state in (TunnelState.UP, TunnelState.PARTLY_UP)
    ike = contract.IkeSaStatus(
        spi_i="6f1c2a9be0d44312",
        spi_r="a91f03b2c7714e05",
        initiator=here == "paris",
        state="established",
        local=f"{here_end.address}:4500",
        remote=f"{there_end.address}:4500",
        nat_local=False,
        nat_remote=here == "paris",
        encryption="aes-256-gcm-16",
        integrity=None,
        prf="prf-hmac-sha2-384",
        group="group-31",
        established_at=since,
        rekey_at=since + 80_000,
        additional_key_exchanges=("ml-kem-768",),
        local_auth="psk",
        remote_auth="psk",
        remote_identity=f"ipv4 {there_end.address}",
        fragmentation=True,
        mobike=True,
    )
    if tunnel.version == "v1":
        ike = dataclasses.replace(ike, **_IKEV1)
    children = tuple(
        contract.ChildStatus(
            name=f"pair-{pair.seq}",
            up=alive and (state is TunnelState.UP or pair.seq == 1),
            sas=(_sa(pair.seq, pair.network_a, pair.network_b, since, ike.group),)
            if alive and (state is TunnelState.UP or pair.seq == 1)
            else (),
            counters=_EVER if alive else contract.Counters(),
            rejected=_REFUSED if alive else contract.NO_REJECTIONS,
        )
        for pair in tunnel.selectors.all()
    )
    reason = None
    if state is TunnelState.DOWN:
        reason = contract.Reason(
            code="ike.peer-refused-proposal",
            message=KINDS["ike.peer-refused-proposal"].summary,
            received="NO_PROPOSAL_CHOSEN",
            configured="aes-256-gcm-16/prf-hmac-sha2-384/group-31",
            field="ike.proposals",
        )
    if tunnel.name == "lyon-pbx":
        reason = contract.Reason(
            code="ikev1.exchange-mode-mismatch",
            message=KINDS["ikev1.exchange-mode-mismatch"].summary,
            received="aggressive-mode",
            configured="main-mode",
            field="ike.exchange_mode",
        )
    if state is TunnelState.PARTLY_UP:
        reason = contract.Reason(
            code="child.ts-unacceptable", message=KINDS["child.ts-unacceptable"].summary, field="children.local_ts"
        )
    return contract.TunnelStatus(
        id=str(tunnel.pk),
        name=tunnel.name,
        state=state,
        since=since,
        reason=reason,
        ike_sas=(ike,) if alive else (),
        children=children,
        counters=contract.Counters(
            bytes_in=648_213_991, bytes_out=1_391_222_118, packets_in=751_204, packets_out=1_300_112
        ),
        interface=f"vpn{str(tunnel.pk)[:8]}",
        rejected=_REFUSED if alive else contract.NO_REJECTIONS,
        queues=_QUEUES if tunnel.name == "paris-lyon" else (),
        rate_kbps=8_000 if tunnel.name == "paris-lyon" else None,
        filter=_FILTER if alive else None,
    )


_EVER = contract.Counters(
    bytes_in=91_648_213_991, bytes_out=204_391_222_118, packets_in=104_751_204, packets_out=187_300_112
)
_REFUSED = contract.Rejections(integrity=2, replayed=118, late=4_807, selectors=9)
_FILTER = contract.FilterCounters(admitted_ike=1_204, admitted_ipsec=7_512_044, dropped_clear=17, dropped_leaving=5)
_QUEUES = tuple(
    contract.QueueStatus(queue=queue, packets=packets, bytes=packets * 900, dropped_packets=dropped, depth_packets=wait)
    for queue, (packets, dropped, wait) in enumerate(
        ((84_112, 0, 0), (12_007, 0, 0), (901_220, 14, 2), (1_300_114, 20_481, 96))
    )
)


def _routes(tunnels: dict[str, Tunnel], names: Sequence[str]) -> tuple[contract.RouteRecord, ...]:
    """Return what a ledger holds of the first of these tunnels: by selector, static, and one that is gone."""
    tunnel = tunnels[names[0]]
    values: dict[str, Any] = {
        "interface": f"vpn{str(tunnel.pk)[:8]}",
        "gateway": None,
        "context": "local",
        "cost": 5,
        "tunnel_id": str(tunnel.pk),
    }
    now = time.time()
    return (
        contract.RouteRecord(
            network="10.2.0.0/24", child="pair-1", spis=("c0ffee01",), cause="selector", since=now - 690, **values
        ),
        contract.RouteRecord(network="10.20.0.0/16", child=None, spis=(), cause="static", since=now - 86_400, **values),
        contract.RouteRecord(
            network="10.2.0.0/24", child="pair-1", spis=("c0ffee00",), cause="selector", since=now - 9_000,
            until=now - 700, **values,
        ),
    )  # fmt: skip


def _captures(tunnels: dict[str, Tunnel], names: Sequence[str]) -> tuple[contract.CaptureStatus, ...]:
    key = str(tunnels[names[0]].pk)
    return (
        contract.CaptureStatus(
            id=str(uuid.uuid4()), tunnel_id=key, view="outer", running=False, started_at=time.time() - 1_900,
            packets=8_812, octets=7_340_032, ended_because="the size limit of 8388608 octets",
        ),
        contract.CaptureStatus(
            id=str(uuid.uuid4()), tunnel_id=key, view="inner", running=True, started_at=time.time() - 20, packets=1,
            octets=1_204,
        ),
    )  # fmt: skip


def _not_stopped(alice: User, gateway: Gateway, tunnel: Tunnel) -> None:
    """Let somebody have tried to end the capture that runs on a gateway which does not answer."""
    told = GatewayObservation.objects.get(pk=gateway.pk).status or {}
    (capture,) = [each["id"] for each in told["captures"] if each["running"]]
    message = f"{gateway.agent_host}:{gateway.agent_port}: No route to host"
    StopJob.objects.create(
        gateway=gateway, tunnel=tunnel, target=capture, requested_by=alice, state="failed", message=message
    )


def _trace(gateway: Gateway) -> contract.TraceStatus:
    """Return a trace that runs; at paris somebody ordered it here, and one process has enough."""
    asked = {"categories": ["error", "tunnel", "tunnel-information"], "seconds": 900, "octets": 1024 * 1024}
    alice = User.objects.get(username=USERNAME)
    began = time.time() - (515 if gateway.name == "madrid" else 95)
    job = TraceJob(gateway=gateway, requested_by=alice, state="accepted", version=4, **asked)
    if gateway.name == "paris":
        job.save()
        message = "A trace is running on this gateway already: stop it first."
        TraceJob.objects.create(gateway=gateway, requested_by=alice, state="failed", message=message, **asked)
    counts = {"agentd": (True, 14, ""), "iked": (True, 1_322, ""), "espd": (False, 9_804, "its octets are full")}
    return contract.TraceStatus(
        id=str(job.pk),
        categories=tuple(job.categories),
        started_at=began,
        ends_at=began + job.seconds,
        octets=job.octets,
        version=job.version,
        processes=tuple(
            contract.ProcessTrace(process=name, running=running, records=records, ended_because=why)
            for name, (running, records, why) in counts.items()
        ),
    )


_IPSEC = {
    "bytes.in": 91_648_213_991, "bytes.out": 204_391_222_118, "packets.in": 104_751_204, "packets.out": 187_300_112,
    "esp.in": 104_751_204, "esp.out": 187_300_112, "dropped.in": 4_951, "dropped.out": 20_511, "no-sa": 15,
    "out.no-policy": 16, "sa.added": 4_410, "sa.expired": 3, "sa.deleted": 4_405, "rejected.integrity": 2,
    "rejected.replayed": 118, "rejected.late": 4_807, "rejected.selectors": 9, "esp.rejected.integrity": 2,
    "esp.rejected.replayed": 118, "esp.rejected.late": 4_807, "esp.rejected.selectors": 9,
}  # fmt: skip
_PLANE = {"esp.integrity": 2, "esp.late": 4_807, "esp.no-sa": 15, "esp.policy": 9, "out.no-policy": 16}


def _named(counts: dict[str, int]) -> tuple[contract.NamedCount, ...]:
    return tuple(contract.NamedCount(name=name, count=count) for name, count in counts.items())


def _report(gateway: Gateway, tunnels: dict[str, Tunnel], names: Sequence[str]) -> None:
    revision = Revision.objects.filter(gateway=gateway).latest("generation")
    status = contract.GatewayStatus(
        gateway_id=str(gateway.pk),
        agent_version="0.1.0",
        boot_id=BOOT,
        observed_at=time.time(),
        accepted_generation=revision.generation,
        accepted_digest=revision.digest,
        applied_generation=revision.generation,
        data_plane=contract.DataPlaneStatus(
            driver="userspace", reason="the kernel refused an XFRM state: protocol not supported"
        ),
        components=tuple(
            contract.ComponentHealth(
                name=name, healthy=True, version="0.1.0", pid=4000, started_at=time.time() - 86_000, log_level=level
            )
            for name, level in _PARTS
        ),
        tunnels=(
            *(_status(tunnels[name], gateway.name) for name in names),
            *seed_kinds.statuses(tunnels, gateway.name),
        ),
        exchanges=tuple(
            contract.ExchangeCounters(
                exchange=name,
                requests_in=21,
                requests_out=1_408,
                responses_in=1_401,
                responses_out=21,
                retransmissions_out=9,
                refused=refused,
            )
            for name, refused in (("ike-sa-init", 3), ("ike-auth", 1), ("create-child-sa", 0), ("informational", 0))
        ),
        last_event=30,
        route_ledger=_routes(tunnels, names),
        captures=_captures(tunnels, names),
        trace=_trace(gateway),
        data_plane_counts=_named(_PLANE),
        ipsec_counts=_named(_IPSEC),
    )
    observation, _ = GatewayObservation.objects.get_or_create(gateway=gateway)
    journal = polling._Journal(epoch=0, events=tuple(_events(gateway.name, tunnels)), last=30, missed=0)
    polling._record_success(observation, status, journal)
    TunnelObservation.objects.filter(gateway=gateway, state="up").update(
        rate_in_bps=3_812_000.0, rate_out_bps=14_201_000.0
    )


def _events(here: str, tunnels: dict[str, Tunnel]) -> list[Event]:
    rows: list[tuple[str, str | None, str | None, str | None]] = [
        ("agent.started", None, None, None),
        ("agent.config-accepted", None, None, None),
        ("agent.config-applied", None, None, None),
        ("agent.data-plane", None, None, None),
        ("agent.route-added", "paris-madrid" if here == "madrid" else "paris-lyon", None, None),
    ]
    if here == "paris":
        rows.append(
            (
                "ike.peer-refused-proposal",
                "paris-extranet",
                "NO_PROPOSAL_CHOSEN",
                "aes-256-gcm-16/prf-hmac-sha2-384/group-31",
            )
        )
    elif here == "lyon":
        rows.append(("ikev1.exchange-mode-mismatch", "lyon-pbx", "aggressive-mode", "main-mode"))
    else:
        rows.append(("esp.replay", "paris-madrid" if here == "madrid" else "paris-lyon", None, None))
    return [*_told(rows, tunnels), *_negotiated(here, tunnels, len(rows))]


def _negotiated(here: str, tunnels: dict[str, Tunnel], told: int) -> list[Event]:
    """Return the steps of one negotiation that came to its end and, at paris, of one that was refused."""
    in_place = ("ike.sa-established", "child.established", "child.installed", "child.policies-installed")
    asked = ("ike.initiate", "ike.sa-requested", "child.requested")
    role = "initiator" if here == "paris" else "responder"
    rows = [("paris-lyon", code) for code in ((*asked, *in_place) if here == "paris" else in_place)]
    if here == "paris":
        rows += [("paris-extranet", code) for code in (*asked[:2], "ike.sa-failed")]
    if here == "madrid":
        return []
    if here == "paris":
        rows += [("paris-aix", code) for code in (*asked, *in_place)]
    return [
        Event(
            sequence=told + number,
            time=time.time() - 640 + 0.013 * number,
            code=code,
            severity=KINDS[code].severity,
            message=KINDS[code].summary,
            tunnel_id=str(tunnels[name].pk),
            attributes={"role": role} | ({"cause": "ike.peer-refused-proposal"} if code == "ike.sa-failed" else {}),
        )
        for number, (name, code) in enumerate(rows, 1)
    ]


def _told(rows: list[tuple[str, str | None, str | None, str | None]], tunnels: dict[str, Tunnel]) -> list[Event]:
    return [
        Event(
            sequence=number,
            time=time.time() - 900 + 40 * number,
            code=code,
            severity=KINDS[code].severity,
            message=KINDS[code].summary,
            tunnel_id=str(tunnels[name].pk) if name else None,
            received=received,
            configured=configured,
        )
        for number, (code, name, received, configured) in enumerate(rows, 1)
    ]


def _refuse(gateway: Gateway) -> None:
    """Let a gateway refuse a second deployment and then fall silent."""
    row = Delivery.objects.get(gateway=gateway)
    Delivery.objects.filter(pk=row.pk).update(
        state="refused",
        step="Refused by the gateway",
        percent=100,
        attempts=1,
        error="tunnels[0].mtu: must be between 256 and 65535, not 90",
        refused_path="tunnels[0].mtu",
        refused_message="must be between 256 and 65535, not 90",
        finished_at=timezone.now(),
    )
    GatewayObservation.objects.filter(gateway=gateway).update(
        reachable=False,
        reachable_since=timezone.now() - SILENT_FOR,
        read_at=timezone.now() - SILENT_FOR,
        failures=9,
        error="10.0.0.13:8470 refused the connection",
    )
    TunnelObservation.objects.filter(gateway=gateway).update(read_at=timezone.now() - SILENT_FOR)


def _history(tunnel: Tunnel, gateway: Gateway) -> None:
    """Keep an hour of samples with gentle curves that end where the last reading stands."""
    last = CounterSample.objects.filter(tunnel=tunnel, gateway=gateway).latest("at")
    rows: list[CounterSample] = []
    bytes_in, bytes_out = last.bytes_in, last.bytes_out
    for index in range(1, 361):
        bytes_out -= int((1.6e6 + 1.2e6 * math.sin(index / 20)) * 10 / 8)
        bytes_in -= int((0.9e6 + 0.5e6 * math.cos(index / 31)) * 10 / 8)
        rows.append(
            CounterSample(
                tunnel=tunnel,
                gateway=gateway,
                at=last.at - timedelta(seconds=10 * index),
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                packets_in=bytes_in // 900,
                packets_out=bytes_out // 1300,
                rejected=last.rejected - min(index, 60),
            )
        )
    CounterSample.objects.bulk_create(rows)
