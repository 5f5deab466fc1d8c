"""The real thing: broker, worker, beat and web as processes, HTTPS agents, and what kill -9 and absence do to them."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
from collections.abc import Iterator

import httpx
import pytest
import redis

from agents.contract.status import Counters
from tests.console.celery.whole_console import Console, until

pytestmark = [pytest.mark.celery, pytest.mark.slow, pytest.mark.timeout(240)]

PLANTED = "planted-in-the-whole-console-77"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    console = Console(tmp_path_factory.mktemp("console"))
    console.set_up()
    console.start()
    yield console
    console.stop()


def test_deployment_goes_to_both_gateways_and_the_tunnel_is_seen_up(console: Console) -> None:
    world = console.seed("main")
    with world.enrol("paris") as paris, world.enrol("lyon"):
        counted = iter(range(0, 10**9, 1000))
        paris.counters = lambda: Counters(bytes_out=next(counted))
        deployment = world.deploy()
        for city in ("paris", "lyon"):
            assert world.until_state(deployment, city, "applied")["percent"] == 100
        until(lambda: world.get(f"tunnels/{world.tunnel}")["state"] == "up")
        first = world.get(f"tunnels/{world.tunnel}")["a_to_b"]["bytes"]
        until(lambda: world.get(f"tunnels/{world.tunnel}")["a_to_b"]["bytes"] > first)
        paris.emit("ike.sa-established", tunnel_id=world.tunnel)
        until(lambda: world.get(f"tunnels/{world.tunnel}")["events"])
        job = world.post(f"tunnels/{world.tunnel}/actions", {"verb": "rekey-child"})
        until(lambda: world.get(f"actions/{job['id']}")["state"] == "accepted")
        assert [action.verb for action in paris.actions] == ["rekey-child"]
        again = world.deploy()
        world.until_state(again, "paris", "unchanged")


def test_unreachable_gateway_is_pending_and_served_when_it_appears(console: Console) -> None:
    world = console.seed("absent")
    paris = world.enrol("paris")
    with world.enrol("lyon"):
        deployment = world.deploy()
        world.until_state(deployment, "lyon", "applied")
        pending = world.until_state(deployment, "paris", "waiting-gateway")
        assert not pending["finished"]
        shown = world.get(f"tunnels/{world.tunnel}")
        assert (shown["state"], shown["pending"]) == ("deploying", True)
        assert "paris-absent" in shown["step"]
        with paris:
            world.until_state(deployment, "paris", "applied")
            until(lambda: world.get(f"tunnels/{world.tunnel}")["state"] == "up")
        until(lambda: world.get(f"gateways/{world.gateways['paris']}")["state"] == "unreachable")


def test_refused_document_is_shown_with_its_path_and_the_old_one_stays(console: Console) -> None:
    world = console.seed("refused")
    with world.enrol("paris") as paris:
        paris.refuse = ("tunnels[0].local.address", "192.0.1.9 is not an address of this host")
        deployment = world.deploy("paris")
        delivery = world.until_state(deployment, "paris", "refused")
        assert delivery["refused_path"] == "tunnels[0].local.address"
        assert delivery["refused_message"] == "192.0.1.9 is not an address of this host"
        assert paris.document is None
        shown = world.get(f"tunnels/{world.tunnel}")
        assert shown["state"] == "not-deployed"
        assert "paris-refused refused" in shown["sentence"]


@pytest.mark.parametrize("whole", [False, True], ids=["pool processes", "whole worker"])
def test_worker_killed_in_the_middle_of_a_push_loses_nothing(console: Console, whole: bool) -> None:
    world = console.seed("killed-whole" if whole else "killed-pool")
    with world.enrol("paris") as paris:
        paris.may_answer.clear()
        deployment = world.deploy("paris")
        assert paris.put_came.wait(90)
        main, *pool = console.worker_pids()
        assert pool
        assert world.state(deployment, "paris") == "pushing"
        for pid in [main, *pool] if whole else pool:
            os.kill(pid, signal.SIGKILL)
        paris.may_answer.set()
        world.until_state(deployment, "paris", "applied", 100)
        assert paris.puts >= 2
        assert paris.document is not None
        assert paris.document.generation == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_restarted_console_goes_on_where_it_was(console: Console, how: signal.Signals) -> None:
    world = console.seed(f"restart-{how.name.lower()}")
    paris = world.enrol("paris")
    deployment = world.deploy("paris")
    world.until_state(deployment, "paris", "waiting-gateway")
    console.stop(how)
    with pytest.raises(httpx.TransportError):
        world.get("tunnels")
    with paris:
        console.start()
        world.until_state(deployment, "paris", "applied")


def test_deployment_ordered_while_no_worker_runs_is_carried_out_later(console: Console) -> None:
    world = console.seed("no-worker")
    with world.enrol("paris"):
        main, *_ = console.worker_pids()
        os.kill(main, signal.SIGSTOP)
        try:
            deployment = world.deploy("paris")
            assert world.state(deployment, "paris") == "waiting"
        finally:
            os.kill(main, signal.SIGCONT)
        world.until_state(deployment, "paris", "applied")


def test_planted_key_is_found_nowhere(console: Console) -> None:
    world = console.seed("secret", PLANTED)
    with world.enrol("paris") as paris:
        deployment = world.deploy("paris")
        world.until_state(deployment, "paris", "applied")
        assert paris.documents[0].preshared_keys[0].secret.reveal() == PLANTED.encode()
        paris.refuse = ("preshared_keys[0]", "is refused for the test")
        answers = [
            httpx.get(f"{console.url}/api/v1/{path}", headers=world._headers, timeout=20).content
            for path in ("tunnels", f"tunnels/{world.tunnel}", "gateways", "events", f"deployments/{deployment}")
        ]
    secret = PLANTED.encode()
    forms = (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)[:-4])
    places = {}
    for path in console.directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the console is running: what it wrote aside may be gone again
            if path.is_file():
                places[str(path)] = path.read_bytes()
    assert any("appendonly" in name for name in places)
    assert any(name.endswith("console.sqlite3") for name in places)
    places |= {f"answer {index}": answer for index, answer in enumerate(answers)}
    places["broker"] = _dump(console)
    found = [name for name, octets in places.items() if any(form in octets for form in forms)]
    assert found == []


def _dump(console: Console) -> bytes:
    client = redis.Redis(unix_socket_path=str(console.data / "run" / "broker.sock"))
    try:
        return b"".join(str(key).encode() + (client.dump(key) or b"") for key in client.scan_iter())
    finally:
        client.close()
