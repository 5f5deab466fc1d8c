"""The driver on this machine's own kernel, as far as that goes without ESP: policies, ownership, refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    DataplaneError,
    Direction,
    Driver,
    PolicySpec,
    Repaired,
    SaId,
    SaSpec,
    Selector,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.kernel import KernelDriver, channel

InNamespace = Callable[[Callable[[], Awaitable[Any]]], None]

IN = PolicySpec(
    tunnel_id="t",
    direction=Direction.IN,
    selector=Selector(source="10.2.0.0/24", destination="10.1.0.0/24"),
    source="192.0.2.2",
    destination="192.0.2.1",
    reqid=REQID_BASE + 1,
)
OUT = PolicySpec(
    tunnel_id="t",
    direction=Direction.OUT,
    selector=Selector(source="10.1.0.0/24", destination="10.2.0.0/24"),
    source="192.0.2.1",
    destination="192.0.2.2",
    reqid=REQID_BASE + 1,
)
SA = SaSpec(
    tunnel_id="t",
    direction=Direction.OUT,
    spi=0x1234,
    source="192.0.2.1",
    destination="192.0.2.2",
    reqid=REQID_BASE + 1,
    encryption="aes-128-gcm-16",
    encryption_key=Secret(bytes(20)),
)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def foreign_policy(reqid: int, network: str = "10.9.0.0/16") -> None:
    ip(
        "xfrm", "policy", "add", "src", network, "dst", "10.8.0.0/16", "dir", "out", "tmpl", "src", "192.0.2.7",
        "dst", "192.0.2.8", "proto", "esp", "reqid", str(reqid), "mode", "tunnel",
    )  # fmt: skip


def test_is_a_driver() -> None:
    driver: Driver = KernelDriver()
    assert driver is not None


async def test_nothing_works_before_open() -> None:
    with pytest.raises(DataplaneError) as caught:
        await KernelDriver().add_policy(OUT)
    assert caught.value.errno == errno.ENOTCONN


@pytest.mark.needs("root")
def test_policies_are_written_read_and_removed(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        await driver.add_policy(IN)
        await driver.add_policy(OUT)
        assert set(await driver.list_policies()) == {IN, OUT}
        shown = ip("xfrm", "policy")
        assert [f"dir {name} " in shown for name in ("in", "fwd", "out")] == [True, True, True]
        assert f"reqid {REQID_BASE + 1} mode tunnel" in shown
        changed = dataclasses.replace(OUT, priority=7, destination="192.0.2.99")
        await driver.add_policy(changed)
        assert set(await driver.list_policies()) == {IN, changed}
        await driver.remove_policy(IN)
        await driver.remove_policy(IN)
        assert await driver.list_policies() == (changed,)
        assert "dir fwd" not in ip("xfrm", "policy")
        await driver.close()
        assert ip("xfrm", "policy") == ""

    in_namespace(body)


@pytest.mark.needs("root")
def test_ipv6_policies(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        six = dataclasses.replace(
            OUT, selector=Selector(source="fd01::/64", destination="::/0", protocol=17, destination_ports=(53, 53))
        )
        await driver.add_policy(six)
        assert await driver.list_policies() == (six,)
        await driver.close()

    in_namespace(body)


@pytest.mark.needs("root")
def test_any_range_of_ports_is_one_policy_of_several_rows(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        selector = dataclasses.replace(IN.selector, protocol=6, source_ports=(81, 83), destination_ports=(80, 90))
        spec = dataclasses.replace(IN, selector=selector)
        await driver.add_policy(spec)
        assert ip("xfrm", "policy").count("dir in ") == 6
        assert await driver.list_policies() == (spec,)
        ip(
            "xfrm", "policy", "delete", "src", selector.source, "dst", selector.destination, "proto", "tcp",
            "sport", "81", "dport", "90", "dir", "in",
        )  # fmt: skip
        assert spec not in await driver.list_policies()
        await until(driver, {spec})
        await driver.remove_policy(spec)
        assert ip("xfrm", "policy") == ""
        await driver.close()

    in_namespace(body)


async def until(driver: KernelDriver, wanted: set[PolicySpec]) -> None:
    """Wait for a repair, which nobody announces."""
    async with asyncio.timeout(60):
        while set(await driver.list_policies()) != wanted:
            await asyncio.sleep(0.01)


@pytest.mark.needs("root")
def test_policies_that_somebody_removes_come_back(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        await driver.add_policy(IN)
        await driver.add_policy(OUT)
        ip("xfrm", "policy", "delete", "src", "10.2.0.0/24", "dst", "10.1.0.0/24", "dir", "fwd")
        assert await driver.list_policies() == (OUT,), "an inbound policy without its forward twin is not one"
        await until(driver, {IN, OUT})
        ip("xfrm", "policy", "flush")
        await until(driver, {IN, OUT})
        await driver.remove_policy(IN)
        ip("xfrm", "policy", "flush")
        await until(driver, {OUT})
        notices = driver.notices()
        await driver.close()
        told = [notice async for notice in notices]
        assert all(isinstance(notice, Repaired) and notice.reqid == OUT.reqid for notice in told)
        details = [notice.detail for notice in told if isinstance(notice, Repaired)]
        assert details[0] == "The policy in 10.2.0.0/24 to 10.1.0.0/24 was removed by someone else and is back"
        assert len(details) >= 4
        assert ip("xfrm", "policy") == ""

    in_namespace(body)


@pytest.mark.needs("root")
def test_our_own_removals_and_replacements_are_no_damage(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        notices = driver.notices()
        await driver.add_policy(OUT)
        await driver.add_policy(dataclasses.replace(OUT, priority=3))
        await driver.remove_policy(OUT)
        await driver.add_policy(OUT)
        assert await driver.list_policies() == (OUT,)
        await driver.remove_policy(OUT)
        assert await driver.list_policies() == ()
        await driver.close()
        assert [notice async for notice in notices] == []

    in_namespace(body)


@pytest.mark.needs("root")
def test_open_and_close_remove_our_rows_only(in_namespace: InNamespace) -> None:
    async def body() -> None:
        foreign_policy(7)
        theirs = ip("xfrm", "policy")
        foreign_policy(REQID_BASE + 65535, "10.10.0.0/16")
        driver = KernelDriver()
        await driver.open()
        assert ip("xfrm", "policy") == theirs
        await driver.add_policy(OUT)
        await driver.close()
        await driver.close()
        assert ip("xfrm", "policy") == theirs

    in_namespace(body)


@pytest.mark.needs("root")
def test_a_policy_of_another_owner_is_neither_replaced_nor_removed(in_namespace: InNamespace) -> None:
    async def body() -> None:
        foreign_policy(7)
        theirs = ip("xfrm", "policy")
        driver = KernelDriver()
        await driver.open()
        same = dataclasses.replace(OUT, selector=Selector(source="10.9.0.0/16", destination="10.8.0.0/16"))
        with pytest.raises(DataplaneError, match="not ours") as caught:
            await driver.add_policy(same)
        assert caught.value.errno == errno.EEXIST
        await driver.remove_policy(same)
        assert ip("xfrm", "policy") == theirs
        await driver.close()

    in_namespace(body)


@pytest.mark.needs("root")
def test_half_an_inbound_policy_is_taken_back(in_namespace: InNamespace) -> None:
    async def body() -> None:
        ip(
            "xfrm", "policy", "add", "src", "10.2.0.0/24", "dst", "10.1.0.0/24", "dir", "fwd", "tmpl", "src",
            "192.0.2.7", "dst", "192.0.2.8", "proto", "esp", "reqid", "7", "mode", "tunnel",
        )  # fmt: skip
        theirs = ip("xfrm", "policy")
        driver = KernelDriver()
        await driver.open()
        with pytest.raises(DataplaneError, match="not ours"):
            await driver.add_policy(IN)
        assert ip("xfrm", "policy") == theirs
        await driver.close()

    in_namespace(body)


@pytest.mark.needs("root")
def test_another_tunnels_policy_of_the_same_selector_stays(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        await driver.add_policy(OUT)
        successor = dataclasses.replace(OUT, tunnel_id="u", reqid=REQID_BASE + 2)
        await driver.add_policy(successor)
        await driver.remove_policy(OUT)
        assert await driver.list_policies() == (successor,)
        await driver.close()

    in_namespace(body)


@pytest.mark.needs("root")
def test_the_kernels_own_sentence_is_the_reason(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        features = await driver.features()
        if not features.available:  # this kernel has no ESP: the very reason that the agent will report
            assert features.reason.startswith("the kernel refuses ESP SAs: ")
            with pytest.raises(DataplaneError) as caught:
                await driver.add_sa(SA)
            assert caught.value.operation == "add_sa"
            assert caught.value.target == "esp 00001234 to 192.0.2.2"
            assert caught.value.errno != 0
            assert "not found" in caught.value.reason, "more than the errno's own text"
        assert await driver.list_sas() == ()
        await driver.close()

    in_namespace(body)


async def test_a_kernel_without_xfrm_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "NETLINK_XFRM", 31)  # a netlink family that no kernel has
    features = await KernelDriver().features()
    assert not features.available
    assert "Protocol not supported" in features.reason
    with pytest.raises(DataplaneError, match="Protocol not supported"):
        await KernelDriver().open()


@pytest.mark.needs("root")
def test_debug_logs_show_no_keys(in_namespace: InNamespace, caplog: pytest.LogCaptureFixture) -> None:
    key = bytes(range(100, 120))

    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        spec = dataclasses.replace(SA, encryption_key=Secret(key))
        if (await driver.features()).available:
            await driver.add_sa(spec)
            await driver.list_sas()
        else:
            with pytest.raises(DataplaneError):
                await driver.add_sa(spec)
        await driver.close()

    with caplog.at_level("DEBUG"):
        in_namespace(body)
    assert "message" in caplog.text, "pyroute2 does log messages"
    for form in (key.hex(), key.hex(":"), repr(key)[2:-1], str(list(key))):
        assert form not in caplog.text


@pytest.mark.needs("root")
def test_probing_leaves_nothing(in_namespace: InNamespace) -> None:
    async def body() -> None:
        await KernelDriver().features()
        assert ip("xfrm", "state") == ""

    in_namespace(body)


@pytest.mark.needs("root")
def test_unknown_sas_and_links(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        nobody = SaId(spi=0x4321, destination="192.0.2.2")
        await driver.remove_sa(nobody)
        ports = UdpEncapsulation(source_port=4500, destination_port=4500)
        with pytest.raises(DataplaneError) as caught:
            await driver.update_mapping(nobody, "192.0.2.1", "192.0.2.3", ports)
        assert caught.value.errno == errno.ESRCH
        links = ip("link")
        await driver.open_link(TunnelLink(tunnel_id="t", name="vpn01234567", mtu=1400))
        assert ip("link") == links
        await driver.close_link("t")
        await driver.close()

    in_namespace(body)


@pytest.mark.needs("root")
def test_close_waits_for_those_who_ask(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        asked = [driver.add_policy(OUT), *(driver.list_policies() for _ in range(20)), driver.list_sas()]
        tasks = [asyncio.ensure_future(each) for each in asked]
        await asyncio.sleep(0)
        await driver.close()
        done = await asyncio.gather(*tasks, driver.list_sas(), return_exceptions=True)
        assert done[1] == (OUT,)
        assert isinstance(done[-1], DataplaneError), "asked after the end"
        assert ip("xfrm", "policy") == ""

    in_namespace(body)


@pytest.mark.needs("root")
def test_notices_end_with_close(in_namespace: InNamespace) -> None:
    async def body() -> None:
        driver = KernelDriver()
        await driver.open()
        notices = driver.notices()
        await driver.close()
        assert [notice async for notice in notices] == []

    in_namespace(body)
