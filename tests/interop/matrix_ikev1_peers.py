"""The rest of IKEv1's matrix: tunnels of either version, ends that do not fit each other, peers of known makes."""

from __future__ import annotations

from typing import Any

from agents.contract import algorithms
from agents.contract.config import Endpoint, Identity, IdentityType, IkeProposal, IkeVersion, IpsecProposal
from deploy.lab.profiles import AIX, OMNIPCX, PROFILES, SMARTEDGE, PeerProfile
from tests.interop import steps, steps_ikev1, words
from tests.interop.cells import INITIATOR, ON_DEMAND, RESPONDER, Cell, Net, Step
from tests.interop.cells_ikev1 import AFTER_REKEYS, AGGRESSIVE, MAIN, SETTINGS, cell, esp, ike
from tests.interop.lab import OUR_SECOND
from tests.interop.proofs import Proof, Side
from tests.interop.rig import OURS, THEIRS

_BY_PEER = "ikev1.proposal-refused-by-peer"
_NO_PROPOSAL = "NO_PROPOSAL_CHOSEN|NO_PROP"


def cells() -> list[Cell]:
    """Return the cells in the order of the document."""
    return [*_versions(), *_on_demand(), *_refusals(), *_phase_2_refusals(), *_profiles()]


def _on_demand() -> list[Cell]:
    axis = "On-demand tunnels"
    here: dict[str, Any] = {"roles": (RESPONDER,), "tunnel": ON_DEMAND, "answers": False}
    both: dict[str, Any] = {"version": IkeVersion.V2_ELSE_V1, **here}
    children = (steps.we_rekey_the_child, steps.they_rekey_the_child, steps.they_rekey_the_ike_sa)
    calls = {"version": "1", "aggressive": "yes"}
    return [
        cell(
            axis, "a peer from an unknown address", AGGRESSIVE, script=children, connection=calls, quick=True, **here,
        ),
        cell(
            axis, "of either version, called by IKEv1", AGGRESSIVE, connection=calls,
            script=(steps_ikev1.spoken(IkeVersion.V1, AGGRESSIVE),), **both,
        ),
        cell(
            axis, "of either version, called by IKEv2", AGGRESSIVE, connection={"version": "2"},
            script=(steps_ikev1.spoken(IkeVersion.V2),), **both,
        ),
        cell(
            axis, "called by Main Mode: refused", AGGRESSIVE, up=False, connection={"version": "1", "aggressive": "no"},
            script=(steps_ikev1.refused("ikev1.exchange-mode-mismatch", ""),), **here,
        ),
    ]  # fmt: skip


def _versions() -> list[Cell]:
    axis = "IKE versions"
    both: dict[str, Any] = {"version": IkeVersion.V2_ELSE_V1}
    v1, v2 = steps_ikev1.spoken(IkeVersion.V1, MAIN), steps_ikev1.spoken(IkeVersion.V2)
    gcm = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
    return [
        cell(
            axis, "IKEv2, else IKEv1; the peer speaks IKEv1 only", connection={"version": "1"},
            script=(v1, *AFTER_REKEYS, v1), limit_s=150, **both,
        ),
        cell(
            axis, "IKEv2, else IKEv1; the peer speaks IKEv1 only, Aggressive Mode", AGGRESSIVE,
            connection={"version": "1", "aggressive": "yes"},
            script=(steps_ikev1.spoken(IkeVersion.V1, AGGRESSIVE),), limit_s=120, **both,
        ),
        cell(
            axis, "IKEv2, else IKEv1; the peer speaks IKEv2 only", script=(v2, *AFTER_REKEYS, v2), quick=True, **both,
        ),
        cell(axis, "IKEv2, else IKEv1; the peer speaks both", connection={"version": "0"}, script=(v2,), **both),
        cell(
            axis, "IKEv2, else IKEv1; the peer's only common proposal is IKEv1's, it speaks IKEv1",
            ike=(gcm, ike()), their_ike=words.ike_keywords(ike()), connection={"version": "1"}, script=(v1,),
            limit_s=120, **both,
        ),
        cell(axis, "IKEv1 here; the peer speaks both", roles=(INITIATOR,), connection={"version": "0"}, script=(v1,)),
        cell(
            axis, "IKEv1 here; the peer speaks IKEv2 only", up=False, connection={"version": "2"},
            script=(steps_ikev1.refused("ike.version-unsupported", "", as_initiator=_BY_PEER),),
        ),
    ]  # fmt: skip


