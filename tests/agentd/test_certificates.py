"""Documents with certificates: what is refused with its path, and what the status says of keys that are not here."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agents.agentd import applicable
from agents.agentd.daemon import Agent
from agents.agentd.database import Database
from agents.agentd.errors import InvalidError
from agents.contract.codec import encode, to_plain
from agents.contract.config import (
    AuthKind,
    Certificate,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
    LocalAuthentication,
    RemoteAuthentication,
    TrustAnchor,
)
from agents.pki.keys import KeyFolder
from agents.runtime.paths import Paths
from tests import pki
from tests.agentd.fakes import Authority, FakeHost, document, make_identity, tunnel
from tests.pki import der

ROOT = pki.Authority.root()
LEAF = ROOT.intermediate().leaf("paris", dns=("paris",))
IKEV1 = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-14")
ESP_OF_IKEV1 = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96")
NOT_DER = base64.b64encode(b"no certificate").decode()


def text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def certified(
    *,
    chain: tuple[str, ...] | None = None,
    anchor: str | None = None,
    signatures: tuple[str, ...] = (),
    name: str = "lyon",
    version: IkeVersion = IkeVersion.V2,
    key_type: str | None = None,
) -> GatewayDocument:
    if key_type is not None:
        chain = tuple(map(text, ROOT.leaf("paris", dns=("paris",), private_key=pki.key(key_type, "paris")).chain))
    plain = tunnel()
    if version.allows_v1:
        net = dataclasses.replace(plain.children[0], proposals=(ESP_OF_IKEV1,))
        plain = dataclasses.replace(plain, version=version, ike=IkePolicy(proposals=(IKEV1,)), children=(net,))
    kind = IdentityType.DN if "=" in name else IdentityType.FQDN
    shown = dataclasses.replace(
        plain,
        local_auth=LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own", signatures=signatures),
        remote_auth=RemoteAuthentication(kind=AuthKind.CERTIFICATE),
        remote=Endpoint(address="192.0.2.9", identity=Identity(type=kind, value=name)),
    )
    return document(
        1,
        shown,
        certificates=(Certificate(id="own", chain=chain or tuple(map(text, LEAF.chain))),),
        trust_anchors=(TrustAnchor(id="root", certificate=anchor or text(der(ROOT.certificate))),),
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "leaf that is no certificate": ({"chain": (NOT_DER,)}, "certificates[0].chain[0]"),
    "intermediate that is none": ({"chain": (text(LEAF.chain[0]), NOT_DER)}, "certificates[0].chain[1]"),
    "octets after a certificate": ({"chain": (text(LEAF.chain[0] + b"x"),)}, "certificates[0].chain[0]"),
    "anchor that is none": ({"anchor": NOT_DER}, "trust_anchors[0].certificate"),
    "weak anchor": (
        {"anchor": text(der(pki.Authority.root(private_key=pki.key("rsa-1024", "weak")).certificate))},
        "trust_anchors[0].certificate",
    ),
    "signature the key cannot make": (
        {"signatures": ("ecdsa-sha2-256", "rsa-sha2-256")},
        "tunnels[0].local_auth.signatures[1]",
    ),
    "key that IKEv1 cannot sign with": (
        {"key_type": "ed25519", "version": IkeVersion.V1},
        "tunnels[0].local_auth.certificate",
    ),
    "key that only IKEv2 can sign with": (
        {"key_type": "ed448", "version": IkeVersion.V2_ELSE_V1},
        "tunnels[0].local_auth.certificate",
    ),
    "name that is none": ({"name": "CN=lyon,nonsense"}, "tunnels[0].remote.identity.value"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_read_is_refused_with_its_path(case: str) -> None:
    changes, path = REFUSED[case]
    with pytest.raises(InvalidError) as caught:
        await applicable.check(certified(**changes), FakeHost())
    assert caught.value.path == path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"signatures": ("ecdsa-sha2-384", "method-9")},
        {"name": "CN=lyon,O=*"},
        {"key_type": "rsa-2048", "version": IkeVersion.V1},
        {"key_type": "ecdsa-p384", "version": IkeVersion.V2_ELSE_V1},
        {"key_type": "ed25519", "version": IkeVersion.V2},
    ],
)
async def test_good_ones_are_taken(changes: dict[str, Any]) -> None:
    await applicable.check(certified(**changes), FakeHost())


async def test_the_status_says_which_key_is_missing_until_it_is_there(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    paths.prepare()
    database = Database(paths.journal)
    try:
        agent = Agent(make_identity(paths.identity, Authority.make()), paths, FakeHost(), database)
        await agent.offer(encode(certified()))
        problems = (await agent.status()).problems
        assert [each for each in problems if pki.key_file_name(LEAF.key) in each]
        folder = KeyFolder(paths.keys)
        name = folder.add(LEAF.key)
        assert not [each for each in (await agent.status()).problems if "certificate own" in each]
        (paths.keys / f"{name}.pem").chmod(0o644)
        shown = json.dumps(to_plain(await agent.status()))
        assert "0644" in shown
        assert "PRIVATE" not in shown
    finally:
        database.close()
