"""`make demo` as its user meets it: up, real traffic, nothing in clear, survives what it should, leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab.topology import SITES
from tests.lab.demos import RunningDemo, alive, processes_mentioning

pytestmark = [
    pytest.mark.lab,
    pytest.mark.needs("strongswan", "tcpdump"),
    pytest.mark.slow,
    pytest.mark.timeout(420),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    running = RunningDemo(tmp_path_factory.mktemp("demo") / "d", f"vct{os.getpid()}")
    running.start()
    yield running
    if running.process is not None and running.process.poll() is None:
        assert running.end() == 0


def through(demo: RunningDemo, tunnel: str) -> dict[str, str]:
    found: dict[str, str] = next(check for check in demo.description["checks"] if check["via"] == tunnel)
    return found


def test_description_names_what_a_reader_needs(demo: RunningDemo) -> None:
    description = demo.description
    assert set(description) == {"url", "username", "password", "api_token", "namespaces", "checks"}
    assert {"paris", "lyon", "extranet", "office", "internet", "host-paris", "host-lyon"} <= set(
        description["namespaces"]
    )
    assert {check["via"] for check in description["checks"]} == {
        "paris-lyon", "paris-extranet", "paris-office", "paris-field",
    }  # fmt: skip
    assert (demo.directory / "demo.json").stat().st_mode & 0o077 == 0


def test_console_answers_and_the_token_opens_the_api(demo: RunningDemo) -> None:
    description = demo.description
    with urllib.request.urlopen(description["url"], timeout=60) as answer:
        assert answer.status == 200
    request = urllib.request.Request(
        description["url"] + "/api/v1/tunnels", headers={"Authorization": f"Bearer {description['api_token']}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"paris-lyon" in answer.read()


def test_every_ping_of_the_description_is_answered(demo: RunningDemo) -> None:
    for check in demo.description["checks"]:
        assert demo.answered(check, count=3), check


def test_the_office_speaks_ikev1(demo: RunningDemo) -> None:
    """Its tunnel is among the others, in Main Mode."""
    tunnels = {each["name"]: each for each in demo.api("tunnels")["tunnels"]}
    assert tunnels["paris-office"]["version"] == "v1"
    assert tunnels["paris-office"]["state"] == "up"


def test_internet_sees_ike_and_esp_only(demo: RunningDemo, tmp_path: Path) -> None:
    capture = tmp_path / "internet.pcap"
    internet = demo.namespace("internet")
    tcpdump = internet.start("tcpdump", "--immediate-mode", "-i", "any", "-U", "-n", "-c", "400", "-w", str(capture))
    try:
        while not capture.exists():
            assert tcpdump.poll() is None
            time.sleep(0.02)  # it opens the file once it listens, and tells nobody
        for check in demo.description["checks"]:
            assert demo.answered(check, count=20)
    finally:
        tcpdump.terminate()
        tcpdump.wait(10)
    lines = subprocess.run(
        ["tcpdump", "-nn", "-r", str(capture)], capture_output=True, text=True, check=True
    ).stdout.splitlines()  # fmt: skip
    packets = [line for line in lines if " IP " in line or " IP6 " in line]
    assert len(packets) > 50
    for line in packets:
        assert "ESP(" in line or ".4500" in line or ".500" in line, line
        for site in SITES:
            assert site.lan_address.rpartition(".")[0] + "." not in line, line


@pytest.mark.parametrize("module", ["iked", "espd"])
def test_killed_daemon_brings_its_tunnels_back_by_itself(demo: RunningDemo, module: str) -> None:
    killed = demo.agent_process("paris", module)
    os.kill(killed, signal.SIGKILL)
    # A killed iked leaves the data plane carrying: the new one is awaited first, then what it negotiates.
    demo.wait_agent_process("paris", module, other_than=killed, timeout_s=30)
    for tunnel in ("paris-lyon", "paris-extranet", "paris-office", "paris-field"):
        demo.wait_answered(through(demo, tunnel), 60)
    demo.wait_up(60)


def test_restarting_agentd_does_not_touch_a_tunnel(demo: RunningDemo) -> None:
    check = through(demo, "paris-lyon")
    demo.wait_answered(check, 30)
    paris = demo.namespace("paris")
    before = {module: demo.agent_process("paris", module) for module in ("agentd", "iked", "espd")}
    routes = paris.ip("route")
    here = next(role for role, name in demo.description["namespaces"].items() if name == check["from"])
    # Until 60 answers have come: without a deadline ping would wait for the last one no longer than 100 ms.
    ping = subprocess.Popen(
        demo.namespace(here).command(["ping", "-n", "-i", "0.1", "-c", "60", "-w", "60", check["to"]]),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.kill(before["agentd"], signal.SIGTERM)
    out, _ = ping.communicate(timeout=90)
    assert {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", out)} >= set(range(1, 61)), out
    demo.wait_agent_process("paris", "agentd", other_than=before["agentd"], timeout_s=30)
    after = {module: demo.agent_process("paris", module) for module in before}
    assert after["agentd"] != before["agentd"]
    assert (after["iked"], after["espd"]) == (before["iked"], before["espd"])
    assert paris.ip("route") == routes


def test_second_demo_from_the_same_folder_is_refused(demo: RunningDemo) -> None:
    assert demo.process is not None
    command = [str(each) for each in demo.process.args]  # type: ignore[union-attr]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "in use" in second.stderr or "already runs" in second.stderr


def test_start_after_kill_cleans_up_and_the_end_leaves_nothing(demo: RunningDemo) -> None:
    record = json.loads((demo.directory / "record.json").read_text(encoding="utf-8"))
    demo.kill()
    demo.start()
    for process in record["processes"]:
        assert not alive(process["pid"]), process
    assert not Path(record["sockets"]).exists()
    for check in demo.description["checks"]:
        assert demo.answered(check), check
    sockets = json.loads((demo.directory / "record.json").read_text(encoding="utf-8"))["sockets"]
    assert demo.end() == 0
    assert demo.namespaces_left() == []
    assert not demo.directory.exists()
    assert not Path(sockets).exists()
    assert processes_mentioning(str(demo.directory)) == []
