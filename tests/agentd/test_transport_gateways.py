"""Two gateways with all their processes, in transport mode through the userspace data plane: nothing is led by hand."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agents.contract.config import DataPlane, GatewayDocument, Mode, TrafficSelector
from agents.contract.status import Counters
from agents.dataplane.outer import OUTER_MARK
from tests.agentd.gateways import OUTER, ROOT, Gateway, Pair, eventually, gateway_document, other
from tests.harness import echo

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def between_hosts(
    name: str, generation: int, *, protocol: int = 0, filtered: bool = False, in_udp: bool = False
) -> GatewayDocument:
    """The document of one gateway: whatever its networks say, transport mode is between the two gateways themselves."""
    given = gateway_document(name, generation)
    child = dataclasses.replace(
        given.tunnels[0].children[0],
        mode=Mode.TRANSPORT,
        local_ts=(TrafficSelector(network="192.0.2.0/24", protocol=protocol),),
        remote_ts=(TrafficSelector(network=f"{OUTER[other(name)]}/32", protocol=protocol),),
    )
    tunnel = dataclasses.replace(given.tunnels[0], children=(child,), force_udp_encapsulation=in_udp)
    return dataclasses.replace(
        given, tunnels=(tunnel,), data_plane=DataPlane.USERSPACE, packet_filter=filtered
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("transport"))
    try:
        made.build()
        for name, gateway in made.gateways.items():
            for interface in ("all", "wan"):
                gateway.namespace.sysctl(f"net.ipv4.conf.{interface}.rp_filter", 1)
            gateway.configure(between_hosts(name, 1))
        yield made
    finally:
        made.remove()


@pytest.fixture
def paris(pair: Pair) -> Gateway:
    """Paris, with the tunnel up at both ends and what leads to it."""
    for gateway in pair.gateways.values():
        eventually(lambda gateway=gateway: gateway.up() and led(gateway))  # type: ignore[misc]
    return pair.gateways["paris"]


def led(gateway: Gateway) -> bool:
    return "fwmark 0/0x8000000" in gateway.namespace.ip("rule") and "proto 86" in gateway.namespace.ip(
        "route", "show", "table", "all"
    )


def ping(gateway: Gateway, payload: int = 56) -> bool:
    """From the gateway itself to the other, without a word about the source."""
    target = OUTER[other(gateway.name)]
    with echo.opened(gateway.namespace, target) as raw:
        return echo.answers(raw, target, 2, payload, interval_s=0.05, none_s=5.0) == 2


def carried(gateway: Gateway) -> Counters:
    return gateway.status().tunnels[0].counters


def passes(gateway: Gateway, payload: int) -> tuple[bool, int]:
    """Whether a ping is answered, and how many packets of it the tunnel has carried."""
    before = carried(gateway).packets_out
    return ping(gateway, payload), carried(gateway).packets_out - before


def stream(paris: Gateway, lyon: Gateway, octets: int) -> str:
    """Send octets by TCP from one gateway to the other; what the sender says of it."""
    command = [sys.executable, "-m", "tests.espd.transfer"]
    place = [OUTER["lyon"], "7000"]
    serving = subprocess.Popen(
        lyon.namespace.command([*command, "serve", *place]), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline() == "ready\n"
        sent = subprocess.run(
            paris.namespace.command([*command, "send", *place, str(octets)]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return sent.stdout
    finally:
        serving.kill()
        serving.wait()
        if serving.stdout is not None:
            serving.stdout.close()


@pytest.mark.parametrize("payload", [56, 3_000, 60_000])
def test_what_the_gateways_say_goes_in_whole_datagrams(paris: Gateway, payload: int) -> None:
    assert passes(paris, payload) == (True, 2)


def test_streams_go_in_segments_that_fit(paris: Gateway, pair: Pair) -> None:
    before = carried(paris).packets_out
    refused = dropped(paris)
    assert stream(paris, pair.gateways["lyon"], 500_000) == "same\n"
    assert carried(paris).packets_out - before > 500_000 // 1_400
    assert dropped(paris) == refused


def dropped(gateway: Gateway) -> dict[str, int]:
    """What espd dropped, by why; packets the kernel itself puts on the link are left out."""
    return {row.name: row.count for row in gateway.status().data_plane_counts if row.name != "out.no-policy"}


@pytest.mark.parametrize("verb", ["rekey-child", "rekey-ike"])
def test_ike_goes_on_beside_it(paris: Gateway, pair: Pair, verb: str) -> None:
    """All of it has the addresses that the selectors take: rekeys of both kinds, and liveness checks meanwhile."""
    old = spis(paris, verb)
    assert paris.act(f"transport-{verb}", verb)["accepted"]
    eventually(lambda: not spis(paris, verb) & old)
    assert passes(paris, 3_000) == (True, 2)
    assert pair.gateways["lyon"].up()
    assert paris.events("agent.repaired") == [], "what was laid is what is wanted"


def spis(gateway: Gateway, verb: str) -> set[str]:
    """Of the SAs that a verb is about."""
    tunnel = gateway.status().tunnels[0]
    if verb == "rekey-ike":
        return {sa.spi_i for sa in tunnel.ike_sas}
    return {sa.spi_in for child in tunnel.children for sa in child.sas}


def test_espd_comes_back_and_so_do_the_rules(paris: Gateway) -> None:
    pid = paris.pid("espd")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _other(paris, pid))
    eventually(lambda: paris.up() and led(paris) and passes(paris, 3_000) == (True, 2))


def _other(gateway: Gateway, pid: int) -> bool:
    try:
        return gateway.pid("espd") != pid
    except LookupError:
        return False


def test_what_no_selector_takes_stays_in_the_clear(pair: Pair, paris: Gateway) -> None:
    lyon = pair.gateways["lyon"]
    for name, gateway in pair.gateways.items():
        gateway.configure(between_hosts(name, 2, protocol=6))
    for gateway in (paris, lyon):
        eventually(lambda gateway=gateway: gateway.up() and "ipproto tcp" in gateway.namespace.ip("rule"))  # type: ignore[misc]
        eventually(lambda gateway=gateway: gateway.namespace.ip("rule").count("fwmark 0/") == 2)  # type: ignore[misc]
    assert passes(paris, 3_000) == (True, 0)
    before = carried(paris).packets_out
    assert stream(paris, lyon, 100_000) == "same\n"
    assert carried(paris).packets_out > before
    for name, gateway in pair.gateways.items():
        gateway.configure(between_hosts(name, 3))
    for gateway in (paris, lyon):
        eventually(lambda gateway=gateway: gateway.namespace.ip("rule").count("fwmark 0/") == 4)  # type: ignore[misc]


@pytest.mark.needs("nft")
def test_the_packet_filter_lets_it_pass_and_nothing_in_the_clear(pair: Pair, paris: Gateway) -> None:
    lyon = pair.gateways["lyon"]
    for name, gateway in pair.gateways.items():
        gateway.configure(between_hosts(name, 4, filtered=True))
    for gateway in (paris, lyon):
        eventually(lambda gateway=gateway: gateway.status().applied_generation == 4 and led(gateway))  # type: ignore[misc]
    assert passes(paris, 3_000) == (True, 2)
    before = filtered_out(paris)
    ping_in_the_clear(paris)
    assert filtered_out(paris) == (before[0] + 2, before[1])
    paris.configure(between_hosts("paris", 5))
    eventually(lambda: paris.status().applied_generation == 5 and led(paris))
    before = filtered_out(lyon)
    ping_in_the_clear(paris)
    assert filtered_out(lyon) == (before[0], before[1] + 2)


def filtered_out(gateway: Gateway) -> tuple[int, int]:
    """Packets in clear text that a gateway's filter has kept in, and kept out."""
    counters = gateway.status().tunnels[0].filter
    assert counters is not None
    return counters.dropped_leaving, counters.dropped_clear


