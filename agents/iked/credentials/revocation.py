"""Whether the certificates of an anchored chain are revoked (RFC 5280 section 6.3, RFC 6960).

For each certificate below the anchor: a CRL the operator put on this gateway that names it is the last word; then OCSP,
then CRLs, each from what is kept or from the network. What many handshakes want at once is fetched once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path as FilePath
from typing import Any, TypeVar

from cryptography import x509

from agents.contract.config import RemoteAuthentication, Revocation
from agents.iked.credentials import crl, ocsp
from agents.iked.credentials.crl import Status, StatusError
from agents.iked.credentials.fetch import Fetcher, FetchError, Question
from agents.iked.credentials.stores import Kept, LocalLists
from agents.pki.errors import CertificateError
from agents.pki.path import Path
from agents.pki.reading import Certificate

_T = TypeVar("_T")
Run = Callable[..., Coroutine[Any, Any, Any]]
"""Runs a function in a thread: ``await run(function, *arguments)``."""

PATIENCE_S = 5.0
"""For all certificates of a chain together."""
_FAILURE_KEPT_S = 30.0
_MOST_ANSWERS_KEPT = 4_096
_MOST_LIST_OCTETS_KEPT = 32 * 1_048_576
_MOST_FAILURES_KEPT = 256
_MOST_UNDER_WAY = 256


class RevocationCheck:
    """Looks up chains; ``nonce`` returns 32 unpredictable octets, ``clock`` Unix seconds."""

    def __init__(
        self,
        fetcher: Fetcher,
        lists: FilePath,
        run: Run,
        nonce: Callable[[], bytes],
        clock: Callable[[], float],
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._fetcher = fetcher
        self._run = run
        self._nonce = nonce
        self._clock = clock
        self._patience_s = patience_s
        self._local = LocalLists(lists)
        self._answers: Kept[Status] = Kept(clock, _MOST_ANSWERS_KEPT)
        self._lists: Kept[x509.CertificateRevocationList] = Kept(clock, _MOST_LIST_OCTETS_KEPT)
        self._failures: Kept[str] = Kept(clock, _MOST_FAILURES_KEPT)
        self._under_way: dict[object, asyncio.Task[Any]] = {}

    async def check(self, path: Path, policy: RemoteAuthentication) -> str:
        """Raise CertificateError ``ike.certificate-revoked``, or ``-revocation-unknown`` where the policy is hard-fail.

        With soft-fail what could not be found out is returned as a sentence; empty when everything was, and when the
        certificates name nowhere to ask.
        """
        if policy.revocation is Revocation.OFF:
            return ""
        steps = list(path.steps())
        if not steps:
            return ""
        tasks = [asyncio.create_task(self._status(*step, policy.fetch_private)) for step in steps]
        await asyncio.wait(tasks, timeout=self._patience_s)
        unknown = []
        for (certificate, _), task in zip(steps, tasks, strict=True):
            if not task.done():
                task.cancel()
                unknown.append(f"{certificate.text}: no answer within {self._patience_s:.0f} s")
                continue
            try:
                status = task.result()
            except StatusError as error:
                hard = policy.revocation is Revocation.HARD_FAIL
                if hard or list(ocsp.urls(certificate)) or list(crl.urls(certificate)):
                    unknown.append(f"{certificate.text}: {error}")
                continue
            if status.revoked:
                raise _revoked(certificate, status)
        if unknown and policy.revocation is Revocation.HARD_FAIL:
            raise CertificateError(
                "ike.certificate-revocation-unknown",
                "Whether the chain is revoked could not be found out: " + "; ".join(unknown),
                received=", ".join([*ocsp.urls(steps[0][0]), *crl.urls(steps[0][0])])[:200] or "no CRL, no OCSP",
                configured="hard-fail",
            )
        return "; ".join(unknown)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _status(self, certificate: Certificate, issuer: Certificate, private: bool) -> Status:
        """Return the status of one certificate; raises StatusError with all the reasons why it is not known."""
        local: Status | None = await self._run(self._local_status, certificate, issuer)
        if local is not None and local.revoked:
            return local
        problems: list[str] = []
        for url in ocsp.urls(certificate):
            try:
                return await self._by_ocsp(url, certificate, issuer, private)
            except StatusError as error:
                problems.append(str(error))
        if local is not None:
            return local
        for url in crl.urls(certificate):
            try:
                return await self._by_crl(url, certificate, issuer, private)
            except StatusError as error:
                problems.append(str(error))
        raise StatusError("; ".join(dict.fromkeys(problems)) or "it names neither OCSP responder nor CRL")

    def _local_status(self, certificate: Certificate, issuer: Certificate) -> Status | None:
        """Return what the operator's lists say: revoked if one does, else good if one covers the certificate."""
        good = None
        for each in self._local.all():
            try:
                status = crl.status(each, certificate, issuer, self._moment())
            except StatusError:
                continue
            if status.revoked:
                return status
            good = status
        return good

    async def _by_ocsp(self, url: str, certificate: Certificate, issuer: Certificate, private: bool) -> Status:
        key = ("ocsp", hashlib.sha256(issuer.spki).digest(), certificate.x509.serial_number)
        kept = self._answers.get(key)
        if kept is not None:
            return kept

        async def ask() -> Status:
            nonce = self._nonce()
            request = ocsp.request(certificate, issuer, nonce)
            octets = await self._fetch(
                Question(
                    url=url,
                    body=request,
                    content_type=ocsp.REQUEST_TYPE,
                    most_octets=ocsp.MOST_OCTETS,
                    allow_private=private,
                )
            )
            status: Status = await self._run(ocsp.status, octets, request, nonce, certificate, issuer, self._moment())
            self._answers.put(key, status, status.until.timestamp())
            return status

        return await self._shared((*key, url, private), ask)

    async def _by_crl(self, url: str, certificate: Certificate, issuer: Certificate, private: bool) -> Status:
        # The issuer is part of the key: what one CA's certificates name must not displace the list of another.
        key = ("crl", url, hashlib.sha256(issuer.spki).digest())
        kept = self._lists.get(key)
        if kept is not None:
            status: Status = await self._run(crl.status, kept, certificate, issuer, self._moment())
            return status

        async def load() -> x509.CertificateRevocationList:
            octets = await self._fetch(Question(url=url, most_octets=crl.MOST_FETCHED_OCTETS, allow_private=private))
            fetched: x509.CertificateRevocationList = await self._run(crl.read, octets)
            # Kept before the sharing ends, or somebody between the two would fetch again; and only if it proves itself.
            with contextlib.suppress(StatusError):  # every asker judges it once more, and is told
                found: Status = await self._run(crl.status, fetched, certificate, issuer, self._moment())
                self._lists.put(key, fetched, found.until.timestamp(), len(octets))
            return fetched

        fetched = await self._shared((*key, private), load)
        status = await self._run(crl.status, fetched, certificate, issuer, self._moment())
        return status

    async def _fetch(self, question: Question) -> bytes:
        key = (question.url, question.allow_private)
        problem = self._failures.get(key)
        if problem is not None:
            raise StatusError(problem)
        try:
            return await self._fetcher.fetch(question)
        except FetchError as error:
            self._failures.put(key, str(error), self._clock() + _FAILURE_KEPT_S)
            raise StatusError(str(error)) from None

    async def _shared(self, key: object, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run ``make`` once for all who want the same at the same time; it goes on when one of them gives up."""
        task: asyncio.Task[_T] | None = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= _MOST_UNDER_WAY:
                raise StatusError("too much is being fetched at once")
            task = self._under_way[key] = asyncio.create_task(make())

            def ended(done: asyncio.Task[_T]) -> None:
                del self._under_way[key]
                if not done.cancelled():
                    done.exception()  # nobody may be waiting any more

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    def _moment(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)


def _revoked(certificate: Certificate, status: Status) -> CertificateError:
    since = f" since {status.since:%Y-%m-%d %H:%M UTC}" if status.since is not None else ""
    return CertificateError(
        "ike.certificate-revoked",
        f"Certificate {certificate.text} is revoked{since}",
        received=f"serial {certificate.x509.serial_number:x}, issued by {certificate.issuer_text}",
    )
