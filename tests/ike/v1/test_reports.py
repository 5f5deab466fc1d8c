"""What people and peers are told of a fault: once, about the right message, and nothing that helps an attacker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import Child, ExchangeMode, Retransmission
from agents.contract.status import TunnelState
from agents.ike.outputs import FindPsk, Path, Transmit
from agents.ike.v1 import proposals
from agents.ike.v1.tasks import info
from agents.ike.wire.header import Header, classify
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Notify, Payload, SecurityAssociation, Transform
from agents.ike.wire.isakmp.registry import Exchange, LifeType, NotifyType, Phase2Attribute, Protocol
from tests.harness.documents import key, mirrored, pair
from tests.harness.v1 import FAST_IKE as IKE
from tests.harness.v1 import LYON, PARIS, policy
from tests.harness.world import Host, up

from .ends import CHILD, SECRET, Ends, in_clear, meet, only_sa, patch, remake, sides, standing, start, the

LIFE = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)


def give(host: Host, datagram: bytes, path: Path) -> None:
    host.do(lambda now: host.engine.receive(datagram, path, now))


class TestOnce:
    def test_a_first_message_that_comes_again_is_refused_again_and_reported_once(self) -> None:
        left, right = sides()
        left.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=4)
        right.change(ike=policy(ExchangeMode.MAIN, replace(IKE, encryption="aes-256-cbc")))
        ends = start((left, right))
        assert ends.world.run(5, lambda: "ike.sa-failed" in ends.paris.codes())
        assert the(ends.lyon, "ikev1.encryption-mismatch")
        assert the(ends.lyon, "ike.sa-failed")
        assert ends.lyon.codes()["drop.duplicate"] == 3
        told = in_clear(ends.world, "lyon")
        assert [each.type for each in told] == 4 * [NotifyType.NO_PROPOSAL_CHOSEN]
        assert the(ends.paris, "ikev1.proposal-refused-by-peer")

    def test_another_document_may_take_it(self) -> None:
        left, right = sides()
        right.change(ike=policy(ExchangeMode.MAIN, replace(IKE, encryption="aes-256-cbc")))
        ends = meet((left, right))
        assert ends.lyon.state is TunnelState.DOWN
        right.change(ike=policy())
        ends.lyon.configure(right.document())
        assert ends.world.run(5, up(ends.paris, ends.lyon))  # by the same first message, sent again
        assert ends.paris.codes()["ike.initiate"] == 1

    def test_a_message_that_cannot_be_decrypted_is_reported_once(self) -> None:
        left, right = sides()
        left.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=5)
        right.keys = [key(b"another key than the one of Paris", LYON, PARIS)]
        ends = start((left, right))
        assert ends.world.run(5, lambda: "ike.sa-failed" in ends.paris.codes())
        report = the(ends.lyon, "ikev1.psk-mismatch")
        assert report.tunnel_id == ends.lyon.status().id  # though the identity has not been read
        assert ends.lyon.codes()["drop.duplicate"] == 4
        assert len(in_clear(ends.world, "lyon")) == 1

    def test_whatever_another_key_makes_of_it(self) -> None:
        """Decrypted with another key a message is any octets: each is a key that does not match, and no other fault."""
        for seed in range(60):
            left, right = sides()
            right.keys = [key(b"another key than the one of Paris", LYON, PARIS)]
            ends = start((left, right), seed=seed)
            ends.world.run(0.4)
            assert ends.lyon.codes() == {"ike.peer-initiates": 1, "ikev1.psk-mismatch": 1}, seed

    def test_the_refusals_kept_are_bounded(self) -> None:
        left, right = sides()
        right.change(ike=policy(ExchangeMode.MAIN, replace(IKE, encryption="aes-256-cbc")))
        ends = meet((left, right))
        first = ends.world.log[0]
        path = Path(local_address=LYON, local_port=500, remote_address=PARIS, remote_port=500)
        for number in range(400):
            give(ends.lyon, (number + 1).to_bytes(8, "big") + first.octets[8:], path)
        machine = ends.lyon.engine.v1
        assert machine is not None
        assert len(machine.door._refused) == 256
        assert not machine.sas
        assert ends.lyon.engine.counters["ikev1.encryption-mismatch"] == 401


class TestWhichMessage:
    def test_the_notify_is_about_the_negotiation_that_waited(self) -> None:
        """The key is looked for while another peer's message comes in."""
        left, right = sides()
        right.keys = [replace(right.keys[0], remote_address="192.0.2.9")]  # none for Paris
        ends = start((left, right))
        asked: list[FindPsk] = []
        perform = ends.lyon.perform
        ends.lyon.perform = lambda output: asked.append(output) if isinstance(output, FindPsk) else perform(output)  # type: ignore[method-assign]
        assert ends.world.run(5, lambda: bool(asked))
        sa = only_sa(ends.lyon)
        stranger = Path(local_address=LYON, local_port=500, remote_address="198.51.100.1", remote_port=500)
        give(ends.lyon, b"stranger" + ends.world.log[0].octets[8:], stranger)
        since = len(ends.world.log)
        ends.lyon.do(lambda now: ends.lyon.engine.psk_found(asked[0].request_id, None, now))
        (told,) = ends.world.log[since:]
        header = classify(told.octets)
        assert (header.spi_i, header.spi_r) == (sa.cookie_i, sa.cookie_r)
        assert told.path.remote_address == PARIS
        assert the(ends.lyon, "ike.psk-missing").attributes["message"] == "3"

    @pytest.mark.parametrize("number", [2, 3, 4])
    def test_a_malformed_message_is_told_and_does_not_end_it(self, number: int) -> None:
        """As if it had not come: what is sent again is taken."""
        spoilt: list[Transmit] = []

        def rewrite(sent: Transmit) -> Transmit:
            if len(ends.world.log) != number or spoilt:
                return sent
            spoilt.append(sent)
            return replace(sent, datagram=sent.datagram[:29] + b"\x11" + sent.datagram[30:])

        ends = start(sides())
        ends.world.network.rewrite = rewrite
        assert ends.world.run(20, up(ends.paris, ends.lyon))
        host = ends.lyon if number == 3 else ends.paris
        report = the(host, "ikev1.payload-malformed")
        assert report.attributes.items() >= {"phase": "1", "message": str(number), "exchange": "main-mode"}.items()
        assert report.message.endswith(f"in IKE phase 1, message {number} (main-mode)")
        assert report.tunnel_id == host.status().id
        (told,) = in_clear(ends.world, host.name)
        assert told.type == NotifyType.PAYLOAD_MALFORMED
        assert ends.paris.codes()["ike.initiate"] == 1

    def test_of_an_sa_that_stands_nothing_is_told_in_clear(self) -> None:
        ends = standing()
        sa, since = only_sa(ends.lyon), len(ends.world.log)
        header = Header(
            spi_i=sa.cookie_i, spi_r=sa.cookie_r, next_payload=0x99, exchange=Exchange.QUICK, flags=0xF1,
            message_id=9, length=128, version=0x10,
        )  # fmt: skip
        give(ends.lyon, header.serialize() + bytes(100), sa.path)
        assert the(ends.lyon, "ikev1.next-payload").attributes["phase"] == "2"
        assert len(ends.world.log) == since
        assert ends.lyon.status().reason is None


