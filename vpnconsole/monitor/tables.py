"""How the lists are sorted and filtered, from the address bar. Rows come from the queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django import forms

from agents.contract.events import Severity
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib.forms import NamedChoiceField
from vpnconsole.monitor.choices import ConsoleState
from vpnconsole.monitor.queries import GatewayRow, TunnelRow
from vpnconsole.vpn.models import Tunnel

#: From what a person must see first to what is well.
_URGENCY = (
    ConsoleState.DOWN,
    ConsoleState.UNREACHABLE,
    ConsoleState.PARTLY_UP,
    ConsoleState.NEGOTIATING,
    ConsoleState.DEPLOYING,
    ConsoleState.NOT_DEPLOYED,
    ConsoleState.IDLE,
    ConsoleState.UP,
    ConsoleState.DISABLED,
)

TUNNEL_COLUMNS: Mapping[str, Callable[[TunnelRow], Any]] = {
    "state": lambda row: (_URGENCY.index(row.state), row.name),
    "name": lambda row: row.name,
    "a": lambda row: (row.end_a.gateway_name, row.end_a.address),
    "b": lambda row: (row.end_b.gateway_name, row.end_b.address),
    "rate": lambda row: row.rate_bps,
    "bytes": lambda row: row.a_to_b.bytes + row.b_to_a.bytes,
    "since": lambda row: row.verdict.since,
}

GATEWAY_COLUMNS: Mapping[str, Callable[[GatewayRow], Any]] = {
    "name": lambda row: row.gateway.name,
    "state": lambda row: (row.state != "unreachable", row.state, row.gateway.name),
    "contact": lambda row: row.read_at,
    "tunnels": lambda row: row.tunnels_total,
}


class TunnelFilter(forms.Form):
    """What of the tunnels is shown; an unknown value shows everything."""

    optional = ()

    q = forms.CharField(
        required=False, label="Name, gateway or address", widget=forms.TextInput(attrs={"type": "search"})
    )
    state = forms.ChoiceField(
        required=False,
        choices=[("", "every state"), ("problem", "every problem"), *ConsoleState.choices],
    )
    gateway = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = Gateway.objects.order_by("name").values_list("name", flat=True)
        field = self.fields["gateway"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "every gateway"), *((name, name) for name in names)]

    def apply(self, rows: list[TunnelRow]) -> list[TunnelRow]:
        """Return the rows that match."""
        self.is_valid()
        text = self.cleaned_data.get("q", "").lower()
        state, gateway = self.cleaned_data.get("state", ""), self.cleaned_data.get("gateway", "")
        return [
            row
            for row in rows
            if (not text or text in _searchable(row))
            and (not state or (row.verdict.problem if state == "problem" else row.state == state))
            and (not gateway or gateway in (row.end_a.gateway_name, row.end_b.gateway_name))
        ]


def _searchable(row: TunnelRow) -> str:
    parts = [row.name, row.description]
    for end in row.ends:
        parts += [end.gateway_name, end.address, end.identity_value]
    return " ".join(parts).lower()


class EventFilter(forms.Form):
    """What of the events is shown."""

    optional = ()

    tunnel = NamedChoiceField(Tunnel.objects.all(), required=False, empty_label="every tunnel")
    gateway = NamedChoiceField(Gateway.objects.all(), required=False, empty_label="every gateway")
    severity = forms.ChoiceField(
        required=False, choices=[("", "every severity"), *((each.value, each.value) for each in Severity)]
    )
    code = forms.CharField(
        required=False, label="Code", widget=forms.TextInput(attrs={"placeholder": "ike.no-proposal"})
    )
