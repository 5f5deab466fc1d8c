"""Libreswan as the peer of interop cells, with XFRM on both sides: its lab, its words, and the cells run against it.

The steps are those of the strongSwan matrix; :class:`LibreswanSession` translates what they ask of the peer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from agents.contract.config import IkeProposal, IpsecProposal, Mode, SequenceNumbers
from agents.contract.status import TunnelStatus
from deploy.lab.libreswan import Libreswan
from deploy.lab.netns import LabError, Namespace
from deploy.lab.vici import Message
from tests.interop import steps
from tests.interop.cells import CONNECTION, ESP_GCM, OUR_IDENTITY, PSK, THEIR_IDENTITY, Cell, Net, Place, Step
from tests.interop.kernel import KernelGateway, KernelLab, both_kernels_show, large_packets_get_smaller
from tests.interop.results import Outcome, Result
from tests.interop.rig import OURS, THEIRS
from tests.interop.runner import Told
from tests.interop.session import Session

AXIS = "IKEv2 with PSK"
_POLL_S = 0.05
_CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-512-256")
_P256 = IkeProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-19")
_MODP = IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-512", group="group-14")
_STATE = re.compile(r"^src \S+ dst \S+$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cell and the lines of Libreswan's connection that say the same."""

    cell: Cell
    lines: Mapping[str, str]

    def connection(self, place: Place) -> str:
        """Return the lines of Libreswan's ``conn`` section."""
        values = {
            "ikev2": "insist", "authby": "secret", "auto": "ignore", "pfs": "no", "leftupdown": "/bin/true",
            "left": place.theirs, "leftid": f"@{THEIR_IDENTITY.value}",
            "right": place.ours_as_seen, "rightid": f"@{OUR_IDENTITY.value}",
            "ike": "aes_gcm128-sha2_256;dh31", "phase2alg": "aes_gcm128", "esn": "no", "dpddelay": "0", "rekey": "no",
            **self.lines,
        }  # fmt: skip
        if self.lines.get("type") != "transport":
            (net,) = self.cell.nets
            values |= {"leftsubnet": net.theirs[0], "rightsubnet": net.ours[0]}
        return "\n".join(f"{name}={value}" for name, value in values.items() if value)


def cases() -> list[Case]:
    """Return every case; the quick ones are those of ``make test``."""
    hosts = Net(
        ours=(f"{OURS}/32",), theirs=(f"{THEIRS}/32",), pings=((OURS, THEIRS),), child={"mode": Mode.TRANSPORT}
    )  # fmt: skip
    transport = {"type": "transport"}
    extended = {"sequence_numbers": SequenceNumbers.EXTENDED}
    ah = IpsecProposal(ah_integrity="hmac-sha2-256-128")
    return [
        _case("ESP in tunnel mode, AES-GCM, X25519", shown=("proto esp", "mode tunnel"), quick=True),
        _case(
            "ESP in tunnel mode, AES-CBC with SHA2-512, P-256", ike=(_P256,), esp=_CBC, shown=("proto esp",),
            lines={"ike": "aes_cbc256-sha2_256;dh19", "phase2alg": "aes_cbc256-sha2_512"},
        ),
        _case(
            "AES-256-GCM and MODP-2048", ike=(_MODP,), shown=("proto esp",),
            lines={"ike": "aes_gcm256-sha2_512;dh14"},
        ),
        _case(
            "ESP in UDP", shown=("encap type espinudp",), tunnel={"force_udp_encapsulation": True},
            lines={"encapsulation": "yes"},
        ),
        _case("transport mode", net=hosts, shown=("mode transport",), lines=transport),
        _case("extended sequence numbers", child=extended, shown=("esn\n",), lines={"esn": "yes"}),
        _case(
            "AH in tunnel mode", esp=ah, shown=("proto ah", "mode tunnel"),
            lines={"phase2": "ah", "phase2alg": "sha2_256"},
        ),
        _case(
            "AH in transport mode", esp=ah, net=hosts, shown=("proto ah", "mode transport"),
            lines={**transport, "phase2": "ah", "phase2alg": "sha2_256"},
        ),
        _case("IPComp", child={"ipcomp": True}, shown=("proto comp",), lines={"compress": "yes"}),
    ]  # fmt: skip


_DEFAULT = Net()


def _case(
    name: str,
    *,
    net: Net = _DEFAULT,
    child: Mapping[str, Any] | None = None,
    esp: IpsecProposal = ESP_GCM,
    shown: tuple[str, ...] = (),
    lines: Mapping[str, str] | None = None,
    **more: Any,
) -> Case:
    # Libreswan's delete of an AH child names its SPI of ESP, which is none: after its own rekey the old SAs would stay.
    look = both_kernels_show(*shown)
    script: tuple[Step, ...] = (
        look,
        steps.we_rekey_the_child,
        *(() if esp.encryption is None else (steps.they_rekey_the_child,)),
        look,
        steps.they_delete_the_ike_sa,
        steps.we_delete_the_ike_sa,
        look,
    )
    if "proto comp" in shown:
        script = (large_packets_get_smaller, *script)
    net = dataclasses.replace(net, child={**net.child, **(child or {})})
    cell = Cell(axis=AXIS, name=name, nets=(net,), esp=(esp,), their_esp="-", script=script, limit_s=120, **more)
    return Case(cell=cell, lines=lines or {})


