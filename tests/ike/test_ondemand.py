"""On-demand tunnels (seed 003 section 9.3): peers that come from anywhere, told apart by the identity they prove."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import (
    ConnectionType,
    DpdAction,
    ExchangeMode,
    Identity,
    IdentityType,
    IkePolicy,
    IkeVersion,
    Tunnel,
    TunnelKind,
)
from agents.contract.status import TunnelState
from agents.ike.errors import LocalError
from tests.harness.documents import Side, endpoint, key, tunnel
from tests.harness.v1 import FAST_IKE, child, left_behind, policy
from tests.harness.world import Host, World, matched, up

PARIS = "192.0.2.1"
SECRET = b"a shared secret of all branches"
V1, V2, EITHER = IkeVersion.V1, IkeVersion.V2, IkeVersion.V2_ELSE_V1
AGGRESSIVE = ExchangeMode.AGGRESSIVE
versions = pytest.mark.parametrize("version", [V1, V2])
BRANCHES = Identity(type=IdentityType.FQDN, value="*.branch.example.org")


def named(name: str) -> Identity:
    return Identity(type=IdentityType.FQDN, value=f"{name}.branch.example.org")


def ike(**changes: object) -> IkePolicy:
    return policy(AGGRESSIVE, FAST_IKE, dpd_interval_s=10, mobike=False, **changes)


class Hub:
    """paris with one on-demand tunnel, and branches that call it from addresses that it does not know."""

    def __init__(self, version: IkeVersion = EITHER, remote: Identity = BRANCHES, **changes: object) -> None:
        self.world = World()
        roaming = tunnel(
            endpoint(PARIS, Identity(type=IdentityType.FQDN, value="paris.example.org")),
            endpoint("0.0.0.0", remote),
            name="roaming",
            children=(child(local=("10.1.0.0/16",), remote=("10.64.0.0/10",)),),
            ike=ike(),
            connection_type=ConnectionType.RESPONDER_ONLY,
            version=version,
            kind=TunnelKind.ON_DEMAND,
        )
        self.side = Side(name="paris", tunnels=[replace(roaming, **changes)], keys=[key(SECRET, PARIS, None)])  # type: ignore[arg-type]
        self.paris = self.world.host("paris", PARIS)
        self.paris.configure(self.side.document())
        self.branches: list[Host] = []

    def branch(
        self,
        number: int,
        version: IkeVersion,
        *,
        name: str | None = None,
        network: str | None = None,
        **changes: object,
    ) -> Host:
        """Let a branch call: its address ends in the number, its network is 10.64.number.0/24 unless told."""
        address = f"203.0.113.{number}"
        mine = tunnel(
            endpoint(address, named(name or f"b{number}")),
            endpoint(PARIS, Identity(type=IdentityType.FQDN, value="paris.example.org")),
            name="to-paris",
            children=(child(local=(network or f"10.64.{number}.0/24",), remote=("10.1.0.0/16",)),),
            ike=ike(),
            connection_type=ConnectionType.INITIATOR_ONLY,
            version=version,
        )
        side = Side(name=f"b{number}", tunnels=[replace(mine, **changes)], keys=[key(SECRET, address, PARIS)])  # type: ignore[arg-type]
        host = self.world.host(f"b{number}", address)
        host.configure(side.document())
        self.branches.append(host)
        return host

    def comes_up(self, seconds: float = 30) -> None:
        assert self.world.run(seconds, up(*self.branches)), [each.reports for each in self.branches]
        self.world.run(1)
        self.check()

    def check(self) -> None:
        """Every SA of paris is some branch's, with equal keys; nothing is left over."""
        ours = self.paris.data_plane.sas
        theirs = {sa for host in self.branches for sa in host.data_plane.sas}
        assert set(ours) == theirs
        assert len({spec.reqid for spec in ours.values()}) == len(self.branches)
        for host in (self.paris, *self.branches):
            assert left_behind(host) is None
        status = self.paris.status()
        assert (status.kind, status.peers) == ("on-demand", len(self.branches))
        assert len(status.ike_sas) == len(self.branches)

    def networks(self) -> set[str]:
        """Return what paris sends into the tunnel."""
        policies = self.paris.data_plane.policies
        return {each.selector.destination for each in policies if each.direction == "out"}


