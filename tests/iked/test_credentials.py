from __future__ import annotations

import itertools

import pytest

from agents.contract.config import Identity, IdentityType, PresharedKey
from agents.contract.psk import PresharedKeys
from agents.contract.secret import Secret
from agents.ike.outputs import FindPsk

from .cast import ipv4, psk, uid

PETER = Identity(type=IdentityType.FQDN, value="peter.example")
PAUL = Identity(type=IdentityType.FQDN, value="paul.example")


def asked(
    local: str = "10.1.1.1", remote: str = "10.1.1.101", ids: tuple[Identity, Identity] = (PAUL, PETER)
) -> FindPsk:
    return FindPsk(request_id=1, tunnel_id="t", local_address=local, remote_address=remote,
                   local_identity=ids[0], remote_identity=ids[1])  # fmt: skip


def found(rows: list[PresharedKey], request: FindPsk) -> Secret | None:
    return PresharedKeys(rows).find(request)


def row(secret: bytes, **fields: object) -> PresharedKey:
    return PresharedKey(id=uid(secret.decode()), secret=Secret(secret), **fields)  # type: ignore[arg-type]


def test_the_pair_of_addresses_picks_the_key_not_the_remote_address_alone() -> None:
    rows = [psk("10.1.1.1", "10.1.1.101", b"first", "1"), psk("10.1.1.2", "10.1.1.101", b"second", "2")]
    assert found(rows, asked(local="10.1.1.1")) == Secret(b"first")
    assert found(rows, asked(local="10.1.1.2")) == Secret(b"second")
    assert found(rows, asked(local="10.1.1.3")) is None


def test_a_row_that_names_something_else_never_matches() -> None:
    assert found([row(b"k", remote_identity=PAUL)], asked()) is None
    assert found([row(b"k", local_identity=PETER)], asked()) is None
    assert found([row(b"k", remote_address="10.9.9.9")], asked()) is None


def test_a_row_without_fields_is_for_everybody() -> None:
    assert found([row(b"any")], asked()) == Secret(b"any")


def test_an_identity_is_compared_with_its_type() -> None:
    key_id = Identity(type=IdentityType.KEY_ID, value="0a010101")
    rows = [row(b"k", remote_identity=key_id)]
    assert found(rows, asked(ids=(PAUL, ipv4("10.1.1.1")))) is None
    assert found(rows, asked(ids=(PAUL, key_id))) == Secret(b"k")


FIELDS = {"remote_identity": PETER, "local_identity": PAUL, "remote_address": "10.1.1.101", "local_address": "10.1.1.1"}


def test_more_fields_win_then_the_documented_order_of_fields() -> None:
    """Every pair of the sixteen possible rows, in both document orders."""
    names = list(FIELDS)
    subsets = [subset for size in range(5) for subset in itertools.combinations(names, size)]
    for one, other in itertools.permutations(subsets, 2):
        rows = [row(b"one", **{n: FIELDS[n] for n in one}), row(b"other", **{n: FIELDS[n] for n in other})]
        wins = max(one, other, key=lambda subset: (len(subset), [name in subset for name in names]))
        assert found(rows, asked()) == Secret(b"one" if wins == one else b"other"), (one, other)


def test_among_equal_rows_the_first_wins() -> None:
    assert found([row(b"a", remote_address="10.1.1.101"), row(b"b", remote_address="10.1.1.101")], asked()) == Secret(
        b"a"
    )


@pytest.mark.parametrize("rows", [[], [psk("10.1.1.9", None)]])
def test_no_matching_row_is_no_key(rows: list[PresharedKey]) -> None:
    assert found(rows, asked()) is None
