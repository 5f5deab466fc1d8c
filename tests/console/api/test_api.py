"""The API: who gets in, what comes out, errors in one form, never a secret."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from agents.contract.status import ProcessTrace, TraceStatus
from tests.console import cast
from tests.console.fake_agent import FakeAgent
from vpnconsole.accounts.models import User
from vpnconsole.accounts.services import create_api_token, revoke_api_token
from vpnconsole.gateways.models import Gateway
from vpnconsole.monitor import polling
from vpnconsole.monitor.models import ActionJob
from vpnconsole.rollout import delivery as work
from vpnconsole.rollout.models import Delivery, Deployment
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, Tunnel

pytestmark = pytest.mark.usefixtures("sent")


class Api:
    """A client with a bearer token."""

    def __init__(self, user: User) -> None:
        self.token, text = create_api_token(user, user, "test")
        self.headers = {"Authorization": f"Bearer {text}"}
        self.http = Client(enforce_csrf_checks=True)

    def get(self, path: str, **query: Any) -> tuple[int, Any]:
        answer = self.http.get(f"/api/v1/{path}", query, headers=self.headers)
        return answer.status_code, answer.json()

    def post(self, path: str, body: object) -> tuple[int, Any]:
        answer = self.http.post(
            f"/api/v1/{path}",
            body if isinstance(body, str) else json.dumps(body),
            content_type="application/json",
            headers=self.headers,
        )
        return answer.status_code, answer.json()


@pytest.fixture
def api(alice: User) -> Api:
    return Api(alice)


def bring_into_force(gateway: Gateway) -> None:
    delivery = Delivery.objects.get(gateway=gateway)
    if work.compile_delivery(delivery.pk):
        work.push_delivery(delivery.pk, "test")
    polling.poll(gateway.pk)


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer vpct_00000000_nonsense", "Basic YWxpY2U6eA=="])
def test_no_token_no_answer(client: Client, db: None, header: str) -> None:
    answer = client.get("/api/v1/tunnels", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert set(answer.json()) == {"error", "message", "field"}


def test_session_does_not_open_the_api_and_a_revoked_token_is_dead(api: Api, alice: User) -> None:
    browser = Client()
    browser.force_login(alice)
    assert browser.get("/api/v1/tunnels").status_code == 401
    assert api.get("tunnels")[0] == 200
    revoke_api_token(alice, api.token)
    assert api.get("tunnels")[0] == 401


def test_deploy_watch_and_read(
    api: Api, paris: Gateway, lyon: Gateway, tunnel: Tunnel, paris_agent: FakeAgent, lyon_agent: FakeAgent
) -> None:
    status, rows = api.get("tunnels")
    assert (status, rows["tunnels"][0]["state"]) == (200, "not-deployed")
    status, ordered = api.post("deployments", {"gateways": [str(paris.pk)], "note": "first"})
    assert status == 202
    assert [row["state"] for row in ordered["deliveries"]] == ["waiting"]
    bring_into_force(paris)
    status, seen = api.get(f"deployments/{ordered['id']}")
    assert (seen["finished"], seen["deliveries"][0]["state"], seen["deliveries"][0]["percent"]) == (
        True,
        "applied",
        100,
    )
    assert seen["created_by"] == "alice"
    status, shown = api.get(f"tunnels/{tunnel.pk}")
    assert status == 200
    assert (shown["state"], shown["pairs"][0]["up"]) == ("up", True)
    assert shown["pairs"][0]["ipsec_policy"]["name"] == "default"
    assert shown["pairs"][0]["ipsec_policy"]["own"] is False
    assert shown["status"]["a"]["state"] == "up"
    assert shown["note"] == "not deployed to lyon"
    status, gateway = api.get(f"gateways/{paris.pk}")
    assert (gateway["state"], gateway["generation"]["applied"], gateway["tunnels_up"]) == ("reachable", 1, 1)
    assert gateway["trace"] is None
    process = ProcessTrace(process="iked", running=True, records=3)
    paris_agent.trace = TraceStatus(
        id="t", categories=("error",), started_at=1.0, ends_at=61.0, octets=9, processes=(process,)
    )
    polling.poll(paris.pk)
    trace = api.get(f"gateways/{paris.pk}")[1]["trace"]
    assert (trace["running"], trace["categories"], trace["processes"][0]["records"]) == (True, ["error"], 3)
    assert [row["name"] for row in api.get("gateways")[1]["gateways"]] == ["lyon", "paris"]
    assert api.get("deployments")[1]["deployments"][0]["note"] == "first"
    assert api.get(f"tunnels/{tunnel.pk}/series", minutes=5) == (200, {"points": []})


def test_ike_version_mode_and_profile_are_told(api: Api, paris: Gateway, tunnel: Tunnel) -> None:
    aix = cast.make_gateway("aix", cast.EXTRANET_ADDRESS, "10.9.0.0/24", kind="extranet", profile="aix")
    policies = {
        "ike_policy": IKEPolicy.objects.get(name="compatible"),
        "ipsec_policy": IPsecPolicy.objects.get(name="compatible"),
    }
    cast.make_tunnel(paris, aix, version="v1", **policies)
    rows = {row["name"]: (row["version"], row["exchange_mode"]) for row in api.get("tunnels")[1]["tunnels"]}
    assert rows == {"paris-aix": ("v1", "main"), "paris-lyon": ("v2", None)}
    assert {row["name"]: row["profile"] for row in api.get("gateways")[1]["gateways"]} == {
        "aix": "aix",
        "lyon": "generic",
        "paris": "generic",
    }


def test_all_managed_gateways_by_default(api: Api, paris: Gateway, lyon: Gateway, extranet: Gateway) -> None:
    _, ordered = api.post("deployments", "")
    assert [row["gateway"]["name"] for row in ordered["deliveries"]] == ["lyon", "paris"]


def test_events_are_followed_with_after(api: Api, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    paris_agent.emit("ike.no-proposal", tunnel_id=str(tunnel.pk), received="3des", configured="aes-256-gcm-16")
    paris_agent.emit("ike.retransmit")
    polling.poll(paris.pk)
    _, page = api.get("events", after=0, limit=1)
    (first,) = page["events"]
    assert (first["code"], first["tunnel"]["name"], first["received"]) == ("ike.no-proposal", "paris-lyon", "3des")
    _, page = api.get("events", after=page["last"])
    assert [row["code"] for row in page["events"]] == ["ike.retransmit"]
    _, page = api.get("events", after=page["last"])
    assert page["events"] == []
    assert [row["code"] for row in api.get("events", severity="error")[1]["events"]] == ["ike.no-proposal"]


def test_action_is_ordered_and_looked_up(api: Api, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    status, job = api.post(f"tunnels/{tunnel.pk}/actions", {"verb": "rekey-ike"})
    assert (status, job["state"], job["gateway"]["name"]) == (202, "queued", "paris")
    assert ActionJob.objects.get().requested_by is not None
    assert api.get(f"actions/{job['id']}")[1]["verb"] == "rekey-ike"


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("deployments", "{", 400, None),
        ("deployments", "[]", 400, None),
        ("deployments", {"gateways": "paris"}, 422, "gateways"),
        ("deployments", {"gateways": ["paris"]}, 422, "gateways"),
        ("deployments", {"gateways": []}, 422, None),
        ("deployments", {"note": 7}, 422, "note"),
        ("tunnels/{tunnel}/actions", {"verb": "explode"}, 422, "verb"),
        ("tunnels/{tunnel}/actions", {"verb": "initiate", "gateway": "x"}, 422, "gateway"),
        ("tunnels/{tunnel}/actions", {"verb": "initiate"}, 422, "gateway"),
        ("tunnels/{other}/actions", {"verb": "initiate"}, 404, None),
    ],
)
def test_bad_orders_are_refused_by_field(
    api: Api, tunnel: Tunnel, path: str, body: object, status: int, field: str | None
) -> None:
    answer = api.post(path.format(tunnel=tunnel.pk, other=uuid4()), body)
    assert answer[0] == status
    assert answer[1]["field"] == field
    assert answer[1]["message"]
    assert not Deployment.objects.exists()
    assert not ActionJob.objects.exists()


@pytest.mark.parametrize("query", [{"after": "x"}, {"after": "-1"}, {"limit": "9999"}, {"tunnel": "x"}])
def test_bad_questions_are_refused(api: Api, query: dict[str, str]) -> None:
    status, error = api.get("events", **query)
    assert (status, error["field"]) == (422, next(iter(query)))


def test_wrong_method_and_unknown_things(api: Api) -> None:
    answer = api.http.delete("/api/v1/tunnels", headers=api.headers)
    assert (answer.status_code, answer["Allow"]) == (405, "GET")
    for name in ("tunnel", "gateway", "deployment", "action", "series"):
        argument = {"tunnel": "tunnel_id", "series": "tunnel_id", "gateway": "gateway_id", "action": "job_id"}
        url = reverse(f"api:{name}", kwargs={argument.get(name, "deployment_id"): uuid4()})
        assert api.get(url.removeprefix("/api/v1/"))[0] == 404


def test_no_answer_holds_a_secret(api: Api, paris: Gateway, tunnel: Tunnel, paris_agent: FakeAgent) -> None:
    api.post("deployments", {})
    bring_into_force(paris)
    paths = [
        "tunnels",
        f"tunnels/{tunnel.pk}",
        "gateways",
        f"gateways/{paris.pk}",
        "events",
        "deployments",
        f"deployments/{Deployment.objects.get().pk}",
    ]
    told = "".join(json.dumps(api.get(path)[1]) for path in paths)
    secret = cast.PLANTED.encode()
    for form in (cast.PLANTED, secret.hex(), base64.b64encode(secret).decode(), "BEGIN"):
        assert form not in told


def test_tunnels_of_each_kind_and_no_manual_key(api: Api, paris: Gateway, lyon: Gateway) -> None:
    on_demand, manual = cast.make_on_demand(paris), cast.make_manual(paris, lyon)
    status, listed = api.get("tunnels")
    assert (status, [row["kind"] for row in listed["tunnels"]]) == (200, ["manual", "on-demand"])
    _, detail = api.get(f"tunnels/{on_demand.pk}")
    assert [end["gateway"] and end["gateway"]["name"] for end in detail["ends"]] == ["paris", None]
    assert [(end["context"], end["endpoint_context"]) for end in detail["ends"]] == [("local", "local"), (None, None)]
    assert detail["ends"][1]["identity"] == {"type": "fqdn", "value": "*.example.org"}
    assert (detail["ends"][1]["address"], detail["status"]["b"]) == (None, None)
    _, detail = api.get(f"tunnels/{manual.pk}")
    text = json.dumps([detail, api.get("gateways")[1], api.get(f"gateways/{paris.pk}")[1]])
    for sa in manual.selectors.all()[0].manual.sas.all():
        for octets in (sa.encryption_key.reveal(), sa.integrity_key.reveal()):
            assert octets.hex() not in text
            assert base64.b64encode(octets).decode() not in text
    status, refused = api.post(f"tunnels/{manual.pk}/actions", {"verb": "initiate"})
    assert (status, refused["field"]) == (422, "verb")
