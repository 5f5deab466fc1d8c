"""The console's side of the agent API: HTTPS with client certificates from the fleet CA, synchronous, for tasks.

The address dialled is the gateway's ``agent_host``; the name checked is the one in its certificate, which carries the
gateway's id (:func:`agents.contract.enrolment.server_name`), so an address that moves to another machine is noticed.

``AgentError``
  ``AgentUnreachable``   no answer: the request may or may not have arrived; every request here may be repeated
  ``AgentRefused``       422: the document has a field the agent cannot apply
  ``AgentConflict``      409: the ledger holds a newer generation, or the same one with other content
  ``AgentUnknownTunnel`` 404 for an action: the tunnel is not in force there
  ``AgentBusy``          404 or 409 for a capture or trace: it cannot be begun, ended or given out now
  ``AgentMisbehaved``    any other answer
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from agents.contract import codec
from agents.contract.actions import Action, ActionResult
from agents.contract.captures import CaptureRequest
from agents.contract.enrolment import server_name
from agents.contract.errors import ContractError
from agents.contract.events import EventPage
from agents.contract.status import CaptureStatus, GatewayStatus, TraceStatus
from agents.contract.traces import TraceRequest
from vpnconsole.gateways import fleet
from vpnconsole.gateways.models import Gateway

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
MAX_ANSWER_OCTETS = 32 * 1024 * 1024
_PIECE_OCTETS = 64 * 1024
_NUMBER = re.compile(r"^\[Errno -?\d+\] ")
"""What Python puts before the words of the system."""

T = TypeVar("T")


class AgentError(Exception):
    """Base: the agent did not do what was asked."""


class AgentUnreachable(AgentError):  # noqa: N818 -- named for what it says about the agent
    """The agent did not answer."""


class AgentMisbehaved(AgentError):  # noqa: N818
    """The agent answered something the API does not know."""


class AgentUnknownTunnel(AgentError):  # noqa: N818
    """The agent has no such tunnel in force."""


class AgentBusy(AgentError):  # noqa: N818
    """The agent cannot begin, end or give out a capture or trace now; the text says why."""


class AgentRefused(AgentError):  # noqa: N818
    """The agent cannot apply the document; ``path`` names the field."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path or 'document'}: {message}")
        self.path = path
        self.message = message


