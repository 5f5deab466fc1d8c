from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dataplane.userspace import drops
from agents.dataplane.userspace.replay import MAX_SIZE, ReplayWindow, extend


class Reference:
    """The window of RFC 4303 as a plain set of numbers seen."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    def receive(self, sequence: int) -> str | None:
        if self.size == 0:
            return None
        top = max(self.seen, default=0)
        if sequence <= top - self.size:
            # Zero is never sent at all, so it is called repeated however old it is.
            return drops.REPLAY if sequence == 0 else drops.LATE
        if sequence in self.seen or sequence == 0:
            return drops.REPLAY
        self.seen.add(sequence)
        return None


@given(
    size=st.sampled_from([0, 1, 2, 31, 32, 64, 1000, MAX_SIZE]),
    base=st.sampled_from([0, 1, 100, (1 << 32) - 200, (1 << 63) + 5]),
    steps=st.lists(st.one_of(st.integers(0, 150), st.integers(0, 10_000)), max_size=200),
)
def test_the_window_agrees_with_the_reference_model(size: int, base: int, steps: list[int]) -> None:
    window, reference = ReplayWindow(size), Reference(size)
    for step in steps:
        sequence = base + step
        verdict = window.check(sequence)
        assert verdict == reference.receive(sequence)
        if verdict is None:
            window.accept(sequence)


def test_a_check_changes_nothing() -> None:
    window = ReplayWindow(64)
    assert window.check(1_000_000) is None
    assert window.top == 0
    assert window.check(1) is None


def test_only_the_highest_number_counts_as_newest() -> None:
    window = ReplayWindow(64)
    assert window.accept(5)
    assert not window.accept(3)
    assert window.accept(6)


def test_the_bitmap_does_not_grow() -> None:
    window = ReplayWindow(MAX_SIZE)
    for sequence in range(1, 20_000):
        window.accept(sequence)
    assert window._bitmap.bit_length() == MAX_SIZE


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="window"):
        ReplayWindow(size)


_WRAP = 1 << 32


@given(
    top=st.one_of(st.integers(0, 3 * _WRAP), st.integers(2**64 - 10, 2**64 - 1)),
    step=st.one_of(st.integers(-5_000, 5_000), st.integers(-(1 << 20), _WRAP - (1 << 20) - 1)),
)
def test_the_high_half_is_found_from_late_to_far_ahead(top: int, step: int) -> None:
    number = top + step
    if 0 <= number < 2**64:
        assert extend(number % _WRAP, top) == number


@given(st.integers(0, _WRAP - 1), st.integers(0, 2**64 - 1))
def test_an_extended_number_has_64_bits_and_the_low_half_of_its_packet(low: int, top: int) -> None:
    number = extend(low, top)
    assert 0 <= number < 2**64
    assert number % _WRAP == low


def test_examples_of_the_high_half() -> None:
    assert extend(1, 0) == 1
    assert extend(0xFFFFFFFF, 0) == 0xFFFFFFFF  # nothing is older than 0
    assert extend(0, 0xFFFFFFFF) == _WRAP
    assert extend(0xFFFFFFF0, _WRAP + 5) == 0xFFFFFFF0
    assert extend(5, 2 * _WRAP + 5) == 2 * _WRAP + 5
