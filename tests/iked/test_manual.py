"""Tunnels with manual keys: what the data plane has follows the document, whatever happens in between."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.carriage import Carriage, DfBit
from agents.contract.config import ConnectionType, DataPlane, GatewayDocument, Mode
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import Counters, TunnelState, TunnelStatus
from agents.dataplane.base import (
    REQID_BASE,
    DataplaneError,
    Direction,
    PolicySpec,
    Repaired,
    SaId,
    SaProtocol,
    SaSpec,
)
from agents.dataplane.fake import FakeDriver
from agents.iked.planes import Planes

from .cast import AH_SHA1, CBC_SHA1, document, manual, manual_child, psk, tunnel, uid
from .rig import Daemon, is_up, loopback

pytestmark = pytest.mark.needs("port 500")

HERE, THERE = "192.0.2.1", "192.0.2.2"
OTHER_SA = replace(CBC_SHA1, esp_spi=0x1002, encryption_key=Secret(b"another key here"))
VOICE = manual_child("voice", "10.3.0.0/24", "10.4.0.0/24", sa=OTHER_SA)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with Daemon(tmp_path / "daemon") as daemon:
        yield daemon


def of(*tunnels: ManualTunnel, **options: object) -> GatewayDocument:
    return document("gateway", [], [], manual_tunnels=tunnels, **options)  # type: ignore[arg-type]


def with_children(*children: ManualChild) -> ManualTunnel:
    return manual("m", HERE, THERE, children=children)


async def stand(daemon: Daemon, *tunnels: ManualTunnel) -> TunnelStatus:
    """Configure these tunnels; returns the first one's status when it is up."""
    await daemon.configure(of(*tunnels))
    return await until(daemon, tunnels[0].name, lambda now: now.state is TunnelState.UP)


async def until(daemon: Daemon, name: str, accept: Callable[[TunnelStatus], bool]) -> TunnelStatus:
    """Wait for a status of one tunnel; whatever is installed now is in it."""
    return await daemon.until(name, accept)


async def until_plane(daemon: Daemon, accept: Callable[[FakeDriver], bool]) -> None:
    """Wait until the data plane is as ``accept`` wants it; work on it is begun when a verb or document is answered."""
    async with asyncio.timeout(60):
        while not accept(daemon.driver):
            await daemon.status()


def by_spi(driver: FakeDriver) -> dict[tuple[Direction, int], SaSpec]:
    return {(spec.direction, spec.spi): spec for spec in driver.sas.values()}


def changes(driver: FakeDriver, since: int) -> list[str]:
    """Return what was done to the data plane, questions left out."""
    questions = ("list_sas", "list_policies", "features", "counts", "queues")
    return [f"{name} {target}" for name, target in driver.calls[since:] if name not in questions]


