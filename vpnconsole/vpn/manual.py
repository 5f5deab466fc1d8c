"""Manual SAs: what an operator wrote down becomes rows, checked beside the field; keys come in and go out here only.

Errors are keyed ``selectors.0.manual.replay_window``, ``selectors.0.in.esp_spi``, ``selectors.0.out.encryption_key``.
What a manual SA may be is the contract's to say (``agents.contract.manual``); the words are for people.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from agents.contract import algorithms, manual
from agents.contract.errors import FieldError
from agents.contract.secret import Secret
from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn.choices import SaDirection
from vpnconsole.vpn.inputs import Keys, ManualInput, ManualSaInput, Protocol, SelectorInput
from vpnconsole.vpn.models import ManualChild, ManualSa, SelectorPair, Tunnel, TunnelEnd

MOST_CHILDREN = manual.MOST_CHILDREN
FIRST_RULE = (
    "Of an access list only the first rule counts with manual keys, so each of these SAs has one pair of networks and "
    "no more."
)
ADVICE = (
    "Keys that IKE negotiates are better: they change by themselves, replay protection works, and a key that leaks "
    "opens one hour and not years. Use manual keys only for a peer that has no IKE."
)
WINDOW_HINT = (
    "0 turns replay protection off. Nothing begins the sequence numbers of manual keys anew together at both ends: "
    "after a restart of one end the other would drop its packets as old (RFC 4303 section 3.3.3)."
)
KEY_FIELDS = ("encryption_key", "integrity_key", "ah_key")


def counter_ciphers() -> frozenset[str]:
    """Return the ciphers that count in their IV: with a key that is written down the count would begin anew."""
    return frozenset(row.slug for row in algorithms.ENCRYPTION.values() if row.salt_octets)


def key_octets(encryption: str, integrity: str, ah_integrity: str) -> dict[str, int]:
    """Return how long each key of a suite has to be, by field; 0 where there is none."""
    cipher = algorithms.ENCRYPTION.get(encryption)
    rows = {"integrity_key": algorithms.INTEGRITY.get(integrity), "ah_key": algorithms.INTEGRITY.get(ah_integrity)}
    return {
        "encryption_key": cipher.keymat_octets if cipher else 0,
        **{field: row.key_octets if row else 0 for field, row in rows.items()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The manual part of one pair: rows that are not stored yet.

    ``pair_id`` is the stored pair whose SAs these are, with whatever selectors now; None for a new one.
    """

    child: ManualChild
    sas: tuple[ManualSa, ...]
    pair_id: int | None = None

    def sa(self, direction: str) -> ManualSa | None:
        """Return the SA of a direction, or the one for both."""
        rows = {row.direction: row for row in self.sas}
        return rows.get(direction) or rows.get(SaDirection.BOTH)


def stored(tunnel: Tunnel) -> list[Draft]:
    """Return what a tunnel has, as if it were submitted once more."""
    children = [pair.manual for pair in tunnel.selectors.all()]
    return [Draft(child=child, sas=tuple(child.sas.all()), pair_id=child.pair_id) for child in children]


def build(errors: FieldErrors, tunnel: Tunnel, pairs: Sequence[SelectorInput]) -> list[Draft]:
    """Return the rows of each pair and note what is wrong with them."""
    if len(pairs) > MOST_CHILDREN:
        errors.add("selectors", f"A tunnel with manual keys has at most {MOST_CHILDREN} pairs of networks.", "count")
        return []
    rows = ManualSa.objects.filter(child__pair__tunnel=tunnel).select_related("child")
    known = {sa.pk: sa for sa in rows}
    return [_draft(errors, f"selectors.{index}", pair.manual, known) for index, pair in enumerate(pairs)]


def _draft(errors: FieldErrors, key: str, data: ManualInput | None, stored: Mapping[UUID, ManualSa]) -> Draft:
    if data is None:
        errors.add(f"{key}.manual", "Write down the SAs of this pair: nothing is negotiated.", "required")
        return Draft(child=ManualChild(), sas=())
    child = ManualChild(mode=data.mode, replay_window=data.replay_window, ipcomp=data.ipcomp)
    errors.clean(f"{key}.manual", child, without=("pair",))
    directions = [sa.direction for sa in data.sas]
    if sorted(directions) not in ([SaDirection.BOTH], [SaDirection.IN, SaDirection.OUT]):
        errors.add(f"{key}.manual", "Give one SA for both directions, or one each for in and out.", "directions")
    sas = tuple(_sa(errors, f"{key}.{each.direction}", each, data.protocol, stored) for each in data.sas)
    origins = {stored[sa.stored].child.pair_id for sa in data.sas if sa.stored is not None and sa.stored in stored}
    return Draft(child=child, sas=sas, pair_id=origins.pop() if len(origins) == 1 else None)


