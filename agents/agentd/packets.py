"""Dropped ESP packets since the data plane started, as ``espd`` or the kernel's XFRM statistics count them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.runtime.rpc import Client, RpcError, RpcUnavailable

_XFRM_STATISTICS = Path("/proc/net/xfrm_stat")
_TIMEOUT_S = 2.0

# include/uapi/linux/snmp.h and Documentation/networking/xfrm_proc.rst
_KERNEL_INTEGRITY = ("XfrmInStateProtoError",)
_KERNEL_REPLAY = ("XfrmInStateSeqError",)
_KERNEL_POLICY = ("XfrmInTmplMismatch", "XfrmInNoPols", "XfrmInPolBlock", "XfrmInPolError")


async def dropped(driver: str | None, espd_socket: Path) -> dict[str, int] | None:
    """Return ``in``, ``in.integrity``, ``in.replay``, ``in.policy`` and ``out``, or None where nobody can say."""
    if driver == "userspace":
        try:
            async with await Client.connect(espd_socket) as client:
                answer = await client.call("health", timeout_s=_TIMEOUT_S)
        except (RpcError, RpcUnavailable):
            return None
        return from_espd(answer["counters"])
    if driver == "kernel":
        return _read_kernel()
    return None


def _read_kernel() -> dict[str, int] | None:
    try:
        return from_kernel(_XFRM_STATISTICS.read_text(encoding="ascii"))
    except OSError:
        return None  # a kernel without CONFIG_XFRM_STATISTICS does not count


def from_espd(counters: Mapping[str, int]) -> dict[str, int]:
    """Sum ``espd``'s counts by code: ``esp.*`` and ``in.*`` came in, ``out.*`` wanted out."""

    def total(*prefixes: str) -> int:
        return sum(count for code, count in counters.items() if code.startswith(prefixes))

    return {
        "in": total("esp.", "in."),
        "in.integrity": total("esp.integrity"),
        "in.replay": total("esp.replay", "esp.late"),
        "in.policy": total("esp.policy"),
        "out": total("out."),
    }


def from_kernel(statistics: str) -> dict[str, int]:
    """Sum the lines of ``/proc/net/xfrm_stat``."""
    counts = {name: int(value) for name, value in (line.split() for line in statistics.splitlines() if line.strip())}

    def total(*names: str) -> int:
        return sum(counts.get(name, 0) for name in names)

    return {
        "in": sum(count for name, count in counts.items() if name.startswith("XfrmIn")),
        "in.integrity": total(*_KERNEL_INTEGRITY),
        "in.replay": total(*_KERNEL_REPLAY),
        "in.policy": total(*_KERNEL_POLICY),
        "out": sum(count for name, count in counts.items() if name.startswith("XfrmOut")),
    }
