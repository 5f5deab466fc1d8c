"""Notifies in clear: anybody can send one, so they are shown and never acted on (RFC 2408 section 5.15).

The attacker here knows all that goes over the wire, and so the cookies.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import ExchangeMode, Retransmission
from agents.contract.secret import Secret
from agents.contract.status import TunnelState
from agents.ike.outputs import Transmit
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.states import SaState
from agents.ike.wire.header import Header, classify
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.payloads import Delete, Notify, Payload
from agents.ike.wire.isakmp.registry import Exchange, NotifyType, Protocol
from tests.harness.v1 import FAST_IKE as IKE
from tests.harness.v1 import LYON, policy
from tests.harness.world import Host, Network, matched, up

from .ends import meet, only_sa, sides, standing, start, the

_ERRORS = [each for each in NotifyType if each < NotifyType.CONNECTED]


def forged(sa: IsakmpSa, *payloads: Payload, message_id: int = 77) -> bytes:
    """Return an Informational in clear with the SA's cookies."""
    header = Header(
        spi_i=sa.cookie_i, spi_r=sa.cookie_r, next_payload=0, exchange=Exchange.INFORMATIONAL, flags=0,
        message_id=message_id, version=0x10,
    )  # fmt: skip
    return wire.serialize_clear(header, payloads)


def attack(host: Host, sa: IsakmpSa, *payloads: Payload) -> None:
    """Let an attacker send to one end as if the other did."""
    host.do(lambda now: host.engine.receive(forged(sa, *payloads), sa.path, now))


def every_error(sa: IsakmpSa) -> tuple[Notify, ...]:
    return tuple(Notify(type=each, spi=sa.cookie_i + sa.cookie_r) for each in _ERRORS)


def _from_lyon(sent: Transmit) -> bool:
    return sent.path.local_address == LYON


@pytest.mark.parametrize(
    ("mode", "messages"),
    [
        *((ExchangeMode.MAIN, number) for number in range(1, 6)),
        *((ExchangeMode.AGGRESSIVE, number) for number in (1, 2)),
    ],
)
@pytest.mark.parametrize("target", ["paris", "lyon"])
def test_a_negotiation_goes_on(mode: ExchangeMode, messages: int, target: str) -> None:
    """After each message of phase 1 either end is told by an attacker that everything is wrong, and all is deleted."""
    ends = start(sides(mode))
    host = ends.named(target)
    assert ends.world.run(5, lambda: len(ends.world.log) == messages)
    machine = host.engine.v1
    assert machine is not None
    sas = tuple(machine.sas.values())
    for sa in sas:
        before = sa.state
        attack(host, sa, *every_error(sa))
        attack(host, sa, Delete(protocol=Protocol.ISAKMP, spis=(sa.cookie_i + sa.cookie_r,)))
        assert sa.state is before
    assert ends.world.run(5, up(ends.paris, ends.lyon))
    assert matched(ends.paris, ends.lyon)
    assert ends.paris.status().reason is None
    assert only_sa(host).state is SaState.ESTABLISHED
    if sas:
        assert sas[0] is only_sa(host)  # the same negotiation, not another


@pytest.mark.parametrize("target", ["paris", "lyon"])
def test_an_sa_that_stands_is_not_ended(target: str) -> None:
    ends = standing()
    host = ends.named(target)
    sa, sent = only_sa(host), len(ends.world.log)
    spis = tuple(spec.spi.to_bytes(4, "big") for spec in host.data_plane.sas.values())
    for notify in (*every_error(sa), Notify(type=NotifyType.INITIAL_CONTACT, spi=sa.cookie_i + sa.cookie_r)):
        attack(host, sa, notify)
    attack(host, sa, Delete(protocol=Protocol.ISAKMP, spis=(sa.cookie_i + sa.cookie_r,)))
    attack(host, sa, Delete(protocol=Protocol.ESP, spis=spis))
    attack(host, sa, Notify(type=NotifyType.R_U_THERE, spi=sa.cookie_i + sa.cookie_r, data=bytes(4)))
    ends.world.run(1)
    assert only_sa(host) is sa
    assert up(ends.paris, ends.lyon)()
    assert matched(ends.paris, ends.lyon)
    assert len(ends.world.log) == sent  # nothing of it was answered
    assert host.status().reason is None
    told = [each for each in host.reports if each.code == "ikev1.unprotected-notify"]
    assert [each.received for each in told] == [NotifyType(number).name for number in range(1, 9)]  # then it is enough
    assert told[0].message == (
        "Received an unprotected message of notify type INVALID_PAYLOAD_TYPE, after phase 1: it is not acted on"
    )


