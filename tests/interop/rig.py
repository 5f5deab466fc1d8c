"""Our daemons on one side, strongSwan on the other, a link between them; what happened is awaited, never slept for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from agents.contract.codec import from_plain, to_plain
from agents.contract.config import GatewayDocument
from agents.contract.status import TunnelState, TunnelStatus
from agents.iked.links import link_name
from agents.runtime.rpc import Client, RpcUnavailable
from deploy.lab.netns import Namespace, connect

ROOT = Path(__file__).resolve().parents[2]
OURS, THEIRS = "192.0.2.1", "192.0.2.2"
OUR_NET, THEIR_NET = "10.1.0.0/24", "10.2.0.0/24"
OUR_HOST, THEIR_HOST = "10.1.0.1", "10.2.0.1"
TIMEOUT_S = 30.0


@contextmanager
def two_namespaces(name: str) -> Iterator[tuple[Namespace, Namespace]]:
    """Make ours and theirs, joined by a veth pair, each with an inner address on its loopback."""
    prefix = f"vc{os.getpid()}-{name}"
    ours, theirs = Namespace(prefix, "ours"), Namespace(prefix, "theirs")
    try:
        for namespace, inner in ((ours, OUR_HOST), (theirs, THEIR_HOST)):
            namespace.create()
            namespace.ip("address", "add", f"{inner}/24", "dev", "lo")
        connect(ours, "wan", [f"{OURS}/24"], theirs, "wan", [f"{THEIRS}/24"])
        yield ours, theirs
    finally:
        ours.remove()
        theirs.remove()


class OurGateway:
    """``espd`` and ``iked`` as processes in a namespace, and a client of ``iked``'s control socket."""

    def __init__(self, namespace: Namespace, directory: Path, inner_address: str = OUR_HOST) -> None:
        self.namespace = namespace
        self.inner_address = inner_address
        self.document: GatewayDocument | None = None
        self.run = directory / "run"
        self.state = directory / "state"
        self._log: IO[bytes] | None = None
        self._directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client: Client | None = None
        self._changed = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for directory in (self._directory, self.run, self.state):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._log = self.log_path.open("ab")
        self.start("espd")
        self.start("iked")
        await self.connect()
        if "espd" in self.processes:
            # Without it a document would be in force before there is a device to route into.
            await (await self._connected("espd")).close()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()
        for name in ("iked", "espd"):
            self.stop(name)
        if self._log is not None:
            self._log.close()

    @property
    def log_path(self) -> Path:
        """Where both processes write."""
        return self._directory / "ours.log"

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    def start(self, name: str) -> None:
        """Start one of the two processes."""
        arguments = [sys.executable, "-m", f"agents.{name}", "--run", str(self.run), "--log-level", "debug"]
        if name == "iked":
            arguments += ["--state", str(self.state)]
        self.processes[name] = self.namespace.start(*arguments, log=self._log, environment=os.environ, cwd=ROOT)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one of them and wait for that."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def connect(self) -> None:
        """Connect to ``iked`` as soon as it listens."""
        self._client = await self._connected("iked")
        self._listener = asyncio.create_task(self._listen(self._client))

    async def _connected(self, name: str) -> Client:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    return await Client.connect(self.run / f"{name}.sock")
                except RpcUnavailable:
                    await asyncio.sleep(0.02)  # a Unix socket's appearance is no event without inotify

    async def disconnect(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._listener is not None:
            await self._listener
            self._listener = None

    async def configure(self, document: GatewayDocument) -> None:
        """Hand a document over and route every tunnel's networks into its TUN, as ``agentd`` does."""
        await self.load(document)
        self.route()

    async def load(self, document: GatewayDocument) -> None:
        """Hand a document over, without routes."""
        self.document = document
        await self.client.call("configure", {"document": to_plain(document)})

    def route(self) -> None:
        """Route the tunnels' remote networks into their TUNs, which must be there."""
        assert self.document is not None
        for tunnel in self.document.tunnels:
            for child in tunnel.children:
                for selector in child.remote_ts:
                    self.route_into(tunnel.id, selector.network, self.inner_address)

    def route_into(self, tunnel_id: str, network: str, source: str) -> None:
        """Route one network into a tunnel's TUN."""
        self.namespace.ip("route", "replace", network, "dev", link_name(tunnel_id), "src", source)

    async def act(self, verb: str, tunnel_id: str) -> None:
        """Perform a verb that must be accepted."""
        answer = await self.client.call("action", {"verb": verb, "tunnel_id": tunnel_id})
        assert answer["accepted"], answer

    async def status(self) -> dict[str, Any]:
        """Return the whole status in plain form."""
        answer: dict[str, Any] = await self.client.call("status")
        return answer

    async def tunnels(self) -> list[TunnelStatus]:
        """Return the status of every tunnel."""
        return [from_plain(TunnelStatus, each) for each in (await self.status())["tunnels"]]

    async def until(self, accept: Callable[[TunnelStatus], bool], what: str) -> TunnelStatus:
        """Wait for a status of the only tunnel that ``accept`` takes."""
        last: TunnelStatus | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    self._changed.clear()
                    (last,) = await self.tunnels()
                    if accept(last):
                        return last
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not reached: {what}; last status {last}; events {await self.events()}") from None

    async def changed(self, limit_s: float = 1.0) -> None:
        """Wait until ``iked`` says that something moved, or a second has passed."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), limit_s)

    async def until_up(self) -> TunnelStatus:
        """Wait for the only tunnel to be up with one IKE SA and one child SA."""
        return await self.until(is_up, "up")

    async def events(self) -> list[str]:
        """Return the codes and texts of all events so far."""
        return await self.events_since(0)

    async def events_since(self, after: int) -> list[str]:
        """Return the codes and texts of the events after this number of the present process."""
        boot_id, _ = await self._ring()
        page = await self.client.call("events", {"after": after, "boot_id": boot_id})
        return [f"{event['code']}: {event['message']}" for event in page["events"]]

    async def last_event(self) -> int:
        """Return the number of the latest event."""
        return (await self._ring())[1]

    async def _ring(self) -> tuple[str, int]:
        """Return which run of ``iked`` this is and the number of its latest event."""
        page = await self.client.call("events", {"after": 0, "boot_id": None})
        return page["boot_id"], int(page["last"])

    async def _listen(self, client: Client) -> None:
        async for method, _params in client.notifications():
            if method == "changed":
                self._changed.set()


def is_up(tunnel: TunnelStatus) -> bool:
    """Whether a tunnel is up and nothing old is left of a rekey."""
    return tunnel.state is TunnelState.UP and len(tunnel.ike_sas) == 1 and len(tunnel.children[0].sas) == 1


def ping_through(namespace: Namespace, source: str, target: str) -> None:
    """Ping until an answer comes, within 20 seconds: an end that has just moved may lose what is under way."""
    arguments = ("-n", "-q", "-c", "1", "-w", "20", "-i", "0.2", "-I", source, target)
    out = namespace.run("ping", *arguments, check=False)
    assert "1 received" in out, out


def ping(namespace: Namespace, source: str, target: str, count: int = 3) -> None:
    """Ping from an inner address to another; every packet must come back.

    One packet at a time: after a first answer, ping waits for later ones only two round trips long, which a busy
    machine exceeds.
    """
    for _ in range(count):
        out = namespace.run("ping", "-n", "-q", "-c", "1", "-W", "5", "-I", source, target, check=False)
        assert "1 received" in out, out
