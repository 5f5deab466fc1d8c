"""The certificates and trust anchors of a gateway document, read; what is wrong with one is told with its path."""

from __future__ import annotations

import base64
import datetime
from dataclasses import dataclass, field

from agents.contract.config import GatewayDocument
from agents.pki.errors import CertificateError, KeyFileError
from agents.pki.keys import KeyFolder
from agents.pki.reading import Certificate, key_id, read


class DocumentCertificateError(Exception):
    """A certificate of the document that cannot be used; ``path`` names the field, ``problem`` says why."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """A document's certificates by id: ``own`` chains (leaf first) and ``anchors``.

    ``shown`` are those of our own that enabled tunnels show.
    """

    own: dict[str, tuple[Certificate, ...]] = field(default_factory=dict)
    anchors: dict[str, Certificate] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()

    def key_name(self, certificate: str) -> str | None:
        """Return the name of the private key that belongs to one of our certificates."""
        chain = self.own.get(certificate)
        return key_id(chain[0].spki) if chain else None


def parse(document: GatewayDocument) -> Certificates:
    """Read every certificate of a document; raises DocumentCertificateError for the first that is not good."""
    own = {
        each.id: tuple(
            _read(f"certificates[{index}].chain[{place}]", octets) for place, octets in enumerate(each.chain)
        )
        for index, each in enumerate(document.certificates)
    }
    anchors = {
        each.id: _read(f"trust_anchors[{index}].certificate", each.certificate)
        for index, each in enumerate(document.trust_anchors)
    }
    named = {each.local_auth.certificate for each in document.tunnels if each.enabled}
    return Certificates(own=own, anchors=anchors, shown=frozenset(own).intersection(named))


def _read(path: str, text: str) -> Certificate:
    try:
        return read(base64.b64decode(text))
    except CertificateError as error:
        raise DocumentCertificateError(path, error.message) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why one of our certificates cannot be shown: an event code, its id in the document, a sentence."""

    code: str
    certificate: str
    sentence: str


def problems(certificates: Certificates, keys: KeyFolder, moment: datetime.datetime) -> list[Problem]:
    """Return what keeps enabled tunnels from showing their certificates.

    None of it refuses a document: a key may come later, and an expired certificate must not block another edit.
    """
    found: list[Problem] = []

    def add(code: str, name: str, why: str) -> None:
        found.append(Problem(code=code, certificate=name, sentence=f"certificate {name}: {why}"))

    for name, chain in certificates.own.items():
        if name not in certificates.shown:
            continue
        key = key_id(chain[0].spki)
        try:
            if keys.find(key) is None:
                add("ike.key-missing", name, f"its private key ({key}) is not on this gateway")
        except KeyFileError as error:
            add("ike.key-refused", name, str(error))
        for each in chain:
            if moment > each.not_after:
                add("ike.own-certificate-expired", name, f"{each.text} has expired")
            elif moment < each.not_before:
                add("ike.own-certificate-expired", name, f"{each.text} is not valid yet")
    return found
