from __future__ import annotations

import logging

import pytest

from agents.ike.outputs import Path
from agents.iked import trace

PATH = Path(local_address="192.0.2.1", local_port=500, remote_address="192.0.2.2", remote_port=500)
COOKIES = bytes(range(16))


def logged(caplog: pytest.LogCaptureFixture, datagram: bytes, part: str = "iked.v2") -> str:
    caplog.set_level(logging.DEBUG, f"agents.{part}")
    trace.message("<", datagram, PATH)
    assert caplog.records[-1].name == f"agents.{part}"
    return caplog.messages[-1]


def v1(exchange: int, flags: int, message_id: int, first: int = 1) -> bytes:
    return COOKIES + bytes((first, 0x10, exchange, flags)) + message_id.to_bytes(4, "big") + bytes(4) + b"secret"


def test_a_message_is_named_by_its_header_only(caplog: pytest.LogCaptureFixture) -> None:
    datagram = COOKIES + bytes((46, 0x20, 35, 0x28)) + bytes((0, 0, 1, 0)) + bytes(4) + b"secret contents"
    assert logged(caplog, datagram) == "< 192.0.2.2:500 IKE_AUTH response 256, 43 octets"
    assert caplog.records[-1].__dict__["ike_sa"] == "0001020304050607_08090a0b0c0d0e0f"


@pytest.mark.parametrize(
    ("datagram", "line"),
    [
        (v1(2, 0, 0), "main-mode 0x00000000, 34 octets"),
        (v1(2, 1, 0, first=5), "main-mode 0x00000000, encrypted, 34 octets"),
        (v1(4, 0, 0), "aggressive-mode 0x00000000, 34 octets"),
        (v1(32, 1, 0xC0FFEE), "quick-mode 0x00c0ffee, encrypted, 34 octets"),
        (v1(5, 0, 7), "informational-v1 0x00000007, 34 octets"),
        (v1(2, 1, 0, first=132), "main-mode 0x00000000, fragment, 34 octets"),
        (v1(99, 0, 0), "exchange 99 0x00000000, 34 octets"),
    ],
)
def test_ikev1_has_its_own_words(caplog: pytest.LogCaptureFixture, datagram: bytes, line: str) -> None:
    assert logged(caplog, datagram, "iked.v1") == f"< 192.0.2.2:500 {line}"
    assert caplog.records[-1].__dict__["ike_sa"] == "0001020304050607_08090a0b0c0d0e0f"


@pytest.mark.parametrize("datagram", [b"", b"short"])
def test_what_is_no_message_is_counted_in_octets(caplog: pytest.LogCaptureFixture, datagram: bytes) -> None:
    assert logged(caplog, datagram, "iked.router") == f"< 192.0.2.2:500 {len(datagram)} octets"


def test_what_is_of_no_version_is_the_routers(caplog: pytest.LogCaptureFixture) -> None:
    assert "exchange 99 request 0" in logged(caplog, bytes(18) + bytes((99,)) + bytes(9), "iked.router")


def test_an_unknown_exchange_is_told_by_its_number(caplog: pytest.LogCaptureFixture) -> None:
    assert "exchange 99 request 0" in logged(caplog, bytes(17) + bytes((0x20, 99)) + bytes(9))


@pytest.mark.parametrize("version", [0x10, 0x20, 0x30])
def test_nothing_is_said_when_nobody_reads_it(caplog: pytest.LogCaptureFixture, version: int) -> None:
    for part in ("v1", "v2", "router"):
        caplog.set_level(logging.INFO, f"agents.iked.{part}")
    trace.message(">", bytes(17) + bytes((version,)) + bytes(10), PATH)
    assert caplog.messages == []
