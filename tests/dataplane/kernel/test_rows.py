"""What is packed for the kernel is what ``linux/xfrm.h`` says, and reads back as it was."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    DataplaneError,
    Direction,
    Limits,
    PolicySpec,
    SaId,
    SaSpec,
    Selector,
    UdpEncapsulation,
)
from agents.dataplane.kernel import messages, rows

KEY = bytes(range(20))


def spec(**changes: Any) -> SaSpec:
    values: dict[str, Any] = {
        "tunnel_id": "t",
        "direction": Direction.OUT,
        "spi": 0xC0FFEE01,
        "source": "192.0.2.1",
        "destination": "192.0.2.2",
        "reqid": REQID_BASE + 1,
        "encryption": "aes-128-gcm-16",
        "encryption_key": Secret(KEY),
    }
    return SaSpec(**{**values, **changes})


def policy(**selector: Any) -> PolicySpec:
    values: dict[str, Any] = {"source": "10.1.0.0/24", "destination": "10.2.0.0/16"}
    return PolicySpec(
        tunnel_id="t",
        direction=Direction.IN,
        selector=Selector(**{**values, **selector}),
        source="192.0.2.1",
        destination="192.0.2.2",
        reqid=REQID_BASE + 7,
        priority=42,
    )


def decoded(message: Any) -> Any:
    """Send a message through its octets."""
    message["header"]["type"] = messages.NEWSA
    message.reset()
    message.encode()
    again = type(message)(bytes(message.data))
    again.decode()
    return again


@pytest.mark.parametrize(
    ("kind", "octets"),
    [
        (messages.StateMessage, 224),
        (messages.StateIdMessage, 24),
        (messages.PolicyMessage, 168),
        (messages.PolicyIdMessage, 64),
        (messages.AcquireMessage, 280),
        (messages.ExpireMessage, 232),
        (messages.MappingMessage, 64),
    ],
)
def test_sizes_are_those_of_the_kernels_structs(kind: type[messages.XfrmMessage], octets: int) -> None:
    message = kind()
    message.encode()
    assert len(message.data) - 16 == octets


def test_a_state_reads_back() -> None:
    message = decoded(rows.state_message(spec()))
    row = rows.read_state(message)
    assert row is not None
    assert row.id == SaId(spi=0xC0FFEE01, destination="192.0.2.2")
    assert (row.source, row.reqid, row.octets, row.replay_window) == ("192.0.2.1", REQID_BASE + 1, 0, 0)
    assert message["lft_hard_byte"] == message["lft_hard_packet"] == 2**64 - 1


def test_an_ipv6_state_reads_back() -> None:
    row = rows.read_state(decoded(rows.state_message(spec(source="2001:db8::1", destination="2001:db8::2"))))
    assert row is not None
    assert (row.source, row.id.destination) == ("2001:db8::1", "2001:db8::2")


def test_an_aead_key_goes_with_its_name_and_bits() -> None:
    blob = decoded(rows.state_message(spec())).get_attr("XFRMA_ALG_AEAD")
    assert blob[:64].rstrip(b"\0") == b"rfc4106(gcm(aes))"
    assert struct.unpack_from("II", blob, 64) == (160, 128)
    assert blob[72:] == KEY


def test_messages_show_no_keys() -> None:
    message = decoded(rows.state_message(spec()))
    message.get_attr("XFRMA_ALG_AEAD")
    for text in (repr(message), str(message), f"{message}", "%s" % message):  # noqa: UP031 - as logging does
        assert text == "StateMessage()"


def test_cbc_goes_with_a_truncated_checksum() -> None:
    message = decoded(
        rows.state_message(
            spec(
                encryption="aes-128-cbc",
                encryption_key=Secret(bytes(16)),
                integrity="hmac-sha2-256-128",
                integrity_key=Secret(bytes(32)),
            )
        )
    )
    checksum = message.get_attr("XFRMA_ALG_AUTH_TRUNC")
    assert checksum[:64].rstrip(b"\0") == b"hmac(sha256)"
    assert struct.unpack_from("II", checksum, 64) == (256, 128)
    cipher = message.get_attr("XFRMA_ALG_CRYPT")
    assert cipher[:64].rstrip(b"\0") == b"cbc(aes)"
    assert struct.unpack_from("I", cipher, 64) == (128,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encryption": "3des-cbc"}, "no cipher 3des-cbc"),
        ({"encryption_key": Secret(bytes(16))}, "needs 20 octets of key, not 16"),
        ({"integrity": "hmac-sha1-96"}, "takes no integrity"),
        ({"encryption": "aes-128-cbc", "encryption_key": Secret(bytes(16))}, "needs an integrity"),
        ({"direction": Direction.IN, "replay_window": 5000}, "more than the kernel's 4096"),
    ],
)
def test_what_the_kernel_cannot_express_is_refused_without_showing_keys(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataplaneError, match=sentence) as caught:
        rows.state_message(spec(**changes))
    assert caught.value.errno == errno.EINVAL
    assert KEY.hex() not in repr(caught.value)


@pytest.mark.parametrize(("window", "words"), [(33, 2), (64, 2), (1024, 32)])
def test_a_wide_window_is_a_bitmap(window: int, words: int) -> None:
    message = decoded(rows.state_message(spec(direction=Direction.IN, replay_window=window)))
    bitmap = message.get_attr("XFRMA_REPLAY_ESN_VAL")
    assert struct.unpack_from("6I", bitmap) == (words, 0, 0, 0, 0, window)
    assert len(bitmap) == 24 + 4 * words
    assert message["replay_window"] == 0
    row = rows.read_state(message)
    assert row is not None
    assert row.replay_window == window


def test_a_resumed_state_keeps_the_window_it_is_given() -> None:
    resumed = ("XFRMA_REPLAY_ESN_VAL", struct.pack("8I", 2, 0, 9, 0, 0, 64, 0, 0x1FF))
    message = decoded(rows.state_message(spec(direction=Direction.IN), resume=[resumed]))
    assert message.get_attr("XFRMA_REPLAY_ESN_VAL") == resumed[1]
    assert [name for name, _ in message["attrs"]].count("XFRMA_REPLAY_ESN_VAL") == 1


def test_encapsulation_and_limits() -> None:
    ports = UdpEncapsulation(source_port=4500, destination_port=31000)
    message = decoded(rows.state_message(spec(encapsulation=ports, limits=Limits(soft_s=50, hard_bytes=1000))))
    assert message.get_attr("XFRMA_ENCAP") == struct.pack("=H", 2) + struct.pack(">HH", 4500, 31000) + bytes(18)
    assert (message["lft_soft_add"], message["lft_hard_add"]) == (50, 0)
    assert (message["lft_hard_byte"], message["lft_soft_byte"]) == (1000, 2**64 - 1)
    assert message.get_attr("XFRMA_MTIMER_THRESH") is None
    inbound = decoded(rows.state_message(spec(direction=Direction.IN, encapsulation=ports)))
    assert inbound.get_attr("XFRMA_MTIMER_THRESH") == struct.pack("I", 10)


@pytest.mark.parametrize(
    ("direction", "limit", "soft"),
    [(Direction.OUT, 0, 2**32 - 2**28), (Direction.OUT, 900, 900), (Direction.IN, 0, 2**64 - 1)],
)
def test_a_rekey_is_asked_for_before_sequence_numbers_run_out(direction: Direction, limit: int, soft: int) -> None:
    message = decoded(rows.state_message(spec(direction=direction, limits=Limits(soft_packets=limit))))
    assert message["lft_soft_packet"] == soft


def test_current_values_are_cut_out_of_a_state() -> None:
    message = messages.StateMessage.of({"cur_bytes": 11, "cur_packets": 22, "cur_add_time": 33, "cur_use_time": 44})
    message.encode()
    assert struct.unpack("=4Q", rows.current_values(bytes(message.data[16:]))) == (11, 22, 33, 44)


def test_a_policy_reads_back() -> None:
    row = rows.read_policy(decoded(rows.policy_message(policy(), rows.POLICY_FORWARD)))
    assert row == rows.PolicyRow(
        direction=rows.POLICY_FORWARD,
        index=0,
        selector=policy().selector,
        source="192.0.2.1",
        destination="192.0.2.2",
        reqid=REQID_BASE + 7,
        priority=42,
    )


@pytest.mark.parametrize("ports", [(0, 65535), (443, 443), (80, 95), (1024, 2047), (32768, 65535)])
def test_blocks_of_ports_read_back(ports: tuple[int, int]) -> None:
    wanted = policy(protocol=6, source_ports=ports, destination_ports=(53, 53))
    row = rows.read_policy(decoded(rows.policy_message(wanted, rows.POLICY_IN)))
    assert row is not None
    assert row.selector == wanted.selector


@pytest.mark.parametrize(
    ("ports", "blocks"),
    [
        ((0, 65535), [(0, 65535)]),
        ((80, 90), [(80, 87), (88, 89), (90, 90)]),
        ((81, 96), [(81, 81), (82, 83), (84, 87), (88, 95), (96, 96)]),
        ((1, 65535), [(2**n, 2 ** (n + 1) - 1) for n in range(16)]),
    ],
)
def test_ranges_of_ports_become_blocks(ports: tuple[int, int], blocks: list[tuple[int, int]]) -> None:
    wanted = policy(protocol=6, destination_ports=ports)
    parts = rows.pieces(wanted)
    assert [piece.selector.destination_ports for piece in parts] == blocks
    for piece in parts:
        row = rows.read_policy(decoded(rows.policy_message(piece, rows.POLICY_IN)))
        assert row is not None
        assert row.selector == piece.selector


def test_mixed_families_are_refused() -> None:
    with pytest.raises(DataplaneError, match="different IP versions"):
        rows.policy_message(policy(destination="fd00::/8"), rows.POLICY_IN)


@pytest.mark.parametrize(
    ("reqid", "ours"),
    [(0, False), (REQID_BASE, False), (REQID_BASE + 1, True), (REQID_BASE + 65535, True), (REQID_BASE + 65536, False)],
)
def test_our_range_of_reqids(reqid: int, ours: bool) -> None:
    assert rows.is_ours(reqid) is ours
