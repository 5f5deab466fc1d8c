"""A desk with its state directory, and what it answered."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from agents.contract.config import (
    AuthKind,
    Certificate,
    GatewayDocument,
    LocalAuthentication,
    RemoteAuthentication,
    Revocation,
    TrustAnchor,
)
from agents.ike.outputs import Report, Sign, Validate, Verdict
from agents.ike.wire.registry import IdType
from agents.iked.credentials.desk import Desk
from agents.iked.credentials.fetch import Fetcher
from agents.pki.keys import KeyFolder
from agents.runtime.paths import Paths
from tests.pki import Authority, Leaf, PrivateKey, der

from ..cast import tunnel, uid

POLICY = RemoteAuthentication(kind=AuthKind.CERTIFICATE, revocation=Revocation.HARD_FAIL, fetch_private=True)


def base64_der(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def certified(
    own: Sequence[tuple[str, Leaf]], anchors: Sequence[tuple[str, Authority | Leaf]], *, generation: int = 1
) -> GatewayDocument:
    """Return a document with these certificates, the first of which its one tunnel shows."""
    local = LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate=own[0][0]) if own else LocalAuthentication()
    shown = dataclasses.replace(tunnel("beta", "192.0.2.1", "192.0.2.2"), local_auth=local)
    return GatewayDocument(
        gateway_id=uid("alpha"),
        gateway_name="alpha",
        generation=generation,
        nonce="0" * 32,
        tunnels=(shown,),
        certificates=tuple(
            Certificate(id=name, chain=tuple(base64_der(each) for each in leaf.chain)) for name, leaf in own
        ),
        trust_anchors=tuple(
            TrustAnchor(id=name, certificate=base64_der(der(each.certificate))) for name, each in anchors
        ),
    )


class Counter:
    """A :class:`Desk` in a directory of its own; requests are answered by :meth:`sign` and :meth:`validate`."""

    def __init__(self, directory: Path, *, fetcher: Fetcher | None = None) -> None:
        self.where = Paths(state=directory / "state", run=directory / "run")
        self.where.prepare()
        self.reports: list[Report] = []
        self.offset_s = 0.0
        self._next = 0
        self._answers: dict[int, asyncio.Future[bytes | Verdict | None]] = {}
        self.desk = Desk(self.where, self, fetcher=fetcher, clock=lambda: time.time() + self.offset_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.desk.close()

    def trust(self, *anchors: Authority | Leaf) -> None:
        self.desk.configure(certified([], [(f"anchor-{n}", each) for n, each in enumerate(anchors)]))

    def keep(self, key: PrivateKey) -> str:
        return KeyFolder(self.where.keys).add(key)

    async def validate(
        self,
        leaf: Leaf | tuple[bytes, ...],
        policy: RemoteAuthentication = POLICY,
        *,
        id_type: int = IdType.FQDN,
        id_data: bytes = b"alpha.example",
    ) -> Verdict:
        chain = leaf if isinstance(leaf, tuple) else leaf.chain
        number, future = self._ask()
        self.desk.perform(
            Validate(request_id=number, tunnel_id="t", chain=chain, id_type=id_type, id_data=id_data, policy=policy)
        )
        answer = await asyncio.wait_for(future, 20)
        assert isinstance(answer, Verdict)
        return answer

    async def sign(self, certificate: str, signature: str, octets: bytes) -> bytes | None:
        number, future = self._ask()
        self.desk.perform(
            Sign(request_id=number, tunnel_id="t", certificate=certificate, signature=signature, octets=octets)
        )
        answer = await asyncio.wait_for(future, 20)
        assert not isinstance(answer, Verdict)
        return answer

    def codes(self) -> list[str]:
        return [each.code for each in self.reports]

    def _ask(self) -> tuple[int, asyncio.Future[bytes | Verdict | None]]:
        self._next += 1
        future = self._answers[self._next] = asyncio.get_running_loop().create_future()
        return self._next, future

    # What the desk calls

    def signed(self, request_id: int, signature: bytes | None) -> None:
        self._answers[request_id].set_result(signature)

    def validated(self, request_id: int, verdict: Verdict) -> None:
        self._answers[request_id].set_result(verdict)

    def report(self, event: Report) -> None:
        self.reports.append(event)
