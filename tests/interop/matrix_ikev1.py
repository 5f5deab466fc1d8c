"""The matrix of IKEv1: every cell, axis by axis. What a cell is, :mod:`tests.interop.cells` says.

Main Mode with a pre-shared key where nothing else is said. The algorithms are those with a number in IKEv1
(:mod:`agents.contract.ikev1`); whether the peer has them is found when it runs.
"""

from __future__ import annotations

from agents.contract import algorithms, ikev1
from agents.contract.config import DpdAction, ExchangeMode, Identity, IdentityType, IkeVersion
from tests.interop import matrix_ikev1_peers, steps, steps_ikev1, steps_path, words
from tests.interop.cells import INITIATOR, Cell, Net
from tests.interop.cells_ikev1 import AFTER_REKEYS, AGGRESSIVE, BOTH, MAIN, MODES, SETTINGS, cell, esp, hash_names, ike
from tests.interop.proofs import Proof, Side
from tests.interop.rig import OURS, THEIRS

_QUICK_SLUGS = {"aes-256-cbc", "3des-cbc", "sha1", "group-2", "group-14", "aes-256-gcm-16", "hmac-sha2-512-256"}
_KEYS = {
    "RSA-2048": ("rsa-2048", "ikev1-rsa"),
    "RSA-4096": ("rsa-4096", "ikev1-rsa"),
    "ECDSA P-256": ("ecdsa-p256", "ikev1-ecdsa-p256"),
    "ECDSA P-384": ("ecdsa-p384", "ikev1-ecdsa-p384"),
    "ECDSA P-521": ("ecdsa-p521", "ikev1-ecdsa-p521"),
}


def cells() -> list[Cell]:
    """Return the whole matrix in the order of the document."""
    return [
        *_modes(),
        *_algorithms(),
        *_ipsec_algorithms(),
        *_negotiation(),
        *_certificates(),
        *_identities(),
        *_lives(),
        *_selectors(),
        *_nat(),
        *_fragments(),
        *_dead_peers(),
        *matrix_ikev1_peers.cells(),
    ]


def _title(mode: ExchangeMode) -> str:
    return f"{mode.value.capitalize()} Mode"


def _modes() -> list[Cell]:
    axis, found = "Phase 1: modes and proofs", []
    for mode in MODES:
        spoken = steps_ikev1.spoken(IkeVersion.V1, mode)
        life = (spoken, *AFTER_REKEYS, spoken, steps.they_delete_the_ike_sa, steps.we_delete_the_ike_sa)
        found += [
            cell(axis, f"{_title(mode)}, pre-shared key", mode, script=(spoken,), quick=True),
            cell(axis, f"{_title(mode)}, pre-shared key, a whole life", mode, script=life, limit_s=150),
        ]
        for label, (key_type, slug) in _KEYS.items():
            side = Side(key_type=key_type)
            proof = Proof(ours=side, theirs=side, expected=(slug, slug))
            script = (spoken, steps.proofs_are_as_expected)
            quick = label in ("RSA-2048", "ECDSA P-256")
            found.append(
                cell(axis, f"{_title(mode)}, certificates, {label}", mode, proof=proof, script=script, quick=quick)
            )
    return found


def _algorithms() -> list[Cell]:
    found = []
    for slug in ikev1.ENCRYPTION:
        found.append(
            cell(
                "Phase 1 encryption", algorithms.ENCRYPTION[slug].label, ike=(ike(slug),),
                needs=(words.ENCRYPTION[slug].name,), quick=slug in _QUICK_SLUGS,
            )
        )  # fmt: skip
    for hash_ in ikev1.HASH:
        for mode in MODES:
            found.append(
                cell(
                    "Phase 1 hash", f"{hash_}, {_title(mode)}", mode, ike=(ike(hash_=hash_),), needs=hash_names(hash_),
                    quick=hash_ in _QUICK_SLUGS,
                )
            )  # fmt: skip
    for slug in algorithms.KEY_EXCHANGE:
        if slug in ikev1.GROUPS:
            found.append(
                cell(
                    "Groups of phase 1 and of PFS", algorithms.KEY_EXCHANGE[slug].label, ike=(ike(group=slug),),
                    pfs=(slug,), needs=(words.KEY_EXCHANGE[slug].name,), quick=slug in _QUICK_SLUGS,
                )
            )  # fmt: skip
    return found


