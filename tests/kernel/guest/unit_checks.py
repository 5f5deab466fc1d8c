"""The agent as systemd runs it: installed, enabled, restricted as its units say, killed, rebooted and taken off again.

The machine itself is the gateway ``paris``; ``lyon`` is an ``iked`` alone in a namespace. The checks build on each
other: they run in the order of :data:`CHECKS`, over two boots.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.cli.ask import Agentd, CommandError, ask
from agents.contract.config import DataPlane, GatewayDocument, IkePolicy, IkeProposal
from agents.contract.status import GatewayStatus, TunnelState
from agents.runtime.paths import DEFAULT_RUN, DEFAULT_STATE, Paths
from deploy.lab.netns import Namespace, connect, run
from deploy.lab.qemu.booted import AGAIN, BOOT_VARIABLE
from deploy.lab.topology import LYON
from deploy.lab.uml import RESULT_VARIABLE
from tests.agentd.fakes import Authority
from tests.agentd.gateways import INNER, OUTER, Gateway, gateway_document
from tests.harness import echo
from tests.kernel.guest.gateways import Gateway as Iked
from tests.kernel.guest.harness import report

ROOT = Path(__file__).resolve().parents[3]
UNITS = Path("/etc/systemd/system")
TARGET, FILTER = "vpn-agent.target", "vpn-agent-filter.service"
DAEMONS = ("vpn-agent-espd.service", "vpn-agent-iked.service", "vpn-agent-agentd.service")
VPN_AGENT = "/usr/local/sbin/vpn-agent"
TABLE = ("nft", "list", "table", "inet", "vpnconsole")
WORKERS = 2
WAIT_S = 120.0
"""For what has to come: emulated on a busy machine a process takes many seconds to begin."""


class Installed(Gateway):
    """The gateway whose processes are systemd's."""

    @property
    def paths(self) -> Paths:
        return Paths(state=DEFAULT_STATE, run=DEFAULT_RUN)


class Ends:
    """The machine, and its peer in a namespace."""

    def __init__(self) -> None:
        self.broken: str | None = None
        self.here, self.far = Namespace("", "here"), Namespace("", "far")
        directory = Path(os.environ["TMPDIR"])
        self.gateway = Installed("paris", self.here, self.here, directory, Authority.make())
        self.lyon = Iked(LYON, self.far, self.document("lyon", 1))

    def build(self) -> None:
        """Give the machine its networks: the way to the peer and one behind it, here and there."""
        run("ip", "netns", "attach", self.here.name, str(os.getpid()))
        self.far.create()
        connect(self.here, "wan", [f"{OUTER['paris']}/24"], self.far, "wan", [f"{OUTER['lyon']}/24"])
        for namespace, name in ((self.here, "paris"), (self.far, "lyon")):
            namespace.ip("link", "add", "lan", "type", "dummy")
            namespace.ip("address", "add", f"{INNER[name]}.1/24", "dev", "lan")
            namespace.ip("link", "set", "lan", "up")
        self.here.ip("route", "add", f"{INNER['lyon']}.0/24", "via", OUTER["lyon"], "metric", "4000")
        self.far.ip("route", "add", f"{INNER['paris']}.0/24", "via", OUTER["paris"])

    @staticmethod
    def document(name: str, generation: int, plane: DataPlane = DataPlane.KERNEL) -> GatewayDocument:
        """The document of one end. Liveness is not looked after: only what a check does ends an SA."""
        proposal = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
        policy = IkePolicy(proposals=(proposal,), dpd_interval_s=0)
        plain = gateway_document(name, generation, ike=policy)
        return replace(plain, data_plane=plane, packet_filter=name == "paris")

    def heard(self) -> int:
        """How many of three echo requests through the tunnel have an answer."""
        target = f"{INNER['lyon']}.1"
        with echo.opened(self.here, target, f"{INNER['paris']}.1") as raw:
            return echo.answers(raw, target, 3)


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a question to other processes has a true answer, and return it."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}\n{journal()}"
        await asyncio.sleep(0.5)
    return found


def journal() -> str:
    """The last lines of the agent's units."""
    return run("journalctl", "--boot", "--no-pager", "--lines=60", "--unit=vpn-agent*", check=False)


def shown(unit: str) -> dict[str, str]:
    """The properties of a unit."""
    return dict(line.partition("=")[::2] for line in run("systemctl", "show", unit).splitlines())


