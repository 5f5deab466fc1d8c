from __future__ import annotations

import logging

import pytest

from agents.ike.outputs import Path
from agents.iked import trace

PATH = Path(local_address="192.0.2.1", local_port=500, remote_address="192.0.2.2", remote_port=500)


def logged(caplog: pytest.LogCaptureFixture, datagram: bytes) -> str:
    caplog.set_level(logging.DEBUG, "agents.iked.trace")
    trace.message("<", datagram, PATH)
    return caplog.messages[-1]


def test_a_message_is_named_by_its_header_only(caplog: pytest.LogCaptureFixture) -> None:
    datagram = bytes(range(16)) + bytes((46, 0x20, 35, 0x28)) + bytes((0, 0, 1, 0)) + bytes(4) + b"secret contents"
    assert logged(caplog, datagram) == "< 192.0.2.2:500 IKE_AUTH response 256, 43 octets"
    assert caplog.records[-1].__dict__["ike_sa"] == "0001020304050607_08090a0b0c0d0e0f"


@pytest.mark.parametrize("datagram", [b"", b"short"])
def test_what_is_no_message_is_counted_in_octets(caplog: pytest.LogCaptureFixture, datagram: bytes) -> None:
    assert logged(caplog, datagram) == f"< 192.0.2.2:500 {len(datagram)} octets"


def test_an_unknown_exchange_is_told_by_its_number(caplog: pytest.LogCaptureFixture) -> None:
    assert "exchange 99 request 0" in logged(caplog, bytes(18) + bytes((99,)) + bytes(9))


def test_nothing_is_said_when_nobody_reads_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agents.iked.trace")
    trace.message(">", bytes(28), PATH)
    assert caplog.messages == []
