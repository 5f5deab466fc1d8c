"""Several IKEv1 tunnels between the same two hosts: what tells them apart in either mode.

In Main Mode a pre-shared key is chosen by the two addresses, before an identity is known: tunnels of one pair of
addresses share one key, and the identity then chooses the tunnel. In Aggressive Mode the identity comes first, and each
tunnel may have a key of its own.
"""

from __future__ import annotations

import pytest

from agents.contract.config import Endpoint, ExchangeMode, Identity, IdentityType, IkeVersion, PresharedKey, Tunnel
from agents.contract.errors import FieldError
from tests.harness.documents import Side, key, mirrored, tunnel
from tests.harness.pki import certify
from tests.harness.v1 import BOTH, LYON, MODES, ONE, PARIS, child, left_behind, machine, policy
from tests.harness.world import Host, World, matched, up

MAIN, AGGRESSIVE = MODES
modes = pytest.mark.parametrize("mode", MODES)
Cast = tuple[World, Host, Host, Side, Side]
SECOND = "192.0.2.11"


def name(value: str) -> Identity:
    return Identity(type=IdentityType.FQDN, value=value)


def several(
    names: tuple[str, ...],
    mode: ExchangeMode,
    *,
    addresses: tuple[str, ...] = (PARIS,),
    secrets: tuple[bytes, ...] = (b"one secret for all of them",),
    by_identity: bool = True,
    types: tuple[object, object] = ONE,
) -> tuple[Side, Side]:
    """Return two ends with a tunnel for each name; addresses of paris, and secrets, are taken in turn."""
    lefts, rights, left_keys, right_keys = [], [], [], []
    for number, each in enumerate(names):
        address, secret = addresses[number % len(addresses)], secrets[number % len(secrets)]
        ours, theirs = name(f"{each}.paris.example"), name(f"{each}.lyon.example")
        here, there = Endpoint(address=address, identity=ours), Endpoint(address=LYON, identity=theirs)
        net = child(local=(f"172.16.{number}.0/24",), remote=(f"172.17.{number}.0/24",))
        common = {"name": each, "ike": policy(mode), "version": IkeVersion.V1}
        lefts.append(_tunnel(here, there, net, types[0], common))
        rights.append(_tunnel(there, here, mirrored(net), types[1], common))
        if by_identity:
            left_keys.append(key(secret, remote_identity=theirs))
            right_keys.append(key(secret, remote_identity=ours))
        else:
            left_keys.append(key(secret, address, LYON))
            right_keys.append(key(secret, LYON, address))
    return _side("paris", lefts, left_keys), _side("lyon", rights, right_keys)


def _tunnel(local: Endpoint, remote: Endpoint, net: object, type_: object, common: dict[str, object]) -> Tunnel:
    return tunnel(local, remote, children=(net,), connection_type=type_, **common)  # type: ignore[arg-type]


def _side(host: str, tunnels: list[Tunnel], keys: list[PresharedKey]) -> Side:
    return Side(name=host, tunnels=tunnels, keys=list(dict.fromkeys(keys)))


def meet(sides: tuple[Side, Side], *addresses: str) -> Cast:
    world = World()
    paris, lyon = world.host("paris", *(addresses or (PARIS,))), world.host("lyon", LYON)
    lyon.configure(sides[1].document())
    paris.configure(sides[0].document())
    return world, paris, lyon, *sides


def standing(cast: Cast, count: int, rest_s: float = 30) -> None:
    world, paris, lyon, *_ = cast
    assert world.run(60, up(paris, lyon)), (paris.status(), lyon.reports)
    world.run(rest_s)
    assert up(paris, lyon)()
    assert matched(paris, lyon)
    for host in (paris, lyon):
        assert left_behind(host) is None
        assert len(machine(host).sas) == count
        assert len(host.data_plane.sas) == 2 * count
    for ours, theirs in zip(paris.engine.snapshot(0.0), lyon.engine.snapshot(0.0), strict=True):
        assert ours.name == theirs.name
        assert ours.children[0].sas[0].spi_in == theirs.children[0].sas[0].spi_out