def active(unit: str) -> bool:
    """Whether a unit is active, which a daemon's is when it has told so."""
    return shown(unit)["ActiveState"] == "active"


def status() -> GatewayStatus | None:
    """What the agent answers on its socket, None while nobody answers."""
    try:
        with ThreadPoolExecutor(1) as apart:  # for an event loop of its own
            found: GatewayStatus = apart.submit(ask, DEFAULT_RUN / "agentd.sock", Agentd.status).result()
            return found
    except CommandError:
        return None


def spis() -> set[str]:
    """The inbound SPIs of the tunnel while it is up."""
    found = status()
    if found is None or not found.tunnels or found.tunnels[0].state is not TunnelState.UP:
        return set()
    return {sa.spi_in for child in found.tunnels[0].children for sa in child.sas}


async def it_is_installed_and_starts(ends: Ends) -> None:
    """The environment has been made from the host by the same script; a machine here reaches no package index."""
    subprocess.run([ROOT / "deploy/agent/install.sh"], env={**os.environ, "SKIP_ENVIRONMENT": "1"}, check=True)
    ends.gateway.enrol()
    run("systemctl", "enable", "--now", TARGET)
    for unit in (TARGET, *DAEMONS):
        await eventually(partial(active, unit), f"{unit} is not active")


async def a_tunnel_carries_packets(ends: Ends) -> str:
    """Through the kernel, with the packet filter on."""
    await ends.lyon.start()
    await eventually(ends.gateway.answers, "the API does not answer")
    ends.gateway.configure(ends.document("paris", 1))
    await _carries(ends, "kernel", set())
    run(*TABLE)
    text = run(VPN_AGENT, "status")
    assert "paris-lyon" in text
    assert "not healthy" not in text
    return text


async def packets_are_captured(ends: Ends) -> None:
    run(VPN_AGENT, "capture", "start", "paris-lyon", "--view", "outer")
    assert ends.heard() == 3
    await eventually(lambda: _status().captures[0].packets >= 6, "the capture has not the packets")


async def the_kernels_tunnel_outlives_its_daemons(ends: Ends) -> None:
    before = spis()
    await _killed("vpn-agent-agentd.service")
    await _carries(ends, "kernel", set())
    assert spis() == before
    await _killed("vpn-agent-iked.service")
    await _carries(ends, "kernel", before)


async def the_filter_is_back_before_the_network(_ends: Ends) -> None:
    """As the machine found itself after the reboot, before anything else was done."""
    holding, network = shown(FILTER), shown("network-pre.target")
    assert "is in force" in run("journalctl", "--boot", "--output=cat", f"--unit={FILTER}")
    assert holding["ActiveState"] == network["ActiveState"] == "active"
    done = int(holding["ActiveEnterTimestampMonotonic"])
    assert 0 < done <= int(network["ActiveEnterTimestampMonotonic"])
    for unit in DAEMONS:
        await eventually(partial(active, unit), f"{unit} is not active")
        assert done < int(shown(unit)["ExecMainStartTimestampMonotonic"]), unit
    run(*TABLE)


async def the_tunnel_is_back_after_the_boot(ends: Ends) -> None:
    await ends.lyon.start()
    await _carries(ends, "kernel", set())


