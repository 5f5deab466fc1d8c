"""What is done to gateways: one transaction each, audited; errors are keyed by field for forms.

Keys: ``name``, ``agent_host`` ..., ``addresses.0.address``, ``protected_networks.0.prefix``, ``contexts.0.table``.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone

from agents.contract.enrolment import EnrolmentGrant, SignedGrant, SignedRequest, Token, prove, proven
from agents.contract.secret import Secret
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.gateways import fleet
from vpnconsole.gateways.choices import GatewayKind, IdentityTypeChoice
from vpnconsole.gateways.models import EnrolmentToken, Gateway, GatewayAddress, GatewayContext, ProtectedNetwork
from vpnconsole.gateways.profiles import GENERIC
from vpnconsole.gateways.signals import addresses_leaving, kind_changing, legacy_ending, profile_changing
from vpnconsole.lib.deletion import delete_unused
from vpnconsole.lib.errors import FieldErrors

PLAIN_FIELDS = (
    "name", "kind", "description", "agent_host", "agent_port", "data_plane", "allow_legacy", "packet_filter", "profile",
)  # fmt: skip
"""What of a gateway is one value; the rest are lists."""
TOKEN_VALIDITY = timedelta(hours=1)
# A known token's refusals are audited this often; then only counted, so that nobody fills the trail from outside.
_AUDITED_REFUSALS = 20
_TOKEN_SECRET_OCTETS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressInput:
    """One outer address as an operator enters it.

    ``identity`` is the IKE identity shown from it, in the form people write: an address, a name, ``user@name``,
    ``CN=gw,O=Example``, or ``0x`` and the octets of a key ID; empty means the address itself.
    """

    address: str
    label: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInput:
    """One routing context; ``table`` None where what was written is no number."""

    name: str
    table: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayInput:
    """A gateway as an operator defines it, whole: what is absent from the lists goes."""

    name: str
    kind: str = GatewayKind.MANAGED
    description: str = ""
    agent_host: str = ""
    agent_port: int = 8470
    data_plane: str = "auto"
    allow_legacy: bool = False
    packet_filter: bool = False
    profile: str = GENERIC
    addresses: Sequence[AddressInput] = ()
    protected_networks: Sequence[str] = ()
    contexts: Sequence[ContextInput] = ()


class EnrolmentRefusedError(Exception):
    """No certificate is given. ``reason`` is for the audit trail; a stranger is told nothing of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@transaction.atomic
def create_gateway(actor: User | None, data: GatewayInput) -> Gateway:
    """Make a gateway; raises ValidationError by field."""
    gateway = Gateway()
    _fill(gateway, data)
    audit.record(actor, "gateway.created", gateway, details={"kind": gateway.kind})
    return gateway


@transaction.atomic
def update_gateway(actor: User | None, gateway: Gateway, data: GatewayInput) -> Gateway:
    """Change a gateway; raises ValidationError by field, also for an address that tunnels use."""
    # A row of its own: the caller's stays as it is when the change is refused.
    gateway = Gateway.objects.select_for_update().get(pk=gateway.pk)
    if data.kind != gateway.kind:
        kind_changing.send(sender=Gateway, gateway=gateway, kind=data.kind)
    if gateway.allow_legacy and not data.allow_legacy:
        legacy_ending.send(sender=Gateway, gateway=gateway)
    if data.profile != gateway.profile:
        profile_changing.send(sender=Gateway, gateway=gateway, profile=data.profile)
    before = _facts(gateway)
    _fill(gateway, data)
    after = _facts(gateway)
    changed = sorted(name for name in after if after[name] != before[name])
    audit.record(actor, "gateway.changed", gateway, details={"fields": changed})
    return gateway


@transaction.atomic
def delete_gateway(actor: User | None, gateway: Gateway) -> None:
    """Remove a gateway; raises ValidationError naming the tunnels that use it."""
    audit.record(actor, "gateway.deleted", gateway)
    delete_unused(gateway)


def _facts(gateway: Gateway) -> dict[str, object]:
    facts: dict[str, object] = {name: getattr(gateway, name) for name in PLAIN_FIELDS}
    facts["addresses"] = list(gateway.addresses.values_list("address", "label", "identity_type", "identity_value"))
    facts["contexts"] = list(gateway.contexts.values_list("name", "table"))
    facts["protected_networks"] = list(gateway.protected_networks.values_list("prefix", flat=True))
    return facts


