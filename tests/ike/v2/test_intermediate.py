"""IKE_INTERMEDIATE, additional key exchanges and IKE_FOLLOWUP_KE (RFC 9242, RFC 9370); ladders in the tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.algorithms import PSEUDO_RANDOM
from agents.contract.config import IkePolicy, IkeProposal
from agents.ike import proposals
from agents.ike.outputs import Transmit
from agents.ike.v2.keymat import auth_octets, int_auth_chunk
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks.followup import KEEP_S
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Inner, Message, int_auth_octets, open_message, seal_message
from agents.ike.wire.payloads import IdI, KeyExchangeData, Notify, Payload
from agents.ike.wire.registry import Exchange, NotifyType, TransformType
from tests.harness.documents import FAST_IKE, pair
from tests.harness.world import Host, Network, World, matched, up

PLAIN = FAST_IKE
TWICE = replace(FAST_IKE, additional_key_exchanges=("group-19",))
THRICE = replace(FAST_IKE, additional_key_exchanges=("group-19", "group-32"))
HYBRID = replace(FAST_IKE, additional_key_exchanges=("ml-kem-768",))
LONG = replace(FAST_IKE, additional_key_exchanges=("ml-kem-1024", "group-15"))


def policy(*suites: IkeProposal, **changes: object) -> IkePolicy:
    return replace(IkePolicy(proposals=suites), **changes)  # type: ignore[arg-type]


def meet(
    ours: IkePolicy, theirs: IkePolicy | None = None, network: Network | None = None, seed: object = 0
) -> tuple[World, Host, Host]:
    world = World(seed, network)
    left, right = pair(ike=ours)
    if theirs is not None:
        right.change(ike=theirs)
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon


def only(host: Host) -> IkeSa:
    (sa,) = host.engine.v2.sas.values()
    return sa


def exchanges(world: World, sender: str) -> list[int]:
    return [each.octets[18] for each in world.log if each.sender == sender]


class TestInitialExchanges:
    @pytest.mark.parametrize("suite", [TWICE, THRICE, HYBRID, LONG], ids=["two", "three", "ml-kem", "long"])
    def test_every_key_exchange_is_done_before_the_proof(self, suite: IkeProposal) -> None:
        world, paris, lyon = meet(policy(suite))
        assert world.run(5, up(paris, lyon))
        assert matched(paris, lyon)
        expected = [34, *[43] * len(suite.additional_key_exchanges), 35]
        assert list(dict.fromkeys(exchanges(world, "paris"))) == list(dict.fromkeys(expected))
        if suite in (TWICE, THRICE):
            assert exchanges(world, "paris") == exchanges(world, "lyon") == expected
        for host in (paris, lyon):
            assert host.status().ike_sas[0].additional_key_exchanges == suite.additional_key_exchanges
        assert only(paris).keys.sk_d == only(lyon).keys.sk_d

    def test_an_ml_kem_key_goes_out_in_fragments(self) -> None:
        world, paris, lyon = meet(policy(HYBRID, fragment_octets=800))
        assert world.run(5, up(paris, lyon))
        pieces = [each for each in world.log if each.octets[18] == 43 and each.octets[16] == 53]
        assert len(pieces) >= 2
        assert max(len(each.octets) for each in world.log) + 28 <= 800

    def test_without_fragmentation_it_still_goes(self) -> None:
        world, paris, lyon = meet(policy(HYBRID, fragmentation=False))
        assert world.run(5, up(paris, lyon))

    def test_a_peer_without_it_gets_the_suite_without_it(self) -> None:
        world, paris, lyon = meet(policy(HYBRID, PLAIN), policy(PLAIN))
        assert world.run(5, up(paris, lyon))
        assert 43 not in exchanges(world, "paris")

    def test_a_peer_that_insists_on_less_is_refused(self) -> None:
        world, paris, lyon = meet(policy(HYBRID), policy(PLAIN))
        assert not world.run(5, up(paris, lyon))
        report = next(each for each in lyon.reports if each.code == "ike.no-proposal")
        assert report.received is not None
        assert "addke1:ml-kem-768" in report.received

    def test_the_offer_names_the_exchanges_in_order(self) -> None:
        (offered,) = proposals.offer_ike((THRICE,)).proposals
        extra = [(each.type, each.id) for each in offered.transforms if each.type >= TransformType.ADDKE1]
        assert extra == [(6, 19), (7, 32)]
        other = replace(THRICE, additional_key_exchanges=("group-32", "group-19"))
        assert proposals.choose_ike((other,), proposals.offer_ike((THRICE,)), 0) is None
        assert proposals.choose_ike((PLAIN,), proposals.offer_ike((THRICE,)), 0) is None

    @pytest.mark.parametrize("seed", range(4))
    def test_loss_and_repetition(self, seed: int) -> None:
        network = Network(loss=0.25, duplicates=0.3, delay_s=(0.001, 0.4))
        world, paris, lyon = meet(policy(LONG), network=network, seed=seed)
        assert world.run(600, lambda: up(paris, lyon)() and matched(paris, lyon))
        assert paris.codes()["ike.bug"] == lyon.codes()["ike.bug"] == 0


class TestIntAuth:
    """RFC 9242 section 3.3.2."""

    def test_what_is_signed(self) -> None:
        """A | P: the lengths count neither IV nor padding nor checksum; a fragmented message counts as a whole one."""
        header = Header(
            spi_i=b"initiate", spi_r=b"responds", next_payload=53, exchange=43, flags=8, message_id=1, length=999
        )
        inner = Inner(first=34, reserved=0x55, chain=b"\0\0\0\x08\0\x1f\0\0")
        expected = (
            b"initiateresponds" + bytes((46, 0x20, 43, 8)) + (1).to_bytes(4, "big") + (28 + 4 + 8).to_bytes(4, "big")
        )
        expected += bytes((34, 0x55)) + (4 + 8).to_bytes(2, "big") + inner.chain
        assert int_auth_octets(header, inner) == expected

    def test_the_chain_of_messages_ends_in_the_octets_of_auth(self) -> None:
        prf = PSEUDO_RANDOM["prf-hmac-sha2-256"]
        one = int_auth_chunk(prf, b"k" * 32, b"", b"first")
        two = int_auth_chunk(prf, b"l" * 32, one, b"second")
        assert two == int_auth_chunk(prf, b"l" * 32, b"", one + b"second")
        signed = auth_octets(prf, b"message", b"nonce", b"p" * 32, b"identity", two + b"mid.")
        assert signed == auth_octets(prf, b"message", b"nonce", b"p" * 32, b"identity") + two + b"mid."

    def test_both_ends_sign_the_same_and_only_then(self) -> None:
        seen: list[bytes] = []

        def watch(transmit: Transmit) -> Transmit:
            if transmit.datagram[18] == 35 and not seen:
                seen.extend(only(host).int_auth for host in world.hosts)
            return transmit

        world, paris, lyon = meet(policy(THRICE))
        world.network.rewrite = watch
        assert world.run(5, up(paris, lyon))
        assert seen[0] == seen[1]
        assert len(seen[0]) == 32 + 32 + 4
        assert seen[0][-4:] == (3).to_bytes(4, "big")  # IKE_SA_INIT, two exchanges, then IKE_AUTH
        assert only(paris).int_auth == only(lyon).int_auth == b""

    def test_an_exchange_changed_on_the_way_breaks_the_proof(self) -> None:
        """Who knows the keys of IKE_SA_INIT (a broken first group) and changes a later message fails at AUTH."""

        changed: list[Transmit] = []

        def change(transmit: Transmit) -> Transmit:
            header = classify(transmit.datagram)
            if header.exchange != Exchange.IKE_INTERMEDIATE or header.response or changed:
                return transmit
            changed.append(transmit)
            cipher = only(paris).protection.cipher_out
            known = open_message(transmit.datagram, header, only(lyon).protection.cipher_in).payloads
            payloads: tuple[Payload, ...] = (*known, Notify(type=16_400))
            octets = seal_message(Message(header=header, payloads=payloads), cipher, b"\xff" * 8)
            return replace(transmit, datagram=octets)

        world, paris, lyon = meet(policy(TWICE))
        world.network.rewrite = change
        assert not world.run(0.5, up(paris, lyon))
        assert lyon.codes()["ike.psk-mismatch"] >= 1
        assert paris.codes()["ike.peer-refused-auth"] >= 1


class TestWrongPeers:
    def halfway(self, suite: IkeProposal = TWICE) -> tuple[World, Host, Host]:
        """Both have keys of IKE_SA_INIT; paris's first IKE_INTERMEDIATE is lost."""

        def lose(transmit: Transmit) -> Transmit | None:
            return None if transmit.datagram[18] == 43 else transmit

        world, paris, lyon = meet(policy(suite), network=Network(rewrite=lose))
        assert world.run(0.1, lambda: bool(lyon.engine.v2.sas) and only(paris).keyed)
        return world, paris, lyon

    def give(self, paris: Host, lyon: Host, exchange: int, payloads: tuple[Payload, ...]) -> None:
        sa = only(paris)
        header = Header(spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=exchange, flags=8, message_id=1)
        octets = seal_message(Message(header=header, payloads=payloads), sa.protection.cipher_out, b"\xff" * 8)
        lyon.do(lyon.engine.receive, octets, only(lyon).path)

    def test_ike_auth_before_the_exchanges_are_done(self) -> None:
        _, paris, lyon = self.halfway()
        self.give(paris, lyon, Exchange.IKE_AUTH, (IdI(id_type=1, data=b"\xc0\0\2\1"),))
        assert lyon.codes()["ike.invalid-ke"] == 1
        assert only(lyon).state is SaState.CLOSED

    @pytest.mark.parametrize(
        "payload",
        [KeyExchangeData(group=31, data=bytes(32)), KeyExchangeData(group=19, data=bytes(64))],
        ids=["another group", "a bad value"],
    )
    def test_a_wrong_value(self, payload: KeyExchangeData) -> None:
        _, paris, lyon = self.halfway()
        self.give(paris, lyon, Exchange.IKE_INTERMEDIATE, (payload,))
        assert lyon.codes()["ike.invalid-ke"] == 1
        assert only(lyon).state is SaState.CLOSED
        assert lyon.codes()["ike.bug"] == 0

    def test_an_exchange_more_than_agreed(self) -> None:
        world, paris, lyon = meet(policy(PLAIN))
        world.network.rewrite = lambda transmit: None if transmit.datagram[18] == 35 else transmit
        assert world.run(0.1, lambda: bool(lyon.engine.v2.sas) and only(paris).keyed)
        self.give(paris, lyon, Exchange.IKE_INTERMEDIATE, (KeyExchangeData(group=31, data=bytes(32)),))
        assert lyon.codes()["ike.invalid-ke"] == 1


