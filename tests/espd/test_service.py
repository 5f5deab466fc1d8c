"""``espd.sock`` and UDP 4500 beyond what the conformance suite asks."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from agents.contract.codec import to_plain
from agents.dataplane.base import Direction, Lost, Mapped, Rejected, TunnelLink, UdpEncapsulation
from agents.dataplane.plain import IkeDatagram, PathLimit
from agents.runtime.rpc import Client, RpcError
from tests.espd.pair import (
    INNER_4,
    LINK,
    OUTER_4,
    OUTER_6,
    TUNNEL,
    End,
    counters,
    espd_pair,
    key,
    ping,
    sa_specs,
    udp_at,
)

pytestmark = pytest.mark.lab


async def next_notice(end: End, kind: type[Any]) -> Any:
    async with asyncio.timeout(60):
        async for notice in end.driver.notices():
            if isinstance(notice, kind):
                return notice
    raise AssertionError("the driver has nothing more to say")


async def rpc(end: End, method: str, params: dict[str, Any] | None = None) -> Any:
    async with await Client.connect(end.run / "espd.sock") as client:
        return await client.call(method, params or {})


@pytest.mark.parametrize("outer", [OUTER_4, OUTER_6], ids=["IPv4", "IPv6"])
async def test_ike_on_port_4500_goes_to_the_client_and_back(outer: tuple[str, str]) -> None:
    async with espd_pair() as (left, right):
        heard: asyncio.Queue[IkeDatagram] = asyncio.Queue()
        left.driver.on_ike = heard.put_nowait
        with udp_at(right, outer[1], 40123) as udp:
            loop = asyncio.get_running_loop()
            udp.sendto(b"\xff", (outer[0], 4500))
            udp.sendto(b"\0\0\0\0" + b"IKE message", (outer[0], 4500))
            datagram = await asyncio.wait_for(heard.get(), 60)
            assert datagram == IkeDatagram(
                local_address=outer[0], remote_address=outer[1], remote_port=40123, datagram=b"IKE message"
            )
            left.driver.send_ike(replace(datagram, datagram=b"answer"))
            assert await asyncio.wait_for(loop.sock_recv(udp, 100), 60) == b"\0\0\0\0answer"
        assert heard.empty()
        assert await counters(left) == {}, "a keepalive is not an error"


async def test_what_is_neither_esp_nor_ike_is_counted_and_told() -> None:
    async with espd_pair() as (left, right):
        with udp_at(right, OUTER_4[1], 40123) as udp:
            for datagram in (b"", b"x", b"abc", b"\xde\xad\xbe\xef", b"\xde\xad\xbe\xef\0\0\0\1" + bytes(100)):
                udp.sendto(datagram, (OUTER_4[0], 4500))
        told: Counter[str] = Counter()
        while told.total() < 4:  # a second may be over between two of them
            notice = await next_notice(left, Rejected)
            assert notice.id is None
            told[notice.code] += notice.count
        assert told == {"esp.malformed": 3, "esp.no-sa": 1}
        assert await counters(left) == told


async def test_a_nat_that_moves_is_noticed_and_followed() -> None:
    async with espd_pair() as ends:
        left, right = ends
        specs = sa_specs()
        await key(ends, specs)
        assert await ping(left, INNER_4[1], INNER_4[0]) == 3
        # The left end sends from another port from now on, as behind a NAT that has forgotten its mapping.
        there = UdpEncapsulation(source_port=40001, destination_port=4500)
        back = UdpEncapsulation(source_port=4500, destination_port=40001)
        await left.driver.update_mapping(specs[0].id, OUTER_4[0], OUTER_4[1], there)
        await left.driver.update_mapping(specs[1].id, OUTER_4[1], OUTER_4[0], back)
        await ping(left, INNER_4[1], INNER_4[0], 1)
        moved = await next_notice(right, Mapped)
        assert moved == Mapped(id=specs[0].id, address=OUTER_4[0], port=40001)
        await right.driver.update_mapping(specs[0].id, OUTER_4[0], OUTER_4[1], there)
        await right.driver.update_mapping(specs[1].id, OUTER_4[1], OUTER_4[0], back)
        assert await ping(left, INNER_4[1], INNER_4[0]) == 3
        assert await ping(right, INNER_4[0], INNER_4[1]) == 3


async def test_tunnels_outlive_their_client_until_it_opens_anew() -> None:
    async with espd_pair() as ends:
        left, right = ends
        await key(ends, sa_specs())
        await left.driver._disconnect()
        assert await ping(right, INNER_4[0], INNER_4[1]) == 3
        assert len((await rpc(left, "list_sas"))["sas"]) == 2
        await left.driver.open()
        assert await left.driver.list_sas() == ()
        assert (await rpc(left, "health"))["links"] == [to_plain(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400))]


async def test_a_killed_process_is_told_as_lost_and_leaves_no_link() -> None:
    async with espd_pair() as ends:
        left, _right = ends
        await key(ends, sa_specs())
        left.process.send_signal(signal.SIGKILL)
        assert isinstance(await next_notice(left, Lost), Lost)
        left.process.wait(10)
        assert LINK not in left.namespace.ip("link", "show")


async def test_links_change_and_go() -> None:
    async with espd_pair() as (left, _right):
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1300))
        shown = left.namespace.ip("-d", "link", "show", LINK)
        assert "mtu 1300" in shown
        assert "UP" in shown
        assert left.namespace.ip("-6", "address", "show", "dev", LINK, "scope", "link") == ""
        await left.driver.close_link(TUNNEL)
        assert LINK not in left.namespace.ip("link", "show")
        await left.driver.close_link(TUNNEL)


async def test_features_leave_nothing_behind() -> None:
    async with espd_pair() as (left, _right):
        before = left.namespace.ip("-o", "link", "show")
        features = await left.driver.features()
        assert (features.driver, features.available, features.plain_esp, features.owns_port_4500) == (
            "userspace", True, True, True,
        )  # fmt: skip
        assert left.namespace.ip("-o", "link", "show") == before


async def test_an_address_in_use_is_refused_with_its_errno() -> None:
    async with espd_pair() as (left, right):
        with udp_at(right, OUTER_4[1], 4501), pytest.raises(RpcError) as caught:
            await rpc(right, "bind", {"addresses": [OUTER_4[1], "192.0.2.300"]})
        assert caught.value.code == "dataplane"
        with udp_at(left, "127.0.0.1", 4500), pytest.raises(RpcError) as caught:
            await rpc(left, "bind", {"addresses": ["127.0.0.1"]})
        assert caught.value.data["operation"] == "bind"
        assert caught.value.data["errno"] == 98


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("add_sa", {}),
    ("add_sa", {"spec": {"spi": 1}}),
    ("add_policy", {"spec": []}),
    ("open_link", {"link": {"tunnel_id": 1}}),
    ("close_link", {}),
    ("remove_sa", {"sa": None}),
    ("update_mapping", {"sa": {"spi": 1, "destination": "x"}, "encapsulation": 5}),
    ("bind", {"addresses": "192.0.2.1"}),
    ("send_ike", {"datagram": 7}),
]


async def test_wrong_parameters_are_refused(one: End) -> None:
    for method, params in WRONG:
        with pytest.raises(RpcError) as caught:
            await rpc(one, method, params)
        assert caught.value.code == "invalid", method


async def test_no_key_reaches_log_or_answer(one: End) -> None:
    spec = replace(sa_specs()[0], direction=Direction.IN)
    await one.driver.add_sa(spec)
    with pytest.raises(RpcError) as caught:
        await rpc(one, "add_sa", {"spec": {"encryption_key": "c2VjcmV0LWtleS1ieXRlcw=="}})
    assert spec.encryption_key is not None
    octets = spec.encryption_key.reveal()
    answers = f"{await rpc(one, 'list_sas')} {await rpc(one, 'health')} {caught.value} {caught.value.data} {one.log}"
    for form in (octets.hex(), base64.b64encode(octets).decode(), "c2VjcmV0LWtleS1ieXRlcw"):
        assert form not in answers


async def test_a_keepalive_is_one_octet_from_port_4500() -> None:
    async with espd_pair() as (left, right):
        with udp_at(right, OUTER_4[1], 40123) as udp:
            left.driver.keep_alive(OUTER_4[0], OUTER_4[1], 40123)
            received, sender = await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(udp, 100), 10)
            assert (received, sender) == (b"\xff", (OUTER_4[0], 4500))
        where = {"local_address": "192.0.2.77", "remote_address": OUTER_4[1], "remote_port": 4500}
        with pytest.raises(RpcError, match="not bound"):
            await rpc(left, "keep_alive", where)


async def test_an_ike_message_too_big_for_its_path_is_told_and_goes_in_fragments() -> None:
    async with espd_pair(mtu=900) as (left, right):
        limits: asyncio.Queue[PathLimit] = asyncio.Queue()
        left.driver.on_too_big = limits.put_nowait
        with udp_at(right, OUTER_4[1], 40123) as udp:
            message = IkeDatagram(
                local_address=OUTER_4[0], remote_address=OUTER_4[1], remote_port=40123, datagram=b"x" * 1_200
            )
            left.driver.send_ike(message)
            received = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(udp, 2_000), 10)
            assert received == bytes(4) + b"x" * 1_200
            assert await asyncio.wait_for(limits.get(), 60) == PathLimit(
                local_address=OUTER_4[0], remote_address=OUTER_4[1], remote_port=40123, packet_octets=900
            )
            left.driver.send_ike(replace(message, datagram=b"short enough"))
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(udp, 2_000), 10)
        assert limits.empty()
