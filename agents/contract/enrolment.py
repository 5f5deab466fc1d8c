"""How a gateway and the console prove to each other that they hold the same one-time token.

The token is shown once: ``vpc1.<token id>.<32 octets, Base64url>``. It never crosses the network: each message carries
an HMAC-SHA256 over its canonical octets, keyed by the token's secret, so the agent learns the true fleet CA even where
the console is reached over plain HTTP, and a listener learns nothing it could enrol with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from agents.contract.codec import encode
from agents.contract.errors import FieldError
from agents.contract.secret import Secret

_TOKEN = re.compile(r"vpc1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A parsed one-time token: the public id and the 32 secret octets."""

    id: str
    secret: Secret

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read the text form; raises :class:`FieldError` without repeating the text."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise FieldError("token", "is not an enrolment token: copy the whole line that starts with vpc1.")
        try:
            secret = base64.urlsafe_b64decode(match[2] + "=")
        except binascii.Error:
            raise FieldError("token", "is damaged: copy it again") from None
        return cls(id=match[1], secret=Secret(secret))

    def text(self) -> str:
        """Return the text form, to be shown once."""
        body = base64.urlsafe_b64encode(self.secret.reveal()).rstrip(b"=").decode("ascii")
        return f"vpc1.{self.id}.{body}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """Agent to console, ``POST /enrol/v1``. ``csr_pem`` carries the key made on the gateway (P-256)."""

    token_id: str
    csr_pem: str
    agent_version: str
    hostname: str
    agent_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentGrant:
    """Console to agent: who the gateway is, its certificate and the fleet CA to trust from now on."""

    gateway_id: str
    gateway_name: str
    certificate_pem: str
    fleet_ca_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """The request and the agent's proof (64 hexadecimal digits)."""

    request: EnrolmentRequest
    proof: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedGrant:
    """The grant and the console's proof (64 hexadecimal digits)."""

    grant: EnrolmentGrant
    proof: str


def prove(secret: Secret, message: EnrolmentRequest | EnrolmentGrant) -> str:
    """Return the proof for ``message``; the message's kind is part of what is proven."""
    label = type(message).__name__.encode("ascii")
    return hmac.new(secret.reveal(), label + b"\n" + encode(message), hashlib.sha256).hexdigest()


def proven(secret: Secret, message: EnrolmentRequest | EnrolmentGrant, proof: str) -> bool:
    """Tell in constant time whether ``proof`` is that of ``message``."""
    return hmac.compare_digest(prove(secret, message).encode(), proof.encode("utf-8", "replace"))


def server_name(gateway_id: str) -> str:
    """Return the DNS name in an agent's certificate: what the console checks, whatever address it dials."""
    return f"{gateway_id}.gateway.vpnconsole.internal"


CONSOLE_NAME = "console.vpnconsole.internal"
"""The DNS name in the console's client certificate: the only client an agent's API admits."""
