"""Boot, watch and end one User Mode Linux machine.

The guest sees the host's files through hostfs, read-only, so the very interpreter and checkout that started it run
inside; ``/dev``, ``/proc``, ``/sys`` and ``/run`` are its own, and one directory of the host, the share, is writable.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

RESULT_VARIABLE = "VPNCONSOLE_UML_RESULT"
"""Environment variable of the guest: the file that takes its JSON result."""

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
REPOSITORY = Path(__file__).resolve().parents[3]

# All that is needed, in one go: the kernel would start its loader twice for every new name of a suite, which costs more
# than everything else that a machine does. Generic ciphers suffice here.
_MODULES = (
    "drbg", "aes_ti", "ghash-generic", "gcm", "ccm", "ctr", "cbc", "ecb", "cmac", "xcbc", "seqiv", "echainiv", "hmac",
    "sha512_generic", "authenc", "authencesn", "chacha_generic", "poly1305_generic", "chacha20poly1305",
    "camellia_generic", "des_generic", "deflate", "xfrm_user", "esp4", "esp6", "ah4", "ah6", "xfrm4_tunnel",
    "xfrm6_tunnel", "ipcomp", "ipcomp6", "ip_vti", "ip6_vti", "vrf", "veth", "tun", "sch_ingress", "sch_prio",
    "sch_tbf", "cls_u32", "cls_flower", "act_pedit", "act_csum",
)  # fmt: skip

_INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns /dev/shm
mount -t hostfs share {share} -o {share}
modprobe -d {share} -a {modules}
echo > /proc/sys/kernel/modprobe
ip link set lo up
cd {repository}
export {variable}={share}/result.json PYTHONPATH={repository} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
{command}
printf %s $? > {share}/status
sync
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
"""


class MachineError(Exception):
    """The machine did not come to its end; the text says why and ends with its last lines of output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left: the module's JSON value, its exit status, everything printed, and how long it took."""

    result: Any
    status: int
    console: str
    seconds: float


def missing() -> str | None:
    """Return why no machine can be booted here, or None."""
    if shutil.which(KERNEL) is None:
        return f"{KERNEL} is not installed (Debian package user-mode-linux)"
    if not MODULES.is_dir() or not any(MODULES.iterdir()):
        return f"no kernel modules under {MODULES}"
    if shutil.which("modprobe") is None:
        return "modprobe is not installed (Debian package kmod)"
    if _registers_are_too_large() and shutil.which("cc") is None:
        return (
            "this processor has AMX, whose registers the machine's kernel does not know: that takes cc (gcc, libc6-dev)"
        )
    return None


def _registers_are_too_large() -> bool:
    """Whether the processor's extended state is more than the kernel of the machine can set: see ``registers.c``."""
    return " amx_tile" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")


