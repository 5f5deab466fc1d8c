"""What must not happen whatever arrives: an exception out of the funnel, a bug report, growth, a wrong state."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agents.contract.config import ConnectionType, IkePolicy
from agents.contract.status import TunnelState
from agents.ike import proposals, selectors
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import FindPsk, Path, Transmit
from agents.ike.v2.cookie import CookieJar
from agents.ike.v2.states import SaState
from agents.ike.wire.header import Header
from agents.ike.wire.message import Message, seal_message, serialize_clear
from agents.ike.wire.payloads import Auth, Delete, IdI, KeyExchangeData, Nonce, Notify, Opaque, Payload, TsI, TsR
from agents.ike.wire.registry import Exchange
from tests.harness.documents import FAST_IKE, child, pair
from tests.harness.entropy import SeededEntropy
from tests.harness.world import Host, Network, World, matched, up

_PATH = Path(local_address="192.0.2.2", local_port=500, remote_address="192.0.2.1", remote_port=500)


def standing(**changes: object) -> tuple[World, Host, Host]:
    world = World()
    left, right = pair(**changes)  # type: ignore[arg-type]
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    assert world.run(5, up(paris, lyon))
    world.run(0.5)
    return world, paris, lyon


def give(host: Host, datagram: bytes, path: Path = _PATH) -> None:
    host.do(lambda now: host.engine.receive(datagram, path, now))


def forge(paris: Host, payloads: tuple[Payload, ...], exchange: int = Exchange.INFORMATIONAL, ahead: int = 0) -> bytes:
    """Return a message as only paris could send it: sealed with its keys."""
    (sa,) = paris.engine.v2.sas.values()
    cipher = sa.protection.cipher_out
    header = Header(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        next_payload=0,
        exchange=exchange,
        flags=8,
        message_id=sa.requests.next_id + ahead,
    )
    return seal_message(Message(header=header, payloads=payloads), cipher, b"\xff" * 8)


class TestMutations:
    @pytest.mark.parametrize("seed", range(6))
    def test_changed_datagrams_at_every_state(self, seed: int) -> None:
        """Every datagram of a lively conversation arrives in changed copies first; the conversation succeeds."""
        chance = random.Random(seed)
        world = World(seed)

        def spoil(transmit: Transmit) -> Transmit:
            for _ in range(6):
                octets = mutate(transmit.datagram, chance)
                if octets != transmit.datagram and octets[17:18] == b"\x20" and octets[:1]:
                    world.deliver(replace(transmit, datagram=octets), 0.001)
            return transmit

        world.network = Network(rewrite=spoil)
        left, right = pair(types=(ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY))
        paris = world.host("paris", "192.0.2.1")
        lyon = world.host("lyon", "192.0.2.2", limits=HalfOpenLimits(per_address=1_000, cookie_threshold=1_000))
        lyon.configure(right.document())
        paris.configure(left.document())
        for _ in range(3):
            world.run(60, up(paris, lyon))
            for verb in ("rekey_child", "rekey_ike"):
                if paris.status().ike_sas and paris.state is TunnelState.UP:
                    paris.do(getattr(paris.engine, verb), paris.status().id)
                world.run(3)
        world.network.rewrite = None
        assert world.run(200, lambda: up(paris, lyon)() and matched(paris, lyon))
        for host in (paris, lyon):
            assert host.codes()["ike.bug"] == 0, [each for each in host.reports if each.code == "ike.bug"]
            counters = host.engine.counters
            assert counters["drop.integrity"] + sum(counters[code] for code in counters if code[:5] == "wire.") > 5
        world.run(100)
        assert len(paris.engine.v2.sas) == len(lyon.engine.v2.sas) == 1
        assert not lyon.engine.v2.door.half_open

    def test_a_flood_does_not_grow_anything(self) -> None:
        world, paris, lyon = standing()
        world.run(40)  # what has gone by is forgotten
        chance = random.Random(1)
        samples = [each.octets for each in world.log if each.sender == "paris" and each.octets[18] != 34]
        before = (len(lyon.engine.v2.sas), len(lyon.engine.v2.door.requests), len(lyon.reports))
        for _ in range(3_000):
            give(lyon, mutate(chance.choice(samples), chance))
        assert (len(lyon.engine.v2.sas), len(lyon.engine.v2.door.requests)) == before[:2]
        assert len(lyon.reports) - before[2] < 400  # flood control
        assert sum(lyon.engine.counters.values()) > 2_500  # and yet every one is counted
        assert up(paris, lyon)()


def mutate(octets: bytes, chance: random.Random) -> bytes:
    """Flip, cut, grow, splice; half of the time with the header's length put right."""
    changed = bytearray(octets)
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(5):
            case 0:
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            case 1:
                changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0xFF))
            case 2:
                del changed[chance.randrange(1, len(changed) + 1) :]
            case 3:
                place = chance.randrange(len(changed) + 1)
                changed[place:place] = chance.randbytes(chance.randint(1, 40))
            case 4:
                place = chance.randrange(len(changed) + 1)
                del changed[place : place + chance.randint(1, 8)]
        if not changed:
            changed = bytearray(b"\0")
    if len(changed) >= 28 and chance.random() < 0.5:
        changed[24:28] = len(changed).to_bytes(4, "big")
    return bytes(changed)


