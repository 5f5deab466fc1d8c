"""Post-quantum pre-shared keys (RFC 8784) between two engines: who uses one with whom, and what the keys become."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from agents.contract import algorithms
from agents.contract.config import IkeProposal, PostquantumKey
from agents.contract.secret import Secret
from agents.ike.crypto.suite import IkeSuite
from agents.ike.outputs import Sign, Transmit
from agents.ike.v2 import ppk
from agents.ike.v2.keymat import IkeKeys, derive_ike_keys
from agents.ike.wire.header import classify
from agents.ike.wire.message import parse_clear
from agents.ike.wire.registry import NotifyType
from tests.harness.documents import FAST_IKE, Side, pair
from tests.harness.pki import certify
from tests.harness.world import Host, Network, World, matched, up

Pair = tuple[World, Host, Host, Side, Side]
ONE = PostquantumKey(id="ppk-one", secret=Secret(b"one secret of 32 octets or so...."))
SAME_ID_OTHER_KEY = replace(ONE, secret=Secret(b"quite another secret"))
OTHER = PostquantumKey(id="ppk-two", secret=Secret(b"a second secret"))


def meet(
    left_key: PostquantumKey | None,
    right_key: PostquantumKey | None,
    required: tuple[bool, bool] = (False, False),
    *,
    certificates: bool = False,
    network: Network | None = None,
) -> Pair:
    world = World(network=network)
    left, right = pair()
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    for side, host, own, must in ((left, paris, left_key, required[0]), (right, lyon, right_key, required[1])):
        if own is not None:
            side.ppks = [own]
            side.change(ppk=own.id, ppk_required=must)
        if certificates:
            certify(side, host)
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon, left, right


def outcome(pair_: Pair) -> bool | str:
    """Whether the tunnel comes up with a post-quantum key (True), without (False), or the code of the refusal."""
    world, paris, lyon, *_ = pair_
    if world.run(8, up(paris, lyon)):
        assert matched(paris, lyon)
        with_it = [host.status().ike_sas[0].ppk for host in (paris, lyon)]
        assert with_it[0] is with_it[1]
        return with_it[0]
    assert paris.data_plane.sas == {}
    codes = {code for host in (paris, lyon) for code in host.codes() if code.startswith("ike.ppk-")}
    return next(iter(sorted(codes - {"ike.ppk-unused"})), "nothing")


@pytest.mark.parametrize("certificates", [False, True])
class TestMatrix:
    """::

    N(USE_PPK)                                             -->
                                                           <--  N(USE_PPK)
    SK {IDi, AUTH, N(PPK_IDENTITY) [, N(NO_PPK_AUTH)]}     -->
                                                           <--  SK {IDr, AUTH [, N(PPK_IDENTITY)]}
    """

    @pytest.mark.parametrize("required", [(False, False), (True, False), (False, True), (True, True)])
    def test_both_have_the_same(self, required: tuple[bool, bool], certificates: bool) -> None:
        pair_ = meet(ONE, ONE, required, certificates=certificates)
        assert outcome(pair_) is True
        signed = [each for each in pair_[1].shell.log if isinstance(each, Sign)]
        assert len(signed) == (0 if not certificates else 1 if required[0] else 2), "NO_PPK_AUTH is a proof as well"

    @pytest.mark.parametrize(
        ("left", "right", "required", "result"),
        [
            (ONE, None, (False, False), False),
            (ONE, None, (True, False), "ike.ppk-required"),
            (None, ONE, (False, False), False),
            (None, ONE, (False, True), "ike.ppk-required"),
            (None, None, (False, False), False),
            (ONE, OTHER, (False, False), False),
            (ONE, OTHER, (True, False), "ike.ppk-mismatch"),
            (ONE, OTHER, (False, True), "ike.ppk-mismatch"),
            (ONE, OTHER, (True, True), "ike.ppk-mismatch"),
        ],
    )
    def test_one_has_none_or_another(
        self,
        left: PostquantumKey | None,
        right: PostquantumKey | None,
        required: tuple[bool, bool],
        result: bool | str,
        certificates: bool,
    ) -> None:
        assert outcome(meet(left, right, required, certificates=certificates)) == result

    def test_one_id_for_two_keys_is_a_failed_authentication(self, certificates: bool) -> None:
        world, paris, lyon, *_ = pair_ = meet(ONE, SAME_ID_OTHER_KEY, certificates=certificates)
        world.run(8)
        assert lyon.codes()["ike.signature-mismatch" if certificates else "ike.psk-mismatch"] >= 1
        assert paris.data_plane.sas == {}
        assert outcome(pair_) == "nothing"


class TestDetails:
    def test_unused_keys_are_said_with_the_field(self) -> None:
        world, paris, lyon, *_ = meet(ONE, OTHER)
        assert world.run(8, up(paris, lyon))
        (said,) = [report for report in lyon.reports if report.code == "ike.ppk-unused"]
        assert (said.received, said.configured, said.field) == ("ppk-one", "ppk-two", "ppk")
        assert paris.codes()["ike.ppk-unused"] == 1

    def test_required_and_not_used_names_the_field(self) -> None:
        world, paris, *_ = meet(ONE, None, (True, False))
        world.run(5)
        reason = paris.status().reason
        assert reason is not None
        assert (reason.received, reason.configured, reason.field) == ("no USE_PPK", "ppk-one, required", "ppk_required")
        assert {each.octets[18] for each in world.log} == {34}, "no identity is shown to such a peer"

    def test_only_those_who_have_one_announce_it(self) -> None:
        for left, right, announced in ((ONE, ONE, [True, True]), (ONE, None, [True, False]), (None, ONE, [False] * 2)):
            world, *_ = meet(left, right)
            world.run(2)
            first = [parse_clear(each.octets, classify(each.octets)) for each in world.log[:2]]
            assert [each.notify(NotifyType.USE_PPK) is not None for each in first] == announced

    def test_stripping_use_ppk_breaks_the_proof(self) -> None:
        """Somebody on the path takes USE_PPK from the answer: AUTH covers that message as lyon sent it."""
        from agents.ike.wire.message import serialize_clear
        from agents.ike.wire.payloads import Notify

        def strip(transmit: Transmit) -> Transmit:
            header = classify(transmit.datagram)
            if header.exchange != 34 or not header.response:
                return transmit
            message = parse_clear(transmit.datagram, header)
            kept = tuple(
                each for each in message.payloads if not (isinstance(each, Notify) and each.type == NotifyType.USE_PPK)
            )
            return replace(transmit, datagram=serialize_clear(replace(message, payloads=kept)))

        world, paris, lyon, *_ = meet(ONE, ONE, network=Network(rewrite=strip))
        world.run(8)
        assert paris.codes()["ike.psk-mismatch"] >= 1
        assert not up(paris, lyon)()

    def test_rekeys_inherit_it(self) -> None:
        world, paris, lyon, *_ = meet(ONE, ONE, (True, True))
        assert world.run(8, up(paris, lyon))
        for verb in (paris.engine.rekey_ike, lyon.engine.rekey_child, lyon.engine.rekey_ike, paris.engine.rekey_child):
            paris.world.run(1)
            (paris if verb.__self__ is paris.engine else lyon).do(verb, paris.status().id)  # type: ignore[attr-defined]
        world.run(10)
        assert matched(paris, lyon)
        assert [host.status().ike_sas[0].ppk for host in (paris, lyon)] == [True, True]
        assert paris.codes()["ike.sa-rekeyed"] + lyon.codes()["ike.sa-rekeyed"] == 4

    def test_a_changed_secret_reauthenticates(self) -> None:
        world, paris, lyon, left, right = meet(ONE, ONE, (True, True))
        assert world.run(8, up(paris, lyon))
        before = paris.status().ike_sas[0].spi_i
        left.ppks = right.ppks = [SAME_ID_OTHER_KEY]
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(30)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert paris.status().ike_sas[0].spi_i != before


@pytest.mark.parametrize("prf", ["prf-hmac-sha2-256", "prf-hmac-sha2-512", "prf-hmac-sha1"])
def test_mixing_is_prf_plus_with_the_secret_as_key(prf: str) -> None:
    """Section 3: SK_d = prf+(PPK, SK_d'), likewise SK_pi and SK_pr; one block each, written out with hmac."""
    suite = IkeSuite.from_proposal(IkeProposal(encryption=FAST_IKE.encryption, prf=prf, group=FAST_IKE.group))
    keys = derive_ike_keys(suite, b"n" * 32, b"m" * 32, b"shared", b"i" * 8, b"r" * 8)
    mixed = ppk.mix(suite, keys, ONE.secret)
    hash_ = getattr(hashlib, algorithms.PSEUDO_RANDOM[prf].hash)
    for name in IkeKeys.__dataclass_fields__:
        before, after = getattr(keys, name), getattr(mixed, name)
        if name in ("sk_d", "sk_pi", "sk_pr"):
            assert after == hmac.new(ONE.secret.reveal(), before + b"\x01", hash_).digest()
        else:
            assert after == before
