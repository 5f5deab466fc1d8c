"""What must not happen to IKEv1 whatever arrives: a bug report, growth, a wrong state, an end of what was in order."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.contract import algorithms
from agents.contract.config import ExchangeMode
from agents.contract.status import TunnelState
from agents.ike.crypto import ffdh
from agents.ike.outputs import Transmit
from agents.ike.v1 import quick_proposals, used_ids
from agents.ike.v1.children import most_of
from agents.ike.v1.proposals import offer_phase1
from agents.ike.v1.receiving import MOST_FINISHED
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.selectors import pairs, to_identification
from agents.ike.v1.states import SaState
from agents.ike.v1.used_ids import UsedIds
from agents.ike.wire.header import classify
from agents.ike.wire.isakmp import fragments, vendor
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.attributes import Attribute
from agents.ike.wire.isakmp.payloads import (
    Delete,
    Fragment,
    Hash,
    Identification,
    KeyExchangeData,
    Nonce,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    Transform,
    VendorId,
)
from agents.ike.wire.isakmp.registry import (
    EncapsulationMode,
    Exchange,
    IdType,
    NotifyType,
    Phase1Attribute,
    Phase2Attribute,
    Protocol,
)
from tests.fuzz.mutations import with_length
from tests.harness import pki
from tests.harness.v1 import BOTH, LYON, PARIS, Scene, child, left_behind, machine, pair, policy, runtime, sa_of
from tests.harness.world import Host, Network, World, up
from tests.ike.v1.cast import short, with_attributes
from tests.ike.v1.forging import BACK, GENERATOR, clear, elsewhere, first, give, responder, sealed, sealed_bare

MAIN, AGGRESSIVE = ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE
MODES = [MAIN, AGGRESSIVE]
CHILD = child()


def standing(mode: ExchangeMode = MAIN, **changes: object) -> Scene:
    """Two hosts whose tunnel is up."""
    return Scene(mode, **changes).come_up()  # type: ignore[arg-type]


def answers_of(host: Host, sent: list[bytes]) -> list[Payload]:
    """Return what a host said in protected Informationals: opened with its own keys."""
    sa = sa_of(host)
    found: list[Payload] = []
    for octets in sent:
        header = classify(octets)
        if header.exchange == Exchange.INFORMATIONAL:
            plain = sa.cipher.open(sa.iv_of(header.message_id), wire.encrypted_body(octets, header))
            found += wire.read_plain(header, plain).payloads[1:]
    return found


def unharmed(held: Scene) -> None:
    """Look that nothing came of it: both up on the same SAs, no bug."""
    held.world.run(1)
    held.check()


def delete_of(host: Host) -> Delete:
    """Return the Delete of the peer's SA that this host sends on."""
    spi = runtime(host).children.sas[0].spi_out
    return Delete(protocol=Protocol.ESP, spis=(spi.to_bytes(4, "big"),))


def delete_sa(sa: IsakmpSa) -> Delete:
    """Return the Delete of an ISAKMP SA."""
    return Delete(protocol=Protocol.ISAKMP, spis=(sa.cookie_i + sa.cookie_r,))


