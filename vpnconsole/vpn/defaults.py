"""The proposals and policies a fresh console offers, so that the first tunnel needs no cryptographic decision.

Written once by a migration and the operator's to change from then on; takes the app registry, because a migration must
not use today's models.
"""

from __future__ import annotations

from typing import Any

IKE_PROPOSALS = (
    # name, encryption, integrity, prf, group
    ("AES-256-GCM SHA2-384 group 31", "aes-256-gcm-16", None, "prf-hmac-sha2-384", "group-31"),
    ("AES-256-GCM SHA2-384 group 19", "aes-256-gcm-16", None, "prf-hmac-sha2-384", "group-19"),
    ("ChaCha20-Poly1305 SHA2-256 group 31", "chacha20-poly1305", None, "prf-hmac-sha2-256", "group-31"),
    ("AES-256-CBC SHA2-256 group 14", "aes-256-cbc", "hmac-sha2-256-128", "prf-hmac-sha2-256", "group-14"),
)
IPSEC_PROPOSALS = (
    # name, encryption, integrity
    ("AES-256-GCM", "aes-256-gcm-16", None),
    ("ChaCha20-Poly1305", "chacha20-poly1305", None),
    ("AES-128-GCM", "aes-128-gcm-16", None),
    ("AES-256-CBC SHA2-256", "aes-256-cbc", "hmac-sha2-256-128"),
)
IKE_POLICIES = (
    ("default", "Modern suites; for gateways of ours and current peers", IKE_PROPOSALS[:3]),
    ("compatible", "For peers without AES-GCM or elliptic curves", IKE_PROPOSALS[3:]),
)
IPSEC_POLICIES = (
    ("default", "Modern suites with perfect forward secrecy", "group-19", IPSEC_PROPOSALS[:3]),
    ("compatible", "For peers without AES-GCM or elliptic curves", "group-14", IPSEC_PROPOSALS[3:]),
)


def create_defaults(apps: Any) -> None:
    """Create what is missing by name; leaves existing rows alone."""

    def model(name: str) -> Any:
        return apps.get_model("vpn", name)

    ike: dict[str, Any] = {}
    for name, encryption, integrity, prf, group in IKE_PROPOSALS:
        values = {"encryption": encryption, "integrity": integrity, "prf": prf, "group": group}
        ike[name], _ = model("IKEProposal").objects.get_or_create(name=name, defaults=values)
    ipsec: dict[str, Any] = {}
    for name, encryption, integrity in IPSEC_PROPOSALS:
        values = {"encryption": encryption, "integrity": integrity}
        ipsec[name], _ = model("IPsecProposal").objects.get_or_create(name=name, defaults=values)
    for name, description, rows in IKE_POLICIES:
        policy, made = model("IKEPolicy").objects.get_or_create(name=name, defaults={"description": description})
        for seq, row in enumerate(rows if made else (), 1):
            model("IKEPolicyProposal").objects.create(policy=policy, proposal=ike[row[0]], seq=seq)
    for name, description, pfs_group, lines in IPSEC_POLICIES:
        values = {"description": description, "pfs_group": pfs_group}
        policy, made = model("IPsecPolicy").objects.get_or_create(name=name, defaults=values)
        for seq, line in enumerate(lines if made else (), 1):
            model("IPsecPolicyProposal").objects.create(policy=policy, proposal=ipsec[line[0]], seq=seq)
