"""Errors of one submission, each under the name of its field."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from vpnconsole.gateways.models import GatewayAddress
from vpnconsole.lib.errors import FieldErrors


def test_all_errors_are_raised_together_under_their_names() -> None:
    errors = FieldErrors()
    errors.raise_any()
    errors.add("name", "Too long.")
    errors.add("", "Try again.")
    errors.clean("addresses.0", GatewayAddress(address="nonsense"), without=("gateway",))
    assert "name" in errors
    assert errors.any_below("addresses")
    assert not errors.any_below("address")
    with pytest.raises(ValidationError) as caught:
        errors.raise_any()
    assert caught.value.message_dict == {
        "name": ["Too long."],
        "__all__": ["Try again."],
        "addresses.0.address": ["Enter a valid IPv4 or IPv6 address."],
    }
