"""A short session of every fuzz target; ``make fuzz`` runs them for longer."""

from __future__ import annotations

import random

from tests.fuzz.__main__ import Session, fuzz
from tests.fuzz.guidance import Corpus, Edges
from tests.fuzz.states import NAMES, scene
from tests.fuzz.targets import codec, corpus


def test_a_short_session_finds_nothing() -> None:
    sessions = fuzz(seconds=6.0, seed=20_260_101)
    assert sessions is not None
    assert all(session.inputs > 50 for session in sessions), [session.summary() for session in sessions]


def test_a_session_repeats_by_its_seed() -> None:
    messages = corpus()
    found = []
    for _ in range(2):
        session = Session(codec(messages), seed=7)
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
