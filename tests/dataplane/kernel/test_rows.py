"""What is packed for the kernel is what ``linux/xfrm.h`` says, and reads back as it was."""

from __future__ import annotations

import dataclasses
import errno
import socket
import struct
from typing import Any

import pytest

from agents.contract import algorithms
from agents.contract.carriage import DfBit
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    AuthenticationHeader,
    DataplaneError,
    Direction,
    Limits,
    PolicySpec,
    SaId,
    SaProtocol,
    SaSpec,
    Selector,
    UdpEncapsulation,
)
from agents.dataplane.kernel import bundles, messages, rows
from agents.dataplane.outer import OUTER_MARK, WHOLE_MARK

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


def own_message(spec: SaSpec, resume: list[tuple[str, bytes]] | None = None) -> messages.StateMessage:
    """Return the NEWSA body of an SA's own state."""
    name = rows.StateId.of(spec.id)
    return next(state.message for state in bundles.states(spec, {name: resume or []}) if state.id == name)


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
    message = decoded(own_message(spec()))
    row = rows.read_state(message)
    assert row is not None
    assert row.id.sa == SaId(spi=0xC0FFEE01, destination="192.0.2.2")
    assert (row.source, row.reqid, row.octets, row.replay_window) == ("192.0.2.1", REQID_BASE + 1, 0, 0)
    assert message["lft_hard_byte"] == message["lft_hard_packet"] == 2**64 - 1


def test_an_ipv6_state_reads_back() -> None:
    row = rows.read_state(decoded(own_message(spec(source="2001:db8::1", destination="2001:db8::2"))))
    assert row is not None
    assert (row.source, row.id.destination) == ("2001:db8::1", "2001:db8::2")


def test_an_aead_key_goes_with_its_name_and_bits() -> None:
    blob = decoded(own_message(spec())).get_attr("XFRMA_ALG_AEAD")
    assert blob[:64].rstrip(b"\0") == b"rfc4106(gcm(aes))"
    assert struct.unpack_from("II", blob, 64) == (160, 128)
    assert blob[72:] == KEY


def test_messages_show_no_keys() -> None:
    message = decoded(own_message(spec()))
    message.get_attr("XFRMA_ALG_AEAD")
    for text in (repr(message), str(message), f"{message}", "%s" % message):  # noqa: UP031 - as logging does
        assert text == "StateMessage()"


def test_cbc_goes_with_a_truncated_checksum() -> None:
    message = decoded(
        own_message(
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
        ({"encryption": "rot13"}, "no cipher rot13"),
        ({"encryption_key": Secret(bytes(16))}, "needs 20 octets of key, not 16"),
        ({"integrity": "hmac-sha1-96"}, "takes no integrity"),
        ({"encryption": "aes-128-cbc", "encryption_key": Secret(bytes(16))}, "needs an integrity"),
        ({"direction": Direction.IN, "replay_window": 5000}, "more than the kernel's 4096"),
        ({"encryption": None, "encryption_key": None}, "needs encryption or AH"),
        (
            {
                "ah": AuthenticationHeader(spi=1, integrity="hmac-sha1-96", key=Secret(bytes(20))),
                "encapsulation": UdpEncapsulation(source_port=4500, destination_port=4500),
            },
            "cannot go in UDP",
        ),
    ],
)
def test_what_the_kernel_cannot_express_is_refused_without_showing_keys(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataplaneError, match=sentence) as caught:
        own_message(spec(**changes))
    assert caught.value.errno == errno.EINVAL
    assert KEY.hex() not in repr(caught.value)


@pytest.mark.parametrize(("window", "words"), [(33, 2), (64, 2), (1024, 32)])
def test_a_wide_window_is_a_bitmap(window: int, words: int) -> None:
    message = decoded(own_message(spec(direction=Direction.IN, replay_window=window)))
    bitmap = message.get_attr("XFRMA_REPLAY_ESN_VAL")
    assert struct.unpack_from("6I", bitmap) == (words, 0, 0, 0, 0, window)
    assert len(bitmap) == 24 + 4 * words
    assert message["replay_window"] == 0
    row = rows.read_state(message)
    assert row is not None
    assert row.replay_window == window


def test_a_resumed_state_keeps_the_window_it_is_given() -> None:
    resumed = ("XFRMA_REPLAY_ESN_VAL", struct.pack("8I", 2, 0, 9, 0, 0, 64, 0, 0x1FF))
    message = decoded(own_message(spec(direction=Direction.IN), resume=[resumed]))
    assert message.get_attr("XFRMA_REPLAY_ESN_VAL") == resumed[1]
    assert [name for name, _ in message["attrs"]].count("XFRMA_REPLAY_ESN_VAL") == 1