class TestStanding:
    async def test_sas_and_policies_are_the_documents(self, daemon: Daemon) -> None:
        outbound = replace(CBC_SHA1, esp_spi=0x9009, integrity_key=Secret(bytes(20)))
        status = await stand(daemon, with_children(manual_child(outbound=outbound, replay_window=32)))
        sas = by_spi(daemon.driver)
        assert set(sas) == {(Direction.IN, 0x1001), (Direction.OUT, 0x9009)}
        inbound = sas[Direction.IN, 0x1001]
        assert (inbound.source, inbound.destination, inbound.replay_window) == (THERE, HERE, 32)
        assert (inbound.encryption_key, inbound.integrity_key) == (CBC_SHA1.encryption_key, CBC_SHA1.integrity_key)
        assert sas[Direction.OUT, 0x9009].integrity_key == Secret(bytes(20))
        assert inbound.limits == type(inbound.limits)()
        found = {key[0]: (policy.selector.source, policy.reqid) for key, policy in daemon.driver.policies.items()}
        assert found == {Direction.OUT: ("10.1.0.0/24", inbound.reqid), Direction.IN: ("10.2.0.0/24", inbound.reqid)}
        assert inbound.reqid > REQID_BASE
        (sa,) = status.children[0].sas
        assert (status.kind, sa.spi_in, sa.spi_out, sa.encryption) == ("manual", "00001001", "00009009", "aes-128-cbc")
        assert (sa.local_ts, sa.remote_ts, sa.rekey_at, sa.expires_at) == (
            ("10.1.0.0/24",),
            ("10.2.0.0/24",),
            None,
            None,
        )
        assert daemon.driver.links[uid("m")].local == HERE

    async def test_no_window_and_no_sequence_number_is_remembered_by_default(self, daemon: Daemon) -> None:
        await stand(daemon, with_children(manual_child()))
        assert {spec.replay_window for spec in daemon.driver.sas.values()} == {0}

    async def test_ah_compression_null_and_transport(self, daemon: Daemon) -> None:
        null = ManualSa(esp_spi=0x300, encryption="null", integrity="hmac-sha1-96", integrity_key=Secret(bytes(20)))
        host = ("192.0.0.0/16", "192.0.2.2/32")
        children = (
            manual_child("ah", sa=AH_SHA1),
            manual_child("both", "10.3.0.0/24", "10.4.0.0/24", sa=_with_ah(OTHER_SA, 0x2002), ipcomp=True),
            manual_child("null", "10.5.0.0/24", "10.6.0.0/24", sa=null),
            manual_child("hosts", *host, sa=replace(CBC_SHA1, esp_spi=0x400), mode=Mode.TRANSPORT),
        )
        await daemon.configure(of(with_children(*children), allow_legacy=True))
        status = await until(daemon, "m", lambda now: now.state is TunnelState.UP)
        by_name = dict(zip(("ah", "both", "null", "hosts"), (each.sas[0] for each in status.children), strict=True))
        assert (by_name["ah"].encryption, by_name["ah"].ah_integrity, by_name["ah"].spi_in) == (
            None, "hmac-sha1-96", "00002001",
        )  # fmt: skip
        assert by_name["both"].ipcomp
        sas = by_spi(daemon.driver)
        compressed = sas[Direction.OUT, 0x1002]
        assert (compressed.compression_cpi, compressed.ah and compressed.ah.spi) == (2, 0x2002)
        assert sas[Direction.IN, 0x300].encryption_key == Secret(b"")
        transport = [policy for policy in daemon.driver.policies.values() if policy.mode is Mode.TRANSPORT]
        assert {policy.selector.source for policy in transport} == {"192.0.2.1/32", "192.0.2.2/32"}
        kinds = {policy.protocols for policy in daemon.driver.policies.values() if policy.compressed}
        assert kinds == {(SaProtocol.ESP, SaProtocol.AH)}

    async def test_a_disabled_tunnel_stands_nowhere(self, daemon: Daemon) -> None:
        await stand(daemon, with_children(manual_child()))
        await daemon.configure(of(replace(with_children(manual_child()), enabled=False)))
        await until(daemon, "m", lambda now: now.state is TunnelState.DISABLED)
        await until_plane(daemon, lambda driver: not driver.sas and not driver.policies and not driver.links)
        assert (await daemon.act("clear-ipsec", uid("m"))) == {"accepted": False, "message": "m is disabled"}

    async def test_rules_are_in_the_documents_order(self, daemon: Daemon) -> None:
        wide, narrow = manual_child("wide", "10.1.0.0/16", "10.2.0.0/16", sa=OTHER_SA), manual_child("narrow")
        await stand(daemon, with_children(wide, narrow))
        assert _priority(daemon.driver, "10.1.0.0/16") < _priority(daemon.driver, "10.1.0.0/24")
        before = changes(daemon.driver, 0)
        await daemon.configure(of(with_children(narrow, wide)))
        await until_plane(daemon, lambda driver: _priority(driver, "10.1.0.0/24") < _priority(driver, "10.1.0.0/16"))
        assert not [call for call in changes(daemon.driver, len(before)) if "_sa" in call and call not in before]


def _priority(driver: FakeDriver, source: str) -> int:
    return next(policy.priority for key, policy in driver.policies.items() if key[1].source == source)


def _with_ah(sa: ManualSa, spi: int) -> ManualSa:
    return replace(sa, ah_spi=spi, ah_integrity=AH_SHA1.ah_integrity, ah_key=AH_SHA1.ah_key)


