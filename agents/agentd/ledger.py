"""The accepted document: which one, and the three rules that decide about the next.

An older generation is refused; the same generation with other content is refused; the same again is accepted. So
retries, two workers and a restored database cannot move a gateway backwards or two ways at once. A document that is
refused for any reason leaves the one in force as it is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agents.agentd.errors import ConflictError, InvalidError, OutdatedError
from agents.contract.codec import decode, digest, encode
from agents.contract.config import GatewayDocument
from agents.contract.errors import DocumentError
from agents.contract.status import Refusal
from agents.contract.upgrade import load_document
from agents.runtime.paths import write_private

_log = logging.getLogger(__name__)

Check = Callable[[GatewayDocument], Awaitable[None]]
"""Whether this machine can apply a document; raises :class:`InvalidError` with the path of the field that says not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A document with the digest of its canonical octets."""

    document: GatewayDocument
    digest: str


class Ledger:
    """The document in force on disk (0600) and in memory, and the last refusal."""

    def __init__(self, path: Path, gateway_id: str) -> None:
        self._path = path
        self._refusal_path = path.with_name("refusal.json")
        self._gateway_id = gateway_id
        self._offering = asyncio.Lock()
        self.current = self._load()
        self.refusal = self._load_refusal()

    async def offer(self, octets: bytes, check: Check) -> tuple[Accepted, bool]:
        """Take or refuse a document; returns it and whether it is news.

        Raises :class:`OutdatedError`, :class:`ConflictError` and :class:`InvalidError`.
        """
        async with self._offering:
            try:
                offered = self._read(octets)
                if self._repeated(offered):
                    return offered, False
                try:
                    await check(offered.document)
                except InvalidError as error:
                    raise InvalidError(error.path, error.problem, offered.document.generation) from None
            except InvalidError as error:
                self._refuse(error.generation, error.path, error.problem)
                raise
            except (OutdatedError, ConflictError) as error:
                self._refuse(_generation(octets), "generation", str(error))
                raise
            write_private(self._path, encode(offered.document))
            self.current = offered
            self._refuse(None)
            return offered, True

    def _read(self, octets: bytes) -> Accepted:
        try:
            document = load_document(octets)
        except DocumentError as error:
            raise InvalidError(error.path, error.problem, _generation(octets)) from None
        if document.gateway_id != self._gateway_id:
            raise InvalidError("gateway_id", f"is not this gateway's, {self._gateway_id}", document.generation)
        return Accepted(document=document, digest=digest(document))

    def _repeated(self, offered: Accepted) -> bool:
        """Apply the three rules; True when ``offered`` is what is in force."""
        if self.current is None:
            return False
        ours = self.current.document.generation
        if offered.document.generation < ours:
            raise OutdatedError(ours, self.current.digest)
        if offered.document.generation > ours:
            return False
        if offered.digest != self.current.digest:
            raise ConflictError(ours, self.current.digest)
        return True

    def _refuse(self, generation: int | None, path: str = "", message: str = "") -> None:
        """Remember the last refusal across restarts; None forgets it."""
        if generation is None:
            self.refusal = None
            self._refusal_path.unlink(missing_ok=True)
            return
        self.refusal = Refusal(generation=generation, path=path, message=message, at=time.time())
        write_private(self._refusal_path, encode(self.refusal))

    def _load(self) -> Accepted | None:
        try:
            octets = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            document = load_document(octets)
        except DocumentError as error:
            aside = self._path.with_name("document.json.damaged")
            self._path.rename(aside)
            _log.error("the stored document cannot be read (%s) and is set aside as %s", error, aside.name)
            return None
        if document.gateway_id != self._gateway_id:
            _log.warning("the stored document belongs to another gateway and is not used")
            return None
        return Accepted(document=document, digest=digest(document))

    def _load_refusal(self) -> Refusal | None:
        try:
            return decode(Refusal, self._refusal_path.read_bytes())
        except FileNotFoundError:
            return None
        except DocumentError:
            _log.warning("the note of the last refusal cannot be read and is dropped")
            return None


def _generation(octets: bytes) -> int:
    """Return the generation that a document which may not be one claims, 0 where it claims none."""
    try:
        plain = json.loads(octets)
    except (ValueError, RecursionError):
        return 0
    value = plain.get("generation") if isinstance(plain, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else 0