def header(spi: int, integrity: str = "hmac-sha2-256-128") -> AuthenticationHeader:
    key = Secret(bytes(algorithms.INTEGRITY[integrity].key_octets))
    return AuthenticationHeader(spi=spi, integrity=integrity, key=key)


def test_a_bundle_is_one_state_a_protocol_and_only_the_innermost_is_a_tunnel() -> None:
    whole = spec(ah=header(0xA1), compression_cpi=0x2345, limits=Limits(hard_s=60))
    states = [decoded(state.message) for state in bundles.states(whole)]
    found = [(each["proto"], each["spi"], each["mode"], each["flags"], each["lft_hard_add"]) for each in states]
    assert found == [(108, 0x2345, 1, 32, 0), (50, 0xC0FFEE01, 0, 0, 60), (51, 0xA1, 0, 64, 0)]
    assert states[0].get_attr("XFRMA_ALG_COMP") == b"deflate".ljust(64, b"\0") + struct.pack("I", 0)
    assert struct.unpack_from("II", states[2].get_attr("XFRMA_ALG_AUTH_TRUNC"), 64) == (256, 128)
    assert [row.id for row in map(rows.read_state, states) if row is not None] == list(bundles.state_ids(whole))


def test_ah_alone_goes_under_the_sas_own_spi() -> None:
    alone = spec(encryption=None, encryption_key=None, ah=header(0xC0FFEE01), mode=Mode.TRANSPORT)
    (state,) = bundles.states(alone)
    assert state.id.sa == alone.id == SaId(spi=0xC0FFEE01, destination="192.0.2.2", protocol=SaProtocol.AH)
    assert (state.message["proto"], state.message["mode"], state.message["flags"]) == (51, 0, 64)


@pytest.mark.parametrize(("source", "flags"), [("192.0.2.1", 32 + 64), ("2001:db8::1", 32)])
def test_ah_is_padded_as_its_outer_version_asks(source: str, flags: int) -> None:
    alone = spec(encryption=None, encryption_key=None, ah=header(0xC0FFEE01), source=source, destination=source)
    assert own_message(alone)["flags"] == flags


@pytest.mark.parametrize(("direction", "window"), [(Direction.IN, 64), (Direction.OUT, 1)])
def test_extended_numbers_have_a_window_either_way(direction: Direction, window: int) -> None:
    message = decoded(own_message(spec(direction=direction, extended_sequence_numbers=True)))
    assert message["flags"] & 128
    assert struct.unpack_from("6I", message.get_attr("XFRMA_REPLAY_ESN_VAL"))[5] == window
    assert message["lft_soft_packet"] == 2**64 - 1, "64 bits are enough"


def test_64_bit_numbers_are_two_words() -> None:
    packed = bundles.replay_state(64, sent=0x1_0000_0002, received=0x3_FFFF_FFFF)
    assert struct.unpack("8I", packed) == (2, 2, 0xFFFF_FFFF, 1, 3, 64, 0, 0)


@pytest.mark.parametrize(
    ("slug", "name", "key_octets", "icv_bits"),
    [
        ("aes-192-gcm-8", "rfc4106(gcm(aes))", 28, 64),
        ("aes-256-ccm-12", "rfc4309(ccm(aes))", 35, 96),
        ("aes-128-gmac", "rfc4543(gcm(aes))", 20, 128),
    ],
)
def test_aeads_by_their_kernel_names(slug: str, name: str, key_octets: int, icv_bits: int) -> None:
    message = decoded(own_message(spec(encryption=slug, encryption_key=Secret(bytes(key_octets)))))
    blob = message.get_attr("XFRMA_ALG_AEAD")
    assert blob[:64].rstrip(b"\0") == name.encode()
    assert struct.unpack_from("II", blob, 64) == (8 * key_octets, icv_bits)


def test_every_algorithm_of_the_contract_has_a_kernel_name() -> None:
    for slug, cipher in algorithms.ENCRYPTION.items():
        key = Secret(bytes(cipher.keymat_octets))
        more = {} if cipher.aead else {"integrity": "aes-xcbc-96", "integrity_key": Secret(bytes(16))}
        assert bundles.states(spec(encryption=slug, encryption_key=key, **more)), slug
    for slug in algorithms.INTEGRITY:
        assert bundles.states(spec(encryption=None, encryption_key=None, ah=header(0xC0FFEE01, slug))), slug


