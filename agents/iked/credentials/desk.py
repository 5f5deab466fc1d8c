"""Answers the core's ``Sign`` and ``Validate``, beside the event loop: what takes longer happens in two threads.

Each request is answered exactly once, unless the daemon ends before. The answer to a peer whose certificates meet a bug
of ours is a refusal; the traceback goes to the log.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from agents.contract.config import GatewayDocument
from agents.ike import identity
from agents.ike.crypto.hash_signature import sign_by_slug
from agents.ike.outputs import Report, Sign, Validate, Verdict
from agents.ike.wire.payloads import Identification
from agents.iked.credentials.fetch import Fetcher
from agents.iked.credentials.revocation import RevocationCheck
from agents.iked.words import counted
from agents.pki import documents
from agents.pki.constraints import names_text
from agents.pki.documents import Certificates, Problem
from agents.pki.errors import CertificateError, KeyFileError
from agents.pki.keys import KeyFolder, PrivateKey
from agents.pki.path import Path, paths, read_chain
from agents.pki.reading import Certificate
from agents.runtime.paths import Paths

_THREADS = 2
_MOST_AT_ONCE = 256
_MOST_PATHS = 4

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Results(Protocol):
    """Where answers go: the inputs of the engine, and the journal."""

    def signed(self, request_id: int, signature: bytes | None) -> None:
        """A signature, or None when there is none."""
        ...

    def validated(self, request_id: int, verdict: Verdict) -> None:
        """The verdict on a chain."""
        ...

    def report(self, event: Report) -> None:
        """Something an operator should know."""
        ...


class Desk:
    """The certificates of the document in force, the gateway's keys, and what is asked of both."""

    def __init__(
        self,
        where: Paths,
        results: Results,
        *,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = KeyFolder(where.keys)
        self._results = results
        self._clock = clock
        self._certificates = Certificates()
        self.bugs = 0
        self._told: set[str] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="credentials")
        self._revocation = RevocationCheck(
            fetcher or Fetcher(), where.crls, self._run, lambda: secrets.token_bytes(32), clock
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    def configure(self, document: GatewayDocument) -> None:
        """Take the certificates of a document; what keeps our own from being used is an event, once while it lasts.

        Raises DocumentCertificateError, and then goes on with those it had.
        """
        self._certificates = documents.parse(document)
        self._warm_up()
        problems = self._problems()
        for each in problems:
            if each.sentence not in self._told:
                self._results.report(Report(code=each.code, message=each.sentence[:1].upper() + each.sentence[1:]))
        self._told = {each.sentence for each in problems}

    def state(self) -> tuple[bool, str]:
        """Return whether all is well and a line for people, looked up anew: a key file may come or go at any time."""
        known, problems = self._certificates, self._problems()
        numbers = [f"{len(known.own)} own", counted(len(known.anchors), "CA")]
        unusable = {each.certificate for each in problems}
        if unusable:
            numbers.append(f"{len(unusable)} cannot be used")
        reasons = [each.sentence for each in problems]
        if self.bugs:
            reasons.append(f"{counted(self.bugs, 'bug')} met, see the log")
        return not reasons, "; ".join([f"certificates: {', '.join(numbers)}", *reasons])

    def perform(self, request: Sign | Validate) -> None:
        """Take on one request; its answer reaches :class:`Results` later."""
        if isinstance(request, Sign):
            self._start(self._sign(request), lambda answer: self._results.signed(request.request_id, answer), None)
            return
        verdict = Verdict(code="ike.certificate-busy", message="Too many certificates are being checked at once")
        if len(self._tasks) >= _MOST_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._results.validated, request.request_id, verdict)
            return
        bug = Verdict(code="ike.bug", message="The certificates could not be checked; see the log")
        self._start(self._validate(request), lambda answer: self._results.validated(request.request_id, answer), bug)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._revocation.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _warm_up(self) -> None:
        """Use each RSA key once: its first signature costs twice what the others do, and no peer is to pay for that."""
        for certificate in self._certificates.own:
            name = self._certificates.key_name(certificate)
            try:
                key = None if name is None else self._keys.find(name)
            except KeyFileError:
                continue  # told as a problem
            if isinstance(key, rsa.RSAPrivateKey):
                self._threads.submit(key.sign, b"", padding.PKCS1v15(), hashes.SHA256())

    def _problems(self) -> list[Problem]:
        return documents.problems(self._certificates, self._keys, self._moment())

    def _start(self, work: Coroutine[Any, Any, _T], answer: Callable[[_T], None], failed: _T) -> None:
        def ended(task: asyncio.Task[_T]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return
            error = task.exception()
            if error is not None:
                self.bugs += 1
                _log.error("a bug while answering a request for credentials", exc_info=error)
            answer(failed if error is not None else task.result())

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _sign(self, request: Sign) -> bytes | None:
        name = self._certificates.key_name(request.certificate)
        try:
            key = self._keys.find(name) if name is not None else None
            if key is None:
                code, why = "ike.key-missing", "its private key is not on this gateway"
            elif _is_quick(key):
                return sign_by_slug(key, request.signature, request.octets)
            else:
                return await self._run(sign_by_slug, key, request.signature, request.octets)
        except KeyFileError as error:
            code, why = "ike.key-refused", str(error)
        except ValueError as error:
            code, why = "ike.sign-failed", str(error)
        message = f"Certificate {request.certificate} cannot be used: {why}"
        self._results.report(
            Report(code=code, message=message, tunnel_id=request.tunnel_id, configured=request.certificate)
        )
        return None

    async def _validate(self, request: Validate) -> Verdict:
        try:
            path, unchecked = await self._judge(request)
        except CertificateError as error:
            return Verdict(code=error.code, message=error.message, received=error.received, configured=error.configured)
        if unchecked:
            self._results.report(
                Report(
                    code="ike.certificate-revocation-unchecked",
                    message=f"Taken although revocation could not be checked: {unchecked}",
                    tunnel_id=request.tunnel_id,
                    configured=str(request.policy.revocation),
                )
            )
        return Verdict(public_key=path.leaf.spki, subject=path.leaf.text)

    async def _judge(self, request: Validate) -> tuple[Path, str]:
        """Return a chain that proves the identity, and what of its revocation is not known; raises CertificateError."""
        policy, known = request.policy, self._certificates.anchors
        anchors = [known[name] for name in policy.trust_anchors or known if name in known]
        found = await self._run(_good_paths, request.chain, anchors, self._moment(), bool(policy.trust_anchors))
        leaf = found[0].leaf
        if policy.validate_identity and not identity.in_certificate(request.id_type, request.id_data, leaf.x509):
            raise _wrong_identity(request, leaf)
        refused: CertificateError | None = None
        for path in found:
            try:
                return path, await self._revocation.check(path, policy)
            except CertificateError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def _moment(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)


def _is_quick(key: PrivateKey) -> bool:
    """Whether signing costs less than handing it to a thread (some 20 against 80 microseconds)."""
    return isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    )


def _good_paths(
    chain: tuple[bytes, ...], anchors: list[Certificate], moment: datetime.datetime, named: bool
) -> list[Path]:
    """Return up to four good chains: another one may do where a CA of the first is revoked. Runs in a thread."""
    found = []
    for path in paths(read_chain(chain), anchors, moment, leaf_may_be_anchor=named):
        found.append(path)
        if len(found) == _MOST_PATHS:
            break
    return found


def _wrong_identity(request: Validate, leaf: Certificate) -> CertificateError:
    shown = identity.describe(Identification(id_type=request.id_type, data=request.id_data))
    return CertificateError(
        "ike.certificate-identity",
        f"The identity {shown} is not in certificate {leaf.text}",
        received=shown,
        configured=f"names of the certificate: {names_text(leaf)}",
    )