class TestMainMode:
    def test_one_key_and_told_apart_by_identity(self) -> None:
        standing(meet(several(("red", "blue", "green"), MAIN)), 3)

    @pytest.mark.parametrize("types", [ONE, BOTH], ids=["one", "both"])
    def test_a_key_for_each_local_address(self, types: tuple[object, object]) -> None:
        sides = several(
            ("red", "blue"),
            MAIN,
            addresses=(PARIS, SECOND),
            secrets=(b"the red secret", b"the blue secret"),
            by_identity=False,
            types=types,
        )
        standing(meet(sides, PARIS, SECOND), 2)

    def test_two_keys_of_one_pair_of_addresses_cannot_be(self) -> None:
        left, right = several(("red", "blue"), MAIN, secrets=(b"the red secret", b"the blue secret"))
        for side in (left, right):
            with pytest.raises(FieldError, match="only the two addresses choose the key"):
                side.document()

    def test_each_has_certificates(self) -> None:
        sides = several(("red", "blue"), MAIN)
        world = World()
        paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
        for side, host in zip(sides, (paris, lyon), strict=True):
            certify(side, host)
            auth = (side.tunnels[0].local_auth, side.tunnels[0].remote_auth)
            side.change(1, local_auth=auth[0], remote_auth=auth[1])
            host.configure(side.document())
        standing((world, paris, lyon, *sides), 2)


class TestAggressiveMode:
    def test_a_key_for_each_identity(self) -> None:
        sides = several(("red", "blue"), AGGRESSIVE, secrets=(b"the red secret", b"the blue secret"))
        standing(meet(sides), 2)

    @pytest.mark.parametrize("types", [BOTH], ids=["both"])
    def test_either_end_begins(self, types: tuple[object, object]) -> None:
        sides = several(("red", "blue"), AGGRESSIVE, secrets=(b"the red secret", b"the blue secret"), types=types)
        standing(meet(sides), 2, rest_s=60)

    def test_an_unknown_identity_is_refused(self) -> None:
        sides = several(("red", "blue"), AGGRESSIVE)
        del sides[1].tunnels[1]
        world, paris, lyon, *_ = meet(sides)
        world.run(30)
        assert [status.name for status in paris.engine.snapshot(0.0) if status.children[0].up] == ["red"]
        assert lyon.codes()["ikev1.psk-identity-mismatch"] >= 1


class TestBesideEachOther:
    def test_main_and_aggressive_between_the_same_addresses(self) -> None:
        sides = several(("red", "blue"), MAIN)
        for side in sides:
            side.change(1, ike=policy(AGGRESSIVE))
        standing(meet(sides), 2)

    @modes
    def test_clearing_one_leaves_the_others(self, mode: ExchangeMode) -> None:
        cast = meet(several(("red", "blue", "green"), mode))
        standing(cast, 3)
        world, paris, lyon, *_ = cast
        sas = {spec.id for spec in paris.data_plane.sas.values() if spec.tunnel_id != paris.status(1).id}
        for verb in (paris.engine.clear_ike, paris.engine.rekey_child, paris.engine.rekey_ike, lyon.engine.clear_ipsec):
            verb(paris.status(1).id, world.now)
            world.drain()
            world.run(40)
            standing(cast, 3)
        assert sas < set(paris.data_plane.sas)

    @modes
    def test_one_begins_anew_and_the_others_stay(self, mode: ExchangeMode) -> None:
        """INITIAL-CONTACT is about the tunnel it comes for: others between the same hosts are not touched."""
        cast = meet(several(("red", "blue"), mode))
        standing(cast, 2)
        world, paris, _lyon, left, _right = cast
        red = {spec.id for spec in paris.data_plane.sas.values() if spec.tunnel_id == paris.status(0).id}
        left.change(1, enabled=False)
        paris.configure(left.document())
        world.run(5)
        left.change(1, enabled=True)
        paris.configure(left.document())
        world.run(40)
        standing(cast, 2)
        assert red < set(paris.data_plane.sas)

    @modes
    def test_a_restart_brings_all_back(self, mode: ExchangeMode) -> None:
        cast = meet(several(("red", "blue", "green"), mode))
        standing(cast, 3)
        world, paris, _lyon, left, _right = cast
        world.restart(paris)
        paris.configure(left.document())
        world.run(60)
        standing(cast, 3)

    def test_the_same_traffic_in_two_tunnels_is_refused(self) -> None:
        sides = several(("red", "blue"), MAIN)
        for side in sides:
            side.change(1, children=side.tunnels[0].children)
        world, paris, lyon, *_ = meet(sides)
        world.run(30)
        assert [status.name for status in paris.engine.snapshot(0.0) if status.children[0].up] in (["red"], ["blue"])
        assert paris.codes()["child.selectors-taken"] + lyon.codes()["child.selectors-taken"] >= 1
        assert matched(paris, lyon)