def _ipsec_algorithms() -> list[Cell]:
    found = []
    for slug in ikev1.ESP:
        needs, quick = (words.ENCRYPTION[slug].name,), slug in _QUICK_SLUGS
        found.append(
            cell("ESP encryption", algorithms.ENCRYPTION[slug].label, esp=(esp(slug),), needs=needs, quick=quick)
        )
    for slug in ikev1.AUTHENTICATION:
        needs, quick = (words.INTEGRITY[slug].name,), slug in _QUICK_SLUGS
        esps = (esp(integrity=slug),)
        found.append(cell("ESP integrity", algorithms.INTEGRITY[slug].label, esp=esps, needs=needs, quick=quick))
    return found


def _negotiation() -> list[Cell]:
    axis = "Negotiation"
    first, second = ike("aes-256-cbc", "sha384", "group-19"), ike("aes-128-cbc", "sha1", "group-5")
    long, short = {"lifetime_s": 28_800, "lifetime_kilobytes": 4_000_000}, {"lifetime_s": 1_200}
    return [
        cell(
            axis, "second of several proposals", ike=(first, second), their_ike=words.ike_keywords(second), quick=True
        ),
        cell(axis, "all proposals of one side known to the other", ike=(first, second), esp=(esp(), esp("3des-cbc"))),
        cell(
            axis, "second of several proposals, Aggressive Mode", AGGRESSIVE, their_ike=words.ike_keywords(ike()),
            ike=(ike("aes-256-cbc", "sha512"), ike()),
        ),
        cell(
            axis, "second of several ESP proposals", esp=(esp("aes-256-gcm-16"), esp()),
            their_esp=words.esp_keywords(esp()),
        ),
        cell(axis, "without PFS", pfs=(), script=_CHILD_REKEYS),
        cell(axis, "with PFS in a group other than phase 1's", pfs=("group-19",), script=_CHILD_REKEYS, quick=True),
        cell(
            axis, "lifetimes in seconds and kilobytes on our side, others at the peer", policy=long,
            nets=(Net(child={"lifetime_s": 1_800, "lifetime_bytes": 10**9}, peer={"life_time": "1000s"}),),
            connection={"over_time": "600s"}, script=_CHILD_REKEYS,
        ),
        cell(
            axis, "shorter lifetimes on our side", policy=short,
            nets=(Net(child={"lifetime_s": 600}, peer={"life_time": "3600s"}),), script=_CHILD_REKEYS,
        ),
    ]  # fmt: skip


_CHILD_REKEYS = (steps.we_rekey_the_child, steps.they_rekey_the_child)


def _certificates() -> list[Cell]:
    axis, found = "Certificates", []
    one, two = Side(key_type="rsa-2048", intermediates=1), Side(key_type="rsa-2048", intermediates=2)
    named = Side(key_type="rsa-2048", subject="CN=gateway,OU=Lab,O=Example")
    dn = Identity(type=IdentityType.DN, value="CN=gateway,OU=Lab,O=Example")
    plain = Side(key_type="rsa-2048")
    for mode in MODES:
        found += [
            cell(axis, f"both send an intermediate CA, {_title(mode)}", mode, proof=Proof(ours=one, theirs=one)),
            cell(
                axis, f"distinguished names as identities, {_title(mode)}", mode, proof=Proof(ours=named, theirs=named),
                our_identity=dn, their_identity=dn,
            ),
        ]  # fmt: skip
    found += [
        cell(axis, "both send two intermediate CAs", proof=Proof(ours=two, theirs=two), script=AFTER_REKEYS),
        cell(
            axis, "RSA-3072 here, RSA-2048 there", proof=Proof(ours=Side(key_type="rsa-3072"), theirs=plain),
        ),
        cell(
            axis, "chains of RSA-4096, fragmentation off", policy={"fragmentation": False},
            connection={"fragmentation": "no"},
            proof=Proof(ours=Side(key_type="rsa-4096", intermediates=2), theirs=Side(key_type="rsa-4096")),
        ),
    ]  # fmt: skip
    return found


