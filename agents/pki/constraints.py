"""Name constraints (RFC 5280 section 4.2.1.10): DNS, e-mail, URI, IP address and directory names."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from agents.pki import names
from agents.pki.errors import CertificateError
from agents.pki.reading import Certificate

_KINDS = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier, x509.IPAddress, x509.DirectoryName)
_MOST_SUBTREES = 512
"""Times names (also bounded by a certificate's size) it stays cheap to compare."""


@dataclass(slots=True)
class Constraints:
    """What the certificates of a path passed so far allow. A name must be in one subtree of each permitted list."""

    permitted: list[list[x509.GeneralName]] = field(default_factory=list)
    excluded: list[x509.GeneralName] = field(default_factory=list)

    def add(self, constraints: x509.NameConstraints | None) -> None:
        """Take over a CA's constraints; raises CertificateError when there are too many."""
        if constraints is None:
            return
        permitted, excluded = constraints.permitted_subtrees, constraints.excluded_subtrees
        if permitted is not None:
            self.permitted.append(list(permitted))
        self.excluded += excluded or []
        if sum(map(len, self.permitted)) + len(self.excluded) > _MOST_SUBTREES:
            raise CertificateError(
                "ike.certificate-constraint", f"More than {_MOST_SUBTREES} name constraints in a chain"
            )

    def check(self, certificate: Certificate) -> None:
        """Refuse a certificate with a name that is not allowed; raises CertificateError."""
        if not self.permitted and not self.excluded:
            return
        for each in _names(certificate):
            for subtree in self.excluded:
                if _same_kind(each, subtree) and _within(each, subtree, excluding=True):
                    raise _refusal(certificate, each)
            for permitted in self.permitted:
                of_kind = [subtree for subtree in permitted if _same_kind(each, subtree)]
                if of_kind and not any(_within(each, subtree, excluding=False) for subtree in of_kind):
                    raise _refusal(certificate, each)


def _refusal(certificate: Certificate, name: x509.GeneralName) -> CertificateError:
    return CertificateError(
        "ike.certificate-constraint",
        f"Certificate {certificate.text} has a name its CA may not certify",
        received=describe(name),
    )


def describe(name: x509.GeneralName) -> str:
    """Return a general name as bounded printable ASCII."""
    if isinstance(name, x509.DirectoryName):
        return names.text(name.value)
    value = name.value if isinstance(name, _KINDS) else type(name).__name__
    return "".join(each if " " <= each <= "~" else "." for each in str(value)[:200])


def names_text(certificate: Certificate) -> str:
    """Return the names a certificate is for, eight at most, as bounded printable ASCII."""
    found = [describe(each) for each in _names(certificate)]
    return "; ".join([*found[:8], *(["..."] if len(found) > 8 else [])]) or "none"


def _names(certificate: Certificate) -> list[x509.GeneralName]:
    subject = certificate.x509.subject
    found: list[x509.GeneralName] = [x509.DirectoryName(subject)] if subject.rdns else []
    found += certificate.extension(x509.SubjectAlternativeName) or []
    # RFC 5280 section 4.2.1.10: an e-mail address in the subject is under the constraints for e-mail addresses.
    for attribute in subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        if isinstance(attribute.value, str) and attribute.value.isascii():
            found.append(x509.RFC822Name(attribute.value))
    return found


def _same_kind(name: x509.GeneralName, subtree: x509.GeneralName) -> bool:
    return type(name) is type(subtree)


def _within(name: x509.GeneralName, subtree: x509.GeneralName, *, excluding: bool) -> bool:
    """Whether a name is in a subtree of its kind; one of a kind we cannot compare counts against the certificate."""
    match name, subtree:
        case x509.DNSName(), x509.DNSName():
            return _dns_within(name.value.lower().rstrip("."), subtree.value.lower().rstrip("."), excluding)
        case x509.RFC822Name(), x509.RFC822Name():
            return _email_within(name.value, subtree.value)
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            return _uri_within(name.value, subtree.value, excluding)
        case x509.IPAddress(), x509.IPAddress():
            return _address_within(name, subtree)
        case x509.DirectoryName(), x509.DirectoryName():
            base = names.normal(subtree.value)
            return names.normal(name.value)[: len(base)] == base
        case _:
            return excluding


def _dns_within(host: str, base: str, excluding: bool) -> bool:
    if not base:
        return True
    if base.startswith("."):
        return host.endswith(base)
    if host == base or host.endswith("." + base):
        return True
    # A wildcard stands for names of which some may be excluded: then the certificate is.
    return excluding and host.startswith("*.") and base.endswith(host[1:])


def _email_within(address: str, base: str) -> bool:
    local, _, host = address.rpartition("@")
    host = host.lower()
    if "@" in base:
        base_local, _, base_host = base.rpartition("@")
        return local == base_local and host == base_host.lower()
    base = base.lower()
    return host.endswith(base) if base.startswith(".") else host == base


def _uri_within(uri: str, base: str, excluding: bool) -> bool:
    try:
        host = (urlsplit(uri).hostname or "").lower()
    except ValueError:
        return excluding
    if not host or ":" in host or host.replace(".", "").isdigit():
        return excluding  # without a host name it cannot be compared (RFC 5280: must be rejected)
    base = base.lower()
    return host.endswith(base) if base.startswith(".") else host == base


def _address_within(name: x509.IPAddress, subtree: x509.IPAddress) -> bool:
    address, network = name.value, subtree.value
    if not isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return False
    return isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) and address in network
