"""Two gateways with all their processes: tunnels come, survive what they should, and come back from the rest."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.contract.status import TunnelState
from tests.agentd.gateways import PSK_FORMS, Gateway, Pair, eventually, gateway_document
from tests.agentd.inside import run_inside

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    try:
        made.build()
        for name, gateway in made.gateways.items():
            gateway.configure(gateway_document(name, 1))
        yield made
    finally:
        made.remove()


@pytest.fixture
def paris(pair: Pair) -> Gateway:
    """Paris, with the tunnel up at both ends and carrying packets; what routes there are has gone into its status."""
    for gateway in pair.gateways.values():
        eventually(lambda: gateway.up() and gateway.status().tunnels[0].routes)  # noqa: B023 - called here
    eventually(pair.gateways["paris"].reaches)
    return pair.gateways["paris"]


def test_a_tunnel_comes_up_and_carries_packets(paris: Gateway) -> None:
    status = paris.status()
    tunnel = status.tunnels[0]
    assert (status.applied_generation, tunnel.state, tunnel.routes) == (1, TunnelState.UP, ("10.2.0.0/24",))
    names = ("agentd", "iked", "iked.v2", "iked.tunnels", "espd")
    assert {each.name: each.healthy for each in status.components} == dict.fromkeys(names, True)
    before = tunnel.counters
    assert paris.ping(5)
    after = paris.status().tunnels[0].counters
    assert after.packets_out - before.packets_out >= 5
    assert after.packets_in - before.packets_in >= 5
    assert "src 10.1.0.1" in paris.routes()
    assert paris.events("agent.route-added")


def test_restarting_agentd_does_not_touch_the_tunnel(paris: Gateway) -> None:
    spi = paris.status().tunnels[0].ike_sas[0].spi_i
    routes = paris.routes()
    for number in (signal.SIGKILL, signal.SIGTERM):
        pid = paris.pid("agentd")
        os.kill(pid, number)
        assert paris.ping(10)
        assert paris.routes() == routes
        eventually(lambda: _other_pid(paris, "agentd", pid))  # noqa: B023 - called here
        eventually(paris.answers)
    eventually(paris.up)
    assert paris.status().tunnels[0].ike_sas[0].spi_i == spi


def test_a_route_taken_away_is_put_back(paris: Gateway) -> None:
    before = len(paris.events("agent.repaired"))
    paris.namespace.ip("route", "del", "10.2.0.0/24")
    eventually(lambda: "10.2.0.0/24" in paris.routes())
    assert paris.ping()
    eventually(lambda: len(paris.events("agent.repaired")) > before)  # told when the kernel has said that it is there
    assert len(paris.events("agent.repaired")) == before + 1


@pytest.mark.parametrize("process", ["iked", "espd"])
def test_the_tunnel_returns_after_kill_minus_nine(pair: Pair, paris: Gateway, process: str) -> None:
    pid = paris.pid(process)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _other_pid(paris, process, pid))
    eventually(lambda: paris.reaches(3))
    for gateway in pair.gateways.values():
        eventually(gateway.up)


def test_verbs_reach_the_tunnel(paris: Gateway) -> None:
    old = {sa.spi_in for sa in paris.status().tunnels[0].children[0].sas}
    assert paris.act("rekey-1", "rekey-child")["accepted"]
    eventually(lambda: {sa.spi_in for sa in paris.status().tunnels[0].children[0].sas} - old)
    assert paris.ping(3)
    assert paris.events("agent.action")


def test_the_command_lines_say_what_is(paris: Gateway) -> None:
    eventually(lambda: len(paris.status().tunnels[0].children[0].sas) == 1)  # of a rekey before, nothing old is left
    assert "aes-128-gcm-16, 10.1.0.0/24 === 10.2.0.0/24" in paris.command("cli", "status", "paris-lyon")
    listed = [line.split() for line in paris.command("cli.ike", "cmd=list").splitlines()]
    assert [line[:3] for line in listed[1:]] == [["1", "1", "Active"], ["2", "1", "Active"]]
    report = dict(line.split(": ") for line in paris.command("cli.ipsecstat").splitlines() if ": " in line)
    assert int(report["Incoming ESP packets"]) > 0
    assert report["ESP did not compute"] == "0"
    last = json.loads(paris.command("cli", "events", "--limit", "1", "--json"))["sequence"]
    following = paris.start_command("cli", "events", "--follow", "--after", str(last))
    try:
        assert paris.command("cli", "rekey", "paris-lyon").startswith("paris-lyon: ")
        assert following.stdout is not None
        assert following.stdout.readline().split()[0] == str(last + 1)
    finally:
        following.terminate()
        following.communicate(timeout=10)


def test_a_document_without_the_tunnel_takes_tunnel_and_route_away(paris: Gateway) -> None:
    paris.configure(gateway_document("paris", 2, enabled=False))
    eventually(lambda: paris.routes() == "")
    eventually(lambda: paris.status().tunnels[0].state is TunnelState.DISABLED)
    assert not paris.reaches()
    paris.configure(gateway_document("paris", 3))
    eventually(paris.reaches)


def test_the_key_is_in_the_document_and_nowhere_else(pair: Pair) -> None:
    for gateway in pair.gateways.values():
        holding = [
            path.name
            for path in gateway.directory.rglob("*")
            if path.is_file() and any(form in path.read_bytes() for form in PSK_FORMS)
        ]
        assert holding == ["document.json"]


def _other_pid(gateway: Gateway, process: str, pid: int) -> bool:
    try:
        return gateway.pid(process) != pid
    except LookupError:
        return False


def capture(paris: Gateway, view: str) -> str:
    """Begin a capture and return its id."""
    capture_id = str(uuid.uuid4())
    wanted = {"id": capture_id, "tunnel_id": paris.status().tunnels[0].id, "view": view}
    code, body = paris.request("POST", "/v1/captures", json.dumps(wanted).encode())
    assert code == 200, body
    return capture_id


def fetched(paris: Gateway, capture_id: str, file: Path, *words: str) -> list[str]:
    """End a capture and return what tcpdump reads in it."""
    assert paris.request("POST", f"/v1/captures/{capture_id}/stop")[0] == 200
    code, octets = paris.request("GET", f"/v1/captures/{capture_id}")
    assert code == 200
    for form in PSK_FORMS:
        assert form not in octets
    file.write_bytes(octets)
    read = ["tcpdump", "-nr", str(file), *words]
    return subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.needs("tcpdump")
def test_a_capture_shows_what_goes_over_the_wire_or_what_is_inside(paris: Gateway, tmp_path: Path) -> None:
    outer = capture(paris, "outer")
    assert paris.ping(5)
    lines = fetched(paris, outer, tmp_path / "outer")
    assert sum("ESP(spi=0x" in line for line in lines) >= 10
    assert all("192.0.2.1" in line and "192.0.2.2" in line for line in lines)
    inner = capture(paris, "inner")
    assert paris.ping(5)
    assert "inner  running" in paris.command("cli", "capture", "list")
    lines = fetched(paris, inner, tmp_path / "inner", "icmp")
    assert sum("10.1.0.2 > 10.2.0.2: ICMP echo request" in line for line in lines) == 5
    assert sum("10.2.0.2 > 10.1.0.2: ICMP echo reply" in line for line in lines) == 5


def esp_packets(file: Path) -> list[bytes]:
    """Return the IP packets from lyon to paris that carry ESP, out of a pcapng file."""
    octets, found, at = file.read_bytes(), [], 0
    while at < len(octets):
        kind, length = struct.unpack_from("<II", octets, at)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", octets, at + 20)
            packet = octets[at + 28 : at + 28 + captured]
            if packet[9] == 50 and packet[12:16] == socket.inet_aton("192.0.2.2"):
                found.append(packet)
        at += length
    return found


def send_from(gateway: Gateway, packets: list[bytes]) -> None:
    """Put whole IP packets on the wire."""

    async def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for packet in packets:
                raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))

    run_inside(gateway.namespace, send)


@pytest.mark.needs("tcpdump")
def test_refused_packets_are_counted_told_and_kept(pair: Pair, paris: Gateway, tmp_path: Path) -> None:
    outer = capture(paris, "outer")
    assert paris.ping(5)
    fetched(paris, outer, tmp_path / "outer")
    genuine = esp_packets(tmp_path / "outer")
    before = paris.status().tunnels[0].rejected
    forged = genuine[-1][:-1] + bytes([genuine[-1][-1] ^ 1])
    ahead = forged[:24] + (int.from_bytes(forged[24:28], "big") + 1).to_bytes(4, "big") + forged[28:]
    unknown = genuine[-1][:20] + b"\0\0\x10\x01" + genuine[-1][24:]
    send_from(pair.gateways["lyon"], [genuine[-1]] * 20 + [ahead] * 7 + [unknown] * 3)

    def refused() -> tuple[int, int]:
        now = paris.status().tunnels[0].rejected
        return now.replayed - before.replayed, now.integrity - before.integrity

    eventually(lambda: refused() == (20, 7))
    eventually(lambda: bool(paris.events("esp.no-sa")))
    for code, sentence in (
        ("esp.replay", "repeated packet"),
        ("esp.integrity", "authentication failure, possibly mismatching keys"),
        ("esp.no-sa", "no inbound SA found"),
    ):
        assert paris.events(code)[-1].message.endswith(f"refused: {sentence}")
    now = paris.status()
    counted = {"esp.replay": now.tunnels[0].rejected.replayed, "esp.integrity": now.tunnels[0].rejected.integrity}

    def told() -> dict[str, int]:
        return {code: sum(int(event.attributes["count"]) for event in paris.events(code)) for code in counted}

    eventually(lambda: told() == counted)  # events are few, but each packet is in one of them
    assert now.tunnels[0].children[0].rejected == now.tunnels[0].rejected
    whole = {each.name: each.count for each in now.ipsec_counts}
    assert (whole["esp.rejected.replayed"], whole["esp.rejected.integrity"], whole["no-sa"]) == (
        now.tunnels[0].rejected.replayed,
        now.tunnels[0].rejected.integrity,
        3,
    )
    pid = paris.pid("iked")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: _other_pid(paris, "iked", pid))
    eventually(lambda: paris.up() and paris.reaches())
    assert refused() == (20, 7)
    assert "ESP replay violation: " in paris.command("cli.ipsecstat")


@pytest.mark.parametrize(("process", "number"), [("iked", signal.SIGTERM), ("agentd", signal.SIGKILL)])
def test_totals_go_on_over_a_restart(paris: Gateway, process: str, number: int) -> None:
    assert paris.ping(5)
    before, pid = paris.status(), paris.pid(process)
    os.kill(pid, number)
    eventually(lambda: _other_pid(paris, process, pid))
    eventually(lambda: paris.up() and paris.reaches())
    after = paris.status()
    one, two = before.tunnels[0].counters, after.tunnels[0].counters
    assert two.packets_in >= one.packets_in + 1
    assert two.bytes_out >= one.bytes_out + 84
    assert after.tunnels[0].children[0].counters == two
    whole = {each.name: each.count for each in after.ipsec_counts}
    assert whole["packets.in"] == whole["esp.in"] == two.packets_in


def test_a_killed_data_plane_takes_no_count_back(paris: Gateway) -> None:
    assert paris.ping(5)
    before = paris.status().tunnels[0].counters
    os.kill(paris.pid("espd"), signal.SIGKILL)
    eventually(lambda: paris.up() and paris.reaches())
    after = paris.status().tunnels[0].counters
    assert after.packets_in > before.packets_in
    assert "Incoming ESP packets: " in paris.command("cli.ipsecstat")


def test_a_trace_is_of_all_processes_and_ends_by_itself(paris: Gateway) -> None:
    categories = ("tunnel", "tunnel-information", "capsulation-information", "crypto-information", "filter-information")
    shown = paris.command("cli", "trace", "on", *categories, "--seconds", "600")
    assert shown.startswith("Tracing tunnel, ")
    assert "does not trace" not in shown
    paris.act("trace-1", "rekey-child")
    for wanted in (" CREATE_CHILD_SA request ", " put in place"):
        eventually(lambda: wanted in paris.command("cli", "trace", "show"))  # noqa: B023 - called here
    assert paris.ping(3)
    trace = json.loads(paris.command("cli", "trace", "show", "--json"))
    assert {process for process, state in trace["processes"].items() if state["on"]} == {"agentd", "iked", "espd"}
    texts = [record["text"] for record in trace["records"]]
    assert [record["time"] for record in trace["records"]] == sorted(record["time"] for record in trace["records"])
    assert any("put in place" in text for text in texts)
    told = [record["text"] for record in trace["records"] if record["process"] == "espd"]
    assert any("packets from 192.0.2.2, " in text for text in told)
    assert any("octets to be sealed" in text for text in told)
    held = paris.status().trace
    assert held is not None
    assert (held.running, held.categories) == (True, categories)
    code, text = paris.request("GET", f"/v1/traces/{held.id}")
    assert (code, text.count(b" CREATE_CHILD_SA request ") > 0) == (200, True)
    for form in PSK_FORMS:
        assert form.decode() not in json.dumps(trace)
        assert form not in text
    paris.command("cli", "trace", "on", "error", "--seconds", "1")
    eventually(lambda: paris.command("cli", "trace", "show").count("1 s are over") == 3)
    assert [event.message for event in paris.events("agent.trace")][-1] == "Trace of error switched on"