def _identities() -> list[Cell]:
    ends = {
        "IPv4 addresses": (IdentityType.IPV4, OURS, THEIRS),
        "e-mail": (IdentityType.EMAIL, "us@example.net", "them@example.net"),
        "key id": (IdentityType.KEY_ID, "00ff6f757273", "746865697273"),
        "distinguished name": (IdentityType.DN, "CN=ours,O=Example", "CN=theirs,O=Example"),
    }
    return [
        cell(
            "Identities", f"{name}, {_title(mode)}", mode, our_identity=Identity(type=type_, value=ours),
            their_identity=Identity(type=type_, value=theirs),
        )
        for name, (type_, ours, theirs) in ends.items()
        for mode in MODES
    ]  # fmt: skip


def _lives() -> list[Cell]:
    axis = "Rekeying, deletion"
    theirs = {"rekey_time": "4s", "life_time": "30s", "rand_time": "0s"}
    return [
        cell(axis, "phase 2 rekeyed by us", script=(steps.we_rekey_the_child,) * 2),
        cell(axis, "phase 2 rekeyed by the peer", script=(steps.they_rekey_the_child,) * 2, quick=True),
        cell(axis, "phase 2 rekeyed by both at once", script=(steps_ikev1.both_rekey_phase_2,), limit_s=150),
        cell(
            axis, "phase 2 rekeyed by a peer that keeps the old SAs", settings=SETTINGS[:1],
            script=(steps_ikev1.the_peer_keeps_what_it_has_rekeyed,),
        ),
        cell(axis, "phase 1 rekeyed by us", tunnel=BOTH, script=(steps.we_rekey_the_ike_sa,) * 2),
        cell(axis, "phase 1 rekeyed by the peer", script=(steps.they_rekey_the_ike_sa,) * 2, limit_s=150),
        cell(
            axis, "phase 1 rekeyed by both at once", tunnel=BOTH, script=(steps_ikev1.both_rekey_phase_1,), limit_s=150
        ),
        cell(
            axis, "phase 1 rekeyed by us, then phase 2 by the peer and by us, Aggressive Mode", AGGRESSIVE, tunnel=BOTH,
            script=(steps.we_rekey_the_ike_sa, steps.they_rekey_the_child, steps.we_rekey_the_child),
        ),
        cell(
            axis, "phase 2 rekeyed by us before its lifetime ends", nets=(Net(child={"lifetime_s": 10}),),
            script=(steps_ikev1.the_phase_2_lifetime_ends,) * 2,
        ),
        cell(
            axis, "phase 2 rekeyed by the peer before its lifetime ends", nets=(Net(peer=theirs),),
            script=(steps_ikev1.the_phase_2_lifetime_ends,) * 2,
        ),
        cell(
            axis, "phase 1 rekeyed by us before its lifetime ends", tunnel=BOTH, policy={"lifetime_s": 10},
            script=(steps_ikev1.the_phase_1_lifetime_ends,) * 2,
        ),
        cell(
            axis, "phase 1 rekeyed by the peer before its lifetime ends", answers=True, limit_s=150,
            connection={"reauth_time": "20s", "over_time": "30s", "rand_time": "0s"},
            script=(steps_ikev1.the_phase_1_lifetime_ends,),
        ),
        cell(axis, "phase 1 deleted by us", script=(steps.we_delete_the_ike_sa,), quick=True),
        cell(axis, "phase 1 deleted by the peer", script=(steps.they_delete_the_ike_sa,), quick=True),
        cell(axis, "phase 2 deleted by us", script=(steps.we_delete_the_child,), quick=True),
        cell(axis, "phase 2 deleted by the peer", script=(steps.they_delete_the_child,), quick=True),
        cell(axis, "phase 2 deleted by each, Aggressive Mode", AGGRESSIVE,
             script=(steps.we_delete_the_child, steps.they_delete_the_child)),
    ]  # fmt: skip