class AgentConflict(AgentError):  # noqa: N818
    """The agent's ledger is ahead: ``code`` is ``generation-outdated`` or ``generation-conflict``."""

    def __init__(self, code: str, message: str, generation: int, digest: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.generation = generation
        self.digest = digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Answer to a document that was taken."""

    generation: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A whole answer of bearable size."""

    status_code: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """What an agent records on demand: the error for an id that it does not have, and what an old one cannot do."""

    unknown: str
    verb: str


_CAPTURES = _Recorded(unknown="unknown-capture", verb="capture packets")
_TRACES = _Recorded(unknown="unknown-trace", verb="trace")


class AgentClient:
    """One connection to one agent; use as a context manager. Every method raises :class:`AgentError`."""

    def __init__(
        self, gateway: Gateway, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        host = f"[{gateway.agent_host}]" if ":" in gateway.agent_host else gateway.agent_host
        self._extensions = {"sni_hostname": server_name(str(gateway.id))}
        self._http = httpx.Client(
            base_url=f"https://{host}:{gateway.agent_port}",
            verify=_tls_context(fleet.console_client_credentials()),
            timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def put_document(self, octets: bytes) -> Accepted:
        """Deliver a document; repeating it is harmless. Raises :class:`AgentRefused` and :class:`AgentConflict`."""
        answer = self._request("PUT", "/v1/config", content=octets)
        plain = _plain(answer)
        match answer.status_code:
            case 200:
                return Accepted(generation=_integer(plain, "generation"), digest=_text(plain, "digest"))
            case 409:
                raise AgentConflict(
                    _text(plain, "error"),
                    _text(plain, "message"),
                    _integer(plain, "generation"),
                    _text(plain, "digest"),
                )
            case 422:
                raise AgentRefused(_text(plain, "path"), _text(plain, "message"))
        raise _unexpected(answer, plain)

    def status(self) -> GatewayStatus:
        """Read the whole status."""
        return self._read(GatewayStatus, self._request("GET", "/v1/status"))

    def events(self, *, after: int, limit: int) -> EventPage:
        """Read events with a sequence above ``after``, at most ``limit`` of them."""
        return self._read(EventPage, self._request("GET", "/v1/events", params={"after": after, "limit": limit}))

    def act(self, action: Action) -> ActionResult:
        """Send one verb; raises :class:`AgentUnknownTunnel`. The same id is performed once."""
        answer = self._request("POST", "/v1/actions", content=codec.encode(action))
        if answer.status_code == 404:
            raise AgentUnknownTunnel("the tunnel is not in force on this gateway: deploy first")
        return self._read(ActionResult, answer)

    def start_capture(self, request: CaptureRequest) -> CaptureStatus:
        """Begin a packet capture; raises AgentUnknownTunnel and AgentBusy. The same id begins one capture."""
        answer = self._request("POST", "/v1/captures", content=codec.encode(request))
        plain = _plain(answer)
        if answer.status_code == 404 and plain.get("error") == "unknown-tunnel":
            raise AgentUnknownTunnel("the tunnel is not in force on this gateway: deploy first")
        return self._read(CaptureStatus, _unless_refused(answer, _CAPTURES))

    def stop_capture(self, capture_id: str) -> CaptureStatus:
        """End a packet capture; one that has ended stays as it is. Raises AgentBusy for one that is gone."""
        answer = self._request("POST", f"/v1/captures/{capture_id}/stop")
        return self._read(CaptureStatus, _unless_refused(answer, _CAPTURES))

    def fetch_capture(self, capture_id: str) -> AbstractContextManager[tuple[int | None, Iterator[bytes]]]:
        """Give the length of a capture's file and its octets, piece by piece; raises AgentBusy."""
        return self._fetch(f"/v1/captures/{capture_id}", _CAPTURES)

    def start_trace(self, request: TraceRequest) -> TraceStatus:
        """Begin a trace; raises AgentBusy while another runs. The same id begins one trace."""
        answer = self._request("POST", "/v1/traces", content=codec.encode(request))
        return self._read(TraceStatus, _unless_refused(answer, _TRACES))

    def stop_trace(self, trace_id: str) -> TraceStatus:
        """End a trace; one that has ended stays as it is. Raises AgentBusy for one that is gone."""
        answer = self._request("POST", f"/v1/traces/{trace_id}/stop")
        return self._read(TraceStatus, _unless_refused(answer, _TRACES))

    def fetch_trace(self, trace_id: str) -> AbstractContextManager[tuple[int | None, Iterator[bytes]]]:
        """Give the length of a trace's text and its octets, piece by piece; raises AgentBusy."""
        return self._fetch(f"/v1/traces/{trace_id}", _TRACES)

    @contextmanager
    def _fetch(self, path: str, kind: _Recorded) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        with self._carried(), self._http.stream("GET", path, extensions=self._extensions) as answer:
            if answer.status_code != 200:
                failed = _Answer(status_code=answer.status_code, content=_bounded(answer))
                raise _unexpected(_unless_refused(failed, kind), _plain(failed))
            length = answer.headers.get("Content-Length", "")
            yield (int(length) if length.isdecimal() else None), self._pieces(answer)

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        with self._carried():
            yield from answer.iter_bytes(_PIECE_OCTETS)

    @contextmanager
    def _carried(self) -> Iterator[None]:
        """Turn failures of the connection into ours."""
        try:
            yield
        except httpx.TimeoutException:
            raise AgentUnreachable(f"no answer from {self._http.base_url.netloc.decode()} in time") from None
        except httpx.TransportError as error:
            said = _NUMBER.sub("", str(error))
            raise AgentUnreachable(f"{self._http.base_url.netloc.decode()}: {said}") from None
        except httpx.RequestError as error:
            raise AgentMisbehaved(f"the answer cannot be read: {error}") from None

    def _request(self, method: str, path: str, **arguments: Any) -> _Answer:
        headers = {"Content-Type": "application/json"} if "content" in arguments else {}
        with (
            self._carried(),
            self._http.stream(method, path, headers=headers, extensions=self._extensions, **arguments) as answer,
        ):
            return _Answer(status_code=answer.status_code, content=_bounded(answer))

    def _read(self, kind: type[T], answer: _Answer) -> T:
        if answer.status_code != 200:
            raise _unexpected(answer, _plain(answer))
        try:
            return codec.decode(kind, answer.content)
        except ContractError as error:
            raise AgentMisbehaved(f"the answer is not a {kind.__name__}: {error}") from None


def _unless_refused(answer: _Answer, kind: _Recorded) -> _Answer:
    """Return the answer to a request about what the agent records unless it is a refusal."""
    plain = _plain(answer)
    if answer.status_code == 404 and plain.get("error") != kind.unknown:
        raise AgentMisbehaved(f"this agent is too old to {kind.verb}: install the present version")
    if answer.status_code in (404, 409):
        raise AgentBusy(str(plain.get("message") or "the agent refuses")[:500])
    return answer


def _bounded(answer: httpx.Response) -> bytes:
    octets = bytearray()
    for chunk in answer.iter_bytes():
        octets += chunk
        if len(octets) > MAX_ANSWER_OCTETS:
            raise AgentMisbehaved("the answer is too large")
    return bytes(octets)


def _plain(answer: _Answer) -> dict[str, Any]:
    try:
        plain = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _integer(plain: dict[str, Any], name: str) -> int:
    value = plain.get(name)
    if not isinstance(value, int):
        raise AgentMisbehaved(f"the answer has no number {name!r}")
    return value


def _text(plain: dict[str, Any], name: str) -> str:
    value = plain.get(name)
    if not isinstance(value, str):
        raise AgentMisbehaved(f"the answer has no text {name!r}")
    return value


def _unexpected(answer: _Answer, plain: dict[str, Any]) -> AgentMisbehaved:
    message = str(plain.get("message") or plain.get("error") or "no explanation")[:500]
    return AgentMisbehaved(f"HTTP {answer.status_code}: {message}")


@lru_cache(maxsize=4)
def _tls_context(credentials: fleet.ClientCredentials) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=credentials.ca_pem)
    # The ssl module reads keys from paths only; an anonymous file in memory keeps the key off the disk.
    descriptor = os.memfd_create("client-credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, credentials.certificate_pem.encode("ascii") + b"\n" + credentials.key_pem.reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
