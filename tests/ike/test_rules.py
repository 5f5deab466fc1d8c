"""The order of a tunnel's rules: who gets the traffic that two of them protect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import Child, TrafficSelector
from agents.dataplane.base import Direction, PolicySpec
from agents.dataplane.userspace.ip import Flow
from agents.dataplane.userspace.spd import PolicyDatabase
from agents.ike import rules, selectors
from tests.harness.documents import child

_REQIDS = range(1, 65)


def policies(*children: Child) -> list[PolicySpec]:
    """Return every child's policies as a negotiation of exactly what is configured makes them."""
    found: list[PolicySpec] = []
    for reqid, one in zip(_REQIDS, children, strict=False):
        found += narrowed(children, one, reqid)
    return found


def narrowed(
    children: tuple[Child, ...], one: Child, reqid: int, **to: tuple[TrafficSelector, ...]
) -> list[PolicySpec]:
    """Return the policies of a child after narrowing."""
    agreed = replace(one, **to)  # type: ignore[arg-type]
    return list(
        selectors.policies(
            tunnel_id="t",
            reqid=reqid,
            local_address="192.0.2.1",
            remote_address="192.0.2.2",
            local_ts=selectors.to_ranges(agreed.local_ts),
            remote_ts=selectors.to_ranges(agreed.remote_ts),
            place=rules.rank(children, one.name).place,
        )
    )


def taken(specs: list[PolicySpec], source: str, destination: str, protocol: int = 6, port: int = 80) -> int | None:
    """Return the reqid that outbound traffic takes, as the userspace data plane decides it."""
    database = PolicyDatabase()
    for spec in specs:
        database.add(spec)
    flow = Flow(4, _number(source), _number(destination), protocol, 40_000, port)
    policy = database.outbound("t", flow)
    return None if policy is None else policy.reqid


def _number(address: str) -> int:
    octets = [int(each) for each in address.split(".")]
    return int.from_bytes(bytes(octets), "big")


def one(name: str, local: str, remote: str, **more: int) -> Child:
    return replace(
        child(name, (local,), (remote,)),
        local_ts=(TrafficSelector(network=local, protocol=more.get("protocol", 0)),),
        remote_ts=(
            TrafficSelector(
                network=remote,
                protocol=more.get("protocol", 0),
                start_port=more.get("port", 0),
                end_port=more.get("port", 65_535),
            ),
        ),
    )


WIDE = one("wide", "10.1.0.0/16", "0.0.0.0/0")
NARROW = one("narrow", "10.1.1.0/24", "10.2.3.0/24")
WEB = one("web", "10.1.0.0/16", "10.2.0.0/16", protocol=6, port=80)


