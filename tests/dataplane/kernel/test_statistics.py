"""The kernel's own counters: those of the namespace, and none where the kernel keeps none."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agents.dataplane.base import DataplaneError
from agents.dataplane.kernel import KernelDriver, statistics

InNamespace = Callable[[Callable[[], Awaitable[Any]]], None]


def test_the_counters_of_a_new_namespace_are_zero_under_the_kernels_names(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        with pytest.raises(DataplaneError) as caught:
            await driver.counts()
        assert caught.value.errno == errno.ENOTCONN
        await driver.open()
        counts = await driver.counts()
        await driver.close()
        assert {"XfrmInNoStates", "XfrmInStateProtoError", "XfrmOutNoStates"} <= {each.name for each in counts}
        assert {each.count for each in counts} == {0}

    in_namespace(body)


def test_a_kernel_without_counters_has_none_to_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(statistics, "_PATH", str(tmp_path / "xfrm_stat"))
    absent = statistics.Statistics()
    assert absent.read() == ()
    absent.close()