class LibreswanLab(KernelLab):
    """Our daemon and Libreswan, each in a namespace; ``identities`` and ``authorities`` as its ``start`` has them."""

    pluto: Libreswan
    identities: Sequence[bytes] = ()
    authorities: Mapping[str, bytes] = MappingProxyType({})

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vc-interop-")))
            stack.enter_context(self._network())
            self.pluto = Libreswan(self.their_space, directory / "pluto")
            stack.callback(self.pluto.stop)
            secret = f"@{THEIR_IDENTITY.value} @{OUR_IDENTITY.value} : PSK 0x{PSK.hex()}\n"
            await asyncio.to_thread(self.pluto.start, secret, identities=self.identities, authorities=self.authorities)
            self.ours = await stack.enter_async_context(KernelGateway(self.our_space, directory / "agent"))
            self._stack = stack.pop_all()
        return self

    def _logs(self) -> tuple[Path, Path]:
        return self.ours.log_path, self.pluto.log


class LibreswanSession(Session):
    """The tunnel of a case."""

    def __init__(self, lab: LibreswanLab, case: Case, role: str, place: Place, number: int) -> None:
        super().__init__(lab, case.cell, role, place, number)
        self._case = case
        self._pluto = lab.pluto

    async def load_theirs(self) -> None:
        """Give Libreswan its connection."""
        await asyncio.to_thread(self._pluto.add, CONNECTION, self._case.connection(self.place))

    async def request(self, command: str, message: Message | None = None) -> Message:
        """Do with ``whack`` what a step asks of the peer in vici's words."""
        what = message or {}
        match command:
            case "initiate":
                await self._whack("--initiate", "--name", CONNECTION, "--asynchronous")
            case "rekey" if "child" in what:
                await self._whack("--rekey-ipsec", "--name", CONNECTION, "--asynchronous")
            case "rekey":
                await self._whack("--rekey-ike", "--name", CONNECTION, "--asynchronous")
            case "terminate":
                await self._whack("--terminate", "--name", CONNECTION)
            case "unload-conn":
                await self._whack("--delete", "--name", CONNECTION)
            case _:
                raise LabError(f"Libreswan is not asked for {command}")
        return {}

    async def until_equal(self, limit_s: float = 30.0) -> TunnelStatus:
        """Wait until the tunnel is whole and both kernels hold its states alike, keys included."""
        status = await self.until(self.is_whole, "up", limit_s)
        try:
            async with asyncio.timeout(limit_s):
                while not (self.is_whole(status) and self._alike(status)):
                    await self.ours.changed(_POLL_S)
                    status = await self.status()
        except TimeoutError:
            raise AssertionError("the kernels' states differ") from None
        return status

    async def until_theirs_gone(self, limit_s: float = 30.0) -> None:
        """Wait until Libreswan's kernel has no state left."""
        async with asyncio.timeout(limit_s):
            while _states(self.lab.their_space):
                await asyncio.sleep(_POLL_S)  # the peer has no events to wait for

    async def clear(self) -> None:
        """Take the connection from Libreswan, with whatever it has."""
        await self.request("unload-conn")

    def _alike(self, status: TunnelStatus) -> bool:
        ours, theirs = _states(self.lab.our_space), _states(self.lab.their_space)
        wanted = {spi for child in status.children for sa in child.sas for spi in (sa.spi_in, sa.spi_out)}
        return wanted <= {spi for _, spi in ours} and ours == theirs

    async def _whack(self, *arguments: str) -> None:
        await asyncio.to_thread(self._pluto.whack, *arguments)


def _states(space: Namespace) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return a kernel's states: protocol and SPI to mode and algorithms with keys (never to be printed)."""
    found = {}
    for text in _STATE.split(space.run("ip", "xfrm", "state"))[1:]:
        head = re.search(r"proto (\w+) spi 0x([0-9a-f]+)\(?.* mode (\w+)", text)
        if head is None or head[1] == "4" or head[1] == "ipip":
            continue
        algorithms = [
            line.strip() for line in text.splitlines() if re.match(r"\t(aead|auth|auth-trunc|enc|comp) ", line)
        ]
        found[head[1], head[2]] = (head[3], *algorithms)
    return found


async def run(
    wanted: Sequence[tuple[Case, str]], told: Told, make_lab: Callable[[str, Mapping[str, str], int], LibreswanLab]
) -> list[Result]:
    """Run cases in roles and return their results; after one that failed the daemons are new ones."""
    results: list[Result] = []
    while len(results) < len(wanted):
        async with make_lab("direct", {}, len(results)) as lab:
            while len(results) < len(wanted):
                case, role = wanted[len(results)]
                began = time.monotonic()
                await lab.mark()
                outcome, reason = await _run_one(lab, case, role, len(results) + 1)
                result = Result(axis=case.cell.axis, cell=case.cell.name, role=role, outcome=outcome, reason=reason)
                failed = outcome is Outcome.FAILED
                told(result, time.monotonic() - began, lab.logs() if failed else "")
                results.append(result)
                if failed:
                    break
    return results


async def _run_one(lab: LibreswanLab, case: Case, role: str, number: int) -> tuple[Outcome, str]:
    try:
        async with asyncio.timeout(case.cell.limit_s):
            session = LibreswanSession(lab, case, role, lab.place(case.cell), number)
            await session.prepare()
            await session.bring_up()
            await session.carrying()
            for step in case.cell.script:
                await step(session)
            await session.end()
    except (AssertionError, LabError) as error:
        return Outcome.FAILED, str(error).partition("\n")[0]
    except TimeoutError:
        return Outcome.FAILED, f"not over after {case.cell.limit_s:.0f} s"
    return Outcome.PASSED, ""
