"""The tunnel form: both ends side by side, selector pairs, key and policies. It shapes input; rules are the services'.

Every input is optional here, so that one submission brings all of the services' errors at once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms

from agents.contract.carriage import LOCAL_CONTEXT
from vpnconsole.gateways import queries as gateway_queries
from vpnconsole.gateways.choices import IdentityTypeChoice
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.profiles import Profile
from vpnconsole.lib.forms import NamedChoiceField
from vpnconsole.vpn import manual, presets, queries
from vpnconsole.vpn.choices import (
    AttachmentChoice,
    ConnectionTypeChoice,
    DfBitChoice,
    IkeVersionChoice,
    PeerIdentityChoice,
    TunnelKindChoice,
)
from vpnconsole.vpn.forms import offers
from vpnconsole.vpn.forms.keys import ENTER, GENERATE, encoding_field, secret_field
from vpnconsole.vpn.forms.pairs import SelectorForm
from vpnconsole.vpn.inputs import (
    NO_END,
    CarriageInput,
    EndInput,
    PeersInput,
    RouteInput,
    SelectorInput,
    TunnelInput,
)
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey, QosPolicy

EXISTING = "existing"
SIDES = ("end_a", "end_b")
MOST_MANUAL = manual.MOST_CHILDREN
AUTO = ("name", "pairs", "version", "ike_policy", "ipsec_policy")
"""What the form fills in by itself and may replace again as long as nobody changed it."""
MOST_PAIRS = 64
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ROUTE = re.compile(r"(?P<network>\S+)(?:\s+(?P<cost>\d{1,5}))?")


class EndForm(forms.Form):
    """One end; the addresses offered are those of its gateway."""

    optional = ("routes",)

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
    context = forms.CharField(
        required=False,
        label="Routing context",
        widget=forms.Select,
        initial=LOCAL_CONTEXT,
        help_text="The table that the tunnel's routes go into. Contexts are made with the gateway.",
    )
    endpoint_context = forms.CharField(
        required=False,
        label="Endpoint context",
        widget=forms.Select,
        initial=LOCAL_CONTEXT,
        help_text="The table by which IKE and IPsec leave from this address: one for each uplink, say. All tunnels of "
        "one address share it.",
    )
    route_cost = forms.IntegerField(
        required=False,
        label="Cost of its routes",
        min_value=0,
        max_value=65_535,
        initial=0,
        help_text="Of two tunnels to one network the lower cost is used while it is up.",
    )
    routes = forms.CharField(
        required=False,
        label="Static routes",
        widget=forms.Textarea(attrs={"rows": 2, "class": "mono", "spellcheck": "false"}),
        help_text="One network per line, with a cost after it if you like: 10.9.0.0/16 5.",
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
        self._offer_contexts()

    def _offer_contexts(self) -> None:
        names = [LOCAL_CONTEXT, *(row.name for row in (self.chosen.contexts.all() if self.chosen else ()))]
        for field in ("context", "endpoint_context"):
            asked = str(self[field].value() or LOCAL_CONTEXT)
            widget = self.fields[field].widget
            assert isinstance(widget, forms.Select)
            widget.choices = [(name, name) for name in (names if asked in names else [*names, asked])]

    @property
    def carries(self) -> bool:
        """Whether something of its routing is not as usual, or wrong."""
        local = ("", None, LOCAL_CONTEXT)
        usual = {
            "context": local, "endpoint_context": local, "route_cost": ("", None, 0, "0"), "routes": ("", None),
        }  # fmt: skip
        return any(self[name].value() not in values or self[name].errors for name, values in usual.items())

    def to_input(self) -> EndInput:
        """Return what the services take."""
        values = self.cleaned_data
        return EndInput(
            gateway=values["gateway"],
            address=values["address"],
            identity_type=values["identity_type"],
            identity_value=values["identity_value"],
            connection_type=values["connection_type"] or ConnectionTypeChoice.BOTH,
            context=values["context"] or LOCAL_CONTEXT,
            endpoint_context=values["endpoint_context"] or LOCAL_CONTEXT,
            route_cost=values["route_cost"] or 0,
            routes=[_route(line.strip()) for line in values["routes"].splitlines() if line.strip()],
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
            "context": end.context,
            "endpoint_context": end.endpoint_context,
            "route_cost": end.route_cost,
            "routes": "\n".join(f"{route.network} {route.cost}" for route in end.routes),
        }


def _route(line: str) -> RouteInput:
    found = _ROUTE.fullmatch(line)
    return (
        RouteInput(network=found["network"], cost=int(found["cost"] or 1))
        if found
        else RouteInput(network=line, cost=None)
    )


def _gateway_label(row: Gateway) -> str:
    return row.name if row.is_managed else f"{row.name} (extranet)"


class PeersForm(forms.Form):
    """Who may be at the other end of an on-demand tunnel."""

    optional = ()

    identity_type = forms.ChoiceField(
        label="Their identity", required=False, choices=PeerIdentityChoice.choices, initial=PeerIdentityChoice.FQDN
    )
    identity_value = forms.CharField(
        label="Identity's value",
        required=False,
        max_length=256,
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false", "placeholder": "*.example.org"}),
        help_text="One peer (gw.example.org), or all below a name (*.example.org, *@example.org, CN=*,O=Example). An "
        "exact identity is preferred to a partial one, a partial one to anything.",
    )
    most_peers = forms.IntegerField(label="Peers at a time", required=False, min_value=1, max_value=8_000, initial=50)

    def to_input(self) -> PeersInput:
        """Return what the services take."""
        values = self.cleaned_data
        return PeersInput(
            identity_type=values["identity_type"] or PeerIdentityChoice.FQDN,
            identity_value=values["identity_value"],
            most_peers=50 if values["most_peers"] is None else values["most_peers"],
        )


class TunnelForm(forms.Form):
    """What belongs to the tunnel as a whole."""

    kind = forms.ChoiceField(
        label="Kind of tunnel",
        required=False,
        choices=[
            (TunnelKindChoice.STATIC, "Static: two gateways that know each other's address"),
            (TunnelKindChoice.ON_DEMAND, "On-demand: one gateway answers peers from anywhere"),
            (TunnelKindChoice.MANUAL, "Manual keys: nothing is negotiated, for peers without IKE"),
        ],
        initial=TunnelKindChoice.STATIC,
        widget=forms.RadioSelect,
    )

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

    attachment = forms.ChoiceField(
        required=False,
        choices=AttachmentChoice.choices,
        initial=AttachmentChoice.SHARED,
        help_text="Shared is economical: policies pick the packets by the pairs of networks. An interface of its own "
        "can be routed to, run a routing protocol, and stand in for another tunnel by cost.",
    )
    df_bit = forms.ChoiceField(
        required=False,
        label="DF bit of the outer header",
        choices=DfBitChoice.choices,
        initial=DfBitChoice.PROPAGATE,
        help_text="Clear lets routers on the way break packets up that are too long for it; slow, but nothing is lost. "
        "Set needs, in the kernel's data plane, an interface of the tunnel's own.",
    )
    qos_policy = NamedChoiceField(
        queryset=QosPolicy.objects.none(), required=False, label="QoS policy", empty_label="none: one queue"
    )
    copy_dscp = forms.BooleanField(
        required=False,
        initial=True,
        label="Copy the DSCP to the outer header",
        help_text="Lets the path treat urgent packets as such, and shows it which are.",
    )
    clamp_tcp_mss = forms.BooleanField(
        required=False,
        label="Clamp TCP's segment size",
        help_text="For paths where connections open and then hang: a firewall swallows the ICMP messages that say a "
        "packet is too big. TCP is then told the size when it connects. The managed gateways need nftables for it.",
    )

    optional = ("description", "mtu", "qos_policy")
    manual_advice = manual.ADVICE
    first_rule = manual.FIRST_RULE
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
            ("qos_policy", queries.qos_policies()),
        ):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            field.queryset = rows

    @property
    def aliases(self) -> dict[str, str]:
        """Where an error about the key stands: the list of stored ones is hidden while a new one is made."""
        return {} if self["key_how"].value() == EXISTING else {"psk": "key_how"}

    @property
    def chosen_kind(self) -> str:
        """The kind that is chosen, static where it is not said."""
        value = str(self["kind"].value() or "")
        return value if value in TunnelKindChoice.values else TunnelKindChoice.STATIC.value

    @property
    def carries(self) -> bool:
        """Whether something of the carriage is not as usual, or wrong."""
        usual = {
            "attachment": ("", None, AttachmentChoice.SHARED),
            "df_bit": ("", None, DfBitChoice.PROPAGATE),
            "qos_policy": ("", None),
            "copy_dscp": (True, "on"),
            "clamp_tcp_mss": (False, "", None),
        }
        return any(self[name].value() not in values or self[name].errors for name, values in usual.items())

    def settle(self, ends: Sequence[EndForm], pairs: Sequence[SelectorForm]) -> None:
        """Offer what goes with the chosen ends, and say what is to be known of the choices made so far."""
        gateways = [end.chosen for end in ends if end.chosen is not None]
        version = str(self["version"].value() or IkeVersionChoice.V2)
        widget = self.fields["version"].widget
        assert isinstance(widget, forms.Select)
        widget.choices = offers.versions(gateways, version)
        on_demand = self.chosen_kind == TunnelKindChoice.ON_DEMAND
        choice = offers.Choice(gateways=gateways, version=version, on_demand=on_demand)
        chosen, remarks, offered = {}, {}, {}
        for name in ("ike_policy", "ipsec_policy"):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            rows = list(field.queryset or ())
            field.widget.choices = offered[name] = offers.policies(rows, choice, str(field.empty_label))
            policy = next((row for row in rows if str(row.pk) == str(self[name].value() or "")), None)
            chosen[name] = policy
            if policy is not None:
                remarks[name] = offers.remarks(policy, choice, name)
        addresses = [str(end["address"].value() or "") for end in ends]
        self.notes, self.warnings = offers.key_notes(chosen["ike_policy"], choice, addresses, self._stored_key())
        self.remarks, self.makes = remarks, offers.makes(gateways)
        usual = chosen["ipsec_policy"]
        choices = [("", f"the tunnel's: {usual.name}" if usual else "the tunnel's"), *offered["ipsec_policy"][1:]]
        for pair in pairs:
            pair.settle(rows, choices, choice)

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
    """All the forms of one page; ``auto`` is what was last filled in by itself, so that it may be replaced again.

    What the chosen kind of tunnel has no use for is kept, so that nothing typed is lost, but neither judged nor stored.
    """

    main: TunnelForm
    ends: dict[str, EndForm]
    peers: PeersForm
    pairs: list[SelectorForm]
    auto: dict[str, str]

    def __post_init__(self) -> None:
        self.main.settle(list(self.used_ends.values()), self.pairs)

    @classmethod
    def bound(cls, data: Mapping[str, Any]) -> TunnelForms:
        """Return the forms over a submission."""
        gateways = list(gateway_queries.gateways())
        return cls(
            main=TunnelForm(data),
            ends={side: EndForm(gateways, data, prefix=side) for side in SIDES},
            peers=PeersForm(data, prefix="peers"),
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
        peers: dict[str, Any] | None = None,
    ) -> TunnelForms:
        """Return forms that show values and judge nothing yet."""
        gateways = list(gateway_queries.gateways())
        return cls(
            main=TunnelForm(initial=main),
            ends={side: EndForm(gateways, initial=ends[side], prefix=side) for side in SIDES},
            peers=PeersForm(initial=peers, prefix="peers"),
            pairs=[SelectorForm(initial=pair, prefix=f"selectors-{index}") for index, pair in enumerate(pairs)],
            auto=dict(auto or {}),
        )

    @classmethod
    def of(cls, data: TunnelInput, *, copy: bool = False) -> TunnelForms:
        """Return forms that show an existing tunnel; a copy gets another name and keys of its own."""
        main = {
            "name": f"{data.name}-copy" if copy else data.name,
            "description": data.description,
            "kind": data.kind,
            "version": data.version,
            "ike_policy": data.ike_policy.pk if data.ike_policy else None,
            "ipsec_policy": data.ipsec_policy.pk if data.ipsec_policy else None,
            "key_how": GENERATE if copy or data.psk is None else EXISTING,
            "psk": None if copy or data.psk is None else data.psk.pk,
            "enabled": data.enabled,
            "add_routes": data.add_routes,
            "force_udp_encapsulation": data.force_udp_encapsulation,
            "mtu": data.mtu,
            "attachment": data.carriage.attachment,
            "df_bit": data.carriage.df_bit,
            "copy_dscp": data.carriage.copy_dscp,
            "clamp_tcp_mss": data.carriage.clamp_tcp_mss,
            "qos_policy": data.carriage.qos_policy.pk if data.carriage.qos_policy else None,
        }
        peers = {name: getattr(data.peers, name) for name in ("identity_type", "identity_value", "most_peers")}
        ends = {"end_a": EndForm.initial_of(data.end_a), "end_b": EndForm.initial_of(data.end_b)}
        selectors = [_fresh(pair) if copy else pair for pair in data.selectors]
        return cls.showing(main, ends, [SelectorForm.initial_of(pair) for pair in selectors], peers=peers)

    @property
    def names(self) -> tuple[str, str]:
        """What to call the ends: their gateways, or A and B before they are chosen."""
        end_a, end_b = (self.ends[side].chosen for side in SIDES)
        return end_a.name if end_a else "A", end_b.name if end_b else "B"

    @property
    def most_manual(self) -> int:
        """How many pairs may have manual SAs."""
        return MOST_MANUAL

    @property
    def manual(self) -> bool:
        """Whether the keys are written down."""
        return self.main.chosen_kind == TunnelKindChoice.MANUAL

    @property
    def on_demand(self) -> bool:
        """Whether the peers come from anywhere."""
        return self.main.chosen_kind == TunnelKindChoice.ON_DEMAND

    @property
    def carries(self) -> bool:
        """Whether something of the carriage is to be seen."""
        return self.main.carries or any(end.carries for end in self.used_ends.values())

    @property
    def used_ends(self) -> dict[str, EndForm]:
        """The ends that the chosen kind has."""
        return {side: end for side, end in self.ends.items() if side == "end_a" or not self.on_demand}

    @property
    def given_pairs(self) -> list[SelectorForm]:
        """The pairs that are not blank."""
        return [pair for pair in self.pairs if not pair.blank]

    def by_prefix(self) -> dict[str, forms.BaseForm]:
        """Return the forms under the services' names."""
        found: dict[str, forms.BaseForm] = {**self.used_ends, "peers": self.peers}
        for index, pair in enumerate(self.given_pairs):
            found[f"selectors.{index}"] = pair
            found[f"selectors.{index}.manual"] = pair.manual.shared
            found |= {f"selectors.{index}.{direction}": form for direction, form in pair.manual.sas.items()}
        return found

    def everything(self) -> list[forms.BaseForm]:
        """Return all forms that count, in the page's order."""
        found: list[forms.BaseForm] = [self.main, *self.used_ends.values()]
        if self.on_demand:
            found.append(self.peers)
        for pair in self.pairs:
            found.append(pair)
            if self.manual and not pair.blank:
                found += pair.manual.everything()
        return found

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
            end_b=NO_END if self.on_demand else self.ends["end_b"].to_input(),
            selectors=[pair.to_input(with_manual=self.manual) for pair in self.given_pairs],
            ike_policy=values["ike_policy"],
            ipsec_policy=values["ipsec_policy"],
            psk=psk,
            version=values["version"] or IkeVersionChoice.V2,
            enabled=values["enabled"],
            mtu=values["mtu"],
            force_udp_encapsulation=values["force_udp_encapsulation"],
            add_routes=values["add_routes"],
            kind=self.main.chosen_kind,
            peers=self.peers.to_input() if self.on_demand else PeersInput(),
            carriage=CarriageInput(
                attachment=values["attachment"] or AttachmentChoice.SHARED,
                df_bit=values["df_bit"] or DfBitChoice.PROPAGATE,
                copy_dscp=values["copy_dscp"],
                clamp_tcp_mss=values["clamp_tcp_mss"],
                qos_policy=values["qos_policy"],
            ),
        )


def _fresh(pair: SelectorInput) -> SelectorInput:
    """Return a pair with manual SAs of its own, where it has any."""
    return dataclasses.replace(pair, manual=pair.manual.fresh()) if pair.manual else pair


def pair_count(data: Mapping[str, Any]) -> int:
    """Return how many pairs a submission holds."""
    text = str(data.get("pairs", "1"))
    return min(MOST_PAIRS, int(text)) if text.isdecimal() and len(text) < 4 else 1
