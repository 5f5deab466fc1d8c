"""Captures of real packets in a network namespace, read back by tcpdump."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agents.agentd.capture import captures as module
from agents.agentd.capture import pcapng
from agents.agentd.capture.captures import CaptureRefusedError, Captures, UnknownCaptureError
from agents.agentd.capture.scope import MOST_PAIRS, Scope, scope_of, socket_filter
from agents.agentd.capture.tap import Tap, TapError
from agents.agentd.database import Database
from agents.agentd.journal import Journal
from agents.contract.captures import CaptureRequest, CaptureView
from agents.contract.config import Child, IpsecProposal, TrafficSelector, Tunnel
from agents.contract.errors import FieldError
from agents.contract.status import CaptureStatus, TunnelState, TunnelStatus
from deploy.lab.netns import Namespace, connect
from tests.agentd.fakes import TUNNEL_ID, tunnel
from tests.agentd.inside import run_inside

HERE, THERE, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
SPI = bytes.fromhex("c0000001")


def request(view: CaptureView = CaptureView.OUTER, **changes: int) -> CaptureRequest:
    return CaptureRequest(id=str(uuid.uuid4()), tunnel_id=TUNNEL_ID, view=view, **changes)


def between() -> Tunnel:
    return tunnel(local=HERE, remote=THERE)


def tcpdump(file: Path, *words: str) -> list[str]:
    """What an independent reader finds, one line per packet."""
    done = subprocess.run(["tcpdump", "-nr", str(file), *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def directions(file: Path) -> dict[int, int]:
    """The last flags word of each packet block by IP protocol: 1 is inbound, 2 outbound (section 4.3.1)."""
    octets, found, at = file.read_bytes(), {}, 0
    while at < len(octets):
        kind, length = struct.unpack_from("<II", octets, at)
        if kind == 6:
            found[octets[at + 28 + 9]] = struct.unpack_from("<I", octets, at + length - 12)[0]
        at += length
    return found


def checksum(octets: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return head + checksum(head + b"\0\0" + addresses) + addresses + payload


@pytest.fixture(scope="module")
def site() -> Iterator[Namespace]:
    prefix = f"vc{os.getpid()}c"
    here, there = Namespace(prefix, "here"), Namespace(prefix, "there")
    here.create()
    there.create()
    connect(
        here, "wan", [f"{HERE}/24", "2001:db8::1/64"], there, "wan", [f"{THERE}/24", f"{STRANGER}/24", "2001:db8::2/64"]
    )
    yield here
    here.remove()
    there.remove()


class Captured:
    """Captures in a directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "captures"
        self.database = Database(directory / "journal")
        self.journal = Journal(self.database)
        self.captures = Captures(self.directory, self.journal)
        self.captures.open()

    async def ended(self, capture_id: str) -> CaptureStatus:
        async with asyncio.timeout(60):
            while True:
                status = next(each for each in self.captures.statuses() if each.id == capture_id)
                if not status.running:
                    return status
                await asyncio.sleep(0.01)

    async def packets(self, capture_id: str, count: int) -> None:
        async with asyncio.timeout(60):
            while self.captures._running[capture_id].packets < count:
                await asyncio.sleep(0.01)

    def codes(self) -> list[str]:
        return [event.code for event in self.journal.page(0, 100).events]


@pytest.fixture
def inside(site: Namespace, tmp_path: Path) -> Callable[[Callable[[Captured], Awaitable[None]]], None]:
    """Run a test's coroutine in the namespace."""

    def run(work: Callable[[Captured], Awaitable[None]]) -> None:
        async def whole() -> None:
            captured = Captured(tmp_path)
            try:
                await work(captured)
            finally:
                captured.captures.close()
                captured.database.close()

        run_inside(site, whole)

    return run


def send_raw(*packets: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))


def send_udp(destination: str, port: int, payload: bytes = b"x" * 40) -> None:
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.sendto(payload, (destination, port))


pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("ip"), pytest.mark.needs("tcpdump")]
Inside = Callable[[Callable[[Captured], Awaitable[None]]], None]


def test_the_outer_view_is_the_tunnels_ipsec_and_ike_and_nothing_else(inside: Inside) -> None:
    async def work(captured: Captured) -> None:
        wanted = request()
        started = captured.captures.start(wanted, "paris-lyon", scope_of(wanted.view, between(), None))
        assert started.running
        send_udp(THERE, 500)
        send_udp(THERE, 4500)
        send_udp(THERE, 53)
        send_udp(STRANGER, 500)
        later_fragment = bytearray(ipv4(HERE, THERE, 17, b"z" * 16))
        later_fragment[6:8] = b"\0\x02"
        send_raw(
            ipv4(HERE, THERE, 50, SPI + b"\0\0\0\x07" + bytes(40)),
            ipv4(HERE, THERE, 51, b"\x3b\x04\0\0" + SPI + b"\0\0\0\x08" + bytes(12)),
            ipv4(HERE, THERE, 6, bytes(20)),
            ipv4(HERE, STRANGER, 50, bytes(40)),
            bytes(later_fragment),
        )
        await captured.packets(wanted.id, 5)
        status = captured.captures.stop(wanted.id)
        file = captured.captures.file(wanted.id)
        lines = tcpdump(file)
        assert status.packets == len(lines) == 5
        assert sum("ESP(spi=0xc0000001,seq=0x7)" in line for line in lines) == 1
        assert sum("AH(spi=0xc0000001" in line for line in lines) == 1
        assert sum(".500: " in line for line in lines) == 1
        assert sum(".4500: " in line for line in lines) == 1
        assert all(f"{HERE}" in line and THERE in line for line in lines)
        assert status.octets == file.stat().st_size
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(captured.directory.stat().st_mode) == 0o700
        assert captured.codes() == ["agent.capture-started", "agent.capture-ended"]

    inside(work)


