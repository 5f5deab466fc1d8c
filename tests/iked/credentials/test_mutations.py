"""Revocation data with any octet changed: revoked still, or a StatusError; never good, never another exception."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.iked.credentials import crl, ocsp
from agents.iked.credentials.crl import StatusError
from agents.pki.errors import CertificateError
from agents.pki.path import paths, read_chain
from agents.pki.reading import read
from tests.pki import IPSEC_IKE, Authority, der, now

ROOT = Authority.root("Root")
RESPONDER = ROOT.responder()
STOLEN = ROOT.leaf("stolen")
ROOT.revoke(STOLEN.certificate)
ISSUER, CERTIFICATE = read(der(ROOT.certificate)), read(STOLEN.chain[0])
NONCE = bytes(32)
REQUEST = ocsp.request(CERTIFICATE, ISSUER, NONCE)
LIST = ROOT.crl()
ANSWERS = (ROOT.ocsp_answer(REQUEST), ROOT.ocsp_answer(REQUEST, responder=RESPONDER))

octets = st.integers(0, 255)
places = st.integers(0, 5_000)


def changed(good: bytes, at: int, octet: int, junk: bytes) -> list[bytes]:
    spoiled = bytearray(good)
    spoiled[at % len(good)] = octet
    return [bytes(spoiled), bytes(spoiled) + junk, good[: at % len(good)], good[: at % len(good)] + junk]


@given(places, octets, st.binary(max_size=40))
def test_a_changed_list(at: int, octet: int, junk: bytes) -> None:
    for each in changed(LIST, at, octet, junk):
        with contextlib.suppress(StatusError):
            assert crl.status(crl.read(each), CERTIFICATE, ISSUER, now()).revoked


@given(st.sampled_from(ANSWERS), places, octets, st.binary(max_size=40))
def test_a_changed_answer(good: bytes, at: int, octet: int, junk: bytes) -> None:
    for each in changed(good, at, octet, junk):
        with contextlib.suppress(StatusError):
            assert ocsp.status(each, REQUEST, NONCE, CERTIFICATE, ISSUER, now()).revoked


def test_unchanged_they_say_revoked() -> None:
    assert crl.status(crl.read(LIST), CERTIFICATE, ISSUER, now()).revoked
    assert all(ocsp.status(each, REQUEST, NONCE, CERTIFICATE, ISSUER, now()).revoked for each in ANSWERS)


@pytest.mark.parametrize("bits", [0x01, 0x41, 0x80, 0xFF])
def test_every_single_octet_matters_or_says_the_same(bits: int) -> None:
    """One after the other: nothing but the named errors comes out, and nothing is good that was not."""
    rich = ROOT.leaf("rich", dns=("a.example",), addresses=("192.0.2.1",), emails=("a@b.example",), usages=(IPSEC_IKE,))
    for good in (LIST, *ANSWERS, *rich.chain):
        for at in range(len(good)):
            spoiled = bytearray(good)
            spoiled[at] ^= bits
            with contextlib.suppress(StatusError, CertificateError):
                if good is LIST:
                    assert crl.status(crl.read(bytes(spoiled)), CERTIFICATE, ISSUER, now()).revoked
                elif good in ANSWERS:
                    assert ocsp.status(bytes(spoiled), REQUEST, NONCE, CERTIFICATE, ISSUER, now()).revoked
                else:
                    pytest.fail(f"taken: {next(paths(read_chain((bytes(spoiled),)), [ISSUER], now()))}")
