"""Ports of selectors that are types and codes."""

from __future__ import annotations

import pytest

from agents.contract.traffic import types_and_codes


@pytest.mark.parametrize(
    ("ports", "blocks"),
    [
        ((0x0800, 0x08FF), [((8, 8), (0, 255))]),
        ((0x0304, 0x0304), [((3, 3), (4, 4))]),
        ((0x0300, 0x05FF), [((3, 5), (0, 255))]),
        ((0x0304, 0x0401), [((3, 3), (4, 255)), ((4, 4), (0, 1))]),
        ((0x0304, 0x0801), [((3, 3), (4, 255)), ((4, 7), (0, 255)), ((8, 8), (0, 1))]),
        ((0x0001, 0xFFFF), [((0, 0), (1, 255)), ((1, 255), (0, 255))]),
        ((0x0000, 0xFFFE), [((0, 254), (0, 255)), ((255, 255), (0, 254))]),
    ],
)
def test_a_range_of_numbers_falls_into_types_with_the_same_codes(
    ports: tuple[int, int], blocks: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    assert types_and_codes(ports) == blocks
    numbers = [
        number << 8 | code
        for types, codes in blocks
        for number in range(types[0], types[1] + 1)
        for code in range(codes[0], codes[1] + 1)
    ]
    assert numbers == list(range(ports[0], ports[1] + 1))
