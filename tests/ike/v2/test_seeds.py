"""A bad network, many seeds: whatever is lost, repeated or reordered, both ends agree in the end.

Each seed runs one tunnel through establishment and actions at random moments under 20 % loss, duplicates, reordering,
then lets the network recover, and looks: established on both sides with equal keys, or closed on both; nothing half
open. ``make seeds`` runs ten times as many.
"""

from __future__ import annotations

import os

import pytest

from agents.contract.config import ConnectionType, IkePolicy, Retransmission
from tests.harness.documents import FAST_IKE, child, pair
from tests.harness.seeds import Cast, check, verdict
from tests.harness.world import Network, World, up

SEEDS = int(os.environ.get("VPNCONSOLE_SEEDS", "1000"))
_BATCHES = 20


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_seeds(batch: int) -> None:
    results = [check(seed) for seed in range(batch, SEEDS, _BATCHES)]
    assert not {seed: problem for seed, problem in results if problem is not None}


@pytest.mark.parametrize("seed", range(6))
def test_an_hour_of_short_lifetimes(seed: int) -> None:
    """Both ends rekey both children every minute and the IKE SA every minute and a half, over the bad network."""
    network = Network(loss=0.15, duplicates=0.15, delay_s=(0.005, 0.8))
    world = World(("hour", seed), network)
    left, right = pair(
        types=(ConnectionType.BOTH, ConnectionType.BOTH),
        ike=IkePolicy(proposals=(FAST_IKE,), lifetime_s=90, dpd_interval_s=15),
        children=(
            child(lifetime_s=60, pfs_groups=("group-31",) if seed % 2 else ()),
            child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",), lifetime_s=70),
        ),
    )
    left.retransmission = right.retransmission = Retransmission(initial_ms=500, factor=1.6, tries=7)
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(30)
    for _ in range(180):
        world.run(20)
        assert max(len(host.engine.v2.sas) for host in (paris, lyon)) < 10
        assert max(len(host.data_plane.sas) for host in (paris, lyon)) <= 12
    network.loss = network.duplicates = 0.0
    network.delay_s = (0.01, 0.02)
    cast = Cast(world=world, paris=paris, lyon=lyon, sides=(left, right))
    assert world.run(250, lambda: up(paris, lyon)() and verdict(cast) is None), verdict(cast)
    assert paris.codes()["child.rekeyed"] > 100


@pytest.mark.parametrize("seed", [41424, 52969, 73949])
def test_a_rekey_that_crosses_a_reauthentication(seed: int) -> None:
    """An IKE SA that another one replaces is rekeyed before it goes: what the rekey makes goes in its place."""
    assert check(seed) == (seed, None)