def test_the_peers_present_address_counts_too(inside: Inside) -> None:
    from tests.cli.test_commands import UP

    async def work(captured: Captured) -> None:
        import dataclasses

        moved = dataclasses.replace(UP.ike_sas[0], local=f"{HERE}:4500", remote=f"{STRANGER}:1024")
        live = dataclasses.replace(UP, ike_sas=(moved,))
        wanted = request(packets=1)
        captured.captures.start(wanted, "t", scope_of(wanted.view, between(), live))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((HERE, 4500))
            udp.sendto(b"\0" * 40, (STRANGER, 1024))
        assert (await captured.ended(wanted.id)).ended_because == "the limit of 1 packets"

    inside(work)


def test_the_inner_view_is_that_of_the_tunnels_interface_and_knows_the_direction(inside: Inside) -> None:
    async def work(captured: Captured) -> None:
        live = TunnelStatus(id=TUNNEL_ID, name="t", state=TunnelState.UP, since=0.0, interface="wan")
        wanted = request(CaptureView.INNER)
        before = time.time()
        captured.captures.start(wanted, "t", scope_of(wanted.view, between(), live))
        send_udp(THERE, 7777)
        echo = b"\x08\0\0\0\0\x01\0\x01"
        send_raw(ipv4(HERE, THERE, 1, echo[:2] + checksum(echo) + echo[4:]))
        file, running = captured.directory / f"{wanted.id}.pcapng", captured.captures._running[wanted.id]
        async with asyncio.timeout(60):
            while directions(file).get(1) != 1:
                await asyncio.sleep(0.01)
                running.file.flush()
        captured.captures.stop(wanted.id)
        assert len(tcpdump(file, "udp", "port", "7777")) == len(tcpdump(file, "icmp[0]", "==", "0")) == 1
        assert (directions(file)[17], directions(file)[1]) == (2, 1)
        stamps = [float(line.split()[0]) for line in tcpdump(file, "-tt")]
        assert all(before - 1 <= stamp <= time.time() + 1 for stamp in stamps)

    inside(work)


def test_without_an_interface_the_inner_view_goes_by_selectors(inside: Inside) -> None:
    async def work(captured: Captured) -> None:
        selectors = Child(
            name="net",
            local_ts=(TrafficSelector(network="2001:db8::1/128"),),
            remote_ts=(TrafficSelector(network="2001:db8::/64", protocol=17, start_port=53, end_port=53),),
            proposals=(IpsecProposal(encryption="aes-128-gcm-16"),),
        )
        wanted = request(CaptureView.INNER)
        scope = scope_of(wanted.view, tunnel(children=(selectors,)), None)
        assert "no interface of its own" in scope.note
        captured.captures.start(wanted, "t", scope)
        send_udp("2001:db8::2", 54)
        send_udp("2001:db8::2", 53)
        send_udp(THERE, 53)
        await captured.packets(wanted.id, 1)
        captured.captures.stop(wanted.id)
        lines = tcpdump(captured.captures.file(wanted.id), "udp")
        assert len(lines) == 1
        assert "2001:db8::2.53:" in lines[0]

    inside(work)


@pytest.mark.parametrize(
    ("bounds", "because", "packets"),
    [
        ({"packets": 3}, "the limit of 3 packets", 3),
        ({"octets": 65_536}, "the size limit of 65536 octets", None),
        ({"seconds": 1}, "the time limit of 1 s", None),
    ],
)
def test_a_capture_ends_by_itself(inside: Inside, bounds: dict[str, int], because: str, packets: int | None) -> None:
    async def work(captured: Captured) -> None:
        wanted = request(CaptureView.OUTER, **bounds)
        captured.captures.start(wanted, "t", scope_of(wanted.view, between(), None))
        if "seconds" not in bounds:
            for _ in range(60):
                send_udp(THERE, 500, b"y" * 1_400)
        status = await captured.ended(wanted.id)
        file = captured.captures.file(wanted.id)
        assert status.ended_because == because
        assert file.stat().st_size == status.octets <= wanted.octets
        assert len(tcpdump(file)) == status.packets
        if packets is not None:
            assert status.packets == packets

    inside(work)


