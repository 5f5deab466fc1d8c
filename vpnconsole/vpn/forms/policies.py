"""Forms for proposals and policies. Every choice that is weak says so, and why, beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from django import forms

from agents.contract import algorithms
from vpnconsole.vpn.choices import ENCRYPTION_CHOICES, GROUP_CHOICES, INTEGRITY_CHOICES, PRF_CHOICES
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal
from vpnconsole.vpn.policies import MOST_PROPOSALS

_LEAST_SLOTS = 4
_SPARE_SLOTS = 2


class _Algorithm(Protocol):
    @property
    def weakness(self) -> str: ...


def _marked(choices: Iterable[tuple[str, str]], table: Mapping[str, _Algorithm]) -> list[tuple[str, str]]:
    return [
        (slug, f"{label} (weak: {table[slug].weakness})" if table[slug].weakness else label) for slug, label in choices
    ]


def _none_or(value: str) -> str | None:
    return value or None


class _SuiteForm(forms.Form):
    optional = ("description",)
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=255, required=False)
    encryption = forms.ChoiceField(choices=_marked(ENCRYPTION_CHOICES, algorithms.ENCRYPTION), initial="aes-256-gcm-16")
    integrity = forms.TypedChoiceField(
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[("", "none: the cipher protects integrity itself"), *_marked(INTEGRITY_CHOICES, algorithms.INTEGRITY)],
        help_text="Needed with AES-CBC; GCM and ChaCha20-Poly1305 bring their own.",
    )


class IKEProposalForm(_SuiteForm):
    """One suite for the IKE SA."""

    prf = forms.ChoiceField(
        label="PRF", choices=_marked(PRF_CHOICES, algorithms.PSEUDO_RANDOM), initial="prf-hmac-sha2-384"
    )
    group = forms.ChoiceField(
        label="Diffie-Hellman group",
        choices=[("", "choose a group"), *_marked(GROUP_CHOICES, algorithms.KEY_EXCHANGE)],
        initial="group-31",
        error_messages={"required": "IKE cannot agree on keys without a Diffie-Hellman group: choose one."},
    )

    @classmethod
    def initial_of(cls, row: IKEProposal) -> dict[str, Any]:
        """Return what the form shows of an existing proposal."""
        names = ("name", "description", "encryption", "integrity", "prf", "group")
        return {name: getattr(row, name) for name in names}


class IPsecProposalForm(_SuiteForm):
    """One suite for ESP."""

    @classmethod
    def initial_of(cls, row: IPsecProposal) -> dict[str, Any]:
        """Return what the form shows of an existing proposal."""
        return {name: getattr(row, name) for name in ("name", "description", "encryption", "integrity")}


class _PolicyForm(forms.Form):
    """A policy; its proposals are chosen one by one, the order is the preference."""

    optional = ("description",)

    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=255, required=False)

    def __init__(self, offered: Iterable[Any], chosen: Iterable[Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offered = {str(row.pk): row for row in offered}
        ids = [str(row.pk) for row in chosen]
        slots = min(MOST_PROPOSALS, max(_LEAST_SLOTS, len(ids) + _SPARE_SLOTS))
        choices = [("", "none"), *((key, row.name) for key, row in self.offered.items())]
        for slot in range(slots):
            self.fields[f"proposals_{slot}"] = forms.ChoiceField(
                label=f"Proposal {slot + 1}",
                required=False,
                choices=choices,
                initial=ids[slot] if slot < len(ids) else "",
            )
        self.slots = [f"proposals_{slot}" for slot in range(slots)]
        #: What a service says of ``proposals`` stands beside the first of them.
        self.aliases = {"proposals": "proposals_0"}

    def proposal_fields(self) -> list[forms.BoundField]:
        """Return the proposals' inputs for the page."""
        return [self[name] for name in self.slots]

    def chosen(self) -> list[Any]:
        """Return the proposals chosen, most preferred first; only for a valid form."""
        ids = [self.cleaned_data[name] for name in self.slots]
        return [self.offered[key] for key in ids if key]

    def values(self) -> dict[str, Any]:
        """Return everything but the proposals; only for a valid form."""
        return {name: value for name, value in self.cleaned_data.items() if name not in self.slots}


class IKEPolicyForm(_PolicyForm):
    """How an IKE SA is negotiated and kept."""

    lifetime_s = forms.IntegerField(
        label="Lifetime (s)", initial=86_400, help_text="The IKE SA is rekeyed before this; 86400 is one day."
    )
    dpd_interval_s = forms.IntegerField(
        label="Liveness check every (s)",
        initial=30,
        help_text="A silent peer is asked this often; 0 turns the checks off.",
    )

    @classmethod
    def initial_of(cls, row: IKEPolicy) -> dict[str, Any]:
        """Return what the form shows of an existing policy."""
        return {name: getattr(row, name) for name in ("name", "description", "lifetime_s", "dpd_interval_s")}


class IPsecPolicyForm(_PolicyForm):
    """How child SAs are negotiated and kept."""

    pfs_group = forms.TypedChoiceField(
        label="PFS group",
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[
            ("", "none (weak: who learns the IKE keys can read all traffic)"),
            *_marked(GROUP_CHOICES, algorithms.KEY_EXCHANGE),
        ],
        initial="group-31",
    )
    lifetime_s = forms.IntegerField(
        label="Lifetime (s)", initial=3_600, help_text="Keys are renewed before this; 3600 is one hour."
    )
    lifetime_bytes = forms.IntegerField(label="Lifetime (octets)", initial=0, help_text="0 means no limit by volume.")
    replay_window = forms.IntegerField(
        label="Replay window (packets)", initial=64, help_text="0 turns replay protection off."
    )

    @classmethod
    def initial_of(cls, row: IPsecPolicy) -> dict[str, Any]:
        """Return what the form shows of an existing policy."""
        names = ("name", "description", "lifetime_s", "lifetime_bytes", "replay_window", "pfs_group")
        return {name: getattr(row, name) for name in names}
