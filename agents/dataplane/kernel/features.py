"""Ask the kernel what it can do by doing it: one SA per algorithm, installed and removed at once.

The SPI is random, the addresses are for documentation (RFC 5737), no policy refers to the SA, and it ends by itself
after a second should this process die in between: nothing stays behind.
"""

from __future__ import annotations

import errno
import secrets

from agents.contract import algorithms
from agents.contract.secret import Secret
from agents.dataplane.base import REQID_BASE, DataplaneError, Direction, Features, Limits, SaSpec
from agents.dataplane.kernel import messages, rows
from agents.dataplane.kernel.channel import CREATE, Requests
from agents.dataplane.kernel.suites import ENCRYPTION_NAMES, INTEGRITY_NAMES
from agents.dataplane.kernel.tables import remove_state

DRIVER = "kernel"
_INTEGRITY_FOR_CIPHERS = "hmac-sha2-256-128"
_CIPHER_FOR_INTEGRITIES = "aes-128-cbc"
_ATTEMPTS = 3
"""How many random SPIs are tried before one that is taken counts as a failure."""


async def probe() -> Features:
    """Return the algorithms that work here; not available when none of the ciphers does, with the kernel's reason."""
    try:
        requests = Requests()
    except DataplaneError as error:
        return Features(driver=DRIVER, available=False, reason=f"the kernel has no XFRM interface: {error.reason}")
    try:
        await requests.bind()
        return await _probe_algorithms(requests)
    except DataplaneError as error:
        return Features(driver=DRIVER, available=False, reason=f"the kernel's XFRM does not answer: {error.reason}")
    finally:
        requests.close()


async def _probe_algorithms(requests: Requests) -> Features:
    refusals: dict[str, str] = {}
    for encryption in ENCRYPTION_NAMES:
        integrity = None if algorithms.ENCRYPTION[encryption].aead else _INTEGRITY_FOR_CIPHERS
        refusals[encryption] = await _try(requests, encryption, integrity)
    encryptions = frozenset(slug for slug in ENCRYPTION_NAMES if not refusals[slug])
    for integrity in INTEGRITY_NAMES:
        refusals[integrity] = await _try(requests, _CIPHER_FOR_INTEGRITIES, integrity)
    integrities = frozenset(slug for slug in INTEGRITY_NAMES if not refusals[slug])
    if not encryptions:
        first = next(iter(ENCRYPTION_NAMES))
        reason = f"the kernel refuses ESP SAs: {refusals[first]}"
        return Features(driver=DRIVER, available=False, reason=reason)
    missing = [slug for slug, refusal in refusals.items() if refusal]
    reason = "the kernel accepts ESP SAs" + (f", but not with {', '.join(missing)}" if missing else "")
    return Features(driver=DRIVER, available=True, reason=reason, encryptions=encryptions, integrities=integrities)


async def _try(requests: Requests, encryption: str, integrity: str | None) -> str:
    """Install and remove one SA; returns the kernel's sentence of refusal, empty when it worked."""
    for attempt in range(_ATTEMPTS):
        spec = _spec(encryption, integrity)
        try:
            await requests.send("features", encryption, rows.state_message(spec), messages.NEWSA, CREATE)
        except DataplaneError as error:
            if error.errno == errno.EEXIST and attempt + 1 < _ATTEMPTS:
                continue
            return error.reason
        await remove_state(requests, spec.id)
        return ""
    return "every SPI tried was taken"


def _spec(encryption: str, integrity: str | None) -> SaSpec:
    integrity_octets = algorithms.INTEGRITY[integrity].key_octets if integrity is not None else 0
    return SaSpec(
        tunnel_id="",
        direction=Direction.OUT,
        spi=0x100 + secrets.randbelow(0xFFFF_FF00),
        source="192.0.2.1",
        destination="192.0.2.2",
        reqid=REQID_BASE + 0xFFFF,
        encryption=encryption,
        encryption_key=Secret(secrets.token_bytes(algorithms.ENCRYPTION[encryption].keymat_octets)),
        integrity=integrity,
        integrity_key=Secret(secrets.token_bytes(integrity_octets)) if integrity is not None else None,
        limits=Limits(hard_s=1),
    )
