from __future__ import annotations

import asyncio
import dataclasses

import pytest

from agents.dataplane.base import Direction, PolicySpec, SaSpec, UdpEncapsulation
from agents.dataplane.fake import FakeDriver
from agents.ike.outputs import InstallChild, MoveChild, RemoveChild, SwitchOutbound
from agents.iked import effects as effects_module
from agents.iked.effects import Effects
from agents.iked.traffic import Traffic

from .cast import policy, sa

IN, OUT = Direction.IN, Direction.OUT
POLICIES = (policy(IN), policy(OUT))


class Heard:
    """Takes the results down."""

    def __init__(self) -> None:
        self.results: list[tuple[object, ...]] = []

    def child_installed(self, install_id: int) -> None:
        self.results.append(("installed", install_id))

    def child_install_failed(self, install_id: int, reason: str) -> None:
        self.results.append(("failed", install_id, reason))

    def child_unusable(self, tunnel_id: str, spi_in: int, reason: str) -> None:
        self.results.append(("unusable", tunnel_id, spi_in, reason))


async def rig(**options: float) -> tuple[FakeDriver, Effects, Heard]:
    heard = Heard()
    driver = FakeDriver()
    await driver.open()
    driver.calls.clear()
    effects = Effects(Traffic(), heard, **options)
    effects.attach(driver)
    return driver, effects, heard


async def lanes_empty(effects: Effects) -> None:
    """Wait until nothing is under way."""
    async with asyncio.timeout(60):
        while effects._tasks:
            await asyncio.sleep(0)


def install(
    install_id: int = 1, spi: int = 0x10, *, later: bool = False, replaces: tuple[SaSpec, ...] = ()
) -> InstallChild:
    return InstallChild(
        install_id=install_id, tunnel_id="t", child="net", inbound=sa(IN, spi), outbound=sa(OUT, spi + 1),
        policies=POLICIES, replaces=tuple(old.id for old in replaces), outbound_later=later,
    )  # fmt: skip


def remove(spi: int = 0x10, *, policies: bool = True) -> RemoveChild:
    return RemoveChild(
        tunnel_id="t", child="net", sas=(sa(IN, spi).id, sa(OUT, spi + 1).id), policies=POLICIES if policies else ()
    )


async def test_a_child_is_installed_inbound_first_then_policies() -> None:
    driver, effects, heard = await rig()
    effects.perform(install())
    await effects.settle(5)
    assert [operation for operation, _ in driver.calls] == ["add_sa", "add_sa", "add_policy", "add_policy"]
    assert driver.calls[0][1] == "esp 00000010 to 192.0.2.1"
    assert heard.results == [("installed", 1)]


async def test_a_refused_installation_leaves_nothing_and_says_why() -> None:
    for operation in ("add_sa", "add_policy"):
        driver, effects, heard = await rig()
        driver.fail(operation, reason="no such algorithm")
        effects.perform(install())
        await effects.settle(5)
        assert (driver.sas, driver.policies) == ({}, {})
        (result,) = heard.results
        assert result[:2] == ("failed", 1)
        assert "no such algorithm" in str(result[2])


async def test_a_refused_replacement_leaves_the_policies_of_the_old_sas() -> None:
    driver, effects, heard = await rig()
    effects.perform(install())
    await effects.settle(5)
    for _ in range(2):
        driver.fail("add_policy")
    effects.perform(install(2, 0x20, replaces=(sa(IN, 0x10), sa(OUT, 0x11))))
    await effects.settle(5)
    assert {key.spi for key in driver.sas} == {0x10, 0x11}
    assert len(driver.policies) == 2
    assert heard.results[-1][0] == "failed"


async def test_an_installation_given_up_before_or_while_it_happens_leaves_nothing_and_says_nothing() -> None:
    driver, effects, heard = await rig()
    effects.perform(install())
    effects.give_up_installs()
    await effects.settle(5)
    assert driver.calls == []
    add_policy = driver.add_policy

    async def give_up_first(spec: PolicySpec) -> None:
        effects.give_up_installs()
        await add_policy(spec)

    driver.add_policy = give_up_first  # type: ignore[method-assign]
    effects.perform(install(2))
    await effects.settle(5)
    assert (driver.sas, driver.policies, heard.results) == ({}, {}, [])


async def test_the_outbound_sa_waits_for_the_switch() -> None:
    driver, effects, _ = await rig()
    effects.perform(install(later=True))
    await effects.settle(5)
    assert [key.spi for key in driver.sas] == [0x10]
    effects.perform(SwitchOutbound(install_id=1))
    effects.perform(SwitchOutbound(install_id=1))  # a repeat changes nothing
    await effects.settle(5)
    assert [key.spi for key in driver.sas] == [0x10, 0x11]


async def test_a_child_removed_before_its_switch_never_gets_an_outbound_sa() -> None:
    driver, effects, _ = await rig()
    effects.perform(install(later=True))
    effects.perform(remove())
    await effects.settle(5)
    effects.perform(SwitchOutbound(install_id=1))
    await effects.settle(5)
    assert driver.sas == {}


async def test_a_refused_switch_makes_the_child_unusable() -> None:
    driver, effects, heard = await rig()
    effects.perform(install(later=True))
    await effects.settle(5)
    driver.fail("add_sa", reason="full")
    effects.perform(SwitchOutbound(install_id=1))
    await effects.settle(5)
    assert heard.results[-1][:3] == ("unusable", "t", 0x10)


