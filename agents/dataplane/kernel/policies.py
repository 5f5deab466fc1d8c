"""The policies that the driver wants in the kernel: put, removed, moved, listed, and put back when others remove them.

A policy of the seam is several of the kernel's (:func:`rows_of`): its ports in blocks, and its inbound side for what
is forwarded too. Two that select the same may stand side by side when they are tied to different interfaces.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agents.contract.config import Mode
from agents.dataplane.base import DataplaneError, Direction, PolicySpec, SaSpec, Selector
from agents.dataplane.kernel import rows, tables
from agents.dataplane.kernel.channel import Requests
from agents.dataplane.kernel.rows import SHARED, Steering

_DIRECTIONS = {
    Direction.IN: (rows.POLICY_IN, rows.POLICY_FORWARD),
    Direction.OUT: (rows.POLICY_OUT,),
}
"""A policy of the seam and the kernel's policies that make it up."""
_TRANSPORT_DIRECTIONS = {Direction.IN: (rows.POLICY_IN,), Direction.OUT: (rows.POLICY_OUT,)}
"""In transport mode the host itself is the end: nothing is forwarded."""

RowKey = tuple[int, Selector, Steering]
"""What names one of the kernel's policies: its direction, its selector as it reads there, and its interface."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A policy and the interface it is tied to."""

    spec: PolicySpec
    steering: Steering = SHARED

    @property
    def key(self) -> tuple[Direction, Selector, Steering]:
        """What makes two policies the same: a repeat replaces."""
        return self.spec.direction, canonical(self.spec.selector), self.steering

    def rows(self) -> Iterator[tuple[RowKey, PolicySpec]]:
        """Yield the kernel's policies that make up this one: the name of each and the piece that it holds."""
        for direction, piece in rows_of(self.spec):
            yield (direction, canonical(piece.selector), self.steering), piece


