"""IKEv1 over a bad network, many seeds: whatever is lost, repeated or reordered, both ends agree in the end.

Each seed runs one tunnel through establishment and actions at random moments under 20 % loss, duplicates, reordering,
then lets the network recover, and looks: up on both sides with equal keys, or down on both; nothing left over.
``make seeds`` runs more.
"""

from __future__ import annotations

import os

import pytest

from agents.contract.config import ExchangeMode, Retransmission
from tests.harness import v1
from tests.harness.seeds import Cast
from tests.harness.seeds_v1 import check_aggressive, check_main, run_seed, verdict
from tests.harness.world import Network, World, up

SEEDS = int(os.environ.get("VPNCONSOLE_SEEDS", "1000")) // 4
_BATCHES = 5


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_main_mode(batch: int) -> None:
    results = [check_main(seed) for seed in range(batch, SEEDS, _BATCHES)]
    assert not {seed: problem for seed, problem in results if problem is not None}


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_aggressive_mode(batch: int) -> None:
    results = [check_aggressive(seed) for seed in range(batch, SEEDS, _BATCHES)]
    assert not {seed: problem for seed, problem in results if problem is not None}


@pytest.mark.parametrize("mode", v1.MODES)
def test_most_seeds_end_up(mode: ExchangeMode) -> None:
    """What is looked at in the end is mostly a tunnel that is up: where all were down, the rest would prove little."""
    casts = [run_seed(seed, mode) for seed in range(40)]
    assert sum(up(*cast.hosts)() for cast in casts) > 25


@pytest.mark.parametrize("mode", v1.MODES)
@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_short_lifetimes(seed: int, mode: ExchangeMode) -> None:
    """Both ends renew both children every minute and phase 1 every minute and a half, over the bad network."""
    network = Network(loss=0.15, duplicates=0.15, delay_s=(0.005, 0.8))
    scene = v1.Scene(
        mode,
        world=World(("hour", str(mode), seed), network),
        types=v1.BOTH,
        ike=v1.policy(mode, lifetime_s=90, dpd_interval_s=15),
        children=(
            v1.child(lifetime_s=60, pfs_groups=("group-19",) if seed % 2 else ()),
            v1.child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",), lifetime_s=70),
        ),
    )
    for side in (scene.left, scene.right):
        side.retransmission = Retransmission(initial_ms=500, factor=1.6, tries=7)
    world, (paris, lyon) = scene.world, scene.hosts
    scene.start()
    world.run(30)
    for _ in range(180):
        world.run(20)
        assert max(len(v1.machine(host).sas) for host in (paris, lyon)) < 12
        assert max(len(host.data_plane.sas) for host in (paris, lyon)) <= 16
    network.loss = network.duplicates = 0.0
    network.delay_s = (0.01, 0.02)
    cast = Cast(world=world, paris=paris, lyon=lyon, sides=(scene.left, scene.right))
    assert world.run(250, lambda: up(paris, lyon)() and verdict(cast) is None), verdict(cast)
    assert paris.codes()["child.rekeyed"] > 60
