"""``ike-scan`` looks at our IKEv1 responder: it recognises both modes, sees no retransmissions, breaks only a weak key.

The scanner sends one request and never answers, as someone does who wants the responder's packets sent elsewhere.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.contract.config import ConnectionType, ExchangeMode, GatewayDocument, IkeVersion
from deploy.lab.netns import Namespace
from tests.iked.cast import document, psk, tunnel
from tests.interop.cells_ikev1 import AGGRESSIVE, MAIN, esp, ike
from tests.interop.rig import OURS, THEIRS, OurGateway, two_namespaces

pytestmark = [pytest.mark.lab, pytest.mark.needs("ike-scan"), pytest.mark.timeout(120)]

WEAK, STRONG = b"letmein", b"8e1c0b54f9a94f2db1b7a6c2"
DICTIONARY = ("secret", "password", WEAK.decode(), "vpn")
_TRANSFORM = "--trans=(1=7,14=128,2=2,3=1,4=14)"
"""AES-128-CBC, SHA-1 (``psk-crack`` knows no newer hash), pre-shared key, group 14."""

_DPD = "--vendor=afcad71368a1f1c96b8696fc77570100"
"""What we say of ourselves is no more than what the peer says too."""

_ANSWER_MS = 5_000
"""The first answer may take longer than the half second that a scanner gives it."""

_LISTEN_S = 4
"""Longer than our first two retransmissions would take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """The namespace that scans, and our daemon."""

    ours: OurGateway
    space: Namespace
    directory: Path

    async def scan(self, *more: str) -> str:
        """Return what ``ike-scan`` prints of one request."""
        waiting = ("--retry=1", f"--timeout={_ANSWER_MS}", f"--showbackoff={_LISTEN_S}")
        command = ("ike-scan", "--nodns", "--multiline", *waiting, _TRANSFORM, *more)
        return await asyncio.to_thread(self.space.run, *command, OURS)

    async def crack(self) -> str:
        """Let ``psk-crack`` try the dictionary on what an Aggressive Mode scan leaves."""
        hashes, words = self.directory / "hashes", self.directory / "words"
        words.write_text("\n".join(DICTIONARY) + "\n", encoding="ascii")
        await self.scan("--aggressive", "--dhgroup=14", "--idtype=1", "--id=0xc0000202", f"--pskcrack={hashes}")
        return await asyncio.to_thread(self.space.run, "psk-crack", f"--dictionary={words}", str(hashes), check=False)


@pytest.fixture
async def scanner(tmp_path: Path) -> AsyncIterator[Scanner]:
    with two_namespaces("scan") as spaces:
        async with OurGateway(spaces[0], tmp_path / "agent") as ours:
            yield Scanner(ours=ours, space=spaces[1], directory=tmp_path)


def responder(mode: ExchangeMode, secret: bytes, version: IkeVersion = IkeVersion.V1) -> GatewayDocument:
    """Return a document whose only tunnel waits for a peer at the scanner's address."""
    plain = tunnel(
        "scanned", OURS, THEIRS, proposals=(ike(hash_="sha1"),), esp=(esp(),),
        connection_type=ConnectionType.RESPONDER_ONLY,
    )  # fmt: skip
    policy = dataclasses.replace(plain.ike, exchange_mode=mode)
    scanned = dataclasses.replace(plain, version=version, ike=policy)
    return document("ours", [scanned], [psk(OURS, THEIRS, secret)])


def answers(output: str) -> int:
    """Return how many packets came back for the one request, as the back-off table lists them."""
    return len(re.findall(rf"^{re.escape(OURS)}\t\d+\t[\d.]+\t[\d.]+$", output, re.MULTILINE))


async def test_main_mode_is_recognised_and_answered_once(scanner: Scanner) -> None:
    await scanner.ours.configure(responder(MAIN, STRONG))
    output = await scanner.scan(_DPD)
    assert "Main Mode Handshake returned" in output
    assert "SA=(Enc=AES KeyLength=128 Hash=SHA1 Auth=PSK Group=14:modp2048)" in output, output
    assert "Dead Peer Detection v1.0" in output
    assert answers(output) == 1, output


async def test_aggressive_mode_is_recognised_and_answered_once(scanner: Scanner) -> None:
    await scanner.ours.configure(responder(AGGRESSIVE, STRONG))
    output = await scanner.scan("--aggressive", "--dhgroup=14", "--idtype=1", "--id=0xc0000202")
    assert "Aggressive Mode Handshake returned" in output
    assert "KeyExchange(256 bytes)" in output
    assert "Hash(20 bytes)" in output
    assert answers(output) == 1, output


async def test_a_mode_that_is_not_configured_gets_no_handshake(scanner: Scanner) -> None:
    await scanner.ours.configure(responder(MAIN, STRONG))
    output = await scanner.scan("--aggressive", "--dhgroup=14", "--idtype=1", "--id=0xc0000202")
    assert "0 returned handshake" in output, output
    assert any(event.startswith("ikev1.exchange-mode-mismatch") for event in await scanner.ours.events())


async def test_a_gateway_without_ikev1_gives_no_handshake(scanner: Scanner) -> None:
    await scanner.ours.configure(responder(MAIN, STRONG, IkeVersion.V2))
    output = await scanner.scan("--timeout=2000")
    assert "0 returned handshake" in output, output


@pytest.mark.parametrize("secret", [STRONG, WEAK], ids=["strong", "weak"])
async def test_only_a_key_of_the_dictionary_is_broken(scanner: Scanner, secret: bytes) -> None:
    await scanner.ours.configure(responder(AGGRESSIVE, secret))
    output = await scanner.crack()
    if secret == WEAK:
        assert f'key "{WEAK.decode()}" matches SHA1 hash' in output, output
        assert any(event.startswith("ikev1.weak-aggressive-psk") for event in await scanner.ours.events())
    else:
        assert "no match found for SHA1 hash" in output, output