class TestChange:
    async def test_only_the_child_that_changed_is_replaced(self, daemon: Daemon) -> None:
        neighbour = manual(
            "n", HERE, "192.0.2.3", children=[manual_child("x", "10.7.0.0/24", "10.8.0.0/24", sa=AH_SHA1)]
        )
        await stand(daemon, with_children(manual_child(), VOICE), neighbour)
        await until(daemon, "n", lambda now: now.state is TunnelState.UP)
        since = len(daemon.driver.calls)
        new_key = replace(CBC_SHA1, encryption_key=Secret(b"sixteen octets!!"))
        await daemon.configure(of(with_children(manual_child(sa=new_key), VOICE), neighbour))
        await until_plane(
            daemon, lambda driver: by_spi(driver)[Direction.OUT, 0x1001].encryption_key == new_key.encryption_key
        )
        assert changes(daemon.driver, since) == [
            f"remove_sa esp 00001001 to {HERE}", f"remove_sa esp 00001001 to {THERE}",
            f"add_sa esp 00001001 to {HERE}", f"add_sa esp 00001001 to {THERE}",
        ]  # fmt: skip

    async def test_the_same_document_again_changes_nothing(self, daemon: Daemon) -> None:
        status = await stand(daemon, with_children(manual_child(), VOICE))
        since = len(daemon.driver.calls)
        await daemon.configure(of(with_children(manual_child(), VOICE), generation=2))
        assert await daemon.tunnel("m") == status
        assert changes(daemon.driver, since) == []

    async def test_other_selectors_leave_the_sas_alone(self, daemon: Daemon) -> None:
        status = await stand(daemon, with_children(manual_child()))
        since = len(daemon.driver.calls)
        await daemon.configure(of(with_children(manual_child(remote_ts="10.9.0.0/24"))))
        await until_plane(
            daemon,
            lambda driver: (
                {key[1].destination for key in driver.policies} == {"10.9.0.0/24", "10.1.0.0/24"}
                and len(driver.policies) == 2
            ),
        )
        assert not [call for call in changes(daemon.driver, since) if "_sa" in call]
        after = await until(daemon, "m", lambda now: now.children[0].sas[0].remote_ts == ("10.9.0.0/24",))
        assert after.children[0].sas[0].installed_at == status.children[0].sas[0].installed_at

    async def test_two_children_that_swap_their_selectors_both_stand(self, daemon: Daemon) -> None:
        one, other = manual_child("a"), replace(VOICE, name="b")
        await stand(daemon, with_children(one, other))
        swapped = (
            replace(one, local_ts=other.local_ts, remote_ts=other.remote_ts),
            replace(other, local_ts=one.local_ts, remote_ts=one.remote_ts),
        )
        await daemon.configure(of(with_children(*swapped)))
        await until(daemon, "m", lambda now: now.children[0].up and now.children[0].sas[0].local_ts == ("10.3.0.0/24",))
        await until_plane(daemon, lambda driver: len(driver.policies) == 4)
        reqids = {key[1].source: policy.reqid for key, policy in daemon.driver.policies.items() if key[0] == "out"}
        sas = by_spi(daemon.driver)
        assert reqids == {
            "10.3.0.0/24": sas[Direction.OUT, 0x1001].reqid,
            "10.1.0.0/24": sas[Direction.OUT, 0x1002].reqid,
        }

    async def test_the_outer_header_follows(self, daemon: Daemon) -> None:
        made = with_children(manual_child())
        await stand(daemon, made)
        await daemon.configure(of(replace(made, carriage=Carriage(df_bit=DfBit.CLEAR, copy_dscp=False))))
        await until_plane(
            daemon,
            lambda driver: (
                {(each.df_bit, each.copy_dscp) for each in driver.sas.values()} == {(DfBit.CLEAR, False)}
                and len(driver.sas) == 2
            ),
        )

    async def test_a_tunnel_that_is_gone_leaves_nothing(self, daemon: Daemon) -> None:
        await stand(daemon, with_children(manual_child(), VOICE), manual("n", HERE, "192.0.2.3", children=[
            manual_child("x", "10.7.0.0/24", "10.8.0.0/24", sa=AH_SHA1)]))  # fmt: skip
        await daemon.configure(of(generation=2))
        await until_plane(daemon, lambda driver: not driver.sas and not driver.policies and not driver.links)
        assert (await daemon.status())["tunnels"] == []


