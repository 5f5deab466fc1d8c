"""What the packet filter does for selectors that name types of ICMP: those sent are the local one's, those received
the remote one's (RFC 4301 section 4.4.1.3)."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Iterator

import pytest

from agents.contract.config import Tunnel
from agents.contract.status import FilterCounters
from agents.contract.traffic import TrafficSelector
from deploy.lab.netns import Namespace
from tests.agentd.fakes import tunnel
from tests.agentd.filter_site import (
    HERE,
    INNER,
    LAN6,
    PEER,
    REMOTE,
    REMOTE6,
    TUN,
    Site,
    apply,
    built,
    filtered,
    send_raw,
    until_counted,
)
from tests.agentd.inside import run_inside
from tests.agentd.test_filter import planned, rules

NETWORKS = {4: ("10.1.0.0/24", "10.2.0.0/24"), 6: ("fd01::/64", "fd02::/64")}
PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
Ports = tuple[int, int]


def typed(local: Ports, remote: Ports, version: int = 4, protocol: int | None = None) -> Tunnel:
    """A tunnel for ICMP that is between these numbers, each a type and a code."""
    base = tunnel(local=HERE, remote=PEER)
    ends = [
        TrafficSelector(network=network, protocol=protocol or PROTOCOLS[version], start_port=first, end_port=last)
        for network, (first, last) in zip(NETWORKS[version], (local, remote), strict=True)
    ]
    child = dataclasses.replace(base.children[0], local_ts=(ends[0],), remote_ts=(ends[1],))
    return dataclasses.replace(base, children=(child,))


def test_a_range_of_types_and_codes_falls_into_rules() -> None:
    plan = planned(typed((0x0304, 0x0801), (0, 65_535)))
    leaving = rules(plan, "leaving4")
    first, between, last, fragments = leaving
    assert "'field': 'type'}}, 'right': {'range': [3, 3]}" in first
    assert "'field': 'code'}}, 'right': {'range': [4, 255]}" in first
    assert "'right': {'range': [4, 7]}" in between
    assert "'code'" not in between
    assert "'right': {'range': [8, 8]}" in last
    assert "'right': {'range': [0, 1]}" in last
    assert "'frag-off'" in fragments
    (arriving,) = rules(plan, "clear4")
    assert "'l4proto'}}, 'right': 1}" in arriving
    assert "'type'" not in arriving
    assert all("'l4proto'}}, 'right': 1}" in each for each in leaving)


def test_of_the_mobility_header_it_is_the_type_and_over_ipv4_there_is_none() -> None:
    """A rule that nft cannot have would leave the whole table undone."""
    (arriving,) = rules(planned(typed((0, 65_535), (0x0500, 0x06FF), 6, 135)), "clear6")
    assert "{'exthdr': {'name': 'mh', 'field': 'type'}}, 'right': {'range': [5, 6]}" in arriving
    (without,) = rules(planned(typed((0, 65_535), (0x0500, 0x06FF), 4, 135)), "clear4")
    assert "'mh'" not in without
    assert "'l4proto'}}, 'right': 135}" in without


@pytest.fixture
def site() -> Iterator[Site]:
    with built("t") as made:
        made.add_ipv6()
        yield made


@contextlib.contextmanager
def messages(namespace: Namespace, version: int, source: str, to: str) -> Iterator[socket.socket]:
    """A socket inside that gets every ICMP message between two addresses."""

    async def work() -> socket.socket:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_RAW, PROTOCOLS[version])
        opened.bind((to, 0))
        opened.connect((source, 0))
        opened.settimeout(60)
        return opened

    with run_inside(namespace, work) as opened:
        yield opened


def kind_of(message: bytes, version: int) -> tuple[int, int]:
    """The type and code of what such a socket got."""
    kind, code = message[0:2] if version == 6 else message[20:22]
    return kind, code


@pytest.mark.lab
@pytest.mark.needs("nft")
@pytest.mark.parametrize("version", [4, 6])
def test_types_that_a_selector_names_pass_in_neither_direction_and_others_do(site: Site, version: int) -> None:
    """Sent are 200 code 4 to 202 code 1, received 210: kernels make nothing of such types by themselves."""
    protocol = PROTOCOLS[version]
    here, there = (INNER, REMOTE) if version == 4 else (LAN6, REMOTE6)
    apply(site, filtered(1, typed((200 << 8 | 4, 202 << 8 | 1), (210 << 8, 210 << 8 | 255), version)))
    protected = [(200, 4), (200, 255), (201, 0), (201, 99), (202, 0), (202, 1)]
    others = [(200, 3), (202, 2), (210, 0), (199, 4)]
    with messages(site.peer, version, here, there) as remote:
        for kind in (*protected, *others):
            send_raw(site.lan, here, protocol, to=there, data=bytes(kind) + bytes(6))
        assert sorted(kind_of(remote.recv(100), version) for _ in others) == sorted(others)
    until_counted(site, lambda seen: seen == FilterCounters(dropped_leaving=len(protected)))
    with messages(site.lan, version, there, here) as inner:
        for kind in ((210, 0), (210, 255), (200, 4), (211, 0)):
            send_raw(site.peer, there, protocol, to=here, data=bytes(kind) + bytes(6))
        assert sorted(kind_of(inner.recv(100), version) for _ in range(2)) == [(200, 4), (211, 0)]
    until_counted(site, lambda seen: seen == FilterCounters(dropped_leaving=len(protected), dropped_clear=2))
    with pytest.raises(PermissionError):
        send_raw(site.here, here.rpartition("9")[0] + "1", protocol, to=there, data=bytes((201, 0)) + bytes(6))


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_what_came_out_of_the_tunnel_or_goes_into_it_passes_and_later_fragments_beside_it_do_not(site: Site) -> None:
    apply(site, filtered(1, typed((200 << 8, 200 << 8 | 255), (200 << 8, 200 << 8 | 255))))
    with messages(site.peer, 4, INNER, REMOTE) as remote:
        send_raw(site.lan, INNER, socket.IPPROTO_ICMP, to=REMOTE, data=bytes((199, 0)) + bytes(2000))
        # The second fragment: it may be of a type that is protected.
        until_counted(site, lambda seen: seen.dropped_leaving == 1)
        site.here.ip("route", "replace", "10.2.0.0/24", "dev", TUN)
        send_raw(site.lan, INNER, socket.IPPROTO_ICMP, to=REMOTE, data=bytes((200, 0)) + bytes(6))
        assert kind_of(remote.recv(100), 4) == (200, 0)
    until_counted(site, lambda seen: seen == FilterCounters(dropped_leaving=1))


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_the_mobility_header_by_its_type(site: Site) -> None:
    apply(site, filtered(1, typed((0x0500, 0x06FF), (0, 65_535), 6, 135)))
    for kind, dropped in ((4, 0), (7, 0), (5, 1), (6, 2)):
        send_raw(site.lan, LAN6, 135, to=REMOTE6, data=bytes((59, 0, kind, 0)) + bytes(4))
        until_counted(site, FilterCounters(dropped_leaving=dropped).__eq__)
