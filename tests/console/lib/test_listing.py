"""Sorting and paging from the address bar."""

from __future__ import annotations

import pytest
from django.http import QueryDict

from vpnconsole.lib.listing import list_rows, page_number

COLUMNS = {"n": lambda row: row, "odd": lambda row: row if row % 2 else None}


def test_sorts_pages_and_leads_on() -> None:
    listing = list_rows(list(range(7)), QueryDict("sort=-n&page=2"), COLUMNS, "n", per_page=3)
    assert list(listing.rows) == [3, 2, 1]
    assert (listing.total, listing.pages, listing.previous, listing.next) == (7, 3, 1, 3)
    assert listing.descending


def test_none_comes_first_and_is_comparable() -> None:
    listing = list_rows([3, 2, 1, 4], QueryDict("sort=odd"), COLUMNS, "n")
    assert list(listing.rows) == [2, 4, 1, 3]


@pytest.mark.parametrize("query", ["sort=nonsense", "sort=", "page=0", "page=x", "page=-1", "page=9999999999999"])
def test_nonsense_falls_back(query: str) -> None:
    listing = list_rows([2, 1], QueryDict(query), COLUMNS, "n")
    assert list(listing.rows) == [1, 2]


def test_a_page_behind_the_end_is_the_last() -> None:
    listing = list_rows(list(range(5)), QueryDict("page=99"), COLUMNS, "n", per_page=2)
    assert (list(listing.rows), listing.next) == ([4], None)


def test_empty() -> None:
    listing = list_rows([], QueryDict(), COLUMNS, "n")
    assert (listing.total, listing.pages, listing.page) == (0, 1, 1)


def test_page_number() -> None:
    assert page_number(QueryDict("page=4")) == 4
