"""What strangers get of IKEv1: little, seldom, and in Main Mode never more than they sent.

::

    stranger                            we
    SA                     -->
                           <--          SA              not longer; nothing computed, nothing sent again unasked
    KE, Ni (our cookie)    -->
                           <--          KE, Nr          the address is proven

    SA, KE, Ni, IDii       -->
                           <--          SA, KE, Nr, IDir, HASH_R     longer: so seldom, and only to peers' addresses
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest

from agents.contract.algorithms import KeyExchange
from agents.contract.config import ConnectionType, ExchangeMode, IkeProposal, Tunnel
from agents.ike.crypto import dh, ffdh
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Entropy, Path
from agents.ike.v1 import capabilities
from agents.ike.v1.exchange import MOST_REPEATS
from agents.ike.v1.proposals import offer_phase1
from agents.ike.wire.header import NO_SPI, classify
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.payloads import Identification, KeyExchangeData, Nonce, Notify, VendorId
from agents.ike.wire.isakmp.registry import Exchange, IdType, NotifyType, Phase1Attribute
from tests.harness import documents, pki
from tests.harness.documents import endpoint, ipv4_identity, key
from tests.harness.v1 import FAST_IKE, LYON, PARIS, child, machine, pair, policy
from tests.harness.world import Host, Network, World, up
from tests.ike.v1.cast import short, with_attributes
from tests.ike.v1.forging import GENERATOR, PATH, clear, elsewhere, first, give, responder

MAIN, AGGRESSIVE = ExchangeMode.MAIN, ExchangeMode.AGGRESSIVE
HALF_OPEN_S = 30


def notify_of(octets: bytes) -> int:
    """Return the type of the notify that a message in clear is."""
    found = wire.parse_clear(octets, classify(octets)).payloads[0]
    assert isinstance(found, Notify)
    return found.type


def altered(octets: bytes, place: int, *values: int) -> bytes:
    """Return a message with other octets from a place on."""
    return octets[:place] + bytes(values) + octets[place + len(values) :]


def with_method(mode: ExchangeMode, number: int) -> bytes:
    """Return a first message that asks for this authentication method."""
    offer = offer_phase1(policy(mode), 1)
    method = Phase1Attribute.AUTHENTICATION_METHOD
    return first(mode, offer=with_attributes(offer, short(method, number), without=method))


_OTHER = offer_phase1(policy(MAIN, replace(FAST_IKE, encryption="aes-256-cbc")), 1)

# what, the message, where from, the notify that answers it
REFUSED: tuple[tuple[str, Callable[[], bytes], Path, int | None], ...] = (
    ("no tunnel", first, elsewhere("203.0.113.9"), NotifyType.NO_PROPOSAL_CHOSEN),
    ("no proposal", lambda: first(offer=_OTHER), PATH, NotifyType.NO_PROPOSAL_CHOSEN),
    ("another mode", lambda: first(AGGRESSIVE), PATH, NotifyType.UNSUPPORTED_EXCHANGE_TYPE),
    ("public-key encryption", lambda: with_method(MAIN, 4), PATH, NotifyType.NO_PROPOSAL_CHOSEN),
    ("no cookie", lambda: first(cookie=NO_SPI), PATH, None),
    ("an exchange not spoken", lambda: altered(first(), 18, 6), PATH, NotifyType.UNSUPPORTED_EXCHANGE_TYPE),
    ("another minor version", lambda: altered(first(), 17, 0x11), PATH, NotifyType.INVALID_MINOR_VERSION),
    ("flags", lambda: altered(first(), 19, 0x80), PATH, NotifyType.INVALID_FLAGS),
    ("a message ID", lambda: altered(first(), 23, 1), PATH, NotifyType.INVALID_MESSAGE_ID),
    ("another DOI", lambda: altered(first(), 35, 2), PATH, NotifyType.DOI_NOT_SUPPORTED),
    ("encrypted", lambda: altered(first(), 19, 1), PATH, NotifyType.PAYLOAD_MALFORMED),
    ("no SA", lambda: clear(2, (VendorId(data=bytes(40)),), b"stranger"), PATH, NotifyType.PAYLOAD_MALFORMED),
    ("a notify", lambda: clear(5, (Notify(type=14),), b"stranger", number=7), PATH, None),
    ("too short to answer", lambda: clear(2, (), b"stranger"), PATH, None),
    ("Quick Mode", lambda: altered(altered(first(), 18, 32), 23, 1), PATH, None),
)


class TestRefused:
    @pytest.mark.parametrize(("what", "build", "path", "notify"), REFUSED, ids=[each[0] for each in REFUSED])
    def test_is_told_once_in_few_octets_and_forgotten(
        self, what: str, build: Callable[[], bytes], path: Path, notify: int | None
    ) -> None:
        world, lyon = responder()
        request = build()
        found = give(lyon, request, path)
        assert [notify_of(each) for each in found] == ([] if notify is None else [notify]), what
        assert sum(map(len, found)) <= len(request)
        assert not machine(lyon).sas
        assert not machine(lyon).door.half_open
        sent = len(world.log)
        world.run(60)
        assert len(world.log) == sent

    def test_notifies_are_few(self) -> None:
        world, lyon = responder()
        assert sum(len(give(lyon, first(offer=_OTHER))) for _ in range(500)) <= 10
        world.run(10)
        assert len(give(lyon, first(offer=_OTHER))) == 1

    @pytest.mark.parametrize("mode", [MAIN, AGGRESSIVE])
    @pytest.mark.parametrize(
        ("number", "name"),
        [
            (4, "rsa-encryption (not implemented)"),
            (5, "revised-rsa-encryption (not implemented)"),
            (6, "elgamal-encryption (not implemented)"),
            (7, "revised-elgamal-encryption (not implemented)"),
            (64_221, "hybrid-rsa (not implemented)"),
            (65_001, "xauth-psk (not implemented)"),
        ],
    )
    def test_public_key_encryption_says_that_it_is_not_implemented(
        self, mode: ExchangeMode, number: int, name: str
    ) -> None:
        _, lyon = responder(mode)
        (answer,) = give(lyon, with_method(mode, number))
        assert notify_of(answer) == NotifyType.NO_PROPOSAL_CHOSEN
        (report,) = (each for each in lyon.reports if each.code == "ikev1.auth-method-mismatch")
        assert (report.received, report.configured) == (name, "psk")
        assert not machine(lyon).sas

    def test_a_refused_proposal_of_aggressive_mode_and_then_its_third_message(self) -> None:
        """There is nothing the third message could find."""
        _, lyon = responder(AGGRESSIVE)
        assert [notify_of(each) for each in give(lyon, first(AGGRESSIVE, offer=_OTHER))] == [14]
        for cookie_r in (NO_SPI, b"whatever"):
            header = replace(classify(first()), exchange=Exchange.AGGRESSIVE, spi_r=cookie_r)
            found = give(lyon, wire.serialize_encrypted(header, 8, bytes(64)))
            assert [notify_of(each) for each in found] in ([], [NotifyType.PAYLOAD_MALFORMED])
        assert not machine(lyon).sas
        assert lyon.codes()["ike.bug"] == 0
        assert lyon.codes()["ikev1.exchange-without-sa"] == 1

    @pytest.mark.parametrize(
        ("public", "why"),
        [
            (bytes(64), "not a point"),
            (GENERATOR[:-1] + b"\0", "not a point"),
            (GENERATOR + b"\0", "octets"),
            (GENERATOR[:32], "octets"),
        ],
    )
    def test_a_public_value_of_aggressive_mode_that_cannot_be_used_ends_it(self, public: bytes, why: str) -> None:
        _, lyon = responder(AGGRESSIVE)
        (answer,) = give(lyon, first(AGGRESSIVE, public=public))
        assert notify_of(answer) == NotifyType.INVALID_KEY_INFORMATION
        (report,) = (each for each in lyon.reports if each.code == "ike.invalid-ke")
        assert why in report.message
        assert not machine(lyon).sas
        assert not machine(lyon).door.half_open

    @pytest.mark.parametrize(("octets", "fine"), [(7, False), (8, True), (256, True), (257, False)])
    def test_nonces_have_8_to_256_octets(self, octets: int, fine: bool) -> None:
        _, lyon = responder(AGGRESSIVE)
        (answer,) = give(lyon, first(AGGRESSIVE, nonce=bytes(octets)))
        assert (classify(answer).exchange == Exchange.AGGRESSIVE) == fine
        assert len(machine(lyon).sas) == fine

    def test_an_identity_that_no_tunnel_has(self) -> None:
        _, lyon = responder(AGGRESSIVE)
        stranger = Identification(id_type=IdType.FQDN, data=b"stranger.example")
        assert [notify_of(each) for each in give(lyon, first(AGGRESSIVE, shown=stranger))] == [18]
        assert lyon.codes()["ikev1.psk-identity-mismatch"] == 1
        assert not machine(lyon).sas

    def test_a_stranger_does_not_put_a_tunnel_off(self) -> None:
        """What a forged message is refused for changes nothing about when the tunnel itself begins."""
        _, lyon = responder(AGGRESSIVE)
        (tunnel,) = machine(lyon).tunnels.values()
        before = tunnel.retry_at
        give(lyon, first(AGGRESSIVE, offer=_OTHER))
        give(lyon, first(AGGRESSIVE, public=bytes(64), cookie=b"strange2"))
        assert tunnel.retry_at == before


def flood(
    world: World, lyon: Host, build: Callable[[int], tuple[bytes, Path]], *, per_s: int, seconds: int
) -> tuple[int, int, int, int]:
    """Send so many messages a second; return datagrams and octets asked, and answered until all is over."""
    since, asked = len(world.log), 0
    for number in range(per_s * seconds):
        octets, path = build(number)
        asked += len(octets)
        lyon.do(lambda now, octets=octets, path=path: lyon.engine.receive(octets, path, now))
        world.run(1 / per_s)
    world.run(60)
    sent = [each.octets for each in world.log[since:]]
    return per_s * seconds, asked, len(sent), sum(map(len, sent))


class TestAmplification:
    def test_main_mode_answers_by_no_more_whatever_is_asked(self) -> None:
        for padding in range(0, 120, 3):
            for vendors in ((), machine_vendors()):
                _, lyon = responder()
                request = first(MAIN, *vendors, VendorId(data=bytes(padding)))
                (answer,) = give(lyon, request)
                assert len(answer) <= len(request)

    def test_a_minute_of_first_messages_of_main_mode(self) -> None:
        world, lyon = responder()
        asked, in_, answered, out = flood(
            world, lyon, lambda number: (first(cookie=b"%08d" % number), PATH), per_s=50, seconds=60
        )
        assert answered <= asked
        assert out <= in_
        assert not machine(lyon).sas

    @pytest.mark.parametrize("mode", [MAIN, AGGRESSIVE])
    def test_a_minute_of_one_message_again_and_again(self, mode: ExchangeMode) -> None:
        """Its answer is repeated a few times; when the negotiation is given up, it counts as new once more."""
        world, lyon = responder(mode)
        asked, _, answered, out = flood(world, lyon, lambda _: (first(mode), PATH), per_s=20, seconds=60)
        assert asked == 1_200
        assert answered <= (1 + 60 / HALF_OPEN_S) * (1 + MOST_REPEATS)
        assert out <= answered * 400

    def test_a_minute_of_first_messages_of_aggressive_mode(self) -> None:
        """At most 20 answers at once and 5 a second go to one address: less than came, all in all."""
        world, lyon = responder(AGGRESSIVE)
        _, in_, answered, out = flood(
            world, lyon, lambda number: (first(AGGRESSIVE, cookie=b"%08d" % number), PATH), per_s=50, seconds=60
        )
        assert answered <= 20 + 5 * 60 + 1
        assert out < in_

    def test_repetitions_count_as_answers_of_aggressive_mode(self) -> None:
        world, lyon = responder(AGGRESSIVE)
        _, _, answered, _ = flood(
            world,
            lyon,
            lambda number: (first(AGGRESSIVE, cookie=b"%08d" % (number // 10)), PATH),
            per_s=100,
            seconds=10,
        )
        assert answered <= 20 + 5 * 10 + 1

    @pytest.mark.parametrize("mode", [MAIN, AGGRESSIVE])
    def test_nothing_goes_out_unasked(self, mode: ExchangeMode) -> None:
        world, lyon = responder(mode)
        assert len(give(lyon, first(mode))) == 1
        sent = len(world.log)
        world.run(120)
        assert len(world.log) == sent
        assert not machine(lyon).sas

    def test_only_peers_addresses_get_an_answer_of_aggressive_mode(self) -> None:
        _, lyon = responder(AGGRESSIVE)
        for address in ("203.0.113.9", "192.0.2.3"):
            assert [notify_of(each) for each in give(lyon, first(AGGRESSIVE), elsewhere(address))] == [14]

    def test_what_an_answer_of_aggressive_mode_weighs(self) -> None:
        """As docs/threat-model.md says: up to twice the question with a pre-shared key, more with certificates."""
        _, lyon = responder(AGGRESSIVE)
        request = first(AGGRESSIVE, VendorId(data=machine_vendors()[0].data))
        (answer,) = give(lyon, request)
        assert 1 < len(answer) / len(request) < 2
        world, side = World(), pair(AGGRESSIVE)[1]
        lyon = world.host("lyon", LYON)
        pki.certify(side, lyon)
        lyon.configure(side.document())
        offer = offer_phase1(policy(AGGRESSIVE), 9)
        request = first(AGGRESSIVE, offer=offer)
        found = give(lyon, request)
        assert len(found) == 1
        assert 2 < len(found[0]) / len(request) < 6


def machine_vendors() -> tuple[VendorId, ...]:
    """Return the vendor IDs whose answers are vendor IDs."""
    return capabilities.offered(True)


def many(count: int, mode: ExchangeMode, limits: HalfOpenLimits | None = None) -> tuple[World, Host, list[str]]:
    """Return a responder with tunnels to so many peers, the first of them paris."""
    world = World()
    lyon = world.host("lyon", LYON, limits=limits)
    _, side = pair(mode)
    addresses = [PARIS]
    for number in range(1, count):
        address = f"198.51.100.{number}"
        addresses.append(address)
        side.tunnels.append(
            documents.tunnel(
                endpoint(LYON), endpoint(address, ipv4_identity(PARIS)), name=f"peer-{number}", ike=policy(mode),
                children=(child(remote=(f"10.99.{number}.0/24",)),), version=side.tunnels[0].version,
                connection_type=side.tunnels[0].connection_type,
            )
        )  # fmt: skip
        side.keys.append(key(b"a shared secret of both", LYON, address))
    lyon.configure(side.document())
    return world, lyon, addresses


class TestHalfOpen:
    def test_an_address_has_so_many_and_the_oldest_goes(self) -> None:
        world, lyon = responder(limits=HalfOpenLimits(per_address=5))
        for number in range(20):
            assert len(give(lyon, first(cookie=b"%08d" % number))) == 1
            world.run(0.01)
        assert machine(lyon).door.half_open == {PARIS: 5}
        assert {sa.cookie_peer for sa in machine(lyon).sas.values()} == {b"%08d" % number for number in range(15, 20)}
        world.run(60)
        assert not machine(lyon).sas
        assert not machine(lyon).door.half_open
        assert not machine(lyon).door.requests

    def test_what_is_refused_takes_nobodys_place(self) -> None:
        _, lyon = responder(limits=HalfOpenLimits(per_address=1))
        give(lyon, first())
        (sa,) = machine(lyon).sas.values()
        give(lyon, first(offer=_OTHER, cookie=b"strange2"))
        give(lyon, first(AGGRESSIVE, cookie=b"strange3"))
        assert list(machine(lyon).sas.values()) == [sa]

    def test_all_addresses_together_have_so_many(self) -> None:
        limits = HalfOpenLimits(per_address=6, total=10)
        _, lyon, addresses = many(5, MAIN, limits)
        for number in range(60):
            give(lyon, first(cookie=b"%08d" % number), elsewhere(addresses[number % 5]))
        assert machine(lyon).door.half_open.total() == 10

    def test_many_forged_addresses_do_not_keep_another_out(self) -> None:
        """Where all places are taken, the address that has most of them makes room for one that has few."""
        limits = HalfOpenLimits(per_address=6, total=10)
        _, lyon, addresses = many(4, MAIN, limits)
        for number in range(60):
            give(lyon, first(cookie=b"%08d" % number), elsewhere(addresses[1 + number % 3]))
        assert len(give(lyon, first(cookie=b"the peer"), PATH)) == 1
        assert machine(lyon).door.half_open.total() == 10
        assert machine(lyon).door.half_open[PARIS] == 1

    def test_one_that_has_shown_our_cookie_stays(self) -> None:
        _, lyon = responder(limits=HalfOpenLimits(per_address=2))
        (answer,) = give(lyon, first())
        keys = (KeyExchangeData(data=GENERATOR), Nonce(data=bytes(8)))
        assert len(give(lyon, clear(Exchange.MAIN, keys, b"stranger", classify(answer).spi_r))) == 1
        for number in range(50):
            give(lyon, first(cookie=b"%08d" % number))
        assert b"stranger" in {sa.cookie_peer for sa in machine(lyon).sas.values()}

    def test_nobody_makes_room_where_all_have_shown_our_cookie(self) -> None:
        _, lyon = responder(limits=HalfOpenLimits(per_address=1))
        (answer,) = give(lyon, first())
        keys = (KeyExchangeData(data=GENERATOR), Nonce(data=bytes(8)))
        give(lyon, clear(Exchange.MAIN, keys, b"stranger", classify(answer).spi_r))
        assert give(lyon, first(cookie=b"strange2")) == []
        assert lyon.codes()["drop.half-open-limit"] == 1

    @pytest.mark.parametrize("mode", [MAIN, AGGRESSIVE])
    def test_the_peer_gets_through_while_its_address_is_forged(self, mode: ExchangeMode) -> None:
        world = World(network=Network(delay_s=(0.01, 0.01)))
        left, right = pair(mode)
        lyon, paris = world.host("lyon", LYON), world.host("paris", PARIS)
        lyon.configure(right.document())
        per_s = 1_000 if mode is MAIN else 4  # what Aggressive Mode gets through is 5 a second for an address
        for number in range(per_s):
            give(lyon, first(mode, cookie=b"%08d" % number))
            world.run(1 / per_s)
        paris.configure(left.document())
        for number in range(per_s, 20 * per_s):
            give(lyon, first(mode, cookie=b"%08d" % number))
            world.run(1 / per_s)
            if up(paris, lyon)():
                break
        assert up(paris, lyon)()

    def test_one_forged_address_does_not_keep_others_out_of_aggressive_mode(self) -> None:
        _world, lyon, addresses = many(3, AGGRESSIVE)
        for number in range(300):
            give(lyon, first(AGGRESSIVE, cookie=b"%08d" % number), elsewhere(addresses[1]))
        (answer,) = give(lyon, first(AGGRESSIVE), elsewhere(addresses[2]))
        assert classify(answer).exchange == Exchange.AGGRESSIVE

    def test_a_message_in_the_peers_name_does_not_stop_us_from_beginning(self) -> None:
        """Aggressive Mode's first message is anybody's; a tunnel that waited for it to go on could be kept waiting."""
        world = World()
        left, right = pair(AGGRESSIVE, types=(ConnectionType.BOTH, ConnectionType.BOTH))
        lyon, paris = world.host("lyon", LYON), world.host("paris", PARIS)
        lyon.configure(right.document())
        for number in range(40):
            give(lyon, first(AGGRESSIVE, cookie=b"%08d" % number))
            world.run(3)
        paris.configure(replace(left.document(), tunnels=right_only(left.tunnels)))
        for number in range(40, 60):
            give(lyon, first(AGGRESSIVE, cookie=b"%08d" % number))
            if world.run(10, up(paris, lyon)):
                break
        assert up(paris, lyon)()


def right_only(tunnels: list[Tunnel]) -> tuple[Tunnel, ...]:
    """Return tunnels that wait for the peer to begin."""
    return tuple(replace(each, connection_type=ConnectionType.RESPONDER_ONLY) for each in tunnels)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the key exchanges of responders, by group."""
    done: list[int] = []
    respond = dh.respond

    def count(group: KeyExchange, public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        done.append(group.number)
        return respond(group, public, entropy)

    with mock.patch.object(dh, "respond", count):
        yield done


GROUPS = ("group-1", "group-2")


def legacy(group: str) -> IkeProposal:
    """Return a suite of a group whose arithmetic is Python's own."""
    return replace(FAST_IKE, group=group)


class TestComputations:
    """What a stranger can make us compute: a number of times, at a bounded price each."""

    @pytest.mark.parametrize("group", GROUPS)
    def test_main_mode_computes_nothing_before_our_cookie_comes_back(self, group: str) -> None:
        ike = policy(MAIN, legacy(group))
        world, lyon = responder(ike=ike)
        with counted() as done:
            for number in range(2_000):
                give(lyon, first(offer=offer_phase1(ike, 1), cookie=b"%08d" % number))
                world.run(0.005)
        assert done == []

    @pytest.mark.parametrize("group", GROUPS)
    def test_our_cookie_is_good_for_one_computation(self, group: str) -> None:
        ike = policy(MAIN, legacy(group))
        _world, lyon = responder(ike=ike)
        (answer,) = give(lyon, first(offer=offer_phase1(ike, 1)))
        cookie, octets = classify(answer).spi_r, 96 if group == "group-1" else 128
        with counted() as done:
            for number in range(100):
                keys = (KeyExchangeData(data=(number + 2).to_bytes(octets, "big")), Nonce(data=bytes(8)))
                give(lyon, clear(Exchange.MAIN, keys, b"stranger", cookie))
        assert len(done) == 1

    @pytest.mark.parametrize("group", GROUPS)
    def test_aggressive_mode_has_a_budget(self, group: str) -> None:
        """For one address 20 at once and 5 a second; for all together 100 at once and 50 a second."""
        ike = policy(AGGRESSIVE, legacy(group))
        octets = 96 if group == "group-1" else 128
        for peers, most in ((1, 20 + 5 * 4), (40, 100 + 50 * 4)):
            world, lyon, addresses = many(peers, AGGRESSIVE)
            assert lyon.document is not None
            tunnels = tuple(replace(each, ike=ike) for each in lyon.document.tunnels)
            lyon.configure(replace(lyon.document, allow_legacy=True, tunnels=tunnels))
            with counted() as done:
                for number in range(2_000):
                    public = (number + 2).to_bytes(octets, "big")
                    offer = offer_phase1(ike, 1)
                    octets_ = first(AGGRESSIVE, offer=offer, cookie=b"%08d" % number, public=public)
                    give(lyon, octets_, elsewhere(addresses[number % peers]))
                    world.run(0.002)
            assert most * 0.9 < len(done) <= most + 1

    @pytest.mark.parametrize("group", GROUPS)
    def test_a_value_of_a_wrong_length_costs_nothing(self, group: str) -> None:
        ike = policy(AGGRESSIVE, legacy(group))
        _, lyon = responder(AGGRESSIVE, ike=ike)
        with counted() as done:
            for octets in (1, 95, 97, 127, 129, 8_000):
                give(lyon, first(AGGRESSIVE, offer=offer_phase1(ike, 1), public=bytes((7,) * octets)))
        assert done == []

    @pytest.mark.parametrize("group", GROUPS)
    def test_one_computation_is_at_most_two_powers_of_short_numbers(self, group: str) -> None:
        """No stranger chooses what they cost: the modulus is the group's, the exponent ours and below it."""
        ike = policy(AGGRESSIVE, legacy(group))
        _, lyon = responder(AGGRESSIVE, ike=ike)
        bits = 768 if group == "group-1" else 1_024
        asked: list[tuple[int, int]] = []

        def power(base: int, exponent: int, modulus: int) -> int:
            asked.append((exponent.bit_length(), modulus.bit_length()))
            return pow(base, exponent, modulus)

        public = b"\x7f" * (bits // 8)
        with mock.patch.object(ffdh, "pow", power, create=True):
            give(lyon, first(AGGRESSIVE, offer=offer_phase1(ike, 1), public=public))
        assert len(machine(lyon).sas) == 1
        assert 1 <= len(asked) <= 2
        assert all(exponent <= bits and modulus == bits for exponent, modulus in asked)


class TestWeakKeys:
    def test_a_short_key_in_aggressive_mode_is_warned_of_once_for_a_negotiation(self) -> None:
        _, lyon = responder(AGGRESSIVE, secret=b"short")
        for _ in range(5):
            give(lyon, first(AGGRESSIVE))
        assert lyon.codes()["ikev1.weak-aggressive-psk"] == 1
        give(lyon, first(AGGRESSIVE, cookie=b"strange2"))
        assert lyon.codes()["ikev1.weak-aggressive-psk"] == 2
        assert "short" not in " ".join(each.message for each in lyon.reports if each.code == "ike.peer-initiates")

    def test_both_ends_warn(self) -> None:
        world = World()
        left, right = pair(AGGRESSIVE, secret=b"short")
        lyon, paris = world.host("lyon", LYON), world.host("paris", PARIS)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert (paris.codes()["ikev1.weak-aggressive-psk"], lyon.codes()["ikev1.weak-aggressive-psk"]) == (1, 1)

    @pytest.mark.parametrize(
        ("mode", "secret"), [(MAIN, b"short"), (AGGRESSIVE, b"q7Jm2vXc9Lp4Tz8Rb1Wn6")], ids=("main", "long")
    )
    def test_main_mode_and_long_keys_need_no_warning(self, mode: ExchangeMode, secret: bytes) -> None:
        world = World()
        left, right = pair(mode, secret=secret)
        lyon, paris = world.host("lyon", LYON), world.host("paris", PARIS)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert paris.codes()["ikev1.weak-aggressive-psk"] == lyon.codes()["ikev1.weak-aggressive-psk"] == 0
