"""Two daemons on loopback, each with its own engine, sockets and a data plane in memory."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.contract.codec import from_plain, to_plain
from agents.contract.config import ConnectionType, DataPlane, GatewayDocument, IpsecProposal
from agents.contract.status import Counters, DataPlaneStatus, Rejections, TunnelState, TunnelStatus
from agents.dataplane.base import Direction, SaId, SaSpec
from agents.dataplane.fake import FakeDriver
from agents.iked.planes import Planes
from agents.iked.runtime import Runtime
from agents.iked.sockets import IkeSockets
from agents.runtime.paths import Paths
from agents.runtime.rpc import RpcError
from agents.runtime.tracing import Category

from .cast import document, psk, sa, tunnel, uid
from .rig import Daemon, is_up, loopback

pytestmark = pytest.mark.needs("port 500")

ALPHA, BETA = loopback(1), loopback(2)
INITIATOR, RESPONDER = ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY


def alpha_document(**options: Any) -> GatewayDocument:
    options.setdefault("connection_type", INITIATOR)
    return document("alpha", [tunnel("beta", ALPHA, BETA, **options)], [psk(ALPHA, BETA)])


def beta_document(secret: bytes = b"a shared secret", **options: Any) -> GatewayDocument:
    options = {"connection_type": RESPONDER, "local_ts": "10.2.0.0/24", "remote_ts": "10.1.0.0/24"} | options
    return document("beta", [tunnel("alpha", BETA, ALPHA, **options)], [psk(BETA, ALPHA, secret)])


@pytest.fixture
async def alpha(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with Daemon(tmp_path / "alpha") as daemon:
        yield daemon


@pytest.fixture
async def beta(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with Daemon(tmp_path / "beta") as daemon:
        yield daemon


async def bring_up(alpha: Daemon, beta: Daemon) -> TunnelStatus:
    await beta.configure(beta_document())
    await alpha.configure(alpha_document())
    await beta.until_up("alpha")
    return await alpha.until_up("beta")


def by_direction(driver: FakeDriver) -> dict[Direction, SaSpec]:
    assert len(driver.sas) == 2, driver.sas
    return {spec.direction: spec for spec in driver.sas.values()}


async def test_both_ends_come_up_with_the_same_keys(alpha: Daemon, beta: Daemon) -> None:
    status = await bring_up(alpha, beta)
    ours, theirs = by_direction(alpha.driver), by_direction(beta.driver)
    assert ours[Direction.OUT].encryption_key == theirs[Direction.IN].encryption_key
    assert ours[Direction.IN].encryption_key == theirs[Direction.OUT].encryption_key
    assert ours[Direction.OUT].encryption_key != ours[Direction.IN].encryption_key
    assert {key[0] for key in alpha.driver.policies} == {Direction.IN, Direction.OUT}
    assert int(status.children[0].sas[0].spi_in, 16) == ours[Direction.IN].spi
    assert [call[0] for call in alpha.driver.calls if call[0].startswith("add")][:2] == ["add_sa", "add_sa"]


async def test_times_are_unix_times_and_stay_the_same(alpha: Daemon, beta: Daemon) -> None:
    status = await bring_up(alpha, beta)
    now = time.time()
    sa = status.ike_sas[0]
    for moment in (status.since, sa.established_at, status.children[0].sas[0].installed_at):
        assert now - 20 < moment <= now + 0.1
    assert sa.rekey_at is not None
    assert sa.rekey_at > now + 3_600
    again = await alpha.tunnel("beta")
    assert again == status


async def test_counters_add_up_across_a_rekey(alpha: Daemon, beta: Daemon) -> None:
    before = await bring_up(alpha, beta)
    sas = by_direction(alpha.driver)
    alpha.driver.count(sas[Direction.IN].id, packets=3, octets=300)
    alpha.driver.count(sas[Direction.OUT].id, packets=2, octets=150)
    status = await alpha.tunnel("beta")
    expected = Counters(packets_in=3, bytes_in=300, packets_out=2, bytes_out=150)
    assert status.counters == expected
    assert status.children[0].sas[0].counters == expected
    alpha.driver.count(sas[Direction.IN].id, packets=1, octets=7)  # counted by the removal, which nobody asked for
    assert (await alpha.act("rekey-child", uid("beta")))["accepted"]
    old = before.children[0].sas[0].spi_in
    status = await alpha.until("beta", lambda now: is_up(now) and now.children[0].sas[0].spi_in != old)
    assert status.counters == expected + Counters(packets_in=1, bytes_in=7)
    assert status.children[0].sas[0].counters == Counters()
    new = by_direction(alpha.driver)
    alpha.driver.count(new[Direction.OUT].id, packets=1, octets=1)
    assert (await alpha.tunnel("beta")).counters.packets_out == 3


async def test_two_tunnels_to_one_peer_with_two_keys_by_the_pair_of_addresses(alpha: Daemon, beta: Daemon) -> None:
    """Seed 000: 10.1.1.1 and 10.1.1.2 to the same 10.1.1.101, two PSKs."""
    one, two, peer = loopback(11), loopback(12), loopback(101)
    nets = {one: "10.11.0.0/24", two: "10.12.0.0/24"}
    await beta.configure(
        document(
            "beta",
            [tunnel(f"to-{n}", peer, a, connection_type=RESPONDER, local_ts="10.2.0.0/24", remote_ts=nets[a])
             for n, a in ((1, one), (2, two))],
            [psk(peer, one, b"the first secret", "1"), psk(peer, two, b"the second secret", "2")],
        )
    )  # fmt: skip
    await alpha.configure(
        document(
            "alpha",
            [tunnel(f"from-{n}", a, peer, connection_type=INITIATOR, local_ts=nets[a], remote_ts="10.2.0.0/24")
             for n, a in ((1, one), (2, two))],
            [psk(two, peer, b"the second secret", "2"), psk(one, peer, b"the first secret", "1")],
        )
    )  # fmt: skip
    for name in ("from-1", "from-2"):
        await alpha.until_up(name)
    for name in ("to-1", "to-2"):
        await beta.until_up(name)


async def test_a_wrong_key_is_told_with_its_code_on_both_ends(alpha: Daemon, beta: Daemon) -> None:
    await beta.configure(beta_document(secret=b"another secret"))
    await alpha.configure(alpha_document())
    status = await alpha.until("beta", lambda now: now.reason is not None)
    assert status.reason is not None
    assert status.reason.code == "ike.peer-refused-auth"
    await beta.until_event("ike.psk-mismatch")
    assert alpha.driver.sas == beta.driver.sas == {}
    assert (await beta.status())["counters"]["ike.psk-mismatch"] >= 1


async def test_a_refused_installation_is_the_tunnels_reason(alpha: Daemon, beta: Daemon) -> None:
    alpha.driver.fail("add_sa", reason="no such algorithm")
    await beta.configure(beta_document())
    await alpha.configure(alpha_document())
    event = await alpha.until_event("child.install-failed")
    assert "no such algorithm" in event.message + (event.received or "")


async def test_a_lost_data_plane_means_new_keys(alpha: Daemon, beta: Daemon) -> None:
    status = await bring_up(alpha, beta)
    old = by_direction(alpha.driver)
    alpha.driver.count(old[Direction.IN].id, packets=1, octets=10)
    await alpha.status()
    alpha.driver.lose()
    before = status.children[0].sas[0].spi_in
    after = await alpha.until("beta", lambda now: is_up(now) and now.children[0].sas[0].spi_in != before)
    new = by_direction(alpha.driver)
    assert new[Direction.OUT].encryption_key != old[Direction.OUT].encryption_key
    assert after.counters.packets_in == 1
    await beta.until("alpha", is_up)
    assert by_direction(beta.driver)[Direction.IN].encryption_key == new[Direction.OUT].encryption_key


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("hard", [False, True])
async def test_an_sa_at_its_limit_is_replaced(alpha: Daemon, beta: Daemon, direction: Direction, hard: bool) -> None:
    status = await bring_up(alpha, beta)
    alpha.driver.expire(by_direction(alpha.driver)[direction].id, hard=hard)
    before = status.children[0].sas[0].spi_in
    await alpha.until("beta", lambda now: is_up(now) and now.children[0].sas[0].spi_in != before)
    await beta.until_up("alpha")
    ours, theirs = by_direction(alpha.driver), by_direction(beta.driver)
    assert ours[Direction.OUT].encryption_key == theirs[Direction.IN].encryption_key


async def test_a_peer_whose_port_moved_is_followed(alpha: Daemon, beta: Daemon) -> None:
    forced = dataclasses.replace(alpha_document().tunnels[0], force_udp_encapsulation=True)
    await beta.configure(beta_document())
    await alpha.configure(dataclasses.replace(alpha_document(), tunnels=(forced,)))
    await alpha.until_up("beta")
    await beta.until_up("alpha")
    inbound = by_direction(beta.driver)[Direction.IN]
    beta.driver.move(inbound.id, ALPHA, 40_123)
    async with asyncio.timeout(60):
        while True:
            encapsulation = by_direction(beta.driver)[Direction.OUT].encapsulation
            if encapsulation is not None and encapsulation.destination_port == 40_123:
                break
            await beta.status()


async def test_refused_packets_are_events_with_their_tunnel(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    sa = by_direction(alpha.driver)[Direction.IN].id
    alpha.driver.reject("esp.integrity", 7, sa)
    alpha.driver.reject("esp.no-sa", 1)
    event = await alpha.until_event("esp.integrity")
    expected = {"count": "7", "spi": f"{sa.spi:08x}", "protocol": "esp"}
    assert (event.tunnel_id, event.attributes) == (uid("beta"), expected)
    assert event.message == "7 ESP packets refused: authentication failure, possibly mismatching keys"
    assert (await alpha.until_event("esp.no-sa")).tunnel_id is None


async def test_status_counts_by_sa_child_tunnel_and_gateway(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    first = by_direction(alpha.driver)[Direction.IN].id
    alpha.driver.count(first, packets=3, octets=300)
    alpha.driver.refuse(first, Rejections(replayed=2))
    alpha.driver.count_named("out.no-policy", 5)
    before = await alpha.tunnel("beta")
    assert (before.children[0].sas[0].rejected, before.rejected) == (Rejections(replayed=2),) * 2
    assert (await alpha.act("rekey-child", uid("beta")))["accepted"]
    spi = before.children[0].sas[0].spi_in
    after = await alpha.until("beta", lambda now: [sa.spi_in for sa in now.children[0].sas] not in ([], [spi]))
    after = await alpha.until("beta", lambda now: len(now.children[0].sas) == 1)
    assert (after.children[0].sas[0].counters.packets_in, after.children[0].sas[0].rejected) == (0, Rejections())
    for whole in (after, after.children[0]):
        assert (whole.counters.packets_in, whole.counters.bytes_in, whole.rejected.replayed) == (3, 300, 2)
    status = await alpha.status()
    counts = {each["name"]: each["count"] for each in status["ipsec_counts"]}
    assert (counts["esp.in"], counts["esp.rejected.replayed"], counts["sa.added"], counts["sa.deleted"]) == (3, 2, 2, 1)
    assert "ah.in" not in counts
    assert status["data_plane_counts"] == [{"name": "out.no-policy", "count": 5}]


async def test_the_last_words_of_a_daemon_hold_what_it_counted(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    alpha.driver.count(by_direction(alpha.driver)[Direction.OUT].id, packets=9, octets=900)
    await alpha.stop()
    assert alpha.last is not None
    told = from_plain(TunnelStatus, alpha.last["tunnels"][0])
    assert (told.counters.packets_out, told.children[0].counters.packets_out) == (9, 9)


@pytest.mark.usefixtures("trace_as_before")
async def test_the_trace_has_the_facts_of_a_negotiation_and_no_key(alpha: Daemon, beta: Daemon) -> None:
    wanted = {"id": str(uuid.uuid4()), "categories": list(map(str, Category)), "seconds": 60, "octets": 1_000_000}
    await alpha.client.call("trace", {"action": "on", **wanted})
    await bring_up(alpha, beta)
    specs = by_direction(alpha.driver)
    inbound, outbound = specs[Direction.IN], specs[Direction.OUT]
    alpha.driver.count(outbound.id, packets=3, octets=300)
    alpha.driver.refuse(inbound.id, Rejections(integrity=1, selectors=2))
    alpha.driver.fail("remove_sa", "refused by the test")
    assert (await alpha.act("clear-ipsec", uid("beta")))["accepted"]
    await alpha.until_event("child.deleted")
    await alpha.status()
    answer = await alpha.client.call("trace", {"action": "off"})
    lines: dict[str, list[str]] = {str(category): [] for category in Category}
    for record in answer["records"]:
        lines[record["category"]].append(record["text"])
    sent = f"SA esp {outbound.spi:08x} out {ALPHA} > {BETA} tunnel mode"
    for category, beginning in (
        ("tunnel", f"SA esp {inbound.spi:08x} in {BETA} > {ALPHA} tunnel mode put in place"),
        ("tunnel", "child.established: "),
        ("tunnel-information", f"IKE > {BETA}:500 "),
        (
            "crypto-information",
            f"{sent}: aes-128-gcm-16 (160 bits of key)",
        ),
        ("filter-information", "policy out 10.1.0.0/24 > 10.2.0.0/24 protocol 0 of reqid"),
        (
            "capsulation-information",
            f"{sent}: 3 packets, 300 octets",
        ),
        ("filter", "esp.policy: 2 on SA esp"),
        ("crypto", "esp.integrity: 1 on SA esp"),
        ("error", "remove_sa esp"),
    ):
        assert any(line.startswith(beginning) for line in lines[category]), (category, beginning, lines[category])
    whole = json.dumps(answer)
    for spec in specs.values():
        assert spec.encryption_key is not None
        key = spec.encryption_key.reveal()
        assert not [form for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]) if form in whole]
    assert "a shared secret" not in whole


async def test_a_polite_end_deletes_the_peers_sas_and_everything_here(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    driver = alpha.driver
    await alpha.stop()
    assert not driver.is_open
    await beta.until("alpha", lambda now: not now.ike_sas)
    assert beta.driver.sas == {}
    await alpha.start()


async def test_the_peer_hears_of_the_last_tunnels_end(alpha: Daemon, beta: Daemon) -> None:
    """Nothing in the document names the address any more, yet the delete goes out from it and is answered there."""
    await bring_up(alpha, beta)
    await alpha.configure(document("alpha", [], [], generation=2))
    gone = await beta.until("alpha", lambda now: not now.ike_sas)
    assert gone.reason is None or gone.reason.code != "ike.timeout"
    assert beta.driver.sas == {}


async def test_an_end_without_words_is_healed_by_initial_contact(
    alpha: Daemon, beta: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second ``iked`` takes over the address of one that vanished; the peer keeps only the new SAs."""
    status = await bring_up(alpha, beta)
    old = status.ike_sas[0].spi_i
    with monkeypatch.context() as silenced:
        silenced.setattr(IkeSockets, "send", lambda *_: True)
        await alpha.stop()
    beta_before = (await beta.tunnel("alpha")).ike_sas
    async with Daemon(tmp_path / "successor") as successor:
        await successor.configure(alpha_document())
        await successor.until_up("beta")
        now = await beta.until("alpha", lambda now: is_up(now) and now.ike_sas[0].spi_i != old)
        assert now.ike_sas != beta_before
        assert len(beta.driver.sas) == 2