def run(
    module: str,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float = 240.0,
    memory_mib: int = 384,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Boot, run ``python -m module arguments`` inside as root, power off; ``echo`` gets each line as it is printed.

    Raises :class:`MachineError` when no machine can be booted here, when it takes longer than ``timeout_s``, and when
    it ends without the module having ended.
    """
    reason = missing()
    if reason is not None:
        raise MachineError(reason)
    with tempfile.TemporaryDirectory(prefix="vpnconsole-uml-") as name:
        share = Path(name)
        _prepare(share, [sys.executable, "-m", module, *arguments])
        started = time.monotonic()
        console, timed_out = _boot(share, timeout_s, memory_mib, echo)
        seconds = time.monotonic() - started
        status, result = collect(share)
    last = "\n".join(console.splitlines()[-40:])
    if timed_out:
        raise MachineError(f"{module} took longer than {timeout_s:g} s in the machine:\n{last}")
    if status is None:
        raise MachineError(f"the machine ended before {module} did:\n{last}")
    return Outcome(result=result, status=status, console=console, seconds=seconds)


def _prepare(share: Path, command: Sequence[str]) -> None:
    """Fill the share: the init program, and a module tree under the path that modprobe expects."""
    tree = share / "lib/modules"
    tree.mkdir(parents=True)
    for release in MODULES.iterdir():
        (tree / release.name).symlink_to(release)
    (share / "uml").mkdir()
    script = _INIT.format(
        share=share,
        modules=" ".join(_MODULES),
        repository=shlex.quote(str(REPOSITORY)),
        variable=RESULT_VARIABLE,
        command=shlex.join(command),
    )
    _program(share / "init", script)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _boot(share: Path, timeout_s: float, memory_mib: int, echo: Callable[[str], None] | None) -> tuple[str, bool]:
    """Run the machine to its end; returns what it printed and whether the time was up."""
    environment = {**os.environ, "TMPDIR": _memory_directory(share)}
    if _registers_are_too_large():
        environment["LD_PRELOAD"] = str(_compiled(share))
    command = (
        KERNEL, f"mem={memory_mib}M", "rootfstype=hostfs", "rootflags=/", "ro", f"init={share}/init",
        f"uml_dir={share}/uml", "con=null", "con0=null,fd:1", "quiet", "panic=-1", "random.trust_cpu=on",
    )  # fmt: skip
    return watch(command, timeout_s, echo, environment)


def watch(
    command: Sequence[str],
    timeout_s: float,
    echo: Callable[[str], None] | None,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Run a machine to its end; returns what it printed and whether the time was up. Nothing of it stays.

    A SIGTERM to this process while it watches ends the machine too, and then this process.
    """
    with _ended_by_sigterm() as at_once:
        machine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        expired = threading.Event()

        def end() -> None:
            expired.set()
            _kill(machine)

        timer = threading.Timer(timeout_s, end)
        timer.start()
        lines: list[str] = []
        try:
            at_once()
            assert machine.stdout is not None
            for octets in machine.stdout:
                line = octets.decode("utf-8", "replace").rstrip("\r\n")
                lines.append(line)
                if echo is not None:
                    echo(line)
        finally:
            timer.cancel()
            _kill(machine)
            # The last of its helpers has gone when nobody holds the other end any more.
            if machine.stdout is not None:
                machine.stdout.read()
            machine.wait()
    return "\n".join(lines), expired.is_set()


@contextmanager
def _ended_by_sigterm() -> Iterator[Callable[[], None]]:
    """Let SIGTERM unwind this block as an exception, where it would only end this process.

    Not before what is yielded is called: a machine that is only just beginning would be nobody's.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield lambda: None
        return
    early: list[int] = []

    def wait(number: int, _frame: FrameType | None) -> None:
        early.append(number)

    def terminate(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def at_once() -> None:
        signal.signal(signal.SIGTERM, terminate)
        if early:
            terminate(early[0], None)

    before = signal.signal(signal.SIGTERM, wait)
    try:
        yield at_once
    finally:
        signal.signal(signal.SIGTERM, before)


def _compiled(share: Path) -> Path:
    """Return the library that lets the kernel set registers larger than it knows."""
    library = share / "registers.so"
    source = Path(__file__).with_name("registers.c")
    done = subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", library, source], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MachineError(f"cc could not compile {source.name}: {done.stderr}")
    return library


def _memory_directory(share: Path) -> str:
    """Return where the machine's memory lies, as a file it unlinks at once: best in the host's memory."""
    shared_memory = Path("/dev/shm")
    return str(shared_memory if os.access(shared_memory, os.W_OK | os.X_OK) else share)


def _kill(machine: subprocess.Popen[bytes]) -> None:
    """End the machine with its helper processes: they are the session that it started."""
    try:
        os.killpg(machine.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def collect(share: Path) -> tuple[int | None, Any]:
    """Return the status and the result that a machine left in its share; None where it left none."""
    status, result = share / "status", share / "result.json"
    if not status.exists():
        return None, None
    return int(status.read_text()), json.loads(result.read_text()) if result.exists() else None
