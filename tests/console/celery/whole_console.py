"""A whole console for tests, started as an operator starts it: broker, worker, beat and web in their own processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from agents.contract import codec
from agents.contract.enrolment import EnrolmentRequest, SignedGrant, SignedRequest, Token, prove, proven
from tests.console.enrolled import free_port
from tests.console.fake_agent import FakeAgent, HostKey

ROOT = Path(__file__).parents[3]
T = TypeVar("T")
_numbers = itertools.count(1)


def until(what: Callable[[], T], timeout_s: float = 90.0) -> T:
    """Ask ``what`` until its answer is true and return it."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {answer!r}"
        time.sleep(0.1)


class Console:
    """One console in ``directory``; may be stopped, killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "console.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("VPNCONSOLE_", "DJANGO_"))},
            "VPNCONSOLE_DATA_DIR": str(self.data),
            "VPNCONSOLE_LOG_LEVEL": "INFO",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def set_up(self) -> None:
        """Make keys and database."""
        subprocess.run(
            [sys.executable, "manage.py", "setup"], cwd=ROOT, env=self.environment, check=True, capture_output=True
        )

    def start(self) -> None:
        """Start everything and wait until the console says that it is ready."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "console", "--port", str(self.port)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = self._process

        def ready() -> bool:
            said = self.log.read_bytes()[before:]
            assert process.poll() is None, said.decode()
            return b"VPN Console is ready" in said

        until(ready, 60)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until all its processes are gone."""
        if self._process is None:
            return
        pids = descendants(self._process.pid)
        self._process.send_signal(how)
        self._process.wait(60)
        self._process = None
        until(lambda: not any(alive(pid) for pid in pids))

    def worker_pids(self) -> list[int]:
        """Return the worker's main process first, then its children."""
        assert self._process is not None
        for pid in children(self._process.pid):
            if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return [pid, *children(pid)]
        return []

    def seed(self, name: str, psk: str = "an ordinary test key 0123") -> World:
        """Make two gateways, a tunnel between them and tokens."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.console.celery.seed", name, str(next(_numbers)), psk],
            cwd=ROOT,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        return World(self, json.loads(done.stdout))


class World:
    """The objects of one test and the API to look at them."""

    def __init__(self, console: Console, made: dict[str, Any]) -> None:
        self.console = console
        self.tunnel: str = made["tunnel"]
        self.gateways: dict[str, str] = made["gateways"]
        self._tokens: dict[str, str] = made["tokens"]
        self._headers = {"Authorization": f"Bearer {made['api_token']}"}

    def get(self, path: str) -> Any:
        """Return a parsed answer."""
        answer = httpx.get(f"{self.console.url}/api/v1/{path}", headers=self._headers, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Order something."""
        answer = httpx.post(f"{self.console.url}/api/v1/{path}", headers=self._headers, json=body, timeout=20)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def enrol(self, city: str) -> FakeAgent:
        """Enrol as an agent does; the agent returned does not listen yet."""
        token, host, port = Token.parse(self._tokens[city]), HostKey(), free_port()
        request = EnrolmentRequest(
            token_id=token.id, csr_pem=host.csr_pem(), agent_version="1.2.3", hostname=city, agent_port=port
        )
        signed = SignedRequest(request=request, proof=prove(token.secret, request))
        answer = httpx.post(f"{self.console.url}/enrol/v1", content=codec.encode(signed), timeout=20)
        assert answer.status_code == 200, answer.text
        grant = codec.decode(SignedGrant, answer.content)
        assert proven(token.secret, grant.grant, grant.proof)
        return FakeAgent(
            gateway_id=grant.grant.gateway_id,
            key_pem=host.key_pem(),
            certificate_pem=grant.grant.certificate_pem,
            ca_pem=grant.grant.fleet_ca_pem,
            port=port,
        )

    def deploy(self, *cities: str) -> str:
        """Order a deployment to the named gateways (both of them by default); returns its id."""
        chosen = [self.gateways[city] for city in cities or self.gateways]
        return str(self.post("deployments", {"gateways": chosen})["id"])

    def deliveries(self, deployment_id: str) -> dict[str, dict[str, Any]]:
        """Return the deliveries by city."""
        rows = self.get(f"deployments/{deployment_id}")["deliveries"]
        return {row["gateway"]["name"].split("-")[0]: row for row in rows}

    def state(self, deployment_id: str, city: str) -> str:
        """Return one delivery's state."""
        return str(self.deliveries(deployment_id)[city]["state"])

    def until_state(self, deployment_id: str, city: str, state: str, timeout_s: float = 90.0) -> dict[str, Any]:
        """Wait for one delivery's state and return the delivery."""
        until(lambda: self.state(deployment_id, city) == state, timeout_s)
        return self.deliveries(deployment_id)[city]


def children(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and parent(int(entry.name)) == pid:
            found.append(int(entry.name))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """Return all processes below ``pid``."""
    below = children(pid)
    return [*below, *(each for child in below for each in descendants(child))]


def parent(pid: int) -> int:
    """Return a process's parent; 0 when it is gone or a zombie."""
    try:
        state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else int(ppid)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    return parent(pid) != 0