async def test_configuring_again_changes_nothing(alpha: Daemon, beta: Daemon) -> None:
    status = await bring_up(alpha, beta)
    calls = len(alpha.driver.calls)
    await alpha.configure(alpha_document())
    assert alpha.driver.calls[calls:] == []
    assert await alpha.tunnel("beta") == status


async def test_links_follow_the_document(alpha: Daemon) -> None:
    await alpha.configure(alpha_document(mtu=1_300))
    assert alpha.driver.links[uid("beta")].mtu == 1_300
    await alpha.configure(alpha_document(mtu=1_250))
    assert alpha.driver.links[uid("beta")].mtu == 1_250
    await alpha.configure(alpha_document(enabled=False))
    async with asyncio.timeout(60):
        while alpha.driver.links:
            await alpha.status()
    assert (await alpha.tunnel("beta")).state is TunnelState.DISABLED


async def test_a_document_that_cannot_be_read_is_refused_with_the_path(alpha: Daemon) -> None:
    await alpha.configure(alpha_document())
    plain = to_plain(alpha_document())
    plain["tunnels"][0]["remote"]["address"] = "not an address"
    with pytest.raises(RpcError) as caught:
        await alpha.client.call("configure", {"document": plain})
    assert caught.value.code == "invalid"
    assert caught.value.data["path"] == "tunnels[0].remote.address"
    assert (await alpha.status())["generation"] == 1
    with pytest.raises(RpcError):
        await alpha.client.call("configure", {})