class TestDrops:
    """Every silent drop has its name."""

    def dropped(self, host: Host, code: str, count: int = 1) -> None:
        assert host.codes()[code] == count, host.codes()

    def test_ikev1(self) -> None:
        _, _, lyon = standing()
        give(lyon, bytes(range(1, 9)) + bytes(8) + bytes((1, 0x10, 2, 0)) + bytes(4) + (28).to_bytes(4, "big"))
        self.dropped(lyon, "drop.ikev1")

    def test_a_higher_version_is_told_ours(self) -> None:
        world, _, lyon = standing()
        sent = len(world.log)
        give(
            lyon,
            bytes(range(1, 9)) + bytes(8) + bytes((1, 0x30, 34, 8)) + bytes(4) + (40).to_bytes(4, "big") + bytes(12),
        )
        self.dropped(lyon, "drop.version")
        assert world.log[sent].octets[28 + 6 : 28 + 8] == (5).to_bytes(2, "big")
        assert len(world.log[sent].octets) <= 40

    def test_unknown_spi(self) -> None:
        _, paris, lyon = standing()
        octets = bytearray(forge(paris, ()))
        octets[8:16] = b"stranger"
        give(lyon, bytes(octets))
        self.dropped(lyon, "drop.unknown-spi")

    def test_direction(self) -> None:
        _, paris, lyon = standing()
        octets = bytearray(forge(paris, ()))
        octets[19] ^= 0x08
        give(lyon, bytes(octets))
        self.dropped(lyon, "drop.direction")

    def test_a_message_sent_back_to_its_sender(self) -> None:
        _, paris, _ = standing()
        give(paris, forge(paris, ()), replace(_PATH, local_address="192.0.2.1", remote_address="192.0.2.2"))
        self.dropped(paris, "drop.direction")

    def test_integrity(self) -> None:
        _, paris, lyon = standing()
        octets = bytearray(forge(paris, ()))
        octets[-1] ^= 1
        give(lyon, bytes(octets))
        self.dropped(lyon, "drop.integrity")
        assert lyon.state is TunnelState.UP

    def test_message_id_ahead(self) -> None:
        _, paris, lyon = standing()
        give(lyon, forge(paris, (), ahead=4))
        self.dropped(lyon, "drop.message-id")

    def test_a_repeated_request_gets_the_same_answer_once_worked_on(self) -> None:
        world, paris, lyon = standing()
        request = forge(paris, (Notify(type=40_960),))
        sent = len(world.log)
        give(lyon, request)
        give(lyon, request)
        self.dropped(lyon, "drop.duplicate")
        assert world.log[sent].octets == world.log[sent + 1].octets

    def test_another_request_with_an_old_id_is_not_answered(self) -> None:
        world, paris, lyon = standing()
        give(lyon, forge(paris, ()))
        sent = len(world.log)
        give(lyon, forge(paris, (Notify(type=40_961),)))
        self.dropped(lyon, "drop.message-id")
        assert len(world.log) == sent

    def test_an_answer_nobody_waits_for(self) -> None:
        world, paris, _ = standing()
        answer = [each for each in world.log if each.sender == "lyon"][-1]
        give(paris, answer.octets, replace(_PATH, local_address="192.0.2.1", remote_address="192.0.2.2"))
        self.dropped(paris, "drop.duplicate")

    def test_unknown_exchange(self) -> None:
        _, paris, lyon = standing()
        give(lyon, forge(paris, (), exchange=99))
        self.dropped(lyon, "drop.state")

    def test_auth_again_on_a_standing_sa(self) -> None:
        _, paris, lyon = standing()
        give(lyon, forge(paris, (IdI(id_type=1, data=bytes(4)),), exchange=Exchange.IKE_AUTH))
        self.dropped(lyon, "drop.state")

    def test_unknown_critical_payload_is_answered(self) -> None:
        world, paris, lyon = standing()
        request = bytearray(forge_critical(paris))
        sent = len(world.log)
        give(lyon, bytes(request))
        self.dropped(lyon, "drop.critical-payload")
        assert len(world.log) == sent + 1
        assert lyon.state is TunnelState.UP

    def test_forbidden_payloads_end_the_sa_with_invalid_syntax(self) -> None:
        world, paris, lyon = standing()
        give(lyon, forge(paris, (Nonce(data=bytes(32)),)))
        self.dropped(lyon, "drop.payload-rules")
        assert lyon.data_plane.sas == {}
        assert [str(sa.state) for sa in lyon.engine.v2.sas.values()] == [SaState.CLOSED]
        world.run(60)
        assert not lyon.engine.v2.sas

    def test_a_first_request_with_a_responders_spi(self) -> None:
        world, _, lyon = standing()
        octets = bytearray(world.log[0].octets)
        octets[0] ^= 1
        octets[8:16] = b"whatever"
        give(lyon, bytes(octets))
        self.dropped(lyon, "drop.state")

    def test_a_first_request_repeated_while_half_open(self) -> None:
        world = World(network=Network(rewrite=lambda t: None if t.datagram[18] == 35 else t))
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        give(lyon, world.log[0].octets)
        self.dropped(lyon, "drop.duplicate")
        assert sum(lyon.engine.v2.door.half_open.values()) == 1

    def test_eap_is_named(self) -> None:
        world = World(network=Network(rewrite=lambda t: None if t.datagram[18] == 35 else t))
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        (sa,) = paris.engine.v2.sas.values()
        identity = IdI(id_type=1, data=bytes((192, 0, 2, 1)))
        cipher = sa.protection.cipher_out
        header = Header(spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=35, flags=8, message_id=1)
        give(lyon, seal_message(Message(header=header, payloads=(identity,)), cipher, b"\xff" * 8))
        self.dropped(lyon, "ike.eap-refused")

    def test_rsa_is_named(self) -> None:
        world = World(network=Network(rewrite=lambda t: None if t.datagram[18] == 35 else t))
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        (sa,) = paris.engine.v2.sas.values()
        payloads = (IdI(id_type=1, data=bytes((192, 0, 2, 1))), Auth(method=1, data=bytes(128)))
        cipher = sa.protection.cipher_out
        header = Header(spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=35, flags=8, message_id=1)
        give(lyon, seal_message(Message(header=header, payloads=payloads), cipher, b"\xff" * 8))
        self.dropped(lyon, "ike.auth-method")
        reason = lyon.status().reason
        assert reason is not None
        assert reason.received == "method 1"


