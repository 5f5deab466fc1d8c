"""Numbers and traffic of SAs with manual keys are nobody else's."""

from __future__ import annotations

from agents.contract.config import GatewayDocument
from agents.dataplane.base import REQID_BASE, Direction, PolicySpec, Selector
from agents.ike.engine import Engine
from tests.iked.cast import AH_SHA1, document, manual, manual_child


class Scripted:
    """Entropy that gives these SPIs."""

    def __init__(self, *spis: int) -> None:
        self._octets = [spi.to_bytes(4, "big") for spi in spis]

    def octets(self, count: int) -> bytes:
        assert count == 4
        return self._octets.pop(0)

    def uniform(self) -> float:
        return 0.5


def of(*names: str) -> GatewayDocument:
    children = [manual_child(), manual_child("ah", "10.3.0.0/24", sa=AH_SHA1)]
    return document(
        "g", [], [], manual_tunnels=[manual(name, "192.0.2.1", "192.0.2.2", children=children) for name in names]
    )


def test_a_negotiation_takes_no_spi_of_manual_keys() -> None:
    engine = Engine(Scripted(0x1001, 0x2001, 0x3001, 0x1001))
    engine.configure(of("m"), 0.0)
    assert engine.hub.new_esp_spi() == 0x3001
    engine.configure(of(), 0.0)
    assert engine.hub.new_esp_spi() == 0x1001


def test_a_reqid_is_a_childs_as_long_as_its_tunnel_is_configured() -> None:
    engine = Engine(Scripted())
    engine.configure(of("m"), 0.0)
    found = [engine.reqid(of("m").manual_tunnels[0].id, name) for name in ("net", "ah")]
    assert found == [REQID_BASE + 1, REQID_BASE + 2]
    engine.configure(of("m"), 0.0)
    assert engine.reqid(of("m").manual_tunnels[0].id, "ah") == found[1]
    assert engine.hub.reqid("another", "net", 0) == REQID_BASE + 3


def test_traffic_is_claimed_by_one_and_given_back() -> None:
    engine = Engine(Scripted())
    engine.configure(of("m"), 0.0)
    tunnel_id = of("m").manual_tunnels[0].id

    def claim(child: str) -> tuple[PolicySpec, ...]:
        return (
            PolicySpec(
                tunnel_id=tunnel_id,
                direction=Direction.OUT,
                selector=Selector(source="10.1.0.0/24", destination="10.2.0.0/24"),
                source="192.0.2.1",
                destination="192.0.2.2",
                reqid=engine.reqid(tunnel_id, child),
            ),
        )

    assert engine.claim(claim("net")) is None
    assert engine.claim(claim("ah")) == "tunnel m"
    engine.release(claim("net"))
    assert engine.claim(claim("ah")) is None