class TestLoss:
    async def test_what_was_lost_is_put_back(self, daemon: Daemon) -> None:
        await stand(daemon, with_children(manual_child(), VOICE))
        before, policies = dict(daemon.driver.sas), dict(daemon.driver.policies)
        daemon.driver.count(SaId(spi=0x1001, destination=HERE), packets=3, octets=300)
        assert (await daemon.tunnel("m")).counters == Counters(packets_in=3, bytes_in=300)
        daemon.driver.lose()
        await until_plane(daemon, lambda driver: driver.sas == before and driver.policies == policies)
        status = await until(daemon, "m", lambda now: now.state is TunnelState.UP)
        assert status.counters == Counters(packets_in=3, bytes_in=300)  # a total never runs backwards
        assert status.children[0].sas[0].counters == Counters()

    @pytest.mark.parametrize("hard", [True, False])
    async def test_an_sa_that_somebody_removed_or_used_up_comes_back(self, daemon: Daemon, hard: bool) -> None:
        await stand(daemon, with_children(manual_child(), VOICE))
        since = len(daemon.driver.calls)
        daemon.driver.expire(SaId(spi=0x1001, destination=THERE), hard=hard)
        event = await daemon.until_event("manual.reinstalled")
        assert event.tunnel_id == uid("m")
        assert len(daemon.driver.sas) == 4
        assert not [call for call in changes(daemon.driver, since) if "00001002" in call or "policy" in call]

    async def test_a_repaired_policy_is_told_with_its_tunnel(self, daemon: Daemon) -> None:
        await stand(daemon, with_children(manual_child()))
        (reqid, *_) = {policy.reqid for policy in daemon.driver.policies.values()}
        daemon.driver.say(Repaired(reqid=reqid, detail="A policy was removed by someone else and is back"))
        assert (await daemon.until_event("agent.repaired")).tunnel_id == uid("m")

    async def test_a_change_of_data_plane_takes_them_along(self, tmp_path: Path) -> None:
        drivers: list[FakeDriver] = []

        def make(name: str) -> FakeDriver:
            drivers.append(FakeDriver(name=name))
            return drivers[-1]

        planes = Planes(lambda: make("kernel"), lambda: make("userspace"))
        async with Daemon(tmp_path / "changing", planes) as daemon:
            made = with_children(manual_child())
            await daemon.configure(of(made, data_plane=DataPlane.USERSPACE))
            assert (await until(daemon, "m", lambda now: now.state is TunnelState.UP)).interface == f"vpn{uid('m')[:8]}"
            await daemon.configure(of(made, data_plane=DataPlane.KERNEL, generation=2))
            kernel = drivers[-1]
            async with asyncio.timeout(60):
                while len(kernel.sas) != 2:
                    await daemon.status()
            assert (await until(daemon, "m", lambda now: now.state is TunnelState.UP)).interface is None

    async def test_without_a_data_plane_its_sentence_is_the_reason(self, tmp_path: Path) -> None:
        planes = Planes(lambda: FakeDriver(name="kernel", available=False, reason="no ESP here"), FakeDriver)
        async with Daemon(tmp_path / "none", planes) as daemon:
            await daemon.configure(of(with_children(manual_child()), data_plane=DataPlane.KERNEL))
            status = await until(daemon, "m", lambda now: now.reason is not None)
            assert status.state is TunnelState.DOWN
            assert status.reason is not None
            assert "no ESP here" in status.reason.message
            answer = await daemon.act("clear-ipsec", uid("m"))
            assert not answer["accepted"]
            assert "no ESP here" in answer["message"]


class Picky(FakeDriver):
    """Refuses AH, as a kernel without it does."""

    async def add_sa(self, spec: SaSpec) -> None:
        if spec.ah is not None:
            raise DataplaneError("add_sa", "ah", errno.EPROTONOSUPPORT, "Protocol not supported")
        await super().add_sa(spec)


