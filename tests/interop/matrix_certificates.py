"""The matrix' axes of certificates: signatures, chains, mixed proofs, large messages, revocation."""

from __future__ import annotations

from typing import Any

from agents.contract import algorithms
from agents.contract.config import Identity, IdentityType, Revocation
from tests.interop import steps
from tests.interop.cells import Cell
from tests.interop.proofs import Proof, Side

_OLD_METHODS = (("signature_authentication", "no"),)
_KEYS = {
    "ecdsa-sha2-256": "ecdsa-p256",
    "ecdsa-sha2-384": "ecdsa-p384",
    "ecdsa-sha2-512": "ecdsa-p521",
    "ed25519": "ed25519",
    "ed448": "ed448",
    "method-1": "rsa-2048",
    "method-9": "ecdsa-p256",
    "method-10": "ecdsa-p384",
    "method-11": "ecdsa-p521",
}
_QUICK = {"ecdsa-sha2-256", "rsa-pss-sha2-256"}


def cells() -> list[Cell]:
    """Return the cells in the order of the document."""
    return [*_signatures(), *_chains(), *_revocation()]


def _cell(name: str, proof: Proof, **more: Any) -> Cell:
    more = {"axis": "Certificates", "script": (steps.proofs_are_as_expected,), **more}
    return Cell(name=name, proof=proof, **more)


def _signatures() -> list[Cell]:
    found = []
    for slug, signature in algorithms.SIGNATURE.items():
        side = Side(key_type=_KEYS.get(slug, "rsa-2048"), signature=slug)
        settings = _OLD_METHODS if signature.method != 14 else ()
        proof = Proof(ours=side, theirs=side, expected=(slug, slug))
        found.append(_cell(signature.label, proof, axis="Signatures", settings=settings, quick=slug in _QUICK))
    small, large = Side(key_type="ecdsa-p256", signature="ecdsa-sha2-512"), Side(key_type="rsa-3072")
    found += [
        _cell("ECDSA P-256 with SHA2-512", Proof(ours=small, theirs=small), axis="Signatures"),
        _cell("ECDSA here, RSA there", Proof(theirs=large), axis="Signatures"),
        _cell("RSA here, ECDSA there", Proof(ours=large), axis="Signatures"),
        _cell("Ed25519 here, RSA there", Proof(ours=Side(key_type="ed25519"), theirs=large), axis="Signatures"),
    ]
    return found


def _chains() -> list[Cell]:
    one, two, psk = Side(intermediates=1), Side(intermediates=2), Side(key_type="")
    big = Side(key_type="rsa-4096", intermediates=2)
    names = Side(subject="CN=gateway,OU=Lab,O=Example")
    dn = Identity(type=IdentityType.DN, value="CN=gateway,OU=Lab,O=Example")
    partial = Identity(type=IdentityType.DN, value="CN=*,OU=Lab,O=Example")
    again = (steps.proofs_are_as_expected, steps.we_rekey_the_ike_sa, steps.they_rekey_the_ike_sa)
    fragments = (steps.messages_are_fragmented,)
    return [
        _cell("pre-shared key here, certificate there", Proof(ours=psk, expected=("psk", "ecdsa-sha2-256"))),
        _cell("certificate here, pre-shared key there", Proof(theirs=psk, expected=("ecdsa-sha2-256", "psk"))),
        _cell("we send an intermediate CA", Proof(ours=one), script=again, quick=True),
        _cell("the peer sends an intermediate CA", Proof(theirs=one)),
        _cell("both send two intermediate CAs", Proof(ours=two, theirs=two)),
        _cell("distinguished names as identities", Proof(ours=names, theirs=names), our_identity=dn, their_identity=dn),
        _cell("a distinguished name with any CN", Proof(theirs=names), their_identity=dn, our_remote_identity=partial),
        _cell(
            "chains of RSA-4096, messages in fragments of 1280 octets", Proof(ours=big, theirs=big), script=fragments
        ),
        _cell(
            "chains of RSA-4096, messages in fragments of 600 octets", Proof(ours=big, theirs=big), script=fragments,
            policy={"fragment_octets": 600}, settings=(("fragment_size", "600"),),
        ),
        _cell(
            "chains of RSA-4096, fragmentation off", Proof(ours=big, theirs=big), policy={"fragmentation": False},
            connection={"fragmentation": "no"},
        ),
    ]  # fmt: skip


def _revocation() -> list[Cell]:
    axis, found = "Revocation", []
    for kind, word in (("crl", "CRL"), ("ocsp", "OCSP")):
        good, bad = Side(checks=kind), Side(checks=kind, revoked=True)
        deep = Side(checks=kind, intermediates=1)
        hard: dict[str, Any] = {"revocation": Revocation.HARD_FAIL, "their_revocation": "strict"}
        refuse = {"axis": axis, "up": False, "limit_s": 90.0}
        found += [
            _cell(
                f"good by {word}, both insist", Proof(ours=good, theirs=good, **hard), axis=axis, quick=kind == "crl"
            ),
            _cell(
                f"good by {word} with an intermediate CA, both insist", Proof(ours=deep, theirs=deep, **hard), axis=axis
            ),
            _cell(
                f"the peer's is revoked by {word}: we refuse", Proof(theirs=bad, revocation=Revocation.HARD_FAIL),
                script=(steps.we_refuse_the_peer,), **refuse,
            ),
            _cell(
                f"the peer's is revoked by {word}, soft-fail: we refuse",
                Proof(theirs=bad, revocation=Revocation.SOFT_FAIL), script=(steps.we_refuse_the_peer,), **refuse,
            ),
            _cell(
                f"ours is revoked by {word}: the peer refuses", Proof(ours=bad, their_revocation="strict"),
                script=(steps.the_peer_refuses_us,), **refuse,
            ),
        ]  # fmt: skip
    dead = Side(checks="dead")
    found += [
        _cell(
            "nobody answers, hard-fail: we refuse", Proof(theirs=dead, revocation=Revocation.HARD_FAIL), axis=axis,
            up=False, script=(steps.we_refuse_the_unknown,), limit_s=90.0,
        ),
        _cell("nobody answers, soft-fail", Proof(theirs=dead, revocation=Revocation.SOFT_FAIL), axis=axis),
        _cell("the peer's is revoked, checks off", Proof(theirs=Side(checks="crl", revoked=True)), axis=axis),
    ]  # fmt: skip
    return found
