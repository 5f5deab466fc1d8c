"""Enrolment over HTTP: once, in time, with proof; everything else is refused alike and written down."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone

from agents.contract.codec import decode, encode
from agents.contract.enrolment import SignedGrant, SignedRequest, Token, proven, server_name
from agents.contract.secret import Secret
from tests.console.gateways.agent import make_csr, signed_request
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways import fleet, queries, services
from vpnconsole.gateways.choices import GatewayKind
from vpnconsole.gateways.models import EnrolmentToken, Gateway

pytestmark = pytest.mark.django_db


@pytest.fixture
def token(alice: User, paris: Gateway) -> Token:
    return services.issue_enrolment_token(alice, paris)


def _post(signed: SignedRequest | bytes) -> tuple[int, bytes]:
    body = signed if isinstance(signed, bytes) else encode(signed)
    client = Client(enforce_csrf_checks=True, REMOTE_ADDR="192.0.2.1")
    response = client.post("/enrol/v1", body, content_type="application/json")
    return response.status_code, response.content


def _refusals() -> list[Any]:
    return list(AuditEvent.objects.filter(action="gateway.enrolment-refused").values_list("details__reason", flat=True))


def test_an_agent_gets_its_certificate_and_the_console_proves_itself(paris: Gateway, token: Token) -> None:
    status, body = _post(signed_request(token))
    assert status == 200
    signed = decode(SignedGrant, body)
    assert proven(token.secret, signed.grant, signed.proof)
    assert (signed.grant.gateway_id, signed.grant.gateway_name) == (str(paris.pk), "paris")
    certificate = x509.load_pem_x509_certificate(signed.grant.certificate_pem.encode())
    ca = x509.load_pem_x509_certificate(signed.grant.fleet_ca_pem.encode())
    certificate.verify_directly_issued_by(ca)
    assert server_name(str(paris.pk)).encode() in certificate.public_bytes(serialization.Encoding.DER)
    paris.refresh_from_db()
    assert paris.is_enrolled
    assert (paris.agent_host, paris.agent_port, paris.agent_version) == ("192.0.2.1", 8471, "1.2.3")
    assert paris.certificate_serial == f"{certificate.serial_number:x}"
    assert queries.enrolled_gateways().get() == paris
    event = AuditEvent.objects.first()
    assert event is not None
    assert (event.action, event.details["source"]) == ("gateway.enrolled", "192.0.2.1")


def test_an_address_the_operator_entered_stays(paris: Gateway, token: Token) -> None:
    Gateway.objects.filter(pk=paris.pk).update(agent_host="agent.paris.example")
    assert _post(signed_request(token))[0] == 200
    paris.refresh_from_db()
    assert paris.agent_host == "agent.paris.example"


def test_a_token_is_good_once(paris: Gateway, token: Token) -> None:
    first = signed_request(token)
    assert _post(first)[0] == 200
    serial = Gateway.objects.get(pk=paris.pk).certificate_serial
    assert _post(first)[0] == 403
    assert _post(signed_request(token))[0] == 403
    assert Gateway.objects.get(pk=paris.pk).certificate_serial == serial
    assert _refusals() == ["token used already"] * 2
    assert audit.verify().intact


def test_two_agents_at_once_get_one_certificate(monkeypatch: pytest.MonkeyPatch, paris: Gateway, token: Token) -> None:
    issue = fleet.issue_gateway_certificate

    def slow(csr_pem: str, gateway: Gateway) -> x509.Certificate:
        # The other agent's request is answered while ours is being signed.
        monkeypatch.setattr(fleet, "issue_gateway_certificate", issue)
        assert _post(signed_request(token))[0] == 200
        return issue(csr_pem, gateway)

    monkeypatch.setattr(fleet, "issue_gateway_certificate", slow)
    assert _post(signed_request(token))[0] == 403
    assert AuditEvent.objects.filter(action="gateway.enrolled").count() == 1
    assert _refusals() == ["token used already"]


def test_an_unknown_token_and_a_wrong_proof_get_the_same_answer(token: Token) -> None:
    unknown = Token(id="0" * 16, secret=Secret(b"x" * 32))
    wrong = Token(id=token.id, secret=Secret(b"x" * 32))
    assert _post(signed_request(unknown)) == _post(signed_request(wrong))
    assert _refusals() == ["wrong proof"]
    # And the token is still good for who knows it.
    assert _post(signed_request(token))[0] == 200


def test_a_request_changed_on_its_way_is_refused(token: Token) -> None:
    signed = signed_request(token)
    changed = dataclasses.replace(signed, request=dataclasses.replace(signed.request, csr_pem=make_csr()))
    assert _post(changed)[0] == 403
    assert _refusals() == ["wrong proof"]


def test_a_token_ends_after_an_hour(token: Token) -> None:
    with time_machine.travel(timezone.now() + services.TOKEN_VALIDITY + timedelta(seconds=1)):
        assert _post(signed_request(token))[0] == 403
    assert _refusals() == ["token expired"]


def test_a_token_of_what_became_an_extranet_gateway_is_void(paris: Gateway, token: Token) -> None:
    Gateway.objects.filter(pk=paris.pk).update(kind=GatewayKind.EXTRANET)
    assert _post(signed_request(token))[0] == 403
    assert _refusals() == ["the gateway is an extranet gateway by now"]
    assert not Gateway.objects.get(pk=paris.pk).is_enrolled


def test_a_new_token_ends_the_one_before(alice: User, paris: Gateway, token: Token) -> None:
    newer = services.issue_enrolment_token(alice, paris)
    assert _post(signed_request(token))[0] == 403
    assert _refusals() == ["token replaced by a newer one"]
    row = queries.open_enrolment_token(paris)
    assert row is not None
    assert row.pk == newer.id
    assert _post(signed_request(newer))[0] == 200


def test_enrolling_again_takes_a_new_token_and_gives_a_new_certificate(
    alice: User, paris: Gateway, token: Token
) -> None:
    _post(signed_request(token))
    before = Gateway.objects.get(pk=paris.pk).certificate_serial
    assert _post(signed_request(services.issue_enrolment_token(alice, paris), agent_port=9000))[0] == 200
    paris.refresh_from_db()
    assert paris.certificate_serial != before
    assert paris.agent_port == 9000


def test_an_extranet_gateway_has_nothing_to_enrol(alice: User, extranet: Gateway) -> None:
    with pytest.raises(ValidationError, match="runs no agent"):
        services.issue_enrolment_token(alice, extranet)


@pytest.mark.parametrize("agent_port", [0, -1, 65_536, 2**40])
def test_an_impossible_port_is_refused_and_the_token_stays_good(token: Token, agent_port: int) -> None:
    status, body = _post(signed_request(token, agent_port=agent_port))
    assert (status, json.loads(body)["error"]) == (400, "invalid")
    assert _post(signed_request(token))[0] == 200


def test_a_bad_certificate_request_says_which_field_and_the_token_stays_good(token: Token) -> None:
    status, body = _post(signed_request(token, csr_pem="nothing"))
    assert status == 400
    assert json.loads(body)["path"] == "request.csr_pem"
    assert _post(signed_request(token))[0] == 200


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"{}", "request"),
        (b'{"request": {}, "proof": ""}', "request.token_id"),
        (b'{"request": 1, "proof": "", "more": 1}', "more"),
        (b"\xff\xfe", ""),
        (b"[" * 50_000, ""),
    ],
)
def test_what_is_no_request_is_answered_with_the_path(body: bytes, path: str) -> None:
    status, answer = _post(body)
    assert (status, json.loads(answer)["path"]) == (400, path)


def test_a_body_beyond_reason_is_not_read(token: Token) -> None:
    assert _post(b"x" * 70_000)[0] == 413


def test_only_post(client: Client) -> None:
    assert client.get("/enrol/v1").status_code == 405


def test_refusals_do_not_fill_the_trail(token: Token) -> None:
    wrong = signed_request(Token(id=token.id, secret=Secret(b"x" * 32)))
    for _ in range(25):
        assert _post(wrong)[0] == 403
    assert len(_refusals()) == 20
    assert EnrolmentToken.objects.get().refusals == 25


def test_neither_token_nor_proof_is_logged(token: Token, caplog: pytest.LogCaptureFixture) -> None:
    signed = signed_request(token)
    _post(signed)
    _post(signed)
    assert "token used already" in caplog.text
    assert signed.proof not in caplog.text
    assert token.text().split(".")[2] not in caplog.text + str(list(AuditEvent.objects.values()))
