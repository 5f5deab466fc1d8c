"""Two gateways with the real processes, a host behind each, and the console's side of the API."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from agents.agentd import identity
from agents.contract.codec import decode, encode
from agents.contract.config import (
    Child,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    PresharedKey,
    TrafficSelector,
    Tunnel,
)
from agents.contract.enrolment import server_name
from agents.contract.events import Event, EventPage
from agents.contract.secret import Secret
from agents.contract.status import GatewayStatus, TunnelState
from agents.runtime.paths import Paths
from deploy.lab.netns import Namespace, connect
from tests.agentd.fakes import TUNNEL_ID, Authority, client_context, key_pem
from tests.agentd.inside import run_inside
from tests.harness import echo

ROOT = Path(__file__).resolve().parents[2]
PORT = 8470
TUNNEL_NAME = "paris-lyon"
IDS = {"paris": "11111111-1111-4111-8111-111111111111", "lyon": "22222222-2222-4222-8222-222222222222"}
OUTER = {"paris": "192.0.2.1", "lyon": "192.0.2.2"}
PSK = b"lab-secret-of-this-test"
PSK_FORMS = (PSK, base64.b64encode(PSK), PSK.hex().encode())
INNER = {"paris": "10.1.0", "lyon": "10.2.0"}


def other(name: str) -> str:
    """The other gateway's name."""
    return "lyon" if name == "paris" else "paris"


def gateway_document(name: str, generation: int, **tunnel: Any) -> GatewayDocument:
    """The document of one gateway for the tunnel between the two."""

    def endpoint(which: str) -> Endpoint:
        return Endpoint(address=OUTER[which], identity=Identity(type=IdentityType.IPV4, value=OUTER[which]))

    peer = other(name)
    child = Child(
        name="net",
        local_ts=(TrafficSelector(network=f"{INNER[name]}.0/24"),),
        remote_ts=(TrafficSelector(network=f"{INNER[peer]}.0/24"),),
        proposals=(IpsecProposal(encryption="aes-128-gcm-16"),),
    )
    proposal = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
    values: dict[str, Any] = {
        "id": TUNNEL_ID,
        "name": TUNNEL_NAME,
        "local": endpoint(name),
        "remote": endpoint(peer),
        "ike": IkePolicy(proposals=(proposal,), dpd_interval_s=2),
        "children": (child,),
    }
    return GatewayDocument(
        gateway_id=IDS[name],
        gateway_name=name,
        generation=generation,
        nonce="ab" * 16,
        preshared_keys=(PresharedKey(id="psk", secret=Secret(PSK)),),
        tunnels=(Tunnel(**(values | tunnel)),),
    )


