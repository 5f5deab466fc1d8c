"""NIST's certification path tests (PKITS 1.0.1): 246 end entities with their chains and CRLs.

The data comes with the ``cryptography-vectors`` package. Every end entity is judged with PKITS' own CRLs, hard-fail,
and must come out as its name says, save for those in :data:`OTHERWISE`: each group there is a decision of ADR 7.
x509-limbo is not used: of it there is only the schema, and its cases are about names of web servers.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import re
from pathlib import Path

import pytest
from cryptography import x509

from agents.iked.credentials import crl
from agents.iked.credentials.crl import StatusError
from agents.pki.errors import CertificateError
from agents.pki.path import paths
from agents.pki.reading import Certificate, read

pytestmark = pytest.mark.needs("pkits")

MOMENT = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

OTHERWISE: dict[str, str] = {
    # 4.8 to 4.12: certificate policies are not evaluated; a CA that insists on them is refused.
    "policies": (
        "(AllCertificatesSamePolicies|AllCertificatesanyPolicy|AnyPolicy|DifferentPolicies|OverlappingPolicies"
        "|UserNoticeQualifier|inhibitAnyPolicy|ValidPolicyMapping|ValidSelfIssuedinhibit|Validinhibit"
        "|ValidSelfIssuedrequireExplicit|ValidrequireExplicit).*"
    ),
    # 4.1.4, 4.1.5: DSA keys are not taken.
    "DSA": "ValidDSA.*",
    # A CA's certificate does not stand for a gateway.
    "CA as end entity": "ValidonlyContainsCACertsTest13EE|ValidpathLenConstraintTest(8|14)EE",
    # 4.5: a CA's list under another of its keys (that for a self-issued one among them); 4.14: indirect CRLs, lists for
    # some reasons, distribution points with relative names; 4.15: delta CRLs.
    "CRLs not used": (
        "ValidBasicSelfIssuedCRLSigningKeyTest6EE|ValidBasicSelfIssuedNewWithOldTest[34]EE"
        "|ValidBasicSelfIssuedOldWithNewTest1EE|ValidDNnameConstraintsTest19EE|ValidSelfIssuedpathLenConstraintTest1[57]EE"
        "|ValidSeparateCertificateandCRLKeysTest19EE|ValidIDPwithindirectCRL.*"
        "|ValidcRLIssuer.*|ValidonlySomeReasons.*|ValiddistributionPointTest[457]EE|ValiddeltaCRLTest(2|5|7|8)EE"
    ),
}
REVOKED_BY_DELTA_ONLY = "InvaliddeltaCRLTest4EE"
"""Its complete CRL is current and says good: without delta CRLs it is rightly taken (RFC 5280 section 5.2.4)."""


def _folder() -> Path:
    spec = importlib.util.find_spec("cryptography_vectors")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "x509" / "PKITS_data"


@functools.cache
def certificates() -> dict[str, Certificate]:
    found = {}
    for file in sorted((_folder() / "certs").glob("*.crt")):
        try:
            found[file.stem] = read(file.read_bytes())
        except CertificateError:
            assert "DSA" in file.stem
    return found


@functools.cache
def lists() -> list[x509.CertificateRevocationList]:
    found = []
    for file in sorted((_folder() / "crls").glob("*.crl")):
        try:
            found.append(crl.read(file.read_bytes()))
        except StatusError:
            assert "DSA" in file.stem
    return found


def judge(name: str) -> str:
    """Return ``valid``, or why not."""
    known = certificates()
    if name not in known:
        return "cannot be read"
    cas = [each for other, each in known.items() if not re.search(r"Test\d+EE$", other)]
    pool = [known[name]]
    for each in pool:
        pool += [
            ca for ca in cas if ca.subject == each.issuer and ca not in pool and not ca.text.startswith("CN=Trust")
        ]
    try:
        path = next(paths(pool, [known["TrustAnchorRootCertificate"]], MOMENT))
    except CertificateError as error:
        return error.message
    for certificate, issuer in path.steps():
        statuses = []
        for revoked in lists():
            try:
                statuses.append(crl.status(revoked, certificate, issuer, MOMENT))
            except StatusError:
                continue
        if not statuses:
            return "revocation unknown"
        if any(each.revoked for each in statuses):
            return "revoked"
    return "valid"


def test_every_end_entity_is_judged_as_its_name_says() -> None:
    names = sorted(file.stem for file in (_folder() / "certs").glob("*EE.crt") if re.search(r"Test\d+EE$", file.stem))
    assert len(names) > 220
    decided = {group: re.compile(pattern) for group, pattern in OTHERWISE.items()}
    wrong, unused = [], dict.fromkeys(decided, 0)
    for name in names:
        outcome = judge(name)
        if (outcome == "valid") == (not name.startswith("Invalid")):
            continue
        group = next((group for group, pattern in decided.items() if pattern.fullmatch(name)), None)
        if name == REVOKED_BY_DELTA_ONLY:
            continue
        if group is None or outcome == "valid":
            wrong.append((name, outcome))
        else:
            unused[group] += 1
    assert wrong == []
    assert all(unused.values()), "a group of exceptions is not needed any more"