def _sa(
    errors: FieldErrors, key: str, data: ManualSaInput, protocol: Protocol, stored: Mapping[UUID, ManualSa]
) -> ManualSa:
    row = ManualSa(direction=data.direction)
    if protocol.esp:
        row.esp_spi = data.esp_spi if data.esp_spi is not None else _random_spi()
        row.encryption, row.integrity = data.encryption or None, data.integrity or None
    if protocol.ah:
        row.ah_spi = data.ah_spi if data.ah_spi is not None else _random_spi()
        row.ah_integrity = data.ah_integrity or None
    errors.clean(key, row, without=("child",))
    _check_suite(errors, key, row)
    if not errors.any_below(key):
        _set_keys(errors, key, row, data, stored.get(data.stored) if data.stored else None)
    if not errors.any_below(key):
        _check_as_document(errors, key, row)
    return row


def _random_spi() -> int:
    return secrets.randbelow(2**32 - 2**16) + 2**16


def _check_suite(errors: FieldErrors, key: str, row: ManualSa) -> None:
    """Say what is missing or cannot be, before anything is said of keys."""
    cipher = algorithms.ENCRYPTION.get(row.encryption or "")
    if row.esp_spi is not None and row.encryption is None and f"{key}.encryption" not in errors:
        errors.add(f"{key}.encryption", "Choose a cipher; NULL hides nothing but proves integrity.", "required")
    if cipher is not None and cipher.salt_octets:
        errors.add(
            f"{key}.encryption",
            f"{cipher.label} counts in its IV, and with a key that is written down the count begins anew with every "
            "restart: the same key and IV twice give the plain text away (RFC 3686 section 2.1, RFC 4106 section 2). "
            "Choose a CBC cipher with integrity beside it, or a tunnel with IKE.",
            "counter",
        )
    elif cipher is not None and row.integrity is None:
        errors.add(f"{key}.integrity", f"{cipher.label} needs an integrity algorithm beside it.", "required")
    if row.ah_spi is not None and row.ah_integrity is None and f"{key}.ah_integrity" not in errors:
        errors.add(f"{key}.ah_integrity", "Choose AH's algorithm.", "required")


@sensitive_variables()
def _set_keys(errors: FieldErrors, key: str, row: ManualSa, data: ManualSaInput, stored: ManualSa | None) -> None:
    lengths = key_octets(row.encryption or "", row.integrity or "", row.ah_integrity or "")
    slugs = {
        "encryption_key": algorithms.ENCRYPTION.get(row.encryption or ""),
        "integrity_key": algorithms.INTEGRITY.get(row.integrity or ""),
        "ah_key": algorithms.INTEGRITY.get(row.ah_integrity or ""),
    }
    for field, octets in lengths.items():
        algorithm = slugs[field]
        if octets == 0 or algorithm is None:
            continue
        if data.keys is Keys.GENERATE:
            setattr(row, field, Secret(secrets.token_bytes(octets)))
            continue
        kept = data.keys is Keys.KEEP
        secret = (stored.key(field) if stored else None) if kept else getattr(data, field)
        needs = f"{algorithm.label} takes a key of {octets} octets ({2 * octets} hexadecimal digits)"
        if secret is None:
            errors.add(f"{key}.{field}", f"{needs}: enter one, or let the console generate it.", "required")
        elif len(secret) != octets:
            which = "the stored one" if kept else "this one"
            errors.add(f"{key}.{field}", f"{needs}, {which} has {len(secret)}.", "length")
        else:
            setattr(row, field, secret)


@sensitive_variables()
def _check_as_document(errors: FieldErrors, key: str, row: ManualSa) -> None:
    """Ask the contract last, so that nothing is stored that no gateway would take."""
    try:
        as_document(row)
    except FieldError as error:
        errors.add(f"{key}.{error.field}", f"This {error.problem}.", "contract")


@sensitive_variables()
def as_document(row: ManualSa) -> manual.ManualSa:
    """Return a row as the document has it; raises FieldError."""
    return manual.ManualSa(
        esp_spi=row.esp_spi,
        encryption=row.encryption,
        encryption_key=row.key("encryption_key"),
        integrity=row.integrity,
        integrity_key=row.key("integrity_key"),
        ah_spi=row.ah_spi,
        ah_integrity=row.ah_integrity,
        ah_key=row.key("ah_key"),
    )


_Name = tuple[str, str, int]
"""Of an SA: the address it comes in at, protocol and SPI (RFC 4301 section 4.1)."""


def _inbound(ends: Sequence[TunnelEnd], draft: Draft | ManualChild) -> Iterable[tuple[_Name, str, str]]:
    """Yield name, direction and field of every SA by the address where it comes in; ``ends`` are A and B."""
    for end, direction in zip(ends, (SaDirection.IN, SaDirection.OUT), strict=True):
        sa = draft.sa(direction)
        for protocol, field in (("ESP", "esp_spi"), ("AH", "ah_spi")):
            spi = getattr(sa, field, None)
            if sa is not None and spi is not None:
                yield (end.address, protocol, spi), sa.direction, field


