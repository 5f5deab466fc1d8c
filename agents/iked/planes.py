"""Which data plane this gateway uses, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.contract.config import DataPlane
from agents.dataplane.base import Driver, Features
from agents.dataplane.kernel import KernelDriver
from agents.iked.userspace_driver import UserspaceDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A choice: ``features.available`` says whether it can be used now, ``reason`` is the agent's sentence."""

    driver: Driver
    features: Features
    reason: str

    @property
    def kernel_esp(self) -> bool:
        """Whether the kernel carries ESP, so that IKE's sockets must be prepared for it."""
        return isinstance(self.driver, KernelDriver)


class Planes:
    """The data planes at hand; ``kernel`` and ``userspace`` make a driver each."""

    def __init__(self, kernel: Callable[[], Driver], userspace: Callable[[], Driver]) -> None:
        self._kernel = kernel
        self._userspace = userspace

    @classmethod
    def of_this_machine(cls, espd_socket: str) -> Planes:
        """Return the kernel of this network namespace and the ``espd`` behind a socket."""
        return cls(KernelDriver, lambda: UserspaceDriver(espd_socket))

    async def choose(self, wanted: DataPlane) -> Plane:
        """Probe and choose: ``auto`` prefers the kernel, the others are taken at their word."""
        if wanted is DataPlane.USERSPACE:
            return await self._plane(self._userspace(), "the configuration asks for it")
        kernel = await self._plane(self._kernel(), "the configuration asks for it")
        if wanted is DataPlane.KERNEL:
            return kernel
        if kernel.features.available:
            return Plane(driver=kernel.driver, features=kernel.features, reason=f"kernel: {kernel.features.reason}")
        return await self._plane(self._userspace(), kernel.features.reason)

    async def _plane(self, driver: Driver, why: str) -> Plane:
        features = await driver.features()
        if features.available:
            return Plane(driver=driver, features=features, reason=f"{features.driver}: {why}")
        return Plane(driver=driver, features=features, reason=f"{features.driver} is not available: {features.reason}")
