"""Pre-shared keys: what text is taken, what octets it stands for, and that it is shown by no accident."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.forms.models import model_to_dict
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from hypothesis import given
from hypothesis import strategies as st

from tests.console import cast
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn import keys, queries, services
from vpnconsole.vpn.inputs import TunnelInput
from vpnconsole.vpn.models import PresharedKey, Tunnel


@pytest.mark.parametrize(
    ("value", "encoding", "octets"),
    [
        ("00ff", "hex", b"\x00\xff"),
        ("0x00FF", "hex", b"\x00\xff"),
        ("00 ff\n0a", "hex", b"\x00\xff\x0a"),
        ("00ff", "ascii", b"00ff"),
        ("two words!", "ascii", b"two words!"),
        ("a" * 1024, "ascii", b"a" * 1024),
    ],
)
def test_text_becomes_octets(value: str, encoding: str, octets: bytes) -> None:
    assert keys.parse_secret(value, encoding).reveal() == octets


@pytest.mark.parametrize(
    ("value", "encoding", "problem"),
    [
        ("", "hex", "1 to 1024 octets"),
        ("", "ascii", "1 to 1024 octets"),
        ("a" * 1025, "ascii", "1 to 1024 octets"),
        ("abc", "hex", "odd number"),
        ("secret", "hex", "digits 0-9 and a-f"),
        ('he said "no"', "ascii", "Leave out quotes"),
        ("it's", "ascii", "Leave out quotes"),
        ("back\\slash", "ascii", "Leave out quotes"),
        ("caf\u00e9", "ascii", "printable ASCII"),
        ("tab\there", "ascii", "printable ASCII"),
        ("nul\0", "ascii", "printable ASCII"),
        (" spaced", "ascii", "Leave out the space"),
        ("key", "base64", "hexadecimal or text"),
    ],
)
def test_what_is_not_taken_is_said_without_repeating_it(value: str, encoding: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as caught:
        keys.parse_secret(value, encoding)
    assert len(value) < 4 or value.strip() not in str(caught.value)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'`\\"), min_size=1, max_size=64)
)
def test_printable_text_is_taken_as_it_is(value: str) -> None:
    assert keys.parse_secret(value, "ascii").reveal() == value.encode()


@given(st.binary(min_size=1, max_size=64))
def test_hexadecimal_carries_any_octets(octets: bytes) -> None:
    assert keys.parse_secret(octets.hex(), "hex").reveal() == octets


@pytest.mark.django_db
def test_a_generated_key_has_32_random_octets_and_is_shown_as_hexadecimal(alice: User) -> None:
    first, second = keys.generate_psk(alice, name="one"), keys.generate_psk(alice, name="two")
    assert first.length_octets == len(first.secret) == 32
    assert first.secret != second.secret
    assert keys.reveal_psk(alice, first) == first.secret.reveal().hex()
    assert keys.weakness(first) == ""


@pytest.mark.django_db
def test_errors_stand_beside_their_fields(psk: PresharedKey) -> None:
    with pytest.raises(ValidationError) as caught:
        keys.create_psk(None, name=psk.name, value='"', encoding="ascii")
    assert set(caught.value.message_dict) == {"name", "value"}
    with pytest.raises(ValidationError) as caught:
        keys.create_psk(None, name="x", value="aa", encoding="rot13")
    assert set(caught.value.message_dict) == {"encoding"}
    assert PresharedKey.objects.count() == 1


@pytest.mark.django_db
def test_a_key_is_revealed_only_on_record(bob: User, psk: PresharedKey) -> None:
    assert keys.reveal_psk(bob, psk) == cast.PLANTED
    psk.refresh_from_db()
    assert psk.last_revealed_at is not None
    event = AuditEvent.objects.first()
    assert event is not None
    assert (event.actor, event.action, event.object_id) == ("bob", "psk.revealed", str(psk.pk))


@pytest.mark.django_db
def test_a_key_gets_another_value(alice: User, psk: PresharedKey) -> None:
    keys.replace_psk(alice, psk, value="0a0b", encoding="hex")
    stored = PresharedKey.objects.get(pk=psk.pk)
    assert (stored.secret.reveal(), stored.length_octets, stored.encoding) == (b"\x0a\x0b", 2, "hex")
    again = keys.regenerate_psk(alice, stored)
    assert (again.pk, again.length_octets) == (psk.pk, 32)
    keys.update_psk(alice, stored, name="renamed")
    renamed = PresharedKey.objects.get(pk=psk.pk)
    assert (renamed.name, renamed.secret) == ("renamed", again.secret)


@pytest.mark.django_db
def test_a_refused_replacement_keeps_the_old_value(alice: User, psk: PresharedKey) -> None:
    with pytest.raises(ValidationError):
        keys.replace_psk(alice, psk, value="xyz", encoding="hex")
    stored = PresharedKey.objects.get(pk=psk.pk)
    assert (stored.secret.reveal(), stored.encoding) == (cast.PLANTED.encode(), "ascii")


@pytest.mark.django_db
def test_a_key_in_use_stays(tunnel: Tunnel, psk: PresharedKey) -> None:
    with pytest.raises(ValidationError, match="is used by tunnel paris-lyon"):
        keys.delete_psk(None, psk)
    services.delete_tunnel(None, tunnel)
    keys.delete_psk(None, psk)
    assert not PresharedKey.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(("value", "is_weak"), [("a" * 15, True), ("a" * 16, False)])
def test_a_short_key_is_called_weak(value: str, is_weak: bool) -> None:
    assert bool(keys.weakness(cast.make_psk("k", value))) is is_weak


@pytest.mark.django_db
def test_the_planted_key_is_nowhere_but_in_its_envelope(
    alice: User, paris: Gateway, lyon: Gateway, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.DEBUG):
        psk = keys.create_psk(alice, name="planted", value=cast.PLANTED, encoding="ascii")
        tunnel = cast.make_tunnel(paris, lyon, psk)
        keys.replace_psk(alice, psk, value=cast.PLANTED, encoding="ascii")
        stored = queries.get_tunnel(tunnel.pk).preshared_key
        shown = [repr(stored), str(vars(stored)), str(model_to_dict(stored)), repr(TunnelInput.of(tunnel))]
        shown += [repr(stored.secret), str(list(PresharedKey.objects.values())), str(list(AuditEvent.objects.values()))]
        # The Secret is read here, so that an envelope opened and kept would show.
        assert stored.secret.reveal() == cast.PLANTED.encode()
        shown += [repr(stored), str(vars(stored))]
    for form in (cast.PLANTED, cast.PLANTED.encode().hex()):
        assert form not in caplog.text
        assert not any(form in text for text in shown)
        with connection.cursor() as cursor:
            assert form.encode() not in cursor.connection.serialize()


@pytest.mark.django_db
def test_an_error_page_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(audit, "record", fail)
    try:
        keys.create_psk(None, name="planted", value=cast.PLANTED, encoding="ascii")
    except RuntimeError as error:
        report = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        frames = [frame for frame in report.get_traceback_frames() if frame["function"] in ("create_psk", "_parsed")]
        text = str([frame["vars"] for frame in frames])
    assert frames
    assert cast.PLANTED not in text