class Slow(FakeDriver):
    """Takes SAs when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def add_sa(self, spec: SaSpec) -> None:
        await self.gate.wait()
        await super().add_sa(spec)


async def test_new_sas_are_told_of_once_they_stand_however_long_that_takes(tmp_path: Path) -> None:
    driver = Slow()
    async with Daemon(tmp_path / "slow", Planes(lambda: driver, lambda: driver)) as daemon:
        before = (await stand(daemon, with_children(manual_child()))).children[0].sas[0]
        driver.gate.clear()
        told = daemon.told
        await daemon.configure(of(with_children(manual_child(sa=OTHER_SA))))
        while daemon.told == told:
            await daemon.status()  # that there is another document is told meanwhile
        waiting = asyncio.create_task(until(daemon, "m", lambda now: bool(now.children[0].sas)))
        await asyncio.sleep(0)
        for _ in range(3):
            await daemon.status()  # the first look finds none
        driver.gate.set()
        after = await waiting
        assert after.children[0].sas[0].spi_in != before.spi_in


class TestRefusal:
    async def test_a_suite_that_cannot_be_harms_nobody_else(self, tmp_path: Path) -> None:
        driver = Picky()
        async with Daemon(tmp_path / "picky", Planes(lambda: driver, lambda: driver)) as daemon:
            bad = manual("bad", HERE, "192.0.2.3", children=[manual_child("ah", "10.7.0.0/24", sa=AH_SHA1)])
            await daemon.configure(of(bad, with_children(manual_child())))
            await until(daemon, "m", lambda now: now.state is TunnelState.UP)
            status = await until(daemon, "bad", lambda now: now.reason is not None)
            assert status.reason is not None
            assert (status.state, status.reason.code) == (TunnelState.DOWN, "manual.install-failed")
            assert status.reason.message == "ah: add_sa ah: Protocol not supported"
            assert (await daemon.until_event("manual.install-failed")).tunnel_id == uid("bad")
            assert {policy.tunnel_id for policy in driver.policies.values()} == {uid("m")}
            assert len(driver.sas) == 2

    async def test_half_of_a_tunnel_is_partly_up(self, tmp_path: Path) -> None:
        driver = Picky()
        async with Daemon(tmp_path / "picky", Planes(lambda: driver, lambda: driver)) as daemon:
            await daemon.configure(of(with_children(manual_child(), replace(VOICE, inbound=AH_SHA1, outbound=AH_SHA1))))
            status = await until(daemon, "m", lambda now: now.state is TunnelState.PARTLY_UP)
            assert [child.up for child in status.children] == [True, False]

    @pytest.mark.parametrize("operation", ["add_sa", "add_policy"])
    async def test_a_refusal_leaves_nothing_and_is_tried_again(self, daemon: Daemon, operation: str) -> None:
        await stand(daemon, manual("n", HERE, "192.0.2.3", children=[VOICE]))
        daemon.driver.fail(operation, reason="not today")
        await daemon.configure(of(with_children(manual_child()), manual("n", HERE, "192.0.2.3", children=[VOICE])))
        refused = await until(daemon, "m", lambda now: now.reason is not None)
        assert refused.reason is not None
        assert "not today" in refused.reason.message
        assert len(daemon.driver.sas) == len(daemon.driver.policies) == 2
        assert (await daemon.act("clear-ipsec", uid("m")))["accepted"]
        status = await until(daemon, "m", lambda now: now.state is TunnelState.UP)
        assert status.reason is None

    async def test_what_was_in_the_way_may_go_by_itself(self, daemon: Daemon) -> None:
        daemon.driver.fail("add_sa", reason="not today")
        quick = tunnel("q", loopback(31), loopback(32), enabled=False, dpd_interval_s=4)  # a look every second
        await daemon.configure(document("g", [quick], [], manual_tunnels=[with_children(manual_child())]))
        status = await until(daemon, "m", lambda now: now.state is TunnelState.UP)
        assert status.reason is None
        assert [event.code for event in await daemon.events() if event.code.startswith("manual.")] == [
            "manual.install-failed",
            "manual.up",
        ]

    async def test_of_two_sas_of_one_name_the_second_is_refused_and_the_first_stays(self, daemon: Daemon) -> None:
        """Inbound names are checked with the document; outbound ones are the peer's."""
        clash = replace(VOICE, outbound=replace(OTHER_SA, esp_spi=0x1001))
        await daemon.configure(of(with_children(manual_child(), clash)))
        status = await until(daemon, "m", lambda now: now.reason is not None)
        assert [child.up for child in status.children] == [True, False]
        assert set(by_spi(daemon.driver)) == {(Direction.IN, 0x1001), (Direction.OUT, 0x1001)}
        assert by_spi(daemon.driver)[Direction.OUT, 0x1001].encryption_key == CBC_SHA1.encryption_key

    async def test_one_cpi_cannot_serve_two_children(self, daemon: Daemon) -> None:
        children = (manual_child(ipcomp=True), replace(VOICE, ipcomp=True))
        await daemon.configure(of(with_children(*children)))
        status = await until(daemon, "m", lambda now: now.reason is not None)
        assert [child.up for child in status.children] == [True, False]
        assert status.reason is not None
        assert "CPI 2 of IPComp is that of m/net" in status.reason.message

    @pytest.mark.parametrize(
        ("child", "words"),
        [
            (manual_child(mode=Mode.TRANSPORT), "transport mode carries only what is between 192.0.2.1 and 192.0.2.2"),
            (
                manual_child(
                    local_ts="10.1.0.0/24",
                    remote_ts="10.2.0.0/24",
                ),
                "no packet matches both selectors: protocol 6 here and 17 there",
            ),
        ],
    )
    async def test_selectors_that_cannot_be(self, daemon: Daemon, child: ManualChild, words: str) -> None:
        if "protocol" in words:
            child = replace(
                child, local_ts=replace(child.local_ts, protocol=6), remote_ts=replace(child.remote_ts, protocol=17)
            )
        await daemon.configure(of(with_children(child)))
        status = await until(daemon, "m", lambda now: now.reason is not None)
        assert status.reason is not None
        assert words in status.reason.message
        assert not daemon.driver.sas


