"""Names of numbers as events and pages show them."""

from __future__ import annotations

from agents.ike.wire.isakmp.registry import (
    Exchange,
    NotifyType,
    PayloadType,
    exchange_name,
    is_known_exchange,
    is_known_payload,
    notify_name,
    payload_name,
)


def test_exchanges_are_slugs() -> None:
    assert [exchange_name(each) for each in Exchange] == [
        "main-mode",
        "authentication-only",
        "aggressive-mode",
        "informational-v1",
        "transaction",
        "quick-mode",
        "new-group-mode",
    ]
    assert exchange_name(34) == "exchange 34"
    assert is_known_exchange(32)
    assert not is_known_exchange(34)


def test_other_numbers_have_the_name_of_the_registry_or_none() -> None:
    assert notify_name(NotifyType.NO_PROPOSAL_CHOSEN) == "NO_PROPOSAL_CHOSEN"
    assert notify_name(31) == "notify 31"
    assert payload_name(PayloadType.NAT_D) == "NAT_D"
    assert payload_name(153) == "type 153"
    assert is_known_payload(132)
    assert not is_known_payload(153)


def test_error_notifies_are_all_there() -> None:
    assert [each for each in NotifyType if each < 16384] == list(range(1, 31))