def check_spis(
    errors: FieldErrors, ends: Sequence[TunnelEnd], drafts: Sequence[Draft], others: Iterable[Tunnel]
) -> None:
    """Note an SPI that an address has already, in this tunnel or another: a packet could not tell them apart."""
    names: dict[_Name, str] = {}
    for other in others:
        if other.is_manual:
            for pair in other.selectors.all():
                for name, _direction, _field in _inbound([other.end_a, other.end_b], pair.manual):
                    names[name] = f"tunnel {other.name}"
    for index, draft in enumerate(drafts):
        for name, direction, field in _inbound(ends, draft):
            at, protocol, spi = name
            if name in names:
                errors.add(
                    f"selectors.{index}.{direction}.{field}",
                    f"{protocol} SPI 0x{spi:08x} at {at} belongs to {names[name]} already: choose another one.",
                    "clash",
                )
            else:
                names[name] = f"pair {index + 1}"


def check_compression(
    errors: FieldErrors, ends: Sequence[TunnelEnd], drafts: Sequence[Draft], others: Iterable[Tunnel]
) -> None:
    """Note a second compressing child at an address: without a negotiation all have one CPI (RFC 3173 section 3.3)."""
    taken: dict[str, str] = {}
    for other in others:
        if other.is_manual and other.enabled and any(pair.manual.ipcomp for pair in other.selectors.all()):
            taken |= {end.address: f"tunnel {other.name}" for end in other.ends.all()}
    for index, draft in enumerate(drafts):
        if not draft.child.ipcomp:
            continue
        clash = next((end.address for end in ends if end.address in taken), None)
        if clash is not None:
            errors.add(
                f"selectors.{index}.manual.ipcomp",
                f"{taken[clash]} compresses at {clash} already, and with manual keys nothing tells the compressed "
                "packets of two apart: let one of them do without.",
                "clash",
            )
        taken |= {end.address: f"Pair {index + 1}" for end in ends if end.address not in taken}


def save(pair: SelectorPair, draft: Draft) -> None:
    """Store the manual part of a pair; a direction that stays keeps its row, so that its sealed keys open there."""
    child, _made = ManualChild.objects.update_or_create(
        pair=pair,
        defaults={
            "mode": draft.child.mode,
            "replay_window": draft.child.replay_window,
            "ipcomp": draft.child.ipcomp,
        },
    )
    rows = {row.direction: row for row in child.sas.all()}
    child.sas.exclude(direction__in=[sa.direction for sa in draft.sas]).delete()
    for sa in draft.sas:
        row = rows.get(sa.direction) or ManualSa(child=child, direction=sa.direction)
        if row.pk in {each.pk for each in rows.values()} and not _differs(row, sa):
            continue
        for field in _FIELDS:
            setattr(row, field, getattr(sa, field))
        row.updated_at = timezone.now()
        row.save()


_FIELDS = ("esp_spi", "encryption", "integrity", "ah_spi", "ah_integrity", *KEY_FIELDS)


@sensitive_variables()
def _differs(row: ManualSa, sa: ManualSa) -> bool:
    return any(getattr(row, field) != getattr(sa, field) for field in _FIELDS)


def facts(tunnel: Tunnel) -> dict[str, object]:
    """Return what there is to compare about manual SAs; keys as Secrets, which show nothing."""
    children = [pair.manual for pair in tunnel.selectors.all()] if tunnel.is_manual else []
    rows = [(child, sa) for child in children for sa in child.sas.all()]
    return {
        "manual SAs": [
            (
                str(child.pair), child.mode, child.replay_window, child.ipcomp, sa.direction, sa.esp_spi, sa.encryption,
                sa.integrity, sa.ah_spi, sa.ah_integrity,
            )
            for child, sa in rows
        ],
        "manual keys": [sa.key(field) for _child, sa in rows for field in KEY_FIELDS],
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The keys of one SA as text, for the answer to one request."""

    pair: str
    direction: str
    keys: tuple[tuple[str, str], ...]


@transaction.atomic
def reveal(actor: User, tunnel: Tunnel) -> list[Shown]:
    """Return a tunnel's manual keys in hexadecimal, and record who saw them. Never kept, never logged."""
    audit.record(actor, "tunnel.manual-keys-revealed", tunnel)
    labels = {"encryption_key": "Encryption", "integrity_key": "Integrity", "ah_key": "AH"}
    shown = []
    for pair in tunnel.selectors.all():
        for sa in pair.manual.sas.all():
            found = [(label, sa.key(field)) for field, label in labels.items()]
            keys = tuple((label, secret.reveal().hex()) for label, secret in found if secret is not None)
            shown.append(Shown(pair=str(pair), direction=_way(tunnel, sa.direction), keys=keys))
    return shown


def _way(tunnel: Tunnel, direction: str) -> str:
    names = [tunnel.end_a.gateway.name, tunnel.end_b.gateway.name]
    if direction == SaDirection.BOTH:
        return "both ways"
    return " → ".join(names if direction == SaDirection.OUT else reversed(names))
