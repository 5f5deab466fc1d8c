"""Each step of a negotiation is an event with a stable code, once, at both ends (FEATURES A23)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import IkePolicy, IpsecProposal
from agents.contract.events import KINDS, STEPS
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Report
from tests.harness.documents import FAST_IKE, Side, child, key, pair
from tests.harness.world import Host, Network, World, up

CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")


def steps(host: Host) -> list[str]:
    return [report.code for report in host.reports if report.code in STEPS]


def meet(
    sides: tuple[Side, Side], seconds: float = 0.4, network: Network | None = None, limits: HalfOpenLimits | None = None
) -> tuple[World, Host, Host]:
    world = World(network=network)
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2", limits=limits)
    lyon.configure(sides[1].document())
    paris.configure(sides[0].document())
    world.run(seconds)
    return world, paris, lyon


def of(host: Host, code: str) -> Report:
    (found,) = [report for report in host.reports if report.code == code]
    return found


IN_PLACE = ["child.established", "child.installed", "child.policies-installed"]


class TestSequences:
    """Up to the first retry; what each end reports of one negotiation, in its order."""

    def test_success(self) -> None:
        _, paris, lyon = meet(pair())
        assert up(paris, lyon)()
        assert steps(paris) == ["ike.initiate", "ike.sa-requested", "child.requested", "ike.sa-established", *IN_PLACE]
        assert steps(lyon) == ["ike.sa-established", *IN_PLACE]

    def test_success_with_a_cookie_between(self) -> None:
        _, paris, lyon = meet(pair(), limits=HalfOpenLimits(cookie_threshold=0))
        assert steps(paris) == ["ike.initiate", "ike.sa-requested", "child.requested", "ike.sa-established", *IN_PLACE]
        assert steps(lyon) == ["ike.sa-established", *IN_PLACE]

    def test_a_second_child(self) -> None:
        children = (child(), child("voice", local=("10.3.0.0/16",), remote=("10.4.0.0/16",)))
        _, paris, lyon = meet(pair(children=children))
        voice = [each.code for each in paris.reports if each.attributes.get("child") == "voice" and each.code in STEPS]
        assert voice == ["child.requested", *IN_PLACE]
        assert steps(lyon) == ["ike.sa-established", *IN_PLACE, *IN_PLACE]

    def test_wrong_psk(self) -> None:
        left, right = pair()
        right.keys = [key(b"another secret", "192.0.2.2", "192.0.2.1")]
        _, paris, lyon = meet((left, right))
        assert steps(paris) == ["ike.initiate", "ike.sa-requested", "child.requested", "ike.sa-failed"]
        assert steps(lyon) == ["ike.sa-failed"]
        assert of(paris, "ike.sa-failed").attributes["cause"] == "ike.peer-refused-auth"
        assert of(lyon, "ike.sa-failed").attributes["cause"] == "ike.psk-mismatch"

    def test_no_ike_proposal(self) -> None:
        left, right = pair()
        right.change(ike=IkePolicy(proposals=(replace(FAST_IKE, group="group-19"),)))
        _, paris, lyon = meet((left, right))
        assert steps(paris) == ["ike.initiate", "ike.sa-requested", "ike.sa-failed"]
        assert steps(lyon) == ["ike.sa-failed"]
        assert of(paris, "ike.sa-failed").attributes["cause"] == "ike.peer-refused-proposal"
        assert of(lyon, "ike.sa-failed").attributes["cause"] == "ike.no-proposal"

    def test_no_ipsec_proposal(self) -> None:
        left, right = pair()
        right.change(children=(replace(right.tunnels[0].children[0], proposals=(CBC,)),))
        _, paris, lyon = meet((left, right))
        assert steps(paris) == [
            "ike.initiate",
            "ike.sa-requested",
            "child.requested",
            "ike.sa-established",
            "child.failed",
        ]
        assert sorted(steps(lyon)) == ["child.failed", "ike.sa-established"]
        assert of(paris, "child.failed").attributes["cause"] == "child.peer-refused-proposal"

    def test_traffic_selectors_that_do_not_meet(self) -> None:
        left, right = pair()
        right.change(children=(child(local=("10.8.0.0/16",), remote=("10.9.0.0/16",)),))
        _, paris, lyon = meet((left, right))
        assert steps(paris)[-1] == "child.failed"
        assert of(paris, "child.failed").attributes["cause"] == "child.peer-refused-ts"
        assert of(lyon, "child.failed").attributes["cause"] == "child.ts-unacceptable"

    def test_unanswered(self) -> None:
        _, paris, lyon = meet(pair(), 0.2, Network(loss=1.0))
        assert steps(paris) == ["ike.initiate", "ike.sa-requested"]
        assert steps(lyon) == []

    def test_unanswered_to_the_end(self) -> None:
        world, paris, _ = meet(pair(), 0.2, Network(loss=1.0))
        assert world.run(600, lambda: "ike.sa-failed" in paris.codes())
        assert steps(paris)[:3] == ["ike.initiate", "ike.sa-requested", "ike.sa-failed"]
        assert of(paris, "ike.sa-failed").attributes["cause"] == "ike.peer-unresponsive"

    def test_a_peer_that_begins_and_never_proves_itself(self) -> None:
        network = Network(rewrite=lambda sent: None if sent.datagram[18] == 35 else sent)
        world, paris, lyon = meet(pair(), 0.2, network)
        world.run(40, lambda: "ike.sa-failed" in lyon.codes())
        assert steps(lyon) == ["ike.sa-failed"]
        assert lyon.codes()["ike.peer-initiates"] == 1
        assert "child.established" not in steps(paris)

    def test_the_data_plane_refuses(self) -> None:
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        paris.data_plane.refuse = "no room"
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.4)
        assert steps(paris)[-1] == "child.failed"
        assert of(paris, "child.failed").attributes["cause"] == "child.install-failed"


class TestAttributes:
    def test_a_page_can_order_them(self) -> None:
        _, paris, lyon = meet(pair())
        for host, role in ((paris, "initiator"), (lyon, "responder")):
            reports = [report for report in host.reports if report.code in STEPS]
            assert {report.attributes["role"] for report in reports} == {role}
            ordered = sorted(reports, key=lambda report: STEPS[report.code])
            assert [STEPS[report.code] for report in ordered] == list(range(1 if role == "initiator" else 3, 8))[
                : len(ordered)
            ] or role == "responder"
        established = of(paris, "ike.sa-established")
        assert established.attributes["ike_sa"] == of(lyon, "ike.sa-established").attributes["ike_sa"]
        assert established.attributes["message"] == "ike-auth 1"
        assert of(paris, "child.requested").attributes["child"] == "main"

    @pytest.mark.parametrize("code", STEPS)
    def test_every_step_is_a_kind_of_event(self, code: str) -> None:
        assert KINDS[code].summary
