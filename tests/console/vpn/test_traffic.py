"""What two selector pairs have in common, checked against packets."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from vpnconsole.vpn.traffic import Traffic, ambiguous, networks_overlap, overlap

# Networks of 8 addresses and ports 0 to 3: small enough to try every packet.
PREFIXES = [
    ipaddress.ip_network((0x0A000000 + start, length))
    for length in range(29, 33)
    for start in range(0, 8, 2 ** (32 - length))
]
networks = st.sampled_from(PREFIXES)
ranges = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda pair: (min(pair), max(pair)))
protocols = st.sampled_from([0, 6, 17])
traffics = st.builds(
    Traffic, local=networks, remote=networks, protocol=protocols, local_ports=ranges, remote_ports=ranges
)


def _carries(traffic: Traffic, packet: tuple[int, int, int, int, int]) -> bool:
    local, remote, protocol, local_port, remote_port = packet
    return (
        ipaddress.ip_address(local) in traffic.local
        and ipaddress.ip_address(remote) in traffic.remote
        and traffic.protocol in (0, protocol)
        and traffic.local_ports[0] <= local_port <= traffic.local_ports[1]
        and traffic.remote_ports[0] <= remote_port <= traffic.remote_ports[1]
    )


@given(traffics, traffics)
def test_two_overlap_exactly_when_some_packet_is_in_both(one: Traffic, other: Traffic) -> None:
    packets = (
        (local, remote, protocol, local_port, remote_port)
        for local in map(int, one.local)
        for remote in map(int, one.remote)
        for protocol in (6, 17)
        for local_port in range(4)
        for remote_port in range(4)
    )
    shared = any(_carries(one, packet) and _carries(other, packet) for packet in packets)
    assert overlap(one, other) == shared == overlap(other, one)


@given(traffics, traffics)
def test_the_longer_prefix_resolves_what_overlaps(one: Traffic, other: Traffic) -> None:
    assert ambiguous(one, other) == (overlap(one, other) and one.remote == other.remote)


def test_versions_never_overlap() -> None:
    assert not networks_overlap(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
