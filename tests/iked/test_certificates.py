"""Two daemons that prove themselves by certificates: real keys on disk, real UDP, real CRLs and OCSP."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agents.contract.config import (
    AuthKind,
    Certificate,
    ConnectionType,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    LocalAuthentication,
    RemoteAuthentication,
    Revocation,
    TrustAnchor,
    Tunnel,
)
from agents.pki.keys import KeyFolder
from agents.runtime.rpc import RpcError
from tests import pki
from tests.pki import Authority, Leaf, RevocationServer, der

from .cast import document, tunnel
from .credentials.rig import base64_der
from .rig import Daemon, is_up, loopback

ALPHA, BETA = loopback(1), loopback(2)


def certified(
    name: str,
    own: Leaf,
    trusted: Authority,
    *,
    remote: RemoteAuthentication | None = None,
    signatures: tuple[str, ...] = (),
    generation: int = 1,
) -> GatewayDocument:
    """Return alpha's or beta's document; both show their FQDN."""
    here, there = (ALPHA, BETA) if name == "alpha" else (BETA, ALPHA)
    peer = "beta" if name == "alpha" else "alpha"
    selectors = {"local_ts": "10.1.0.0/24", "remote_ts": "10.2.0.0/24"}
    if name == "beta":
        selectors = {"local_ts": "10.2.0.0/24", "remote_ts": "10.1.0.0/24"}
    plain: Tunnel = tunnel(
        peer,
        here,
        there,
        connection_type=ConnectionType.INITIATOR_ONLY if name == "alpha" else ConnectionType.RESPONDER_ONLY,
        **selectors,  # type: ignore[arg-type]
    )
    shown = dataclasses.replace(
        plain,
        local=Endpoint(address=here, identity=Identity(type=IdentityType.FQDN, value=f"{name}.example")),
        remote=Endpoint(address=there, identity=Identity(type=IdentityType.FQDN, value=f"{peer}.example")),
        local_auth=LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own", signatures=signatures),
        remote_auth=remote or RemoteAuthentication(kind=AuthKind.CERTIFICATE, revocation=Revocation.OFF),
    )
    return dataclasses.replace(
        document(name, [], [], generation=generation),
        tunnels=(shown,),
        certificates=(Certificate(id="own", chain=tuple(map(base64_der, own.chain))),),
        trust_anchors=(TrustAnchor(id="root", certificate=base64_der(der(trusted.certificate))),),
    )


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(Daemon(tmp_path / "alpha"))
        beta = await stack.enter_async_context(Daemon(tmp_path / "beta"))
        yield alpha, beta


@pytest.fixture
def server() -> Iterator[RevocationServer]:
    with RevocationServer() as made:
        yield made


def leaves(authority: Authority, key_type: str = "ecdsa-p256") -> tuple[Leaf, Leaf]:
    alpha, beta = (
        authority.leaf(name, dns=(f"{name}.example",), private_key=pki.key(key_type, name))
        for name in ("alpha", "beta")
    )
    return alpha, beta


def keep(daemon: Daemon, leaf: Leaf) -> None:
    KeyFolder(daemon.paths.keys).add(leaf.key)


pytestmark = pytest.mark.needs("port 500")


@pytest.mark.parametrize(
    ("key_type", "signatures"),
    [
        ("ecdsa-p256", ()),
        ("ecdsa-p384", ("method-10",)),
        ("rsa-2048", ()),
        ("rsa-2048", ("rsa-sha2-256",)),
        ("rsa-2048", ("method-1",)),
        ("ed25519", ()),
        ("ed448", ()),
    ],
)
async def test_tunnels_come_up_with_each_kind_of_key(
    pair: tuple[Daemon, Daemon], key_type: str, signatures: tuple[str, ...]
) -> None:
    """Leaves below an intermediate that each end sends along; the anchor is the root only."""
    alpha, beta = pair
    root = Authority.root()
    own = leaves(root.intermediate(), key_type)
    remote = RemoteAuthentication(kind=AuthKind.CERTIFICATE, revocation=Revocation.OFF, signatures=signatures)
    for daemon, name, leaf in ((beta, "beta", own[1]), (alpha, "alpha", own[0])):
        keep(daemon, leaf)
        await daemon.configure(certified(name, leaf, root, signatures=signatures, remote=remote))
    status = await alpha.until_up("beta")
    await beta.until_up("alpha")
    assert status.ike_sas[0].local_auth is not None


async def test_each_end_may_use_another_kind_of_key(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    root = Authority.root()
    one, two = leaves(root, "rsa-2048")[0], leaves(root, "ed25519")[1]
    for daemon, name, leaf in ((beta, "beta", two), (alpha, "alpha", one)):
        keep(daemon, leaf)
        await daemon.configure(certified(name, leaf, root))
    await alpha.until_up("beta")


async def test_a_revoked_certificate_is_refused_and_both_ends_say_so(
    pair: tuple[Daemon, Daemon], server: RevocationServer
) -> None:
    alpha, beta = pair
    root = Authority.root("Root", ocsp_url=server.url + "/ocsp", crl_url=server.url + "/crl")
    server.publish_ocsp("/ocsp", root)
    server.publish_crl("/crl", root)
    own = leaves(root)
    root.revoke(own[0].certificate)
    strict = RemoteAuthentication(kind=AuthKind.CERTIFICATE, revocation=Revocation.HARD_FAIL, fetch_private=True)
    for daemon, name, leaf in ((beta, "beta", own[1]), (alpha, "alpha", own[0])):
        keep(daemon, leaf)
        await daemon.configure(certified(name, leaf, root, remote=strict))
    refused = await beta.until_event("ike.certificate-revoked")
    assert "CN=alpha" in refused.message
    assert refused.tunnel_id is not None
    await alpha.until_event("ike.peer-refused-auth")
    assert "/ocsp" in server.asked
    # A certificate that is not revoked comes in by the same document.
    fresh = root.leaf("alpha", dns=("alpha.example",))
    keep(alpha, fresh)
    await alpha.configure(certified("alpha", fresh, root, remote=strict, generation=2))
    await alpha.until_up("beta")


async def test_a_key_that_comes_later_is_used_without_a_restart(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    root = Authority.root()
    own = leaves(root)
    keep(beta, own[1])
    await beta.configure(certified("beta", own[1], root))
    await alpha.configure(certified("alpha", own[0], root))
    missing = await alpha.until_event("ike.key-missing")
    assert pki.key_file_name(own[0].key) in missing.message
    keep(alpha, own[0])
    assert (await alpha.act("initiate", (await alpha.tunnel("beta")).id))["accepted"]
    await alpha.until("beta", is_up)


async def test_a_certificate_that_cannot_be_read_is_refused_and_the_rest_goes_on(pair: tuple[Daemon, Daemon]) -> None:
    alpha, _ = pair
    root = Authority.root()
    own = leaves(root)[0]
    good = certified("alpha", own, root)
    await alpha.configure(good)
    broken = dataclasses.replace(good, generation=2, trust_anchors=(TrustAnchor(id="root", certificate="AAAA"),))
    with pytest.raises(RpcError) as refused:
        await alpha.configure(broken)
    assert (refused.value.code, refused.value.data["path"]) == ("invalid", "trust_anchors[0].certificate")
    assert (await alpha.status())["generation"] == 1


async def test_a_stranger_with_a_certificate_of_another_ca_is_not_let_in(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    root, theirs = Authority.root("Ours"), Authority.root("Theirs")
    keep(beta, leaves(root)[1])
    keep(alpha, leaves(theirs)[0])
    await beta.configure(certified("beta", leaves(root)[1], root))
    await alpha.configure(certified("alpha", leaves(theirs)[0], root))
    refused = await beta.until_event("ike.certificate-untrusted")
    assert (refused.received, refused.configured) == (
        "issued by CN=Theirs,O=VPN Console tests",
        "trusted are CN=Ours,O=VPN Console tests",
    )
    assert not is_up(await alpha.tunnel("beta"))