class TestOrder:
    def test_the_earlier_rule_wins_though_the_later_one_is_more_specific(self) -> None:
        assert taken(policies(WIDE, NARROW), "10.1.1.1", "10.2.3.4") == 1
        assert taken(policies(NARROW, WIDE), "10.1.1.1", "10.2.3.4") == 1
        assert taken(policies(NARROW, WIDE), "10.1.9.1", "10.2.3.4") == 2

    def test_every_one_of_a_chain_comes_behind_the_one_before(self) -> None:
        chain = policies(WIDE, WEB, NARROW)
        assert [spec.priority for spec in chain if spec.direction is Direction.OUT] == sorted(
            {spec.priority for spec in chain}
        )
        assert taken(chain, "10.1.1.1", "10.2.3.4") == 1
        assert taken(policies(WEB, NARROW, WIDE), "10.1.1.1", "10.2.3.4") == 1
        assert taken(policies(WEB, NARROW, WIDE), "10.1.1.1", "10.2.3.4", port=81) == 2
        assert taken(policies(WEB, NARROW, WIDE), "10.1.1.1", "10.9.3.4", port=81) == 3

    def test_both_directions_have_one_priority(self) -> None:
        by_reqid: dict[int, set[int]] = {}
        for spec in policies(WIDE, NARROW):
            by_reqid.setdefault(spec.reqid, set()).add(spec.priority)
        assert [len(each) for each in by_reqid.values()] == [1, 1]

    def test_what_does_not_overlap_keeps_its_specificity(self) -> None:
        """So between tunnels, which share one scale in the kernel, nothing changes."""
        apart = one("apart", "10.7.0.0/24", "10.8.0.0/24")
        udp = one("udp", "10.1.0.0/16", "10.2.0.0/16", protocol=17)
        v6 = one("v6", "fd01::/64", "fd02::/64")
        for first in (WEB, WIDE):
            together = policies(first, apart, v6)
            alone = [replace(spec, reqid=reqid) for reqid, each in ((2, apart), (3, v6)) for spec in policies(each)]
            assert together[2:] == alone
        assert policies(WEB, udp)[2].priority == policies(udp)[0].priority

    def test_an_order_that_specificity_has_already_changes_nothing(self) -> None:
        assert [spec.priority for spec in policies(NARROW, WIDE)] == [
            spec.priority for each in (NARROW, WIDE) for spec in policies(each)
        ]

    def test_a_child_keeps_the_order_among_its_own_policies(self) -> None:
        several = replace(
            NARROW,
            remote_ts=(TrafficSelector(network="10.2.0.0/16"), TrafficSelector(network="10.2.3.0/24")),
        )
        behind = [spec.priority for spec in policies(WIDE, several)[2::2]]
        alone = [spec.priority for spec in policies(several)[::2]]
        assert behind[0] - behind[1] == alone[0] - alone[1] > 0


class TestNarrowing:
    """A peer takes less than is configured: that is more specific, and must not change who wins."""

    HOST = (TrafficSelector(network="10.2.3.4/32"),)

    def test_a_later_rule_that_became_a_host_stays_behind(self) -> None:
        both = (WIDE, NARROW)
        specs = narrowed(both, WIDE, 1) + narrowed(both, NARROW, 2, remote_ts=self.HOST)
        assert taken(specs, "10.1.1.1", "10.2.3.4") == 1

    def test_an_earlier_rule_that_became_a_host_still_wins(self) -> None:
        both = (WIDE, NARROW)
        specs = narrowed(both, WIDE, 1, remote_ts=self.HOST) + narrowed(both, NARROW, 2)
        assert taken(specs, "10.1.1.1", "10.2.3.4") == 1
        assert taken(specs, "10.1.1.1", "10.2.3.5") == 2

    def test_a_rule_in_the_middle_passes_neither_neighbour(self) -> None:
        middle = replace(
            one("middle", "10.1.0.0/16", "10.2.0.0/16"),
            remote_ts=(TrafficSelector(network="10.2.0.0/16"), TrafficSelector(network="10.3.0.0/16")),
        )
        all_three = (WIDE, middle, NARROW)
        specs = (
            narrowed(all_three, WIDE, 1, local_ts=(TrafficSelector(network="10.1.1.9/32"),))
            + narrowed(all_three, middle, 2, remote_ts=(TrafficSelector(network="10.3.0.0/16"), *self.HOST))
            + narrowed(all_three, NARROW, 3)
        )
        assert taken(specs, "10.1.1.9", "10.2.3.4") == 1
        assert taken(specs, "10.1.1.1", "10.2.3.4") == 2
        assert taken(specs, "10.1.1.1", "10.2.3.5") == 3


@pytest.mark.parametrize("count", [1, 64])
def test_a_child_that_is_gone_has_no_rank(count: int) -> None:
    children = tuple(one(f"c{n}", "10.1.0.0/16", "10.2.0.0/16") for n in range(count))
    assert rules.rank(children, "gone") == rules.NO_RANK
    ranks = rules.child_ranks(children)
    assert [each.first for each in ranks[1:]] == [each.last + 1 for each in ranks[:-1]]
