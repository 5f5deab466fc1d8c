"""Where cells run: our daemons and strongSwan in namespaces of their own, kept from cell to cell.

``direct`` is one link between the two; ``nat`` has a router between them that translates addresses in front of either
or both. Everything made here carries one prefix and goes with the lab.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Self

from deploy.lab.netns import Namespace, connect
from deploy.lab.strongswan import StrongSwan
from deploy.lab.vici import Vici
from tests.interop.cells import PSK, Cell, Place
from tests.interop.proofs import revocation_server
from tests.interop.rig import OURS, THEIRS, OurGateway
from tests.pki import RevocationServer

OURS_6, THEIRS_6 = "2001:db8::1", "2001:db8::2"
OUR_SECOND, THEIR_SECOND = "192.0.2.11", "192.0.2.12"
INNER_HOSTS = (
    ("10.1.0.1/24", "10.1.1.1/24", "10.1.2.1/24", "2001:db8:1::1/64"),
    ("10.2.0.1/24", "10.2.1.1/24", "10.2.2.1/24", "2001:db8:2::1/64"),
)
_LOG_LINES = 60


class Lab:
    """One pair of running daemons. Use as an async context manager."""

    def __init__(self, kind: str, settings: Mapping[str, str], number: int = 0) -> None:
        prefix = f"vc{os.getpid()}m{number}"
        self.kind = kind
        self.psk = PSK
        self.our_space, self.their_space = Namespace(prefix, "ours"), Namespace(prefix, "theirs")
        self.router = Namespace(prefix, "router")
        self.first_event = 0
        self.numbers = 0
        self._settings = dict(settings)
        self._stack = AsyncExitStack()
        self._marks: dict[Path, int] = {}
        self.ours: OurGateway
        self.theirs: StrongSwan
        self.vici: Vici
        self.revocation: RevocationServer

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vc-interop-")))
            stack.enter_context(self._network())
            if self.kind == "direct":
                self.revocation = stack.enter_context(revocation_server(self.their_space))
            self.theirs = self.make_theirs(directory / "charon")
            stack.callback(self.theirs.stop)
            self.theirs.start()
            self.ours = await stack.enter_async_context(self.make_ours(directory / "agent"))
            await asyncio.to_thread(self.theirs.wait_ready)
            self.vici = stack.enter_context(self.theirs.vici())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def make_ours(self, directory: Path) -> OurGateway:
        """Return our daemons, not started."""
        return OurGateway(self.our_space, directory)

    def make_theirs(self, directory: Path) -> StrongSwan:
        """Return strongSwan, not started. What it rekeyed goes at once: going later, it fails what is begun then."""
        settings = {"delete_rekeyed_delay": "0", **self._settings}
        return StrongSwan(self.their_space, directory, settings=settings)

    async def restart_theirs(self) -> None:
        """Start strongSwan again after it was ended."""
        self.vici.close()
        self.theirs.stop()
        self.theirs.start()
        await asyncio.to_thread(self.theirs.wait_ready)
        self.vici = self.theirs.vici()
        self._stack.callback(self.vici.close)

    async def restart_ours(self) -> None:
        """Start our IKE daemon again after it was ended."""
        self.ours.start("iked")
        await self.ours.connect()
        self.first_event = 0

    def place(self, cell: Cell) -> Place:
        """Return the outer addresses for a run of this cell; a NAT has fresh ones every time."""
        self.numbers += 1
        if self.kind == "direct":
            ours, theirs = (OURS, THEIRS) if cell.outer == 4 else (OURS_6, THEIRS_6)
            return Place(ours=ours, theirs=theirs, ours_as_seen=ours, theirs_as_seen=theirs)
        return self._translated(self.numbers, cell.lab)

    async def mark(self) -> None:
        """Remember where logs and events stand, so that a failure shows its own."""
        self._marks = {path: path.stat().st_size for path in self._logs() if path.exists()}
        self.first_event = await self.ours.last_event()

    def logs(self) -> str:
        """Return both sides' logs since :meth:`mark`, each cut to its last lines."""
        parts = []
        for path in self._logs():
            if path.exists():
                lines = self._since_mark(path).splitlines()
                parts += [f"--- {path.name} ({len(lines)} lines)", *lines[-_LOG_LINES:]]
        return "\n".join(parts)

    def their_log(self) -> str:
        """Return what the peer logged since :meth:`mark`."""
        return self._since_mark(self._logs()[1])

    def _since_mark(self, path: Path) -> str:
        with path.open("rb") as log:
            log.seek(self._marks.get(path, 0))
            return log.read().decode(errors="replace")

    def _logs(self) -> tuple[Path, Path]:
        return self.ours.log_path, self.theirs.log

    @contextmanager
    def _network(self) -> Iterator[None]:
        spaces = (self.our_space, self.their_space)
        every = spaces if self.kind == "direct" else (*spaces, self.router)
        try:
            for namespace in every:
                namespace.create()
            for namespace, hosts in zip(spaces, INNER_HOSTS, strict=True):
                namespace.sysctl("net.ipv4.conf.all.promote_secondaries", 1)
                for host in hosts:
                    namespace.ip("address", "add", host, "dev", "lo", *(("nodad",) if ":" in host else ()))
            if self.kind == "direct":
                ours = [f"{OURS}/24", f"{OUR_SECOND}/24", f"{OURS_6}/64"]
                theirs = [f"{THEIRS}/24", f"{THEIR_SECOND}/24", f"{THEIRS_6}/64"]
                connect(self.our_space, "wan", ours, self.their_space, "wan", theirs)
            else:
                self._build_router()
            yield
        finally:
            for namespace in every:
                namespace.remove()

    def _build_router(self) -> None:
        connect(self.our_space, "wan", ["198.18.1.2/24"], self.router, "to-ours", ["198.18.1.1/24"])
        connect(self.their_space, "wan", ["198.18.2.2/24"], self.router, "to-theirs", ["198.18.2.1/24"])
        for space, gateway in ((self.our_space, "198.18.1.1"), (self.their_space, "198.18.2.1")):
            space.ip("route", "add", "198.18.0.0/15", "via", gateway)
            space.ip("route", "add", "203.0.113.0/24", "via", gateway)
        self.router.forward()
        self.router.run(
            "nft",
            "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; };"
            "add chain ip nat in { type nat hook prerouting priority -100; }",
        )

    def _translated(self, number: int, kind: str) -> Place:
        """Give both ends addresses of their own and the router the rules that hide one or both."""
        ours, theirs = f"198.18.1.{9 + number}", f"198.18.2.{9 + number}"
        our_face, their_face = f"203.0.113.{9 + number}", f"203.0.113.{109 + number}"
        self.our_space.ip("address", "add", f"{ours}/24", "dev", "wan")
        self.their_space.ip("address", "add", f"{theirs}/24", "dev", "wan")
        rules = []
        if kind in ("nat-ours", "nat-both"):
            self.router.ip("address", "add", f"{our_face}/32", "dev", "lo")
            rules.append(f"add rule ip nat out ip saddr {ours} ip protocol udp snat to {our_face}:20000-29999 random")
            rules.append(f"add rule ip nat in ip daddr {our_face} dnat to {ours}")
        if kind in ("nat-theirs", "nat-both"):
            self.router.ip("address", "add", f"{their_face}/32", "dev", "lo")
            rules.append(f"add rule ip nat in ip daddr {their_face} dnat to {theirs}")
            rules.append(
                f"add rule ip nat out ip saddr {theirs} ip protocol udp snat to {their_face}:30000-39999 random"
            )
        self.router.run("nft", ";".join(rules))
        return Place(
            ours=ours,
            theirs=theirs,
            ours_as_seen=our_face if kind in ("nat-ours", "nat-both") else ours,
            theirs_as_seen=their_face if kind in ("nat-theirs", "nat-both") else theirs,
        )