async def espd_carries_with_the_workers_of_a_drop_in(ends: Ends) -> None:
    """As docs/operations.md has it; what ``systemctl edit`` writes is this file."""
    more = UNITS / "vpn-agent-espd.service.d"
    more.mkdir()
    (more / "override.conf").write_text(f"[Service]\nEnvironment=VPN_AGENT_ESPD_WORKERS={WORKERS}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "vpn-agent-espd.service")
    ends.gateway.enrol()  # the console's key of before went with the first boot
    run("systemctl", "restart", "vpn-agent-agentd.service")
    before = spis()
    await eventually(ends.gateway.answers, "the API does not answer")
    ends.gateway.configure(ends.document("paris", 2, DataPlane.USERSPACE))
    await _carries(ends, "userspace", before)
    group = Path("/sys/fs/cgroup") / shown("vpn-agent-espd.service")["ControlGroup"].lstrip("/")
    assert len((group / "cgroup.procs").read_text().split()) == WORKERS


async def the_tunnel_is_back_after_the_end_of_espd(ends: Ends) -> None:
    before = spis()
    await _killed("vpn-agent-espd.service")
    await _carries(ends, "userspace", before)


async def it_is_taken_off(ends: Ends) -> None:
    """With everything that it put on the machine, the operator's drop-in among it."""
    done = subprocess.run([ROOT / "deploy/agent/uninstall.sh", "--purge"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = (Path("/usr/local/sbin") / name for name in ("vpn-agent", "ike", "ipsecstat"))
    places = (DEFAULT_STATE, DEFAULT_RUN, Path("/opt/vpn-agent"), *commands, *UNITS.rglob("*vpn-agent*"))
    assert [str(each) for each in places if each.exists() or each.is_symlink()] == []
    assert "vpn-agent" not in run("systemctl", "list-units", "--all", "--no-legend")
    assert "vpnconsole" not in run("nft", "list", "tables")
    assert run("ip", "route", "show", "proto", "86") == ""
    assert run("ip", "xfrm", "state") == run("ip", "xfrm", "policy") == ""


async def nothing_was_denied(_ends: Ends) -> None:
    """No system call that ends a process, no capability that is missed, no end but those that were made."""
    told = run("journalctl", "--boot", "--output=cat", "--unit=vpn-agent*").splitlines()
    told += [line for line in run("journalctl", "--dmesg", "--output=cat").splitlines() if "type=1326" in line]
    words = ("type=1326", "31/SYS", "not permitted", "ermission denied", "not supported by protocol")
    assert [line for line in told if any(word in line for word in words)] == []
    assert run("systemctl", "list-units", "--failed", "--no-legend", "vpn-agent*") == ""
    await eventually(lambda: all(each.healthy for each in _status().components), "a component is not healthy")
    assert _status().problems == ()
    for unit in DAEMONS:
        assert shown(unit)["NRestarts"] == str(_KILLS.get(unit, 0)), (unit, journal())


async def nothing_was_denied_now_either(ends: Ends) -> None:
    await nothing_was_denied(ends)


async def _killed(unit: str) -> None:
    """End a daemon without a chance to tidy up, and wait until systemd has another that tells it is ready."""
    before = shown(unit)["MainPID"]
    run("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
    _KILLS[unit] = _KILLS.get(unit, 0) + 1
    await eventually(lambda: shown(unit)["MainPID"] not in ("0", before) and active(unit), f"{unit} is not back")


async def _carries(ends: Ends, driver: str, before: set[str]) -> None:
    """Wait until the tunnel is up with SAs that are none of those ``before``, and have packets pass through it."""
    await eventually(lambda: (found := spis()) and not found & before, "the tunnel is not up")
    await eventually(lambda: ends.heard() == 3, "no packets pass")
    assert _status().data_plane.driver == driver


def _status() -> GatewayStatus:
    found = status()
    assert found is not None, journal()
    return found


_KILLS: dict[str, int] = {}
FIRST = (
    it_is_installed_and_starts, a_tunnel_carries_packets, packets_are_captured,
    the_kernels_tunnel_outlives_its_daemons, nothing_was_denied,
)  # fmt: skip
SECOND = (
    the_filter_is_back_before_the_network, the_tunnel_is_back_after_the_boot,
    espd_carries_with_the_workers_of_a_drop_in, the_tunnel_is_back_after_the_end_of_espd,
    nothing_was_denied_now_either, it_is_taken_off,
)  # fmt: skip
BOOTS = tuple({check.__name__: check for check in checks} for checks in (FIRST, SECOND))
CHECKS = (*BOOTS[0], *BOOTS[1])


async def _run(ends: Ends, name: str, check: Callable[[Ends], Awaitable[Any]]) -> Any:
    """Run one check, which needs those before it."""
    assert ends.broken is None, f"not tried: {ends.broken} did not come true"
    ends.broken = name
    found = await check(ends)
    ends.broken = None
    return found


def main() -> int:
    """Run the checks of this boot; the first boot asks for another."""
    boot = int(os.environ[BOOT_VARIABLE])
    result = Path(os.environ[RESULT_VARIABLE])
    earlier: Mapping[str, Any] = json.loads(result.read_text()) if boot > 1 else {}
    ends = Ends()
    ends.build()
    report({name: partial(_run, ends, name, check) for name, check in BOOTS[boot - 1].items()}, timeout_s=6 * WAIT_S)
    result.write_text(json.dumps({**earlier, **json.loads(result.read_text())}))
    return AGAIN if boot == 1 and ends.broken is None else 0


if __name__ == "__main__":
    sys.exit(main())
