"""The table of what a changed document does, and that the engine does it, to this tunnel and no other."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from agents.contract.carriage import Attachment, Carriage, DfBit
from agents.contract.config import (
    Child,
    Childless,
    ConnectionType,
    DpdAction,
    ExchangeMode,
    IkePolicy,
    IpsecProposal,
    LocalAuthentication,
    Mode,
    Reauthentication,
    RemoteAuthentication,
    Revocation,
    SequenceNumbers,
    Tunnel,
    UniquePolicy,
)
from agents.contract.status import TunnelState
from agents.ike.change import _CHILD_REKEY, _CHILD_REMAKE, _CHILD_RETIME, _IKE_RETIME, _TUNNEL_FATES, Fate, Plan, plan
from tests.harness.documents import FAST_IKE, Side, child, endpoint, key, pair, selectors, tunnel
from tests.harness.world import Host, World, matched, up

_BASE = tunnel(endpoint("192.0.2.1"), endpoint("192.0.2.2"))
_MAIN = _BASE.children[0]
_IKE_KEPT: dict[str, object] = {
    "dpd_interval_s": 7,
    "dpd_action": DpdAction.CLEAR,
    "reauthentication": Reauthentication.BREAK_BEFORE_MAKE,
    "keepalive_s": 7,
    "mobike": False,
    "fragmentation": False,
    "fragment_octets": 1_400,
    "unique": UniquePolicy.KEEP,
    "childless": Childless.NEVER,
    "exchange_mode": ExchangeMode.AGGRESSIVE,
    "lifetime_kilobytes": 4_000,
}
"""Fields of the IKE policy that take effect from now on, each with another value than by default."""


def _ike(**changes: object) -> IkePolicy:
    return replace(_BASE.ike, **changes)  # type: ignore[arg-type]


def test_every_field_has_its_row() -> None:
    assert set(_TUNNEL_FATES) == {field.name for field in fields(Tunnel)}
    assert {"name", *_CHILD_REMAKE, *_CHILD_REKEY, *_CHILD_RETIME} == {field.name for field in fields(Child)}
    assert {"proposals", *_IKE_RETIME, *_IKE_KEPT} == {field.name for field in fields(IkePolicy)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Plan(fate=Fate.KEEP)),
        ({"name": "other", "mtu": 1_300, "add_routes": False}, Plan(fate=Fate.KEEP)),
        ({"connection_type": ConnectionType.RESPONDER_ONLY}, Plan(fate=Fate.KEEP)),
        *(({"ike": _ike(**{name: value})}, Plan(fate=Fate.KEEP)) for name, value in _IKE_KEPT.items()),
        ({"ike": replace(_BASE.ike, reauth_s=700)}, Plan(fate=Fate.KEEP, retime=True)),
        ({"ike": replace(_BASE.ike, lifetime_s=7_000)}, Plan(fate=Fate.KEEP, retime=True)),
        ({"ike": IkePolicy(proposals=(FAST_IKE, replace(FAST_IKE, group="group-19")))}, Plan(fate=Fate.REKEY)),
        (
            {"children": (replace(_MAIN, proposals=(IpsecProposal(encryption="aes-256-gcm-16"),)),)},
            Plan(fate=Fate.KEEP, rekey_children=frozenset({"main"})),
        ),
        (
            {"children": (replace(_MAIN, lifetime_s=600),)},
            Plan(fate=Fate.KEEP, retime_children=frozenset({"main"})),
        ),
        (
            {"children": (replace(_MAIN, local_ts=selectors("10.7.0.0/16"), replay_window=0),)},
            Plan(fate=Fate.KEEP, remake_children=frozenset({"main"})),
        ),
        (
            {"children": (replace(_MAIN, name="other"),)},
            Plan(fate=Fate.KEEP, delete_children=frozenset({"main"})),
        ),
        *(
            ({"children": (replace(_MAIN, **change),)}, Plan(fate=Fate.KEEP, rekey_children=frozenset({"main"})))
            for change in (
                {"sequence_numbers": SequenceNumbers.EXTENDED},
                {"ipcomp": True},
                {"pfs_groups": ("group-31",)},
                {"replay_window": 128},
                {"proposals": (IpsecProposal(ah_integrity="hmac-sha1-96"),)},
            )
        ),
        (
            {"children": (replace(_MAIN, mode=Mode.TRANSPORT, ipcomp=True),)},
            Plan(fate=Fate.KEEP, remake_children=frozenset({"main"})),
        ),
        (
            {"carriage": Carriage(df_bit=DfBit.SET)},
            Plan(fate=Fate.KEEP, rekey_children=frozenset({"main"})),
        ),
        ({"carriage": Carriage(queues=4, route_cost=5, attachment=Attachment.INTERFACE)}, Plan(fate=Fate.KEEP)),
        ({"local": endpoint("192.0.2.9")}, Plan(fate=Fate.REAUTHENTICATE)),
        (
            {"local_auth": LocalAuthentication(signatures=("ed25519",))},
            Plan(fate=Fate.REAUTHENTICATE),
        ),
        ({"remote_auth": RemoteAuthentication(revocation=Revocation.OFF)}, Plan(fate=Fate.REAUTHENTICATE)),
        ({"ppk": "quantum"}, Plan(fate=Fate.REAUTHENTICATE)),
        ({"local": replace(_BASE.local, more_addresses=("192.0.2.8",))}, Plan(fate=Fate.KEEP)),
        ({"force_udp_encapsulation": True}, Plan(fate=Fate.REAUTHENTICATE)),
        ({"enabled": False}, Plan(fate=Fate.DROP)),
    ],
)
def test_plan(changes: dict[str, object], expected: Plan) -> None:
    assert plan(_BASE, replace(_BASE, **changes), psk_changed=False) == expected  # type: ignore[arg-type]


def test_plan_of_a_psk() -> None:
    assert plan(_BASE, _BASE, psk_changed=True).fate is Fate.REAUTHENTICATE
    disabled = replace(_BASE, enabled=False)
    assert plan(disabled, _BASE, psk_changed=False).fate is Fate.START
    assert plan(disabled, disabled, psk_changed=True).fate is Fate.KEEP


class TestRunning:
    """Two tunnels side by side; one is edited at both ends, the other must not notice."""

    def setup_pair(self) -> tuple[World, Host, Host, Side, Side]:
        world = World()
        left, right = pair(types=(ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY))
        more_left, more_right = pair(
            paris="192.0.2.11",
            lyon="192.0.2.12",
            name="neighbour",
            children=(child(local=("10.5.0.0/16",), remote=("10.6.0.0/16",)),),
        )
        left.tunnels += more_left.tunnels
        left.keys += more_left.keys
        right.tunnels += more_right.tunnels
        right.keys += more_right.keys
        paris = world.host("paris", "192.0.2.1", "192.0.2.11")
        lyon = world.host("lyon", "192.0.2.2", "192.0.2.12", "192.0.2.22")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        return world, paris, lyon, left, right

    def edit(self, seconds: float = 90.0, **changes: object) -> tuple[World, Host, Host]:
        world, paris, lyon, left, right = self.setup_pair()
        neighbour = paris.status(1)
        left.change(**changes)  # type: ignore[arg-type]
        mirrored = dict(changes)
        if "children" in changes:
            mirrored["children"] = tuple(
                replace(each, local_ts=each.remote_ts, remote_ts=each.local_ts) for each in left.tunnels[0].children
            )
        mirrored.pop("connection_type", None)
        right.change(**mirrored)  # type: ignore[arg-type]
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(seconds)
        after = paris.status(1)
        assert after.since == neighbour.since
        assert after.ike_sas[0].spi_i == neighbour.ike_sas[0].spi_i
        assert after.children[0].sas[0].spi_in == neighbour.children[0].sas[0].spi_in
        return world, paris, lyon

    def test_many_new_tunnels_begin_one_after_the_other(self) -> None:
        world = World()
        paris = world.host("paris", "192.0.2.1")
        tunnels = [
            tunnel(endpoint("192.0.2.1"), endpoint(f"198.51.{n // 250}.{n % 250 + 1}"), name=f"t{n}")
            for n in range(500)
        ]
        paris.configure(Side(name="paris", tunnels=tunnels, keys=[]).document())
        assert len(world.log) == 100
        world.run(0.9)
        assert 250 <= len(world.log) <= 300
        world.run(1.2)
        assert paris.codes()["ike.initiate"] == 500

    def test_same_document_changes_nothing(self) -> None:
        world, paris, _lyon, left, _right = self.setup_pair()
        before, sent = paris.status(), len(world.log)
        paris.configure(left.document())
        world.run(5)
        assert paris.status() == before
        assert len(world.log) == sent

    def test_new_esp_suite_by_rekey(self) -> None:
        esp = (IpsecProposal(encryption="aes-256-gcm-16"),)
        _, paris, lyon = self.edit(children=(replace(_MAIN, proposals=esp),))
        assert paris.status().children[0].sas[0].encryption == "aes-256-gcm-16"
        assert len(paris.status().children[0].sas) == 1
        assert paris.codes()["ike.sa-established"] == 2
        assert matched(paris, lyon)

    @pytest.mark.parametrize(
        "change",
        [
            {"sequence_numbers": SequenceNumbers.EXTENDED},
            {"ipcomp": True},
            {"proposals": (IpsecProposal(ah_integrity="hmac-sha1-96"),)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_new_terms_by_rekey(self, change: dict[str, object]) -> None:
        _, paris, lyon = self.edit(children=(replace(_MAIN, **change),))  # type: ignore[arg-type]
        (sa,) = paris.status().children[0].sas
        assert sa.esn or sa.ipcomp or sa.ah_integrity
        assert paris.codes()["child.deleted"] == 0
        assert matched(paris, lyon)

    def test_new_mode_by_a_new_child(self) -> None:
        hosts = replace(_MAIN, local_ts=selectors("192.0.2.1/32"), remote_ts=selectors("192.0.2.2/32"))
        _, paris, lyon = self.edit(children=(replace(hosts, mode=Mode.TRANSPORT),))
        (sa,) = paris.status().children[0].sas
        assert sa.mode == "transport"
        assert matched(paris, lyon)

    def test_new_ike_suite_by_rekey(self) -> None:
        ike = IkePolicy(proposals=(replace(FAST_IKE, encryption="aes-256-gcm-16"),))
        _, paris, lyon = self.edit(ike=ike)
        assert [sa.encryption for sa in paris.status().ike_sas] == ["aes-256-gcm-16"]
        assert paris.codes()["child.established"] == 2
        assert matched(paris, lyon)

    def test_an_ike_sa_that_has_the_new_suite_already_is_left_alone(self) -> None:
        strong = replace(FAST_IKE, encryption="aes-256-gcm-16")
        world, paris, lyon, left, right = self.setup_pair()
        right.change(ike=IkePolicy(proposals=(FAST_IKE, strong)))
        lyon.configure(right.document())
        world.run(5)
        assert lyon.codes()["ike.sa-rekeyed"] == 0
        left.change(ike=IkePolicy(proposals=(strong,)))
        paris.configure(left.document())
        world.run(5)
        right.change(ike=IkePolicy(proposals=(strong,)))
        lyon.configure(right.document())
        world.run(90)
        assert [sa.encryption for sa in lyon.status().ike_sas] == ["aes-256-gcm-16"]
        assert (paris.codes()["ike.sa-rekeyed"], lyon.codes()["ike.sa-rekeyed"]) == (1, 1)
        assert matched(paris, lyon)

    def test_an_edit_while_a_rekey_is_under_way_does_not_divide_the_ends(self) -> None:
        strong = replace(FAST_IKE, encryption="aes-256-gcm-16")
        world, paris, lyon, left, right = self.setup_pair()
        paris.do(paris.engine.rekey_ike, paris.status().id)
        left.change(ike=IkePolicy(proposals=(strong,)))
        paris.configure(left.document())
        right.change(ike=IkePolicy(proposals=(strong,)))
        world.run(0.015)  # lyon has answered as it was configured
        lyon.configure(right.document())
        world.run(90)
        for host in (paris, lyon):
            assert [sa.encryption for sa in host.status().ike_sas] == ["aes-256-gcm-16"]
            assert host.codes()["child.established"] == 2  # the tunnel was not bounced
            assert host.codes()["ike.dpd-failed"] == 0
        assert matched(paris, lyon)

    def test_other_networks_by_a_new_child(self) -> None:
        _, paris, lyon = self.edit(children=(replace(_MAIN, local_ts=selectors("10.77.0.0/16")),))
        assert paris.status().children[0].sas[0].local_ts == ("10.77.0.0/16",)
        assert {each.selector.source for each in paris.data_plane.policies if each.direction == "out"} == {
            "10.77.0.0/16",
            "10.5.0.0/16",
        }
        assert matched(paris, lyon)

    def test_an_edit_while_the_child_is_being_made_counts(self) -> None:
        world = World()
        left, right = pair(types=(ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.035)  # lyon has answered IKE_AUTH, the answer is on its way
        assert lyon.data_plane.sas
        assert not paris.data_plane.sas
        narrower = replace(left.tunnels[0].children[0], local_ts=selectors("10.1.7.0/24"))
        left.change(children=(narrower,))
        paris.configure(left.document())
        world.run(30)  # lyon narrows to it
        assert paris.status().children[0].sas[0].local_ts == ("10.1.7.0/24",)
        assert {each.selector.source for each in paris.data_plane.policies if each.direction == "out"} == {
            "10.1.7.0/24"
        }
        assert matched(paris, lyon)

    def test_child_added_and_removed(self) -> None:
        more = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
        _, paris, lyon = self.edit(children=(_MAIN, more))
        assert [each.up for each in paris.status().children] == [True, True]
        assert matched(paris, lyon)
        _, paris, lyon = self.edit(children=(more,))
        assert [each.name for each in paris.status().children] == ["voice"]
        assert paris.state is TunnelState.UP
        assert matched(paris, lyon)
        assert len(paris.data_plane.sas) == 4

    def test_lifetimes_are_retimed(self) -> None:
        _, paris, _ = self.edit(5.0, children=(replace(_MAIN, lifetime_s=600),))
        (sa,) = paris.status().children[0].sas
        assert sa.expires_at == sa.installed_at + 600

    def test_new_psk_at_both_ends(self) -> None:
        world, paris, lyon, left, right = self.setup_pair()
        left.keys[0] = key(b"a new secret", "192.0.2.1", "192.0.2.2")
        paris.configure(left.document())
        world.run(2)
        assert paris.status().reason is not None
        right.keys[0] = key(b"a new secret", "192.0.2.2", "192.0.2.1")
        lyon.configure(right.document())
        assert world.run(90, up(paris, lyon))
        assert matched(paris, lyon)
        assert paris.codes()["ike.sa-established"] == 3

    def test_disable_and_enable(self) -> None:
        world, paris, lyon, left, _right = self.setup_pair()
        left.change(enabled=False)
        paris.configure(left.document())
        world.run(2)
        assert paris.state is TunnelState.DISABLED
        assert len(paris.data_plane.sas) == len(lyon.data_plane.sas) == 2
        left.change(enabled=True)
        paris.configure(left.document())
        assert world.run(10, up(paris, lyon))

    def test_removed_tunnel_takes_its_sas_along(self) -> None:
        world, paris, lyon, left, _right = self.setup_pair()
        del left.tunnels[0]
        paris.configure(left.document())
        world.run(30)
        assert len(paris.engine.snapshot(world.now)) == 1
        assert len(paris.data_plane.sas) == 2
        assert len(paris.engine.v2.sas) == 1
        assert lyon.status(1).state is TunnelState.UP

    def test_moved_address(self) -> None:
        world, paris, lyon, left, right = self.setup_pair()
        right.change(local=endpoint("192.0.2.22"))
        right.keys[0] = key(b"a shared secret of both", "192.0.2.22", "192.0.2.1")
        left.change(remote=endpoint("192.0.2.22"))
        left.keys[0] = key(b"a shared secret of both", "192.0.2.1", "192.0.2.22")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(60, up(paris, lyon))
        assert paris.status().ike_sas[-1].remote == "192.0.2.22:4500"
        world.run(30)
        assert matched(paris, lyon)
