"""The demo's folder, its processes and the record that lets a later start clean up after a ``kill -9``.

``.demo/record.json`` names what exists outside the folder: namespaces with device and inode, processes with their start
time, and the directory for sockets (paths of Unix sockets may have 107 octets, a checkout's may be longer). Nothing is
ended or removed whose identity is no longer the recorded one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab.netns import WITH_PARENT, LabError, Namespace, run


def start_ticks(pid: int) -> int | None:
    """Return the process's start time in clock ticks since boot, None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


@dataclass(slots=True)
class Child:
    """One process of the demo."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(slots=True)
class Workspace:
    """``.demo`` and everything that hangs on it."""

    directory: Path
    sockets: Path = field(init=False)
    children: list[Child] = field(default_factory=list)
    namespaces: list[Namespace] = field(default_factory=list)
    ending: bool = False

    @property
    def logs(self) -> Path:
        """Where each process writes."""
        return self.directory / "logs"

    @property
    def record(self) -> Path:
        """What exists outside the folder."""
        return self.directory / "record.json"

    def open(self) -> None:
        """Clean up after an earlier run and start afresh."""
        self.clean_up_earlier()
        self.logs.mkdir(parents=True)
        self.directory.chmod(0o700)
        self.sockets = Path(tempfile.mkdtemp(prefix="vpnconsole-"))
        self.save()

    def save(self) -> None:
        """Write the record, whole or not at all."""
        content = {
            "sockets": str(self.sockets),
            "owner": {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())},
            "ending": self.ending,
            "namespaces": {namespace.name: namespace.identity for namespace in self.namespaces},
            "processes": [
                {"name": child.name, "pid": child.process.pid, "start_ticks": start_ticks(child.process.pid)}
                for child in self.children
            ],
        }
        write_json(self.record, content)

    def start(
        self, name: str, arguments: Sequence[str], *,
        namespace: Namespace | None = None, environment: Mapping[str, str] | None = None, cwd: Path | None = None,
    ) -> Child:  # fmt: skip
        """Start a process that ends with this one; its output goes to ``logs/NAME.log``."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*WITH_PARENT, *(namespace.command(arguments) if namespace else arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
                env=dict(environment) if environment is not None else None,
                start_new_session=True,
            )  # fmt: skip
        child = Child(name, process, log)
        self.children.append(child)
        self.save()
        return child

    def check_children(self) -> None:
        """Raise :class:`LabError` with the last lines of its log when a process has ended by itself."""
        for child in self.children:
            if child.process.poll() is not None:
                raise LabError(f"{child.name} ended with status {child.process.returncode}:\n{tail(child.log)}")

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``condition`` holds; raises :class:`LabError` when it takes too long or a process ends."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.check_children()
            if time.monotonic() > deadline:
                raise LabError(f"{what}: not within {timeout_s:.0f} s")
            time.sleep(0.2)

    def close(self, *, keep_logs: bool) -> None:
        """End the processes, newest first, and remove namespaces and files."""
        self.ending = True
        self.save()
        for child in reversed(self.children):
            _end_group(child.process)
        for namespace in self.namespaces:
            namespace.remove()
        shutil.rmtree(self.sockets, ignore_errors=True)
        if keep_logs:
            for path in self.directory.iterdir():
                if path != self.logs:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def clean_up_earlier(self) -> None:
        """Remove what a run that could not end properly left; raises :class:`LabError` when one still runs.

        One that is taking itself down is waited for.
        """
        if self.record.is_file():
            content = json.loads(self.record.read_text(encoding="utf-8"))
            owner = content["owner"]
            if owner["pid"] != os.getpid() and _is(owner) and not (content["ending"] and _ended_within(owner["pid"])):
                raise LabError(f"a demo already runs from this folder (process {owner['pid']}): end it first")
            for process in content["processes"]:
                if _is(process):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process["pid"], signal.SIGKILL)
            for name, identity in content["namespaces"].items():
                namespace = Namespace("", name)
                if identity is not None and namespace.identity == identity:
                    namespace.remove()
            shutil.rmtree(content["sockets"], ignore_errors=True)
        if self.directory.exists():
            shutil.rmtree(self.directory)


def _is(process: Mapping[str, Any]) -> bool:
    return process["start_ticks"] is not None and start_ticks(process["pid"]) == process["start_ticks"]


def _ended_within(pid: int, timeout_s: float = 60.0) -> bool:
    """Wait for a process that is not a child of ours to end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], timeout_s)[0])
    finally:
        os.close(handle)


def _end_group(process: subprocess.Popen[bytes], grace_s: float = 40.0) -> None:
    """Ask a process to end, and end it when it has not by ``grace_s``.

    The console gives its worker 20 s and then its broker 10 s, each in a group of its own: it must not go before them.
    """
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # What it left behind in its own session ends here, the process itself included if it took too long.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])


def write_json(path: Path, content: object) -> None:
    """Write JSON readable by its owner only, atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def enter_user_namespace(module: str, arguments: Sequence[str]) -> None:
    """Without root: become root of a user namespace with a ``/run`` of its own, or say in one sentence why not."""
    if os.geteuid() == 0:
        return
    probe = ["unshare", "--user", "--map-root-user", "--mount", "--net", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        raise LabError(
            "the demo builds network namespaces: run it as root, "
            "or on a kernel that permits unprivileged user namespaces"
        )
    # A change of rights takes the signal of the parent's end away: asked for anew.
    script = f'mount -t tmpfs tmpfs /run && exec setpriv --pdeathsig TERM -- "{sys.executable}" -m {module} "$@"'
    os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments])


def ping(namespace: Namespace, address: str, *, count: int = 1, wait_s: int = 1) -> bool:
    """Tell whether every one of ``count`` echo requests is answered."""
    out = run(
        *namespace.command(["ping", "-q", "-c", str(count), "-i", "0.2", "-W", str(wait_s), address]), check=False
    )
    return f"{count} received" in out