class TestHint:
    """What a peer says in clear may be why: it stays the reason until something better is known."""

    def test_it_outlives_the_silence_after_it(self) -> None:
        left, right = sides()
        right.change(ike=policy(ExchangeMode.MAIN, replace(IKE, group="group-20", encryption="aes-256-cbc")))
        left.retransmission = Retransmission(initial_ms=1_000, factor=1.5, tries=3)
        ends = start((left, right))
        ends.world.run(0.4)
        assert ends.paris.state is TunnelState.NEGOTIATING  # nothing has ended
        assert ends.world.run(20, lambda: "ike.sa-failed" in ends.paris.codes())
        hint = the(ends.paris, "ikev1.proposal-refused-by-peer")
        assert (hint.received, hint.configured) == ("NO_PROPOSAL_CHOSEN", "aes-128-cbc sha256 group-19 psk")
        assert hint.message == (
            "Received an unprotected message of notify type NO_PROPOSAL_CHOSEN, in IKE phase 1, message 1 (main-mode): "
            "The peer accepts none of our proposals"
        )
        silence, failed = the(ends.paris, "ike.peer-unresponsive"), the(ends.paris, "ike.sa-failed")
        assert silence.message == (
            "The peer does not answer, in IKE phase 1, message 1 (main-mode); "
            "an unprotected notify said NO_PROPOSAL_CHOSEN"
        )
        assert failed.attributes["cause"] == "ikev1.proposal-refused-by-peer"
        reason = ends.paris.status().reason
        assert reason is not None
        assert (reason.code, reason.message) == (hint.code, hint.message)
        assert reason.field == "ike.proposals"

    def test_true_silence_afterwards_counts_again(self) -> None:
        left, right = sides()
        right.change(ike=policy(ExchangeMode.AGGRESSIVE))
        left.retransmission = Retransmission(initial_ms=200, factor=1.0, tries=2)
        ends = start((left, right))
        assert ends.world.run(20, lambda: "ike.sa-failed" in ends.paris.codes())
        reason = ends.paris.status().reason
        assert reason is not None
        assert reason.code == "ikev1.exchange-mode-mismatch"
        ends.world.network.loss = 1.0
        assert ends.world.run(60, lambda: ends.paris.codes()["ike.sa-failed"] == 2)
        reason = ends.paris.status().reason
        assert reason is not None
        assert reason.code == "ike.peer-unresponsive"

    def test_what_the_peer_cannot_read_is_about_keys_only_where_one_was_used(self) -> None:
        ends = start(sides(), Network(rewrite=lambda sent: None if _from_lyon(sent) else sent))
        ends.world.run(0.1)
        sa = only_sa(ends.paris)
        attack(ends.paris, sa, Notify(type=NotifyType.PAYLOAD_MALFORMED))
        report = the(ends.paris, "ikev1.unprotected-notify")
        assert report.received == "PAYLOAD_MALFORMED"
        assert ends.paris.codes()["ikev1.psk-mismatch"] == 0

    def test_a_wrong_key_is_hinted_at(self) -> None:
        left, right = sides()
        left.keys = [replace(left.keys[0], secret=Secret(b"another key than the one of Lyon"))]
        ends = meet((left, right))
        hint = the(ends.paris, "ikev1.psk-mismatch")
        assert hint.received == "UNEQUAL_PAYLOAD_LENGTHS"
        assert hint.message.endswith("The peer cannot read us: possibly mismatching keys")
        reason = ends.lyon.status().reason
        assert reason is not None
        assert reason.code == "ikev1.psk-mismatch"

    def test_it_goes_when_the_tunnel_comes_up(self) -> None:
        ends = start(sides())
        assert ends.world.run(5, lambda: len(ends.world.log) == 2)
        sa = only_sa(ends.paris)
        attack(ends.paris, sa, Notify(type=NotifyType.NO_PROPOSAL_CHOSEN))
        assert sa.hint is not None
        assert ends.world.run(5, up(ends.paris, ends.lyon))
        assert ends.paris.status().reason is None

    def test_one_who_only_guesses_the_cookies_says_nothing(self) -> None:
        ends = start(sides())
        assert ends.world.run(5, lambda: len(ends.world.log) == 3)
        sa = only_sa(ends.paris)
        header = classify(forged(sa, Notify(type=NotifyType.NO_PROPOSAL_CHOSEN)))
        other = replace(header, spi_r=b"whatever")
        datagram = wire.serialize_clear(other, (Notify(type=NotifyType.NO_PROPOSAL_CHOSEN),))
        ends.paris.do(lambda now: ends.paris.engine.receive(datagram, sa.path, now))
        assert ends.paris.codes()["drop.direction"] == 1
        assert sa.hint is None