def _fill(gateway: Gateway, data: GatewayInput) -> None:
    gateway.name = data.name
    gateway.kind = data.kind
    gateway.description = data.description
    gateway.agent_host = data.agent_host.strip()
    gateway.agent_port = data.agent_port
    gateway.data_plane = data.data_plane
    gateway.allow_legacy = data.allow_legacy
    gateway.packet_filter = data.packet_filter
    gateway.profile = data.profile
    addresses = [_address(row) for row in data.addresses]
    networks = [ProtectedNetwork(prefix=prefix) for prefix in data.protected_networks]
    contexts = [_context(row) for row in data.contexts]
    errors = FieldErrors()
    errors.clean("", gateway)
    for index, address in enumerate(addresses):
        errors.clean(f"addresses.{index}", address, without=("gateway",))
    for index, network in enumerate(networks):
        errors.clean(f"protected_networks.{index}", network, without=("gateway",))
    _clean_contexts(errors, gateway, contexts)
    _refuse_twice(errors, "addresses.{}.address", [row.address for row in addresses])
    _refuse_twice(errors, "protected_networks.{}.prefix", [row.prefix for row in networks])
    errors.raise_any()
    kept = {row.address for row in addresses}
    leaving = {row.address for row in gateway.addresses.all()} - kept if not gateway._state.adding else set()
    if leaving:
        addresses_leaving.send(sender=Gateway, gateway=gateway, addresses=leaving)
    gateway.save()
    _replace(gateway.addresses.all(), addresses, gateway)
    _replace(gateway.protected_networks.all(), networks, gateway)
    _save_contexts(gateway, contexts)


def _address(data: AddressInput) -> GatewayAddress:
    kind, value = identity_of(data.identity)
    return GatewayAddress(address=data.address, label=data.label, identity_type=kind, identity_value=value)


def identity_of(text: str) -> tuple[str, str]:
    """Return type and value of an identity as people write it; two empty texts for none."""
    text = text.strip()
    if text.lower().startswith("0x"):
        return IdentityTypeChoice.KEY_ID, text[2:].lower()
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if not text:
            return "", ""
        if "=" in text:
            return IdentityTypeChoice.DN, text
        return (IdentityTypeChoice.EMAIL if "@" in text else IdentityTypeChoice.FQDN), text
    return (IdentityTypeChoice.IPV4 if address.version == 4 else IdentityTypeChoice.IPV6), str(address)


def identity_text(row: GatewayAddress) -> str:
    """Return a row's identity as :func:`identity_of` reads it."""
    return f"0x{row.identity_value}" if row.identity_type == IdentityTypeChoice.KEY_ID else row.identity_value


