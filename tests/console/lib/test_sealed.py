"""Envelopes: they open only in their own row, with their own key, unchanged."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from agents.contract.secret import Secret
from tests.console import cast
from vpnconsole.accounts.models import AuditEvent
from vpnconsole.lib import sealed
from vpnconsole.vpn.models import PresharedKey

RING = sealed.Keyring(current="k2", keys={"k1": Secret(b"1" * 32), "k2": Secret(b"2" * 32)})
OLD_RING = sealed.Keyring(current="k1", keys={"k1": Secret(b"1" * 32)})


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_opens_again_and_does_not_show(octets: bytes, aad: bytes) -> None:
    envelope = sealed.seal(Secret(octets), aad, RING)
    assert sealed.unseal(envelope, aad, RING).reveal() == octets
    assert len(octets) < 8 or envelope.find(octets) < 0


def test_the_same_value_never_gives_the_same_envelope() -> None:
    assert sealed.seal(Secret(b"x"), b"", RING) != sealed.seal(Secret(b"x"), b"", RING)


def test_every_changed_octet_is_noticed() -> None:
    envelope = sealed.seal(Secret(b"secret"), b"row", RING)
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= 1
        with pytest.raises(sealed.SealError):
            sealed.unseal(bytes(changed), b"row", RING)
        with pytest.raises(sealed.SealError):
            sealed.unseal(envelope[:position], b"row", RING)


def test_another_row_does_not_open_it() -> None:
    envelope = sealed.seal(Secret(b"secret"), b"vpn.presharedkey\nsecret\n1", RING)
    with pytest.raises(sealed.SealError, match="another row"):
        sealed.unseal(envelope, b"vpn.presharedkey\nsecret\n2", RING)


def test_rewrapping_changes_the_key_and_not_the_value() -> None:
    envelope = sealed.seal(Secret(b"secret"), b"row", OLD_RING)
    again = sealed.rewrap(envelope, b"row", RING)
    assert (sealed.key_id_of(envelope), sealed.key_id_of(again)) == ("k1", "k2")
    assert sealed.unseal(again, b"row", RING).reveal() == b"secret"
    with pytest.raises(sealed.SealError, match="'k2' is not in the key file"):
        sealed.unseal(again, b"row", OLD_RING)


def test_the_key_file_is_private_and_its_last_line_counts(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "kek"
    first, second = sealed.add_key(path), sealed.add_key(path)
    settings.VPNCONSOLE_KEK_FILE = path
    assert path.stat().st_mode & 0o777 == 0o600
    ring = sealed.keyring()
    assert (list(ring.keys), ring.current) == ([first, second], second)
    assert "Secret()" in repr(ring)


def test_a_missing_or_broken_key_file_says_what_to_do(tmp_path: Path, settings: Settings) -> None:
    settings.VPNCONSOLE_KEK_FILE = tmp_path / "none"
    with pytest.raises(sealed.SealError, match=r"manage\.py setup"):
        sealed.keyring()
    short = tmp_path / "short"
    short.write_text("abc AAAA\n")
    settings.VPNCONSOLE_KEK_FILE = short
    with pytest.raises(sealed.SealError, match="line 1"):
        sealed.keyring()
    empty = tmp_path / "empty"
    empty.write_text("\n")
    settings.VPNCONSOLE_KEK_FILE = empty
    with pytest.raises(sealed.SealError, match="no key"):
        sealed.keyring()


def test_a_field_takes_nothing_but_a_secret() -> None:
    with pytest.raises(TypeError, match="takes a Secret, not bytes"):
        PresharedKey(name="x", secret=b"plain")  # type: ignore[misc]


@pytest.mark.django_db
def test_a_field_is_not_serialised(psk: PresharedKey) -> None:
    with pytest.raises(CommandError, match="not serialised"):
        call_command("dumpdata", "vpn.PresharedKey")


@pytest.mark.django_db
def test_a_field_is_neither_queried_nor_updated_without_its_row(psk: PresharedKey) -> None:
    with pytest.raises(TypeError, match="cannot be filtered"):
        PresharedKey.objects.filter(secret=Secret(b"x")).exists()
    with pytest.raises(TypeError, match="cannot be filtered"):
        PresharedKey.objects.update(secret=Secret(b"x"))


@pytest.mark.django_db
def test_an_envelope_moved_to_another_row_does_not_open(psk: PresharedKey) -> None:
    other = cast.make_psk("other", "another-key-of-some-length")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE vpn_presharedkey SET secret = (SELECT secret FROM vpn_presharedkey WHERE id = %s) WHERE id = %s",
            [other.pk.hex, psk.pk.hex],
        )
    with pytest.raises(sealed.SealError, match="another row"):
        _ = PresharedKey.objects.get(pk=psk.pk).secret


@pytest.mark.django_db
def test_a_deferred_field_is_read_when_it_is_asked_for(psk: PresharedKey) -> None:
    row = PresharedKey.objects.defer("secret").get(pk=psk.pk)
    assert row.secret.reveal() == cast.PLANTED.encode()


@pytest.mark.django_db
def test_an_unrelated_save_keeps_the_envelope_readable(psk: PresharedKey) -> None:
    row = PresharedKey.objects.get(pk=psk.pk)
    row.description = "changed"
    row.save()
    assert PresharedKey.objects.get(pk=psk.pk).secret.reveal() == cast.PLANTED.encode()


@pytest.mark.django_db
def test_a_secret_in_a_row_is_not_pickled(psk: PresharedKey) -> None:
    psk.secret = Secret(b"fresh")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(psk)


@pytest.mark.django_db
def test_the_command_rewraps_every_value(tmp_path: Path, settings: Settings) -> None:
    path = cast.use_kek(tmp_path)
    settings.VPNCONSOLE_KEK_FILE = path
    psk = cast.make_psk("rotated")
    call_command("rewrapsecrets", "--new-key")
    current = sealed.keyring().current
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM vpn_presharedkey WHERE id = %s", [psk.pk.hex])
        assert sealed.key_id_of(bytes(cursor.fetchone()[0])) == current
    # The old key may go now.
    path.write_text(path.read_text().splitlines()[-1] + "\n")
    assert PresharedKey.objects.get(pk=psk.pk).secret.reveal() == cast.PLANTED.encode()
    assert AuditEvent.objects.first().action == "secrets.rewrapped"  # type: ignore[union-attr]
    assert path == django_settings.VPNCONSOLE_KEK_FILE