def _refused(axis: str, name: str, step: Step, **more: Any) -> Cell:
    return cell(axis, name, up=False, script=(step,), **more)


def _refusals() -> list[Cell]:
    axis, refused = "Phase 1: ends that do not fit", steps_ikev1.refused
    theirs = ike("aes-128-cbc", "sha256", "group-14")
    word = words.ike_keywords(theirs)
    wrong = {
        "encryption": (ike("aes-256-cbc"), "ikev1.encryption-mismatch"),
        "hash": (ike(hash_="sha512"), "ikev1.hash-mismatch"),
        "group": (ike(group="group-19"), "ikev1.group-mismatch"),
    }
    found = [
        _refused(
            axis, f"another {name}", refused(code, _NO_PROPOSAL, as_initiator=_BY_PEER), ike=(ours,), their_ike=word
        )
        for name, (ours, code) in wrong.items()
    ]
    found += [
        _refused(
            axis, "another pre-shared key, Main Mode", refused("ikev1.psk-mismatch", ""),
            their_psk=b"another key of this length", limit_s=120,
        ),
        _refused(
            axis, "another pre-shared key, Aggressive Mode", refused("ikev1.psk-mismatch", ""), mode=AGGRESSIVE,
            their_psk=b"another key of this length", limit_s=120,
        ),
        _refused(
            axis, "certificates here, a pre-shared key there",
            refused("ikev1.auth-method-mismatch", "", as_initiator="ike.peer-refused-auth"),
            proof=Proof(ours=Side(key_type="rsa-2048"), theirs=Side(key_type="rsa-2048")),
            connection={"local-1": {"auth": "psk"}, "remote-1": {"auth": "psk"}},
        ),
        _refused(
            axis, "Aggressive Mode there, Main Mode here",
            refused("ikev1.exchange-mode-mismatch", ""), roles=(RESPONDER,), connection={"aggressive": "yes"},
            quick=True,
        ),
        _refused(
            axis, "Main Mode there, Aggressive Mode here", refused("ikev1.exchange-mode-mismatch", ""),
            mode=AGGRESSIVE, roles=(RESPONDER,), connection={"aggressive": "no"},
        ),
        _refused(
            axis, "Main Mode only at the peer, Aggressive Mode here",
            refused("ike.peer-refused-auth", "none allows pre-shared key authentication using Aggressive Mode"),
            mode=AGGRESSIVE, roles=(INITIATOR,), connection={"aggressive": "no"},
        ),
        cell(
            axis, "the peer's wrong mode, then its right one", up=False, roles=(RESPONDER,),
            connection={"aggressive": "yes"},
            script=(steps_ikev1.refused("ikev1.exchange-mode-mismatch", ""), steps_ikev1.the_peers_next_mode_is_taken),
        ),
    ]  # fmt: skip
    return found


def _phase_2_refusals() -> list[Cell]:
    axis, refused = "Phase 2: ends that do not fit", steps_ikev1.refused
    other = Net(their_ours=("10.77.0.0/24",))
    return [
        _refused(
            axis, "another cipher", refused("ikev1.child-encryption-mismatch", _NO_PROPOSAL, as_initiator=""),
            esp=(esp("aes-256-cbc"),), their_esp=words.esp_keywords(esp()), roles=(RESPONDER,),
        ),
        _refused(
            axis, "another hash", refused("ikev1.child-integrity-mismatch", _NO_PROPOSAL),
            esp=(esp(integrity="hmac-sha2-512-256"),), their_esp=words.esp_keywords(esp()), roles=(RESPONDER,),
        ),
        _refused(
            axis, "PFS here, none at the peer", refused("ikev1.pfs-mismatch", _NO_PROPOSAL), pfs=("group-14",),
            their_esp=words.esp_keywords(esp()), roles=(RESPONDER,),
        ),
        _refused(
            axis, "another cipher, named by the peer", refused("child.peer-refused-proposal", _NO_PROPOSAL),
            roles=(INITIATOR,), esp=(esp("aes-256-cbc"),), their_esp=words.esp_keywords(esp()),
        ),
        _refused(axis, "other networks", refused("ikev1.selectors-mismatch", ""), nets=(other,), roles=(RESPONDER,)),
        _refused(
            axis, "other networks, named by the peer", refused("child.peer-refused-ts", "INVAL_ID|INVALID_ID"),
            nets=(other,), roles=(INITIATOR,),
        ),
    ]  # fmt: skip