def test_one_per_tunnel_at_a_time_and_the_same_one_only_once(inside: Inside) -> None:
    async def work(captured: Captured) -> None:
        scope = scope_of(CaptureView.OUTER, between(), None)
        first = request()
        captured.captures.start(first, "t", scope)
        assert captured.captures.start(first, "t", scope).id == first.id
        with pytest.raises(CaptureRefusedError, match="running already"):
            captured.captures.start(request(), "t", scope)
        with pytest.raises(CaptureRefusedError, match="stop it first"):
            captured.captures.file(first.id)
        captured.captures.stop(first.id)
        captured.captures.start(request(), "t", scope)
        with pytest.raises(UnknownCaptureError):
            captured.captures.stop(str(uuid.uuid4()))

    inside(work)


def test_an_interface_that_is_not_there_is_said(inside: Inside) -> None:
    async def work(captured: Captured) -> None:
        with pytest.raises(CaptureRefusedError, match="packets of vpn0 cannot be captured: No such device"):
            captured.captures.start(request(), "t", Scope(note="", interface="vpn0"))
        assert captured.captures.statuses() == ()
        assert list(captured.directory.iterdir()) == []

    inside(work)


def test_an_interface_that_goes_ends_its_capture(inside: Inside, site: Namespace) -> None:
    async def work(captured: Captured) -> None:
        site.ip("link", "add", "gone", "type", "veth", "peer", "name", "gone-too")
        site.ip("link", "set", "gone", "up")
        wanted = request(CaptureView.INNER)
        captured.captures.start(wanted, "t", Scope(note="", interface="gone"))
        site.ip("link", "delete", "gone")
        assert (await captured.ended(wanted.id)).ended_because == "gone: Network is down"

    inside(work)


def test_old_captures_go_and_what_a_killed_agent_left_is_told(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(captured: Captured) -> None:
        scope = scope_of(CaptureView.OUTER, between(), None)
        old, running = request(), request()
        captured.captures.start(old, "t", scope)
        captured.captures.stop(old.id)
        os.utime(captured.directory / f"{old.id}.json", (0, time.time() - 3_601))
        captured.captures.start(running, "t", scope)
        (captured.directory / "stray.pcapng").touch()
        again = Captures(captured.directory, captured.journal)
        again.open()
        assert [(each.id, each.running, each.ended_because) for each in again.statuses()] == [
            (running.id, False, "the agent ended")
        ]
        assert {path.name for path in captured.directory.iterdir()} == {f"{running.id}.json", f"{running.id}.pcapng"}
        again.close()
        captured.captures.close()
        monkeypatch.setattr(module, "MOST_KEPT", 2)
        for _ in range(3):
            each = request()
            captured.captures.start(each, "t", scope)
            captured.captures.stop(each.id)
        kept = [status.id for status in captured.captures.statuses()]
        assert len(kept) == 2
        assert kept[-1] == each.id
        captured.captures.forget(frozenset())
        assert captured.captures.statuses() == ()
        assert list(captured.directory.iterdir()) == []

    inside(work)


def test_packets_that_find_no_room_are_told(inside: Inside, site: Namespace) -> None:
    async def work(captured: Captured) -> None:
        tap = Tap(scope_of(CaptureView.OUTER, between(), None))
        for _ in range(20_000):
            send_raw(ipv4(HERE, THERE, 50, bytes(1_400)))
        taken, dropped = tap.statistics()
        tap.close()
        assert taken >= 20_000
        assert dropped > 0

    inside(work)


def test_an_agent_without_the_right_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(TapError, match="Operation not permitted"):
        Tap(Scope(note=""))


def test_many_pairs_are_not_left_to_the_kernel() -> None:
    many = scope_of(CaptureView.INNER, tunnel(local_ts=[f"10.1.{each}.0/24" for each in range(MOST_PAIRS)]), None)
    assert socket_filter(many.pairs) == []
    assert socket_filter(()) == []


@pytest.mark.parametrize(("name", "value"), [("seconds", 601), ("octets", 1_000), ("packets", 0)])
def test_bounds_have_bounds(name: str, value: int) -> None:
    with pytest.raises(FieldError, match=name):
        request(CaptureView.OUTER, **{name: value})


def test_a_file_begins_as_the_format_says(tmp_path: Path) -> None:
    """Octets laid out by hand after draft-ietf-opsawg-pcapng sections 4.1 to 4.3."""
    assert pcapng.section("a", "c")[:24] == bytes.fromhex("0a0d0d0a 30000000 4d3c2b1a 0100 0000 ffffffffffffffff")
    assert pcapng.interface("wan")[:16] == bytes.fromhex("01000000 28000000 6500 0000 00000400")
    packet = pcapng.packet(1, 0x1_0000_0002, b"abcde", outbound=True)
    assert packet == bytes.fromhex(
        "06000000 34000000 01000000 01000000 02000000 05000000 05000000 6162636465000000 0200 0400 02000000 0000 0000"
        "34000000"
    )
