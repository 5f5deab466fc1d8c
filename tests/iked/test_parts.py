"""The parts of ``iked``: which a document needs, how each is told to be, whose log tells of what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from agents.contract.config import AuthKind, GatewayDocument, IkeVersion, RemoteAuthentication
from agents.contract.events import KINDS
from agents.contract.status import ComponentHealth, TunnelState, TunnelStatus
from agents.ike.machine import Load
from agents.ike.outputs import Report
from agents.iked import parts
from agents.iked.parts import Parts, part_of
from agents.runtime.log_levels import PARTS

from .cast import document, tunnel
from .test_daemon_v1 import end

V2 = tunnel("two", "192.0.2.1", "192.0.2.2")
V1 = dataclasses.replace(end("alpha"), name="one")
EITHER = dataclasses.replace(V1, id=V2.id, name="either", version=IkeVersion.V2_ELSE_V1)
CERTIFIED = dataclasses.replace(V2, remote_auth=RemoteAuthentication(kind=AuthKind.CERTIFICATE))
IDLE = {"ike_sas": 0, "half_open": 0, "children": 0, "bugs": 0}


def needing(*tunnels: object) -> GatewayDocument:
    made = document("alpha", [], [])
    object.__setattr__(made, "tunnels", tunnels)  # a document with certificates, but without trust anchors
    return made


@pytest.mark.parametrize(
    ("tunnels", "wanted"),
    [
        ((), {"tunnels"}),
        ((V2,), {"v2", "tunnels"}),
        ((V1,), {"v1", "tunnels"}),
        ((V1, V2), {"router", "v1", "v2", "tunnels"}),
        ((EITHER,), {"router", "v1", "v2", "tunnels"}),
        ((CERTIFIED,), {"v2", "credentials", "tunnels"}),
    ],
)
def test_only_what_the_document_needs_is_there(tunnels: tuple[object, ...], wanted: set[str]) -> None:
    assert set(parts.needed(needing(*tunnels))) == {f"iked.{name}" for name in wanted}


def test_without_a_document_nothing_is_needed() -> None:
    assert parts.needed(None) == ()


def told(
    *tunnels: object,
    loads: tuple[Load, ...] = (),
    statuses: tuple[TunnelStatus, ...] = (),
    credentials: Callable[[], tuple[bool, str]] = lambda: (True, "certificates: none"),
    problems: tuple[str, ...] = (),
) -> dict[str, ComponentHealth]:
    made = Parts(lambda: 1_700_000_000.0)
    made.configure(needing(*tunnels))
    return {each.name: each for each in made.report(loads, statuses, credentials, problems)}


def test_a_machine_says_what_it_has() -> None:
    busy = Load(version="v1", tunnels=3, ike_sas=2, half_open=1, children=4, bugs=0)
    one = Load(version="v2", tunnels=1, **(IDLE | {"ike_sas": 1, "children": 1}))
    found = told(V1, V2, loads=(busy, one))
    assert found["iked.v1"].detail == "3 tunnels, 2 IKE SAs, 4 pairs of IPsec SAs; 1 half open"
    assert found["iked.v2"].detail == "1 tunnel, 1 IKE SA, 1 pair of IPsec SAs"
    assert found["iked.router"].detail == "tunnels: 1 v1, 1 v2"
    assert all(each.healthy and each.version and each.pid for each in found.values())
    assert {each.started_at for each in found.values()} == {1_700_000_000.0}
    assert {each.log_level for each in found.values()} <= {"none", "errors", "events", "information", "debug"}


def test_a_bug_makes_its_machine_unhealthy_and_no_other() -> None:
    found = told(
        V1,
        V2,
        loads=(Load(version="v1", tunnels=1, **(IDLE | {"bugs": 2})), Load(version="v2", tunnels=1, **IDLE)),
    )
    assert not found["iked.v1"].healthy
    assert found["iked.v1"].detail.endswith("2 bugs met (ike.bug)")
    assert found["iked.v2"].healthy


def test_tunnels_are_told_by_state_and_without_a_data_plane_are_not_well() -> None:
    states = (TunnelState.UP, TunnelState.UP, TunnelState.DOWN)
    statuses = tuple(TunnelStatus(id="x", name="x", state=each, since=0.0) for each in states)
    assert told(V2, statuses=statuses)["iked.tunnels"].detail == "3 tunnels: 2 up, 1 down"
    lost = told(V2, problems=("espd is away",))["iked.tunnels"]
    assert (lost.healthy, lost.detail) == (False, "0 tunnels; espd is away")


def test_credentials_say_themselves_how_they_are() -> None:
    found = told(CERTIFIED, credentials=lambda: (False, "certificates: 1 own; expired"))["iked.credentials"]
    assert (found.healthy, found.detail) == (False, "certificates: 1 own; expired")


def test_a_part_is_there_since_it_is_needed() -> None:
    moments = iter((1.0, 2.0, 3.0, 4.0))
    made = Parts(lambda: next(moments))
    for tunnels in ((V2,), (V1, V2), (V2,), (V1, V2)):
        made.configure(needing(*tunnels))
    since = {each.name: each.started_at for each in made.report((), (), lambda: (True, ""), ())}
    assert since == {"iked.router": 4.0, "iked.v1": 4.0, "iked.v2": 1.0, "iked.tunnels": 1.0}


@pytest.mark.parametrize(
    ("code", "attributes", "part"),
    [
        ("ikev1.psk-mismatch", {}, "v1"),
        ("ike.initiate", {"ike_sa": "x", "version": "v1"}, "v1"),
        ("ike.initiate", {"ike_sa": "x"}, "v2"),
        ("child.established", {"ike_sa": "x"}, "v2"),
        ("ike.bug", {"place": "x", "version": "v2"}, "v2"),
        ("ike.key-missing", {}, "credentials"),
        ("ike.certificate-revoked", {"ike_sa": "x"}, "credentials"),
        ("drop.version", {}, "router"),
        ("wire.header", {}, "router"),
        ("ike.version-fallback", {}, "tunnels"),
        ("agent.data-plane", {}, "tunnels"),
        ("esp.replay", {}, "tunnels"),
    ],
)
def test_each_event_is_in_one_parts_log(code: str, attributes: dict[str, str], part: str) -> None:
    assert code in KINDS
    assert part_of(Report(code=code, message="", attributes=attributes)) == f"iked.{part}"


def test_every_event_has_a_log() -> None:
    assert {part_of(Report(code=code, message="")) for code in KINDS} <= set(PARTS)