def _refuse_twice(errors: FieldErrors, key: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            errors.add(key.format(index), f"{value} stands twice.", "twice")


def _replace(
    existing: models.QuerySet[GatewayAddress] | models.QuerySet[ProtectedNetwork],
    rows: Sequence[GatewayAddress] | Sequence[ProtectedNetwork],
    gateway: Gateway,
) -> None:
    existing.delete()
    for row in rows:
        row.gateway = gateway
        row.save()


def _context(data: ContextInput) -> GatewayContext:
    return GatewayContext(name=data.name) if data.table is None else GatewayContext(name=data.name, table=data.table)


def _clean_contexts(errors: FieldErrors, gateway: Gateway, contexts: Sequence[GatewayContext]) -> None:
    for index, context in enumerate(contexts):
        if context.table is None:
            errors.add(f"contexts.{index}.table", "Write a name and the number of its table, like blue 100.", "table")
        else:
            errors.clean(f"contexts.{index}", context, without=("gateway",))
    _refuse_twice(errors, "contexts.{}.name", [row.name for row in contexts])
    _refuse_twice(errors, "contexts.{}.table", [str(row.table) for row in contexts if row.table is not None])
    if contexts and not gateway.is_managed:
        errors.add("contexts", "Contexts are those of a gateway we run.", "extranet")


def _save_contexts(gateway: Gateway, contexts: Sequence[GatewayContext]) -> None:
    """Keep a row that stays, because tunnels refer to it; raises ValidationError naming who uses one that goes."""
    for row in gateway.contexts.exclude(name__in=[context.name for context in contexts]):
        try:
            row.delete()
        except models.ProtectedError as error:
            users = ", ".join(sorted({str(each) for each in error.protected_objects})[:5])
            message = f"Context {row.name} is used by {users}: change the tunnel first."
            raise ValidationError({"contexts": message}, code="in_use") from None
    tables = {context.name: context.table for context in contexts}
    kept = {row.name: row for row in gateway.contexts.all()}
    # Two that change tables with each other would meet on the way.
    moving = [row for row in kept.values() if row.table != tables[row.name]]
    for row in moving:
        row.table += 2**32
        row.save(update_fields=["table"])
    for row in moving:
        row.table = tables[row.name]
        row.save(update_fields=["table"])
    for context in contexts:
        if context.name not in kept:
            context.gateway = gateway
            context.save()


# Enrolment


@transaction.atomic
def issue_enrolment_token(actor: User | None, gateway: Gateway) -> Token:
    """Return a new one-time token, valid for an hour, and end earlier ones; raises ValidationError for an extranet."""
    if not gateway.is_managed:
        raise ValidationError("An extranet gateway runs no agent of ours: there is nothing to enrol.", code="extranet")
    now = timezone.now()
    gateway.enrolment_tokens.filter(used_at=None, invalidated_at=None).update(invalidated_at=now)
    token = Token(id=secrets.token_hex(8), secret=Secret(secrets.token_bytes(_TOKEN_SECRET_OCTETS)))
    EnrolmentToken.objects.create(
        id=token.id, gateway=gateway, secret=token.secret, created_by=actor, expires_at=now + TOKEN_VALIDITY
    )
    audit.record(actor, "gateway.enrolment-token-issued", gateway, details={"token": token.id})
    return token


def enrol(signed: SignedRequest, source: str) -> SignedGrant:
    """Answer an agent's request with its certificate, once per token.

    Raises :class:`EnrolmentRefusedError` (unknown, used, expired or replaced token, wrong proof: all alike to the
    caller) and :class:`~vpnconsole.gateways.fleet.RequestRefusedError` for a certificate request that cannot be signed.
    """
    row = EnrolmentToken.objects.select_related("gateway").filter(pk=signed.request.token_id).first()
    # An unknown token costs the same work, so that its answer comes no sooner.
    secret = row.secret if row is not None else Secret(bytes(_TOKEN_SECRET_OCTETS))
    is_proven = proven(secret, signed.request, signed.proof)
    if row is None:
        raise EnrolmentRefusedError("unknown token")
    now = timezone.now()
    reason = "wrong proof" if not is_proven else _unusable(row, now)
    if reason:
        _refuse(row, reason, source)
    try:
        if not 1 <= signed.request.agent_port <= 65_535:
            raise fleet.RequestRefusedError("comes with no port the agent could listen on")
        certificate = fleet.issue_gateway_certificate(signed.request.csr_pem, row.gateway)
    except fleet.RequestRefusedError as error:
        _audit_refusal(row, f"certificate request {error}", source)
        raise
    grant = EnrolmentGrant(
        gateway_id=str(row.gateway.pk),
        gateway_name=row.gateway.name,
        certificate_pem=fleet.pem(certificate),
        fleet_ca_pem=fleet.ensure_fleet_ca().certificate_pem,
    )
    with transaction.atomic():
        claimed = EnrolmentToken.objects.filter(
            pk=row.pk, used_at=None, invalidated_at=None, expires_at__gt=now
        ).update(used_at=now, used_from=source)
        if claimed:
            _record_enrolment(row.gateway, signed, certificate.serial_number, grant, source, now)
    if not claimed:
        _refuse(row, "token used already", source)
    return SignedGrant(grant=grant, proof=prove(secret, grant))


def _unusable(row: EnrolmentToken, now: datetime) -> str:
    if row.used_at is not None:
        return "token used already"
    if row.invalidated_at is not None:
        return "token replaced by a newer one"
    if row.expires_at <= now:
        return "token expired"
    if not row.gateway.is_managed:
        return "the gateway is an extranet gateway by now"
    return ""


def _refuse(row: EnrolmentToken, reason: str, source: str) -> None:
    _audit_refusal(row, reason, source)
    raise EnrolmentRefusedError(reason)


def _audit_refusal(row: EnrolmentToken, reason: str, source: str) -> None:
    with transaction.atomic():
        EnrolmentToken.objects.filter(pk=row.pk).update(refusals=models.F("refusals") + 1)
        if row.refusals < _AUDITED_REFUSALS:
            details = {"reason": reason, "source": source, "token": row.pk}
            audit.record(f"enrolment from {source}", "gateway.enrolment-refused", row.gateway, details=details)


def _record_enrolment(
    gateway: Gateway, signed: SignedRequest, serial: int, grant: EnrolmentGrant, source: str, now: datetime
) -> None:
    gateway.enrolled_at = now
    gateway.certificate_pem = grant.certificate_pem
    gateway.certificate_serial = f"{serial:x}"
    gateway.agent_version = signed.request.agent_version[:64]
    gateway.agent_port = signed.request.agent_port
    gateway.agent_host = gateway.agent_host or source
    gateway.last_contact_at, gateway.last_contact_error = now, ""
    gateway.full_clean()
    gateway.save()
    details = {"token": signed.request.token_id, "source": source, "serial": gateway.certificate_serial}
    audit.record(f"enrolment from {source}", "gateway.enrolled", gateway, details=details)


def record_contact(gateway_id: UUID, *, at: datetime, agent_version: str = "", error: str = "") -> None:
    """Note that the agent answered at ``at``, or with ``error`` why it did not (then the last contact stays)."""
    rows = Gateway.objects.filter(pk=gateway_id)
    if error:
        rows.update(last_contact_error=error[:500])
    elif agent_version:
        rows.update(last_contact_at=at, last_contact_error="", agent_version=agent_version[:64])
    else:
        rows.update(last_contact_at=at, last_contact_error="")
