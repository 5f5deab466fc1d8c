"""The gateway form. Addresses and networks are lines of text, so that a list can be pasted."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from vpnconsole.gateways import profiles
from vpnconsole.gateways.choices import DataPlaneChoice, GatewayKind
from vpnconsole.gateways.models import Gateway, GatewayAddress
from vpnconsole.gateways.services import PLAIN_FIELDS, AddressInput, ContextInput, GatewayInput, identity_text
from vpnconsole.lib.forms import place_errors

_ADDRESS_LINE = re.compile(r"(?P<address>\S*)\s*(?:\[(?P<identity>[^\]]*)\])?\s*(?P<label>.*)")
_CONTEXT_LINE = re.compile(r"(?P<name>\S+)\s+(?P<table>\d{1,10})")
_LISTS = {"addresses": "address", "protected_networks": "prefix", "contexts": "name"}


class GatewayForm(forms.Form):
    """A gateway as an operator describes it."""

    name = forms.CharField(
        max_length=63,
        help_text="Lowercase letters, digits, dots and dashes, for instance paris or fw1.lyon.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    kind = forms.ChoiceField(
        label="Who runs it",
        choices=[
            (GatewayKind.MANAGED, "We do: our agent configures it"),
            (GatewayKind.EXTRANET, "Somebody else: only addresses and identities are known here"),
        ],
        widget=forms.RadioSelect,
        initial=GatewayKind.MANAGED,
    )
    description = forms.CharField(max_length=255, required=False)
    addresses = forms.CharField(
        label="Outer addresses",
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono", "spellcheck": "false"}),
        help_text=(
            "One per line; tunnels end on these. In brackets the IKE identity shown from it, if it is not the address "
            "itself; a label may follow: 203.0.113.1 [gw.example.net] uplink."
        ),
    )
    protected_networks = forms.CharField(
        label="Protected networks",
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "mono", "spellcheck": "false"}),
        help_text="One per line, like 10.1.0.0/24: what lies behind it. New tunnels are offered these.",
    )
    agent_host = forms.CharField(
        label="Agent's address",
        max_length=255,
        required=False,
        help_text="Where the console reaches the agent. Left empty, enrolment fills in where it came from.",
    )
    agent_port = forms.IntegerField(label="Agent's port", min_value=1, max_value=65_535, initial=8470)
    data_plane = forms.ChoiceField(
        label="Data plane",
        choices=DataPlaneChoice.choices,
        initial=DataPlaneChoice.AUTO,
        help_text="Automatic tries the kernel first, then userspace, and says which it took and why.",
    )
    allow_legacy = forms.BooleanField(
        label="Allow legacy algorithms",
        required=False,
        help_text="DES, 3DES, MD5 and small groups, for peers that know nothing else. Policies that name them are "
        "refused otherwise.",
    )

    packet_filter = forms.BooleanField(
        label="Packet filter",
        required=False,
        help_text="Takes IKE, ESP and AH from the peers of its tunnels only, and drops packets in clear text that "
        "should have come or left through one, also while it is down. Other tables of the gateway's filter are not "
        "touched.",
    )
    contexts = forms.CharField(
        label="Routing contexts",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "class": "mono", "spellcheck": "false"}),
        help_text="One per line: a name and the number of its routing table, like blue 100. The main table is called "
        "local and always there. Tunnels choose one for their routes.",
    )

    profile = forms.ChoiceField(
        label="Make",
        required=False,
        choices=profiles.CHOICES,
        initial=profiles.GENERIC,
        help_text="What is known to be fixed at such a peer is then kept to by its tunnels, and said where it matters.",
    )

    @classmethod
    def initial_of(cls, gateway: Gateway) -> dict[str, Any]:
        """Return what the form shows of an existing gateway."""
        values: dict[str, Any] = {name: getattr(gateway, name) for name in PLAIN_FIELDS}
        values["contexts"] = "\n".join(f"{row.name} {row.table}" for row in gateway.contexts.all())
        values["addresses"] = "\n".join(_address_line(row) for row in gateway.addresses.all())
        values["protected_networks"] = "\n".join(row.prefix for row in gateway.protected_networks.all())
        return values

    def to_input(self) -> GatewayInput:
        """Return what the services take; only for a valid form."""
        values = self.cleaned_data
        addresses = [_address_input(line) for line in _lines(values["addresses"])]
        managed = values["kind"] == GatewayKind.MANAGED
        return GatewayInput(
            name=values["name"],
            kind=values["kind"],
            description=values["description"],
            agent_host=values["agent_host"],
            agent_port=values["agent_port"],
            data_plane=values["data_plane"],
            allow_legacy=values["allow_legacy"],
            # What the page hides for a kind of gateway is not its operator's mistake.
            packet_filter=managed and values["packet_filter"],
            profile=profiles.GENERIC if managed else values["profile"] or profiles.GENERIC,
            addresses=addresses,
            protected_networks=_lines(values["protected_networks"]),
            contexts=[_context_input(line) for line in _lines(values["contexts"])] if managed else (),
        )

    @property
    def makes(self) -> list[profiles.Profile]:
        """The makes of which something is known, for the page to say it."""
        return [row for row in profiles.PROFILES.values() if row.fixed]

    def place(self, error: ValidationError) -> None:
        """Put what the service refused beside its field, with the line it stands on."""
        if not hasattr(error, "error_dict"):
            place_errors(error, self)
            return
        for name, messages in error.message_dict.items():
            head, _, rest = name.partition(".")
            if head in _LISTS:
                index = rest.partition(".")[0]
                where = f"Line {int(index) + 1}: " if index.isdecimal() else ""
                for message in messages:
                    self.add_error(head, f"{where}{message}")
            else:
                place_errors(ValidationError({name: messages}), self)


def _address_line(row: GatewayAddress) -> str:
    identity = f"[{identity_text(row)}]" if row.identity_value else ""
    return " ".join(part for part in (row.address, identity, row.label) if part)


def _address_input(line: str) -> AddressInput:
    found = _ADDRESS_LINE.fullmatch(line)
    assert found is not None, "every part of a line is optional"
    return AddressInput(address=found["address"], identity=found["identity"] or "", label=found["label"])


def _context_input(line: str) -> ContextInput:
    found = _CONTEXT_LINE.fullmatch(line)
    return ContextInput(name=found["name"], table=int(found["table"])) if found else ContextInput(name=line, table=None)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
