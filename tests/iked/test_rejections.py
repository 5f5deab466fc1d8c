"""Refused packets: every one counted once, few events, none missing from them; the gateway's own counts."""

from __future__ import annotations

import dataclasses

import pytest

from agents.contract.secret import Secret
from agents.contract.status import Counters, NamedCount, Rejections
from agents.dataplane.base import AuthenticationHeader, Direction, SaSpec, SaState
from agents.ike.outputs import Report
from agents.iked.ipsec_counts import IpsecCounts
from agents.iked.rejections import EVERY_S, Refused, RejectionReports
from agents.iked.traffic import Traffic

from .cast import sa

IN, OUT = Direction.IN, Direction.OUT


def state(spec: SaSpec, rejected: Rejections) -> SaState:
    return SaState(
        id=spec.id,
        tunnel_id=spec.tunnel_id,
        direction=spec.direction,
        reqid=spec.reqid,
        counters=Counters(),
        rejected=rejected,
    )


@pytest.mark.parametrize("count_first", [True, False])
def test_a_count_and_a_notice_of_the_same_packets_are_one(count_first: bool) -> None:
    traffic, inbound = Traffic(), sa(IN, 1)
    traffic.started(inbound, 1, "net")
    for count in (count_first, not count_first):
        if count:
            traffic.update([state(inbound, Rejections(integrity=4))])
        else:
            assert traffic.noticed(inbound.id, "esp.integrity", 4)
    assert [(each.code, each.count) for each in traffic.take_refused()] == [("esp.integrity", 4)]
    assert traffic.take_refused() == []
    traffic.ended(inbound.id)
    assert traffic.totals()["t"].rejected == traffic.by_child()["t", "net"].rejected == Rejections(integrity=4)


def test_a_notice_about_nothing_of_ours_is_told_apart() -> None:
    traffic, inbound = Traffic(), sa(IN, 1)
    assert not traffic.noticed(inbound.id, "esp.integrity", 1)
    traffic.started(inbound, 1)
    assert not traffic.noticed(inbound.id, "esp.no-sa", 1)


def test_few_events_hold_every_packet() -> None:
    told: list[Report] = []
    now = 100.0
    reports = RejectionReports(told.append, lambda: now)
    inbound = sa(IN, 0xC0000001)
    for _ in range(50):
        reports.add(Refused(code="esp.replay", count=2, sa=inbound.id, spec=inbound))
    reports.flush()
    assert [each.attributes["count"] for each in told] == ["2"]
    now += EVERY_S
    reports.flush()
    assert [each.attributes["count"] for each in told] == ["2", "98"]
    assert told[1].message == "98 ESP packets refused: repeated packet"
    assert told[1].tunnel_id == "t"
    now += EVERY_S
    reports.flush()
    assert len(told) == 2
    assert reports._flows == {}


def test_kinds_and_tunnels_do_not_wait_for_each_other() -> None:
    told: list[Report] = []
    reports = RejectionReports(told.append, lambda: 0.0)
    for tunnel_id in ("a", "b"):
        spec = sa(IN, 1, tunnel_id=tunnel_id)
        for code in ("esp.late", "esp.mode"):
            reports.add(Refused(code=code, count=1, sa=spec.id, spec=spec))
    reports.add(Refused(code="esp.no-sa", count=3))
    assert len(told) == 5
    assert "received in transport mode where tunnel mode is expected" in told[1].message
    assert (told[4].tunnel_id, told[4].message) == (None, "3 IPsec packets refused: no inbound SA found")


def with_ah(spec: SaSpec, *, alone: bool) -> SaSpec:
    header = AuthenticationHeader(spi=spec.spi, integrity="hmac-sha1-96", key=Secret(bytes(20)))
    return dataclasses.replace(spec, ah=header, encryption=None if alone else spec.encryption)


def counts(counted: IpsecCounts) -> dict[str, int]:
    return {each.name: each.count for each in counted.named()}


def test_packets_are_counted_by_protocol() -> None:
    counted = IpsecCounts()
    for spec in (sa(IN, 1), with_ah(sa(IN, 2), alone=True), with_ah(sa(IN, 3), alone=False)):
        counted.passed(spec, Counters(packets_in=1), Counters(packets_in=4, bytes_in=30))
        counted.refused(spec, "integrity", 1)
    found = counts(counted)
    assert (found["packets.in"], found["bytes.in"], found["esp.in"], found["ah.in"]) == (9, 90, 6, 6)
    assert (found["rejected.integrity"], found["esp.rejected.integrity"], found["ah.rejected.integrity"]) == (3, 1, 2)


def test_pairs_of_sas_are_counted_as_they_come_and_go() -> None:
    traffic, specs = Traffic(), [sa(way, spi) for spi, way in ((1, IN), (2, OUT), (3, IN))]
    for spec in specs:
        traffic.started(spec, spec.spi)
    traffic.expired(specs[0].id)
    for spec in specs:
        traffic.ended(spec.id)
    found = counts(traffic.ipsec)
    assert (found["sa.added"], found["sa.expired"], found["sa.deleted"]) == (2, 1, 1)


def test_the_data_planes_counts_are_taken_from_where_this_run_began() -> None:
    counted = IpsecCounts()

    def say(no_sa: int, no_policy: int) -> None:
        counted.plane((NamedCount(name="esp.no-sa", count=no_sa), NamedCount(name="out.no-policy", count=no_policy)))

    say(100, 10)
    assert counts(counted) == {}
    say(103, 10)
    assert counts(counted) == {"no-sa": 3, "dropped.in": 3}
    say(2, 1)  # another process
    assert counts(counted) == {"no-sa": 5, "dropped.in": 5, "dropped.out": 1, "out.no-policy": 1}
    counted.plane_changed()
    counted.plane((NamedCount(name="XfrmInNoStates", count=50),))
    counted.plane((NamedCount(name="XfrmInNoStates", count=51),))
    assert counts(counted)["no-sa"] == 6