def test_encapsulation_and_limits() -> None:
    ports = UdpEncapsulation(source_port=4500, destination_port=31000)
    message = decoded(own_message(spec(encapsulation=ports, limits=Limits(soft_s=50, hard_bytes=1000))))
    assert message.get_attr("XFRMA_ENCAP") == struct.pack("=H", 2) + struct.pack(">HH", 4500, 31000) + bytes(18)
    assert (message["lft_soft_add"], message["lft_hard_add"]) == (50, 0)
    assert (message["lft_hard_byte"], message["lft_soft_byte"]) == (1000, 2**64 - 1)
    assert message.get_attr("XFRMA_MTIMER_THRESH") is None
    inbound = decoded(own_message(spec(direction=Direction.IN, encapsulation=ports)))
    assert inbound.get_attr("XFRMA_MTIMER_THRESH") == struct.pack("I", 10)


@pytest.mark.parametrize(
    ("direction", "limit", "soft"),
    [(Direction.OUT, 0, 2**32 - 2**28), (Direction.OUT, 900, 900), (Direction.IN, 0, 2**64 - 1)],
)
def test_a_rekey_is_asked_for_before_sequence_numbers_run_out(direction: Direction, limit: int, soft: int) -> None:
    message = decoded(own_message(spec(direction=direction, limits=Limits(soft_packets=limit))))
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
        priority=42,
        templates=(
            rows.Template(
                protocol=50,
                mode=1,
                reqid=REQID_BASE + 7,
                family=socket.AF_INET,
                source="192.0.2.1",
                destination="192.0.2.2",
            ),
        ),
    )


@pytest.mark.parametrize(("direction", "optional"), [(Direction.IN, True), (Direction.OUT, False)], ids=["in", "out"])
def test_templates_of_a_bundle_are_innermost_first(direction: Direction, optional: bool) -> None:
    protocols = (SaProtocol.ESP, SaProtocol.AH)
    wanted = dataclasses.replace(policy(), direction=direction, protocols=protocols, compressed=True)
    row = rows.read_policy(decoded(rows.policy_message(wanted, rows.POLICY_IN)))
    assert row is not None
    assert row.templates == rows.templates(wanted)
    assert [(each.protocol, each.mode, each.optional, each.source) for each in row.templates] == [
        (108, 1, optional, "192.0.2.1"), (50, 0, False, ""), (51, 0, False, ""),
    ]  # fmt: skip
    unknown = rows.unknown_policy(direction, row)
    assert unknown == dataclasses.replace(wanted, tunnel_id="")


def test_templates_of_transport_mode_have_no_addresses() -> None:
    wanted = dataclasses.replace(
        policy(source="192.0.2.1/32", destination="192.0.2.2/32"), mode=Mode.TRANSPORT, protocols=(SaProtocol.AH,)
    )
    message = decoded(rows.policy_message(wanted, rows.POLICY_IN))
    octets = message.get_attr("XFRMA_TMPL")
    assert octets[:16] == bytes(16), "no destination"
    assert octets[28:44] == bytes(16), "no source"
    row = rows.read_policy(message)
    assert row is not None
    assert rows.unknown_policy(Direction.IN, row) == dataclasses.replace(wanted, tunnel_id="")


@pytest.mark.parametrize("ports", [(0, 65535), (443, 443), (80, 95), (1024, 2047), (32768, 65535)])
def test_blocks_of_ports_read_back(ports: tuple[int, int]) -> None:
    wanted = policy(protocol=6, source_ports=ports, destination_ports=(53, 53))
    row = rows.read_policy(decoded(rows.policy_message(wanted, rows.POLICY_IN)))
    assert row is not None
    assert row.selector == wanted.selector


