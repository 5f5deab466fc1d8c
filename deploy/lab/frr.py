"""FRR's OSPF in a network namespace: a router that knows nothing of us and speaks over our tunnels' interfaces."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.lab.netns import LabError, Namespace, end_process

_DAEMONS = Path("/usr/lib/frr")
OSPFD = _DAEMONS / "ospfd"
_USER = "frr"
_ZEBRA_SOCKET = "zserv.api"
_START_S = _STOP_S = 10.0


class Frr:
    """``zebra`` and ``ospfd`` in ``namespace``; ``directory`` takes their sockets, configuration and logs.

    Each of ``interfaces`` is a point-to-point link that says hello every second and is given up after four; the
    networks of ``loopback`` are announced. ``addresses`` are those that ``zebra`` gives to interfaces, and gives again
    to one that has been away.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        router_id: str,
        interfaces: Sequence[str],
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.directory = directory
        self._ospfd = _ospfd(router_id, interfaces)
        self._zebra = _zebra(namespace.role, addresses or {})
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both daemons; raises :class:`LabError` where FRR is not installed."""
        if not OSPFD.exists():
            raise LabError("FRR is not installed (Debian package frr)")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "ospfd.conf").write_text(self._ospfd)
        (self.directory / "zebra.conf").write_text(self._zebra)
        shutil.chown(self.directory, _USER, _USER)
        for name in ("zebra", "ospfd"):
            with (self.directory / f"{name}.log").open("wb") as log:
                process = self.namespace.start(
                    str(_DAEMONS / name), "-f", str(self.directory / f"{name}.conf"),
                    "-i", str(self.directory / f"{name}.pid"), "-z", str(self.directory / _ZEBRA_SOCKET),
                    "--vty_socket", str(self.directory), "-P", "0", "--log", "stdout", "-u", _USER, "-g", _USER,
                    log=log,
                )  # fmt: skip
            self._processes.append(process)
            if name == "zebra":
                self._wait_for_zebra()

    def _wait_for_zebra(self) -> None:
        """Wait until ``zebra`` listens: ``ospfd`` asks but once and then again after ten seconds."""
        limit = time.monotonic() + _START_S
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.directory / _ZEBRA_SOCKET)) != 0:
                if time.monotonic() > limit:
                    raise LabError(f"zebra in {self.namespace.name} did not start; see {self.directory}/zebra.log")
                time.sleep(0.02)

    def stop(self) -> None:
        """End both daemons; the routes they laid go too."""
        for process in reversed(self._processes):
            end_process(process, _STOP_S)
        self._processes.clear()

    def neighbours(self) -> dict[str, str]:
        """Return the state of the adjacency on each interface; nothing while a daemon is not yet there."""
        answer = self._ask("show ip ospf neighbor json")
        found = {}
        for adjacencies in answer.get("neighbors", answer).values() if answer else ():
            for each in adjacencies:
                found[each["ifaceName"].partition(":")[0]] = each.get("nbrState", each.get("state", ""))
        return found

    def log(self) -> str:
        """Return what both daemons wrote."""
        return "".join((self.directory / f"{name}.log").read_text(errors="replace") for name in ("zebra", "ospfd"))

    def _ask(self, command: str) -> dict[str, Any]:
        output = self.namespace.run(
            "vtysh", "--vty_socket", str(self.directory), "-d", "ospfd", "-c", command, check=False
        )
        try:
            answer = json.loads(output)
        except ValueError:  # its socket is not there yet
            return {}
        return answer if isinstance(answer, dict) else {}


def _zebra(host: str, addresses: Mapping[str, str]) -> str:
    lines = [f"hostname {host}"]
    for name, address in addresses.items():
        lines += [f"interface {name}", f" ip address {address}"]
    return "\n".join([*lines, ""])


def _ospfd(router_id: str, interfaces: Sequence[str]) -> str:
    lines = []
    for name in interfaces:
        lines += [
            f"interface {name}", " ip ospf area 0", " ip ospf network point-to-point",
            " ip ospf hello-interval 1", " ip ospf dead-interval 4", " ip ospf retransmit-interval 1",
        ]  # fmt: skip
    lines += [
        "interface lo", " ip ospf area 0",
        "router ospf", f" ospf router-id {router_id}", " passive-interface lo",
        " timers throttle spf 0 50 500", " timers throttle lsa all 0", " timers lsa min-arrival 0",
    ]  # fmt: skip
    return "\n".join([*lines, ""])
