"""What is sent through a tunnel while it is measured: TCP and UDP by iperf3, and pings beside them."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.bench.ends import INNER, Ends

IP_AND_UDP_OCTETS = 28
_PING_INTERVAL_S = 0.01
_MBIT = 1e6


@dataclass(frozen=True, slots=True)
class Tcp:
    """One stream: Mbit/s received, and seconds of the data planes' processor time per Gbit, both ends together."""

    mbit_s: float
    cpu_s_per_gbit: float


@dataclass(frozen=True, slots=True)
class Udp:
    """A flood of one size: packets a second that arrived, the share that did not, processor time per arrived one."""

    packets_s: float
    lost: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips in milliseconds."""

    median_ms: float
    p99_ms: float
    lost: float


async def tcp(ends: Ends, seconds: int) -> Tcp:
    """Send one TCP stream from the first to the second end."""
    result, spent = await _iperf(ends, ["-t", str(seconds)])
    bits = result["end"]["sum_received"]["bits_per_second"]
    return Tcp(bits / _MBIT, spent / (bits * seconds / 1e9))


async def udp(ends: Ends, octets: int, seconds: int) -> Udp:
    """Send IP packets of ``octets`` as fast as one sender can: what arrives is what the data planes carried."""
    payload = octets - IP_AND_UDP_OCTETS
    result, spent = await _iperf(ends, ["-u", "-b", "0", "-l", str(payload), "-t", str(seconds)])
    total = result["end"]["sum"]
    arrived = total["packets"] - total["lost_packets"]
    return Udp(arrived / total["seconds"], total["lost_percent"] / 100, 1e6 * spent / max(1, arrived))


async def latency(ends: Ends, seconds: int, *, loaded: bool) -> Latency:
    """Ping while one TCP stream fills the tunnel, or while nothing else does."""
    if not loaded:
        return await _ping(ends, seconds)
    async with _server(ends):
        command = ["iperf3", "-c", INNER[1], "-B", INNER[0], "-t", str(seconds + 1), "-J"]
        process = await asyncio.create_subprocess_exec(
            *ends.client.command(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        found = await _ping(ends, seconds)
        output, _none = await process.communicate()
        _result(output)
    return found


async def _ping(ends: Ends, seconds: int) -> Latency:
    count = round(seconds / _PING_INTERVAL_S)
    command = ["ping", "-n", "-i", str(_PING_INTERVAL_S), "-c", str(count), "-W", "2", "-I", INNER[0], INNER[1]]
    process = await asyncio.create_subprocess_exec(*ends.client.command(command), stdout=asyncio.subprocess.PIPE)
    output, _none = await process.communicate()
    times = sorted(float(each) for each in re.findall(rb"time=([\d.]+) ms", output))
    if not times:
        raise RuntimeError(f"{ends.name}: no ping came back")
    return Latency(statistics.median(times), times[int(0.99 * (len(times) - 1))], 1 - len(times) / count)


async def _iperf(ends: Ends, arguments: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Run iperf3 from the first to the second end; returns its report and the data planes' processor time."""
    async with _server(ends):
        before = ends.cpu_s()
        command = ends.client.command(["iperf3", "-c", INNER[1], "-B", INNER[0], "-J", *arguments])
        # Errors are in the report; beside it iperf3 only warns of the size that was asked for.
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _none = await process.communicate()
        spent = ends.cpu_s() - before
    return _result(output), spent


def _result(output: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output)
    if "error" in result:
        raise RuntimeError(f"iperf3: {result['error']}")
    return result


@asynccontextmanager
async def _server(ends: Ends) -> AsyncIterator[None]:
    """Have an iperf3 listen for one client at the second end."""
    listening = await asyncio.create_subprocess_exec(
        *ends.server.command(["iperf3", "-s", "-1", "-B", INNER[1], "--forceflush"]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert listening.stdout is not None
    try:
        async with asyncio.timeout(120):
            while b"listening" not in await listening.stdout.readline():
                pass
            yield
            await listening.communicate()
    finally:
        if listening.returncode is None:
            listening.kill()
            await listening.wait()