class TestVersions:
    def test_an_exchange_of_ikev2_is_never_ikev1s(self) -> None:
        left, right = pair(secret=SECRET)
        right.tunnels.append(replace(sides()[1].tunnels[0], id="0" * 8 + "-0000-4000-8000-" + "0" * 12, name="old"))
        right.change(1, remote=replace(right.tunnels[1].remote, address="192.0.2.7"))
        ends = start((left, right))
        assert ends.lyon.engine.v1 is not None
        assert ends.world.run(5, lambda: ends.paris.state is TunnelState.UP)

    def test_ikev1_with_the_major_version_of_ikev2_where_no_tunnel_speaks_ikev1(self) -> None:
        left, _ = sides()
        _, right = pair(secret=SECRET)
        ends = meet((left, right), rewrite=patch(17, b"\x20"))
        assert ends.lyon.codes()["ikev1.major-version"] == 0
        assert not in_clear(ends.world, "lyon")


def test_a_transform_of_an_unknown_id_is_passed_over() -> None:
    """RFC 2408 section 5.6: it is ignored and no event, as long as another can be taken."""

    def strange_first(message: Message) -> tuple[Payload, ...]:
        def with_one_more(offer: SecurityAssociation) -> SecurityAssociation:
            (proposal,) = offer.proposals
            (good,) = proposal.transforms
            more = (Transform(number=1, id=17, attributes=good.attributes), replace(good, number=2))
            return replace(offer, proposals=(replace(proposal, transforms=more),))

        return tuple(
            with_one_more(each) if isinstance(each, SecurityAssociation) else each for each in message.payloads
        )

    ends = meet(rewrite=remake(strange_first), seconds=0.03)
    assert not [code for code in ends.lyon.codes() if code in ("ikev1.transform-id", "ike.sa-failed")]
    answer = wire.parse_clear(ends.world.log[1].octets, classify(ends.world.log[1].octets)).find(SecurityAssociation)
    assert answer is not None
    assert [each.number for each in answer.proposals[0].transforms] == [2]
    assert proposals.describe_phase1_offer(answer) == "aes-128-cbc sha256 group-19 psk"


