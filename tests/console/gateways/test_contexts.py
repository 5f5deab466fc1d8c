"""Routing contexts and the packet filter of a gateway, from the form to the rows."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, ContextInput, GatewayInput, create_gateway, update_gateway

pytestmark = pytest.mark.django_db


def data(*contexts: ContextInput, kind: str = "managed") -> GatewayInput:
    return GatewayInput(
        name="nice", kind=kind, addresses=[AddressInput(address="203.0.113.70")], contexts=contexts, packet_filter=True
    )


@pytest.mark.parametrize(
    ("contexts", "field", "words"),
    [
        ([ContextInput(name="Blue", table=100)], "contexts.0.name", "lowercase"),
        ([ContextInput(name="local", table=100)], "contexts.0.name", "main table"),
        ([ContextInput(name="blue", table=0)], "contexts.0.table", "between 1 and"),
        ([ContextInput(name="blue", table=254)], "contexts.0.table", "kernel's own tables"),
        ([ContextInput(name="blue", table=None)], "contexts.0.table", "like blue 100"),
        ([ContextInput(name="a", table=100), ContextInput(name="a", table=101)], "contexts.1.name", "twice"),
        ([ContextInput(name="a", table=100), ContextInput(name="b", table=100)], "contexts.1.table", "twice"),
    ],
)
def test_an_impossible_context_is_refused_beside_it(contexts: list[ContextInput], field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        create_gateway(None, data(*contexts))
    assert list(caught.value.message_dict) == [field]
    assert words in caught.value.message_dict[field][0]


def test_contexts_are_those_of_a_gateway_we_run() -> None:
    with pytest.raises(ValidationError, match="a gateway we run"):
        create_gateway(None, data(ContextInput(name="blue", table=100), kind="extranet"))


def test_contexts_come_go_and_keep_their_rows() -> None:
    gateway = create_gateway(None, data(ContextInput(name="blue", table=100), ContextInput(name="red", table=101)))
    rows = dict(gateway.contexts.values_list("name", "pk"))
    update_gateway(None, gateway, data(ContextInput(name="green", table=100), ContextInput(name="red", table=102)))
    assert dict(gateway.contexts.values_list("name", "table")) == {"green": 100, "red": 102}
    assert gateway.contexts.get(name="red").pk == rows["red"]
    event = AuditEvent.objects.first()
    assert event is not None
    assert event.details == {"fields": ["contexts"]}


def test_the_form_reads_and_shows_them(client: Client, alice: User, paris: Gateway) -> None:
    client.force_login(alice)
    url = reverse("gateways:edit", args=[paris.pk])
    values = {
        "name": "paris", "kind": "managed", "addresses": cast.PARIS_ADDRESS, "agent_port": "8470", "data_plane": "auto",
        "contexts": "blue 100\n\nred 101\n", "packet_filter": "on",
    }  # fmt: skip
    assert client.post(url, values).status_code == 302
    paris.refresh_from_db()
    assert (paris.packet_filter, list(paris.contexts.values_list("name", flat=True))) == (True, ["blue", "red"])
    form = client.get(url).context["form"]
    assert (form["contexts"].value(), form["packet_filter"].value()) == ("blue 100\nred 101", True)
    response = client.post(url, {**values, "contexts": "blue one"})
    assert response.status_code == 422
    assert response.context["form"].errors["contexts"] == [
        "Line 1: Write a name and the number of its table, like blue 100."
    ]
