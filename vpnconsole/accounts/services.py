"""What is done to people and their API tokens: one transaction each, audited."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from vpnconsole.accounts import access, audit
from vpnconsole.accounts.models import ApiToken, User

_LAST_USED_RESOLUTION = timedelta(minutes=1)


@transaction.atomic
def create_first_user(*, username: str, password: str, email: str = "", source: str = "") -> User:
    """Make the first user, an administrator; raises ValidationError once any user exists or for a weak password."""
    audit.lock()
    if User.objects.exists():
        raise ValidationError("The first user exists already: log in.", code="exists")
    user = User(username=username, email=email, is_staff=True, is_superuser=True)
    _set_password(user, password)
    audit.record(user, "user.created-first", user, details={"source": source})
    return user


@transaction.atomic
def create_user(actor: User | None, *, username: str, password: str, email: str = "") -> User:
    """Make a further user, no administrator; raises PermissionDenied, and ValidationError by field."""
    if actor is not None:
        access.permit(actor)
    user = User(username=username, email=email)
    _set_password(user, password)
    audit.record(actor, "user.created", user)
    return user


@transaction.atomic
def change_password(actor: User, user: User, password: str) -> None:
    """Set a password; raises ValidationError on ``password``."""
    _set_password(user, password)
    audit.record(actor, "user.password-changed", user)


def _set_password(user: User, password: str) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from None
    user.set_password(password)
    user.full_clean()
    user.save()


@transaction.atomic
def create_api_token(actor: User, user: User, name: str, expires_at: datetime | None = None) -> tuple[ApiToken, str]:
    """Return a new token row and its text, which is not kept and cannot be shown again."""
    prefix = f"vpct_{secrets.token_hex(4)}"
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    token = ApiToken(user=user, name=name, prefix=prefix, digest=_digest(text), expires_at=expires_at)
    token.full_clean()
    token.save()
    audit.record(actor, "api-token.created", token)
    return token, text


@transaction.atomic
def revoke_api_token(actor: User, token: ApiToken) -> None:
    """End a token at once."""
    token.revoked_at = timezone.now()
    token.save(update_fields=["revoked_at"])
    audit.record(actor, "api-token.revoked", token)


def authenticate_api_token(text: str) -> User | None:
    """Return the active user a bearer token stands for, or None."""
    if not text.isascii():
        return None
    prefix = "_".join(text.split("_", 2)[:2])
    token = ApiToken.objects.select_related("user").filter(prefix=prefix).first()
    if not hmac.compare_digest(token.digest if token else "0" * 64, _digest(text)) or token is None:
        return None
    now = timezone.now()
    if token.revoked_at or (token.expires_at and token.expires_at <= now) or not token.user.is_active:
        return None
    if token.last_used_at is None or now - token.last_used_at >= _LAST_USED_RESOLUTION:
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token.user


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