async def test_removing_counts_last_and_takes_policies_before_sas() -> None:
    driver, effects, _ = await rig()
    traffic = effects._traffic
    effects.perform(install())
    await effects.settle(5)
    driver.count(sa(IN, 0x10).id, packets=4, octets=400)
    driver.calls.clear()
    effects.perform(remove())
    await effects.settle(5)
    assert [operation for operation, _ in driver.calls] == [
        "list_sas", "remove_policy", "remove_policy", "remove_sa", "remove_sa",
    ]  # fmt: skip
    assert traffic.totals()["t"].counters.packets_in == 4


async def test_a_failing_removal_does_not_stop_the_others() -> None:
    driver, effects, _ = await rig()
    effects.perform(install())
    await effects.settle(5)
    driver.fail("remove_sa")
    effects.perform(remove())
    await effects.settle(5)
    assert len(driver.sas) == 1


async def test_effects_of_one_tunnel_keep_their_order_while_another_goes_on() -> None:
    driver, effects, heard = await rig()
    effects.detach("away", for_good=False)
    effects.perform(install(1))
    effects.perform(remove())
    effects.perform(install(2, 0x30))
    await asyncio.sleep(0)
    assert driver.calls == []
    effects.attach(driver)
    await effects.settle(5)
    assert {key.spi for key in driver.sas} == {0x30, 0x31}
    assert heard.results == [("installed", 1), ("installed", 2)]


async def test_an_absent_data_plane_fails_installations_after_a_while_with_its_reason() -> None:
    driver, effects, heard = await rig(patience_s=0.05)
    effects.detach("espd is away", for_good=False)
    effects.perform(install())
    await asyncio.wait(set(effects._tasks), timeout=5)
    assert "espd is away" in str(heard.results[0][2])
    effects.detach("no ESP here", for_good=True)
    effects.perform(install(2))
    await asyncio.wait(set(effects._tasks), timeout=5)
    assert "no ESP here" in str(heard.results[1][2])
    assert driver.sas == {}


async def test_a_moved_child_is_updated_in_place() -> None:
    driver, effects, _ = await rig()
    effects.perform(install())
    await effects.settle(5)
    ports = UdpEncapsulation(source_port=4500, destination_port=40_000)
    old = sa(OUT, 0x11)
    new = dataclasses.replace(old, destination="198.51.100.7", encapsulation=ports)
    effects.perform(MoveChild(tunnel_id="t", old=old.id, spec=new))
    await effects.settle(5)
    assert driver.sas[new.id].encapsulation == ports
    assert old.id not in driver.sas
    assert effects._traffic.child_of(new.id) == ("t", 0x10)


async def test_a_child_moved_before_its_switch_sends_to_the_new_place() -> None:
    driver, effects, heard = await rig()
    effects.perform(install(later=True))
    await effects.settle(5)
    ports = UdpEncapsulation(source_port=4500, destination_port=40_000)
    old = sa(OUT, 0x11)
    new = dataclasses.replace(old, destination="198.51.100.7", encapsulation=ports)
    effects.perform(MoveChild(tunnel_id="t", old=old.id, spec=new))
    effects.perform(SwitchOutbound(install_id=1))
    await effects.settle(5)
    assert driver.sas[new.id].encapsulation == ports
    assert old.id not in driver.sas
    assert effects._traffic.child_of(new.id) == ("t", 0x10)
    assert [each[0] for each in heard.results] == ["installed"]


async def test_a_reqid_names_its_tunnel_while_its_policies_are_there() -> None:
    _, effects, _ = await rig()
    effects.perform(install())
    await effects.settle(5)
    assert effects.tunnel_of(POLICIES[0].reqid) == "t"
    effects.perform(remove())
    await effects.settle(5)
    assert effects.tunnel_of(POLICIES[0].reqid) is None


class TestLingering:
    """What was sent on the old SA before the peer's Delete may come after it."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(effects_module, "LINGER_S", 0.2)

    async def replaced(self) -> tuple[FakeDriver, Effects]:
        """Return a data plane in which a second pair has just taken the place of the first."""
        driver, effects, _ = await rig()
        effects.perform(install())
        effects.perform(install(2, 0x20, replaces=(sa(IN, 0x10), sa(OUT, 0x11))))
        effects.perform(remove(policies=False))
        await lanes_empty(effects)
        return driver, effects

    async def test_the_inbound_sa_stays_a_while_and_the_outbound_one_does_not(self) -> None:
        driver, _effects = await self.replaced()
        assert {spec.spi for spec in driver.sas.values()} == {0x10, 0x20, 0x21}
        async with asyncio.timeout(60):
            while len(driver.sas) > 2:
                await asyncio.sleep(0.01)
        assert {spec.spi for spec in driver.sas.values()} == {0x20, 0x21}
        assert len(driver.policies) == 2

    async def test_it_goes_with_the_child(self) -> None:
        driver, effects = await self.replaced()
        effects.perform(remove(0x20))
        await lanes_empty(effects)
        assert (driver.sas, driver.policies) == ({}, {})

    async def test_it_is_not_touched_in_the_next_data_plane(self) -> None:
        driver, effects = await self.replaced()
        driver.lose()
        effects.give_up_installs()
        driver.calls.clear()
        await asyncio.sleep(0.3)
        assert driver.calls == []

    async def test_what_it_counts_is_the_childs(self) -> None:
        driver, effects = await self.replaced()
        traffic = effects._traffic
        driver.count(sa(IN, 0x10).id, packets=2, octets=20)
        async with asyncio.timeout(60):
            while len(driver.sas) > 2:
                await asyncio.sleep(0.01)
        assert traffic.totals()["t"].counters.packets_in == 2
