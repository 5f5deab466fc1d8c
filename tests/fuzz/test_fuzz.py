"""A short session of every fuzz target; ``make fuzz`` runs them for longer."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from tests.fuzz import targets as v2_targets
from tests.fuzz import v1_states, v1_targets
from tests.fuzz.__main__ import Session, fuzz
from tests.fuzz.guidance import Corpus, Edges
from tests.fuzz.states import NAMES, scene
from tests.harness.v1 import runtime


def test_a_short_session_finds_nothing() -> None:
    sessions = fuzz(seconds=12.0, seed=20_260_101)
    assert sessions is not None
    assert all(session.inputs > 50 for session in sessions), [session.summary() for session in sessions]


@pytest.mark.parametrize("targets", [v2_targets, v1_targets], ids=["v2", "v1"])
def test_a_session_repeats_by_its_seed(targets: ModuleType) -> None:
    messages = targets.corpus()
    found = []
    for _ in range(2):
        session = Session(targets.codec(messages), seed=7)
        assert all(session.once() for _ in range(3))
        assert session.target.edges is not None
        found.append(len(session.target.edges.seen))
    assert found[0] == found[1] > 300


def test_guidance_finds_what_chance_alone_does_not() -> None:
    """A lock of four octets, each a step of its own: only who keeps half-opened locks gets through."""

    def attempts(guided: bool) -> int:
        chance, edges = random.Random(3), Edges("tests/fuzz/test_fuzz.py")
        inputs = Corpus([bytes(4)], edges)
        for number in range(1, 20_001):
            octets = inputs.draw(chance) if guided else bytes(4)
            place = chance.randrange(4)
            changed = octets[:place] + bytes((chance.randrange(16),)) + octets[place + 1 :]
            opened: list[bool] = []
            if guided:
                inputs.watch(changed, lambda changed=changed, opened=opened: opened.append(_lock(changed)))  # type: ignore[misc]
            else:
                opened.append(_lock(changed))
            if opened == [True]:
                return number
        return 20_001

    assert attempts(guided=True) < 5_000
    assert attempts(guided=False) == 20_001


def _lock(octets: bytes) -> bool:
    if octets[0] != 9:
        return False
    if octets[1] != 7:
        return False
    if octets[2] != 3:
        return False
    return octets[3] == 11


def test_every_scene_is_the_state_it_is_named_for() -> None:
    states = {name: str(sa.state) for name in NAMES if (sa := (held := scene(name, 0)).sa_of(held.victim)) is not None}
    assert states == {
        "init-received": "init-received",
        "intermediate": "init-received",
        "intermediate-sent": "authenticating",
        "authenticating": "authenticating",
        "established": "established",
        "rekeying-child": "established",
        "rekeying-ike": "established",
        "following-up": "established",
        "followed-up": "established",
        "deleting": "deleting",
        "asked-while-rekeying": "established",
    }


def test_every_scene_of_ikev1_is_the_state_it_is_named_for() -> None:
    found = {}
    for name in v1_states.NAMES:
        held = v1_states.scene(name, 0)
        sa = held.sa()
        assert sa is not None
        children = {str(child.state) for child in runtime(held.victim).children}
        found[name] = (str(sa.state), sa.waiting, "/".join(sorted(children)))
    assert found == {
        "main-2": ("sa-sent", False, ""),
        "main-3": ("sa-answered", False, ""),
        "main-4": ("ke-sent", False, ""),
        "main-5": ("ke-answered", False, ""),
        "main-5-signed": ("ke-answered", False, ""),
        "main-6": ("id-sent", False, ""),
        "main-6-signed": ("id-sent", False, ""),
        "aggressive-2": ("aggressive-sent", False, ""),
        "aggressive-2-signed": ("aggressive-sent", False, ""),
        "aggressive-3": ("aggressive-answered", False, ""),
        "aggressive-3-signed": ("aggressive-answered", False, ""),
        "quick-1": ("established", False, ""),
        "quick-2": ("established", False, ""),
        "quick-3": ("established", False, "installing"),
        "psk-awaited-by-initiator": ("ke-sent", True, ""),
        "psk-awaited-by-responder": ("sa-answered", True, ""),
        "psk-awaited-aggressive": ("aggressive-answered", True, ""),
        "signature-awaited": ("ke-sent", True, ""),
        "verdict-awaited": ("aggressive-sent", True, ""),
        "signature-awaited-aggressive": ("aggressive-answered", True, ""),
        "installing-as-initiator": ("established", False, "installing"),
        "installing-as-responder": ("established", False, "installing"),
        "standing": ("established", False, "installed"),
        "rekeying-child": ("established", False, "installed"),
        "rekeying-ike": ("sa-sent", False, "installed"),
        "cleared": ("sa-sent", False, ""),
        "children-cleared": ("established", False, ""),
    }


def test_a_forged_message_is_taken_for_the_peers() -> None:
    """What the fuzzer seals with the true keys gets past every check that only the peer can pass."""
    taken = 0
    chance = random.Random(5)
    messages = [each for each in v1_targets.corpus() if each[18] in (5, 32) and each[19] & 1]
    for _ in range(60):
        held = v1_states.scene("standing", 1)
        forged = held.forge(chance.choice(messages), chance)
        assert forged is not None
        held.victim.do(held.victim.engine.receive, forged, held.path())
        counters = held.victim.engine.counters
        taken += not (
            counters["drop.integrity"] or counters["drop.payload-rules"] or counters["ikev1.payload-malformed"]
        )
    assert taken > 30
