"""CRLs and OCSP over real HTTP, and every way they can be missing, stale, forged or in the wrong place."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import gzip
import ipaddress
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agents.contract.config import Revocation
from agents.ike.outputs import Verdict
from agents.iked.credentials import fetch
from agents.iked.credentials.crl import MOST_FETCHED_OCTETS
from agents.iked.credentials.fetch import Address, Fetcher
from tests import pki
from tests.pki import DAY, Authority, Leaf, RevocationServer, now

from .rig import POLICY, Counter

SOFT = dataclasses.replace(POLICY, revocation=Revocation.SOFT_FAIL)
REVOKED, UNKNOWN = "ike.certificate-revoked", "ike.certificate-revocation-unknown"


@pytest.fixture
def server() -> Iterator[RevocationServer]:
    with RevocationServer() as made:
        yield made


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with Counter(tmp_path) as made:
        yield made


def alpha(authority: Authority, **options: object) -> Leaf:
    return authority.leaf("alpha", dns=("alpha.example",), **options)  # type: ignore[arg-type]


def with_crl(server: RevocationServer, path: str = "/root.crl") -> Authority:
    root = Authority.root("Root", crl_url=server.url + path)
    server.publish_crl(path, root)
    return root


def with_ocsp(server: RevocationServer, **answer: object) -> Authority:
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp")
    server.publish("/ocsp", lambda body: (200, {}, root.ocsp_answer(body, **answer)))  # type: ignore[arg-type]
    return root


def good(verdict: Verdict) -> bool:
    return verdict.public_key is not None


# What the two say


@pytest.mark.parametrize("source", [with_crl, with_ocsp])
async def test_good_then_revoked(
    counter: Counter, server: RevocationServer, source: Callable[[RevocationServer], Authority]
) -> None:
    root = source(server)
    counter.trust(root)
    fine, stolen = alpha(root), alpha(root)
    root.revoke(stolen.certificate)
    assert good(await counter.validate(fine))
    verdict = await counter.validate(stolen)
    assert (verdict.code, good(verdict)) == (REVOKED, False)
    assert f"serial {stolen.certificate.serial_number:x}" in (verdict.received or "")
    assert server.asked


async def test_a_revoked_intermediate_refuses_what_it_issued(counter: Counter, server: RevocationServer) -> None:
    root = with_crl(server)
    issuing = root.intermediate("Issuing", ocsp_url=server.url + "/issuing")
    server.publish_ocsp("/issuing", issuing)
    counter.trust(root)
    leaf = alpha(issuing)
    assert good(await counter.validate(leaf))
    root.revoke(issuing.certificate)
    counter.offset_s = 8 * 86_400  # what was kept is out of date
    assert (await counter.validate(leaf)).code in {UNKNOWN, REVOKED}
    async_counter = Counter(counter.where.state / "second")
    async with async_counter:
        async_counter.trust(root)
        verdict = await async_counter.validate(leaf)
        assert (verdict.code, "Issuing" in verdict.message) == (REVOKED, True)


async def test_a_delegated_responder_may_answer(counter: Counter, server: RevocationServer) -> None:
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp")
    responder = root.responder()
    server.publish_ocsp("/ocsp", root, responder)
    counter.trust(root)
    assert good(await counter.validate(alpha(root)))
    stolen = alpha(root)
    root.revoke(stolen.certificate)
    assert (await counter.validate(stolen)).code == REVOKED


@pytest.mark.parametrize("key_type", ["rsa-2048", "ed25519", "ecdsa-p384"])
async def test_each_kind_of_ca_key_signs_lists_and_answers(
    counter: Counter, server: RevocationServer, key_type: str
) -> None:
    own = pki.key(key_type, "revocation")
    listed = Authority.root("Listed", crl_url=server.url + "/crl", private_key=own)
    asked = Authority.root("Asked", ocsp_url=server.url + "/ocsp", private_key=own)
    server.publish_crl("/crl", listed)
    server.publish_ocsp("/ocsp", asked)
    counter.trust(listed, asked)
    for authority in (listed, asked):
        assert good(await counter.validate(alpha(authority)))


async def test_ocsp_comes_first_and_the_crl_when_that_fails(counter: Counter, server: RevocationServer) -> None:
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp", crl_url=server.url + "/crl")
    server.publish_ocsp("/ocsp", root)
    server.publish_crl("/crl", root)
    counter.trust(root)
    assert good(await counter.validate(alpha(root)))
    assert server.asked == ["/ocsp"]
    server.publish("/ocsp", lambda _: (500, {}, b""))
    assert good(await counter.validate(alpha(root)))
    assert server.asked == ["/ocsp", "/ocsp", "/crl"]


async def test_an_operators_crl_is_the_last_word_and_needs_no_network(
    counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    root = Authority.root("Root")
    counter.trust(root)
    fine, stolen = alpha(root), alpha(root)
    assert (await counter.validate(fine)).code == UNKNOWN
    root.revoke(stolen.certificate)
    counter.where.crls.mkdir()
    (counter.where.crls / "junk.crl").write_bytes(b"no CRL")
    (counter.where.crls / "root.crl").write_bytes(root.crl())
    assert good(await counter.validate(fine))
    assert (await counter.validate(stolen)).code == REVOKED
    root.revoke(fine.certificate)
    pem = x509.load_der_x509_crl(root.crl()).public_bytes(serialization.Encoding.PEM)
    (counter.where.crls / "root.crl").write_bytes(pem)
    assert (await counter.validate(fine)).code == REVOKED
    assert caplog.text.count("junk.crl is not used") == 1


async def test_names_are_resolved_by_the_system() -> None:
    assert "127.0.0.1" in await fetch.system_resolve("localhost", 80)
    for wrong in ("nobody.invalid", "x" * 70 + ".example"):
        with pytest.raises((OSError, UnicodeError)):
            await fetch.system_resolve(wrong, 80)


async def test_a_name_that_cannot_be_resolved_is_unknown(counter: Counter) -> None:
    root = Authority.root("Root", crl_url="http://" + "x" * 70 + ".invalid/root.crl")
    counter.trust(root)
    assert (await counter.validate(alpha(root))).code == UNKNOWN


# Hard-fail, soft-fail, off


@pytest.mark.parametrize(
    ("revocation", "accepted", "told"),
    [(Revocation.HARD_FAIL, False, False), (Revocation.SOFT_FAIL, True, True), (Revocation.OFF, True, False)],
)
async def test_what_happens_when_nobody_answers(
    counter: Counter, server: RevocationServer, revocation: Revocation, accepted: bool, told: bool
) -> None:
    root = Authority.root("Root", crl_url=server.url + "/nothing")
    counter.trust(root)
    verdict = await counter.validate(alpha(root), dataclasses.replace(POLICY, revocation=revocation))
    assert good(verdict) == accepted
    assert counter.codes() == (["ike.certificate-revocation-unchecked"] if told else [])
    if not accepted:
        assert verdict.code == UNKNOWN
        assert "status 404" in verdict.message
        assert "/nothing" in (verdict.received or "")
    assert bool(server.asked) == (revocation is not Revocation.OFF)


async def test_soft_fail_still_refuses_the_revoked_and_off_asks_nobody(
    counter: Counter, server: RevocationServer
) -> None:
    root = with_crl(server)
    counter.trust(root)
    leaf = alpha(root)
    root.revoke(leaf.certificate)
    assert (await counter.validate(leaf, SOFT)).code == REVOKED


async def test_soft_fail_is_silent_about_certificates_that_name_nowhere_to_ask(counter: Counter) -> None:
    root = Authority.root("Root")
    counter.trust(root)
    assert good(await counter.validate(alpha(root), SOFT))
    assert counter.codes() == []


async def test_nothing_is_fetched_before_the_chain_is_anchored(counter: Counter, server: RevocationServer) -> None:
    stranger = with_crl(server)
    counter.trust(Authority.root("Ours"))
    assert (await counter.validate(alpha(stranger))).code == "ike.certificate-untrusted"
    expired = alpha(stranger, valid=(now() - 9 * DAY, now() - DAY))
    counter.trust(stranger)
    assert (await counter.validate(expired)).code == "ike.certificate-expired"
    wrong_name = await counter.validate(alpha(stranger), id_data=b"beta.example")
    assert wrong_name.code == "ike.certificate-identity"
    assert server.asked == []


# Forged, stale, out of place

OTHER = pki.key("ecdsa-p256", "other")


def _point(**options: object) -> list[tuple[x509.ExtensionType, bool]]:
    fields: dict[str, object] = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return [(x509.IssuingDistributionPoint(**(fields | options)), True)]  # type: ignore[arg-type]


OTHER_PLACE = [x509.UniformResourceIdentifier("http://127.0.0.1/other.crl")]

BAD_CRLS: dict[str, tuple[Callable[[Authority], bytes], str]] = {
    "signed by another key": (lambda root: root.crl(signer=OTHER), "signature"),
    "of another issuer": (lambda root: root.crl(issuer=pki.name("Another")), "another issuer"),
    "stale": (lambda root: root.crl(last_update=now() - 9 * DAY, next_update=now() - DAY), "current until"),
    "from the future": (lambda root: root.crl(last_update=now() + DAY), "future"),
    "indirect": (lambda root: root.crl(extensions=_point(indirect_crl=True)), "indirect"),
    "for CAs only": (lambda root: root.crl(extensions=_point(only_contains_ca_certs=True)), "cover"),
    "for attributes only": (lambda root: root.crl(extensions=_point(only_contains_attribute_certs=True)), "cover"),
    "for some reasons": (
        lambda root: root.crl(extensions=_point(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise]))),
        "some reasons",
    ),
    "of another point": (lambda root: root.crl(extensions=_point(full_name=OTHER_PLACE)), "another distribution"),
    "a delta": (lambda root: root.crl(extensions=[(x509.DeltaCRLIndicator(1), True)]), "delta"),
    "with an unknown critical extension": (
        lambda root: root.crl(
            extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
        ),
        "critical",
    ),
    "no CRL": (lambda _: b"<html>", "cannot be read"),
    "cut short": (lambda root: root.crl()[:-9], "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_CRLS)
async def test_a_crl_that_proves_nothing_is_not_used(counter: Counter, server: RevocationServer, case: str) -> None:
    make, why = BAD_CRLS[case]
    root = with_crl(server)
    server.publish("/root.crl", lambda _: (200, {}, make(root)))
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert (verdict.code, why in verdict.message) == (UNKNOWN, True), verdict.message
    # Not kept either: once the CA has put it right, it counts.
    server.publish_crl("/root.crl", root)
    assert good(await counter.validate(alpha(root)))


async def test_a_ca_without_crl_sign_does_not_sign_crls(counter: Counter, server: RevocationServer) -> None:
    only_certificates = [(pki.key_usage("key_cert_sign"), True)]
    root = Authority.root("Root", crl_url=server.url + "/crl", extensions=only_certificates)
    server.publish_crl("/crl", root)
    counter.trust(root)
    assert (await counter.validate(alpha(root))).code == UNKNOWN


@pytest.mark.parametrize("extensions", [_point(only_contains_user_certs=True), []])
async def test_a_crl_for_end_entities_is_enough_for_one(
    counter: Counter, server: RevocationServer, extensions: list[tuple[x509.ExtensionType, bool]]
) -> None:
    root = with_crl(server)
    server.publish("/root.crl", lambda _: (200, {}, root.crl(extensions=extensions)))
    counter.trust(root)
    assert good(await counter.validate(alpha(root)))


def _bad_answers() -> dict[str, tuple[dict[str, object], str]]:
    return {
        "signed by another key": ({"forged": True}, "signature"),
        "stale": ({"this_update": now() - 9 * DAY, "next_update": now() - DAY}, "current until"),
        "from the future": ({"this_update": now() + DAY}, "future"),
        "about another serial": ({"serial_shift": 1}, "another certificate"),
        "unknown": ({"unknown": True}, "does not know"),
    }


@pytest.mark.parametrize("case", _bad_answers())
async def test_an_ocsp_answer_that_proves_nothing_is_not_used(
    counter: Counter, server: RevocationServer, case: str
) -> None:
    answer, why = _bad_answers()[case]
    root = with_ocsp(server, **answer)
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert (verdict.code, why in verdict.message) == (UNKNOWN, True), verdict.message


@pytest.mark.parametrize("case", ["no usage for OCSP", "of another CA", "expired", "may not sign"])
async def test_a_responder_the_ca_has_not_authorised_is_not_believed(
    counter: Counter, server: RevocationServer, case: str
) -> None:
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp")
    responder = {
        "no usage for OCSP": lambda: root.leaf("OCSP responder"),
        "of another CA": lambda: Authority.root("Root").responder(),
        "expired": lambda: root.responder(valid=(now() - 9 * DAY, now() - DAY)),
        "may not sign": lambda: root.responder(extensions=[(pki.key_usage("key_agreement"), True)]),
    }[case]()
    server.publish_ocsp("/ocsp", root, responder)
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert (verdict.code, "not authorised" in verdict.message) == (UNKNOWN, True), verdict.message


async def test_the_answer_to_an_earlier_question_is_not_taken_and_one_without_nonce_is(
    counter: Counter, server: RevocationServer
) -> None:
    root = with_ocsp(server)
    counter.trust(root)
    recorded: list[bytes] = []

    def replayed(body: bytes) -> tuple[int, dict[str, str], bytes]:
        recorded.append(root.ocsp_answer(body))
        return 200, {}, recorded[0]

    server.publish("/ocsp", replayed)
    leaf = alpha(root)
    assert good(await counter.validate(leaf))
    async with Counter(counter.where.state / "second") as second:
        second.trust(root)
        verdict = await second.validate(leaf)
        assert (verdict.code, "nonce" in verdict.message) == (UNKNOWN, True)
        server.publish("/ocsp", lambda body: (200, {}, root.ocsp_answer(body, nonce=False)))
        assert good(await second.validate(alpha(root)))


@pytest.mark.parametrize("body", [b"", b"\x30\x03\x0a\x01\x06", b"\x30\x03\x0a\x01\x03", b"<html>", b"\xff" * 70_000])
async def test_rubbish_and_error_answers_are_no_answer(counter: Counter, server: RevocationServer, body: bytes) -> None:
    root = with_ocsp(server)
    server.publish("/ocsp", lambda _: (200, {}, body))
    counter.trust(root)
    assert (await counter.validate(alpha(root))).code == UNKNOWN


# Keeping and sharing


async def test_answers_are_kept_until_they_are_out_of_date(counter: Counter, server: RevocationServer) -> None:
    root = with_ocsp(server)
    counter.trust(root)
    leaf = alpha(root)
    for _ in range(3):
        assert good(await counter.validate(leaf))
    assert server.asked == ["/ocsp"]
    counter.offset_s = 2 * 86_400
    await counter.validate(leaf, SOFT)
    assert server.asked == ["/ocsp"] * 2


async def test_one_list_serves_all_certificates_of_a_ca(counter: Counter, server: RevocationServer) -> None:
    root = with_crl(server)
    counter.trust(root)
    verdicts = await asyncio.gather(*(counter.validate(alpha(root)) for _ in range(20)))
    assert all(map(good, verdicts))
    assert good(await counter.validate(alpha(root)))
    assert server.asked == ["/root.crl"]


async def test_a_failure_is_not_asked_for_again_at_once(counter: Counter, server: RevocationServer) -> None:
    root = Authority.root("Root", crl_url=server.url + "/nothing")
    counter.trust(root)
    for _ in range(3):
        assert (await counter.validate(alpha(root))).code == UNKNOWN
    assert server.asked == ["/nothing"]
    counter.offset_s = 60
    await counter.validate(alpha(root))
    assert server.asked == ["/nothing"] * 2


async def test_a_ca_cannot_displace_the_list_of_another(counter: Counter, server: RevocationServer) -> None:
    """Two CAs name the same URL: the list there is believed for its own issuer only."""
    one = with_crl(server)
    two = Authority.root("Two", crl_url=one.crl_url)
    counter.trust(one, two)
    assert good(await counter.validate(alpha(one)))
    assert (await counter.validate(alpha(two))).code == UNKNOWN
    assert good(await counter.validate(alpha(one)))


# How much it may cost and where it may go


async def test_a_crl_that_is_too_long_is_not_read_to_its_end(counter: Counter, server: RevocationServer) -> None:
    root = with_crl(server)
    server.publish("/root.crl", lambda _: (200, {}, b"\x30" * (MOST_FETCHED_OCTETS + 1)))
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert (verdict.code, "octets" in verdict.message) == (UNKNOWN, True)


async def test_a_compressed_answer_is_not_unpacked(counter: Counter, server: RevocationServer) -> None:
    root = with_crl(server)
    server.publish("/root.crl", lambda _: (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(10_000_000))))
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert (verdict.code, "cannot be read" in verdict.message) == (UNKNOWN, True)


async def test_a_slow_responder_costs_so_much_time_and_no_more(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One octet after the other, for ever: the whole answer has a limit, not each octet."""
    monkeypatch.setattr(counter.desk._revocation, "_patience_s", 1.0)
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    root = Authority.root("Root", crl_url=f"http://127.0.0.1:{listener.getsockname()[1]}/slow")
    counter.trust(root)
    began = time.monotonic()
    try:
        verdict = await counter.validate(alpha(root))
        assert (verdict.code, "no answer within 1 s" in verdict.message) == (UNKNOWN, True)
        assert time.monotonic() - began < 25  # all of it would take twice as long
    finally:
        stop.set()
        thread.join()
        listener.close()


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1", "::ffff:10.1.2.3",
    "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_what_is_not_on_the_internet_is_not_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Named as a literal or found by resolving a name."""
    asked = []

    async def never(*_: object) -> bytes:
        asked.append(address)
        return b""

    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    monkeypatch.setattr(fetch, "_ask", never)
    policy = dataclasses.replace(POLICY, fetch_private=False)
    literal = f"[{address}]" if ":" in address else address
    async with Counter(tmp_path, fetcher=Fetcher(resolve)) as counter:
        for host in ("crl.example.org", literal):
            root = Authority.root("Root", crl_url=f"http://{host}/root.crl")
            counter.trust(root)
            verdict = await counter.validate(alpha(root), policy)
            assert (verdict.code, "may not fetch from" in verdict.message) == (UNKNOWN, True), verdict.message
    assert asked == []


