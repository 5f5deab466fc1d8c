"""Children of one tunnel with a policy each: every one is negotiated, rekeyed and limited by its own, in both versions.

The first two overlap, so that it is the selectors asked for that choose the child, and not the first that would do.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import (
    Child,
    ConnectionType,
    ExchangeMode,
    IkeVersion,
    IpsecProposal,
    SequenceNumbers,
    TrafficSelector,
)
from agents.contract.events import KINDS, Severity
from agents.contract.status import ChildSaStatus
from agents.dataplane.base import SaSpec
from agents.ike.outputs import Report
from tests.harness.documents import child, mirrored
from tests.harness.v1 import BOTH, MODES, ONE, Scene, policy
from tests.harness.world import Host, matched, up

MAIN, AGGRESSIVE = MODES
WEB = child(
    "web",
    proposals=(IpsecProposal(encryption="aes-256-gcm-16"),),
    pfs_groups=("group-20",),
    lifetime_s=600,
    replay_window=128,
    sequence_numbers=SequenceNumbers.EXTENDED,
    local_ts=(TrafficSelector(network="10.1.0.0/16", protocol=6),),
    remote_ts=(TrafficSelector(network="10.2.0.0/16", protocol=6, start_port=443, end_port=443),),
)
BULK = child("bulk", proposals=(IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96"),), replay_window=32)
SIGNED = child(
    "signed",
    ("10.9.0.0/24",),
    ("10.8.0.0/24",),
    proposals=(IpsecProposal(ah_integrity="hmac-sha2-256-128"),),
    pfs_groups=("group-14",),
    lifetime_s=1_200,
)
CHILDREN = (WEB, BULK, SIGNED)
versions = pytest.mark.parametrize(
    ("version", "mode"),
    [(IkeVersion.V2, MAIN), (IkeVersion.V1, MAIN), (IkeVersion.V1, AGGRESSIVE)],
    ids=["v2", "v1-main", "v1-aggressive"],
)
starters = pytest.mark.parametrize("types", [ONE, BOTH], ids=["one", "both"])


def meet(version: IkeVersion, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType] = ONE) -> Scene:
    scene = Scene(mode, version=version, types=types, ike=policy(mode), children=CHILDREN)
    scene.left.allow_legacy = scene.right.allow_legacy = True
    scene.start()
    assert scene.world.run(40, up(*scene.hosts)), (scene.paris.status(), scene.lyon.status())
    scene.world.run(20)
    return scene


def sas(host: Host) -> dict[str, ChildSaStatus]:
    found = {}
    for status in host.status().children:
        (found[status.name],) = status.sas
    return found


def specs(host: Host, name: str) -> list[SaSpec]:
    sa = sas(host)[name]
    spis = {int(sa.spi_in, 16), int(sa.spi_out, 16)}
    return [spec for spec in host.data_plane.sas.values() if spec.spi in spis]


def keep_to(host: Host, configured: Child, *, pfs: bool) -> None:
    sa = sas(host)[configured.name]
    (asked,) = configured.proposals
    assert (sa.encryption, sa.integrity, sa.ah_integrity) == (asked.encryption, asked.integrity, asked.ah_integrity)
    assert sa.esn == (configured.sequence_numbers is SequenceNumbers.EXTENDED)
    assert sa.expires_at is not None
    assert round(sa.expires_at - sa.installed_at) == configured.lifetime_s
    if pfs:
        assert sa.group == (configured.pfs_groups[0] if configured.pfs_groups else None)
    both = specs(host, configured.name)
    assert len(both) == 2
    for spec in both:
        assert spec.replay_window == configured.replay_window
        assert (spec.encryption, spec.integrity) == (asked.encryption, asked.integrity)
        assert (spec.ah.integrity if spec.ah else None) == asked.ah_integrity


@starters
@versions
def test_each_child_is_made_by_its_own_policy(
    version: IkeVersion, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]
) -> None:
    scene = meet(version, mode, types)
    assert matched(*scene.hosts)
    for host in scene.hosts:
        for index, configured in enumerate(CHILDREN):
            # The first child of IKEv2 has the keys of the IKE SA itself (RFC 7296 section 2.17).
            keep_to(host, configured, pfs=version is IkeVersion.V1 or index > 0)


@versions
def test_each_child_is_rekeyed_by_its_own_policy(version: IkeVersion, mode: ExchangeMode) -> None:
    scene = meet(version, mode)
    for host in scene.hosts:
        before = set(host.data_plane.sas)
        host.do(host.engine.rekey_child, host.status().id)
        scene.world.run(40)
        assert not before & set(host.data_plane.sas)
        assert matched(*scene.hosts)
        for each in scene.hosts:
            for configured in CHILDREN:
                keep_to(each, configured, pfs=True)


@versions
def test_the_one_with_the_shorter_lifetime_is_renewed_alone(version: IkeVersion, mode: ExchangeMode) -> None:
    scene = meet(version, mode)
    before = sas(scene.paris)
    scene.world.run(620)
    after = sas(scene.paris)
    assert {name for name in before if before[name].spi_in != after[name].spi_in} == {"web"}
    assert matched(*scene.hosts)


@versions
def test_another_policy_for_one_child_touches_no_other(version: IkeVersion, mode: ExchangeMode) -> None:
    scene = meet(version, mode)
    changed = replace(BULK, proposals=SIGNED.proposals, lifetime_s=900)
    scene.left.change(children=(WEB, changed, SIGNED))
    scene.right.change(children=tuple(map(mirrored, (WEB, changed, SIGNED))))
    before = sas(scene.paris)
    scene.lyon.configure(scene.right.document())
    scene.paris.configure(scene.left.document())
    scene.world.run(60)
    after = sas(scene.paris)
    assert {name for name in before if before[name].spi_in != after[name].spi_in} == {"bulk"}
    assert matched(*scene.hosts)
    for host in scene.hosts:
        keep_to(host, changed, pfs=True)


def refused(host: Host) -> list[Report]:
    """The refusals of IPsec SAs that the host tells of."""
    found = [
        each for each in host.reports if (each.field or "").startswith("children.") and each.code != "child.failed"
    ]
    assert all(KINDS[each.code].severity is Severity.ERROR for each in found), found
    return found


@versions
def test_refusals_say_which_child_they_are_about(version: IkeVersion, mode: ExchangeMode) -> None:
    scene = Scene(mode, version=version, ike=policy(mode), children=CHILDREN)
    scene.left.allow_legacy = scene.right.allow_legacy = True
    other = replace(BULK, proposals=(IpsecProposal(encryption="aes-256-ctr", integrity="hmac-sha2-512-256"),))
    scene.right.change(children=tuple(map(mirrored, (WEB, other, SIGNED))))
    scene.start()
    assert scene.world.run(40, lambda: all(host.codes()["child.failed"] for host in scene.hosts))
    scene.world.run(5)
    assert set(sas_up(scene.paris)) == {"web", "signed"}
    for host in scene.hosts:
        assert {each.attributes.get("child") for each in refused(host)} == {"bulk"}
        assert {each.attributes["child"] for each in host.reports if each.code == "child.failed"} == {"bulk"}
    reason = scene.paris.status().reason
    assert reason is not None
    told = [each for each in refused(scene.paris) if (each.code, each.message) == (reason.code, reason.message)]
    assert {(each.received, each.configured) for each in told} == {(reason.received, reason.configured)}


@versions
def test_what_the_data_plane_refuses_is_about_its_child(version: IkeVersion, mode: ExchangeMode) -> None:
    scene = Scene(mode, version=version, ike=policy(mode), children=CHILDREN)
    scene.left.allow_legacy = scene.right.allow_legacy = True
    scene.paris.data_plane.refuse = "no room"
    scene.start()
    assert scene.world.run(40, lambda: bool(scene.paris.codes()["child.install-failed"]))
    (first, *_) = [each for each in scene.paris.reports if each.code == "child.install-failed"]
    assert first.attributes["child"] in {each.name for each in CHILDREN}
    assert f"child {first.attributes['child']}:" in first.message


def sas_up(host: Host) -> list[str]:
    return [each.name for each in host.status().children if each.up]