@dataclass
class Gateway:
    """One namespace with the supervisor and its three processes."""

    name: str
    namespace: Namespace
    host: Namespace
    directory: Path
    authority: Authority
    process: subprocess.Popen[bytes] | None = None
    _contexts: list[ssl.SSLContext] = field(default_factory=list)

    @property
    def paths(self) -> Paths:
        return Paths(state=self.directory / "state", run=self.directory / "run")

    def enrol(self) -> None:
        """Put the gateway's identity in place, and have a client that it takes for the console."""
        key = ec.generate_private_key(ec.SECP256R1())
        self.paths.prepare()
        identity.store(
            self.paths.identity,
            gateway_id=IDS[self.name],
            gateway_name=self.name,
            agent_port=PORT,
            key_pem=key_pem(key),
            certificate_pem=self.authority.issue(key.public_key(), server_name(IDS[self.name])),
            fleet_ca_pem=self.authority.pem,
        )
        self._contexts[:] = [client_context(self.directory, self.authority)]

    def start(self) -> None:
        self.enrol()
        places = ["--state", str(self.paths.state), "--run", str(self.paths.run)]
        with (self.directory / "log").open("wb") as log:
            self.process = self.namespace.start(
                sys.executable,
                *("-m", "agents.cli", "run", *places, "--listen", f"127.0.0.1:{PORT}"),
                log=log,
                environment={**os.environ, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        async def send() -> tuple[int, bytes]:
            async with aiohttp.ClientSession() as session:
                url = f"https://127.0.0.1:{PORT}{path}"
                async with session.request(
                    method, url, data=body, ssl=self._contexts[0], server_hostname=server_name(IDS[self.name])
                ) as response:
                    return response.status, await response.read()

        return run_inside(self.namespace, send)

    def configure(self, document: GatewayDocument) -> None:
        code, body = self.request("PUT", "/v1/config", encode(document))
        assert code == 200, body

    def answers(self) -> bool:
        try:
            return self.request("GET", "/v1/status")[0] == 200
        except aiohttp.ClientError:
            return False

    def status(self) -> GatewayStatus:
        code, body = self.request("GET", "/v1/status")
        assert code == 200, body
        return decode(GatewayStatus, body)

    def events(self, code: str) -> list[Event]:
        page = decode(EventPage, self.request("GET", "/v1/events?after=0")[1])
        return [event for event in page.events if event.code == code]

    def act(self, action_id: str, verb: str) -> dict[str, Any]:
        body = json.dumps({"id": action_id, "verb": verb, "tunnel_id": TUNNEL_ID}).encode()
        answer: dict[str, Any] = json.loads(self.request("POST", "/v1/actions", body)[1])
        return answer

    def command(self, module: str, *words: str) -> str:
        """What a command line on this gateway prints."""
        arguments = [sys.executable, "-m", f"agents.{module}", *words, "--run", str(self.paths.run)]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def start_command(self, module: str, *words: str) -> subprocess.Popen[str]:
        """A command line that goes on."""
        arguments = [sys.executable, "-m", f"agents.{module}", *words, "--run", str(self.paths.run)]
        return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def up(self) -> bool:
        return self.answers() and any(each.state is TunnelState.UP for each in self.status().tunnels)

    def pid(self, process: str) -> int:
        """The process id of one of the three."""
        for pid in self.namespace.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # ended, before or while it was read
                continue
            if f"agents.{process}".encode() in words:
                return pid
        raise LookupError(process)

    def routes(self) -> str:
        return self.namespace.ip("route", "show", "proto", "86")

    def ping(self, count: int = 1, none_s: float = 5.0) -> bool:
        """From the host behind this gateway to the one behind the other."""
        target = f"{INNER[other(self.name)]}.2"
        with echo.opened(self.host, target) as raw:
            return echo.answers(raw, target, count, interval_s=0.05, none_s=none_s) == count

    def reaches(self, count: int = 1) -> bool:
        """The same where there may be no answer yet: it is soon asked again."""
        return self.ping(count, none_s=1.0)


class Pair:
    """Paris and Lyon, joined by one link."""

    def __init__(self, directory: Path) -> None:
        prefix = f"vc{os.getpid()}g"
        authority = Authority.make()
        self.gateways = {}
        for name in ("paris", "lyon"):
            (directory / name).mkdir()
            self.gateways[name] = Gateway(
                name, Namespace(prefix, name), Namespace(prefix, f"{name}-host"), directory / name, authority
            )

    def build(self) -> None:
        for gateway in self.gateways.values():
            gateway.namespace.create()
            gateway.host.create()
            gateway.namespace.forward()
            inner = INNER[gateway.name]
            connect(gateway.namespace, "lan", [f"{inner}.1/24"], gateway.host, "lan", [f"{inner}.2/24"])
            gateway.host.ip("route", "add", "default", "via", f"{inner}.1")
        self.join()
        for gateway in self.gateways.values():
            gateway.start()
        for gateway in self.gateways.values():
            eventually(gateway.answers)

    def join(self) -> None:
        """Make what is between the two."""
        paris, lyon = self.gateways["paris"], self.gateways["lyon"]
        connect(
            paris.namespace, "wan", [f"{OUTER['paris']}/24"], lyon.namespace, "wan", [f"{OUTER['lyon']}/24"]
        )  # fmt: skip

    def remove(self) -> None:
        for gateway in self.gateways.values():
            gateway.stop()
        for gateway in self.gateways.values():
            gateway.namespace.remove()
            gateway.host.remove()


def eventually(condition: Callable[[], object], within_s: float = 90.0) -> None:
    """Wait until ``condition()`` holds; it is a question to other processes, so there is nothing to be woken by."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)
