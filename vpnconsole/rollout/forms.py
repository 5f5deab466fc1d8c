"""The Deploy form: which gateways, and a note for the history."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django import forms

from vpnconsole.rollout.services import GatewayPreview


class DeployForm(forms.Form):
    """What to deploy; the gateways offered are those of the preview that can be compiled."""

    gateways = forms.TypedMultipleChoiceField(
        coerce=UUID,
        error_messages={"required": "Choose at least one gateway to deploy to."},
    )
    note = forms.CharField(
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "Why, for the history", "autocomplete": "off"}),
    )

    def __init__(self, previews: Sequence[GatewayPreview], data: object = None) -> None:
        super().__init__(data)  # type: ignore[arg-type]  # a QueryDict or None
        field = self.fields["gateways"]
        assert isinstance(field, forms.TypedMultipleChoiceField)
        field.choices = [(str(row.gateway_id), row.gateway_name) for row in previews if not row.error]
