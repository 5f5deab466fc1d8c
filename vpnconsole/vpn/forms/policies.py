"""Forms for proposals and policies. Every choice that is weak says so, and why, beside itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from django import forms

from agents.contract import algorithms
from vpnconsole.vpn.choices import (
    ADDITIONAL_CHOICES,
    ESP_ENCRYPTION_CHOICES,
    GROUP_CHOICES,
    IKE_ENCRYPTION_CHOICES,
    INTEGRITY_CHOICES,
    PRF_CHOICES,
    QUEUE_CHOICES,
    DpdActionChoice,
    ExchangeModeChoice,
    ModeChoice,
    ReauthenticationChoice,
    SequenceNumbersChoice,
    UniquePolicyChoice,
)
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, QosPolicy
from vpnconsole.vpn.policies import MOST_PROPOSALS

_LEAST_SLOTS = 4
_SPARE_SLOTS = 2


class _Algorithm(Protocol):
    @property
    def weakness(self) -> str: ...

    @property
    def legacy(self) -> bool: ...


def marked(choices: Iterable[tuple[str, str]], table: Mapping[str, _Algorithm]) -> list[tuple[str, Any]]:
    """Say beside each choice why it is weak, and put what gateways must allow first into a group of its own."""

    def mark(slug: str, label: str) -> tuple[str, str]:
        return slug, f"{label} (weak: {table[slug].weakness})" if table[slug].weakness else label

    rows = list(choices)
    modern = [mark(slug, label) for slug, label in rows if not table[slug].legacy]
    legacy = [mark(slug, label) for slug, label in rows if table[slug].legacy]
    return [*modern, ("Legacy: only where the gateway allows it", legacy)] if legacy else modern


def _none_or(value: str) -> str | None:
    return value or None


class _SuiteForm(forms.Form):
    optional = ("description",)
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=255, required=False)
    encryption: forms.Field
    integrity = forms.TypedChoiceField(
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[("", "none: the cipher protects integrity itself"), *marked(INTEGRITY_CHOICES, algorithms.INTEGRITY)],
        help_text="Needed with CBC and CTR; GCM, CCM and ChaCha20-Poly1305 bring their own.",
    )
    field_order = ("name", "description", "encryption", "integrity")


class IKEProposalForm(_SuiteForm):
    """One suite for the IKE SA."""

    encryption = forms.ChoiceField(
        choices=marked(IKE_ENCRYPTION_CHOICES, algorithms.ENCRYPTION), initial="aes-256-gcm-16"
    )
    prf = forms.ChoiceField(
        label="PRF", choices=marked(PRF_CHOICES, algorithms.PSEUDO_RANDOM), initial="prf-hmac-sha2-384"
    )
    group = forms.ChoiceField(
        label="Diffie-Hellman group",
        choices=[("", "choose a group"), *marked(GROUP_CHOICES, algorithms.KEY_EXCHANGE)],
        initial="group-31",
        error_messages={"required": "IKE cannot agree on keys without a Diffie-Hellman group: choose one."},
    )
    additional_key_exchange = forms.TypedChoiceField(
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[("", "none"), *marked(ADDITIONAL_CHOICES, algorithms.KEY_EXCHANGE)],
        help_text="Done beside the group (RFC 9370). ML-KEM keeps recorded traffic safe from quantum computers; the "
        "peer must know it too.",
    )

    @classmethod
    def initial_of(cls, row: IKEProposal) -> dict[str, Any]:
        """Return what the form shows of an existing proposal."""
        names = ("name", "description", "encryption", "integrity", "prf", "group", "additional_key_exchange")
        return {name: getattr(row, name) for name in names}


class IPsecProposalForm(_SuiteForm):
    """One suite of ESP, of AH, or of ESP inside AH."""

    encryption = forms.TypedChoiceField(
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[("", "none: AH only"), *marked(ESP_ENCRYPTION_CHOICES, algorithms.ENCRYPTION)],
        initial="aes-256-gcm-16",
    )
    ah_integrity = forms.TypedChoiceField(
        label="AH",
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[("", "none"), *marked(INTEGRITY_CHOICES, algorithms.INTEGRITY)],
        help_text="Authenticates outer addresses too, so it passes no NAT, and needs the kernel's data plane.",
    )

    @classmethod
    def initial_of(cls, row: IPsecProposal) -> dict[str, Any]:
        """Return what the form shows of an existing proposal."""
        names = ("name", "description", "encryption", "integrity", "ah_integrity")
        return {name: getattr(row, name) for name in names}


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
    dpd_action = forms.ChoiceField(
        label="When the peer is gone", choices=DpdActionChoice.choices, initial=DpdActionChoice.RESTART
    )
    keepalive_s = forms.IntegerField(
        label="NAT keepalive every (s)",
        initial=20,
        help_text="Behind a NAT, so that it does not forget the tunnel; 0 turns them off.",
    )
    reauth_s = forms.IntegerField(
        label="Reauthenticate every (s)",
        initial=0,
        help_text="Beyond fresh keys: both ends prove anew who they are. 0 means never. IKEv1 does so at each rekey.",
    )
    reauthentication = forms.ChoiceField(
        label="How to reauthenticate",
        choices=ReauthenticationChoice.choices,
        initial=ReauthenticationChoice.MAKE_BEFORE_BREAK,
    )
    unique = forms.ChoiceField(
        label="Second IKE SA of the same peer",
        choices=UniquePolicyChoice.choices,
        initial=UniquePolicyChoice.REPLACE,
        help_text="IKEv2 only.",
    )
    mobike = forms.BooleanField(
        label="Follow address changes (MOBIKE)",
        required=False,
        initial=True,
        help_text="The tunnel moves with the gateway's address instead of being negotiated anew. IKEv2 only.",
    )
    fragmentation = forms.BooleanField(
        label="Fragment large IKE messages",
        required=False,
        initial=True,
        help_text="So that certificates and post-quantum keys pass paths that drop IP fragments.",
    )
    exchange_mode = forms.ChoiceField(
        label="Exchange mode (IKEv1)",
        choices=ExchangeModeChoice.choices,
        initial=ExchangeModeChoice.MAIN,
        required=False,
        help_text="For IKEv1 only; IKEv2 has no modes. Main Mode hides the identities and finds a pre-shared key by "
        "the two addresses; Aggressive Mode finds it by the identity, and shows a hash made with it.",
    )
    lifetime_kilobytes = forms.IntegerField(
        label="Lifetime (kB, IKEv1)",
        initial=0,
        required=False,
        help_text="For IKEv1 only: traffic of the negotiation itself. 0 means no limit by volume.",
    )

    @classmethod
    def initial_of(cls, row: IKEPolicy) -> dict[str, Any]:
        """Return what the form shows of an existing policy."""
        names = ("name", "description", "lifetime_s", "exchange_mode", "lifetime_kilobytes", "dpd_interval_s")
        more = ("dpd_action", "keepalive_s", "reauth_s", "reauthentication", "unique", "mobike", "fragmentation")
        return {name: getattr(row, name) for name in (*names, *more)}

    def values(self) -> dict[str, Any]:
        """Return everything but the proposals, with IKEv1's fields as they are by default where they were left out."""
        values = super().values()
        values["exchange_mode"] = values["exchange_mode"] or ExchangeModeChoice.MAIN
        values["lifetime_kilobytes"] = values["lifetime_kilobytes"] or 0
        return values