class Policies:
    """What is wanted; the kernel's table is read and written through the :class:`Requests` that each call is given."""

    def __init__(self) -> None:
        self._placed: dict[tuple[Direction, Selector, Steering], Placed] = {}
        self._by_row: dict[RowKey, Placed] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._placed.clear()
        self._by_row.clear()

    async def put(self, requests: Requests, spec: PolicySpec, steering: Steering) -> None:
        """Install a policy with all its rows or none; raises EEXIST where another owner has one of them."""
        placed = Placed(spec=spec, steering=steering)
        done: list[tuple[RowKey, PolicySpec]] = []
        try:
            for key, piece in placed.rows():
                await tables.write_policy(requests, piece, key[0], steering)
                done.append((key, piece))
        except DataplaneError:
            await _remove_rows(requests, done)
            raise
        self._placed[placed.key] = placed
        for key, _ in placed.rows():
            self._by_row[key] = placed

    async def remove(self, requests: Requests, spec: PolicySpec, steering: Steering) -> None:
        """Remove a policy unless another has its place; ``steering`` is where one that is not known would be."""
        found = [
            placed
            for placed in self._placed.values()
            if placed.key[:2] == (spec.direction, canonical(spec.selector)) and _kinds(placed.spec) == _kinds(spec)
        ]
        for placed in found or [Placed(spec=spec, steering=steering)]:
            self._forget(placed)
            await _remove_rows(requests, placed.rows())

    async def steer(self, requests: Requests, tunnel_id: str, steering: Steering) -> None:
        """Tie a tunnel's policies to another interface."""
        for placed in tuple(self._placed.values()):
            if placed.spec.tunnel_id != tunnel_id or placed.steering == steering or is_of_the_host(placed.spec.mode):
                continue
            await self.put(requests, placed.spec, steering)
            self._forget(placed)
            await _remove_rows(requests, placed.rows())

    async def move(self, requests: Requests, old: SaSpec, new: SaSpec) -> None:
        """Let the policies of an SA follow it to other outer addresses."""
        for placed in tuple(self._placed.values()):
            spec = placed.spec
            same = (spec.direction, spec.reqid, spec.source, spec.destination)
            if same == (old.direction, old.reqid, old.source, old.destination):
                moved = dataclasses.replace(spec, source=new.source, destination=new.destination)
                await self.put(requests, moved, placed.steering)

    def wanted(self, key: RowKey | None) -> tuple[Placed, ...]:
        """Return the policy that a row is part of, with None all."""
        if key is None:
            return tuple(self._placed.values())
        return (self._by_row[key],) if key in self._by_row else ()

    async def put_back(self, requests: Requests, placed: Placed) -> bool:
        """Put a policy back that others removed; whether there was need: we may have changed it ourselves meanwhile."""
        if self._placed.get(placed.key) is not placed or await _in_place(requests, placed):
            return False
        await self.put(requests, placed.spec, placed.steering)
        return True

    def listed(self, dumped: Iterable[rows.PolicyRow]) -> tuple[PolicySpec, ...]:
        """Return what the kernel holds: policies as they were added where all their rows are there, else row by row.

        An inbound row counts only together with its forward twin, so a policy that lost one is not listed.
        """
        rest = {(row.direction, row.selector, row.steering): row for row in dumped}
        found = []
        for placed in self._placed.values():
            wanted = [key for key, _ in placed.rows()]
            if all(key in rest and _same(rest[key], placed.spec) for key in wanted):
                found.append(placed.spec)
                for key in wanted:
                    del rest[key]
        for (direction, selector, steering), row in rest.items():
            if direction == rows.POLICY_OUT:
                found.append(rows.unknown_policy(Direction.OUT, row))
            elif direction == rows.POLICY_IN and (rows.POLICY_FORWARD, selector, steering) in rest:
                found.append(rows.unknown_policy(Direction.IN, row))
        return tuple(found)

    def _forget(self, placed: Placed) -> None:
        if self._placed.get(placed.key) is not placed:
            return
        del self._placed[placed.key]
        for key, _ in placed.rows():
            if self._by_row.get(key) is placed:
                del self._by_row[key]


def is_of_the_host(mode: Mode) -> bool:
    """Whether traffic is between the host's own outer addresses: no route leads it into an interface of a tunnel."""
    return mode is Mode.TRANSPORT


def rows_of(spec: PolicySpec) -> Iterator[tuple[int, PolicySpec]]:
    """Yield the kernel's policies that make up one of the seam: direction and piece."""
    directions = _TRANSPORT_DIRECTIONS if spec.mode is Mode.TRANSPORT else _DIRECTIONS
    for piece in rows.pieces(spec):
        for direction in directions[spec.direction]:
            yield direction, piece


def canonical(selector: Selector) -> Selector:
    """Return the selector as the kernel's rows read."""
    return dataclasses.replace(
        selector,
        source=str(ipaddress.ip_network(selector.source)),
        destination=str(ipaddress.ip_network(selector.destination)),
    )


async def _in_place(requests: Requests, placed: Placed) -> bool:
    for (direction, _, _), piece in placed.rows():
        row = await tables.find_policy(requests, piece, direction, placed.steering)
        if row is None or not _same(row, placed.spec):
            return False
    return True


async def _remove_rows(requests: Requests, pieces: Iterable[tuple[RowKey, PolicySpec]]) -> None:
    """Remove rows of ours that still hold these pieces."""
    for (direction, _, steering), piece in pieces:
        row = await tables.find_policy(requests, piece, direction, steering)
        if row is not None and rows.kinds(row.templates) == _kinds(piece):
            await tables.remove_policy_row(requests, row)


def _kinds(spec: PolicySpec) -> tuple[tuple[int, int, int], ...]:
    return rows.kinds(rows.templates(spec))


def _same(row: rows.PolicyRow, spec: PolicySpec) -> bool:
    return (row.templates, row.priority) == (rows.templates(spec), spec.priority)
