"""A demo run by a test: started as ``make demo`` starts it, in a folder and under a namespace prefix of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab.netns import NETNS_DIRECTORY, Namespace, run

ROOT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 180.0
END_WITHIN_S = 120.0


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class RunningDemo:
    """``python -m deploy.lab.demo`` with its folder; ``description`` is ``demo.json``."""

    directory: Path
    prefix: str
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    output: str = ""

    def start(self) -> None:
        """Start and wait until the demo says it is ready."""
        self.output = ""
        command = [
            sys.executable,
            "-m",
            "deploy.lab.demo",
            "--port",
            str(self.port),
            "--directory",
            str(self.directory),
        ]
        self.process = subprocess.Popen(
            [*command, "--prefix", self.prefix, *self.options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_WITHIN_S
        assert self.process.stdout is not None
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self.process.stdout], [], [], 1.0)
            # Read past Python's own buffer, of which select knows nothing.
            octets = os.read(self.process.stdout.fileno(), 65_536) if readable else b""
            self.output += octets.decode("utf-8", "replace")
            if "Ctrl-C ends the demo" in self.output:
                return
            if self.process.poll() is not None and not octets:
                break
        self.kill()
        raise AssertionError(f"the demo did not come up:\n{self.output}")

    @property
    def description(self) -> dict[str, Any]:
        """What the demo says of itself."""
        content: dict[str, Any] = json.loads((self.directory / "demo.json").read_text(encoding="utf-8"))
        return content

    def namespace(self, role: str) -> Namespace:
        """Return one of its namespaces by role."""
        return Namespace(self.prefix, role)

    def end(self) -> int:
        """Ask it to end as Ctrl-C would and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_WITHIN_S)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def namespaces_left(self) -> list[str]:
        """Return the namespaces that still carry its prefix."""
        return sorted(path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(f"{self.prefix}-"))

    def agent_process(self, site: str, module: str) -> int:
        """Return the pid of ``python -m agents.MODULE`` inside a gateway's namespace."""
        for pid in self.namespace(site).pids():
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # ended, before or while it was read
                continue
            if f"agents.{module}".encode() in arguments:
                return pid
        raise AssertionError(f"no {module} runs in {site}")

    def wait_agent_process(self, site: str, module: str, *, other_than: int, timeout_s: float) -> int:
        """Wait until a process other than ``other_than`` runs as ``agents.MODULE``; returns its pid."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                pid = self.agent_process(site, module)
            except AssertionError:
                pid = other_than
            if pid != other_than:
                return pid
            assert time.monotonic() < deadline, f"no new {module} in {site} within {timeout_s} s"
            time.sleep(0.1)  # another process's start is no event here

    def wait_up(self, timeout_s: float) -> None:
        """Wait until the API shows every tunnel as up."""
        deadline = time.monotonic() + timeout_s
        while {each["state"] for each in self.api("tunnels")["tunnels"]} != {"up"}:
            assert time.monotonic() < deadline, self.api("tunnels")
            time.sleep(0.5)

    def api(self, path: str) -> Any:
        """Return what the REST API answers to a GET."""
        description = self.description
        headers = {"Authorization": f"Bearer {description['api_token']}"}
        request = urllib.request.Request(f"{description['url']}/api/v1/{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def answered(self, check: dict[str, str], count: int = 1, wait_s: int = 10) -> bool:
        """Tell whether ``count`` pings of one of ``demo.json``'s checks are all answered.

        One at a time: once it had an answer, ping waits for a later one no longer than two round trips or its interval,
        which a busy machine exceeds.
        """
        command = ["ping", "-q", "-c", "1", "-W", str(wait_s), check["to"]]
        inside = ["nsenter", f"--net={NETNS_DIRECTORY / check['from']}", "--", *command]
        return all(" 1 received" in run(*inside, check=False) for _ in range(count))

    def wait_answered(self, check: dict[str, str], timeout_s: float) -> float:
        """Wait until a ping is answered; returns how long it took in seconds."""
        began = time.monotonic()
        while not self.answered(check, wait_s=1):
            took = time.monotonic() - began
            assert took < timeout_s, f"{check} not answered within {timeout_s} s"
        return time.monotonic() - began


def alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def processes_mentioning(text: str) -> list[int]:
    """Return pids whose command line names ``text``, this process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
