"""Putting what a service refused beside the fields of a form. No rules here, and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

if TYPE_CHECKING:
    _ModelChoiceField = forms.ModelChoiceField[Any]
else:
    _ModelChoiceField = forms.ModelChoiceField


class NamedChoiceField(_ModelChoiceField):
    """A choice among rows that have a name, shown by it alone."""

    def label_from_instance(self, obj: Any) -> str:
        """Return the row's name."""
        return str(obj.name)


def place_errors(error: ValidationError, form: forms.BaseForm, aliases: Mapping[str, str] | None = None) -> None:
    """Add a service's ValidationError to ``form``; what names no field of it goes to the form as a whole.

    ``aliases`` maps a service's field to the form's where they differ.
    """
    if not hasattr(error, "error_dict"):
        for message in error.messages:
            form.add_error(None, message)
        return
    for name, messages in error.message_dict.items():
        _place(form, name, messages, aliases or {})


def place_errors_by_prefix(
    error: ValidationError, forms_by_prefix: Mapping[str, forms.BaseForm], rest: forms.BaseForm
) -> None:
    """Add errors with dotted keys (``end_a.address``, ``selectors.0.network_b``) to the form of their prefix.

    A key without a known prefix goes to ``rest``. A form may carry ``aliases`` as :func:`place_errors` takes them.
    """
    if not hasattr(error, "error_dict"):
        place_errors(error, rest)
        return
    for name, messages in error.message_dict.items():
        prefix, _, field = name.rpartition(".")
        if prefix in forms_by_prefix:
            form, target = forms_by_prefix[prefix], field
        elif name in forms_by_prefix:
            form, target = forms_by_prefix[name], NON_FIELD_ERRORS
        else:
            form, target = rest, name
        _place(form, target, messages, getattr(form, "aliases", {}))


def _place(form: forms.BaseForm, name: str, messages: list[str], aliases: Mapping[str, str]) -> None:
    target = aliases.get(name, name)
    for message in messages:
        if target in form.fields:
            form.add_error(target, message)
        elif target == NON_FIELD_ERRORS:
            form.add_error(None, message)
        else:
            form.add_error(None, f"{target.replace('_', ' ').capitalize()}: {message}")
