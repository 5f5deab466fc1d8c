"""IKEv1 against Libreswan, with XFRM on both sides: Main and Aggressive Mode with pre-shared keys and certificates.

Libreswan 4.10 cannot be told to rekey what is IKEv1's (``whack --rekey-ipsec`` says so); where it is to rekey, its
connection has short lifetimes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

from agents.contract.config import ExchangeMode, IpsecProposal, Mode
from agents.contract.status import TunnelStatus
from deploy.lab.libreswan import PASSWORD
from tests.interop import cells_ikev1, steps, steps_ikev1
from tests.interop.cells import Net, Step
from tests.interop.cells_ikev1 import AGGRESSIVE, MAIN, MODES, esp, ike
from tests.interop.kernel import both_kernels_show, large_packets_get_smaller
from tests.interop.libreswan import Case, LibreswanLab
from tests.interop.proofs import Proof, Side, authority, pkcs12_file
from tests.interop.rig import OURS, THEIRS
from tests.interop.session import Session

AXIS = "IKEv1"
_RSA = Side(key_type="rsa-2048")
_PROOF = Proof(ours=_RSA, theirs=_RSA, expected=("ikev1-rsa", "ikev1-rsa"))
_CERTIFICATES = {
    "authby": "rsasig", "leftcert": "theirs", "leftrsasigkey": "%cert", "rightrsasigkey": "%cert",
    "leftsendcert": "always",
}  # fmt: skip
_DEFAULT, _ESP = Net(), esp()


class IkeV1Lab(LibreswanLab):
    """Libreswan with a certificate, and trusting the CA of ours."""

    def __init__(self, kind: str, settings: Mapping[str, str], number: int = 0) -> None:
        super().__init__(kind, settings, number)
        self.identities = [pkcs12_file("theirs", _RSA, "theirs", PASSWORD)]
        self.authorities = {"ours": authority("ours", _RSA), "theirs-root": authority("theirs", _RSA)}


async def we_delete_phase_1(session: Session) -> None:
    """Libreswan begins again by itself when the newest of what it began is deleted, else when told so."""
    if session.initiator:
        await steps.we_delete_the_ike_sa(session)
        return
    before = await session.status()
    await session.act("clear-ike")

    def renewed(now: TunnelStatus) -> bool:
        return session.is_whole(now) and not steps.ike_spis(now) & steps.ike_spis(before)

    with contextlib.suppress(AssertionError):
        await session.until(renewed, "begun again by itself", 3)
    if not renewed(await session.status()):
        await session.bring_up()
        await session.until(renewed, "up again after our delete")
    await session.carrying()


def cases() -> list[Case]:
    """Return every case; the quick ones are those of ``make test``."""
    hosts = Net(
        ours=(f"{OURS}/32",), theirs=(f"{THEIRS}/32",), pings=((OURS, THEIRS),), child={"mode": Mode.TRANSPORT}
    )  # fmt: skip
    gcm = {"phase2alg": "aes_gcm256"}
    rekeys = {"rekey": "yes", "salifetime": "25s", "rekeymargin": "15s", "rekeyfuzz": "0%"}
    found = []
    for mode in MODES:
        title = f"{mode.value.capitalize()} Mode"
        found += [
            _case(f"{title}, pre-shared key", mode, shown=("mode tunnel",)),
            _case(
                f"{title}, RSA certificates", mode, lines=_CERTIFICATES, proof=_PROOF,
                first=(steps.proofs_are_as_expected,),
            ),
        ]  # fmt: skip
    return [
        *found,
        _case(
            "3DES-CBC, MD5, group 5", ike=(ike("3des-cbc", "md5", "group-5"),), esp=esp("3des-cbc", "hmac-md5-96"),
            lines={"ike": "3des-md5;modp1536", "phase2alg": "3des-md5"},
        ),
        _case(
            "AES-256-CBC, SHA2-512, group 19, AES-256-GCM", ike=(ike("aes-256-cbc", "sha512", "group-19"),),
            esp=esp("aes-256-gcm-16"), lines={"ike": "aes_cbc256-sha2_512;dh19", **gcm},
        ),
        _case("PFS", pfs=("group-14",), lines={"pfs": "yes", "phase2alg": "aes_cbc128-sha2_256;dh14"}),
        _case(
            "ESP in UDP", shown=("encap type espinudp",), tunnel={"force_udp_encapsulation": True},
            lines={"encapsulation": "yes"},
        ),
        _case("transport mode", net=hosts, shown=("mode transport",), lines={"type": "transport"}),
        _case(
            "AH in tunnel mode", esp=IpsecProposal(ah_integrity="hmac-sha2-256-128"), shown=("proto ah",),
            lines={"phase2": "ah", "phase2alg": "sha2_256"},
        ),
        _case("IPComp", child={"ipcomp": True}, shown=("proto comp",), lines={"compress": "yes"}),
        _case(
            "phase 2 rekeyed by the peer before its lifetime ends", lines=rekeys,
            script=(steps_ikev1.the_peer_rekeys_in_time,),
        ),
    ]  # fmt: skip


def _case(
    name: str,
    mode: ExchangeMode = MAIN,
    *,
    net: Net = _DEFAULT,
    child: Mapping[str, Any] | None = None,
    esp: IpsecProposal = _ESP,
    shown: tuple[str, ...] = (),
    lines: Mapping[str, str] | None = None,
    first: tuple[Step, ...] = (),
    script: tuple[Step, ...] = (),
    **more: Any,
) -> Case:
    look = both_kernels_show(*shown)
    script = script or (
        look,
        *first,
        steps.we_rekey_the_child,
        steps_ikev1.we_rekey_phase_1,
        look,
        steps.they_delete_the_ike_sa,
        we_delete_phase_1,
        look,
    )
    if "proto comp" in shown:
        script = (large_packets_get_smaller, *script)
    nets = (dataclasses.replace(net, child={**net.child, **(child or {})}),)
    cell = cells_ikev1.cell(
        AXIS, name, mode, nets=nets, esp=(esp,), their_esp="-", script=script, settings=(), limit_s=120, **more
    )
    aggressive = "yes" if mode is AGGRESSIVE else "no"
    said = {
        "ikev2": "never", "aggressive": aggressive, "esn": "", "ike": "aes_cbc128-sha2_256;dh14",
        "phase2alg": "aes_cbc128-sha2_256", **(lines or {}),
    }  # fmt: skip
    return Case(cell=cell, lines=said)
