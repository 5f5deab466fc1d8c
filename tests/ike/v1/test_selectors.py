"""Selectors of Quick Mode: identities there and back, pairs, and which received pair a child takes."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.contract.config import Child, TrafficSelector
from agents.contract.events import KINDS
from agents.ike import selectors as shared
from agents.ike.errors import PeerError
from agents.ike.v1 import selectors
from agents.ike.wire.isakmp.payloads import Identification
from agents.ike.wire.isakmp.registry import IdType, NotifyType
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import TsType
from tests.harness.documents import child


def ts(network: str, protocol: int = 0, port: int | None = None) -> TrafficSelector:
    """Return a configured selector of one port or all."""
    if port is None:
        return TrafficSelector(network=network, protocol=protocol)
    return TrafficSelector(network=network, protocol=protocol, start_port=port, end_port=port)


def span(first: str, last: str, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> SelectorRange:
    """Return a range of addresses."""
    start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
    return SelectorRange(
        ts_type=TsType.IPV4_ADDR_RANGE if start.version == 4 else TsType.IPV6_ADDR_RANGE,
        protocol=protocol,
        start_port=ports[0],
        end_port=ports[1],
        start=start.packed,
        end=end.packed,
    )


def net(network: str, protocol: int = 0, port: int | None = None) -> SelectorRange:
    """Return the range of a configured selector."""
    return shared.to_range(ts(network, protocol, port))


def two(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> Child:
    """Return a child with these selectors."""
    return child(local_ts=local, remote_ts=remote)


class TestIdentities:
    @pytest.mark.parametrize(
        ("selector", "octets"),
        [
            (net("172.16.5.153/32", 1), "01010000" "ac100599"),
            (net("10.1.0.0/16"), "04000000" "0a010000" "ffff0000"),
            (net("0.0.0.0/0"), "04000000" "00000000" "00000000"),
            (net("10.0.0.0/31", 17, 500), "041101f4" "0a000000" "fffffffe"),
            (span("10.0.0.1", "10.0.0.2", 6, (443, 443)), "070601bb" "0a000001" "0a000002"),
            (net("2001:db8::1/128"), "05000000" "20010db8000000000000000000000001"),
            (
                net("2001:db8::/32", 6, 65_535),
                "0606ffff" "20010db8000000000000000000000000" "ffffffff000000000000000000000000",
            ),
            (
                span("2001:db8::1", "2001:db8::2"),
                "08000000" "20010db8000000000000000000000001" "20010db8000000000000000000000002",
            ),
        ],
    )  # fmt: skip
    def test_on_the_wire_and_back(self, selector: SelectorRange, octets: str) -> None:
        identity = selectors.to_identification(selector)
        assert identity.serialize().hex() == octets
        assert selectors.from_identification(Identification.parse(bytes.fromhex(octets))) == selector

    def test_host_bits_of_a_subnet_say_nothing(self) -> None:
        data = bytes((10, 1, 2, 3, 255, 255, 255, 0))
        identity = Identification(id_type=IdType.IPV4_ADDR_SUBNET, data=data)
        assert selectors.from_identification(identity) == net("10.1.2.0/24")

    def test_one_host_in_every_form(self) -> None:
        host = bytes((10, 1, 2, 3))
        forms = (
            (IdType.IPV4_ADDR, host),
            (IdType.IPV4_ADDR_SUBNET, host + b"\xff" * 4),
            (IdType.IPV4_ADDR_RANGE, host * 2),
        )
        for id_type, data in forms:
            assert selectors.from_identification(Identification(id_type=id_type, data=data)) == net("10.1.2.3/32")

    @pytest.mark.parametrize(
        ("id_type", "data", "why"),
        [
            (IdType.FQDN, b"gw.example.org", "FQDN is no traffic selector"),
            (IdType.USER_FQDN, b"me@example.org", "USER_FQDN is no traffic selector"),
            (IdType.DER_ASN1_DN, b"\x30\x00", "DER_ASN1_DN is no traffic selector"),
            (IdType.DER_ASN1_GN, b"\x30\x00", "DER_ASN1_GN is no traffic selector"),
            (IdType.KEY_ID, bytes(4), "KEY_ID is no traffic selector"),
            (99, bytes(4), "type 99 is no traffic selector"),
            (0, b"", "type 0 is no traffic selector"),
            (IdType.IPV4_ADDR, b"", "has 0 octets"),
            (IdType.IPV4_ADDR, bytes(16), "has 16 octets"),
            (IdType.IPV4_ADDR_SUBNET, bytes(4), "has 4 octets"),
            (IdType.IPV4_ADDR_RANGE, bytes(7), "has 7 octets"),
            (IdType.IPV6_ADDR, bytes(4), "has 4 octets"),
            (IdType.IPV6_ADDR_SUBNET, bytes(17), "has 17 octets"),  # a prefix length, as in IKEv2's drafts
            (IdType.IPV6_ADDR_RANGE, bytes(33), "has 33 octets"),
            (IdType.IPV4_ADDR_RANGE, bytes((10, 0, 0, 2, 10, 0, 0, 1)), "ends before it starts"),
            (IdType.IPV4_ADDR_SUBNET, bytes((10, 0, 0, 0, 255, 0, 255, 0)), "has gaps"),
            (IdType.IPV4_ADDR_SUBNET, bytes((10, 0, 0, 0, 0, 0, 0, 255)), "has gaps"),
            (IdType.IPV6_ADDR_SUBNET, bytes(16) + b"\xff" * 15 + b"\x01", "has gaps"),
        ],
    )
    def test_what_is_no_selector_is_refused(self, id_type: int, data: bytes, why: str) -> None:
        with pytest.raises(PeerError, match=why) as caught:
            selectors.from_identification(Identification(id_type=id_type, data=data))
        error = caught.value
        assert (error.code, error.notify) == ("ikev1.selectors-mismatch", NotifyType.INVALID_ID_INFORMATION)
        assert error.code in KINDS
        assert error.received is not None
        assert len(error.received) < 400

    @pytest.mark.parametrize("ports", [(0, 0), (80, 443), (1, 65_535), (0, 65_534), (65_535, 0)])
    def test_ports_that_cannot_be_said(self, ports: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="IKEv1 has no way to say port"):
            selectors.to_identification(span("10.0.0.1", "10.0.0.1", 6, ports))

    @given(
        st.sampled_from([4, 6]),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**16),
        st.integers(0, 255),
        st.integers(0, 65_535),
    )
    def test_there_and_back(self, version: int, start: int, size: int, protocol: int, port: int) -> None:
        octets = 4 if version == 4 else 16
        selector = SelectorRange(
            ts_type=TsType.IPV4_ADDR_RANGE if version == 4 else TsType.IPV6_ADDR_RANGE,
            protocol=protocol,
            start_port=port,
            end_port=port or 65_535,
            start=start.to_bytes(octets, "big"),
            end=min(start + size, 2**32 - 1).to_bytes(octets, "big"),
        )
        identity = selectors.to_identification(selector)
        assert selectors.from_identification(Identification.parse(identity.serialize())) == selector

    @given(st.integers(0, 12), st.binary(max_size=40), st.integers(0, 255), st.integers(0, 65_535))
    def test_any_identity_is_a_selector_or_refused(self, id_type: int, data: bytes, protocol: int, port: int) -> None:
        identity = Identification(id_type=id_type, data=data, protocol=protocol, port=port)
        assert len(selectors.describe_identification(identity)) < 400
        try:
            found = selectors.from_identification(identity)
        except PeerError:
            return
        assert found.start <= found.end
        assert selectors.from_identification(selectors.to_identification(found)) == found

    @pytest.mark.parametrize(
        ("selector", "text"),
        [
            (net("172.16.5.153/32", 1), "IPV4_ADDR 172.16.5.153, protocol 1, port 0"),
            (net("10.1.0.0/16"), "IPV4_ADDR_SUBNET 10.1.0.0/255.255.0.0, protocol 0, port 0"),
            (span("10.0.0.1", "10.0.0.2", 6, (25, 25)), "IPV4_ADDR_RANGE 10.0.0.1-10.0.0.2, protocol 6, port 25"),
        ],
    )
    def test_text(self, selector: SelectorRange, text: str) -> None:
        assert selectors.describe_identification(selectors.to_identification(selector)) == text


class TestPairs:
    def test_each_pair_is_one_sa(self) -> None:
        config = two((ts("10.1.0.0/24"), ts("10.1.1.0/24")), (ts("10.2.0.0/24"), ts("10.3.0.0/24")))
        assert selectors.pairs(config) == tuple(
            itertools.product((net("10.1.0.0/24"), net("10.1.1.0/24")), (net("10.2.0.0/24"), net("10.3.0.0/24")))
        )

    def test_versions_and_protocols_that_cannot_meet_make_no_pair(self) -> None:
        config = two(
            (ts("10.1.0.0/24", 6, 443), ts("fd00::/64")), (ts("10.2.0.0/24"), ts("10.3.0.0/24", 17), ts("fd01::/64"))
        )
        assert selectors.pairs(config) == (
            (net("10.1.0.0/24", 6, 443), net("10.2.0.0/24", 6)),
            (net("fd00::/64"), net("fd01::/64")),
        )

    def test_what_cannot_be_said_is_left_out(self) -> None:
        odd = TrafficSelector(network="10.9.0.0/24", protocol=6, start_port=80, end_port=443)
        config = two((odd, ts("10.1.0.0/24")), (ts("10.2.0.0/24"),))
        assert selectors.pairs(config) == ((net("10.1.0.0/24"), net("10.2.0.0/24")),)
        assert selectors.port_ranges_obstacle(two((ts("10.1.0.0/24", 6, 443),), (ts("10.2.0.0/24"),))) is None
        for each in (config, two((ts("10.2.0.0/24"),), (odd,))):
            obstacle = selectors.port_ranges_obstacle(each)
            assert obstacle is not None
            assert "port 80-443" in obstacle

    def test_pairs_that_come_out_the_same_are_one(self) -> None:
        config = two((ts("10.1.0.0/24", 6), ts("10.1.0.0/24")), (ts("10.2.0.0/24", 6),))
        assert selectors.pairs(config) == ((net("10.1.0.0/24", 6), net("10.2.0.0/24", 6)),)


class TestMatch:
    PAIRS = selectors.pairs(
        two((ts("10.0.0.0/8"), ts("10.1.0.0/16"), ts("172.16.5.72/32", 1)), (ts("10.2.0.0/16"), ts("172.16.5.153/32")))
    )

    @pytest.mark.parametrize(
        ("received", "configured", "exact"),
        [
            ((net("10.1.0.0/16"), net("10.2.0.0/16")), (net("10.1.0.0/16"), net("10.2.0.0/16")), True),
            ((net("10.0.0.0/8"), net("10.2.0.0/16")), (net("10.0.0.0/8"), net("10.2.0.0/16")), True),
            ((net("10.1.0.0/17"), net("10.2.0.0/16")), (net("10.0.0.0/8"), net("10.2.0.0/16")), False),
            ((net("10.5.0.1/32", 6), net("10.2.0.1/32", 6, 80)), (net("10.0.0.0/8"), net("10.2.0.0/16")), False),
            (
                (net("172.16.5.72/32", 1), net("172.16.5.153/32", 1)),
                (net("172.16.5.72/32", 1), net("172.16.5.153/32", 1)),
                True,
            ),
            # The protocol on one side only is the pair's all the same.
            (
                (net("172.16.5.72/32", 1), net("172.16.5.153/32")),
                (net("172.16.5.72/32", 1), net("172.16.5.153/32", 1)),
                True,
            ),
        ],
    )
    def test_exact_goes_before_narrower(
        self, received: selectors.Pair, configured: selectors.Pair, exact: bool
    ) -> None:
        found = selectors.match(self.PAIRS, received)
        assert found is not None
        assert (found.configured, found.exact) == (configured, exact)
        assert shared.covers(received[0], found.received[0])

    @pytest.mark.parametrize(
        "received",
        [
            (net("0.0.0.0/0"), net("10.2.0.0/16")),
            (net("10.1.0.0/16"), net("10.2.0.0/15")),
            (net("172.16.5.72/32"), net("172.16.5.153/32")),
            (net("172.16.5.72/32", 6), net("172.16.5.153/32", 6)),
            (net("10.2.0.0/16"), net("10.1.0.0/16")),
            (net("10.1.0.0/16", 6), net("10.2.0.0/16", 17)),
            (net("10.1.0.0/16"), net("fd00::/64")),
        ],
    )
    def test_wider_and_other_is_refused(self, received: selectors.Pair) -> None:
        assert selectors.match(self.PAIRS, received) is None
        error = selectors.refusal(self.PAIRS, received)
        assert (error.code, error.notify) == ("ikev1.selectors-mismatch", NotifyType.INVALID_ID_INFORMATION)
        assert error.message == (
            "No IPsec policy for the traffic selectors received, in IKE phase 2, message 1 (quick-mode)"
        )
        assert error.received == selectors.describe_pair(received)
        assert error.configured is not None
        assert len(error.configured) <= 400

    def test_odd_ranges_that_would_be_thousands_of_policies_are_refused(self) -> None:
        config = two((ts("fd00::/16"),), (ts("fd01::/16"),))
        odd = (span("fd00::1", "fd00:ffff::fffe"), span("fd01::1", "fd01:ffff::fffe"))
        assert selectors.match(selectors.pairs(config), odd) is None
        few = (net("fd00::/64"), odd[1])
        assert selectors.match(selectors.pairs(config), few) is not None

    @given(st.integers(0, 600), st.integers(0, 300), st.integers(0, 600), st.integers(0, 300))
    def test_nothing_is_taken_that_no_pair_holds(self, start: int, size: int, other: int, length: int) -> None:
        base = int(ipaddress.ip_address("10.0.0.0"))

        def at(offset: int, octets: int) -> SelectorRange:
            first, last = ipaddress.ip_address(base + offset), ipaddress.ip_address(base + offset + octets)
            return span(str(first), str(last))

        configured = ((at(0, 255), at(256, 511)), (at(100, 400), at(0, 100)))
        received = (at(start, size), at(other, length))
        found = selectors.match(configured, received)
        holding = [each for each in configured if all(map(shared.covers, each, received))]
        assert (found is not None) == bool(holding)
        if found is not None:
            assert found.configured in holding
