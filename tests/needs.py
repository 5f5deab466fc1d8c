"""What tests need of the machine: the one place where a test may be skipped, and the sentence its reader gets.

A test says ``@pytest.mark.needs("systemd-analyze")``; markers such as ``lab`` and ``kernel`` bring needs of their
own. ``make test`` installs everything below on Debian 12, so there only a missing right or a missing folder of
vectors can be the reason. Nothing else skips, and nothing is expected to fail (``tests/arch/test_needs.py``).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import frr, qemu, uml
from deploy.lab.qemu import booted
from tests.vectors import FOLDER


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a test cannot do without; ``reason`` says what is missing, why it matters and what mends it."""

    missing: Callable[[], bool]
    reason: str


def _tool(name: str, package: str, purpose: str) -> Need:
    return Need(lambda: shutil.which(name) is None, f"{purpose} needs {name}: apt-get install {package}")


def _low_ports_are_closed() -> bool:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    return os.geteuid() != 0 and first > 500


NEEDS: Mapping[str, Need] = {
    "root": Need(
        lambda: os.geteuid() != 0,
        "the kernel lets only root make network namespaces, TUNs and XFRM policies: run `make test` as root",
    ),
    "port 500": Need(_low_ports_are_closed, "IKE's UDP port 500 on loopback is root's: run `make test` as root"),
    "tun": Need(lambda: not Path("/dev/net/tun").exists(), "the userspace data plane needs /dev/net/tun: modprobe tun"),
    "ip": _tool("ip", "iproute2", "the lab"),
    "ping": _tool("ping", "iputils-ping", "the lab"),
    "setpriv": _tool("setpriv", "util-linux", "the lab"),
    "strongswan": _tool("charon-systemd", "charon-systemd strongswan-swanctl libcharon-extra-plugins", "the peer"),
    "openssl": _tool("openssl", "openssl", "an independent judge of certificates, CRLs and OCSP"),
    "frr": Need(lambda: not frr.OSPFD.exists(), "a router that speaks OSPF over tunnels is FRR: apt-get install frr"),
    "iperf3": _tool("iperf3", "iperf3", "measuring throughput"),
    "tcpdump": _tool("tcpdump", "tcpdump", "capturing what the internet sees"),
    "nft": _tool("nft", "nftables", "the packet filter"),
    "ike-scan": _tool("ike-scan", "ike-scan", "a scanner's view of the IKEv1 responder"),
    "pkits": Need(
        lambda: importlib.util.find_spec("cryptography_vectors") is None,
        "NIST's certification path tests are a package of their own; for a full run: apt-get install make; make setup",
    ),
    "uml": Need(
        lambda: uml.missing() is not None,
        "a kernel with ESP runs as User Mode Linux here: apt-get install user-mode-linux kmod gcc",
    ),
    "qemu": Need(
        lambda: qemu.missing() is not None,
        "Debian's kernel has xfrm interfaces and runs under QEMU: apt-get install qemu-system-x86 busybox-static, "
        "then sh deploy/setup/kernel.sh",
    ),
    "chromium": _tool("chromium", "chromium", "the browser"),
    "systemd-analyze": _tool("systemd-analyze", "systemd", "checking the service units"),
    "systemd": Need(
        lambda: booted.missing() is not None,
        "the agent's units are tried under a systemd that boots: apt-get install systemd e2fsprogs python3-venv",
    ),
    "vectors": Need(
        lambda: not FOLDER.is_dir(),
        f"other people's test vectors are not part of this repository and are not in {FOLDER}: set VPNCONSOLE_VECTORS",
    ),
}

BY_MARKER: Mapping[str, tuple[str, ...]] = {
    "lab": ("root", "tun", "ip", "ping", "setpriv"),
    "kernel": ("root", "uml"),
    "qemu": ("qemu",),
    "browser": ("chromium",),
}


def why_not(names: Iterable[str]) -> str | None:
    """Return the sentence for the first of these needs that is not met, None when all are; raises KeyError."""
    return next((NEEDS[name].reason for name in names if NEEDS[name].missing()), None)