def _suites(profile: PeerProfile) -> tuple[tuple[IkeProposal, ...], tuple[IpsecProposal, ...]]:
    """Return a profile's proposals as ours."""
    encryptions = {words.ENCRYPTION[slug].keyword: slug for slug in algorithms.ENCRYPTION}
    integrities = {words.INTEGRITY[slug].keyword: slug for slug in algorithms.INTEGRITY}
    groups = {words.KEY_EXCHANGE[slug].keyword: slug for slug in algorithms.KEY_EXCHANGE}
    ikes = [text.split("-") for text in profile.ike]
    esps = [text.split("-") for text in profile.esp]
    return (
        tuple(ike(encryptions[cipher], hash_, groups[group]) for cipher, hash_, group in ikes),
        tuple(esp(encryptions[cipher], integrities[hash_]) for cipher, hash_ in esps),
    )


def _profile(profile: PeerProfile, name: str, **more: Any) -> Cell:
    ikes, esps = _suites(profile)
    more = {
        "ike": ikes, "esp": esps, "their_ike": ",".join(profile.ike), "their_esp": ",".join(profile.esp),
        "our_identity": Identity(type=IdentityType.IPV4, value=OURS),
        "their_identity": Identity(type=IdentityType.IPV4, value=THEIRS),
        "connection": profile.connection(), "nets": (Net(peer=profile.child()),), "settings": SETTINGS[1:],
        "policy": {"lifetime_s": profile.ike_lifetime_s},
        "their_owners": tuple(profile.owners(THEIRS, OURS)), **more,
    }  # fmt: skip
    return cell("Profiles of peers", f"{profile.label}: {name}", **more)


def _profiles() -> list[Cell]:
    v1 = steps_ikev1.spoken(IkeVersion.V1, MAIN)
    life = (v1, *AFTER_REKEYS, steps.they_delete_the_child, steps.they_delete_the_ike_sa, steps.we_delete_the_ike_sa)
    found = [
        _profile(profile, "its parameters, a whole life", script=life, limit_s=150) for profile in PROFILES.values()
    ]
    refuses = steps_ikev1.refused("ike.peer-refused-auth", "Aggressive Mode")
    second = Endpoint(address=OUR_SECOND, identity=Identity(type=IdentityType.IPV4, value=OUR_SECOND))
    return [
        *found,
        _profile(OMNIPCX, "refuses Aggressive Mode", mode=AGGRESSIVE, up=False, roles=(INITIATOR,), script=(refuses,)),
        _profile(
            OMNIPCX, "what it does not have is refused", up=False, roles=(INITIATOR,), ike=(ike(),),
            script=(steps_ikev1.refused("ikev1.proposal-refused-by-peer", _NO_PROPOSAL),),
        ),
        _profile(
            AIX, "another of our addresses, with the key kept under it", tunnel={"local": second},
            our_identity=second.identity, their_owners=tuple(AIX.owners(THEIRS, OUR_SECOND)),
            connection={**AIX.connection(), "remote_addrs": [OUR_SECOND]}, script=(v1,),
        ),
        _profile(SMARTEDGE, "IKEv2 tried first", version=IkeVersion.V2_ELSE_V1, script=(v1,), limit_s=120),
    ]  # fmt: skip