def forge_critical(paris: Host) -> bytes:
    (sa,) = paris.engine.v2.sas.values()
    cipher = sa.protection.cipher_out
    chain = bytes.fromhex("00800004")
    total = 32 + len(chain) + cipher.overhead(len(chain))
    header = Header(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        next_payload=46,
        exchange=37,
        flags=8,
        message_id=sa.requests.next_id,
        length=total,
    )
    aad = header.serialize() + bytes((201, 0)) + (total - 28).to_bytes(2, "big")
    return aad + cipher.seal(aad, chain, b"\xff" * 8)


class TestHalfOpen:
    def requests(self, count: int, address: str = "192.0.2.1") -> list[tuple[bytes, Path]]:
        """First requests of ``count`` different initiators."""
        world = World()
        left, _ = pair()
        paris = world.host("paris", "192.0.2.1")
        paris.configure(left.document())
        template = bytearray(world.log[0].octets)
        found = []
        for number in range(count):
            template[:8] = (number + 1).to_bytes(8, "big")
            found.append((bytes(template), replace(_PATH, remote_address=address, remote_port=1_000 + number)))
        return found

    def lyon(self, limits: HalfOpenLimits) -> tuple[World, Host]:
        world = World()
        _, right = pair()
        lyon = world.host("lyon", "192.0.2.2", limits=limits)
        lyon.configure(right.document())
        return world, lyon

    def test_limit_per_address_and_expiry(self) -> None:
        world, lyon = self.lyon(HalfOpenLimits(cookie_threshold=1_000, per_address=10))
        for octets, path in self.requests(15):
            give(lyon, octets, path)
        assert len(lyon.engine.v2.sas) == 10
        assert lyon.codes()["drop.half-open-limit"] == 5
        world.run(31)
        assert lyon.engine.v2.sas == {}
        assert not lyon.engine.v2.door.half_open

    def test_under_pressure_cookies_are_demanded_and_nothing_is_kept(self) -> None:
        world, lyon = self.lyon(HalfOpenLimits(cookie_threshold=5, per_address=1_000))
        sent = len(world.log)
        for octets, path in self.requests(200):
            give(lyon, octets, path)
        assert len(lyon.engine.v2.sas) == 5
        assert lyon.engine.counters["ike.cookie-demanded"] == 195
        assert all(len(each.octets) <= 100 for each in world.log[sent + 5 :])

    def test_a_forged_address_does_not_keep_its_owner_out(self) -> None:
        world, lyon = self.lyon(HalfOpenLimits())
        for octets, path in self.requests(200):
            give(lyon, octets, path)
        left, _ = pair()
        paris = world.host("paris", "192.0.2.1")
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert paris.codes()["ike.cookie-required"] == 1


