"""Names and prefixes as people write them."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from agents.contract import check
from vpnconsole.lib.fields import SLUG_VALIDATOR, PrefixField, parse_prefix


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.1.0.0/24", "10.1.0.0/24"),
        (" 10.1.0.0/255.255.255.0 ", "10.1.0.0/24"),
        ("10.1.1.1", "10.1.1.1/32"),
        ("2001:DB8:0::/48", "2001:db8::/48"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_prefix_comes_out_canonical(text: str, canonical: str) -> None:
    assert PrefixField().to_python(text) == canonical


@pytest.mark.parametrize("text", ["", "ten", "10.1.0.0/33", "10.1/16", "fe80::%eth0/64", "10.1.0.0/24/24"])
def test_what_is_no_network_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValidationError, match=r"10\.1\.0\.0/24"):
        parse_prefix(text)


def test_host_bits_come_with_the_correction() -> None:
    with pytest.raises(ValidationError, match=r"did you mean 10\.1\.0\.0/24\?"):
        parse_prefix("10.1.0.7/24")


@pytest.mark.parametrize("name", ["a", "paris-lyon", "gw.1_a", "9", "a" * 63])
def test_good_names(name: str) -> None:
    SLUG_VALIDATOR(name)
    check.slug("name", name)  # the documents take what the forms take


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a" * 64, "a\n", "é", "a/b", "<b>"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValidationError):
        SLUG_VALIDATOR(name)
