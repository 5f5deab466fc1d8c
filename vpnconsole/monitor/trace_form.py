"""The form that asks for a trace of a gateway."""

from __future__ import annotations

from dataclasses import dataclass

from django import forms

from agents.contract.traces import Category
from vpnconsole.monitor.captures import MIB
from vpnconsole.monitor.traces import HINTS, MINUTES, OCTETS, TraceInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One category to tick and what it records."""

    slug: str
    hint: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Categories that cost alike; ``costly`` ones slow the gateway down."""

    label: str
    costly: bool
    choices: tuple[Box, ...]


def _size(octets: int) -> str:
    return f"{octets // MIB} MiB" if octets >= MIB else f"{octets // 1024} KiB"


class TraceForm(forms.Form):
    """Which categories, how long, how much."""

    optional = ()

    categories = forms.MultipleChoiceField(
        label="What to record",
        choices=[(each.value, each.value) for each in HINTS],
        initial=[Category.ERROR.value, Category.TUNNEL.value],
        error_messages={"required": "Choose at least one: without any, nothing would be recorded."},
    )
    minutes = forms.TypedChoiceField(
        coerce=int, label="At most", initial=5, choices=[(each, f"{each} min") for each in MINUTES]
    )
    octets = forms.TypedChoiceField(
        coerce=int,
        label="Up to",
        initial=OCTETS[1],
        choices=[(each, f"{_size(each)} per process") for each in OCTETS],
    )
    version = forms.TypedChoiceField(
        coerce=int,
        empty_value=None,
        required=False,
        label="Packets of",
        choices=[("", "IPv4 and IPv6"), ("4", "IPv4 only"), ("6", "IPv6 only")],
    )

    @property
    def groups(self) -> tuple[Group, ...]:
        """The categories, those that cost performance last."""
        chosen: list[str] = self["categories"].value() or []
        return tuple(
            Group(
                label=label,
                costly=costly,
                choices=tuple(
                    Box(slug=each.value, hint=hint, chosen=each.value in chosen)
                    for each, hint in HINTS.items()
                    if each.costly is costly
                ),
            )
            for label, costly in (("Events", False), ("In detail: every message, packet or SA", True))
        )

    def wanted(self) -> TraceInput:
        """Return what was asked for, once the form is valid."""
        values = self.cleaned_data
        return TraceInput(
            categories=values["categories"],
            seconds=values["minutes"] * 60,
            octets=values["octets"],
            version=values["version"],
        )
