"""What can be wrong with a contract value.

``ContractError``
  ``FieldError``     one field of one value is impossible; names the field, knows no path
  ``DocumentError``  the same, with the whole path from the document's root, ready for a person
"""

from __future__ import annotations


class ContractError(ValueError):
    """Base of everything this package raises."""


class FieldError(ContractError):
    """A value object refuses one of its fields; raised from ``__post_init__``."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DocumentError(ContractError):
    """A document cannot be read; ``path`` is like ``tunnels[0].local.address``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'document'}: {problem}")
        self.path = path
        self.problem = problem