class TestVerbs:
    async def test_clear_ipsec_installs_the_sas_at_once(self, daemon: Daemon) -> None:
        before = await stand(daemon, with_children(manual_child(), VOICE))
        sas, since = dict(daemon.driver.sas), len(daemon.driver.calls)
        assert (await daemon.act("clear-ipsec", uid("m")))["accepted"]
        event = await daemon.until_event("manual.reinstalled")
        assert "an operator asked for it" in event.message
        await until_plane(daemon, lambda driver: driver.sas == sas)
        done = changes(daemon.driver, since)
        assert sum(call.startswith("add_sa") for call in done) == 4
        assert not [call for call in done if "policy" in call]  # no moment in clear text
        after = await until(daemon, "m", lambda now: now.state is TunnelState.UP)
        assert after.children[0].sas[0].installed_at > before.children[0].sas[0].installed_at
        assert after.since == before.since

    @pytest.mark.parametrize("verb", ["initiate", "terminate", "rekey-ike", "rekey-child", "clear-ike"])
    async def test_there_is_no_ike_sa(self, daemon: Daemon, verb: str) -> None:
        await stand(daemon, with_children(manual_child()))
        assert (await daemon.act(verb, uid("m"))) == {
            "accepted": False,
            "message": "m has manual keys and no IKE SA; clear-ipsec installs its SAs anew",
        }