def ping_in_the_clear(paris: Gateway) -> None:
    """Say what is none of iked's and espd's past the rules, as their sockets do; lyon does not answer."""
    mark = str(OUTER_MARK)
    shown = paris.namespace.run("ping", "-c", "2", "-i", "0.05", "-W", "1", "-m", mark, OUTER["lyon"], check=False)
    assert "0 received" in shown


@pytest.mark.needs("nft")
def test_in_udp_it_is_the_same(pair: Pair, paris: Gateway) -> None:
    """IKE and ESP have UDP 4500 and the addresses that the selectors take, past the rules and the packet filter."""
    for name, gateway in pair.gateways.items():
        gateway.configure(between_hosts(name, 6, filtered=True, in_udp=True))
    for gateway in pair.gateways.values():
        eventually(lambda gateway=gateway: gateway.status().applied_generation == 6 and in_udp(gateway))  # type: ignore[misc]
        eventually(lambda gateway=gateway: led(gateway) and gateway.up())  # type: ignore[misc]
    assert passes(paris, 3_000) == (True, 2)
    assert stream(paris, pair.gateways["lyon"], 100_000) == "same\n"
    old = spis(paris, "rekey-child")
    assert paris.act("transport-in-udp", "rekey-child")["accepted"]
    eventually(lambda: not spis(paris, "rekey-child") & old)
    answered, packets = passes(paris, 56)
    assert (answered, packets >= 2) == (True, True), "the stream before may have had a last word"


def in_udp(gateway: Gateway) -> bool:
    """Whether each SA that stands goes in UDP."""
    sas = [sa for child in gateway.status().tunnels[0].children for sa in child.sas]
    return bool(sas) and all(sa.udp_encapsulation and sa.mode == Mode.TRANSPORT for sa in sas)


def test_rules_and_routes_go_with_the_sa(pair: Pair, paris: Gateway) -> None:
    for name, gateway in pair.gateways.items():
        gateway.configure(dataclasses.replace(between_hosts(name, 7), tunnels=()))
    for gateway in pair.gateways.values():
        eventually(lambda gateway=gateway: "fwmark 0/" not in gateway.namespace.ip("rule"))  # type: ignore[misc]
        eventually(lambda gateway=gateway: "proto 86" not in gateway.namespace.ip("route", "show", "table", "all"))  # type: ignore[misc]
    assert ping(paris, 3_000)
