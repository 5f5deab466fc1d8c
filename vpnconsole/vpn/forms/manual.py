"""The manual SAs of one selector pair: one form for what they share, one for each direction.

Typed keys are shown again only beside their own error, as in ``keys``; stored ones are never shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.views.decorators.debug import sensitive_variables

from agents.contract import algorithms
from agents.contract.secret import Secret
from vpnconsole.vpn import keys, manual
from vpnconsole.vpn.choices import ESP_ENCRYPTION_CHOICES, INTEGRITY_CHOICES, ModeChoice, SaDirection, SecretEncoding
from vpnconsole.vpn.forms.policies import marked
from vpnconsole.vpn.inputs import Keys, ManualInput, ManualSaInput, Protocol

SEPARATE = "separate"
_MONO = {"class": "mono", "spellcheck": "false", "autocomplete": "off"}


def _ciphers() -> list[Any]:
    counters = manual.counter_ciphers()
    fit = [(slug, label) for slug, label in ESP_ENCRYPTION_CHOICES if slug not in counters]
    unfit = [(slug, label) for slug, label in ESP_ENCRYPTION_CHOICES if slug in counters]
    return [
        ("", "choose a cipher"),
        *marked(fit, algorithms.ENCRYPTION),
        ("Not with manual keys: they count in their IV", unfit),
    ]


class SpiField(forms.CharField):
    """An SPI in hexadecimal (``0x1000``) or decimal; empty lets the console choose one."""

    widget = forms.TextInput(attrs={**_MONO, "placeholder": "chosen at random"})

    def clean(self, value: Any) -> Any:
        """Return the number, or None."""
        text = super().clean(value).strip().lower()
        if not text:
            return None
        try:
            return int(text, 16 if text.startswith("0x") else 10)
        except ValueError:
            raise forms.ValidationError("Write an SPI like 0x1000 or 4096.") from None


def spi_text(spi: int | None) -> str:
    """Return an SPI as :class:`SpiField` reads it."""
    return "" if spi is None else f"0x{spi:08x}"


def _key_field(label: str) -> forms.CharField:
    return forms.CharField(
        label=label, required=False, strip=False, widget=forms.PasswordInput(render_value=True, attrs=dict(_MONO))
    )


class SaForm(forms.Form):
    """One SA: SPIs, algorithms and where its keys come from."""

    optional = ("esp_spi", "ah_spi")

    esp_spi = SpiField(label="ESP SPI", required=False)
    encryption = forms.ChoiceField(required=False, choices=_ciphers, initial="aes-256-cbc")
    integrity = forms.ChoiceField(
        required=False,
        choices=lambda: [("", "none"), *marked(INTEGRITY_CHOICES, algorithms.INTEGRITY)],
        initial="hmac-sha2-256-128",
    )
    ah_spi = SpiField(label="AH SPI", required=False)
    ah_integrity = forms.ChoiceField(
        label="AH",
        required=False,
        choices=lambda: [("", "none"), *marked(INTEGRITY_CHOICES, algorithms.INTEGRITY)],
        initial="hmac-sha2-256-128",
    )
    keys = forms.ChoiceField(label="Keys", required=False, widget=forms.RadioSelect, initial=Keys.GENERATE)
    key_encoding = forms.ChoiceField(
        label="Written as",
        required=False,
        choices=[(SecretEncoding.HEX, "Hexadecimal digits"), (SecretEncoding.ASCII, "ASCII text")],
        initial=SecretEncoding.HEX,
        widget=forms.RadioSelect,
    )
    encryption_key = _key_field("Encryption key")
    integrity_key = _key_field("Integrity key")
    ah_key = _key_field("AH key")
    stored = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["keys"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(Keys.GENERATE, "Generate"), (Keys.ENTER, "Enter")]
        if self["stored"].value():
            field.choices = [(Keys.KEEP, "Keep the stored ones"), *field.choices]

    @sensitive_variables()
    def clean(self) -> dict[str, Any]:
        """Turn what was typed into keys; the text does not come back in any message."""
        values = super().clean() or {}
        values["secrets"] = found = dict[str, Secret]()
        if values.get("keys") == Keys.ENTER:
            for name in manual.KEY_FIELDS:
                text = values.get(name, "")
                if not text:
                    continue
                try:
                    found[name] = keys.parse_secret(text, values.get("key_encoding") or SecretEncoding.HEX)
                except forms.ValidationError as error:
                    self.add_error(name, error.messages[0])
        return values

    def to_input(self, direction: str) -> ManualSaInput:
        """Return what the services take."""
        values = self.cleaned_data
        stored: UUID | None = values["stored"]
        return ManualSaInput(
            direction=direction,
            esp_spi=values["esp_spi"],
            encryption=values["encryption"],
            integrity=values["integrity"],
            ah_spi=values["ah_spi"],
            ah_integrity=values["ah_integrity"],
            keys=Keys(values["keys"] or Keys.GENERATE),
            stored=stored,
            **values["secrets"],
        )

    @staticmethod
    def initial_of(sa: ManualSaInput) -> dict[str, Any]:
        """Return what the form shows of an existing SA, or of the copy of one."""
        return {
            "esp_spi": spi_text(sa.esp_spi),
            "encryption": sa.encryption,
            "integrity": sa.integrity,
            "ah_spi": spi_text(sa.ah_spi),
            "ah_integrity": sa.ah_integrity,
            "keys": sa.keys.value,
            "stored": str(sa.stored) if sa.stored else "",
        }


class ManualForm(forms.Form):
    """What the SAs of a pair have in common."""

    optional = ()

    protocol = forms.ChoiceField(
        required=False,
        label="Protocol",
        choices=[(Protocol.ESP, "ESP"), (Protocol.AH, "AH: nothing is hidden"), (Protocol.ESP_AH, "ESP inside AH")],
        initial=Protocol.ESP,
    )
    directions = forms.ChoiceField(
        required=False,
        label="SAs",
        choices=[
            (SEPARATE, "Each direction its own (better: nothing can be sent back to where it came from)"),
            (SaDirection.BOTH, "The same SPI and keys both ways"),
        ],
        initial=SEPARATE,
        widget=forms.RadioSelect,
    )
    mode = forms.ChoiceField(required=False, choices=ModeChoice.choices, initial=ModeChoice.TUNNEL)
    replay_window = forms.IntegerField(
        required=False, label="Replay window (packets)", initial=0, help_text=manual.WINDOW_HINT
    )
    ipcomp = forms.BooleanField(required=False, label="Compress (IPComp)")

    @property
    def both(self) -> bool:
        """Whether one SA stands for both directions."""
        return bool(self["directions"].value() == SaDirection.BOTH)


class ManualForms:
    """The forms of one pair: ``shared`` and one SA form per direction."""

    def __init__(self, data: Any, prefix: str, initial: Mapping[str, Any] | None = None) -> None:
        initial = initial or {}
        self.shared = ManualForm(data, prefix=f"{prefix}-manual", initial=initial.get("shared"))
        sas = initial.get("sas", {})
        self.sas = {
            str(direction): SaForm(data, prefix=f"{prefix}-{direction}", initial=sas.get(direction))
            for direction in SaDirection.values
        }

    @property
    def used(self) -> dict[str, SaForm]:
        """The SA forms that count, by direction."""
        names = [SaDirection.BOTH] if self.shared.both else [SaDirection.OUT, SaDirection.IN]
        return {str(name): self.sas[name] for name in names}

    def everything(self) -> list[forms.BaseForm]:
        """Return the forms that count."""
        return [self.shared, *self.used.values()]

    def values(self) -> dict[str, Any]:
        """Return what is in the forms, to show it again."""
        return {
            "shared": {name: self.shared[name].value() for name in self.shared.fields},
            "sas": {way: {name: form[name].value() for name in form.fields} for way, form in self.sas.items()},
        }

    def to_input(self) -> ManualInput:
        """Return what the services take."""
        values = self.shared.cleaned_data
        return ManualInput(
            sas=[form.to_input(direction) for direction, form in self.used.items()],
            protocol=Protocol(values["protocol"] or Protocol.ESP),
            mode=values["mode"] or ModeChoice.TUNNEL,
            replay_window=values["replay_window"] or 0,
            ipcomp=values["ipcomp"],
        )

    @staticmethod
    def initial_of(data: ManualInput) -> dict[str, Any]:
        """Return what the forms show of an existing pair."""
        both = [sa.direction for sa in data.sas] == [SaDirection.BOTH]
        return {
            "shared": {
                "protocol": data.protocol.value,
                "directions": SaDirection.BOTH.value if both else SEPARATE,
                "mode": data.mode,
                "replay_window": data.replay_window,
                "ipcomp": data.ipcomp,
            },
            "sas": {str(sa.direction): SaForm.initial_of(sa) for sa in data.sas},
        }