@pytest.mark.parametrize("address", ["192.31.196.1", "2606:4700::1111", "64:ff9b::c01f:c401"])
def test_what_is_on_the_internet_may_be_connected_to(address: str) -> None:
    assert fetch.may_connect(ipaddress.ip_address(address), False)


def test_own_addresses_are_found_even_when_they_are_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_is_own", lambda each: str(each) == "192.31.196.1")
    assert not fetch.may_connect(ipaddress.ip_address("192.31.196.1"), False)
    assert not fetch.may_connect(ipaddress.ip_address("::ffff:192.31.196.1"), False)
    monkeypatch.undo()
    assert fetch._is_own(ipaddress.ip_address("127.0.0.1"))
    assert not fetch._is_own(ipaddress.ip_address("192.31.196.1"))


@pytest.mark.parametrize("address", ["224.0.0.1", "0.0.0.0", "ff02::1"])
def test_no_host_at_all_is_never_connected_to(address: str) -> None:
    assert not fetch.may_connect(ipaddress.ip_address(address), True)


async def test_the_connection_goes_to_the_address_that_was_checked(tmp_path: Path, server: RevocationServer) -> None:
    """A name the system cannot resolve at all is reached, so nobody resolves it a second time."""
    port = server.url.rpartition(":")[2]
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    root = Authority.root("Root", crl_url=f"http://crl.invalid:{port}/root.crl")
    server.publish_crl("/root.crl", root)
    async with Counter(tmp_path, fetcher=Fetcher(resolve)) as counter:
        counter.trust(root)
        assert good(await counter.validate(alpha(root)))
    assert asked == ["crl.invalid"]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/root.crl",
        "ldap://127.0.0.1/cn=root",
        "file:///etc/passwd",
        "ftp://127.0.0.1/root.crl",
        "http://user:secret@127.0.0.1/root.crl",
        "http://2130706433/root.crl",
        "http:///root.crl",
        "http://127.0.0.1:99999/root.crl",
        "http://127.0.0.1/" + "x" * 2_000,
    ],
)
async def test_a_url_that_is_not_plain_http_is_not_followed(counter: Counter, url: str) -> None:
    root = Authority.root("Root", crl_url=url)
    counter.trust(root)
    verdict = await counter.validate(alpha(root))
    assert verdict.code == UNKNOWN
    assert "secret" not in f"{verdict.message}"


