"""Ask the kernel what it can do by doing it: one SA per algorithm, protocol and mode, installed and removed at once.

The SPI is random, the addresses are for documentation (RFC 5737), no policy refers to the SA, and it ends by itself
after a second should this process die in between: nothing stays behind.
"""

from __future__ import annotations

import dataclasses
import errno
import secrets

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    AuthenticationHeader,
    DataplaneError,
    Direction,
    Features,
    Limits,
    SaProtocol,
    SaSpec,
)
from agents.dataplane.kernel import bundles, messages
from agents.dataplane.kernel.channel import CREATE, Requests
from agents.dataplane.kernel.suites import ENCRYPTION_NAMES, INTEGRITY_NAMES
from agents.dataplane.kernel.tables import remove_state

DRIVER = "kernel"
_INTEGRITY_FOR_CIPHERS = "hmac-sha2-256-128"
_CIPHER_FOR_INTEGRITIES = "aes-128-cbc"
_ATTEMPTS = 3
"""How many random SPIs are tried before one that is taken counts as a failure."""

_BARE = SaSpec(
    tunnel_id="",
    direction=Direction.OUT,
    spi=0,
    source="192.0.2.1",
    destination="192.0.2.2",
    reqid=REQID_BASE + 0xFFFF,
    limits=Limits(hard_s=1),
)


async def probe() -> Features:
    """Return what works here; not available when no cipher does, with the kernel's reason."""
    try:
        requests = Requests()
    except DataplaneError as error:
        return Features(driver=DRIVER, available=False, reason=f"the kernel has no XFRM interface: {error.reason}")
    try:
        await requests.bind()
        return await _probe(requests)
    except DataplaneError as error:
        return Features(driver=DRIVER, available=False, reason=f"the kernel's XFRM does not answer: {error.reason}")
    finally:
        requests.close()


async def _probe(requests: Requests) -> Features:
    refusals: dict[str, str] = {}
    for encryption in ENCRYPTION_NAMES:
        refusal = await _refusal(requests, _esp(encryption))
        if refusal is not None and refusal.errno == errno.EPROTONOSUPPORT:  # no ESP at all: no other cipher helps
            return Features(driver=DRIVER, available=False, reason=f"the kernel refuses ESP SAs: {refusal.reason}")
        refusals[encryption] = "" if refusal is None else refusal.reason
    encryptions = frozenset(slug for slug in ENCRYPTION_NAMES if not refusals[slug])
    for integrity in INTEGRITY_NAMES:
        refusal = await _refusal(requests, _esp(_CIPHER_FOR_INTEGRITIES, integrity))
        refusals[integrity] = "" if refusal is None else refusal.reason
    integrities = frozenset(slug for slug in INTEGRITY_NAMES if not refusals[slug])
    if not encryptions:
        first = next(iter(ENCRYPTION_NAMES))
        return Features(driver=DRIVER, available=False, reason=f"the kernel refuses ESP SAs: {refusals[first]}")
    kinds = await _probe_kinds(requests, next(slug for slug in ENCRYPTION_NAMES if slug in encryptions))
    missing = [slug for slug, refusal_text in refusals.items() if refusal_text]
    missing += [kind for kind, works in kinds.items() if not works]
    return Features(
        driver=DRIVER,
        available=True,
        reason="the kernel accepts ESP SAs" + (f", but not with {', '.join(missing)}" if missing else ""),
        encryptions=encryptions,
        integrities=integrities,
        modes=frozenset(Mode) if kinds["transport mode"] else frozenset({Mode.TUNNEL}),
        protocols=frozenset(SaProtocol) if kinds["AH"] else frozenset({SaProtocol.ESP}),
        extended_sequence_numbers=kinds["extended sequence numbers"],
        compression=kinds["IPComp"],
    )


async def _probe_kinds(requests: Requests, encryption: str) -> dict[str, bool]:
    """Try what is not an algorithm, with a cipher that works. IPComp goes in transport mode, which leaves nothing."""
    esp = _esp(encryption)
    transport = dataclasses.replace(esp, mode=Mode.TRANSPORT)
    kinds = {
        "transport mode": transport,
        "extended sequence numbers": dataclasses.replace(esp, extended_sequence_numbers=True),
        "IPComp": dataclasses.replace(transport, compression_cpi=0x100 + secrets.randbelow(0xEF00)),
    }
    works = {kind: await _refusal(requests, spec) is None for kind, spec in kinds.items()}
    works["AH"] = False
    for integrity in INTEGRITY_NAMES:
        if await _refusal(requests, _ah(integrity)) is None:
            works["AH"] = True
            break
    return works


async def _refusal(requests: Requests, spec: SaSpec) -> DataplaneError | None:
    """Install and remove an SA under a random SPI; returns the kernel's refusal, None when it worked."""
    for _ in range(_ATTEMPTS):
        refusal = await _try(requests, _renamed(spec))
        if refusal is None or refusal.errno != errno.EEXIST:
            return refusal
    return DataplaneError("features", "SPI", errno.EEXIST, "every SPI tried was taken")


async def _try(requests: Requests, spec: SaSpec) -> DataplaneError | None:
    done = []
    try:
        for state in bundles.states(spec):
            await requests.send("features", str(state.id), state.message, messages.NEWSA, CREATE)
            done.append(state.id)
    except DataplaneError as error:
        return error
    finally:
        for name in reversed(done):
            await remove_state(requests, name)
    return None


def _renamed(spec: SaSpec) -> SaSpec:
    spi = 0x100 + secrets.randbelow(0xFFFF_FF00)
    return dataclasses.replace(spec, spi=spi, ah=None if spec.ah is None else dataclasses.replace(spec.ah, spi=spi))


def _esp(encryption: str, integrity: str = _INTEGRITY_FOR_CIPHERS) -> SaSpec:
    cipher = algorithms.ENCRYPTION[encryption]
    key = Secret(secrets.token_bytes(cipher.keymat_octets))
    if cipher.aead:
        return dataclasses.replace(_BARE, encryption=encryption, encryption_key=key)
    return dataclasses.replace(
        _BARE, encryption=encryption, encryption_key=key, integrity=integrity, integrity_key=_integrity_key(integrity)
    )


def _ah(integrity: str) -> SaSpec:
    header = AuthenticationHeader(spi=0, integrity=integrity, key=_integrity_key(integrity))
    return dataclasses.replace(_BARE, ah=header)


def _integrity_key(integrity: str) -> Secret:
    return Secret(secrets.token_bytes(algorithms.INTEGRITY[integrity].key_octets))
