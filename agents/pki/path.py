"""From a leaf to a trust anchor: chains built from what a peer sent, and checked by RFC 5280 section 6 for use in IKE.

Building is bounded: so many certificates, so many signature checks, so many chains, each at most eight long. Beyond
RFC 5280: weak hashes and keys are refused; the anchor's own validity, key usage and constraints count (RFC 5937);
extended key usages must allow IKE (RFC 4945 section 5.1.3.12) in the leaf and, where they are there, in its CAs.
Certificate policies are not evaluated: a CA that asks for them (requireExplicitPolicy) is refused. Revocation is looked
at by others, after a chain is found.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from agents.pki.constraints import Constraints
from agents.pki.errors import CertificateError
from agents.pki.reading import Certificate, check_issued, read

MOST_CERTIFICATES = 8
"""In a chain, the anchor not counted; a document's own chains are bounded alike."""
MOST_RECEIVED = 16
MOST_SIGNATURE_CHECKS = 32
MOST_CHAINS = 8

IPSEC_IKE = ObjectIdentifier("1.3.6.1.5.5.7.3.17")
_USAGES = frozenset(
    {
        IPSEC_IKE,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
)
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        # Without requireExplicitPolicy these change nothing about whether a chain is good.
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.INHIBIT_ANY_POLICY,
    }
)
# The more a refusal says about the peer's own certificate, the sooner it is the one that is told.
_TELLING = (
    "ike.certificate-expired",
    "ike.certificate-not-yet-valid",
    "ike.certificate-usage",
    "ike.certificate-constraint",
    "ike.certificate-weak",
    "ike.certificate-invalid",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A good chain: ``certificates`` from the leaf to what the anchor issued; only the leaf when it is the anchor."""

    certificates: tuple[Certificate, ...]
    anchor: Certificate

    @property
    def leaf(self) -> Certificate:
        """The end entity."""
        return self.certificates[0]

    def steps(self) -> Iterator[tuple[Certificate, Certificate]]:
        """Yield each certificate below the anchor with its issuer: what can be revoked. Nothing for a trusted leaf."""
        if self.leaf.der != self.anchor.der:
            yield from zip(self.certificates, (*self.certificates[1:], self.anchor), strict=True)


def read_chain(chain: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Read a received chain, leaf first; raises CertificateError for the leaf, while bad others are ignored."""
    if not chain:
        raise CertificateError("ike.certificate-invalid", "The peer sent no certificate")
    if len(chain) > MOST_RECEIVED:
        raise CertificateError(
            "ike.certificate-invalid", f"The peer sent more than {MOST_RECEIVED} certificates", received=str(len(chain))
        )
    certificates = [read(chain[0])]
    for octets in dict.fromkeys(chain[1:]):
        try:
            certificates.append(read(octets))
        except CertificateError:
            continue  # a chain that needs it is not found; one that does not is none the worse
    return tuple(certificates)


def paths(
    chain: Sequence[Certificate],
    anchors: Iterable[Certificate],
    moment: datetime.datetime,
    *,
    leaf_may_be_anchor: bool = False,
) -> Iterator[Path]:
    """Yield the good paths of ``chain`` (leaf first, the others in any order); raises CertificateError for the first.

    ``leaf_may_be_anchor`` takes a leaf that is itself one of the anchors. What is raised says why the most promising
    chain is not good, or that there is none.
    """
    search = _Search(chain, tuple(anchors), moment)
    found = 0
    if leaf_may_be_anchor and any(chain[0].der == anchor.der for anchor in search.anchors):
        _check_validity(chain[0], moment)
        _check_extensions(chain[0])
        _check_leaf_usage(chain[0])
        yield Path(certificates=(chain[0],), anchor=chain[0])
        return
    for path in search.run():
        found += 1
        yield path
    if not found:
        raise search.refusal()


@dataclass(slots=True)
class _Search:
    chain: Sequence[Certificate]
    anchors: tuple[Certificate, ...]
    moment: datetime.datetime
    checks_left: int = MOST_SIGNATURE_CHECKS
    chains_left: int = MOST_CHAINS
    refusals: list[CertificateError] = field(default_factory=list)
    verified: dict[tuple[int, int], CertificateError | None] = field(default_factory=dict)

    def run(self) -> Iterator[Path]:
        for path in self._extend((self.chain[0],)):
            self.chains_left -= 1
            try:
                check(path, self.moment)
            except CertificateError as error:
                self.refusals.append(error)
            else:
                yield path
            if self.chains_left <= 0:
                return

    def refusal(self) -> CertificateError:
        """Return the refusal that says most, or that no anchor was reached."""
        if self.refusals:
            return min(self.refusals, key=lambda each: _rank(each.code))
        leaf = self.chain[0]
        trusted = "; ".join(anchor.text for anchor in self.anchors[:5]) + ("; ..." if len(self.anchors) > 5 else "")
        wrong = [error for error in self.verified.values() if error is not None]
        why = f": {wrong[0].message}" if wrong else ""
        if self.checks_left <= 0:
            why = f": more than {MOST_SIGNATURE_CHECKS} signatures to try"
        return CertificateError(
            wrong[0].code if wrong and wrong[0].code == "ike.certificate-weak" else "ike.certificate-untrusted",
            f"No trusted CA stands behind certificate {leaf.text}{why}",
            received=f"issued by {leaf.issuer_text}",
            configured=f"trusted are {trusted or 'none'}",
        )

    def _extend(self, below: tuple[Certificate, ...]) -> Iterator[Path]:
        child = below[-1]
        for anchor in self.anchors:
            if self._issued(child, anchor):
                yield Path(certificates=below, anchor=anchor)
        if len(below) >= MOST_CERTIFICATES:
            return
        used = {(each.subject, each.spki) for each in below}
        for candidate in self.chain[1:]:
            if (candidate.subject, candidate.spki) not in used and self._issued(child, candidate):
                yield from self._extend((*below, candidate))

    def _issued(self, child: Certificate, issuer: Certificate) -> bool:
        if issuer.subject != child.issuer or child.der == issuer.der or not _key_ids_agree(child, issuer):
            return False
        pair = (id(child), id(issuer))
        if pair not in self.verified:
            if self.checks_left <= 0:
                return False
            self.checks_left -= 1
            try:
                check_issued(child, issuer)
            except CertificateError as error:
                self.verified[pair] = error
            else:
                self.verified[pair] = None
        return self.verified[pair] is None


def _rank(code: str) -> int:
    return _TELLING.index(code) if code in _TELLING else len(_TELLING)


def _key_ids_agree(child: Certificate, issuer: Certificate) -> bool:
    """Key identifiers only save work: where both are there and differ, the signature would be wrong."""
    asked, owned = child.extension(x509.AuthorityKeyIdentifier), issuer.extension(x509.SubjectKeyIdentifier)
    if asked is None or asked.key_identifier is None or owned is None:
        return True
    return asked.key_identifier == owned.digest


def check(path: Path, moment: datetime.datetime) -> None:
    """Check a chain whose signatures are good by RFC 5280 section 6.1; raises CertificateError.

    The leaf is looked at first, since its owner is the one who can mend something; then from the anchor down.
    """
    _check_validity(path.leaf, moment)
    constraints = Constraints()
    cas_left = MOST_CERTIFICATES
    for certificate in (path.anchor, *reversed(path.certificates)):
        _check_validity(certificate, moment)
        _check_extensions(certificate)
        is_leaf = certificate is path.leaf
        if certificate is not path.anchor and (is_leaf or not certificate.self_issued):
            constraints.check(certificate)
        if is_leaf:
            break
        _check_ca(certificate)
        if certificate is not path.anchor and not certificate.self_issued:
            if cas_left <= 0:
                raise _too_long(certificate)
            cas_left -= 1
        cas_left = min(cas_left, _path_length(certificate))
        constraints.add(certificate.extension(x509.NameConstraints))
    _check_end_entity(path.leaf)
    _check_leaf_usage(path.leaf)


def _check_validity(certificate: Certificate, moment: datetime.datetime) -> None:
    if moment < certificate.not_before:
        raise CertificateError(
            "ike.certificate-not-yet-valid",
            f"Certificate {certificate.text} is not valid before {_moment(certificate.not_before)}",
            received=f"valid from {_moment(certificate.not_before)}",
            configured=f"this gateway's clock says {_moment(moment)}",
        )
    if moment > certificate.not_after:
        raise CertificateError(
            "ike.certificate-expired",
            f"Certificate {certificate.text} expired on {_moment(certificate.not_after)}",
            received=f"valid until {_moment(certificate.not_after)}",
            configured=f"this gateway's clock says {_moment(moment)}",
        )


def _moment(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _check_extensions(certificate: Certificate) -> None:
    for each in certificate.critical:
        if each not in _UNDERSTOOD:
            raise CertificateError(
                "ike.certificate-invalid",
                f"Certificate {certificate.text} has a critical extension this gateway does not know",
                received=each.dotted_string,
            )
    policies = certificate.extension(x509.PolicyConstraints)
    if policies is not None and policies.require_explicit_policy is not None:
        raise CertificateError(
            "ike.certificate-constraint",
            f"CA {certificate.text} asks for certificate policies, which this gateway does not evaluate",
            received="requireExplicitPolicy",
        )
    usages = certificate.extension(x509.ExtendedKeyUsage)
    if usages is not None and not _USAGES.intersection(usages):
        raise CertificateError(
            "ike.certificate-usage",
            f"The extended key usage of certificate {certificate.text} does not allow IKE",
            received=", ".join(each.dotted_string for each in list(usages)[:8]),
            configured="none, any, ipsecIKE, serverAuth or clientAuth",
        )


def _check_ca(certificate: Certificate) -> None:
    basic = certificate.extension(x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise CertificateError(
            "ike.certificate-usage", f"Certificate {certificate.text} is in the chain but not a CA's"
        )
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateError(
            "ike.certificate-usage",
            f"The key usage of CA {certificate.text} does not allow it to issue certificates",
            configured="keyCertSign",
        )


def _path_length(certificate: Certificate) -> int:
    basic = certificate.extension(x509.BasicConstraints)
    if basic is None or basic.path_length is None:
        return MOST_CERTIFICATES
    return basic.path_length


def _too_long(certificate: Certificate) -> CertificateError:
    return CertificateError(
        "ike.certificate-constraint",
        f"CA {certificate.text} stands where its issuer allows no further CA",
        configured="pathLenConstraint",
    )


def _check_end_entity(leaf: Certificate) -> None:
    basic = leaf.extension(x509.BasicConstraints)
    if basic is not None and basic.ca:
        raise CertificateError(
            "ike.certificate-usage",
            f"Certificate {leaf.text} is a CA's, not a gateway's",
            received="CA:TRUE",
            configured="an end entity certificate, or this very one named as the tunnel's trust anchor",
        )


def _check_leaf_usage(leaf: Certificate) -> None:
    usage = leaf.extension(x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise CertificateError(
            "ike.certificate-usage",
            f"The key usage of certificate {leaf.text} does not allow signatures",
            configured="digitalSignature or nonRepudiation",
        )
