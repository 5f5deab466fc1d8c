"""Sorting and paging of rows on the server, the choice kept in the address bar. No model, no template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.http import QueryDict

PER_PAGE = 50

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[Row]):
    """One page of rows and what leads to the others; ``previous`` and ``next`` are page numbers or None."""

    rows: Sequence[Row]
    total: int
    page: int
    pages: int
    sort: str
    descending: bool

    @property
    def previous(self) -> int | None:
        """The page before this one."""
        return self.page - 1 if self.page > 1 else None

    @property
    def next(self) -> int | None:
        """The page after this one."""
        return self.page + 1 if self.page < self.pages else None


def list_rows(
    rows: Sequence[Row],
    parameters: QueryDict,
    columns: Mapping[str, Callable[[Row], Any]],
    default: str,
    per_page: int = PER_PAGE,
) -> Listing[Row]:
    """Sort by ``sort`` (``-name`` is downwards) and cut out ``page``; an unknown value falls back to the first choice.

    A column's key must be comparable over all rows; None sorts first.
    """
    wanted = parameters.get("sort") or default
    descending, name = wanted.startswith("-"), wanted.removeprefix("-")
    if name not in columns:
        descending, name = default.startswith("-"), default.removeprefix("-")
    key = columns[name]

    def order(row: Row) -> tuple[bool, Any]:
        value = key(row)
        return (value is not None, value)

    ordered = sorted(rows, key=order, reverse=descending)
    pages = max(1, -(-len(ordered) // per_page))
    page = min(page_number(parameters), pages)
    return Listing(
        rows=ordered[(page - 1) * per_page : page * per_page],
        total=len(ordered),
        page=page,
        pages=pages,
        sort=name,
        descending=descending,
    )


def page_number(parameters: QueryDict) -> int:
    """Return ``page`` as a number from 1; anything else counts as 1."""
    text = parameters.get("page") or "1"
    return max(1, int(text)) if text.isdecimal() and len(text) < 9 else 1
