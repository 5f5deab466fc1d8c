"""strongSwan behaving as the peers that the console has profiles for: what each accepts, and nothing else.

Sources are the manuals the profiles of ``vpnconsole/gateways/profiles.py`` name. Where one gives no algorithms (OmniPCX
Office says "mandatory"), they are those every IKEv1 implementation has to know: RFC 2409 section 4, RFC 2407 section
4.4.4. All of them speak IKEv1 here, with a pre-shared key and addresses as identities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.lab.vici import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerProfile:
    """One make of peer; proposals in strongSwan's words, lifetimes in seconds.

    ``dpd_delay_s`` 0 sends no liveness checks. ``key_by_remote`` keeps the pre-shared key under the other end's
    identity alone, as AIX does.
    """

    slug: str
    label: str
    ike: tuple[str, ...]
    esp: tuple[str, ...]
    ike_lifetime_s: int
    ipsec_lifetime_s: int
    aggressive: bool = False
    dpd_delay_s: int = 0
    key_by_remote: bool = False

    def connection(self) -> Message:
        """Return what the profile says of a connection, as ``load-conn`` takes it."""
        return {
            "version": "1",
            "aggressive": "yes" if self.aggressive else "no",
            "proposals": list(self.ike),
            "reauth_time": f"{self.ike_lifetime_s}s",
            "rekey_time": "0s",
            "dpd_delay": f"{self.dpd_delay_s}s",
            "dpd_timeout": f"{5 * self.dpd_delay_s}s",
            "mobike": "no",
        }

    def child(self) -> Message:
        """Return what it says of each child."""
        return {"esp_proposals": list(self.esp), "life_time": f"{self.ipsec_lifetime_s}s", "mode": "tunnel"}

    def owners(self, local: str, remote: str) -> list[str]:
        """Return whose key a pre-shared key between these two identities is."""
        return [remote] if self.key_by_remote else [local, remote]


OMNIPCX = PeerProfile(
    slug="omnipcx-office",
    label="OmniPCX Office",
    ike=("3des-sha1-modp1024", "3des-md5-modp1024", "des-sha1-modp768", "des-md5-modp768"),
    esp=("3des-sha1", "3des-md5", "des-sha1", "des-md5"),
    ike_lifetime_s=86_400,
    ipsec_lifetime_s=3_600,
)
"""Main Mode only, everything but addresses, networks and key fixed."""

AIX = PeerProfile(
    slug="aix",
    label="AIX",
    ike=("aes128-sha1-modp1024", "3des-sha1-modp1024"),
    esp=("aes128-sha1", "3des-sha1"),
    ike_lifetime_s=28_800,
    ipsec_lifetime_s=3_600,
    dpd_delay_s=30,
    key_by_remote=True,
)
"""One pre-shared key per remote identity."""

SMARTEDGE = PeerProfile(
    slug="smartedge",
    label="SmartEdge",
    ike=("aes128-sha1-modp768",),
    esp=("aes128-sha1",),
    ike_lifetime_s=86_400,
    ipsec_lifetime_s=86_400,
)
"""Its defaults, liveness checks off."""

PROFILES: Mapping[str, PeerProfile] = {each.slug: each for each in (OMNIPCX, AIX, SMARTEDGE)}


def swanctl_conf(section: Message, depth: int = 0) -> str:
    """Return a message as the text of ``swanctl.conf``: the same tree in the daemon's file format."""
    indent, lines = "  " * depth, []
    for name, value in section.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name} {{\n{swanctl_conf(dict(value), depth + 1)}{indent}}}\n")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{name} = {text}\n")
    return "".join(lines)
