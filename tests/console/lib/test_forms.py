"""Where a service's errors land in forms."""

from __future__ import annotations

from django import forms
from django.core.exceptions import ValidationError

from vpnconsole.lib.forms import place_errors, place_errors_by_prefix


class Sample(forms.Form):
    name = forms.CharField(required=False)
    other = forms.CharField(required=False)
    aliases = {"inner": "other"}


def form() -> Sample:
    made = Sample({})
    assert made.is_valid()
    return made


def test_beside_the_field_by_alias_and_on_top() -> None:
    target = form()
    error = ValidationError({"name": "no name", "inner": "no inner", "__all__": "whole", "gone": "no such field"})
    place_errors(error, target, {"inner": "other"})
    assert target.errors["name"] == ["no name"]
    assert target.errors["other"] == ["no inner"]
    assert target.non_field_errors() == ["whole", "Gone: no such field"]


def test_plain_message_is_the_whole_forms() -> None:
    target, parts = form(), {"end_a": form()}
    place_errors_by_prefix(ValidationError("all wrong"), parts, target)
    assert target.non_field_errors() == ["all wrong"]


def test_by_prefix() -> None:
    parts = {"end_a": form(), "selectors.0": form()}
    rest = form()
    error = ValidationError(
        {
            "end_a.name": "a",
            "selectors.0.inner": "b",
            "selectors.0": "c",
            "name": "d",
            "selectors": "e",
            "end_z.name": "f",
        }
    )
    place_errors_by_prefix(error, parts, rest)
    assert parts["end_a"].errors["name"] == ["a"]
    assert parts["selectors.0"].errors["other"] == ["b"]
    assert parts["selectors.0"].non_field_errors() == ["c"]
    assert rest.errors["name"] == ["d"]
    assert rest.non_field_errors() == ["Selectors: e", "End z.name: f"]
