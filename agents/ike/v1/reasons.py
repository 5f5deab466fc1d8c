"""Why a tunnel is not up, as its status has it."""

from __future__ import annotations

from agents.contract.events import KINDS
from agents.contract.status import Reason

_TEXT_LIMIT = 500


def reason(
    code: str, message: str, received: str | None = None, configured: str | None = None, field: str | None = None
) -> Reason:
    """Return a reason; the field that mends it is that of the code unless another is named."""
    return Reason(
        code=code,
        message=message[:_TEXT_LIMIT],
        received=received,
        configured=configured,
        field=field or KINDS[code].field or None,
    )
