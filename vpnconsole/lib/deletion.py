"""Deletion that says in plain words what still needs the thing."""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.deletion import ProtectedError


def delete_unused(instance: models.Model, called: Callable[[models.Model], str] = str) -> None:
    """Delete one row; raises ValidationError naming the rows that use it, as ``called`` calls each."""
    try:
        instance.delete()
    except ProtectedError as error:
        users = sorted({called(row) for row in error.protected_objects})
        shown = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
        raise ValidationError(f"{instance} is used by {shown}. Change or delete that first.", code="in_use") from None
