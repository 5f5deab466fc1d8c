"""Messages are counted by exchange type, once however often or in how many pieces they came."""

from __future__ import annotations

from dataclasses import replace

from agents.contract.status import ExchangeCounters
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Transmit
from tests.harness.documents import child, key, pair
from tests.harness.world import Host, Network, World, up
from tests.ike.v2.test_fragments import SMALL, many_networks
from tests.ike.v2.test_robustness import forge, give, standing


def of(host: Host, exchange: str) -> ExchangeCounters:
    return next(each for each in host.engine.exchange_counters() if each.exchange == exchange)


def test_a_negotiation() -> None:
    _, paris, lyon = standing()
    for exchange in ("ike-sa-init", "ike-auth"):
        assert of(paris, exchange) == ExchangeCounters(exchange=exchange, requests_out=1, responses_in=1)
        assert of(lyon, exchange) == ExchangeCounters(exchange=exchange, requests_in=1, responses_out=1)
    assert of(paris, "create-child-sa") == ExchangeCounters(exchange="create-child-sa")


def test_repetitions_are_counted_apart() -> None:
    _, paris, lyon = standing()
    request = forge(paris, ())
    for _ in range(3):
        give(lyon, request)
    found = of(lyon, "informational")
    assert (found.requests_in, found.retransmissions_in) == (1, 2)
    assert (found.responses_out, found.retransmissions_out) == (1, 2)


def test_loss() -> None:
    lost: list[Transmit] = []

    def lose(transmit: Transmit) -> Transmit | None:
        if transmit.datagram[18] == 35 and len(lost) < 2:
            lost.append(transmit)
            return None
        return transmit

    world = World(network=Network(rewrite=lose))
    left, right = pair()
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    assert world.run(30, up(paris, lyon))
    found = of(paris, "ike-auth")
    assert (found.requests_out, found.retransmissions_out, found.responses_in) == (1, 2, 1)


def test_a_fragmented_message_is_one() -> None:
    world = World()
    left, right = pair(ike=SMALL, children=many_networks())
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    assert world.run(5, up(paris, lyon))
    assert of(lyon, "ike-auth") == ExchangeCounters(exchange="ike-auth", requests_in=1, responses_out=1)


def test_refusals_and_cookies() -> None:
    world = World()
    left, right = pair()
    right.keys = [key(b"another", "192.0.2.2", "192.0.2.1")]
    paris = world.host("paris", "192.0.2.1")
    lyon = world.host("lyon", "192.0.2.2", limits=HalfOpenLimits(cookie_threshold=0))
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(0.4)
    first = of(lyon, "ike-sa-init")
    assert (first.requests_in, first.responses_out, first.refused) == (2, 2, 0)
    assert of(lyon, "ike-auth").refused == 1


def test_a_child_refused() -> None:
    world = World()
    left, right = pair()
    extra = child("voice", local=("10.7.0.0/16",), remote=("10.8.0.0/16",))
    left.change(children=(left.tunnels[0].children[0], extra))
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(0.5)
    found = of(lyon, "create-child-sa")
    assert (found.requests_in, found.refused) == (1, 1)
    assert replace(found, requests_in=0, refused=0, responses_out=0) == ExchangeCounters(exchange="create-child-sa")