class TestBesideNegotiated:
    """Numbers and traffic are shared with the IKE engine."""

    async def test_both_kinds_come_up_with_numbers_of_their_own(self, tmp_path: Path) -> None:
        alpha_at, beta_at = loopback(21), loopback(22)
        ends = [(alpha_at, beta_at, "10.1.0.0/24", "10.2.0.0/24"), (beta_at, alpha_at, "10.2.0.0/24", "10.1.0.0/24")]
        async with Daemon(tmp_path / "a") as alpha, Daemon(tmp_path / "b") as beta:
            for daemon, (here, there, ours, theirs) in zip((beta, alpha), ends[::-1], strict=True):
                kind = ConnectionType.INITIATOR_ONLY if daemon is alpha else ConnectionType.RESPONDER_ONLY
                negotiated = tunnel("n", here, there, local_ts=ours, remote_ts=theirs, connection_type=kind)
                made = manual("m", here, there, children=[VOICE])
                await daemon.configure(document("g", [negotiated], [psk(here, there)], manual_tunnels=[made]))
            await alpha.until_up("n")
            await beta.until_up("n")
            for daemon in (alpha, beta):
                await until(daemon, "m", lambda now: now.state is TunnelState.UP)
                reqids = {spec.tunnel_id: spec.reqid for spec in daemon.driver.sas.values()}
                assert len(set(reqids.values())) == 2
                assert [each["kind"] for each in (await daemon.status())["tunnels"]] == ["static", "manual"]
            alpha.driver.lose()
            await until(alpha, "n", is_up)
            await until(alpha, "m", lambda now: now.state is TunnelState.UP)

    async def test_a_negotiated_tunnel_does_not_take_the_traffic(self, tmp_path: Path) -> None:
        """Where policies choose among tunnels, the second of two with the same networks would replace the first."""
        alpha_at, beta_at = loopback(23), loopback(24)
        async with Daemon(tmp_path / "a") as alpha, Daemon(tmp_path / "b") as beta:
            back = tunnel("n", beta_at, alpha_at, local_ts="10.2.0.0/24", remote_ts="10.1.0.0/24",
                          connection_type=ConnectionType.RESPONDER_ONLY)  # fmt: skip
            await beta.configure(document("g", [back], [psk(beta_at, alpha_at)]))
            negotiated = tunnel("n", alpha_at, beta_at, connection_type=ConnectionType.INITIATOR_ONLY)
            keys, made = [psk(alpha_at, beta_at)], with_children(manual_child())
            await alpha.configure(document("g", [], [], manual_tunnels=[made]))
            await until(alpha, "m", lambda now: now.state is TunnelState.UP)
            await alpha.configure(document("g", [negotiated], keys, manual_tunnels=[made], generation=2))
            event = await alpha.until_event("child.selectors-taken")
            assert event.configured == "tunnel m"
            assert (await alpha.tunnel("m")).state is TunnelState.UP
            assert {policy.tunnel_id for policy in alpha.driver.policies.values()} == {uid("m")}
            await alpha.configure(document("g", [negotiated], keys, generation=3))
            assert (await alpha.act("initiate", uid("n")))["accepted"]
            await alpha.until_up("n")
            await alpha.configure(document("g", [negotiated], keys, manual_tunnels=[made], generation=4))
            refused = await until(alpha, "m", lambda now: now.reason is not None)
            assert refused.reason is not None
            assert refused.reason.message == "net: tunnel n protects this traffic already"
            await alpha.configure(document("g", [], [], manual_tunnels=[made], generation=5))
            await until(alpha, "m", lambda now: now.state is TunnelState.UP)


async def test_a_loss_in_the_middle_of_the_work_counts_nothing_twice(daemon: Daemon) -> None:
    """The old data plane still answers when the new one is opened; what it said is of no account."""
    gate = asyncio.Event()

    class Slow(FakeDriver):
        async def add_policy(self, spec: PolicySpec) -> None:
            await gate.wait()
            await super().add_policy(spec)

    slow = Slow()
    await daemon.stop()
    daemon._planes = Planes(lambda: slow, lambda: slow)
    await daemon.start()
    await daemon.configure(of(with_children(manual_child())))
    await asyncio.wait_for(_until_called(slow, "add_sa", 2), 60)
    slow.lose()
    gate.set()
    status = await until(daemon, "m", lambda now: now.state is TunnelState.UP and len(slow.sas) == 2)
    assert len(slow.policies) == 2
    assert status.counters == Counters()


async def _until_called(driver: FakeDriver, operation: str, times: int) -> None:
    while sum(call[0] == operation for call in driver.calls) < times:
        await asyncio.sleep(0)
