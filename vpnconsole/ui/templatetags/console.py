"""Tags and filters of the console's pages: icons, states, figures, ages, form fields, sort links."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django import forms, template
from django.forms.boundfield import BoundField
from django.template.context import Context
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from agents.contract.status import IkeSaStatus
from vpnconsole.ui import words

register = template.Library()

register.filter("octets", words.octets)
register.filter("bits", words.bits)
register.filter("count", words.count)
register.filter("span", words.span)
register.filter("proof", words.proof)
register.filter("lapse", words.lapse)
register.filter("classes", words.classes)
register.filter("rate", words.rate)
register.filter("refused", words.refused)
register.filter("cause", words.cause)


@register.filter
def version(sa: IkeSaStatus) -> str:
    """IKE version and mode of an IKE SA."""
    return words.ike_version(sa.version, sa.exchange_mode)


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """One symbol of the sprite; hidden from screen readers unless ``label`` names it."""
    href = f"{static('vendor/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="icon" role="img" aria-label="{}"><use href="{}"></use></svg>', label, href)
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"></use></svg>', href)


@register.simple_tag
def state(slug: str, word: str = "") -> SafeString:
    """A state as colour, icon and word; ``word`` replaces the usual one, as in ``partly up (3 of 5)``."""
    look = words.look(slug)
    return format_html(
        '<span class="state {}" data-state="{}">{}{}</span>', look.tone, slug, icon(look.icon), word or look.word
    )


@register.filter
def tone(slug: str) -> str:
    """The tone of a state, for what is drawn around it."""
    return words.look(slug).tone


@register.filter
def moment(value: float | None) -> datetime | None:
    """Unix seconds as the agents report them -> a time in UTC."""
    try:
        return None if value is None else datetime.fromtimestamp(value, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return None  # no time on any calendar: nothing to show, and no reason to lose the page


@register.simple_tag
def ago(value: datetime | None, never: str = "never", live: bool = False) -> SafeString:
    """A relative time with the exact one on hover; ``live`` marks the age of a reading, which turns amber when old."""
    if value is None:
        return format_html("<span>{}</span>", never)
    return format_html(
        '<time datetime="{}" title="{} UTC" data-ago="{}"{}>{}</time>',
        value.isoformat(),
        value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        f"{value.timestamp():.3f}",
        SafeString(' class="age" data-live') if live else "",
        words.age(value, timezone.now()),
    )


@register.filter
def details(values: Mapping[str, object]) -> str:
    """The details of a record of the audit trail in one line; what is empty is left out."""
    parts = []
    for name, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text:
            parts.append(f"{name.replace('_', ' ')}: {text}")
    return "; ".join(parts)


@register.simple_tag
def until(value: datetime | float | None) -> str:
    """How long until a time to come: ``in 12 min 3 s``; ``now`` when it has passed."""
    if value is None:
        return words.NOTHING
    when = value if isinstance(value, datetime) else moment(value)
    if when is None:
        return words.NOTHING
    seconds = (when - timezone.now()).total_seconds()
    return f"in {words.span(seconds)}" if seconds > 0 else "now"


@register.simple_tag
def copyable(text: object) -> SafeString:
    """An address, SPI or prefix in the monospace face with a button that copies it."""
    if text in (None, ""):
        return format_html("<span>{}</span>", words.NOTHING)
    return format_html(
        '<span class="nowrap"><code>{0}</code><button type="button" class="copy" data-copy="{0}" aria-label="Copy {0}">'
        "{1}</button></span>",
        text,
        icon("copy"),
    )


def _attrs(bound: BoundField) -> dict[str, Any]:
    widget = bound.field.widget
    described = []
    if bound.help_text:
        described.append(f"{bound.auto_id}_helptext")
    if bound.errors:
        described.append(f"{bound.auto_id}_error")
    attrs: dict[str, Any] = {"aria-describedby": " ".join(described)} if described else {}
    if isinstance(widget, forms.CheckboxInput | forms.RadioSelect):
        style = "form-check-input"
    elif isinstance(widget, forms.Select):
        style = "form-select"
    else:
        style = "form-control"
    own = widget.attrs.get("class", "")
    attrs["class"] = " ".join(part for part in (style, own, "is-invalid" if bound.errors else "") if part)
    if bound.errors:
        attrs["aria-invalid"] = "true"
    return attrs


@register.inclusion_tag("ui/parts/field.html")
def field(bound: BoundField, wide: bool = False) -> dict[str, Any]:
    """A label, its input, what it means and what is wrong with it, tied together for screen readers."""
    widget = bound.field.widget
    kind = "text"
    if isinstance(widget, forms.CheckboxInput):
        kind = "check"
    elif isinstance(widget, forms.RadioSelect):
        kind = "group"
    attrs = _attrs(bound)
    # A form whose rules are all the service's names what may stay empty; elsewhere the field knows.
    optional = getattr(bound.form, "optional", None)
    return {
        "bound": bound,
        "optional": bound.name in optional if optional is not None else not bound.field.required,
        "kind": kind,
        "wide": wide,
        "input": bound.as_widget(attrs=attrs),
    }


@register.inclusion_tag("ui/parts/errors.html")
def error_summary(*parts: Any) -> dict[str, Any]:
    """What is wrong in all of the forms, on top, each leading to its field."""
    entries: list[dict[str, str]] = []
    for part in parts:
        for form in part if isinstance(part, list) else [part]:
            entries.extend({"target": "", "label": "", "text": str(text)} for text in form.non_field_errors())
            entries.extend(
                {"target": bound.auto_id, "label": str(bound.label), "text": str(text)}
                for bound in form
                for text in bound.errors
            )
    return {"entries": entries}


@register.inclusion_tag("ui/parts/sort.html", takes_context=True)
def sort(context: Context, key: str, label: str) -> dict[str, Any]:
    """A column head that sorts on the server; the address bar keeps the choice."""
    listing = context["listing"]
    active = listing.sort == key
    parameters = context["request"].GET.copy()
    parameters["sort"] = key if not active or listing.descending else f"-{key}"
    parameters.pop("page", None)
    return {"label": label, "active": active, "descending": listing.descending, "href": f"?{parameters.urlencode()}"}


@register.inclusion_tag("ui/parts/sparkline.html")
def sparkline(points: list[tuple[float, float | None, float | None]], label: str) -> dict[str, Any]:
    """Two lines, in and out, drawn on the server from (time, in, out); ``label`` says in words what they show."""
    usable = [(at, came or 0.0, went or 0.0) for at, came, went in points]
    if len(usable) < 2:
        return {"empty": True}
    first, last = usable[0][0], usable[-1][0]
    highest = max(1.0, *(max(came, went) for _, came, went in usable))

    def line(index: int) -> str:
        return " ".join(
            f"{100 * (row[0] - first) / max(last - first, 1e-9):.2f},{29 - 28 * row[index] / highest:.2f}"
            for row in usable
        )

    return {"empty": False, "label": label, "into": line(1), "out": line(2)}
