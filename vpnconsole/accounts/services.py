"""What is done to people and their API tokens: one transaction each, audited."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

from axes.utils import reset as lift_lock_outs
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from vpnconsole.accounts import access, audit, queries
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
    """Make a further user, no administrator; raises PermissionDenied, and ValidationError by field.

    Whom a person makes chooses a password of their own at the first log-in.
    """
    if actor is not None:
        access.permit(actor)
    user = User(username=username, email=email)
    _set_password(user, password, must_choose=actor is not None)
    audit.record(actor, "user.created", user)
    return user


@transaction.atomic
def change_password(user: User, password: str) -> None:
    """Set one's own password; raises ValidationError on ``password``."""
    if user.must_choose_password and user.check_password(password):
        raise ValidationError({"password": "This is the password that you were given: choose another one."})
    _set_password(user, password)
    audit.record(user, "user.password-changed", user)


@transaction.atomic
def set_password(actor: User, user: User, password: str, *, revoke_tokens: bool = False) -> None:
    """Give another person a password; raises PermissionDenied, and ValidationError on ``password``.

    Their sessions end, because each holds a hash of the password; lock-outs after wrong ones end too. At the next
    log-in they choose a password of their own. Like changes of access it waits for the end of the audit trail.
    """
    audit.lock()
    access.permit(User.objects.get(pk=actor.pk))
    if actor.pk == user.pk:
        raise ValidationError({"password": "Your own is changed under Settings, Password."})
    person = User.objects.get(pk=user.pk)
    _set_password(person, password, must_choose=True)
    lift_lock_outs(username=person.username)
    audit.record(actor, "user.password-set", person)
    if revoke_tokens:
        for token in queries.usable_tokens_of(person):
            revoke_api_token(actor, token)


def _set_password(user: User, password: str, *, must_choose: bool = False) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from None
    user.set_password(password)
    user.must_choose_password = must_choose
    user.full_clean()
    # Of somebody who exists nothing else: what they may do can have been changed in the meantime.
    user.save(update_fields=None if user._state.adding else ["password", "must_choose_password"])


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