class TestFollowup:
    """RFC 9370 section 2.2.4."""

    @pytest.mark.parametrize("suite", [TWICE, THRICE, HYBRID], ids=["two", "three", "ml-kem"])
    @pytest.mark.parametrize("opener", [True, False], ids=["initiator", "responder"])
    def test_a_rekey_does_all_of_them_again(self, suite: IkeProposal, opener: bool) -> None:
        world, paris, lyon = meet(policy(suite))
        assert world.run(5, up(paris, lyon))
        before = only(paris)
        world.log.clear()
        host = paris if opener else lyon
        host.do(host.engine.rekey_ike, host.status().id)
        world.run(25)
        assert only(paris) is not before
        assert matched(paris, lyon)
        assert up(paris, lyon)()
        assert only(paris).keys.sk_d == only(lyon).keys.sk_d
        requests = [each for each in exchanges(world, host.name) if each in (36, 44)]
        assert list(dict.fromkeys(requests)) == [36, 44]
        assert host.status().ike_sas[0].additional_key_exchanges == suite.additional_key_exchanges
        assert only(lyon).unfinished is None

    def test_both_ends_at_once(self) -> None:
        for seed in range(6):
            world, paris, lyon = meet(policy(THRICE), seed=seed)
            assert world.run(5, up(paris, lyon))
            world.network.delay_s = (0.01, 0.05)
            for host in (paris, lyon):
                host.engine.rekey_ike(host.status().id, world.now)
            world.drain()
            world.run(60)
            assert len(paris.engine.v2.sas) == len(lyon.engine.v2.sas) == 1
            assert matched(paris, lyon)
            assert up(paris, lyon)()

    @pytest.mark.parametrize("seed", range(4))
    def test_loss(self, seed: int) -> None:
        world, paris, lyon = meet(policy(THRICE), seed=seed)
        assert world.run(5, up(paris, lyon))
        world.network = Network(loss=0.3, duplicates=0.3, delay_s=(0.001, 0.3))
        for host in (paris, lyon):
            host.do(host.engine.rekey_ike, host.status().id)
        world.run(60)
        world.network = Network()
        assert world.run(200, lambda: up(paris, lyon)() and matched(paris, lyon))
        world.run(60)
        assert len(paris.engine.v2.sas) == len(lyon.engine.v2.sas) == 1

    def test_state_is_kept_for_a_while_only(self) -> None:
        world, paris, lyon = meet(policy(TWICE))
        assert world.run(5, up(paris, lyon))
        world.network.rewrite = lambda transmit: None if transmit.datagram[18] == 44 else transmit
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(1)
        assert only(lyon).unfinished is not None
        world.run(KEEP_S)
        assert only(lyon).unfinished is None
        world.network.rewrite = None
        world.run(300)
        assert up(paris, lyon)()
        assert matched(paris, lyon)

    def test_a_link_that_nobody_knows(self) -> None:
        world, paris, lyon = meet(policy(TWICE))
        assert world.run(5, up(paris, lyon))
        sa = only(paris)
        header = Header(
            spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=44, flags=8, message_id=sa.requests.next_id
        )
        payloads = (
            KeyExchangeData(group=19, data=bytes(64)),
            Notify(type=NotifyType.ADDITIONAL_KEY_EXCHANGE, data=b"unknown!"),
        )
        octets = seal_message(Message(header=header, payloads=payloads), sa.protection.cipher_out, b"\xff" * 8)
        since = len(world.log)
        lyon.do(lyon.engine.receive, octets, only(lyon).path)
        answer = world.log[since].octets
        inner = sa.protection.open(answer, classify(answer))
        assert inner.chain[6:8] == int(NotifyType.STATE_NOT_FOUND).to_bytes(2, "big")
        assert up(paris, lyon)()