async def test_verbs_for_what_is_not_there_are_refused_in_words(alpha: Daemon) -> None:
    await alpha.configure(alpha_document())
    for verb, tunnel_id in (("initiate", uid("nobody")), ("rekey-ike", uid("beta"))):
        answer = await alpha.act(verb, tunnel_id)
        assert not answer["accepted"]
        assert answer["message"]
    with pytest.raises(RpcError):
        await alpha.act("explode", uid("beta"))


async def test_terminate_and_initiate(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    assert (await alpha.act("terminate", uid("beta")))["accepted"]
    await alpha.until("beta", lambda now: not now.ike_sas)
    await beta.until("alpha", lambda now: not now.ike_sas)
    assert alpha.driver.sas == beta.driver.sas == {}
    assert (await alpha.act("initiate", uid("beta")))["accepted"]
    await alpha.until_up("beta")


async def test_health_names_a_socket_that_cannot_be_bound(alpha: Daemon, beta: Daemon) -> None:
    await alpha.configure(alpha_document())
    assert (await alpha.status())["health"]["healthy"]
    await beta.configure(alpha_document())
    health = (await beta.status())["health"]
    assert not health["healthy"]
    assert f"UDP port 500 of {ALPHA}" in health["detail"]


async def test_auto_prefers_the_kernel_and_says_why(tmp_path: Path) -> None:
    cases = [
        (True, "kernel", "kernel: the kernel accepts ESP SAs"),
        (False, "userspace", "userspace: the kernel refuses ESP SAs"),
    ]
    for available, driver, sentence in cases:
        reason = "the kernel accepts ESP SAs" if available else "the kernel refuses ESP SAs"
        planes = Planes(
            lambda available=available, reason=reason: FakeDriver(name="kernel", available=available, reason=reason),  # type: ignore[misc]
            lambda: FakeDriver(name="userspace"),
        )
        async with Daemon(tmp_path / driver, planes) as daemon:
            await daemon.configure(dataclasses.replace(alpha_document(), data_plane=DataPlane.AUTO))
            plane = from_plain(DataPlaneStatus, (await daemon.status())["data_plane"])
            assert (plane.driver, plane.reason) == (driver, sentence)
            assert (await daemon.until_event("agent.data-plane")).message == sentence
            interface = (await daemon.tunnel("beta")).interface
            assert interface == (f"vpn{uid('beta')[:8]}" if driver == "userspace" else None)


async def test_a_data_plane_that_is_not_there_is_said_and_the_tunnels_are_shown(tmp_path: Path, beta: Daemon) -> None:
    planes = Planes(lambda: FakeDriver(name="kernel", available=False, reason="no ESP here"), FakeDriver)
    await beta.configure(beta_document())
    async with Daemon(tmp_path / "kernel", planes) as daemon:
        await daemon.configure(dataclasses.replace(alpha_document(), data_plane=DataPlane.KERNEL))
        status = await daemon.status()
        assert status["generation"] == 1
        assert status["data_plane"] == {"driver": None, "reason": "kernel is not available: no ESP here"}
        assert not status["health"]["healthy"]
        event = await daemon.until_event("child.install-failed")
        assert "no ESP here" in event.message + (event.received or "")


async def test_changing_the_data_plane_negotiates_anew(tmp_path: Path, beta: Daemon) -> None:
    drivers: list[FakeDriver] = []

    def make(name: str) -> FakeDriver:
        drivers.append(FakeDriver(name=name))
        return drivers[-1]

    await beta.configure(beta_document())
    async with Daemon(tmp_path / "changing", Planes(lambda: make("kernel"), lambda: make("userspace"))) as daemon:
        await daemon.configure(dataclasses.replace(alpha_document(), data_plane=DataPlane.USERSPACE))
        first = await daemon.until_up("beta")
        changed = dataclasses.replace(alpha_document(), data_plane=DataPlane.KERNEL, generation=2)
        await daemon.configure(changed)
        assert (await daemon.status())["data_plane"]["driver"] == "kernel"
        spi = first.children[0].sas[0].spi_in
        await daemon.until("beta", lambda now: is_up(now) and now.children[0].sas[0].spi_in != spi)
        userspace, kernel = drivers
        assert not userspace.is_open
        assert len(kernel.sas) == 2


async def test_events_survive_the_reader_not_the_process(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    page = await alpha.client.call("events", {"after": 0, "boot_id": None})
    again = await alpha.client.call("events", {"after": page["last"], "boot_id": page["boot_id"]})
    assert again["events"] == []
    codes = [event["code"] for event in page["events"]]
    assert codes.index("ike.sa-established") < codes.index("child.established")
    await alpha.stop()
    await alpha.start()
    assert (await alpha.client.call("events", {"after": 0, "boot_id": None}))["boot_id"] != page["boot_id"]


async def test_no_secret_shows_in_status_events_or_errors(alpha: Daemon, beta: Daemon) -> None:
    await bring_up(alpha, beta)
    seen = str(await alpha.status()) + str(await alpha.events())
    spec = by_direction(alpha.driver)[Direction.OUT]
    assert spec.encryption_key is not None
    for secret in (b"a shared secret", spec.encryption_key.reveal()):
        assert secret.hex() not in seen
        assert repr(secret)[2:-1] not in seen


async def test_a_notice_about_nothing_known_is_passed_over(alpha: Daemon) -> None:
    await alpha.configure(alpha_document(esp=(IpsecProposal(encryption="chacha20-poly1305"),)))
    stranger = SaId(spi=0x1234, destination="192.0.2.9")
    alpha.driver.expire(stranger, hard=True)
    alpha.driver.move(stranger, "192.0.2.8", 1)
    alpha.driver.reject("esp.replay", 1, stranger)
    await alpha.until_event("esp.replay")
    assert (await alpha.tunnel("beta")).name == "beta"


async def test_a_bug_in_the_data_plane_ends_the_process_loudly_and_tidily(tmp_path: Path, beta: Daemon) -> None:
    class Broken(FakeDriver):
        async def add_sa(self, spec: SaSpec) -> None:
            raise KeyError("a bug")

    broken = Broken()
    await beta.configure(beta_document())
    daemon = Daemon(tmp_path / "broken", Planes(lambda: broken, lambda: broken))
    await daemon.start()
    await daemon.configure(alpha_document())
    with pytest.raises(KeyError):
        await asyncio.wait_for(daemon.ended(), 60)
    assert not broken.is_open


async def test_a_storm_of_garbage_is_counted_and_changes_nothing(alpha: Daemon, beta: Daemon) -> None:
    """Mutations of a real message and plain noise on both ports, from the peer's own address and a stranger's."""
    status = await bring_up(alpha, beta)
    dice = random.Random(20_261_121)
    spi_i, spi_r = bytes.fromhex(status.ike_sas[0].spi_i), bytes.fromhex(status.ike_sas[0].spi_r)
    header = spi_i + spi_r + bytes((46, 0x20, 37, 0)) + bytes(4) + (80).to_bytes(4, "big")
    genuine = header + bytes((41, 0, 0, 52)) + dice.randbytes(48)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((loopback(77), 0))
        for number in range(1_500):
            datagram = bytearray(genuine if number % 3 else dice.randbytes(dice.randrange(200)))
            for _ in range(dice.randrange(4)):
                if datagram:
                    datagram[dice.randrange(len(datagram))] = dice.randrange(256)
            udp.sendto(datagram, (ALPHA, 500))
            udp.sendto(bytes(4) + datagram, (ALPHA, 4500))
            if number % 50 == 0:
                await alpha.tunnel("beta")  # lets the daemon read: what overflows a socket buffer tests nothing
    after = await alpha.tunnel("beta")
    assert (after.state, after.ike_sas, after.children) == (status.state, status.ike_sas, status.children)
    counters = (await alpha.status())["counters"]
    assert counters["drop.integrity"] > 100
    assert counters["wire.header"] > 100
    assert "ike.bug" not in counters
    assert len(await alpha.events()) < 300
    assert (await alpha.act("rekey-ike", uid("beta")))["accepted"]
    await alpha.until("beta", lambda now: is_up(now) and now.ike_sas[0].spi_i != status.ike_sas[0].spi_i)


async def test_traffic_that_came_in_is_told_to_the_engine(tmp_path: Path) -> None:
    runtime, driver = Runtime(Paths(state=tmp_path, run=tmp_path)), FakeDriver()
    await driver.open()
    heard: list[str] = []

    def seen(tunnel_id: str, now: float, spi_in: int | None = None) -> None:
        heard.append(f"{tunnel_id} {spi_in}")

    runtime.engine.traffic_seen = seen  # type: ignore[method-assign]
    runtime.effects.attach(driver)
    inbound = sa(Direction.IN, 0x100)
    await driver.add_sa(inbound)
    runtime.traffic.started(inbound, inbound.spi)
    await runtime.poll_traffic()
    assert heard == []
    driver.count(inbound.id, packets=1, octets=1)
    await runtime.poll_traffic()
    await runtime.poll_traffic()
    assert heard == ["t 256"]
    driver.fail("list_sas")
    await runtime.poll_traffic()  # a data plane that refuses is no reason to end