async def test_redirects_are_checked_each_time_and_end(
    counter: Counter, server: RevocationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = with_crl(server, "/final.crl")
    counter.trust(root)
    refused: list[str] = []

    def only_first(address: Address, allow_private: bool) -> bool:
        if str(address) != "127.0.0.1":
            refused.append(str(address))
        return str(address) == "127.0.0.1"

    monkeypatch.setattr(fetch, "may_connect", only_first)

    def redirect(target: str) -> None:
        server.publish("/start", lambda _: (302, {"Location": target}, b""))

    def fresh() -> Leaf:
        counter.offset_s += 60
        other = Authority(key=root.key, certificate=root.certificate, crl_url=server.url + "/start")
        return alpha(other)

    for target in ("/final.crl", server.url + "/final.crl"):
        redirect(target)
        assert good(await counter.validate(fresh()))
        counter.desk._revocation._lists._entries.clear()
    for target, why in (
        ("http://127.0.0.2/final.crl", "may not fetch"),
        ("https://127.0.0.1/final.crl", "not an http URL"),
        ("file:///etc/passwd", "not an http URL"),
        ("/start", "redirects more than 2 times"),
    ):
        redirect(target)
        verdict = await counter.validate(fresh())
        assert (verdict.code, why in verdict.message) == (UNKNOWN, True), verdict.message
    assert refused == ["127.0.0.2"]


async def test_no_proxy_of_the_environment_is_used(
    counter: Counter, server: RevocationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    root = with_crl(server)
    counter.trust(root)
    assert good(await counter.validate(alpha(root)))


# OpenSSL on the other side


@pytest.mark.needs("openssl")
async def test_lists_and_answers_made_by_openssl(counter: Counter, tmp_path: Path, server: RevocationServer) -> None:
    """``openssl ca`` keeps the book, ``openssl ca -gencrl`` and ``openssl ocsp`` speak."""
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp", crl_url=server.url + "/crl")
    fine, stolen = alpha(root), alpha(root)
    (tmp_path / "root.pem").write_bytes(pki.pem(root.certificate))
    (tmp_path / "root.key").write_bytes(pki.key_pem(root.key))
    (tmp_path / "stolen.pem").write_bytes(pki.pem(stolen.certificate))
    _book(tmp_path, fine.certificate)
    openssl = ["openssl", "ca", "-config", "ca.cnf"]
    for more in (["-revoke", "stolen.pem"], ["-gencrl", "-out", "root.crl", "-crldays", "7"]):
        subprocess.run([*openssl, *more], cwd=tmp_path, check=True, capture_output=True)
    der = subprocess.run(
        ["openssl", "crl", "-in", "root.crl", "-outform", "DER"], cwd=tmp_path, check=True, capture_output=True
    ).stdout

    def respond(body: bytes) -> tuple[int, dict[str, str], bytes]:
        (tmp_path / "request").write_bytes(body)
        command = "openssl ocsp -index index.txt -CA root.pem -rsigner root.pem -rkey root.key -ndays 1"
        subprocess.run(
            [*command.split(), "-reqin", "request", "-respout", "answer"], cwd=tmp_path, check=True, capture_output=True
        )
        return 200, {}, (tmp_path / "answer").read_bytes()

    counter.trust(root)
    server.publish("/crl", lambda _: (200, {}, der))
    server.publish("/ocsp", lambda _: (404, {}, b""))
    assert (good(await counter.validate(fine)), (await counter.validate(stolen)).code) == (True, REVOKED)
    server.publish("/crl", lambda _: (404, {}, b""))
    server.publish("/ocsp", respond)
    async with Counter(tmp_path / "second") as second:
        second.trust(root)
        assert (good(await second.validate(fine)), (await second.validate(stolen)).code) == (True, REVOKED)
    assert server.asked.count("/ocsp") >= 3


def _book(directory: Path, fine: x509.Certificate) -> None:
    """Write the files ``openssl ca`` and ``openssl ocsp`` work with: a good certificate must be in the index."""
    until = fine.not_valid_after_utc.strftime("%y%m%d%H%M%SZ")
    serial = f"{fine.serial_number:X}"
    serial = serial if len(serial) % 2 == 0 else "0" + serial
    (directory / "index.txt").write_text(f"V\t{until}\t\t{serial}\tunknown\t/O=VPN Console tests/CN=alpha\n")
    (directory / "crlnumber").write_text("01\n")
    (directory / "ca.cnf").write_text(
        "[ca]\ndefault_ca = here\n[here]\ndatabase = index.txt\ncrlnumber = crlnumber\nunique_subject = no\n"
        "certificate = root.pem\nprivate_key = root.key\ndefault_md = sha256\n"
    )


@pytest.mark.needs("openssl")
def test_openssl_verifies_the_lists_the_other_tests_use(tmp_path: Path) -> None:
    """The builder itself is held against ``openssl verify -crl_check``: good, then revoked."""
    root = Authority.root("Root")
    leaf = alpha(root)
    (tmp_path / "root.pem").write_bytes(pki.pem(root.certificate))
    (tmp_path / "leaf.pem").write_bytes(pki.pem(leaf.certificate))
    outcomes = []
    for _ in range(2):
        crl = x509.load_der_x509_crl(root.crl(next_update=now() + datetime.timedelta(hours=1)))
        (tmp_path / "root.crl").write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        done = subprocess.run(
            ["openssl", "verify", "-crl_check", "-CAfile", "root.pem", "-CRLfile", "root.crl", "leaf.pem"],
            cwd=tmp_path, capture_output=True, check=False, text=True,
        )  # fmt: skip
        outcomes.append("revoked" if "certificate revoked" in done.stderr + done.stdout else done.returncode)
        root.revoke(leaf.certificate)
    assert outcomes == [0, "revoked"]