def _selectors() -> list[Cell]:
    axis = "Quick Modes and selectors"
    two = (Net(name="one"), Net(name="two", ours=("10.1.1.0/24",), theirs=("10.2.1.0/24",)))
    three = (*two, Net(name="three", ours=("10.1.2.0/24",), theirs=("10.2.2.0/24",)))
    inner6 = Net(ours=("2001:db8:1::/64",), theirs=("2001:db8:2::/64",))
    hosts = Net(ours=("10.1.0.1/32",), theirs=("10.2.0.1/32",))
    icmp = Net(ours=("10.1.0.0/24[1]",), theirs=("10.2.0.0/24[1]",))
    return [
        cell(axis, "two Quick Modes", nets=two, quick=True),
        cell(axis, "three Quick Modes, each phase rekeyed by each side", nets=three, script=AFTER_REKEYS, limit_s=150),
        cell(axis, "two Quick Modes, Aggressive Mode", AGGRESSIVE, nets=two, script=AFTER_REKEYS[:2]),
        cell(axis, "hosts", nets=(hosts,)),
        cell(axis, "one protocol only (ICMP)", nets=(icmp,)),
        cell(axis, "IPv6 in IPv4", nets=(inner6,), script=(steps.we_rekey_the_child,)),
        cell(axis, "IPv4 in IPv6", outer=6, script=(steps.they_rekey_the_child,), quick=True),
        cell(axis, "IPv6 in IPv6, Aggressive Mode", AGGRESSIVE, outer=6, nets=(inner6,), script=AFTER_REKEYS[:3]),
    ]  # fmt: skip


def _nat() -> list[Cell]:
    places = (("nat-ours", "in front of us"), ("nat-theirs", "in front of the peer"), ("nat-both", "both"))
    found = []
    for lab, name in places:
        for mode in MODES:
            script = (steps.we_see_the_nat, *AFTER_REKEYS)
            quick = lab == "nat-ours" and mode is AGGRESSIVE
            found.append(
                cell(
                    "NAT", f"{name}, {_title(mode)}", mode, lab=lab, limit_s=120, quick=quick, tunnel=BOTH,
                    script=(script[0], script[2]) if quick else script,
                )
            )  # fmt: skip
    side = Side(key_type="rsa-4096", intermediates=2)
    found.append(
        cell(
            "NAT", "in front of the peer, certificates in fragments", lab="nat-theirs",
            proof=Proof(ours=side, theirs=side), script=(steps.we_see_the_nat, steps_ikev1.fragments_went_both_ways),
        )
    )  # fmt: skip
    return found


def _fragments() -> list[Cell]:
    axis, found = "Fragmentation (Cisco)", []
    big = Side(key_type="rsa-4096", intermediates=2)
    proof = Proof(ours=big, theirs=big)
    script = (steps.messages_are_fragmented, steps_ikev1.fragments_went_both_ways)
    for mode in MODES:
        found += [
            cell(axis, f"chains of RSA-4096, {_title(mode)}", mode, proof=proof, script=script, quick=mode is MAIN),
            cell(
                axis, f"chains of RSA-4096 in fragments of 600 octets, {_title(mode)}", mode, proof=proof,
                script=script, policy={"fragment_octets": 600}, settings=(("fragment_size", "600"),),
            ),
        ]  # fmt: skip
    return found


def _dead_peers() -> list[Cell]:
    axis, asks = "Dead peers (RFC 3706)", {"dpd_delay": "1s", "dpd_timeout": "6s"}
    dead, back = steps_path.the_peer_is_killed, steps_path.the_peer_comes_back_and_we_restart
    found = []
    for mode in MODES:
        found += [
            cell(
                axis, f"we ask, the peer answers, {_title(mode)}", mode, policy={"dpd_interval_s": 1},
                script=(steps_ikev1.we_ask_and_the_peer_answers,), quick=mode is MAIN,
            ),
            cell(
                axis, f"the peer asks, we answer, {_title(mode)}", mode, connection=asks,
                script=(steps_ikev1.the_peer_asks_and_we_answer,), quick=mode is MAIN,
            ),
        ]  # fmt: skip
    found += [
        cell(
            axis, "peer killed: restart", roles=(INITIATOR,), script=(dead, back), limit_s=120,
            policy={"dpd_interval_s": 1, "dpd_action": DpdAction.RESTART},
        ),
        cell(
            axis, "peer killed: clear", limit_s=120, policy={"dpd_interval_s": 1, "dpd_action": DpdAction.CLEAR},
            script=(dead, steps_path.the_tunnel_is_cleared_until_asked_for),
        ),
        cell(
            axis, "we are killed: the peer clears", script=(steps_path.we_are_killed_and_the_peer_clears,),
            limit_s=120, connection=asks,
        ),
    ]  # fmt: skip
    return found