class IPsecPolicyForm(_PolicyForm):
    """How child SAs are negotiated and kept."""

    pfs_group = forms.TypedChoiceField(
        label="PFS group",
        required=False,
        coerce=_none_or,
        empty_value=None,
        choices=[
            ("", "none (weak: who learns the IKE keys can read all traffic)"),
            *marked(GROUP_CHOICES, algorithms.KEY_EXCHANGE),
        ],
        initial="group-31",
    )
    lifetime_s = forms.IntegerField(
        label="Lifetime (s)", initial=3_600, help_text="Keys are renewed before this; 3600 is one hour."
    )
    lifetime_bytes = forms.IntegerField(label="Lifetime (octets)", initial=0, help_text="0 means no limit by volume.")
    lifetime_packets = forms.IntegerField(
        label="Lifetime (packets)", initial=0, help_text="0 means no limit by number."
    )
    replay_window = forms.IntegerField(
        label="Replay window (packets)", initial=64, help_text="0 turns replay protection off."
    )
    sequence_numbers = forms.ChoiceField(
        choices=SequenceNumbersChoice.choices,
        initial=SequenceNumbersChoice.NORMAL,
        help_text="64 bits (ESN) let fast links run longer between rekeys.",
    )
    mode = forms.ChoiceField(
        choices=ModeChoice.choices,
        initial=ModeChoice.TUNNEL,
        help_text="Transport mode carries only what the two gateways themselves say to each other.",
    )
    ipcomp = forms.BooleanField(
        label="Compress (IPComp)",
        required=False,
        help_text="Offered to the peer; helps slow links only. Needs the kernel's data plane.",
    )

    @classmethod
    def initial_of(cls, row: IPsecPolicy) -> dict[str, Any]:
        """Return what the form shows of an existing policy."""
        names = ("name", "description", "lifetime_s", "lifetime_bytes", "lifetime_packets", "replay_window")
        return {name: getattr(row, name) for name in (*names, "pfs_group", "sequence_numbers", "mode", "ipcomp")}


class QosPolicyForm(forms.Form):
    """How many queues, and what they let go at most."""

    optional = ("description", "rate_kbps")
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=255, required=False)
    queues = forms.TypedChoiceField(
        coerce=int,
        choices=QUEUE_CHOICES,
        initial=4,
        help_text="Strict priority: CS6 and CS7 go first (queue 0), then CS4 and CS5 (1), CS2 and CS3 (2), CS0 and CS1 "
        "last (3). Under load what has a low priority waits for as long as there is anything above it.",
    )
    rate_kbps = forms.IntegerField(
        label="Rate (kbit/s)",
        required=False,
        help_text="What each end sends through the tunnel at most; empty means no limit. Packets wait for their turn "
        "only where something holds them up: in the kernel's data plane this rate alone, in userspace also the "
        "gateway's own interface. Choose somewhat less than the path takes, since packets count as they are inside: "
        "outside each is about 60 to 80 octets longer.",
    )

    @classmethod
    def initial_of(cls, row: QosPolicy) -> dict[str, Any]:
        """Return what the form shows of an existing row."""
        return {"name": row.name, "description": row.description, "queues": row.queues, "rate_kbps": row.rate_kbps}
