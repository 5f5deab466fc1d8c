"""The tunnel form: both ends side by side, selector pairs, key and policies. It shapes input; rules are the services'.

Every input is optional here, so that one submission brings all of the services' errors at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS

from vpnconsole.gateways import queries as gateway_queries
from vpnconsole.gateways.choices import IdentityTypeChoice
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.profiles import Profile
from vpnconsole.lib.forms import NamedChoiceField
from vpnconsole.vpn import presets, queries
from vpnconsole.vpn.choices import ConnectionTypeChoice, IkeVersionChoice
from vpnconsole.vpn.forms import offers
from vpnconsole.vpn.forms.keys import ENTER, GENERATE, encoding_field, secret_field
from vpnconsole.vpn.inputs import EndInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey

EXISTING = "existing"
SIDES = ("end_a", "end_b")
AUTO = ("name", "pairs", "version", "ike_policy", "ipsec_policy")
"""What the form fills in by itself and may replace again as long as nobody changed it."""
MOST_PAIRS = 64
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
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


class EndForm(forms.Form):
    """One end; the addresses offered are those of its gateway."""

    optional = ()

    gateway = forms.ModelChoiceField(queryset=Gateway.objects.none(), required=False, empty_label="choose a gateway")
    address = forms.CharField(required=False, label="Outer address", widget=forms.Select)
    identity_type = forms.ChoiceField(
        label="Identity", required=False, choices=[("", "the address itself"), *IdentityTypeChoice.choices]
    )
    identity_value = forms.CharField(
        label="Identity's value",
        required=False,
        max_length=256,
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
    )
    connection_type = forms.ChoiceField(
        label="May start", required=False, choices=ConnectionTypeChoice.choices, initial=ConnectionTypeChoice.BOTH
    )

    def __init__(self, gateways: Sequence[Gateway], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["gateway"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = gateway_queries.gateways()
        field.widget.choices = [("", "choose a gateway"), *((str(row.pk), _gateway_label(row)) for row in gateways)]
        chosen = str(self["gateway"].value() or "")
        self.chosen = next((row for row in gateways if str(row.pk) == chosen), None)
        address = self["address"].value() or ""
        offered = (
            [(row.address, f"{row.address}  {row.label}".strip()) for row in self.chosen.addresses.all()]
            if self.chosen
            else []
        )
        if address and address not in dict(offered):
            offered.append((address, address))
        widget = self.fields["address"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = offered or [
            ("", "choose a gateway first" if self.chosen is None else "the gateway has no address")
        ]

    def to_input(self) -> EndInput:
        """Return what the services take."""
        values = self.cleaned_data
        return EndInput(
            gateway=values["gateway"],
            address=values["address"],
            identity_type=values["identity_type"],
            identity_value=values["identity_value"],
            connection_type=values["connection_type"] or ConnectionTypeChoice.BOTH,
        )

    @staticmethod
    def initial_of(end: EndInput) -> dict[str, Any]:
        """Return what the form shows of an existing end."""
        return {
            "gateway": str(end.gateway.pk) if end.gateway else "",
            "address": end.address,
            "identity_type": end.identity_type,
            "identity_value": end.identity_value,
            "connection_type": end.connection_type,
        }


def _gateway_label(row: Gateway) -> str:
    return row.name if row.is_managed else f"{row.name} (extranet)"


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

    def to_input(self) -> SelectorInput:
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
        }


class TunnelForm(forms.Form):
    """What belongs to the tunnel as a whole."""

    name = forms.CharField(
        required=False,
        max_length=63,
        help_text="Lowercase letters, digits, dots and dashes.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    description = forms.CharField(required=False, max_length=255)
    version = forms.ChoiceField(
        label="IKE version",
        required=False,
        choices=IkeVersionChoice.choices,
        initial=IkeVersionChoice.V2,
        help_text="IKEv2 wherever the peer knows it. The exchange mode of IKEv1 stands in the IKE policy.",
    )
    ike_policy = NamedChoiceField(
        queryset=IKEPolicy.objects.none(),
        required=False,
        label="IKE policy",
        empty_label="choose a policy",
    )
    ipsec_policy = NamedChoiceField(
        queryset=IPsecPolicy.objects.none(),
        required=False,
        label="IPsec policy",
        empty_label="choose a policy",
    )
    key_how = forms.ChoiceField(
        label="Pre-shared key",
        choices=[
            (GENERATE, "Generate a key for this tunnel"),
            (EXISTING, "Use a stored key"),
            (ENTER, "Enter a key agreed with the peer"),
        ],
        initial=GENERATE,
        widget=forms.RadioSelect,
    )
    psk = NamedChoiceField(
        queryset=PresharedKey.objects.none(), required=False, label="Stored key", empty_label="choose a key"
    )
    key_name = forms.CharField(
        label="Name of the new key",
        required=False,
        max_length=100,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text="Empty takes the tunnel's name.",
    )
    key_value = secret_field()
    key_encoding = encoding_field()
    enabled = forms.BooleanField(
        required=False, initial=True, label="Enabled", help_text="A disabled tunnel is delivered but not negotiated."
    )
    add_routes = forms.BooleanField(
        required=False,
        initial=True,
        label="Add routes to the remote networks",
        help_text="Added with the tunnel, withdrawn with it.",
    )
    force_udp_encapsulation = forms.BooleanField(
        required=False,
        label="Always encapsulate in UDP",
        help_text="Only where a firewall on the way drops protocol 50; a NAT is found by itself.",
    )
    mtu = forms.IntegerField(
        required=False, label="MTU", min_value=256, max_value=65_535, help_text="Empty: computed from the path."
    )

    optional = ("description", "mtu")
    #: What to know of the choices made so far, and what is risky about them; filled by :meth:`settle`.
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    makes: Sequence[Profile] = ()
    remarks: Mapping[str, offers.Remarks] = {}
    #: The services' fields for a new key, where they differ.
    key_aliases = {"name": "key_name", "value": "key_value", "encoding": "key_encoding"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, rows in (
            ("ike_policy", queries.ike_policies()),
            ("ipsec_policy", queries.ipsec_policies()),
            ("psk", queries.preshared_keys()),
        ):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            field.queryset = rows

    @property
    def aliases(self) -> dict[str, str]:
        """Where an error about the key stands: the list of stored ones is hidden while a new one is made."""
        return {} if self["key_how"].value() == EXISTING else {"psk": "key_how"}

    def settle(self, ends: Sequence[EndForm]) -> None:
        """Offer what goes with the chosen ends, and say what is to be known of the choices made so far."""
        gateways = [end.chosen for end in ends if end.chosen is not None]
        version = str(self["version"].value() or IkeVersionChoice.V2)
        widget = self.fields["version"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = offers.versions(gateways, version)
        chosen, remarks = {}, {}
        for name in ("ike_policy", "ipsec_policy"):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            rows = list(field.queryset or ())
            field.widget.choices = offers.policies(rows, gateways, version, str(field.empty_label))
            policy = next((row for row in rows if str(row.pk) == str(self[name].value() or "")), None)
            chosen[name] = policy
            if policy is not None:
                remarks[name] = offers.remarks(policy, gateways, version, name)
        addresses = [str(end["address"].value() or "") for end in ends]
        self.notes, self.warnings = offers.key_notes(chosen["ike_policy"], version, addresses, self._stored_key())
        self.remarks, self.makes = remarks, offers.makes(gateways)

    def _stored_key(self) -> PresharedKey | None:
        value = str(self["psk"].value() or "")
        if self["key_how"].value() != EXISTING or not _UUID.fullmatch(value):
            return None
        return queries.preshared_keys().filter(pk=value).first()

    @property
    def missing_defaults(self) -> list[tuple[str, str]]:
        """Slug and name of the makes among the ends whose policies were not made yet."""
        return [
            (make.slug, presets.policy_name(make))
            for make in self.makes
            if make.defaults is not None and None in presets.existing(make)
        ]


@dataclass(slots=True, kw_only=True)
class TunnelForms:
    """All the forms of one page; ``auto`` is what was last filled in by itself, so that it may be replaced again."""

    main: TunnelForm
    ends: dict[str, EndForm]
    pairs: list[SelectorForm]
    auto: dict[str, str]

    def __post_init__(self) -> None:
        self.main.settle(list(self.ends.values()))

    @classmethod
    def bound(cls, data: Mapping[str, Any]) -> TunnelForms:
        """Return the forms over a submission."""
        gateways = list(gateway_queries.gateways())
        return cls(
            main=TunnelForm(data),
            ends={side: EndForm(gateways, data, prefix=side) for side in SIDES},
            pairs=[SelectorForm(data, prefix=f"selectors-{index}") for index in range(pair_count(data))],
            auto={name: data.get(f"auto_{name}", "") for name in AUTO},
        )

    @classmethod
    def showing(
        cls,
        main: dict[str, Any],
        ends: Mapping[str, dict[str, Any]],
        pairs: Sequence[dict[str, Any]],
        auto: Mapping[str, str] | None = None,
    ) -> TunnelForms:
        """Return forms that show values and judge nothing yet."""
        gateways = list(gateway_queries.gateways())
        return cls(
            main=TunnelForm(initial=main),
            ends={side: EndForm(gateways, initial=ends[side], prefix=side) for side in SIDES},
            pairs=[SelectorForm(initial=pair, prefix=f"selectors-{index}") for index, pair in enumerate(pairs)],
            auto=dict(auto or {}),
        )

    @classmethod
    def of(cls, data: TunnelInput, *, copy: bool = False) -> TunnelForms:
        """Return forms that show an existing tunnel; a copy gets another name and a key of its own."""
        assert data.ike_policy is not None
        assert data.ipsec_policy is not None
        assert data.psk is not None
        main = {
            "name": f"{data.name}-copy" if copy else data.name,
            "description": data.description,
            "version": data.version,
            "ike_policy": data.ike_policy.pk,
            "ipsec_policy": data.ipsec_policy.pk,
            "key_how": GENERATE if copy else EXISTING,
            "psk": None if copy else data.psk.pk,
            "enabled": data.enabled,
            "add_routes": data.add_routes,
            "force_udp_encapsulation": data.force_udp_encapsulation,
            "mtu": data.mtu,
        }
        ends = {"end_a": EndForm.initial_of(data.end_a), "end_b": EndForm.initial_of(data.end_b)}
        return cls.showing(main, ends, [SelectorForm.initial_of(pair) for pair in data.selectors])

    @property
    def given_pairs(self) -> list[SelectorForm]:
        """The pairs that are not blank."""
        return [pair for pair in self.pairs if not pair.blank]

    def by_prefix(self) -> dict[str, forms.BaseForm]:
        """Return the forms under the services' names."""
        numbered = {f"selectors.{index}": pair for index, pair in enumerate(self.given_pairs)}
        return {**self.ends, **numbered}

    def everything(self) -> list[forms.BaseForm]:
        """Return all forms, in the page's order."""
        return [self.main, *self.ends.values(), *self.pairs]

    def well_formed(self) -> bool:
        """Whether every input could be read at all."""
        # Every form is asked, so that all of them show their errors at once.
        return not [form for form in self.everything() if not form.is_valid()]

    def failed(self) -> bool:
        """Whether anything is wrong."""
        return any(form.errors for form in self.everything())

    def to_input(self, psk: PresharedKey | None) -> TunnelInput:
        """Return what the services take; only for well-formed input."""
        values = self.main.cleaned_data
        return TunnelInput(
            name=values["name"],
            description=values["description"],
            end_a=self.ends["end_a"].to_input(),
            end_b=self.ends["end_b"].to_input(),
            selectors=[pair.to_input() for pair in self.given_pairs],
            ike_policy=values["ike_policy"],
            ipsec_policy=values["ipsec_policy"],
            psk=psk,
            version=values["version"] or IkeVersionChoice.V2,
            enabled=values["enabled"],
            mtu=values["mtu"],
            force_udp_encapsulation=values["force_udp_encapsulation"],
            add_routes=values["add_routes"],
        )


def pair_count(data: Mapping[str, Any]) -> int:
    """Return how many pairs a submission holds."""
    text = str(data.get("pairs", "1"))
    return min(MOST_PAIRS, int(text)) if text.isdecimal() and len(text) < 4 else 1
