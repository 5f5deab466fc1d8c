"""Fixtures of the console's tests: keys outside the database, cheap passwords, the cast."""

from __future__ import annotations

import pytest
from django.conf import settings

from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.models import PresharedKey, Tunnel


@pytest.fixture(scope="session", autouse=True)
def _keys_and_cheap_passwords(tmp_path_factory: pytest.TempPathFactory) -> None:
    cast.use_kek(tmp_path_factory.mktemp("keys"))
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


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
