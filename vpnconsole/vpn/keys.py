"""What is done to pre-shared keys. The text of a key comes in and goes out here and nowhere else.

Errors are keyed ``name``, ``value``, ``encoding``. Not here: which tunnel uses a key (``services``).
"""

from __future__ import annotations

import secrets

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from agents.contract.secret import Secret
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.lib.deletion import delete_unused
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn.choices import SecretEncoding
from vpnconsole.vpn.models import PresharedKey

GENERATED_OCTETS = 32
SHORT_OCTETS = 16
MOST_OCTETS = 1024
_QUOTED_DIFFERENTLY = "\"'`\\"


@sensitive_variables()
def parse_secret(value: str, encoding: str) -> Secret:
    """Return the octets a key's text stands for; raises ValidationError in words that do not repeat the text."""
    if encoding == SecretEncoding.HEX:
        octets = _from_hex(value)
    elif encoding == SecretEncoding.ASCII:
        octets = _from_text(value)
    else:
        raise ValidationError("Choose hexadecimal or text.", code="encoding")
    if not 1 <= len(octets) <= MOST_OCTETS:
        raise ValidationError(f"A key has 1 to {MOST_OCTETS} octets, not {len(octets)}.", code="length")
    return Secret(octets)


@sensitive_variables()
def _from_hex(value: str) -> bytes:
    digits = "".join(value.split()).removeprefix("0x").removeprefix("0X")
    if len(digits) % 2:
        raise ValidationError("There is an odd number of hexadecimal digits: one is missing.", code="odd")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ValidationError("Use only the digits 0-9 and a-f, or choose text.", code="hex") from None


@sensitive_variables()
def _from_text(value: str) -> bytes:
    if any(mark in value for mark in _QUOTED_DIFFERENTLY):
        raise ValidationError(
            "Leave out quotes and backslashes: configuration files of other products read them differently. "
            "To use such a key, enter it in hexadecimal.",
            code="quote",
        )
    if not value.isascii() or not value.isprintable():
        raise ValidationError(
            "Use printable ASCII characters only; enter any other key in hexadecimal.", code="characters"
        )
    if value != value.strip():
        raise ValidationError("Leave out the space at the beginning or end.", code="space")
    return value.encode("ascii")


@sensitive_variables("value", "secret")
@transaction.atomic
def create_psk(
    actor: User | None, *, name: str, value: str, encoding: str = SecretEncoding.HEX, description: str = ""
) -> PresharedKey:
    """Store a key an operator typed; raises ValidationError by field."""
    errors = FieldErrors()
    secret = _parsed(errors, value, encoding)
    psk = PresharedKey(name=name, description=description, encoding=encoding)
    return _store(actor, "psk.created", psk, secret, errors)


@sensitive_variables("secret")
@transaction.atomic
def generate_psk(actor: User | None, *, name: str, description: str = "") -> PresharedKey:
    """Make a key of 32 random octets, kept as hexadecimal; raises ValidationError by field."""
    psk = PresharedKey(name=name, description=description, encoding=SecretEncoding.HEX)
    return _store(actor, "psk.generated", psk, Secret(secrets.token_bytes(GENERATED_OCTETS)), FieldErrors())


@sensitive_variables("value", "secret")
@transaction.atomic
def replace_psk(
    actor: User | None, psk: PresharedKey, *, value: str, encoding: str = SecretEncoding.HEX
) -> PresharedKey:
    """Give a key another value; raises ValidationError by field. Tunnels use it from the next deployment on."""
    errors = FieldErrors()
    secret = _parsed(errors, value, encoding)
    psk = _own_row(psk)
    psk.encoding = encoding
    return _store(actor, "psk.replaced", psk, secret, errors)


@transaction.atomic
def regenerate_psk(actor: User | None, psk: PresharedKey) -> PresharedKey:
    """Give a key a new random value."""
    psk = _own_row(psk)
    psk.encoding = SecretEncoding.HEX
    return _store(actor, "psk.replaced", psk, Secret(secrets.token_bytes(GENERATED_OCTETS)), FieldErrors())


@transaction.atomic
def update_psk(actor: User | None, psk: PresharedKey, *, name: str, description: str = "") -> PresharedKey:
    """Change a key's name and description; raises ValidationError by field."""
    psk = _own_row(psk)
    psk.name, psk.description = name, description
    errors = FieldErrors()
    errors.clean("", psk)
    errors.raise_any()
    psk.save(update_fields=["name", "description"])
    audit.record(actor, "psk.changed", psk)
    return psk


@transaction.atomic
def reveal_psk(actor: User, psk: PresharedKey) -> str:
    """Return a key's text, and record who saw it. For the answer to one request; never kept, never logged."""
    audit.record(actor, "psk.revealed", psk)
    psk.last_revealed_at = timezone.now()
    psk.save(update_fields=["last_revealed_at"])
    octets = psk.secret.reveal()
    return octets.hex() if psk.encoding == SecretEncoding.HEX else octets.decode("ascii")


@transaction.atomic
def delete_psk(actor: User | None, psk: PresharedKey) -> None:
    """Remove a key; raises ValidationError naming the tunnels that use it."""
    audit.record(actor, "psk.deleted", psk)
    delete_unused(psk)


def weakness(psk: PresharedKey) -> str:
    """Return one sentence on why a key is weak, or nothing. An IKE listener can try keys at leisure offline."""
    if psk.length_octets < SHORT_OCTETS:
        return (
            f"The key has only {psk.length_octets} octets: who records a negotiation can guess it at leisure. "
            f"Use at least {SHORT_OCTETS} random octets, or let the console generate the key."
        )
    return ""


def _own_row(psk: PresharedKey) -> PresharedKey:
    """Return the row anew: the caller's stays as it is when the change is refused."""
    return PresharedKey.objects.select_for_update().get(pk=psk.pk)


@sensitive_variables("value")
def _parsed(errors: FieldErrors, value: str, encoding: str) -> Secret | None:
    try:
        return parse_secret(value, encoding)
    except ValidationError as error:
        errors.add("encoding" if error.code == "encoding" else "value", error.messages[0], str(error.code))
        return None


@sensitive_variables("secret")
def _store(
    actor: User | None, action: str, psk: PresharedKey, secret: Secret | None, errors: FieldErrors
) -> PresharedKey:
    if secret is not None:
        psk.secret, psk.length_octets = secret, len(secret)
    errors.clean("", psk, without=("secret", "length_octets") if secret is None else ())
    errors.raise_any()
    psk.updated_at = timezone.now()
    psk.save()
    audit.record(actor, action, psk, details={"encoding": psk.encoding, "length_octets": psk.length_octets})
    return psk
