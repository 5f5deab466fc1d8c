"""Boot systemd under QEMU, on a copy of the host that writes to a disk of its own, and run a module beside its units.

The root is the host's files with a file system above them that takes every change, in a file that goes with the
machine; so it has what the host has installed, and can be rebooted. Of the host's units only those of
``/usr/lib/systemd`` are there, and of these none that would look for hardware, terminals or people.
"""

from __future__ import annotations

import compileall
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.lab.qemu import machine
from deploy.lab.uml import RESULT_VARIABLE, MachineError, Outcome
from deploy.lab.uml.machine import REPOSITORY

BOOT_VARIABLE = "VPNCONSOLE_BOOT"
"""Environment variable of the guest: how often the machine has been booted, from 1."""
AGAIN = 75
"""The exit status by which a module asks to be run once more, after a reboot."""

_SYSTEMD = Path("/lib/systemd/systemd")
_MKFS = "mkfs.ext4"
_DISK_MIB = 1024
_CHECKOUT = ("agents", "deploy", "docs", "requirements", "tests")
_PLACE = "/srv/checkout"
_MODULES = (*machine.FIRST_MODULES, "virtio_blk", "crc32c_generic", "ext4", "overlay")
_MASKED = (
    "apparmor.service", "cryptsetup.target", "dbus.service", "dbus.socket", "dev-hugepages.mount", "dev-mqueue.mount",
    "getty.target", "integritysetup.target", "ldconfig.service", "nftables.service",
    "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-binfmt.service", "systemd-firstboot.service",
    "systemd-journal-flush.service", "systemd-logind.service", "systemd-machine-id-commit.service",
    "systemd-random-seed.service", "systemd-sysusers.service", "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket", "systemd-udevd.service", "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service", "systemd-user-sessions.service", "veritysetup.target",
)  # fmt: skip

_FIRST_INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module; done < /modules/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose host /host
mount -t ext4 /dev/vda /disk
mkdir -p /disk/work /disk/units
mount -t overlay -o lowerdir=/host,upperdir=/disk/changes,workdir=/disk/work root /root
rm -f /root/.dockerenv
mount -t tmpfs -o mode=0755 run /root/run
mkdir /root/run/share
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=524288 share /root/run/share
for unit in {masked}; do ln -sf /dev/null /disk/units/$unit; done
mkdir -p /disk/units/multi-user.target.wants
ln -sf /run/share/beside.service /disk/units/beside.service
ln -sf ../beside.service /disk/units/multi-user.target.wants
mount -o bind /disk/units /root/etc/systemd/system
mkdir -p /root/lib/modules
mount -o bind /root{kernel}/lib/modules /root/lib/modules
mount -t tmpfs none /root/lib/systemd/system-generators
umount /dev
exec switch_root /root {systemd}
"""

_UNIT = """[Unit]
Description=The module beside the units

[Service]
ExecStart=/bin/sh /run/share/beside
KillMode=process
"""

_BESIDE = """exec >/dev/ttyS0 2>&1 </dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tmp
mkdir -p /run/tmp /run/netns
ip link set lo up
boot=$(($(cat /run/share/boots) + 1))
echo $boot > /run/share/boots
modprobe -a {names}
cd {repository}
export {variable}=/run/share/result.json {boot}=$boot
export PYTHONPATH={repository} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
{command}
status=$?
if [ $status = {again} ]; then
    exec systemctl --no-block reboot
fi
printf %s $status > /run/share/status
sync
systemctl poweroff --force --force
"""


def missing() -> str | None:
    """Return why no machine with systemd can be booted here, or None."""
    if not _SYSTEMD.exists():
        return f"{_SYSTEMD} is not there (Debian package systemd)"
    if shutil.which(_MKFS) is None:
        return f"{_MKFS} is not installed (Debian package e2fsprogs)"
    return machine.missing()


def run_beside_systemd(
    module: str,
    arguments: Sequence[str] = (),
    *,
    python: str = "/usr/bin/python3",
    above: Path | None = None,
    timeout_s: float = 900.0,
    memory_mib: int = 1024,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Boot, run ``python -m module arguments`` as a service of systemd, reboot where it asks so, power off.

    The directory ``above`` lies over the host's root, as if its files had been there. Raises :class:`MachineError` as
    :func:`deploy.lab.uml.run` does.
    """
    reason = missing()
    if reason is not None:
        raise MachineError(reason)
    with tempfile.TemporaryDirectory(prefix="vpnconsole-qemu-") as share, tempfile.TemporaryDirectory() as scratch:
        _prepare(Path(share), [python, "-m", module, *arguments])
        script = _FIRST_INIT.format(
            masked=" ".join(_MASKED),
            kernel=shlex.quote(str(machine.KERNEL)),
            systemd=_SYSTEMD,
        )
        first = machine.first_file_system(Path(scratch), _MODULES, script)
        disk = _disk(Path(scratch), above)
        parameters = "mitigations=off systemd.unit=multi-user.target systemd.show_status=0 systemd.firstboot=0"
        command = (
            *machine.machine_command(Path(share), first, memory_mib, parameters),
            "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe",
        )  # fmt: skip
        return machine.observe(module, command, Path(share), timeout_s, echo)


def _prepare(share: Path, command: Sequence[str]) -> None:
    (share / "boots").write_text("0")
    (share / "beside.service").write_text(_UNIT)
    script = _BESIDE.format(
        names=" ".join(machine.MODULES),
        repository=_PLACE,
        variable=RESULT_VARIABLE,
        boot=BOOT_VARIABLE,
        again=AGAIN,
        command=shlex.join(command),
    )
    (share / "beside").write_text(script)


def _disk(scratch: Path, above: Path | None) -> Path:
    """Make the disk, with what is to be above the host's files at once: through 9p each file costs many round trips."""
    content = scratch / "content"
    changes = content / "changes"
    changes.mkdir(parents=True)
    if above is not None:
        shutil.copytree(above, changes, symlinks=True, dirs_exist_ok=True)
    for name in _CHECKOUT:
        shutil.copytree(REPOSITORY / name, content / "changes" / _PLACE.lstrip("/") / name)
    compileall.compile_dir(content / "changes" / _PLACE.lstrip("/"), quiet=2, stripdir=changes, prependdir="/")
    disk = scratch / "disk"
    with disk.open("wb") as made:
        made.truncate(_DISK_MIB << 20)
    command = [_MKFS, "-q", "-F", "-d", str(content), str(disk)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return disk
