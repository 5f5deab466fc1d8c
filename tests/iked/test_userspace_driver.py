from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.contract.codec import to_plain
from agents.contract.status import Counters, NamedCount, QueueStatus
from agents.dataplane.base import (
    DataplaneError,
    Direction,
    Expired,
    Features,
    Lost,
    SaId,
    SaState,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.plain import IkeDatagram, features_to_plain, notice_to_plain
from agents.iked.userspace_driver import UserspaceDriver
from agents.runtime.rpc import Connection, RpcError, Server

from .cast import policy, sa

STATE = SaState(
    id=SaId(spi=7, destination="192.0.2.1"), tunnel_id="t", direction=Direction.IN, reqid=1,
    counters=Counters(bytes_in=5, packets_in=1), last_used=12.5,
)  # fmt: skip
DATAGRAM = IkeDatagram(local_address="192.0.2.1", remote_address="192.0.2.2", remote_port=4500, datagram=b"\0ike")


class Espd:
    """Answers as ``espd`` would and writes down what it was asked."""

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.sent = asyncio.Event()
        features = Features(driver="userspace", available=True, reason="TUN works", owns_port_4500=True)
        answers: dict[str, Any] = {
            "features": {"features": features_to_plain(features)},
            "list_sas": {"sas": [to_plain(STATE)]},
            "list_policies": {"policies": [to_plain(policy(Direction.OUT))]},
            "queues": {"queues": {"t": [{"queue": 0, "packets": 3}, {"queue": 1}]}},
            "counts": {"counts": [{"name": "esp.no-sa", "count": 4}]},
        }
        methods = ("open", "close", "open_link", "close_link", "add_sa", "remove_sa", "add_policy", "remove_policy",
                   "update_mapping", "bind", "send_ike", "features", "list_sas", "list_policies", "queues",
                   "counts")  # fmt: skip
        self.server = Server(path, {method: self._handler(method, answers.get(method, {})) for method in methods})

    def _handler(self, method: str, answer: Any) -> Any:
        async def handle(params: dict[str, Any], _connection: Connection) -> Any:
            self.asked.append((method, params))
            if method == "remove_sa":
                data = {"operation": "remove_sa", "target": "esp 1", "errno": 22, "reason": "refused"}
                raise RpcError("dataplane", "refused", data)
            if method == "send_ike":
                self.sent.set()
            return answer

        return handle


@pytest.fixture
async def espd(tmp_path: Path) -> AsyncIterator[Espd]:
    espd = Espd(tmp_path / "espd.sock")
    async with espd.server:
        yield espd


async def test_every_method_asks_with_its_own_parameters(espd: Espd, tmp_path: Path) -> None:
    driver = UserspaceDriver(tmp_path / "espd.sock")
    await driver.open()
    link = TunnelLink(tunnel_id="t", name="vpn0", mtu=1400)
    ports = UdpEncapsulation(source_port=4500, destination_port=4500)
    await driver.open_link(link)
    await driver.add_sa(sa(Direction.IN, 7))
    await driver.add_policy(policy(Direction.IN))
    await driver.update_mapping(SaId(spi=7, destination="a"), "b", "c", ports)
    await driver.remove_policy(policy(Direction.IN))
    await driver.close_link("t")
    await driver.bind({"192.0.2.2", "192.0.2.1"})
    assert espd.asked == [
        ("open", {}),
        ("open_link", {"link": to_plain(link)}),
        ("add_sa", {"spec": to_plain(sa(Direction.IN, 7))}),
        ("add_policy", {"spec": to_plain(policy(Direction.IN))}),
        ("update_mapping", {"sa": {"spi": 7, "destination": "a", "protocol": "esp"}, "source": "b", "destination": "c",
                            "encapsulation": {"source_port": 4500, "destination_port": 4500}}),
        ("remove_policy", {"spec": to_plain(policy(Direction.IN))}),
        ("close_link", {"tunnel_id": "t"}),
        ("bind", {"addresses": ["192.0.2.1", "192.0.2.2"]}),
    ]  # fmt: skip
    assert await driver.list_sas() == (STATE,)
    assert await driver.list_policies() == (policy(Direction.OUT),)
    assert await driver.queues() == {"t": (QueueStatus(queue=0, packets=3), QueueStatus(queue=1))}
    assert await driver.counts() == (NamedCount(name="esp.no-sa", count=4),)
    await driver.close()
    assert espd.asked[-1] == ("close", {})


async def test_features_need_no_session_and_absence_is_an_answer(espd: Espd, tmp_path: Path) -> None:
    assert (await UserspaceDriver(tmp_path / "espd.sock").features()).owns_port_4500
    absent = await UserspaceDriver(tmp_path / "nobody.sock").features()
    assert not absent.available
    assert "espd does not answer" in absent.reason


async def test_a_refusal_keeps_operation_errno_and_reason(espd: Espd, tmp_path: Path) -> None:
    driver = UserspaceDriver(tmp_path / "espd.sock")
    await driver.open()
    with pytest.raises(DataplaneError) as caught:
        await driver.remove_sa(SaId(spi=1, destination="a"))
    assert (caught.value.operation, caught.value.errno, caught.value.reason) == ("remove_sa", 22, "refused")
    await driver.close()


async def test_notices_and_ike_datagrams_arrive_and_ike_is_sent(espd: Espd, tmp_path: Path) -> None:
    driver = UserspaceDriver(tmp_path / "espd.sock")
    came: list[IkeDatagram] = []
    driver.on_ike = came.append
    await driver.open()
    notices = driver.notices()
    expired = Expired(id=STATE.id, hard=True)
    await espd.server.notify("ike", DATAGRAM.to_plain())
    await espd.server.notify("ike", {"datagram": "not Base64"})
    await espd.server.notify("notice", notice_to_plain(expired))
    assert await anext(notices) == expired
    assert came == [DATAGRAM]
    driver.send_ike(DATAGRAM)
    async with asyncio.timeout(60):
        await espd.sent.wait()
    assert espd.asked[-1] == ("send_ike", DATAGRAM.to_plain())
    await driver.close()
    assert [notice async for notice in notices] == []


async def test_a_lost_process_is_told_once_and_ends_the_notices(tmp_path: Path) -> None:
    espd = Espd(tmp_path / "espd.sock")
    driver = UserspaceDriver(tmp_path / "espd.sock")
    async with espd.server:
        await driver.open()
        notices = driver.notices()
    async with asyncio.timeout(60):
        told = [notice async for notice in notices]
    assert told == [Lost(reason="the connection to espd ended")]
    with pytest.raises(DataplaneError):
        await driver.add_sa(sa(Direction.IN, 1))
    driver.send_ike(DATAGRAM)  # lost, as a datagram may be
    async with Espd(tmp_path / "espd.sock").server:
        await driver.open()
        await driver.add_sa(sa(Direction.IN, 1))
        await driver.close()
