"""Whether ``iked`` has the document in force."""

from __future__ import annotations

from agents.agentd.ledger import Accepted


def must_configure(accepted: Accepted | None, generation: int, configured_digest: str | None) -> bool:
    """Tell whether to hand the document over.

    ``generation`` is what ``iked`` says it has, ``configured_digest`` what it was given on this connection: a restarted
    ``iked`` has neither, and a restarted ``agentd`` says it once more, which changes nothing there.
    """
    if accepted is None:
        return False
    return accepted.document.generation != generation or accepted.digest != configured_digest
