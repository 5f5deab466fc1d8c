"""Collecting every error of one submission under the names forms know: ``end_a.address``, ``selectors.0.network_b``."""

from __future__ import annotations

from collections.abc import Collection

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models


class FieldErrors:
    """Errors by field; raised together, so that an operator corrects them in one go."""

    def __init__(self) -> None:
        self._problems: dict[str, list[ValidationError]] = {}

    def __contains__(self, field: str) -> bool:
        return field in self._problems

    def add(self, field: str, message: str, code: str = "invalid") -> None:
        """Note one error beside ``field``; an empty ``field`` is the whole form."""
        self._problems.setdefault(field or NON_FIELD_ERRORS, []).append(ValidationError(message, code=code))

    def clean(self, prefix: str, row: models.Model, *, without: Collection[str] = ()) -> None:
        """Run a row's own checks; constraints are checked only where no field is left out."""
        try:
            row.full_clean(exclude=set(without), validate_constraints=not without)
        except ValidationError as error:
            for name, problems in error.error_dict.items():
                whole = prefix or NON_FIELD_ERRORS
                field = whole if name == NON_FIELD_ERRORS else f"{prefix}.{name}" if prefix else name
                said = [_in_our_words(row, name, problem) for problem in problems]
                self._problems.setdefault(field, []).extend(said)

    def any_below(self, *prefixes: str) -> bool:
        """Tell whether a field of one of these parts has an error already."""
        return any(field == prefix or field.startswith(f"{prefix}.") for field in self._problems for prefix in prefixes)

    def raise_any(self) -> None:
        """Raise ValidationError with everything noted; do nothing when there is nothing."""
        if self._problems:
            raise ValidationError(self._problems)


def _in_our_words(row: models.Model, name: str, problem: ValidationError) -> ValidationError:
    if problem.code != "unique":
        return problem
    return ValidationError(f"Another {row._meta.verbose_name} has this {name} already.", code="unique")
