"""What is known of extranet peers by their make: what is fixed there, in words, and which parameters go with it.

A table and nothing else: the rules that use it are in ``vpn.peers``, the policies made from it in ``vpn.presets``. What
the manuals do not say is left open (None) and not refused. Sources: the interoperability notes of the OmniPCX Office
e-server, IBM's notes on IP Security and on the Stealth agent for AIX, and the IPsec guide of the SmartEdge routers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agents.contract.config import ExchangeMode, IkeVersion

GENERIC = "generic"
_DAY_S = 86_400
_EIGHT_HOURS_S = 28_800


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeLimits:
    """What an IKE proposal and policy may hold at the peer; ``says`` lists it for people."""

    encryption: frozenset[str]
    integrity: frozenset[str]
    prf: frozenset[str]
    groups: frozenset[str]
    lifetime_s: tuple[int, int]
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecLimits:
    """The same of an IPsec proposal and policy; None leaves a thing open."""

    encryption: frozenset[str] | None = None
    integrity: frozenset[str] | None = None
    groups: frozenset[str] | None = None
    ah: bool = True
    transport: bool = True
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSuite:
    """One IKE proposal by its slugs."""

    name: str
    encryption: str
    integrity: str
    prf: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecSuite:
    """One ESP proposal by its slugs."""

    name: str
    encryption: str
    integrity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Proposals and policies that suit the peer as it comes; ``vpn.presets`` makes rows of them."""

    about: str
    ike: tuple[IkeSuite, ...]
    ipsec: tuple[IpsecSuite, ...]
    ike_lifetime_s: int
    ipsec_lifetime_s: int
    dpd_interval_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One make of peer; ``named`` is what stands after "is" in a sentence.

    ``version`` is what a new tunnel begins with, ``versions`` what the peer speaks at all. ``fixed`` are sentences for
    the pages. ``one_key_per_address``: keys are kept there by the address of the other system, ours, so two tunnels
    to one of our addresses cannot have two keys. ``address_identities``: in Main Mode both identities are addresses.
    """

    slug: str
    label: str
    named: str = "another peer"
    fixed: tuple[str, ...] = ()
    version: IkeVersion = IkeVersion.V2
    versions: frozenset[IkeVersion] = frozenset({IkeVersion.V1, IkeVersion.V2})
    modes: frozenset[ExchangeMode] = frozenset(ExchangeMode)
    ike: IkeLimits | None = None
    ipsec: IpsecLimits | None = None
    one_key_per_address: bool = False
    address_identities: bool = False
    whole_minutes: bool = False
    answers_liveness: bool = True
    defaults: Defaults | None = None

    def speaks(self, version: IkeVersion) -> bool:
        """Whether a tunnel may have this version; "v2, else v1" is only for peers that may speak either."""
        return self.versions.issuperset(
            (IkeVersion.V1, IkeVersion.V2) if version is IkeVersion.V2_ELSE_V1 else (version,)
        )


_OMNIPCX = Profile(
    slug="omnipcx-office",
    label="OmniPCX Office",
    named="an OmniPCX Office",
    fixed=(
        "It speaks IKEv1 only.",
        "Phase 1 is Main Mode only, which it may call ID PROTECT; phase 2 is Quick Mode.",
        "Addresses, networks and the key are all that can be set there: algorithms and lifetimes are fixed by the "
        "peer, so this side has to offer what it has.",
        "It protects traffic between two networks with ESP.",
    ),
    version=IkeVersion.V1,
    versions=frozenset({IkeVersion.V1}),
    modes=frozenset({ExchangeMode.MAIN}),
    ipsec=IpsecLimits(ah=False, transport=False, says="ESP in tunnel mode"),
    defaults=Defaults(
        about="What every IKEv1 device of its time has to know (RFC 2409 section 4), the stronger first",
        ike=(
            IkeSuite(
                name="3DES-CBC SHA-1 group 2",
                encryption="3des-cbc",
                integrity="hmac-sha1-96",
                prf="prf-hmac-sha1",
                group="group-2",
            ),
            IkeSuite(
                name="3DES-CBC MD5 group 2",
                encryption="3des-cbc",
                integrity="hmac-md5-96",
                prf="prf-hmac-md5",
                group="group-2",
            ),
            IkeSuite(
                name="DES-CBC SHA-1 group 1",
                encryption="des-cbc",
                integrity="hmac-sha1-96",
                prf="prf-hmac-sha1",
                group="group-1",
            ),
            IkeSuite(
                name="DES-CBC MD5 group 1",
                encryption="des-cbc",
                integrity="hmac-md5-96",
                prf="prf-hmac-md5",
                group="group-1",
            ),
        ),
        ipsec=(
            IpsecSuite(name="3DES-CBC SHA-1", encryption="3des-cbc", integrity="hmac-sha1-96"),
            IpsecSuite(name="3DES-CBC MD5", encryption="3des-cbc", integrity="hmac-md5-96"),
            IpsecSuite(name="DES-CBC SHA-1", encryption="des-cbc", integrity="hmac-sha1-96"),
            IpsecSuite(name="DES-CBC MD5", encryption="des-cbc", integrity="hmac-md5-96"),
        ),
        ike_lifetime_s=_DAY_S,
        ipsec_lifetime_s=3_600,
        dpd_interval_s=30,
    ),
)

_AIX = Profile(
    slug="aix",
    label="AIX",
    named="an AIX host",
    fixed=(
        "isakmpd speaks IKEv1; IKEv2 needs its ikev2d besides, and both together its broker iked.",
        "A pre-shared key is kept there under the address of the other system, which is ours: a second key for the "
        'same address is refused with "PSK remote id already exists".',
        "In Main Mode with a pre-shared key both identities are IP addresses.",
        "Lifetimes are entered there in minutes.",
    ),
    version=IkeVersion.V1,
    one_key_per_address=True,
    address_identities=True,
    whole_minutes=True,
    defaults=Defaults(
        about="For AIX IP Security; 3DES for installations without the AES module",
        ike=(
            IkeSuite(
                name="AES-128-CBC SHA-1 group 2",
                encryption="aes-128-cbc",
                integrity="hmac-sha1-96",
                prf="prf-hmac-sha1",
                group="group-2",
            ),
            IkeSuite(
                name="3DES-CBC SHA-1 group 2",
                encryption="3des-cbc",
                integrity="hmac-sha1-96",
                prf="prf-hmac-sha1",
                group="group-2",
            ),
        ),
        ipsec=(
            IpsecSuite(name="AES-128-CBC SHA-1", encryption="aes-128-cbc", integrity="hmac-sha1-96"),
            IpsecSuite(name="3DES-CBC SHA-1", encryption="3des-cbc", integrity="hmac-sha1-96"),
        ),
        ike_lifetime_s=_EIGHT_HOURS_S,
        ipsec_lifetime_s=3_600,
        dpd_interval_s=30,
    ),
)

_SMARTEDGE_GROUPS = frozenset({"group-1", "group-2", "group-5", "group-14"})
_SMARTEDGE = Profile(
    slug="smartedge",
    label="SmartEdge",
    named="a SmartEdge",
    fixed=(
        "Its defaults are AES-128-CBC, SHA-1, Diffie-Hellman group 1 and a lifetime of 86,400 s; a policy there "
        "holds up to 16 proposals.",
        "It answers liveness checks only where its context has ike keepalive, which is off by default.",
        "An IKEv1 policy there takes only IKEv1 proposals, Main Mode unless told otherwise; lifetimes are 300 to "
        "99,999,999 s.",
        "With IKEv1 both ends need the same cipher, hash, group, method and lifetime; it carries tunnel mode only.",
    ),
    version=IkeVersion.V1,
    ike=IkeLimits(
        encryption=frozenset({"aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "des-cbc", "3des-cbc"}),
        integrity=frozenset({"hmac-md5-96", "hmac-sha1-96"}),
        prf=frozenset({"prf-hmac-md5", "prf-hmac-sha1", "prf-aes128-xcbc"}),
        groups=_SMARTEDGE_GROUPS,
        lifetime_s=(300, 99_999_999),
        says="AES-CBC, DES-CBC or 3DES-CBC with HMAC-MD5-96 or HMAC-SHA1-96 and group 1, 2, 5 or 14",
    ),
    ipsec=IpsecLimits(
        encryption=frozenset({"des-cbc", "3des-cbc", "aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "null"}),
        integrity=frozenset({"hmac-md5-96", "hmac-sha1-96", "aes-xcbc-96"}),
        groups=_SMARTEDGE_GROUPS,
        transport=False,
        says="AES-CBC, DES-CBC, 3DES-CBC or NULL with HMAC-MD5-96, HMAC-SHA1-96 or AES-XCBC-96, tunnel mode",
    ),
    defaults=Defaults(
        about="What a SmartEdge uses when nothing else is configured there",
        ike=(
            IkeSuite(
                name="AES-128-CBC SHA-1 group 1",
                encryption="aes-128-cbc",
                integrity="hmac-sha1-96",
                prf="prf-hmac-sha1",
                group="group-1",
            ),
        ),
        ipsec=(IpsecSuite(name="AES-128-CBC SHA-1", encryption="aes-128-cbc", integrity="hmac-sha1-96"),),
        ike_lifetime_s=_DAY_S,
        ipsec_lifetime_s=_DAY_S,
        dpd_interval_s=0,
    ),
    answers_liveness=False,
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {row.slug: row for row in (Profile(slug=GENERIC, label="Generic"), _OMNIPCX, _AIX, _SMARTEDGE)}
)
CHOICES = [(row.slug, row.label if row.slug != GENERIC else "Any other peer") for row in PROFILES.values()]


def get(slug: str) -> Profile:
    """Return a profile; what is not known (any more) is treated as any other peer."""
    return PROFILES.get(slug, PROFILES[GENERIC])
