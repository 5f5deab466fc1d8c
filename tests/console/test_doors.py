"""Every address of the console: closed to strangers, and calm at nonsense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from vpnconsole.accounts.models import User
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.django_db

OPEN = {"/enrol/v1", "/accounts/login/", "/accounts/set-up/", "/accounts/logout/"}
NONSENSE = "?copy=x&page=zz&state=%00&gateway=x&tunnel=x&minutes=-5&sort=zz&after=x&limit=x&q=%ff&about=%27&severity=x"
FIELDS = {"tunnel": "x", "gateway": "\0", "ike_policy": "zz", "psk": "-1", "name": "\ud7ff" * 300, "verb": "fly"}


def _addresses(resolver: Any = None, prefix: str = "/") -> Iterator[str]:
    for row in (resolver or get_resolver()).url_patterns:
        if isinstance(row, URLPattern):
            yield prefix + str(row.pattern)
        else:
            assert isinstance(row, URLResolver)
            yield from _addresses(row, prefix + str(row.pattern))


def _filled(uuids: dict[str, str]) -> list[str]:
    def fill(match: re.Match[str]) -> str:
        kind, _, name = match[1].rpartition(":")
        return {"uuid": uuids.get(name, uuids["tunnel_id"]), "int": "1"}.get(kind, "x")

    # The stream of live updates has no end: it has tests of its own.
    return [re.sub(r"<([^>]+)>", fill, address) for address in _addresses() if "live" not in address]


@pytest.fixture
def addresses(tunnel: Tunnel) -> list[str]:
    uuids = {"tunnel_id": tunnel.pk, "key_id": tunnel.preshared_key.pk, "gateway_id": tunnel.end_a.gateway.pk}
    found = _filled({name: str(value) for name, value in uuids.items()})
    assert len(found) > 30
    return found


def test_strangers_are_asked_to_log_in(alice: User, addresses: list[str]) -> None:
    client = Client()
    for address in addresses:
        if address in OPEN:
            continue
        for answer in (client.get(address), client.post(address)):
            is_sent_away = answer.status_code == 302 and answer.headers["Location"].startswith("/accounts/login/")
            assert is_sent_away or answer.status_code in (401, 405), (address, answer.status_code)
    assert Tunnel.objects.exists()


def test_nonsense_is_never_our_fault(alice: User, addresses: list[str]) -> None:
    client = Client(raise_request_exception=False)
    for address in addresses:
        for query in ("", NONSENSE):
            client.force_login(alice)
            for answer in (client.get(address + query), client.post(address + query, FIELDS)):
                assert answer.status_code < 500, address + query


def test_a_form_without_its_token_is_refused(alice: User, addresses: list[str]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    for address in addresses:
        if not address.startswith(("/api/", "/enrol/")):
            assert client.post(address, FIELDS).status_code in (403, 405), address
    assert Tunnel.objects.exists()
