"""Fixtures of the console's tests: keys outside the database, cheap passwords, the cast."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from django.conf import settings
from django.db import connection
from pytest_django.plugin import blocking_manager_key

from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.models import PresharedKey, Tunnel


@pytest.fixture(scope="session", autouse=True)
def _keys_and_cheap_passwords(tmp_path_factory: pytest.TempPathFactory) -> None:
    cast.use_kek(tmp_path_factory.mktemp("keys"))
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Put back what migrations wrote, after a test that committed: Django empties every table behind such a test.

    Django runs these tests last; a worker of several, given one file after another, cannot.
    """
    yield
    mark = item.get_closest_marker("django_db")
    if mark is not None and mark.kwargs.get("transaction"):
        with item.config.stash[blocking_manager_key].unblock():
            kept: str = connection._test_serialized_contents  # type: ignore[attr-defined]
            connection.creation.deserialize_db_from_string(kept)


@pytest.fixture
def alice(db: None) -> User:
    return cast.make_user("alice", admin=True)


@pytest.fixture
def bob(db: None) -> User:
    return cast.make_user("bob")


@pytest.fixture
def charlie(db: None) -> User:
    return cast.make_user("charlie")


@pytest.fixture
def paris(db: None) -> Gateway:
    return cast.make_paris()


@pytest.fixture
def lyon(db: None) -> Gateway:
    return cast.make_lyon()


@pytest.fixture
def extranet(db: None) -> Gateway:
    return cast.make_extranet()


@pytest.fixture
def psk(db: None) -> PresharedKey:
    return cast.make_psk()


@pytest.fixture
def tunnel(paris: Gateway, lyon: Gateway, psk: PresharedKey) -> Tunnel:
    return cast.make_tunnel(paris, lyon, psk)