class TestInformational:
    @pytest.mark.parametrize("mode", MODES)
    def test_with_a_wrong_hash_is_ignored(self, mode: ExchangeMode) -> None:
        held = standing(mode)
        sa = sa_of(held.lyon)
        for payloads in ((delete_of(held.lyon),), (delete_sa(sa),), (Notify(type=NotifyType.INITIAL_CONTACT),)):
            for made in (bytes(32), bytes(1), bytes(64)):
                assert give(held.lyon, sealed(sa, payloads, made=made)) == []
        assert held.lyon.codes()["drop.integrity"] == 9
        unharmed(held)

    def test_without_a_hash_is_ignored(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        assert give(held.lyon, sealed_bare(sa, (delete_sa(sa),), Exchange.INFORMATIONAL, sa.iv_of(7), 7)) == []
        assert held.lyon.codes()["drop.integrity"] == 1
        unharmed(held)

    def test_whose_hash_comes_second_is_ignored(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        payloads = (delete_sa(sa), Hash(data=bytes(32)))
        assert give(held.lyon, sealed_bare(sa, payloads, Exchange.INFORMATIONAL, sa.iv_of(7), 7)) == []
        assert held.lyon.codes()["drop.payload-rules"] == 1
        unharmed(held)

    def test_of_another_message_id_is_ignored(self) -> None:
        """The hash covers the ID, and the ID makes the IV: a message cannot be sent under another."""
        held = standing()
        datagram = bytearray(sealed(sa_of(held.lyon), (delete_of(held.lyon),)))
        datagram[23] ^= 1
        assert give(held.lyon, bytes(datagram)) == []
        unharmed(held)

    def test_replayed_is_ignored(self) -> None:
        held = standing()
        question = Notify(type=NotifyType.R_U_THERE, data=bytes((0, 0, 0, 9)))
        datagram = sealed(sa_of(held.lyon), (question,))
        assert len(give(held.lyon, datagram)) == 1
        for _ in range(5):
            assert give(held.lyon, datagram) == []
        assert held.lyon.codes()["drop.duplicate"] == 5
        unharmed(held)

    def test_replayed_from_elsewhere_moves_nothing(self) -> None:
        """Through a NAT an authentic message moves the path: one that was heard before must not."""
        held = Scene(force_udp_encapsulation=True).come_up()
        sa = sa_of(held.lyon)
        sa.nat = replace(sa.nat, remote=True)
        question = Notify(type=NotifyType.R_U_THERE, data=bytes((0, 0, 0, 9)))
        datagram, before = sealed(sa, (question,)), sa.path
        give(held.lyon, datagram, before)
        give(held.lyon, datagram, elsewhere("203.0.113.9", 4500))
        assert sa.path == before

    def test_of_ours_sent_back_is_ignored(self) -> None:
        """Its hash is right, for it has no direction: only the ID is known."""
        held = standing()
        sent = len(held.world.log)
        held.world.run(40)
        ours = [each.octets for each in held.world.log[sent:] if each.sender == "lyon" and each.octets[18] == 5]
        assert ours
        for octets in ours:
            assert give(held.lyon, octets) == []
        assert held.lyon.codes()["drop.duplicate"] == len(ours)
        unharmed(held)

    def test_a_second_delete_in_one_message(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        one, other = delete_of(held.lyon), Delete(protocol=Protocol.ESP, spis=(b"\1\2\3\4",))
        give(held.lyon, sealed(sa, (one, other, one, one)))
        assert held.lyon.codes()["child.deleted"] == 1
        assert held.lyon.codes()["ikev1.delete-received"] == 4
        assert held.lyon.codes()["ike.bug"] == 0

    def test_deletes_of_the_ike_sa_twice_and_then_of_a_child(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        give(held.lyon, sealed(sa, (delete_sa(sa), delete_sa(sa), delete_of(held.lyon), delete_sa(sa))))
        assert not sa.standing
        assert held.lyon.codes()["ike.sa-deleted"] == 1
        assert held.lyon.codes()["ike.bug"] == 0
        held.world.run(200)
        assert held.lyon.codes()["ike.bug"] == held.paris.codes()["ike.bug"] == 0

    def test_a_delete_of_another_tunnels_sa(self) -> None:
        held = standing()
        cookies = b"12345678abcdefgh"
        give(held.lyon, sealed(sa_of(held.lyon), (Delete(protocol=Protocol.ISAKMP, spis=(cookies,)),)))
        unharmed(held)

    @pytest.mark.parametrize(
        "build",
        [
            lambda sa, host: (Notify(type=NotifyType.INITIAL_CONTACT, spi=sa.cookie_i + sa.cookie_r),),
            lambda sa, host: (Notify(type=NotifyType.INVALID_COOKIE), Notify(type=NotifyType.NO_PROPOSAL_CHOSEN)),
            lambda sa, host: (delete_sa(sa),),
            lambda sa, host: (delete_of(host), delete_sa(sa)),
            lambda sa, host: (Notify(type=NotifyType.R_U_THERE, data=bytes(4)),),
            lambda sa, host: (Hash(data=bytes(32)), delete_sa(sa)),
        ],
    )
    def test_in_clear_never_acts(self, build: Callable[[IsakmpSa, Host], tuple[Payload, ...]]) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        for number in (0, 99):
            assert give(held.lyon, clear(5, build(sa, held.lyon), sa.cookie_i, sa.cookie_r, number)) == []
        unharmed(held)

    def test_in_clear_does_not_end_a_negotiation(self) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 2)
        (sa,) = machine(held.paris).sas.values()
        for kind in (
            NotifyType.NO_PROPOSAL_CHOSEN,
            NotifyType.AUTHENTICATION_FAILED,
            NotifyType.INVALID_ID_INFORMATION,
        ):
            assert give(held.paris, clear(5, (Notify(type=kind),), sa.cookie_i, sa.cookie_r, 9), BACK) == []
        assert sa.state is SaState.KE_SENT
        held.world.network = Network()
        assert held.world.run(30, up(*held.hosts))

    def test_a_flood_in_clear_is_told_once(self) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 2)
        (sa,) = machine(held.paris).sas.values()
        notify = clear(5, (Notify(type=NotifyType.AUTHENTICATION_FAILED),) * 4, sa.cookie_i, sa.cookie_r, 9)
        before = len(held.paris.reports)
        for _ in range(500):
            give(held.paris, notify, BACK)
        assert len(held.paris.reports) - before == 1
        for number in range(1, 2_000):
            give(held.paris, clear(5, (Notify(type=number),), sa.cookie_i, sa.cookie_r, 9), BACK)
        assert len(held.paris.reports) - before <= 40

    def test_sequence_numbers_of_liveness_checks_never_go_back(self) -> None:
        """RFC 3706 section 5.5: a question older than the last is none; the last one may be asked again."""
        held = standing()
        sa = sa_of(held.lyon)
        answered = []
        for number, sequence in enumerate((100, 101, 101, 100, 1, 500, 499, 2**32 - 1, 0, 2**32 - 1), start=1):
            question = Notify(
                type=NotifyType.R_U_THERE, spi=sa.cookie_i + sa.cookie_r, data=sequence.to_bytes(4, "big")
            )
            for reply in answers_of(held.lyon, give(held.lyon, sealed(sa, (question,), number=number))):
                assert isinstance(reply, Notify)
                assert reply.type == NotifyType.R_U_THERE_ACK
                answered.append(int.from_bytes(reply.data, "big"))
        assert answered == [100, 101, 101, 500, 2**32 - 1, 2**32 - 1]

    @pytest.mark.parametrize(
        "question",
        [
            Notify(type=NotifyType.R_U_THERE, data=b"123"),
            Notify(type=NotifyType.R_U_THERE, data=b"12345"),
            Notify(type=NotifyType.R_U_THERE, spi=b"other cookies...", data=b"1234"),
        ],
        ids=["short", "long", "of another SA"],
    )
    def test_odd_liveness_checks_are_passed_over(self, question: Notify) -> None:
        held = standing()
        assert give(held.lyon, sealed(sa_of(held.lyon), (question,))) == []
        unharmed(held)

    def test_an_answer_to_another_question_is_none(self) -> None:
        held = standing()
        sa = sa_of(held.paris)
        held.lyon.do(held.lyon.engine.terminate, held.lyon.status().id)
        sa.dpd.sequence, sa.dpd.tries = 41, 1
        sa.dpd.answered(40)
        assert sa.dpd.tries == 1
        sa.dpd.answered(41)
        assert sa.dpd.tries == 0


def quick(
    sa: IsakmpSa,
    *more: Payload,
    offer: SecurityAssociation | None = None,
    nonce: bytes = bytes(32),
    identities: tuple[Identification, ...] | None = None,
    number: int = 0x1234_5678,
    commit: bool = False,
) -> bytes:
    """Return the first message of a Quick Mode as paris could send it."""
    offer = offered(b"\xc0\0\0\1") if offer is None else offer
    shown = tuple(map(to_identification, pairs(CHILD)[0])) if identities is None else identities
    return sealed(sa, (offer, Nonce(data=nonce), *more, *shown), Exchange.QUICK, number=number, commit=commit)


def halted(mode: ExchangeMode, sender: str, exchange: int, number: int, **changes: object) -> Scene:
    """Return two hosts of which one's so-manieth message of an exchange, and all later ones, get lost."""
    return _halt(Scene(mode, **changes), sender, exchange, number)  # type: ignore[arg-type]


def halted_legacy(sender: str, number: int) -> Scene:
    """Return a halted Main Mode in group 1."""
    suite = replace(policy().proposals[0], group="group-1")
    held = Scene(ike=policy(MAIN, suite))
    held.left.allow_legacy = held.right.allow_legacy = True
    return _halt(held, sender, Exchange.MAIN, number)


def _halt(held: Scene, sender: str, exchange: int, number: int) -> Scene:
    seen: list[bytes] = []

    def lose(transmit: Transmit) -> Transmit | None:
        octets = transmit.datagram
        if transmit.path.local_address != sender or octets[18] != exchange:
            return transmit
        if octets not in seen:
            seen.append(octets)
        return None if seen.index(octets) >= number - 1 else transmit

    held.world.network = Network(rewrite=lose)
    held.start()
    held.world.run(0.3)
    return held


class TestQuickMode:
    @pytest.mark.parametrize(
        "shown",
        [
            Identification(id_type=IdType.FQDN, data=b"lyon.example"),
            Identification(id_type=IdType.USER_FQDN, data=b"gw@lyon.example"),
            Identification(id_type=IdType.DER_ASN1_DN, data=b"\x30\0"),
            Identification(id_type=IdType.DER_ASN1_GN, data=b"\x30\0"),
            Identification(id_type=IdType.KEY_ID, data=b"key"),
            Identification(id_type=IdType.IPV4_ADDR_SUBNET, data=bytes((10, 2, 0, 0, 255, 0, 255, 0))),
            Identification(id_type=IdType.IPV4_ADDR_RANGE, data=bytes((10, 2, 9, 0, 10, 2, 0, 0))),
            Identification(id_type=IdType.IPV6_ADDR_SUBNET, data=bytes(32)),
            Identification(id_type=IdType.IPV4_ADDR, data=bytes(4), protocol=255, port=65_535),
        ],
        ids=lambda shown: IdType(shown.id_type).name,
    )
    def test_unexpected_identity_types_are_refused(self, shown: Identification) -> None:
        held = standing()
        ours = to_identification(pairs(CHILD)[0][0])
        for number, identities in enumerate(((ours, shown), (shown, ours), (shown, shown)), start=1):
            sent = give(held.lyon, quick(sa_of(held.lyon), identities=identities, number=number))
            assert [each.type for each in answers_of(held.lyon, sent) if isinstance(each, Notify)] == [18]
        assert held.lyon.codes()["ikev1.selectors-mismatch"] == 3
        unharmed(held)

    def test_an_identity_type_that_does_not_exist(self) -> None:
        held = standing()
        odd = Identification(id_type=12, data=bytes(8))
        assert give(held.lyon, quick(sa_of(held.lyon), identities=(odd, odd))) == []
        assert held.lyon.codes()["ikev1.payload-malformed"] == 1
        unharmed(held)

    @pytest.mark.parametrize(
        ("protocol", "id_", "attributes", "received"),
        [
            (Protocol.ESP, 23, (short(Phase2Attribute.KEY_LENGTH, 128),), "aes-128-gmac"),
            (Protocol.ESP, 4, (), "esp-4"),
            (Protocol.ESP, 21, (short(Phase2Attribute.KEY_LENGTH, 128),), "esp-21-128"),
            (Protocol.ESP, 11, (short(Phase2Attribute.AUTHENTICATION, 2),), "null"),
            (Protocol.ESP, 249, (short(Phase2Attribute.KEY_ROUNDS, 16),), "esp-249"),
            (Protocol.AH, 11, (short(Phase2Attribute.AUTHENTICATION, 11),), "AH 1, ESP 0"),
            (Protocol.AH, 13, (), "AH 1, ESP 0"),
            (Protocol.IPCOMP, 3, (), ""),
        ],
    )
    def test_an_unexpected_but_legal_transform_is_refused_by_name(
        self, protocol: int, id_: int, attributes: tuple[Attribute, ...], received: str
    ) -> None:
        """AES-GMAC for one: a transform of ESP that encrypts nothing, and of AH."""
        held = standing()
        mode = short(Phase2Attribute.ENCAPSULATION_MODE, EncapsulationMode.TUNNEL)
        transform = Transform(number=1, id=id_, attributes=(mode, *attributes))
        spi = b"\x12\x34" if protocol == Protocol.IPCOMP else b"\xc0\0\0\1"
        offer = SecurityAssociation(
            proposals=(Proposal(number=1, protocol=protocol, spi=spi, transforms=(transform,)),)
        )
        sent = give(held.lyon, quick(sa_of(held.lyon), offer=offer))
        assert [each.type for each in answers_of(held.lyon, sent) if isinstance(each, Notify)] == [14]
        refusals = [each for each in held.lyon.reports if each.attributes.get("phase") == "2" and each.received]
        assert received in (refusals[-1].received or "")
        unharmed(held)

    def test_an_unexpected_transform_before_the_right_one_is_passed_over(self) -> None:
        held = standing()
        (right,) = offered(b"\xc0\0\0\1").proposals
        gmac = Transform(number=1, id=23, attributes=right.transforms[0].attributes)
        offer = SecurityAssociation(proposals=(replace(right, transforms=(gmac, *right.transforms)),))
        (answer,) = give(held.lyon, quick(sa_of(held.lyon), offer=offer))
        assert classify(answer).exchange == Exchange.QUICK

    def test_on_an_sa_that_is_not_ours(self) -> None:
        """Cookies unknown, or of another SA's: nothing is answered, nothing is decrypted."""
        held = standing()
        datagram = quick(sa_of(held.lyon))
        stranger = datagram[:8] + b"whatever" + datagram[16:]
        unknown = b"nobodys!" + b"whatever" + datagram[16:]
        assert give(held.lyon, stranger) == []
        assert give(held.lyon, unknown) == []
        assert held.lyon.codes()["ikev1.exchange-without-sa"] == 2
        swapped = datagram[8:16] + datagram[:8] + datagram[16:]
        assert give(held.lyon, swapped) == []
        assert held.lyon.codes()["drop.direction"] == 1
        unharmed(held)

    def test_encrypted_messages_for_unknown_cookies_are_never_answered(self) -> None:
        held = standing()
        datagrams = [quick(sa_of(held.lyon)), sealed(sa_of(held.lyon), (delete_of(held.lyon),))]
        held.world.restart(held.lyon)
        held.lyon.configure(held.right.document())
        for datagram in datagrams * 20:
            assert give(held.lyon, datagram) == []
        assert held.lyon.engine.counters["ikev1.exchange-without-sa"] == 40
        assert machine(held.lyon).sas == {}

    def test_the_commit_bit_is_tolerated(self) -> None:
        held = standing()
        (answer,) = give(held.lyon, quick(sa_of(held.lyon), commit=True))
        assert not answer[19] & 2
        held.world.run(200)
        assert held.lyon.codes()["ike.bug"] == 0

    def test_a_fourth_message_changes_nothing(self) -> None:
        held = standing()
        sa = sa_of(held.paris)
        (exchange,) = [each for each in sa.exchanges.values() if each.until is not None][:1]
        connected = (Hash(data=bytes(32)), Notify(type=NotifyType.CONNECTED, protocol=Protocol.ESP))
        datagram = sealed_bare(sa, connected, Exchange.QUICK, exchange.iv, exchange.message_id)
        assert give(held.paris, datagram, BACK) == []
        unharmed(held)

    @pytest.mark.parametrize(("octets", "fine"), [(7, False), (8, True), (256, True), (257, False)])
    def test_nonces_have_8_to_256_octets(self, octets: int, fine: bool) -> None:
        held = standing()
        sent = give(held.lyon, quick(sa_of(held.lyon), nonce=bytes(octets)))
        assert [each[18] for each in sent] == ([Exchange.QUICK] if fine else [])

    @pytest.mark.parametrize(
        ("public", "code"),
        [
            (bytes(64), "ike.invalid-ke"),
            (GENERATOR[:-1] + b"\0", "ike.invalid-ke"),
            (GENERATOR + b"\0", "ikev1.pfs-mismatch"),
            (b"\1", "ikev1.pfs-mismatch"),
        ],
        ids=["zero", "no point", "long", "short"],
    )
    def test_public_values_that_cannot_be_used_leave_nothing(self, public: bytes, code: str) -> None:
        config = child(pfs_groups=("group-19",))
        held = standing(children=(config,))
        before = set(held.lyon.engine.hub.esp_spis)
        offer = offered(b"\xc0\0\0\1", "group-19")
        sent = give(held.lyon, quick(sa_of(held.lyon), KeyExchangeData(data=public), offer=offer))
        assert len(answers_of(held.lyon, sent)) == 1
        assert held.lyon.codes()[code] == 1
        assert held.lyon.engine.hub.esp_spis == before
        unharmed(held)

    def test_a_public_value_nobody_asked_for(self) -> None:
        held = standing()
        give(held.lyon, quick(sa_of(held.lyon), KeyExchangeData(data=GENERATOR)))
        assert held.lyon.codes()["ikev1.pfs-mismatch"] == 1
        unharmed(held)

    def test_vendors_payloads_and_padding_are_passed_over(self) -> None:
        held = standing()
        more = (VendorId(data=b"whoever"), VendorId(data=b""), Notify(type=40_000, data=b"whatever"))
        (answer,) = give(held.lyon, quick(sa_of(held.lyon), *more))
        assert classify(answer).exchange == Exchange.QUICK

    def test_replayed_messages_are_answered_the_same_and_not_for_ever(self) -> None:
        held = standing()
        datagram = quick(sa_of(held.lyon))
        (answer,) = give(held.lyon, datagram)
        again = [give(held.lyon, datagram) for _ in range(30)]
        assert [each for each in again if each] == [[answer]] * 10
        assert len(runtime(held.lyon).children) == 2
        held.world.run(200)
        assert give(held.lyon, datagram) == []
        assert held.lyon.codes()["drop.duplicate"] == 1

    def test_one_that_never_ends_leaves_nothing(self) -> None:
        held = standing()
        give(held.lyon, quick(sa_of(held.lyon)))
        held.world.run(400)
        held.check()


def offered(spi: bytes, group: str | None = None) -> SecurityAssociation:
    """Return an offer of paris's child."""
    row = None if group is None else algorithms.KEY_EXCHANGE[group]
    config = CHILD if group is None else child(pfs_groups=(group,))
    return quick_proposals.offer_quick(
        config, {Protocol.ESP: spi}, group=row, encapsulation=EncapsulationMode.TUNNEL, cpi=None
    )


class TestBounds:
    """What a peer in possession of the keys can make grow, and how far."""

    def test_refused_quick_modes_are_forgotten(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        odd = Identification(id_type=IdType.FQDN, data=b"lyon.example")
        for number in range(1, 500):
            give(held.lyon, quick(sa, identities=(odd, odd), number=number))
        assert len(sa.exchanges) <= MOST_FINISHED + 1
        held.world.run(70)
        assert sa.exchanges == {}
        unharmed(held)

    def test_the_same_child_asked_for_again_and_again(self) -> None:
        held = standing()
        sa, most = sa_of(held.lyon), most_of(1)
        for number in range(1, most + 100):
            spi = (0xC000_0000 + number).to_bytes(4, "big")
            give(held.lyon, quick(sa, offer=offered(spi), number=number))
        assert len(runtime(held.lyon).children) == most
        assert held.lyon.codes()["child.too-many"] == 100
        held.world.run(400)
        assert up(*held.hosts)()
        assert len(held.lyon.engine.hub.esp_spis) == len(runtime(held.lyon).children) <= 2

    def test_message_ids(self) -> None:
        ids = UsedIds()
        chance = random.Random(1)
        known = [chance.randrange(2**32) for _ in range(2_000)]
        for number in (*known, *known, 0, 2**32 - 1):
            ids.add(number)
        assert all(number in ids for number in known)
        assert len(ids) == len({*known, 0, 2**32 - 1})
        assert sorted(ids) == list(ids)
        assert 7 not in ids

    def test_an_sa_with_many_used_message_ids_is_renewed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(used_ids, "RENEW_AT", 40)
        held = standing()
        before = sa_of(held.paris)
        for number in range(1, 40):
            give(held.paris, sealed(before, (Notify(type=40_000),), number=number), BACK)
        held.world.run(60)
        held.check()
        assert sa_of(held.paris) is not before

    def test_an_sa_whose_message_ids_are_used_up_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(used_ids, "MOST", 40)
        held = standing()
        before = sa_of(held.lyon)
        for number in range(1, 60):
            give(held.lyon, sealed(before, (Notify(type=40_000),), number=number))
            held.world.run(0.001)
        held.world.run(60)
        assert before.state is SaState.CLOSED
        assert len(before.used_ids) <= 50
        assert up(*held.hosts)()

    def test_a_path_said_to_be_narrow_does_not_stop_us(self) -> None:
        held = standing()
        for octets in (0, 20, 68):
            held.lyon.do(held.lyon.engine.datagram_too_big, sa_of(held.lyon).path, octets)
        held.paris.do(held.paris.engine.rekey_child, held.paris.status().id)
        held.world.run(5)
        assert held.lyon.codes()["ike.bug"] == 0
        assert up(*held.hosts)()

    def test_changed_copies_of_everything_grow_nothing(self) -> None:
        held = standing()
        held.world.run(100)
        chance = random.Random(1)
        samples = [each.octets for each in held.world.log if each.sender == "paris" and each.octets[8:16] != bytes(8)]
        v1 = machine(held.lyon)
        before = (len(v1.sas), len(v1.door.requests), len(held.lyon.reports))
        for _ in range(3_000):
            give(held.lyon, with_length(_changed(chance.choice(samples), chance)))
        assert (len(v1.sas), len(v1.door.requests)) == before[:2]
        assert len(held.lyon.reports) - before[2] < 400
        assert sum(held.lyon.engine.counters.values()) > 2_500
        unharmed(held)


def _changed(octets: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(octets))
    return octets[:place] + bytes((octets[place] ^ chance.randrange(1, 256),)) + octets[place + 1 :]


def piece(sa: IsakmpSa, number: int, data: bytes, *, last: bool = False, id_: int = 7) -> bytes:
    """Return a fragment of a message for an SA."""
    fragment = Fragment(id=id_, number=number, last=last, data=data)
    return clear(Exchange.INFORMATIONAL, (fragment,), sa.cookie_i, sa.cookie_r, 9)


class TestFragments:
    def cut(self, held: Scene, octets: int = 60) -> tuple[bytes, ...]:
        """Return a liveness check in pieces."""
        question = Notify(type=NotifyType.R_U_THERE, data=b"1234")
        datagram = sealed(sa_of(held.lyon), (question, VendorId(data=bytes(200))))
        return fragments.cut(datagram, classify(datagram), 7, octets)

    def test_in_any_order_and_twice_make_one_message(self) -> None:
        held = standing()
        pieces = list(self.cut(held))
        random.Random(3).shuffle(pieces)
        sent = [octets for each in pieces for octets in (*give(held.lyon, each), *give(held.lyon, each))]
        assert len(answers_of(held.lyon, sent)) == 1
        unharmed(held)

    def test_two_that_overlap(self) -> None:
        """The same number with other octets: the first stands, and the message is that of the first."""
        held = standing()
        pieces = self.cut(held)
        sa = sa_of(held.lyon)
        give(held.lyon, pieces[0])
        assert give(held.lyon, piece(sa, 1, b"something else")) == []
        assert give(held.lyon, piece(sa, 1, b"something else", last=True)) == []
        assert held.lyon.codes()["drop.fragment"] == 2
        assert len([each for one in pieces[1:] for each in give(held.lyon, one)]) == 1
        unharmed(held)

    def test_255_and_no_more(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        for number in range(1, 255):
            assert give(held.lyon, piece(sa, number, bytes((number,)))) == []
        assert sa.reassembly.octets == 254
        assert give(held.lyon, piece(sa, 255, b"\xff", last=True)) == []  # whole, and no message
        assert sa.reassembly.octets == 0
        assert held.lyon.codes()["ike.bug"] == 0
        unharmed(held)

    def test_number_256_is_0_and_no_fragment_has_that(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        give(held.lyon, piece(sa, 256 % 256, b"one too many"))
        give(held.lyon, piece(sa, 0, b"the last", last=True))
        assert held.lyon.codes()["drop.fragment"] == 2
        assert sa.reassembly.octets == 0

    def test_after_the_last_there_is_none(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        give(held.lyon, piece(sa, 3, b"three", last=True))
        give(held.lyon, piece(sa, 4, b"four"))
        give(held.lyon, piece(sa, 2, b"two", last=True))
        assert held.lyon.codes()["drop.fragment"] == 2
        assert sa.reassembly.octets == 5

    def test_never_the_last(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        for id_ in range(1, 50):
            for number in range(1, 60):
                give(held.lyon, piece(sa, number, bytes(1_000), id_=id_))
        assert sa.reassembly.octets <= fragments.MOST_IDS * fragments.MOST_OCTETS
        held.world.run(fragments.LIFETIME + 1)
        assert sa.reassembly.octets == 0
        unharmed(held)

    def test_empty_or_among_others(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        give(held.lyon, with_length(piece(sa, 1, b"x")[:36]))
        both = (Fragment(id=1, number=1, last=True, data=b"x"), VendorId(data=b"y"))
        give(held.lyon, clear(Exchange.INFORMATIONAL, both, sa.cookie_i, sa.cookie_r, 9))
        assert held.lyon.codes()["ikev1.payload-malformed"] == 2
        assert sa.reassembly.octets == 0

    def test_that_hold_a_fragment_or_another_sas_message(self) -> None:
        held = standing()
        sa = sa_of(held.lyon)
        give(held.lyon, piece(sa, 1, piece(sa, 1, b"inside", last=True), last=True))
        give(held.lyon, piece(sa, 1, first(cookie=b"stranger"), last=True))
        give(held.lyon, piece(sa, 1, b"less than a header", last=True))
        give(held.lyon, piece(sa, 1, bytes(17) + b"\x30" + bytes(10), last=True))
        assert held.lyon.codes()["drop.fragment"] == 2
        assert held.lyon.codes()["ike.bug"] == 0
        unharmed(held)

    def test_go_with_the_negotiation(self) -> None:
        """Both end at the same moment, 30 seconds after the first message."""
        world, lyon = responder()
        give(lyon, first(MAIN, VendorId(data=vendor.FRAGMENTATION)))
        (sa,) = machine(lyon).sas.values()
        give(lyon, clear(Exchange.MAIN, (Fragment(id=1, number=1, last=False, data=b"x"),), sa.cookie_i, sa.cookie_r))
        assert sa.reassembly.octets == 1
        world.run(60)
        assert sa.reassembly.octets == 0
        assert sa.deadline() is None
        assert machine(lyon).sas == {}

    def test_for_unknown_cookies_wait_nowhere(self) -> None:
        _, lyon = responder()
        for number in range(1, 100):
            octets = clear(Exchange.MAIN, (Fragment(id=1, number=number, last=False, data=bytes(1_000)),), b"stranger")
            assert all(len(each) <= len(octets) for each in give(lyon, octets))
            give(lyon, octets[:8] + b"whatever" + octets[16:])
        assert machine(lyon).sas == {}


class TestLengths:
    @pytest.mark.parametrize("octets", range(0, 29))
    def test_below_the_header(self, octets: int) -> None:
        held = standing()
        datagram = sealed(sa_of(held.lyon), (delete_of(held.lyon),))
        assert give(held.lyon, datagram[:octets]) == []
        assert give(held.lyon, with_length(datagram[:octets])) == []
        unharmed(held)

    @pytest.mark.parametrize("length", [0, 1, 27, 28, 29, 2**31, 2**32 - 1])
    def test_the_header_says_another(self, length: int) -> None:
        held = standing()
        datagram = sealed(sa_of(held.lyon), (delete_of(held.lyon),))
        assert give(held.lyon, datagram[:24] + length.to_bytes(4, "big") + datagram[28:]) == []
        assert held.lyon.codes()["wire.header"] == 1
        unharmed(held)

    def test_no_whole_blocks(self) -> None:
        held = standing()
        datagram = sealed(sa_of(held.lyon), (delete_of(held.lyon),))
        for octets in range(29, len(datagram)):
            assert give(held.lyon, with_length(datagram[:octets])) == []
        unharmed(held)

    @pytest.mark.parametrize("length", [0, 3, 4, 5, 65_535])
    def test_of_a_payload_inside(self, length: int) -> None:
        _, lyon = responder()
        octets = first()
        give(lyon, octets[:30] + length.to_bytes(2, "big") + octets[32:])
        assert machine(lyon).sas == {}
        assert lyon.codes()["ike.bug"] == 0


class TestPhase1:
    """What comes at a moment of phase 1 and is not the peer's does not end it."""

    def goes_on(self, held: Scene) -> None:
        held.world.network = Network()
        assert held.world.run(60, up(*held.hosts)), (held.paris.status(), held.lyon.status())
        assert len([each for each in held.lyon.reports if each.code == "ike.peer-initiates"]) == 1
        held.world.run(1)
        held.check()

    @pytest.mark.parametrize(
        "garbage", [bytes(16), b"\xff" * 64, bytes(range(32)), b"x" * 17, b""], ids=["16", "64", "32", "17", "0"]
    )
    def test_message_5_of_garbage(self, garbage: bytes) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 3)
        (sa,) = machine(held.lyon).sas.values()
        header = replace(classify(clear(2, (), sa.cookie_i, sa.cookie_r)))
        for kind in (5, 8, 0):
            sent = give(held.lyon, wire.serialize_encrypted(header, kind, garbage))
            assert len(sent) <= 1
        assert sa.state is SaState.KE_ANSWERED
        self.goes_on(held)

    def test_message_6_of_garbage(self) -> None:
        held = halted(MAIN, LYON, Exchange.MAIN, 3)
        (sa,) = machine(held.paris).sas.values()
        header = classify(clear(2, (), sa.cookie_i, sa.cookie_r))
        for _ in range(5):
            give(held.paris, wire.serialize_encrypted(header, 5, bytes(64)), BACK)
        assert sa.state is SaState.ID_SENT
        self.goes_on(held)

    def test_message_3_of_aggressive_mode_of_garbage(self) -> None:
        """In clear too, as the RFC allows: there anybody who saw the cookies could send one."""
        held = halted(AGGRESSIVE, PARIS, Exchange.AGGRESSIVE, 2)
        (sa,) = machine(held.lyon).sas.values()
        header = classify(clear(4, (), sa.cookie_i, sa.cookie_r))
        give(held.lyon, wire.serialize_encrypted(header, 8, bytes(64)))
        give(held.lyon, clear(4, (Hash(data=bytes(32)),), sa.cookie_i, sa.cookie_r))
        assert sa.state is SaState.AGGRESSIVE_ANSWERED
        self.goes_on(held)

    @pytest.mark.parametrize(
        "public",
        [bytes(96), bytes(95) + b"\1", b"\xff" * 95 + b"\xfe", b"\xff" * 96, bytes(95), bytes(97), GENERATOR],
        ids=["0", "1", "above p", "far above p", "short", "long", "another group's"],
    )
    def test_message_3_with_a_public_value_that_cannot_be_used(self, public: bytes) -> None:
        held = halted_legacy(PARIS, 2)
        (sa,) = machine(held.lyon).sas.values()
        keys = (KeyExchangeData(data=public), Nonce(data=bytes(32)))
        give(held.lyon, clear(2, keys, sa.cookie_i, sa.cookie_r))
        assert held.lyon.codes()["ike.invalid-ke"] == 1
        assert sa.state is SaState.SA_ANSWERED
        self.goes_on(held)

    def test_the_value_p_minus_1(self) -> None:
        held = halted_legacy(PARIS, 2)
        (sa,) = machine(held.lyon).sas.values()
        value = ffdh.GROUPS[1].p - 1
        keys = (KeyExchangeData(data=value.to_bytes(96, "big")), Nonce(data=bytes(32)))
        give(held.lyon, clear(2, keys, sa.cookie_i, sa.cookie_r))
        assert held.lyon.codes()["ike.invalid-ke"] == 1
        self.goes_on(held)

    @pytest.mark.parametrize("mode", MODES)
    def test_an_answer_with_a_value_that_cannot_be_used(self, mode: ExchangeMode) -> None:
        """Whoever sees our cookie may answer first; the peer, with another cookie of its own, is still taken."""
        number = 2 if mode is MAIN else 1
        exchange = Exchange.MAIN if mode is MAIN else Exchange.AGGRESSIVE
        held = halted(mode, LYON, exchange, number)
        (sa,) = machine(held.paris).sas.values()
        forged: list[Payload] = [KeyExchangeData(data=bytes(64)), Nonce(data=bytes(32))]
        cookie_r = sa.cookie_r
        if mode is AGGRESSIVE:
            lyon = Identification(id_type=IdType.IPV4_ADDR, data=bytes((192, 0, 2, 2)))
            forged = [offer_phase1(policy(mode), 1), *forged, lyon, Hash(data=bytes(32))]
            cookie_r = b"whatever"
        give(held.paris, clear(exchange, forged, sa.cookie_i, cookie_r), BACK)
        assert held.paris.codes()["ike.invalid-ke"] == 1
        self.goes_on(held)

    @pytest.mark.parametrize("octets", [7, 257])
    def test_message_3_with_a_nonce_of_a_wrong_length(self, octets: int) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 2)
        (sa,) = machine(held.lyon).sas.values()
        keys = (KeyExchangeData(data=GENERATOR), Nonce(data=bytes(octets)))
        give(held.lyon, clear(2, keys, sa.cookie_i, sa.cookie_r))
        assert sa.state is SaState.SA_ANSWERED
        self.goes_on(held)

    def test_garbage_after_the_keys(self) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 2)
        (sa,) = machine(held.lyon).sas.values()
        keys = clear(2, (KeyExchangeData(data=GENERATOR), Nonce(data=bytes(32))), sa.cookie_i, sa.cookie_r)
        give(held.lyon, with_length(keys + b"garbage"))
        assert held.lyon.codes()["ikev1.payload-malformed"] == 1
        assert sa.state is SaState.SA_ANSWERED
        self.goes_on(held)

    def test_another_mode_in_the_middle(self) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 2)
        (sa,) = machine(held.lyon).sas.values()
        give(held.lyon, clear(4, (Hash(data=bytes(32)),), sa.cookie_i, sa.cookie_r))
        assert held.lyon.codes()["ikev1.exchange-mode-mismatch"] == 1
        self.goes_on(held)

    def test_quick_mode_and_deletes_before_its_end(self) -> None:
        held = halted(MAIN, PARIS, Exchange.MAIN, 3)
        (sa,) = machine(held.lyon).sas.values()
        for exchange in (Exchange.QUICK, Exchange.INFORMATIONAL):
            header = replace(classify(clear(exchange, (), sa.cookie_i, sa.cookie_r)), message_id=9)
            assert give(held.lyon, wire.serialize_encrypted(header, 8, bytes(64))) == []
        assert held.lyon.codes()["drop.state"] == 1
        assert held.lyon.codes()["ikev1.psk-mismatch"] == 1  # what cannot be read under the keys under way
        self.goes_on(held)

    @pytest.mark.parametrize("mode", MODES)
    def test_first_messages_replayed_when_it_stands(self, mode: ExchangeMode) -> None:
        held = standing(mode)
        octets = held.world.log[0].octets
        for _ in range(20):
            assert give(held.lyon, octets) == []
        assert held.lyon.codes()["drop.duplicate"] == 20
        unharmed(held)

    def test_first_messages_replayed_from_another_port_come_to_nothing(self) -> None:
        held = standing()
        octets = held.world.log[0].octets
        for port in range(1_000, 1_010):
            assert len(give(held.lyon, octets, elsewhere(PARIS, port))) == 1
        held.world.run(60)
        unharmed(held)

    @pytest.mark.parametrize("mode", MODES)
    def test_vendors_payloads_of_all_sorts(self, mode: ExchangeMode) -> None:
        _, lyon = responder(mode)
        odd = tuple(VendorId(data=bytes(octets)) for octets in (0, 1, 8, 16, 300))
        assert len(give(lyon, first(mode, *odd))) == 1

    @pytest.mark.parametrize(
        "attribute",
        [
            short(Phase1Attribute.ENCRYPTION, 65_001),
            short(Phase1Attribute.ENCRYPTION, 2),
            short(Phase1Attribute.HASH, 3),
            short(Phase1Attribute.GROUP, 18),
            short(Phase1Attribute.GROUP, 4),
            short(Phase1Attribute.KEY_LENGTH, 129),
        ],
    )
    def test_unexpected_but_legal_transforms_are_refused(self, attribute: Attribute) -> None:
        _, lyon = responder()
        offer = with_attributes(offer_phase1(policy(), 1), attribute, without=attribute.type)
        (answer,) = give(lyon, first(offer=offer))
        assert classify(answer).exchange == Exchange.INFORMATIONAL
        assert machine(lyon).sas == {}

    def test_late_answers_after_we_closed(self) -> None:
        """Everything the peer has ever sent arrives once more when the tunnel has been taken down."""
        held = standing()
        held.lyon.do(held.lyon.engine.terminate, held.lyon.status().id)
        theirs = [each.octets for each in held.world.log if each.sender == "paris"]
        for _ in range(2):
            for octets in theirs:
                give(held.lyon, octets)
            held.world.run(60)
        assert held.lyon.codes()["ike.bug"] == 0
        assert machine(held.lyon).sas == {}
        assert held.lyon.state is TunnelState.DOWN
        assert held.lyon.data_plane.sas == {}


class TestShell:
    """While an answer of the shell is awaited, and when it comes."""

    def waiting(self, mode: ExchangeMode) -> tuple[World, Host, IsakmpSa]:
        """Return a responder with certificates that has been asked and whose shell does not answer."""
        world, side = World(), pair(mode)[1]
        lyon = world.host("lyon", LYON)
        pki.certify(side, lyon)
        lyon.shell.answers = False
        lyon.configure(side.document())
        give(lyon, first(mode, offer=offer_phase1(policy(mode), 9)))
        (sa,) = machine(lyon).sas.values()
        return world, lyon, sa

    def test_what_turns_out_later_is_told_of_the_right_negotiation(self) -> None:
        """Another's message came in between: the notify must neither bear its cookies nor go to it."""
        world, lyon, sa = self.waiting(AGGRESSIVE)
        give(lyon, first(AGGRESSIVE, cookie=b"another!", offer=offer_phase1(policy(MAIN), 9)))
        give(lyon, first(MAIN, cookie=b"yetmore!"), elsewhere("203.0.113.9"))
        lyon.shell.keys.clear()
        since = len(world.log)
        (request, *_) = lyon.shell.asked
        lyon.do(lyon.engine.validated, request.request_id, None)
        lyon.do(lyon.engine.signed, request.request_id, None)
        for each in world.log[since:]:
            assert each.octets[:8] == sa.cookie_i
            assert each.path.remote_address == PARIS
        assert lyon.codes()["ike.certificate-own"] == 1
        assert sa.state is SaState.CLOSED

    def test_nothing_else_is_taken_meanwhile(self) -> None:
        _, lyon, sa = self.waiting(AGGRESSIVE)
        assert give(lyon, first(AGGRESSIVE, offer=offer_phase1(policy(AGGRESSIVE), 9))) == []
        give(lyon, clear(4, (Hash(data=bytes(32)),), sa.cookie_i, sa.cookie_r))
        assert sa.waiting
        assert lyon.codes()["drop.state"] == 1
        lyon.shell.answers = True
        since = len(lyon.world.log)
        lyon.answer_shell()
        lyon.world.drain()
        assert len(lyon.world.log) == since + 1

    def test_an_answer_that_never_comes_leaves_nothing(self) -> None:
        world, lyon, _ = self.waiting(AGGRESSIVE)
        world.run(60)
        assert machine(lyon).sas == {}
        assert lyon.engine.hub.questions.pending() == 0
        lyon.answer_shell()
        assert lyon.codes()["ike.bug"] == 0


class TestMutations:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("seed", range(3))
    def test_changed_datagrams_at_every_state(self, mode: ExchangeMode, seed: int) -> None:
        """Every datagram arrives in changed copies first; when that is over, the tunnel is up and nothing is left."""
        chance = random.Random(seed)
        world = World(seed)

        def spoil(transmit: Transmit) -> Transmit:
            for _ in range(4):
                octets = _changed(transmit.datagram, chance)
                if octets[17:18] == b"\x10":
                    world.deliver(replace(transmit, datagram=octets), 0.001)
            return transmit

        world.network = Network(rewrite=spoil)
        held = Scene(mode, world=world, types=BOTH, ike=policy(mode, lifetime_s=240)).start()
        for _ in range(3):
            world.run(40, up(*held.hosts))
            held.paris.do(held.paris.engine.clear_ike, held.paris.status().id)
            world.run(3)
        world.network = Network()
        assert world.run(600, up(*held.hosts))
        world.run(400)
        assert up(*held.hosts)()
        assert [left_behind(host) for host in held.hosts] == [None, None]
