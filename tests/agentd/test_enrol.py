"""Enrolment against a small console made of the contract's functions: what is believed, and what is not."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agents.agentd import identity
from agents.agentd.enrol import enrol
from agents.agentd.errors import EnrolmentError, NotEnrolledError
from agents.cli.vpn_agent import main
from agents.contract.codec import decode, encode
from agents.contract.enrolment import (
    EnrolmentGrant,
    SignedGrant,
    SignedRequest,
    Token,
    prove,
    proven,
    server_name,
)
from agents.contract.secret import Secret
from tests.agentd.fakes import GATEWAY_ID, OTHER_TUNNEL_ID, Authority

TOKEN = Token(id="0123456789abcdef", secret=Secret(bytes(range(32))))


@dataclass
class Console:
    """Grants one token, once. ``tamper`` changes a grant before it is signed, ``forge`` a signed one."""

    authority: Authority = field(default_factory=Authority.make)
    tamper: Callable[[EnrolmentGrant], EnrolmentGrant] = lambda grant: grant
    forge: Callable[[SignedGrant], SignedGrant] = lambda signed: signed
    names: tuple[str, ...] = (server_name(GATEWAY_ID),)
    key: ec.EllipticCurvePublicKey | None = None
    used: bool = False
    days_ago: int = 0
    url: str = ""
    requests: list[SignedRequest] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.Response:
        signed = decode(SignedRequest, await request.read())
        self.requests.append(signed)
        good = signed.request.token_id == TOKEN.id and proven(TOKEN.secret, signed.request, signed.proof)
        if self.used or not good:
            return web.json_response({"error": "refused", "message": "This token cannot be used."}, status=403)
        self.used = True
        csr = x509.load_pem_x509_csr(signed.request.csr_pem.encode())
        assert csr.is_signature_valid
        public_key = csr.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        grant = self.tamper(
            EnrolmentGrant(
                gateway_id=GATEWAY_ID,
                gateway_name="paris",
                certificate_pem=self.authority.issue(self.key or public_key, *self.names, days_ago=self.days_ago),
                fleet_ca_pem=self.authority.pem,
            )
        )
        answer = self.forge(SignedGrant(grant=grant, proof=prove(TOKEN.secret, grant)))
        return web.Response(body=encode(answer), content_type="application/json")


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    made = Console()
    application = web.Application()
    application.router.add_post("/enrol/v1", made.serve)
    async with TestServer(application) as server:
        made.url = str(server.make_url(""))
        yield made


async def test_a_gateway_enrols_and_keeps_what_it_got(console: Console, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    gateway = await enrol(console.url, TOKEN.text(), 9443, directory)
    assert (gateway.gateway_id, gateway.gateway_name, gateway.agent_port) == (GATEWAY_ID, "paris", 9443)
    assert identity.load(directory) == gateway
    assert stat.S_IMODE(gateway.key.stat().st_mode) == 0o600
    key = serialization.load_pem_private_key(gateway.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert x509.load_pem_x509_certificate(gateway.certificate.read_bytes()).public_key() == key.public_key()
    assert gateway.fleet_ca.read_text() == console.authority.pem
    sent = console.requests[0]
    assert sent.request.agent_port == 9443
    assert TOKEN.text().split(".")[2] not in encode(sent).decode()


async def test_a_token_is_good_once(console: Console, tmp_path: Path) -> None:
    await enrol(console.url, TOKEN.text(), 1, tmp_path / "one")
    with pytest.raises(EnrolmentError, match="cannot be used"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "two")
    with pytest.raises(NotEnrolledError):
        identity.load(tmp_path / "two")


async def test_a_grant_without_the_proof_is_not_believed(console: Console, tmp_path: Path) -> None:
    console.forge = lambda signed: dataclasses.replace(signed, proof="0" * 64)
    with pytest.raises(EnrolmentError, match="does not prove"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")
    assert not (tmp_path / "identity").exists()


async def test_a_grant_changed_on_the_way_is_not_believed(console: Console, tmp_path: Path) -> None:
    other = Authority.make("interceptor")
    console.forge = lambda signed: dataclasses.replace(
        signed, grant=dataclasses.replace(signed.grant, fleet_ca_pem=other.pem)
    )
    with pytest.raises(EnrolmentError, match="does not prove"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


async def test_a_certificate_for_another_key_is_refused(console: Console, tmp_path: Path) -> None:
    console.key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(EnrolmentError, match="another key"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


async def test_a_certificate_for_another_gateway_is_refused(console: Console, tmp_path: Path) -> None:
    console.names = (server_name(OTHER_TUNNEL_ID),)
    with pytest.raises(EnrolmentError, match="another gateway"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


@pytest.mark.parametrize("name", ["other", "fleet CA"])
async def test_a_certificate_not_from_the_authority_beside_it_is_refused(
    console: Console, tmp_path: Path, name: str
) -> None:
    console.tamper = lambda grant: dataclasses.replace(grant, fleet_ca_pem=Authority.make(name).pem)
    with pytest.raises(EnrolmentError, match="signed"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


async def test_a_clock_that_is_wrong_is_said(console: Console, tmp_path: Path) -> None:
    console.days_ago = 400
    with pytest.raises(EnrolmentError, match="clock"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


async def test_nonsense_for_certificates_is_refused(console: Console, tmp_path: Path) -> None:
    console.tamper = lambda grant: dataclasses.replace(grant, certificate_pem="nonsense")
    with pytest.raises(EnrolmentError, match="no usable certificate"):
        await enrol(console.url, TOKEN.text(), 1, tmp_path / "identity")


@pytest.mark.parametrize("token", ["", "vpc1.short", "vpc2.0123456789abcdef." + "A" * 43])
async def test_a_token_that_is_none_is_refused_here_without_repeating_it(token: str, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="not an enrolment token") as caught:
        await enrol("http://127.0.0.1:9", token, 1, tmp_path / "identity")
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not a url", "http://"])
async def test_a_console_that_is_not_there_is_a_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError):
        await enrol(url, TOKEN.text(), 1, tmp_path / "identity")


async def test_enrolling_again_replaces_the_identity_whole(console: Console, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    first = await enrol(console.url, TOKEN.text(), 1, directory)
    old = first.key.read_bytes()
    console.used = False
    second = await enrol(console.url, TOKEN.text(), 2, directory)
    assert second.key.read_bytes() != old
    assert second.agent_port == 2
    assert [each.name for each in tmp_path.iterdir()] == ["identity"]


async def test_a_replacement_cut_off_between_its_renames_is_finished(console: Console, tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    gateway = await enrol(console.url, TOKEN.text(), 1, directory)
    directory.rename(tmp_path / "identity.new")
    assert identity.load(directory) == gateway


async def test_the_command_line_enrols_from_a_file(
    console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    file = tmp_path / "token"
    file.write_text(TOKEN.text() + "\n")
    places = ["--state", str(tmp_path / "state"), "--run", str(tmp_path / "run")]
    arguments = ["enrol", "--console", console.url, "--token-file", str(file), "--port", "9", *places]
    assert await asyncio.to_thread(main, arguments) == 0
    assert capsys.readouterr().out == f"Enrolled as paris ({GATEWAY_ID}).\n"
    assert identity.load(tmp_path / "state/identity").agent_port == 9
    assert await asyncio.to_thread(main, arguments) == 1
    shown = capsys.readouterr()
    assert "cannot be used" in shown.err
    assert TOKEN.text() not in shown.err