@pytest.mark.parametrize(
    ("ports", "blocks"),
    [
        ((0, 65535), [((0, 65535), (0, 65535))]),
        ((0x0800, 0x08FF), [((8, 8), (0, 255))]),
        ((0x0304, 0x0304), [((3, 3), (4, 4))]),
        ((0x0303, 0x05FF), [((3, 3), (3, 3)), ((3, 3), (4, 7)), *(((3, 3), (n, 2 * n - 1)) for n in (8, 16, 32, 64)),
                            ((3, 3), (128, 255)), ((4, 5), (0, 255))]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [1, 58])
def test_the_kernel_has_icmp_s_type_for_the_source_port_and_its_code_for_the_destination_s(
    protocol: int, ports: tuple[int, int], blocks: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    parts = [each.selector for each in rows.pieces(policy(protocol=protocol, source_ports=ports))]
    assert [(each.source_ports, each.destination_ports) for each in parts] == blocks


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


def test_what_is_outside_has_the_mark_that_rules_ask_for() -> None:
    def mark(**changes: Any) -> bytes | None:
        found: bytes | None = decoded(own_message(spec(**changes))).get_attr("XFRMA_SET_MARK")
        return found

    assert mark() == struct.pack("I", OUTER_MARK)
    assert mark(mode=Mode.TRANSPORT) is None  # that is routed before it is encrypted
    assert mark(direction=Direction.IN) is None


def _flags(message: Any) -> tuple[int, int]:
    extra = message.get_attr("XFRMA_SA_EXTRA_FLAGS")
    return message["flags"], 0 if extra is None else struct.unpack("I", extra)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0x20, 0)),
        ({"df_bit": DfBit.CLEAR}, (0x24, 0)),
        ({"copy_dscp": False}, (0x20, 1)),
        ({"df_bit": DfBit.CLEAR, "copy_dscp": False}, (0x24, 1)),
        ({"df_bit": DfBit.CLEAR, "copy_dscp": False, "direction": Direction.IN}, (0x20, 0)),
        ({"df_bit": DfBit.CLEAR, "copy_dscp": False, "mode": Mode.TRANSPORT}, (0, 0)),
        ({"df_bit": DfBit.CLEAR, "source": "2001:db8::1", "destination": "2001:db8::2"}, (0x20, 0)),
    ],
)
def test_the_outer_header_is_said_by_the_outbound_state_that_makes_it(
    changes: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert _flags(decoded(own_message(spec(**changes)))) == expected


def test_in_a_bundle_only_the_innermost_state_makes_a_header() -> None:
    whole = spec(
        compression_cpi=0x1234, ah=header(0xC0FFEE02, "hmac-sha2-256-128"), df_bit=DfBit.CLEAR, copy_dscp=False
    )
    flags = [_flags(decoded(state.message)) for state in bundles.states(whole)]
    assert flags == [(0x24, 1), (0, 0), (0x40, 0)]


def test_a_bit_that_is_always_set_is_refused_where_there_is_one() -> None:
    with pytest.raises(DataplaneError, match="cannot always set it where a tunnel shares: choose propagate or clear"):
        bundles.states(spec(df_bit=DfBit.SET))
    for steering in (rows.Steering(if_id=0x56430001), rows.Steering(mark=0x56430001)):
        (state,) = bundles.states(spec(df_bit=DfBit.SET), steering=steering)
        marked = decoded(state.message).get_attr("XFRMA_SET_MARK")
        assert marked == struct.pack("I", OUTER_MARK | WHOLE_MARK), "a rule of the agent's sets the bit by that"
    six = {"source": "2001:db8::1", "destination": "2001:db8::2"}
    for changes in (six, {"direction": Direction.IN}, {"mode": Mode.TRANSPORT}):
        assert bundles.states(spec(df_bit=DfBit.SET, **changes))


@pytest.mark.parametrize(
    ("steering", "attributes"),
    [
        (rows.SHARED, {}),
        (rows.Steering(if_id=0x56430001), {"XFRMA_IF_ID": "01004356"}),
        (rows.Steering(mark=0x56430002), {"XFRMA_MARK": "02004356ffffffff"}),
    ],
)
def test_an_interface_ties_states_and_policies_to_itself(steering: rows.Steering, attributes: dict[str, str]) -> None:
    (state,) = bundles.states(spec(), steering=steering)
    for message in (
        state.message,
        rows.policy_message(policy(), rows.POLICY_IN, steering),
        rows.policy_id_message(direction=rows.POLICY_IN, index=8, steering=steering),
    ):
        said = {name: value.hex() for name, value in message["attrs"] if name in ("XFRMA_IF_ID", "XFRMA_MARK")}
        assert said == attributes
    row = rows.read_policy(decoded(rows.policy_message(policy(), rows.POLICY_IN, steering)))
    assert row is not None
    assert row.steering == steering
    # The kernel finds a state by its mark; an if_id is not asked for.
    said = dict(rows.state_id_message(state.id)["attrs"])
    assert set(said) == set(attributes) - {"XFRMA_IF_ID"}


def test_a_vti_takes_no_bundles() -> None:
    bundle = spec(ah=header(0xC0FFEE02, "hmac-sha2-256-128"))
    assert len(bundles.states(bundle, steering=rows.Steering(if_id=7))) == 2
    with pytest.raises(DataplaneError, match="a VTI carries ESP or AH alone"):
        bundles.states(bundle, steering=rows.Steering(mark=7))


def test_a_bundle_over_another_version_is_refused_in_a_sentence() -> None:
    inside6 = dataclasses.replace(policy(), selector=Selector(source="fd01::/64", destination="fd02::/64"))
    assert rows.policy_message(inside6, rows.POLICY_OUT)
    for more in ({"protocols": (SaProtocol.ESP, SaProtocol.AH)}, {"compressed": True}):
        with pytest.raises(DataplaneError, match="only over IPv6: leave them out") as caught:
            rows.policy_message(dataclasses.replace(inside6, **more), rows.POLICY_OUT)
        assert caught.value.errno == errno.EAFNOSUPPORT