def test_a_tunnel_that_nobody_has_called_is_idle_and_cannot_be_started() -> None:
    hub = Hub()
    hub.world.run(300)
    assert hub.paris.state is TunnelState.IDLE
    assert hub.world.log == []
    with pytest.raises(LocalError, match="may not start"):
        hub.paris.do(hub.paris.engine.initiate, hub.side.tunnels[0].id)


@versions
def test_peers_from_anywhere_each_get_what_they_ask_for(version: IkeVersion) -> None:
    hub = Hub(version)
    for number in (7, 8, 9):
        hub.branch(number, version)
    hub.comes_up()
    assert hub.paris.state is TunnelState.UP
    assert hub.networks() == {"10.64.7.0/24", "10.64.8.0/24", "10.64.9.0/24"}
    (main,) = hub.paris.status().children
    assert {text for sa in main.sas for text in sa.remote_ts} == hub.networks()
    shown = {sa.remote_identity for sa in hub.paris.status().ike_sas}
    assert shown == {f"fqdn b{number}.branch.example.org" for number in (7, 8, 9)}


def test_peers_of_both_versions_share_one_tunnel() -> None:
    hub = Hub(EITHER)
    hub.branch(7, V1)
    hub.branch(8, V2)
    hub.branch(9, V1)
    hub.comes_up()
    assert sorted(sa.version for sa in hub.paris.status().ike_sas) == ["v1", "v1", "v2"]
    hub.world.run(600)
    hub.check()


def test_a_peer_that_changes_its_version_takes_its_traffic_along() -> None:
    hub = Hub(EITHER)
    first = hub.branch(7, V1)
    hub.branch(8, V2)
    hub.comes_up()
    side = Side(name="b7", tunnels=list(first.document.tunnels), keys=list(first.document.preshared_keys))  # type: ignore[union-attr]
    side.generation = 1
    side.change(version=V2)
    first.configure(side.document())
    hub.world.run(60)
    hub.check()
    assert {sa.version for sa in hub.paris.status().ike_sas} == {"v2"}


@versions
def test_keys_are_renewed_by_either_end(version: IkeVersion) -> None:
    short = child(local=("10.1.0.0/16",), remote=("10.64.0.0/10",), lifetime_s=300)
    hub = Hub(version, ike=ike(lifetime_s=900), children=(short,))
    hub.branch(7, version)
    hub.branch(8, version)
    hub.comes_up()
    before = set(hub.paris.data_plane.sas)
    hub.world.run(3_000)
    hub.check()
    assert not before & set(hub.paris.data_plane.sas)
    assert hub.networks() == {"10.64.7.0/24", "10.64.8.0/24"}


@versions
def test_a_peer_that_falls_silent_is_forgotten_and_the_others_stay(version: IkeVersion) -> None:
    """The traffic of another peer says nothing of this one (RFC 3706 section 5.4, RFC 7296 section 2.4)."""
    hub = Hub(version, ike=ike(dpd_action=DpdAction.HOLD))
    silent, other = hub.branch(7, version), hub.branch(8, version)
    hub.comes_up()
    (heard,) = [
        spec for spec in hub.paris.data_plane.sas.values() if spec.destination == PARIS and spec.source.endswith(".8")
    ]
    hub.world.hosts.remove(silent)
    hub.branches.remove(silent)
    for _ in range(60):
        hub.world.run(5)
        hub.paris.engine.traffic_seen(hub.side.tunnels[0].id, hub.world.now, heard.spi)
        hub.world.drain()
    hub.check()
    assert hub.networks() == {"10.64.8.0/24"}
    assert other.state is TunnelState.UP
    hub.branches.append(silent)
    hub.world.hosts.append(silent)
    silent.do(silent.engine.clear_ike, silent.status().id)
    hub.comes_up(120)


