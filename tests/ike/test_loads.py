"""What each machine has to do, in numbers: IKE SAs, negotiations, IPsec SAs and bugs met."""

from __future__ import annotations

import pytest

from agents.contract.config import IkePolicy, IkeProposal, IkeVersion, IpsecProposal
from agents.ike.machine import Load
from agents.ike.outputs import Path
from tests.harness import documents
from tests.harness.documents import pair
from tests.harness.world import Host, Network, World, up

SUITE = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-19")
ESP = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128")


def hosts(version: IkeVersion, network: Network | None = None) -> tuple[World, Host, Host]:
    world = World(7, network)
    sides = pair(version=version, ike=IkePolicy(proposals=(SUITE,)), children=(documents.child(proposals=(ESP,)),))
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    for host, side in ((lyon, sides[1]), (paris, sides[0])):
        host.configure(side.document())
    return world, paris, lyon


def load(host: Host, version: str) -> Load:
    return next(each for each in host.engine.loads() if each.version == version)


@pytest.mark.parametrize("version", [IkeVersion.V1, IkeVersion.V2])
def test_what_is_up_is_counted_by_the_machine_that_has_it(version: IkeVersion) -> None:
    world, paris, lyon = hosts(version)
    assert world.run(10, up(paris, lyon))
    world.run(1)
    for host in (paris, lyon):
        for each in host.engine.loads():
            one = int(each.version == version)
            assert each == Load(version=each.version, tunnels=one, ike_sas=one, half_open=0, children=one, bugs=0)


@pytest.mark.parametrize("version", [IkeVersion.V1, IkeVersion.V2])
def test_what_is_under_way_is_half_open(version: IkeVersion) -> None:
    world, paris, _ = hosts(version, Network(loss=1.0))
    world.run(1)
    assert (load(paris, version).half_open, load(paris, version).ike_sas) == (1, 0)


@pytest.mark.parametrize("version", [IkeVersion.V1, IkeVersion.V2])
def test_a_bug_counts_for_the_version_it_is_in(version: IkeVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    world, paris, lyon = hosts(version)
    assert world.run(10, up(paris, lyon))
    machine = lyon.engine.v1 if version is IkeVersion.V1 else lyon.engine.v2
    assert machine is not None

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(machine, "_route", broken)
    header = b"cookie_icookie_r" + bytes((11, 0x10 if version is IkeVersion.V1 else 0x20, 5, 0)) + bytes(4)
    path = Path(local_address="192.0.2.2", local_port=500, remote_address="192.0.2.1", remote_port=500)
    lyon.engine.receive(header + (28).to_bytes(4, "big"), path, world.now)
    assert {each.version: each.bugs for each in lyon.engine.loads() if each.bugs} == {str(version): 1}