class TestCookieJar:
    def test_good_for_its_request_only_and_not_for_ever(self) -> None:
        jar = CookieJar(SeededEntropy(1))
        cookie = jar.make(_PATH, b"spi-spi-", b"nonce", 0.0)
        assert jar.check(cookie, _PATH, b"spi-spi-", b"nonce", 59.0)
        assert jar.check(cookie, _PATH, b"spi-spi-", b"nonce", 61.0)
        assert not jar.check(cookie, replace(_PATH, remote_address="192.0.2.3"), b"spi-spi-", b"nonce", 61.0)
        assert not jar.check(cookie, _PATH, b"spi-spi-", b"other", 61.0)
        assert not jar.check(cookie, _PATH, b"spi-spj-", b"nonce", 61.0)
        assert not jar.check(cookie, _PATH, b"spi-spi-", b"nonce", 125.0)
        assert not jar.check(b"", _PATH, b"spi-spi-", b"nonce", 1.0)


class TestEffects:
    def test_a_psk_that_comes_too_late_is_passed_over(self) -> None:
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.psk_answers = False
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(5)
        left.change(enabled=False)
        paris.configure(left.document())
        world.run(60)
        assert lyon.codes()["ike.bug"] == 0
        assert lyon.engine.hub.questions.pending() == 0
        lyon.do(lyon.engine.psk_found, 1, None)
        assert lyon.codes()["ike.psk-missing"] == 0

    def test_find_psk_names_the_pair(self) -> None:
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        asked: list[FindPsk] = []
        perform = lyon.perform

        def listen(output: object) -> None:
            if isinstance(output, FindPsk):
                asked.append(output)
            perform(output)  # type: ignore[arg-type]

        lyon.perform = listen  # type: ignore[method-assign]
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert (asked[0].local_address, asked[0].remote_address) == ("192.0.2.2", "192.0.2.1")
        assert asked[0].remote_identity.value == "192.0.2.1"

    def test_install_answers_for_what_is_gone_are_passed_over(self) -> None:
        _, paris, lyon = standing()
        lyon.do(lyon.engine.child_installed, 999)
        lyon.do(lyon.engine.child_install_failed, 2, "late")
        assert up(paris, lyon)()

    def test_a_bug_is_loud_and_changes_nothing(self) -> None:
        _, paris, lyon = standing()
        (sa,) = lyon.engine.v2.sas.values()

        def broken(*_: object) -> None:
            raise KeyError("a text that might be a secret")

        sa.dispatch = broken  # type: ignore[method-assign, assignment]
        give(lyon, forge(paris, ()))
        assert lyon.codes()["ike.bug"] == 1
        assert "secret" not in repr(lyon.reports)
        del sa.dispatch
        give(lyon, forge(paris, ()))
        assert lyon.codes()["ike.bug"] == 1
        assert up(paris, lyon)()

    def test_an_impossible_public_value_leaves_no_spi_taken(self) -> None:
        config = child(pfs_groups=("group-31",))
        _, paris, lyon = standing(children=(config,))
        taken = set(lyon.engine.hub.esp_spis)
        payloads = (
            proposals.offer_ipsec(config, b"\1\2\3\4", pfs=True),
            Nonce(data=bytes(32)),
            KeyExchangeData(group=31, data=bytes(32)),
            TsI(selectors=selectors.to_ranges(config.local_ts)),
            TsR(selectors=selectors.to_ranges(config.remote_ts)),
        )
        give(lyon, forge(paris, payloads, Exchange.CREATE_CHILD_SA))
        assert lyon.codes()["ike.invalid-ke"] == 1
        assert lyon.engine.hub.esp_spis == taken

    def test_delete_of_an_unknown_child_is_answered_with_nothing(self) -> None:
        world, paris, lyon = standing()
        sent = len(world.log)
        give(lyon, forge(paris, (Delete(protocol=3, spis=(b"\1\2\3\4",)),)))
        assert len(world.log) == sent + 1
        assert up(paris, lyon)()

    def test_configuration_payloads_are_passed_over(self) -> None:
        world, paris, lyon = standing()
        sent = len(world.log)
        give(lyon, forge(paris, (Opaque(type=47, data=b"\1\0\0\0"),)))
        assert len(world.log) == sent + 1
        assert lyon.codes()["ike.bug"] == 0


def test_reports_escape_what_the_peer_says() -> None:
    from agents.contract.config import Endpoint, Identity, IdentityType

    world = World()
    left, right = pair()
    odd = Identity(type=IdentityType.FQDN, value="<b>\u00e9vil</b>")
    left.change(local=Endpoint(address="192.0.2.1", identity=odd))
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(1)
    reason = lyon.status().reason
    assert reason is not None
    assert reason.received == "fqdn <b>..vil</b>"


def test_a_first_request_in_every_wrong_shape_leaves_no_state() -> None:
    world = World()
    _, right = pair(ike=IkePolicy(proposals=(FAST_IKE,)))
    lyon = world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    header = Header(spi_i=b"initiate", spi_r=bytes(8), next_payload=0, exchange=34, flags=8, message_id=0)
    for payloads in ((), (Nonce(data=bytes(16)),), (Notify(type=16390, data=b"cookie"),)):
        give(lyon, serialize_clear(Message(header=header, payloads=payloads)))
    assert lyon.codes()["drop.payload-rules"] == 3
    assert lyon.engine.v2.sas == {}
