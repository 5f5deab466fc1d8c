"""One pair of networks of the tunnel form: a rule, its IPsec policy, and with manual keys the SAs that carry it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS

from vpnconsole.lib.forms import NamedChoiceField
from vpnconsole.vpn import queries
from vpnconsole.vpn.forms import offers
from vpnconsole.vpn.forms.manual import ManualForms
from vpnconsole.vpn.inputs import SelectorInput
from vpnconsole.vpn.models import IPsecPolicy

_PORTS = re.compile(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?")
_ALL_PORTS = (0, 65_535)
_PROTOCOLS = [(0, "any"), (1, "ICMP"), (6, "TCP"), (17, "UDP"), (47, "GRE"), (58, "ICMPv6"), (132, "SCTP")]


class PortsField(forms.CharField):
    """A port or a range like ``1000-2000``; empty means any."""

    def clean(self, value: Any) -> Any:
        """Return the range, both ends included."""
        text = super().clean(value)
        if not text or text.strip() == "any":
            return _ALL_PORTS
        found = _PORTS.fullmatch(text)
        if found is None:
            raise forms.ValidationError("Write a port like 443 or a range like 1000-2000; leave it empty for any.")
        first = int(found[1])
        return first, int(found[2]) if found[2] else first


def ports_text(first: int, last: int) -> str:
    """Return a range as :class:`PortsField` reads it."""
    if (first, last) == _ALL_PORTS:
        return ""
    return str(first) if first == last else f"{first}-{last}"


class SelectorForm(forms.Form):
    """One pair of networks."""

    optional = ()
    _mono = {"class": "mono", "spellcheck": "false"}
    network_a = forms.CharField(
        label="Network at A", required=False, widget=forms.TextInput(attrs={**_mono, "placeholder": "10.1.0.0/24"})
    )
    network_b = forms.CharField(
        label="Network at B", required=False, widget=forms.TextInput(attrs={**_mono, "placeholder": "10.2.0.0/24"})
    )
    protocol = forms.TypedChoiceField(required=False, coerce=int, empty_value="0", choices=_PROTOCOLS)
    ports_a = PortsField(label="Ports at A", required=False, widget=forms.TextInput(attrs={"placeholder": "any"}))
    ports_b = PortsField(label="Ports at B", required=False, widget=forms.TextInput(attrs={"placeholder": "any"}))
    ipsec_policy = NamedChoiceField(
        queryset=IPsecPolicy.objects.none(),
        required=False,
        label="IPsec policy of this pair",
        widget=forms.Select(attrs={"class": "pair-policy"}),
        help_text="Algorithms, PFS and lifetimes of this pair alone.",
    )

    #: What is to be said of a policy of its own; filled by :meth:`settle`.
    remarks: offers.Remarks | None = None
    #: The services' fields where they differ.
    aliases = {
        "port_a_start": "ports_a",
        "port_a_end": "ports_a",
        "port_b_start": "ports_b",
        "port_b_end": "ports_b",
        "seq": NON_FIELD_ERRORS,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        policies = self.fields["ipsec_policy"]
        assert isinstance(policies, forms.ModelChoiceField)
        policies.queryset = queries.ipsec_policies()
        self.manual = ManualForms(self.data if self.is_bound else None, str(self.prefix), self.initial.get("manual"))
        value = str(self["protocol"].value() or "0")
        field = self.fields["protocol"]
        assert isinstance(field, forms.TypedChoiceField)
        if value.isdecimal() and int(value) <= 255 and value not in {str(number) for number, _ in _PROTOCOLS}:
            field.choices = [*_PROTOCOLS, (int(value), f"protocol {value}")]

    @property
    def blank(self) -> bool:
        """Whether neither network was given."""
        return not (self["network_a"].value() or self["network_b"].value())

    @property
    def narrowed(self) -> bool:
        """Whether more than networks was chosen."""
        return any(self[name].value() not in ("", "0", 0, None) for name in ("protocol", "ports_a", "ports_b"))

    @property
    def own_policy(self) -> bool:
        """Whether an IPsec policy was chosen for it alone."""
        return self["ipsec_policy"].value() not in ("", None)

    def settle(self, rows: Sequence[IPsecPolicy], choices: Sequence[Any], chosen: offers.Choice) -> None:
        """Offer ``choices`` of the policies ``rows``, and say what is to be known of the one that is chosen."""
        widget = self.fields["ipsec_policy"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = choices
        value = str(self["ipsec_policy"].value() or "")
        policy = next((row for row in rows if str(row.pk) == value), None)
        self.remarks = offers.remarks(policy, chosen, "ipsec_policy") if policy is not None else None

    def values(self) -> dict[str, Any]:
        """Return what is in the form, to show it again."""
        return {**{name: self[name].value() for name in self.fields}, "manual": self.manual.values()}

    def to_input(self, *, with_manual: bool) -> SelectorInput:
        """Return what the services take."""
        values = self.cleaned_data
        return SelectorInput(
            network_a=values["network_a"],
            network_b=values["network_b"],
            protocol=int(values["protocol"]),
            port_a_start=values["ports_a"][0],
            port_a_end=values["ports_a"][1],
            port_b_start=values["ports_b"][0],
            port_b_end=values["ports_b"][1],
            ipsec_policy=None if with_manual else values["ipsec_policy"],
            manual=self.manual.to_input() if with_manual else None,
        )

    @staticmethod
    def initial_of(pair: SelectorInput) -> dict[str, Any]:
        """Return what the form shows of an existing pair."""
        return {
            "network_a": pair.network_a,
            "network_b": pair.network_b,
            "protocol": str(pair.protocol),
            "ports_a": ports_text(pair.port_a_start, pair.port_a_end),
            "ports_b": ports_text(pair.port_b_start, pair.port_b_end),
            "ipsec_policy": pair.ipsec_policy.pk if pair.ipsec_policy else None,
            "manual": ManualForms.initial_of(pair.manual) if pair.manual else None,
        }
