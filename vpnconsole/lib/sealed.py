"""Secrets at rest: an envelope of AES-256-GCM around each value, and the model field that holds one.

Every value has a data key of its own; the data key is wrapped by a key encryption key (KEK) that lies in a file outside
the database and is named by id. Both layers are bound to model, field and primary key of their row, so a sealed value
copied to another row does not open. The primary key must therefore be set before the first save (a UUID by default).

Not here: who may see a secret (the apps' services), nor keys that only gateways hold.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import models
from django.db.models.query_utils import DeferredAttribute

from agents.contract.secret import Secret

if TYPE_CHECKING:
    _FieldBase = models.Field[Secret, Secret]
else:
    _FieldBase = models.Field

_MAGIC = b"VCS1"
_NONCE_OCTETS = 12
_KEY_OCTETS = 32
_WRAPPED_OCTETS = _NONCE_OCTETS + _KEY_OCTETS + 16


class SealError(Exception):
    """A value does not open, or there is no key to open or seal it with. The text holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The KEKs by id; new values are sealed with ``current``."""

    current: str
    keys: Mapping[str, Secret]

    def key(self, key_id: str) -> AESGCM:
        """Return the cipher of one KEK; raises :class:`SealError`."""
        if key_id not in self.keys:
            raise SealError(f"key encryption key {key_id!r} is not in the key file")
        return AESGCM(self.keys[key_id].reveal())


class Sealed(bytes):
    """An envelope as the database holds it: a type of its own, so that plain octets are never taken for one."""

    __slots__ = ()


def seal(secret: Secret, aad: bytes, ring: Keyring) -> Sealed:
    """Return ``secret`` in a new envelope bound to ``aad``."""
    data_key = secrets.token_bytes(_KEY_OCTETS)
    nonce = secrets.token_bytes(_NONCE_OCTETS)
    body = nonce + AESGCM(data_key).encrypt(nonce, secret.reveal(), aad)
    return _envelope(ring, data_key, aad, body)


def unseal(sealed: bytes, aad: bytes, ring: Keyring) -> Secret:
    """Return what :func:`seal` was given; raises :class:`SealError`."""
    data_key, body = _open_envelope(sealed, aad, ring)
    try:
        return Secret(AESGCM(data_key).decrypt(body[:_NONCE_OCTETS], body[_NONCE_OCTETS:], aad))
    except (InvalidTag, ValueError):
        raise SealError("the sealed value was changed or belongs to another row") from None


def rewrap(sealed: bytes, aad: bytes, ring: Keyring) -> Sealed:
    """Return the same value with its data key under the current KEK; raises :class:`SealError`."""
    data_key, body = _open_envelope(sealed, aad, ring)
    return _envelope(ring, data_key, aad, body)


def key_id_of(sealed: bytes) -> str:
    """Return the id of the KEK a value is wrapped with; raises :class:`SealError`."""
    if sealed[:4] != _MAGIC or len(sealed) < 5:
        raise SealError("the stored value is not sealed")
    return sealed[5 : 5 + sealed[4]].decode("ascii", "replace")


def _envelope(ring: Keyring, data_key: bytes, aad: bytes, body: bytes) -> Sealed:
    key_id = ring.current.encode("ascii")
    nonce = secrets.token_bytes(_NONCE_OCTETS)
    head = _MAGIC + bytes([len(key_id)]) + key_id
    return Sealed(head + nonce + ring.key(ring.current).encrypt(nonce, data_key, head + aad) + body)


def _open_envelope(sealed: bytes, aad: bytes, ring: Keyring) -> tuple[bytes, bytes]:
    key_id = key_id_of(sealed)
    split = 5 + sealed[4]
    head, wrapped, body = sealed[:split], sealed[split : split + _WRAPPED_OCTETS], sealed[split + _WRAPPED_OCTETS :]
    try:
        data_key = ring.key(key_id).decrypt(wrapped[:_NONCE_OCTETS], wrapped[_NONCE_OCTETS:], head + aad)
    except (InvalidTag, ValueError):
        raise SealError("the sealed value was changed or belongs to another row") from None
    return data_key, body


# The key file: one line per KEK, ``id Base64``; the last line is the current one.


def keyring() -> Keyring:
    """Return the KEKs of this installation; raises :class:`SealError` without a usable key file."""
    path = Path(settings.VPNCONSOLE_KEK_FILE)
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        raise SealError(f"{path} is missing: run `manage.py setup`, or restore it from the backup") from None
    return _load(path, changed)


@lru_cache(maxsize=2)
def _load(path: Path, _changed: int) -> Keyring:
    keys: dict[str, Secret] = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        if not line.strip():
            continue
        key_id, _, text = line.strip().partition(" ")
        octets = base64.b64decode(text)
        if len(octets) != _KEY_OCTETS:
            raise SealError(f"{path} line {number} is not a key id and 32 octets in Base64")
        keys[key_id] = Secret(octets)
    if not keys:
        raise SealError(f"{path} holds no key")
    return Keyring(current=list(keys)[-1], keys=keys)


def add_key(path: Path) -> str:
    """Append a new KEK to the file (made with mode 0600 if absent) and return its id."""
    key_id = secrets.token_hex(4)
    line = f"{key_id} {base64.b64encode(secrets.token_bytes(_KEY_OCTETS)).decode('ascii')}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return key_id


class _SealedAttribute(DeferredAttribute):
    """Opens on reading, so a list of rows costs no decryption and holds no key bytes."""

    field: SealedField

    def __get__(self, instance: models.Model | None, cls: type | None = None) -> Any:
        if instance is None:
            return self
        value = super().__get__(instance, cls)
        if isinstance(value, Sealed):
            return unseal(value, self.field.aad(instance), keyring())
        return value

    def __set__(self, instance: models.Model, value: object) -> None:
        if value is not None and not isinstance(value, Secret | Sealed):
            raise TypeError(f"{self.field.name} takes a Secret, not {type(value).__name__}")
        instance.__dict__[self.field.attname] = value


class SealedField(_FieldBase):
    """Holds a :class:`~agents.contract.secret.Secret`, its column the envelope. Never in forms, never filtered on."""

    empty_strings_allowed = False
    descriptor_class = _SealedAttribute

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("editable", False)
        super().__init__(**kwargs)

    def get_internal_type(self) -> str:
        """Store octets."""
        return "BinaryField"

    def aad(self, instance: models.Model) -> bytes:
        """Return what the envelope is bound to; raises :class:`SealError` for a row without a primary key."""
        if instance.pk is None:
            raise SealError(f"{self.model._meta.label}.{self.name} needs the row's primary key before it is sealed")
        return f"{self.model._meta.label_lower}\n{self.name}\n{instance.pk}".encode()

    def from_db_value(
        self, value: bytes | memoryview | None, _expression: object, _connection: object
    ) -> Sealed | None:
        """Mark octets of the database as an envelope."""
        return None if value is None else Sealed(value)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Seal what was assigned since the row was read."""
        value = model_instance.__dict__.get(self.attname)
        if isinstance(value, Secret):
            value = seal(value, self.aad(model_instance), keyring())
            model_instance.__dict__[self.attname] = value
        return value

    def get_prep_value(self, value: Any) -> Any:
        """Let only envelopes through: a Secret here would be a query on a secret."""
        if value is not None and not isinstance(value, Sealed):
            raise TypeError(f"{self.name} cannot be filtered on or updated without its row")
        return value

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Hand the envelope to the driver as octets."""
        value = super().get_db_prep_value(value, connection, prepared)
        return None if value is None else connection.Database.Binary(value)

    def value_to_string(self, obj: models.Model) -> str:
        """Refuse serialisation: an envelope opens only in its own row of its own database."""
        raise TypeError(f"{self.model._meta.label}.{self.name} is not serialised")