@versions
def test_the_same_peer_from_another_address_replaces_what_it_had(version: IkeVersion) -> None:
    hub = Hub(version)
    old = hub.branch(7, version, name="roamer", network="10.64.7.0/24")
    hub.comes_up()
    hub.world.hosts.remove(old)
    hub.branches.remove(old)
    hub.branch(9, version, name="roamer", network="10.64.7.0/24")
    assert hub.world.run(30, up(*hub.branches))
    hub.world.run(120)
    hub.check()
    assert {spec.source for spec in hub.paris.data_plane.sas.values()} == {PARIS, "203.0.113.9"}


@versions
def test_a_peer_may_not_take_the_traffic_of_another(version: IkeVersion) -> None:
    hub = Hub(version)
    hub.branch(7, version)
    hub.comes_up()
    greedy = hub.branch(8, version, network="10.64.0.0/10")
    hub.world.run(60)
    assert greedy.state is not TunnelState.UP
    assert hub.networks() == {"10.64.7.0/24"}
    refused = [report for report in hub.paris.reports if report.code == "child.selectors-taken"]
    assert refused[0].configured == "another peer of tunnel roaming"
    assert refused[0].field == "children.remote_ts"


@versions
def test_there_are_as_many_peers_as_configured_and_no_more(version: IkeVersion) -> None:
    hub = Hub(version, most_peers=2)
    hub.branch(7, version)
    hub.branch(8, version)
    hub.comes_up()
    late = hub.branch(9, version)
    hub.world.run(60)
    assert late.state is not TunnelState.UP
    assert hub.paris.status().peers == 2
    (refused, *_) = [report for report in hub.paris.reports if report.code == "ike.too-many-peers"]
    assert (refused.configured, refused.field, refused.tunnel_id) == ("2", "most_peers", hub.side.tunnels[0].id)
    first = hub.branches.pop(0)
    first.do(first.engine.terminate, first.status().id)
    hub.comes_up(120)


@versions
def test_who_is_not_expected_or_has_another_key_is_refused_and_leaves_nothing(version: IkeVersion) -> None:
    hub = Hub(version)
    stranger = hub.branch(7, version)
    document = stranger.document
    assert document is not None
    other = replace(
        document,
        generation=2,
        tunnels=(
            replace(
                document.tunnels[0],
                local=endpoint("203.0.113.7", Identity(type=IdentityType.FQDN, value="b7.elsewhere.example.org")),
            ),
        ),
    )
    wrong = replace(document, generation=3, preshared_keys=(key(b"some other secret", "203.0.113.7", PARIS),))
    for changed in (other, wrong):
        stranger.configure(changed)
        hub.world.run(90)
        assert hub.paris.status().peers == 0
        assert hub.paris.data_plane.sas == {}
    stranger.do(stranger.engine.terminate, stranger.status().id)
    hub.world.run(120)
    assert left_behind(hub.paris) is None
    assert not hub.paris.engine.v2.sas
    assert hub.paris.state is TunnelState.IDLE


@versions
def test_an_operator_may_take_all_peers_down_and_let_them_in_again(version: IkeVersion) -> None:
    hub = Hub(version)
    for number in (7, 8):
        hub.branch(number, version)
    hub.comes_up()
    tunnel_id = hub.side.tunnels[0].id
    hub.paris.do(hub.paris.engine.terminate, tunnel_id)
    hub.world.run(20)
    assert (hub.paris.status().peers, hub.paris.data_plane.sas) == (0, {})
    hub.paris.configure(hub.side.document())
    with pytest.raises(LocalError):
        hub.paris.do(hub.paris.engine.initiate, tunnel_id)
    hub.side.change(enabled=False)
    hub.paris.configure(hub.side.document())
    assert hub.paris.state is TunnelState.DISABLED
    hub.side.change(enabled=True)
    hub.paris.configure(hub.side.document())
    hub.comes_up(200)