class TestResponderLifetime:
    def shorter(self, **changes: int) -> Ends:
        left, right = sides()
        short: Child = replace(mirrored(CHILD), **changes)  # type: ignore[arg-type]
        right.change(children=(short,))
        return standing((left, right))

    def test_seconds_count_at_both_ends(self) -> None:
        ends = self.shorter(lifetime_s=300)
        for host in (ends.paris, ends.lyon):
            (sa,) = host.status().children[0].sas
            assert sa.expires_at is not None
            assert sa.installed_at is not None
            assert sa.expires_at - sa.installed_at == 300

    def test_kilobytes_count_at_both_ends(self) -> None:
        ends = self.shorter(lifetime_bytes=5 * 1024)
        for host in (ends.paris, ends.lyon):
            assert {spec.limits.hard_bytes for spec in host.data_plane.sas.values()} == {5 * 1024}

    def later(self, *found: attributes.Attribute) -> tuple[Ends, float]:
        """The tunnel stands; Lyon tells shorter lifetimes in an Informational."""
        ends = standing()
        sa = only_sa(ends.lyon)
        (child,) = ends.lyon.status().children[0].sas
        data = attributes.serialize(found)
        notify = Notify(
            type=NotifyType.RESPONDER_LIFETIME, protocol=Protocol.ESP, spi=bytes.fromhex(child.spi_in), data=data
        )
        ends.lyon.do(lambda now: info.send(sa, (notify,), now))
        ends.world.run(0.1)
        (ours,) = ends.paris.status().children[0].sas
        assert ours.expires_at is not None
        assert ours.installed_at is not None
        return ends, ours.expires_at - ours.installed_at

    def test_seconds_in_an_informational(self) -> None:
        ends, lasts_s = self.later(*_lifetime(LifeType.SECONDS, 120))
        assert lasts_s == 120
        report = the(ends.paris, "ikev1.lifetime-seconds")
        assert (report.received, report.configured) == ("120", "3600")
        assert report.message == (
            "Received notify RESPONDER_LIFETIME of ESP with 120 seconds, configured (3600), "
            "in IKE phase 2 (informational-v1), child main"
        )

    def test_a_longer_one_changes_nothing(self) -> None:
        ends, lasts_s = self.later(*_lifetime(LifeType.SECONDS, 7_200))
        assert lasts_s == 3_600
        assert the(ends.paris, "ikev1.lifetime-seconds").message.endswith("; ours is shorter and stays")

    def test_one_that_says_only_kilobytes_leaves_the_seconds(self) -> None:
        ends, lasts_s = self.later(*_lifetime(LifeType.KILOBYTES, 1_000))
        assert lasts_s == 3_600
        assert the(ends.paris, "ikev1.lifetime-kilobytes").received == "1000"

    def test_one_that_cannot_be_read_says_nothing(self) -> None:
        ends, lasts_s = self.later(attributes.short(99, 1))
        assert lasts_s == 3_600
        assert not [code for code in ends.paris.codes() if code.startswith("ikev1.lifetime")]


def _lifetime(unit: LifeType, duration: int) -> tuple[attributes.Attribute, attributes.Attribute]:
    return attributes.short(LIFE[0], unit), attributes.number(LIFE[1], duration)
