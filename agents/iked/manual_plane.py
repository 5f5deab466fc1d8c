"""The children with manual keys in one data plane: put in, changed, taken out. What is wanted is decided elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agents.dataplane.base import DataplaneError, Driver, PolicySpec, SaId, SaSpec
from agents.iked import trace
from agents.iked.manual_specs import Bundle, Key
from agents.iked.traffic import Traffic
from agents.runtime.logs import bound

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """A child in the data plane, and since when its SAs stand (monotonic seconds)."""

    bundle: Bundle
    at: float


class InPlace:
    """What stands in a data plane from its opening to its loss; work that is under way then changes nothing here.

    ``clock`` returns monotonic seconds.
    """

    def __init__(self, traffic: Traffic, clock: Callable[[], float]) -> None:
        self._traffic = traffic
        self._clock = clock
        self._children: dict[Key, Standing] = {}
        self.lost = False

    def get(self, key: Key) -> Standing | None:
        """Return a child that stands."""
        return self._children.get(key)

    def names(self, tunnel_id: str) -> tuple[str, ...]:
        """Return the children of a tunnel that stand."""
        return tuple(name for its_tunnel, name in self._children if its_tunnel == tunnel_id)

    def child_of(self, sa: SaId) -> Key | None:
        """Return the child that an SA belongs to."""
        for key, standing in self._children.items():
            if sa in {spec.id for spec in standing.bundle.sas}:
                return key
        return None

    async def put(self, driver: Driver, key: Key, bundle: Bundle, *, anew: bool) -> str | None:
        """Install or change a child; returns why that was refused, and then nothing of it is left.

        SAs that stay as they are keep working, except with ``anew``. Policies that stay are not touched: while SAs
        change, traffic waits for them and does not go in clear text.
        """
        standing = self._children.pop(key, None)
        kept = frozenset(standing.bundle.policies if standing is not None else ())
        there: tuple[SaSpec, ...] = standing.bundle.sas if standing is not None else ()
        try:
            if standing is None or anew or there != bundle.sas:
                await self._remove_sas(driver, there)
                there = ()
                for spec in bundle.sas:
                    await driver.add_sa(spec)
                    there += (spec,)
                    self._started(spec, bundle, key)
                standing = Standing(bundle, self._clock())
            for policy in bundle.policies:
                if policy not in kept:
                    await driver.add_policy(policy)
                    trace.policy("put in place", policy)
        except DataplaneError as error:
            await self._remove_policies(driver, kept.union(bundle.policies))
            await self._remove_sas(driver, there)
            return str(error)
        rows = {(policy.direction, policy.selector) for policy in bundle.policies}
        await self._remove_policies(driver, (each for each in kept if (each.direction, each.selector) not in rows))
        self._children[key] = Standing(bundle, standing.at)
        return None

    async def take_out(self, driver: Driver, key: Key) -> None:
        """Remove a child, if it stands: the policies first, so that no traffic asks for the SAs."""
        standing = self._children.pop(key, None)
        if standing is not None:
            await self._remove_policies(driver, standing.bundle.policies)
            await self._remove_sas(driver, standing.bundle.sas)

    def _started(self, spec: SaSpec, bundle: Bundle, key: Key) -> None:
        trace.installed(spec)
        if not self.lost:
            self._traffic.started(spec, bundle.inbound.spi, key[1])

    async def _remove_sas(self, driver: Driver, specs: Sequence[SaSpec]) -> None:
        """Remove SAs, after a last look at what they counted."""
        if specs:
            try:
                await self._traffic.refresh(driver)
            except DataplaneError as error:
                _warn(specs[0].tunnel_id, error)
        for spec in specs:
            if not self.lost:
                self._traffic.ended(spec.id)
            trace.removed(spec.id)
            try:
                await driver.remove_sa(spec.id)
            except DataplaneError as error:
                _warn(spec.tunnel_id, error)

    async def _remove_policies(self, driver: Driver, policies: Iterable[PolicySpec]) -> None:
        for policy in policies:
            trace.policy("taken out", policy)
            try:
                await driver.remove_policy(policy)
            except DataplaneError as error:
                _warn(policy.tunnel_id, error)


def _warn(tunnel_id: str, error: DataplaneError) -> None:
    bound(_log, tunnel=tunnel_id).warning("%s", error)
    trace.failed(str(error))