@versions
def test_a_changed_tunnel_changes_for_its_peers_and_a_removed_one_ends_for_them(version: IkeVersion) -> None:
    hub = Hub(version)
    for number in (7, 8):
        hub.branch(number, version)
    hub.comes_up()
    before = set(hub.paris.data_plane.sas)
    (main,) = hub.side.tunnels[0].children
    hub.side.change(children=(replace(main, replay_window=512),))
    hub.paris.configure(hub.side.document())
    hub.world.run(30)
    hub.check()
    assert not before & set(hub.paris.data_plane.sas), "every peer's child is rekeyed"
    assert {spec.replay_window for spec in hub.paris.data_plane.sas.values()} == {512}
    hub.side.tunnels.clear()
    hub.paris.configure(hub.side.document())
    hub.world.run(30)
    assert hub.paris.data_plane.sas == {}
    assert not hub.paris.engine.v2.sas
    assert hub.paris.engine.v1 is None
    assert hub.paris.engine.hub.peer_numbers.take(hub.side.name, 1) == 1


@versions
def test_a_lost_data_plane_is_made_anew_with_the_peers(version: IkeVersion) -> None:
    hub = Hub(version)
    for number in (7, 8):
        hub.branch(number, version)
    hub.comes_up()
    hub.paris.data_plane.sas.clear()
    hub.paris.data_plane.policies.clear()
    hub.paris.do(hub.paris.engine.dataplane_lost)
    hub.world.run(60)
    hub.comes_up()


def fixed_tunnel(address: str, identity: Identity) -> Tunnel:
    return tunnel(
        endpoint(PARIS, Identity(type=IdentityType.FQDN, value="paris.example.org")),
        endpoint(address, identity),
        name="fixed",
        children=(child(local=("10.1.0.0/16",), remote=("10.64.7.0/24",)),),
        ike=ike(),
        connection_type=ConnectionType.RESPONDER_ONLY,
    )


@versions
def test_a_static_tunnel_with_the_exact_identity_goes_before_an_on_demand_one(version: IkeVersion) -> None:
    hub = Hub(version)
    hub.side.tunnels.append(replace(fixed_tunnel("203.0.113.7", named("b7")), version=version))
    hub.paris.configure(hub.side.document())
    hub.branch(7, version)
    hub.branch(8, version)
    assert hub.world.run(30, up(*hub.branches))
    hub.world.run(1)
    roaming, fixed = hub.paris.engine.snapshot(hub.world.now)
    assert (roaming.peers, len(roaming.ike_sas)) == (1, 1)
    assert (fixed.state, len(fixed.ike_sas)) == (TunnelState.UP, 1)
    assert matched(hub.paris, hub.branches[0]) is False  # paris has the other branch's as well
    assert {spec.tunnel_id for spec in hub.paris.data_plane.sas.values()} == {roaming.id, fixed.id}


def test_main_mode_of_version_1_is_refused_by_an_on_demand_tunnel() -> None:
    hub = Hub(V1)
    hub.branch(7, V1, ike=policy(ExchangeMode.MAIN, FAST_IKE))
    hub.world.run(60)
    assert hub.paris.status().peers == 0
    mismatch = [report for report in hub.paris.reports if report.code == "ikev1.exchange-mode-mismatch"]
    assert mismatch[0].configured == "aggressive-mode"


def test_nobody_is_called_back_and_strangers_cost_a_bounded_number_of_answers() -> None:
    """A thousand first messages of Aggressive Mode with forged sources: 50 a second are answered, 100 at once."""
    hub = Hub(V1)
    branch = hub.branch(7, V1)
    assert hub.world.run(30, up(branch))
    first = next(each for each in hub.world.log if each.sender == "b7")
    hub.world.log.clear()
    for number in range(1_000):
        path = replace(
            first.path,
            local_address=PARIS,
            remote_address=f"198.51.{number // 250}.{number % 250 + 1}",
        )
        octets = number.to_bytes(8, "big") + first.octets[8:]
        hub.paris.engine.receive(octets, path, hub.world.now)
        hub.world.drain()
    answered = [each for each in hub.world.log if each.sender == "paris"]
    assert 50 <= len(answered) <= 100
    hub.world.run(200)
    assert left_behind(hub.paris) is None


def test_selectors_of_a_child_are_bounded_by_the_configured_ones() -> None:
    hub = Hub(V2)
    outside = hub.branch(7, V2, network="172.16.0.0/24")
    hub.world.run(60)
    assert outside.state is not TunnelState.UP
    assert hub.paris.data_plane.sas == {}
