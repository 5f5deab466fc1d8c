"""An access list is edited while the tunnel is up: it takes effect, and no other SA is cleared (FEATURES A12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.carriage import Carriage, DfBit
from agents.contract.config import Child, IkeVersion
from agents.dataplane.base import Direction
from tests.harness import v1
from tests.harness.documents import mirrored
from tests.harness.world import Host

NARROW = v1.child("narrow", ("10.1.1.0/24",), ("10.2.3.0/24",))
WIDE = v1.child("wide", ("10.1.0.0/16",), ("10.2.0.0/16",))
APART = v1.child("apart", ("10.7.0.0/24",), ("10.8.0.0/24",))
VERSIONS = pytest.mark.parametrize("version", [IkeVersion.V1, IkeVersion.V2])


def scene(version: IkeVersion, *children: Child) -> v1.Scene:
    return v1.Scene(version=version, children=children).come_up()


def edit(scene: v1.Scene, *children: Child, seconds: float = 60.0) -> None:
    """Let both ends have other children, one a moment after the other."""
    scene.left.change(children=children)
    scene.right.change(children=tuple(mirrored(each) for each in children))
    scene.lyon.configure(scene.right.document())
    scene.world.run(0.5)
    scene.paris.configure(scene.left.document())
    scene.world.run(seconds)
    scene.check()


def spis(host: Host) -> dict[str, tuple[str, ...]]:
    """Return the inbound SPIs by child."""
    return {child.name: tuple(sa.spi_in for sa in child.sas) for child in host.status().children}


def priorities(host: Host) -> dict[str, int]:
    """Return the priority of each child's outbound policy, by its source."""
    return {
        policy.selector.source: policy.priority
        for policy in host.data_plane.policies
        if policy.direction is Direction.OUT
    }


@VERSIONS
def test_rules_are_in_the_documents_order_in_the_data_plane(version: IkeVersion) -> None:
    for children in ((WIDE, NARROW, APART), (NARROW, WIDE, APART)):
        for host in scene(version, *children).hosts:
            found = priorities(host)
            names = [
                each.local_ts[0].network if host.name == "paris" else each.remote_ts[0].network for each in children
            ]
            assert found[names[0]] < found[names[1]]


@VERSIONS
def test_other_networks_of_one_child_leave_the_others_alone(version: IkeVersion) -> None:
    up = scene(version, WIDE, APART)
    before, since = spis(up.paris), up.paris.status().since
    edit(up, WIDE, replace(APART, remote_ts=v1.child("x", remote=("10.9.0.0/24",)).remote_ts))
    after = spis(up.paris)
    assert after["wide"] == before["wide"]
    assert after["apart"] != before["apart"]
    assert up.paris.status().since >= since
    assert "10.9.0.0/24" in {policy.selector.destination for policy in up.paris.data_plane.policies}


@VERSIONS
def test_a_rule_added_and_one_removed_leave_the_others_alone(version: IkeVersion) -> None:
    up = scene(version, WIDE)
    before = spis(up.paris)
    edit(up, WIDE, APART)
    assert spis(up.paris)["wide"] == before["wide"]
    assert len(spis(up.paris)["apart"]) == 1
    edit(up, WIDE)
    assert spis(up.paris) == before


@VERSIONS
def test_another_order_rekeys_those_that_pass_each_other(version: IkeVersion) -> None:
    up = scene(version, NARROW, WIDE, APART)
    before, deleted = spis(up.paris), up.paris.codes()["child.deleted"]
    edit(up, WIDE, NARROW, APART)
    found = priorities(up.paris)
    assert found["10.1.0.0/16"] < found["10.1.1.0/24"]
    after = spis(up.paris)
    assert after["apart"] == before["apart"]
    assert after["narrow"] != before["narrow"]
    assert up.paris.codes()["child.deleted"] == deleted  # a rekey, not a bounce


@VERSIONS
def test_the_outer_header_follows_the_carriage(version: IkeVersion) -> None:
    up = scene(version, WIDE)
    assert {(spec.df_bit, spec.copy_dscp) for spec in up.paris.data_plane.sas.values()} == {(DfBit.PROPAGATE, True)}
    for side, host in ((up.right, up.lyon), (up.left, up.paris)):
        side.change(carriage=Carriage(df_bit=DfBit.CLEAR, copy_dscp=False))
        host.configure(side.document())
        up.world.run(0.5)
    up.world.run(60)
    up.check()
    for host in up.hosts:
        assert {(spec.df_bit, spec.copy_dscp) for spec in host.data_plane.sas.values()} == {(DfBit.CLEAR, False)}
