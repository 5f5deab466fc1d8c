"""Forms for pre-shared keys. A typed key is shown again only beside its own error, so that nothing typed is lost."""

from __future__ import annotations

from typing import Any

from django import forms

from vpnconsole.vpn.choices import SecretEncoding

GENERATE = "generate"
ENTER = "enter"


def secret_field(required: bool = False) -> forms.CharField:
    """Return the input for a key's text."""
    return forms.CharField(
        label="Key",
        required=required,
        strip=False,
        widget=forms.PasswordInput(
            render_value=True, attrs={"autocomplete": "off", "spellcheck": "false", "class": "mono"}
        ),
        help_text="At least 16 random octets. It is stored sealed and shown again only by a logged action.",
    )


def encoding_field() -> forms.ChoiceField:
    """Return the choice of how the text becomes octets."""
    return forms.ChoiceField(
        label="Written as", choices=SecretEncoding.choices, initial=SecretEncoding.HEX, widget=forms.RadioSelect
    )


class KeyValueForm(forms.Form):
    """The value of a key: made here or typed."""

    optional: tuple[str, ...] = ()

    how = forms.ChoiceField(
        label="Value",
        choices=[(GENERATE, "Generate 32 random octets"), (ENTER, "Enter a key agreed with the peer")],
        initial=GENERATE,
        widget=forms.RadioSelect,
    )
    value = secret_field()
    encoding = encoding_field()

    def clean(self) -> dict[str, Any]:
        """Ask for the key where one was announced."""
        values = super().clean() or {}
        if values.get("how") == ENTER and not values.get("value"):
            self.add_error("value", "Enter the key, or let the console generate one.")
        return values


class KeyForm(KeyValueForm):
    """A new key."""

    optional = ("description",)

    name = forms.CharField(
        max_length=100,
        help_text="For instance the tunnel's name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    description = forms.CharField(max_length=255, required=False)
    field_order = ["name", "description", "how", "value", "encoding"]


class KeyNameForm(forms.Form):
    """Name and description of an existing key."""

    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=255, required=False)
