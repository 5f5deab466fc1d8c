"""The API over real TLS on the loopback: who gets in, what each request answers, what a refusal leaves behind."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents.agentd.api import MOST_HANDSHAKES, MOST_OCTETS, Api, Refusals
from agents.agentd.daemon import Agent
from agents.agentd.database import Database
from agents.agentd.errors import HostError
from agents.agentd.host import HostView
from agents.agentd.journal import Journal
from agents.contract.codec import decode, digest, encode, to_plain
from agents.contract.config import DataPlane
from agents.contract.enrolment import CONSOLE_NAME, server_name
from agents.contract.events import EventPage
from agents.contract.status import GatewayStatus, TunnelState
from agents.runtime.paths import Paths
from tests.agentd.fakes import (
    GATEWAY_ID,
    OTHER_TUNNEL_ID,
    TUNNEL_ID,
    Authority,
    FakeHost,
    FakeIked,
    client_context,
    document,
    make_identity,
    tunnel,
)
from tests.iked.cast import manual


@dataclass
class Door:
    """An agent whose API is open."""

    agent: Agent
    api: Api
    authority: Authority
    directory: Path
    iked: FakeIked

    async def request(
        self, method: str, path: str, body: bytes | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[int, Any]:
        context = context or client_context(self.directory, self.authority)
        async with aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{self.api.port}{path}"
            async with session.request(
                method, url, data=body, ssl=context, server_hostname=server_name(GATEWAY_ID)
            ) as response:
                octets = await response.read()
                assert response.content_type == "application/json"
                return response.status, json.loads(octets)

    def refused_clients(self) -> list[str]:
        page = self.agent.events(0, 1_000)
        return [event.message for event in page.events if event.code == "agent.client-refused"]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    authority = Authority.make()
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    paths.prepare()
    gateway = make_identity(paths.identity, authority)
    database = Database(paths.journal)
    async with FakeIked(paths.iked_socket) as iked:
        agent = Agent(gateway, paths, FakeHost(), database)
        agent.captures.captures.open()
        async with Api(gateway, agent, agent.journal, "127.0.0.1", 0) as api:
            running = asyncio.create_task(agent.run())
            yield Door(agent, api, authority, tmp_path, iked)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        agent.captures.captures.close()
    database.close()


async def test_a_document_is_accepted_and_reaches_iked(door: Door) -> None:
    offered = document(3)
    status, body = await door.request("PUT", "/v1/config", encode(offered))
    assert (status, body) == (200, {"generation": 3, "digest": digest(offered)})
    await asyncio.wait_for(door.iked.configured.wait(), 60)
    assert door.iked.documents[-1] == offered


async def test_the_same_document_again_is_accepted(door: Door) -> None:
    first = await door.request("PUT", "/v1/config", encode(document(3)))
    assert await door.request("PUT", "/v1/config", encode(document(3))) == first


async def test_generations_do_not_go_back_and_do_not_fork(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(3)))
    status, body = await door.request("PUT", "/v1/config", encode(document(2)))
    assert (status, body["error"], body["generation"], body["digest"]) == (
        409,
        "generation-outdated",
        3,
        digest(document(3)),
    )
    status, body = await door.request("PUT", "/v1/config", encode(document(3, gateway_name="rome")))
    assert (status, body["error"]) == (409, "generation-conflict")
    assert door.agent.ledger.current is not None
    assert door.agent.ledger.current.document == document(3)


async def test_a_document_that_cannot_be_read_is_refused_with_the_path(door: Door) -> None:
    plain = to_plain(document(4))
    plain["tunnels"][0]["local"]["address"] = "300.1.1.1"
    status, body = await door.request("PUT", "/v1/config", json.dumps(plain).encode())
    assert (status, body["error"], body["path"]) == (422, "invalid", "tunnels[0].local.address")
    _, shown = await door.request("GET", "/v1/status")
    refusal = decode(GatewayStatus, json.dumps(shown).encode()).refusal
    assert refusal is not None
    assert (refusal.generation, refusal.path) == (4, "tunnels[0].local.address")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"gateway_id": OTHER_TUNNEL_ID}, "gateway_id"),
        (
            {"tunnels": (tunnel(), tunnel(id=OTHER_TUNNEL_ID, name="far", local="203.0.113.77"))},
            "tunnels[1].local.address",
        ),
    ],
)
async def test_a_document_for_another_machine_is_refused_and_the_old_stays(
    door: Door, changes: dict[str, Any], path: str
) -> None:
    await door.request("PUT", "/v1/config", encode(document(1)))
    status, body = await door.request("PUT", "/v1/config", encode(document(2, **changes)))
    assert (status, body["path"]) == (422, path)
    _, shown = await door.request("GET", "/v1/status")
    assert shown["accepted_generation"] == 1
    assert any(
        event.code == "agent.config-refused" and event.field == path for event in door.agent.events(0, 99).events
    )


async def test_a_disabled_tunnel_may_name_an_address_that_is_not_here(door: Door) -> None:
    status, _ = await door.request(
        "PUT", "/v1/config", encode(document(1, tunnel(local="203.0.113.77", enabled=False)))
    )
    assert status == 200


async def test_the_kernel_data_plane_is_refused_where_there_is_none(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.agentd import applicable
    from agents.dataplane.base import Features

    class NoKernel:
        async def features(self) -> Features:
            return Features(driver="kernel", available=False, reason="no XFRM in this kernel")

    monkeypatch.setattr(applicable, "KernelDriver", NoKernel)
    status, body = await door.request("PUT", "/v1/config", encode(document(1, data_plane=DataPlane.KERNEL)))
    assert (status, body["path"]) == (422, "data_plane")
    assert "no XFRM in this kernel" in body["message"]


async def test_status_lists_every_tunnel(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(3)))
    await asyncio.wait_for(door.iked.configured.wait(), 60)
    await door.iked.set_up(TUNNEL_ID)
    await door.agent.reconciler.reconcile()
    code, body = await door.request("GET", "/v1/status")
    status = decode(GatewayStatus, json.dumps(body).encode())
    assert code == 200
    assert (status.gateway_id, status.accepted_generation, status.applied_generation) == (GATEWAY_ID, 3, 3)
    assert status.boot_id == "boot-1"
    assert [(each.name, each.state, each.routes) for each in status.tunnels] == [
        ("paris-lyon", TunnelState.UP, ("10.2.0.0/24",))
    ]
    health = {"agentd": True, "iked": True, "iked.v2": True, "espd": False}
    assert {each.name: each.healthy for each in status.components} == health
    assert {each.name: each.log_level for each in status.components}["iked.v2"] == "information"


async def test_events_are_paged(door: Door) -> None:
    for _ in range(3):
        door.agent.journal.append("agent.started", "x")
    code, body = await door.request("GET", "/v1/events?after=1&limit=1")
    page = decode(EventPage, json.dumps(body).encode())
    assert code == 200
    assert [event.sequence for event in page.events] == [2]
    assert page.oldest == 1
    assert page.last >= 3
    code, body = await door.request("GET", "/v1/events?after=-1")
    assert (code, body["error"]) == (400, "invalid")


async def test_an_action_is_performed_once_per_id(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(1)))
    await asyncio.wait_for(door.iked.configured.wait(), 60)
    action = json.dumps({"id": "a1", "verb": "clear-ipsec", "tunnel_id": TUNNEL_ID}).encode()
    first = await door.request("POST", "/v1/actions", action)
    assert first == (200, {"id": "a1", "accepted": True, "message": "negotiating"})
    assert await door.request("POST", "/v1/actions", action) == first
    assert door.iked.actions == [("clear-ipsec", TUNNEL_ID)]
    unknown = json.dumps({"id": "a2", "verb": "rekey-ike", "tunnel_id": OTHER_TUNNEL_ID}).encode()
    assert (await door.request("POST", "/v1/actions", unknown))[0] == 404
    by_hand = manual("by-hand", "127.0.0.1", "192.0.2.20")
    await door.request("PUT", "/v1/config", encode(document(2, manual_tunnels=(by_hand,))))
    again = json.dumps({"id": "a4", "verb": "clear-ipsec", "tunnel_id": by_hand.id}).encode()
    assert (await door.request("POST", "/v1/actions", again))[0] == 200
    assert door.iked.actions[-1] == ("clear-ipsec", by_hand.id)
    wrong = json.dumps({"id": "a3", "verb": "explode", "tunnel_id": TUNNEL_ID}).encode()
    code, body = await door.request("POST", "/v1/actions", wrong)
    assert (code, body["error"], body["path"]) == (400, "invalid", "verb")


CAPTURE_ID = "cccccccc-1111-4111-8111-111111111111"


def capture_request(**changes: Any) -> bytes:
    return json.dumps({"id": CAPTURE_ID, "tunnel_id": TUNNEL_ID, "view": "outer", **changes}).encode()


@pytest.mark.needs("root")
async def test_a_capture_is_begun_once_ended_fetched_and_deleted(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(1)))
    assert (await door.request("POST", "/v1/captures", capture_request(tunnel_id=OTHER_TUNNEL_ID)))[0] == 404
    code, body = await door.request("POST", "/v1/captures", capture_request(seconds=601))
    assert (code, body["path"], body["message"]) == (400, "seconds", "must be between 1 and 600, not 601")
    for _ in range(2):
        code, body = await door.request("POST", "/v1/captures", capture_request())
        assert (code, body["id"], body["running"]) == (200, CAPTURE_ID, True)
    code, body = await door.request("POST", "/v1/captures", capture_request(id=OTHER_TUNNEL_ID))
    assert (code, body["error"]) == (409, "busy")
    code, body = await door.request("GET", f"/v1/captures/{CAPTURE_ID}")
    assert (code, body["error"]) == (409, "running")
    _, status = await door.request("GET", "/v1/status")
    assert [(each["id"], each["running"]) for each in status["captures"]] == [(CAPTURE_ID, True)]
    code, body = await door.request("POST", f"/v1/captures/{CAPTURE_ID}/stop")
    assert (code, body["ended_because"]) == (200, "stopped")
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{door.api.port}/v1/captures/{CAPTURE_ID}"
        context = client_context(door.directory, door.authority)
        async with session.get(url, ssl=context, server_hostname=server_name(GATEWAY_ID)) as response:
            assert (response.status, response.content_type) == (200, "application/x-pcapng")
            assert (await response.read())[:4] == bytes.fromhex("0a0d0d0a")
    codes = [event.code for event in door.agent.events(0, 1_000).events]
    assert [code for code in codes if code.startswith("agent.capture")] == [
        "agent.capture-started",
        "agent.capture-ended",
        "agent.capture-read",
    ]
    assert await door.request("DELETE", f"/v1/captures/{CAPTURE_ID}") == (200, {})
    for method, path in (("DELETE", ""), ("GET", ""), ("POST", "/stop")):
        assert (await door.request(method, f"/v1/captures/{CAPTURE_ID}{path}"))[0] == 404


@pytest.mark.needs("root")
async def test_captures_go_with_their_tunnel(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(1)))
    await door.request("POST", "/v1/captures", capture_request())
    await door.request("PUT", "/v1/config", encode(document(2, tunnel(id=OTHER_TUNNEL_ID, name="other"))))
    await door.agent.link.refresh()
    assert (await door.request("GET", "/v1/status"))[1]["captures"] == []


@pytest.mark.usefixtures("trace_as_before")
async def test_a_trace_is_begun_once_ended_and_read(door: Door) -> None:
    wanted = {"id": CAPTURE_ID, "categories": ["tunnel", "error"], "seconds": 60}
    code, body = await door.request("POST", "/v1/traces", json.dumps({**wanted, "seconds": 3_601}).encode())
    assert (code, body["path"], body["message"]) == (400, "seconds", "must be between 1 and 3600, not 3601")
    for _ in range(2):
        code, body = await door.request("POST", "/v1/traces", json.dumps(wanted).encode())
        assert (code, body["id"], body["categories"]) == (200, CAPTURE_ID, ["tunnel", "error"])
    code, body = await door.request("POST", "/v1/traces", json.dumps({**wanted, "id": OTHER_TUNNEL_ID}).encode())
    assert (code, body["error"]) == (409, "busy")
    assert (await door.request("GET", "/v1/status"))[1]["trace"]["id"] == CAPTURE_ID
    code, body = await door.request("POST", f"/v1/traces/{CAPTURE_ID}/stop")
    assert (code, {each["running"] for each in body["processes"]}) == (200, {False})
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{door.api.port}/v1/traces/{CAPTURE_ID}"
        context = client_context(door.directory, door.authority)
        async with session.get(url, ssl=context, server_hostname=server_name(GATEWAY_ID)) as response:
            assert (response.status, response.content_type) == (200, "text/plain")
            assert (await response.text()).startswith("# Trace of tunnel, error, begun ")
    for method, path in (("GET", ""), ("POST", "/stop")):
        code, body = await door.request(method, f"/v1/traces/{OTHER_TUNNEL_ID}{path}")
        assert (code, body["error"]) == (404, "unknown-trace")


async def test_other_requests_have_the_same_form_of_error(door: Door) -> None:
    assert (await door.request("GET", "/v1/nothing"))[0] == 404
    code, body = await door.request("POST", "/v1/config", b"{}")
    assert (code, body["error"]) == (405, "method-not-allowed")
    code, body = await door.request("PUT", "/v1/config", b" " * (MOST_OCTETS + 1))
    assert (code, body["error"]) == (400, "too-large")


async def test_a_machine_that_cannot_be_read_is_an_error_in_the_same_form(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(_host: FakeHost) -> HostView:
        raise HostError("read", "links and routes", 16, "Device or resource busy")

    monkeypatch.setattr(FakeHost, "look", look)
    code, body = await door.request("PUT", "/v1/config", encode(document(1)))
    assert (code, body["error"]) == (500, "internal")
    assert door.agent.ledger.current is None


async def test_a_client_without_a_certificate_is_refused(door: Door) -> None:
    with pytest.raises(aiohttp.ClientError):
        await door.request("GET", "/v1/status", context=client_context(door.directory, door.authority, name=None))
    await eventually(lambda: door.refused_clients() == ["API client 127.0.0.1 refused: it showed no certificate"])


async def test_a_client_of_another_authority_is_refused(door: Door) -> None:
    stranger = client_context(door.directory, door.authority, issuer=Authority.make("stranger"))
    with pytest.raises(aiohttp.ClientError):
        await door.request("GET", "/v1/status", context=stranger)
    await eventually(lambda: len(door.refused_clients()) == 1 and "not from the fleet CA" in door.refused_clients()[0])


@pytest.mark.parametrize("name", [server_name(OTHER_TUNNEL_ID), f"x.{CONSOLE_NAME}"])
async def test_another_member_of_the_fleet_is_refused(door: Door, name: str) -> None:
    other = client_context(door.directory, door.authority, name=name)
    code, body = await door.request("PUT", "/v1/config", encode(document(1)), context=other)
    assert (code, body["error"]) == (403, "refused")
    assert door.agent.ledger.current is None
    assert name in door.refused_clients()[0]


async def test_tls_1_2_is_refused(door: Door) -> None:
    old = client_context(door.directory, door.authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientError):
        await door.request("GET", "/v1/status", context=old)


async def test_plain_http_is_refused_and_told(door: Door) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.api.port)
    writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" not in await reader.read()
    writer.close()
    await eventually(lambda: door.refused_clients() == ["API client 127.0.0.1 refused: it spoke plain HTTP"])


async def test_connections_that_never_finish_their_handshake_do_not_keep_the_console_out(door: Door) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", door.api.port) for _ in range(MOST_HANDSHAKES + 10)]
    assert (await door.request("GET", "/v1/status"))[0] == 200
    assert await asyncio.wait_for(idle[0][0].read(), 60) == b""
    for _reader, writer in idle:
        writer.close()


async def test_the_agent_shows_its_own_name_and_nothing_else(door: Door) -> None:
    context = client_context(door.directory, door.authority)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(
                f"https://127.0.0.1:{door.api.port}/v1/status",
                ssl=context,
                server_hostname=server_name(OTHER_TUNNEL_ID),
            )


async def test_no_answer_holds_a_key(door: Door) -> None:
    await door.request("PUT", "/v1/config", encode(document(1)))
    await asyncio.wait_for(door.iked.configured.wait(), 60)
    secret = to_plain(document(1))["preshared_keys"][0]["secret"]
    for path in ("/v1/status", "/v1/events"):
        _, body = await door.request("GET", path)
        assert secret not in json.dumps(body)
        assert "planted-psk-value" not in json.dumps(body)


def test_a_scanner_does_not_fill_the_journal(tmp_path: Path) -> None:
    database = Database(tmp_path / "journal")
    journal = Journal(database)
    refusals = Refusals(journal)
    for _ in range(50):
        refusals.refuse("192.0.2.1", "it showed no certificate")
    refusals.refuse("192.0.2.2", "it showed no certificate")
    assert journal.last == 2
    database.close()


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
