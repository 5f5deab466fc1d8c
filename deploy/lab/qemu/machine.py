"""Boot, watch and end one machine under QEMU.

The guest sees the host's files through 9p, read-only, so the very interpreter and checkout that started it run inside;
``/dev``, ``/proc``, ``/sys`` and ``/run`` are its own, and one directory of the host, the share, is writable. A first
file system of our own mounts them: only with 9p's loose cache, which virtme-ng does not ask for, is Python there
within seconds instead of minutes.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.lab.uml import RESULT_VARIABLE, MachineError, Outcome
from deploy.lab.uml.machine import REPOSITORY, collect, watch

QEMU = "qemu-system-x86_64"
BUSYBOX = Path("/bin/busybox")
KERNEL = REPOSITORY / ".cache/kernel"

FIRST_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
MODULES = (
    "drbg", "jitterentropy_rng", "gcm", "ghash-generic", "ccm", "ctr", "cbc", "cmac", "seqiv", "echainiv", "hmac",
    "sha256_generic", "sha512_generic", "authenc", "authencesn", "deflate", "xfrm_user", "xfrm_interface", "esp4",
    "esp6", "ah4", "ah6", "ipcomp", "ipcomp6", "xfrm4_tunnel", "xfrm6_tunnel", "vrf", "veth", "dummy", "sch_prio",
    "sch_tbf", "sch_ingress", "cls_u32",
)  # fmt: skip

_FIRST_INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module; done < /modules/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=524288 share /host{share}
umount /dev
exec switch_root /host /bin/sh {share}/init
"""

_INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns /dev/shm
exec </dev/null
modprobe -d {kernel} -a {names}
echo > /proc/sys/kernel/modprobe
ip link set lo up
cd {repository}
export {variable}={share}/result.json PYTHONPATH={repository} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
{command}
printf %s $? > {share}/status
sync
echo b > /proc/sysrq-trigger
while :; do sleep 1; done
"""


def missing() -> str | None:
    """Return why no machine can be booted here, or None."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed (Debian package qemu-system-x86)"
    if not BUSYBOX.exists():
        return f"{BUSYBOX} is not there (Debian package busybox-static)"
    if not (KERNEL / ".complete").exists():
        return "Debian's kernel is not unpacked: deploy/setup/kernel.sh does it"
    return None


def run(
    module: str,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float = 600.0,
    memory_mib: int = 768,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Boot, run ``python -m module arguments`` inside as root, power off; ``echo`` gets each line as it is printed.

    Raises :class:`MachineError` as :func:`deploy.lab.uml.run` does.
    """
    reason = missing()
    if reason is not None:
        raise MachineError(reason)
    with tempfile.TemporaryDirectory(prefix="vpnconsole-qemu-") as share, tempfile.TemporaryDirectory() as scratch:
        _prepare(Path(share), [sys.executable, "-m", module, *arguments])
        first = first_file_system(Path(scratch), FIRST_MODULES, _FIRST_INIT.format(share=share))
        command = (*machine_command(Path(share), first, memory_mib, "mitigations=off"), "-no-reboot")
        return observe(module, command, Path(share), timeout_s, echo)


def observe(
    module: str, command: Sequence[str], share: Path, timeout_s: float, echo: Callable[[str], None] | None
) -> Outcome:
    """Run a machine to its end and return what ``module`` left in the share; raises :class:`MachineError`."""
    started = time.monotonic()
    console, timed_out = watch(command, timeout_s, echo)
    seconds = time.monotonic() - started
    status, result = collect(share)
    last = "\n".join(console.splitlines()[-40:])
    if timed_out:
        raise MachineError(f"{module} took longer than {timeout_s:g} s in the machine:\n{last}")
    if status is None:
        raise MachineError(f"the machine ended before {module} did:\n{last}")
    return Outcome(result=result, status=status, console=console, seconds=seconds)


def _prepare(share: Path, command: Sequence[str]) -> None:
    script = _INIT.format(
        share=share,
        kernel=shlex.quote(str(KERNEL)),
        names=" ".join(MODULES),
        repository=shlex.quote(str(REPOSITORY)),
        variable=RESULT_VARIABLE,
        command=shlex.join(command),
    )
    (share / "init").write_text(script)


def first_file_system(scratch: Path, kernel_modules: Sequence[str], script: str) -> Path:
    """Pack busybox, kernel modules in the order of ``/modules/order``, and the first program; returns the archive."""
    tree = scratch / "tree"
    for name in ("bin", "dev", "disk", "host", "modules", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin")
    for applet in ("sh", "ln", "mkdir", "mount", "rm", "umount", "insmod", "switch_root"):
        (tree / "bin" / applet).symlink_to("busybox")
    modules = _in_order(kernel_modules)
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    (tree / "init").write_text(script)
    (tree / "init").chmod(0o755)
    archive = scratch / "first.cpio"
    listing = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with archive.open("wb") as output:
        subprocess.run(
            [BUSYBOX, "cpio", "-o", "-H", "newc"], cwd=tree, input=listing.encode(), stdout=output,
            stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    return archive


def _in_order(names: Sequence[str]) -> list[Path]:
    """Return the files of modules, each after those that it depends on."""
    (release,) = (path.name for path in (KERNEL / "lib/modules").iterdir())
    shown = subprocess.run(
        ["modprobe", "-d", KERNEL, "-S", release, "--show-depends", "-a", *names],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    paths = [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod")]
    return list(dict.fromkeys(paths))


def machine_command(share: Path, first: Path, memory_mib: int, parameters: str) -> Sequence[str]:
    """Return the words that start a machine with the host's files and the share; ``parameters`` are the kernel's."""
    (image,) = (KERNEL / "boot").glob("vmlinuz-*")
    return (
        QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory_mib), "-nodefaults",
        "-no-user-config", "-display", "none", "-serial", "stdio",
        "-kernel", str(image), "-initrd", str(first), "-append", f"console=ttyS0 quiet panic=-1 {parameters}",
        *directory(Path("/"), "host", "readonly=on"), *directory(share, "share"),
    )  # fmt: skip


def directory(path: Path, tag: str, *more: str) -> Sequence[str]:
    """Return the words that let a machine mount a directory of the host by its tag."""
    return "-virtfs", ",".join(
        ("local", f"path={path}", f"mount_tag={tag}", "security_model=none,multidevs=remap", *more)
    )
