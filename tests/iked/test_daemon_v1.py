"""Two daemons on loopback that speak IKEv1: real sockets, keys and certificates, a data plane in memory."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agents.contract.codec import from_plain
from agents.contract.config import (
    AuthKind,
    Certificate,
    ConnectionType,
    Endpoint,
    ExchangeMode,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
    LocalAuthentication,
    RemoteAuthentication,
    Revocation,
    TrustAnchor,
    Tunnel,
)
from agents.contract.status import ComponentHealth, TunnelState
from agents.dataplane.base import Direction
from agents.pki.keys import KeyFolder
from agents.runtime import log_levels
from agents.runtime.rpc import RpcError
from tests import pki
from tests.pki import Authority, Leaf, der

from .cast import document, psk, tunnel, uid
from .credentials.rig import base64_der
from .rig import Daemon, is_up, loopback

pytestmark = pytest.mark.needs("port 500")

ALPHA, BETA = loopback(1), loopback(2)
SUITE = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-19")
ESP = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha2-256-128")


def end(name: str, *, mode: ExchangeMode = ExchangeMode.MAIN, fqdn: bool = False, **changes: Any) -> Tunnel:
    """Return the one tunnel of alpha, who begins, or of beta, who waits."""
    here, there, peer = (ALPHA, BETA, "beta") if name == "alpha" else (BETA, ALPHA, "alpha")
    mine, theirs = ("10.1.0.0/24", "10.2.0.0/24") if name == "alpha" else ("10.2.0.0/24", "10.1.0.0/24")
    made = tunnel(
        peer,
        here,
        there,
        local_ts=mine,
        remote_ts=theirs,
        connection_type=ConnectionType.INITIATOR_ONLY if name == "alpha" else ConnectionType.RESPONDER_ONLY,
        proposals=(SUITE,),
        esp=(ESP,),
    )
    if fqdn:
        changes["local"] = Endpoint(address=here, identity=Identity(type=IdentityType.FQDN, value=f"{name}.example"))
        changes["remote"] = Endpoint(address=there, identity=Identity(type=IdentityType.FQDN, value=f"{peer}.example"))
    ike = IkePolicy(proposals=(SUITE,), exchange_mode=mode)
    return dataclasses.replace(made, ike=ike, **({"version": IkeVersion.V1} | changes))


def by_psk(name: str, secret: bytes = b"a shared secret", **changes: Any) -> GatewayDocument:
    here, there = (ALPHA, BETA) if name == "alpha" else (BETA, ALPHA)
    return document(name, [end(name, **changes)], [psk(here, there, secret)])


def by_certificate(name: str, own: Leaf, root: Authority, **changes: Any) -> GatewayDocument:
    proving: dict[str, Any] = {
        "local_auth": LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own"),
        "remote_auth": RemoteAuthentication(kind=AuthKind.CERTIFICATE, revocation=Revocation.OFF),
    }
    return dataclasses.replace(
        document(name, [], []),
        tunnels=(end(name, fqdn=True, **proving, **changes),),
        certificates=(Certificate(id="own", chain=tuple(map(base64_der, own.chain))),),
        trust_anchors=(TrustAnchor(id="root", certificate=base64_der(der(root.certificate))),),
    )


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(Daemon(tmp_path / "alpha"))
        beta = await stack.enter_async_context(Daemon(tmp_path / "beta"))
        yield alpha, beta


def same_keys(alpha: Daemon, beta: Daemon) -> bool:
    """Whether each end sends with what the other receives with."""
    ours, theirs = ({spec.direction: spec for spec in each.driver.sas.values()} for each in (alpha, beta))
    return all(
        (one[Direction.OUT].encryption_key, one[Direction.OUT].integrity_key)
        == (other[Direction.IN].encryption_key, other[Direction.IN].integrity_key)
        for one, other in ((ours, theirs), (theirs, ours))
    )


@pytest.mark.parametrize(("mode", "fqdn"), [("main", False), ("aggressive", True)])
async def test_a_tunnel_comes_up_by_psk(pair: tuple[Daemon, Daemon], mode: str, fqdn: bool) -> None:
    alpha, beta = pair
    await beta.configure(by_psk("beta", mode=ExchangeMode(mode), fqdn=fqdn))
    await alpha.configure(by_psk("alpha", mode=ExchangeMode(mode), fqdn=fqdn))
    for status in (await alpha.until_up("beta"), await beta.until_up("alpha")):
        sa = status.ike_sas[0]
        assert (sa.version, sa.exchange_mode, sa.local_auth, sa.group) == ("v1", mode, "psk", "group-19")
    assert same_keys(alpha, beta)


@pytest.mark.parametrize("mode", list(ExchangeMode))
@pytest.mark.parametrize("key_type", ["rsa-2048", "ecdsa-p256", "ecdsa-p384"])
async def test_a_tunnel_comes_up_by_certificates(
    pair: tuple[Daemon, Daemon], mode: ExchangeMode, key_type: str
) -> None:
    """Leaves below an intermediate that each end sends along; the anchor is the root only."""
    alpha, beta = pair
    root = Authority.root()
    below = root.intermediate()
    for daemon, name in ((beta, "beta"), (alpha, "alpha")):
        leaf = below.leaf(name, dns=(f"{name}.example",), private_key=pki.key(key_type, name))
        KeyFolder(daemon.paths.keys).add(leaf.key)
        await daemon.configure(by_certificate(name, leaf, root, mode=mode))
    status = await alpha.until_up("beta")
    await beta.until_up("alpha")
    assert status.ike_sas[0].remote_identity == "fqdn beta.example"
    assert (status.ike_sas[0].local_auth or "").startswith("ikev1-")
    assert same_keys(alpha, beta)


async def test_a_peer_of_one_version_gets_it(pair: tuple[Daemon, Daemon]) -> None:
    """``v2-else-v1`` finds the peer's IKEv1."""
    alpha, beta = pair
    await beta.configure(by_psk("beta"))
    await alpha.configure(by_psk("alpha", version=IkeVersion.V2_ELSE_V1))
    status = await alpha.until_up("beta")
    assert status.ike_sas[0].version == "v1"
    assert [event.code for event in await alpha.events()].count("ike.version-fallback") == 1


async def test_both_phases_are_rekeyed_on_request(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    await beta.configure(by_psk("beta"))
    await alpha.configure(by_psk("alpha"))
    before = await alpha.until_up("beta")
    assert (await alpha.act("rekey-child", uid("beta")))["accepted"]
    old = before.children[0].sas[0].spi_in
    await alpha.until("beta", lambda now: now.children[0].sas[-1].spi_in != old)
    assert (await alpha.act("rekey-ike", uid("beta")))["accepted"]
    cookie = before.ike_sas[0].spi_i
    await alpha.until("beta", lambda now: now.ike_sas[-1].spi_i != cookie and now.ike_sas[-1].state == "established")
    assert (await alpha.act("terminate", uid("beta")))["accepted"]
    await alpha.until("beta", lambda now: not now.ike_sas)
    await beta.until("alpha", lambda now: not now.ike_sas)
    assert alpha.driver.sas == beta.driver.sas == {}
    assert (await alpha.act("initiate", uid("beta")))["accepted"]
    await alpha.until("beta", is_up)


async def test_keys_that_differ_are_told_at_both_ends(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    await beta.configure(by_psk("beta", b"another secret"))
    await alpha.configure(by_psk("alpha"))
    event = await beta.until_event("ikev1.psk-mismatch")
    assert event.tunnel_id == uid("alpha")
    told = await beta.until("alpha", lambda now: now.reason is not None)
    assert told.reason is not None
    assert (told.state, told.reason.code) == (TunnelState.DOWN, "ikev1.psk-mismatch")
    ours = await alpha.until("beta", lambda now: now.reason is not None)
    assert ours.state is not TunnelState.UP


async def parts(daemon: Daemon) -> dict[str, ComponentHealth]:
    """Return the parts by name."""
    return {
        each.name: each for each in [from_plain(ComponentHealth, plain) for plain in (await daemon.status())["parts"]]
    }


async def test_the_parts_that_the_document_needs_say_how_they_are(pair: tuple[Daemon, Daemon]) -> None:
    alpha, beta = pair
    assert await parts(alpha) == {}
    await beta.configure(by_psk("beta"))
    await alpha.configure(by_psk("alpha"))
    await alpha.until_up("beta")
    found = await parts(alpha)
    assert {name: each.healthy for name, each in found.items()} == {"iked.v1": True, "iked.tunnels": True}
    assert found["iked.v1"].detail == "1 tunnel, 1 IKE SA, 1 pair of IPsec SAs"
    assert found["iked.tunnels"].detail == "1 tunnel: 1 up"
    await alpha.configure(by_psk("alpha", version=IkeVersion.V2_ELSE_V1))
    assert set(await parts(alpha)) == {"iked.router", "iked.v1", "iked.v2", "iked.tunnels"}


async def test_credentials_that_cannot_be_used_are_told_until_they_can(pair: tuple[Daemon, Daemon]) -> None:
    alpha, _ = pair
    root = Authority.root()
    leaf = root.leaf("alpha", dns=("alpha.example",))
    await alpha.configure(by_certificate("alpha", leaf, root))
    missing = (await parts(alpha))["iked.credentials"]
    assert not missing.healthy
    assert missing.detail.startswith("certificates: 1 own, 1 CA, 1 cannot be used; certificate own: its private key")
    KeyFolder(alpha.paths.keys).add(leaf.key)
    found = (await parts(alpha))["iked.credentials"]
    assert (found.healthy, found.detail) == (True, "certificates: 1 own, 1 CA")
    old = root.leaf("alpha", dns=("alpha.example",), valid=(pki.now() - 9 * pki.DAY, pki.now() - pki.DAY))
    KeyFolder(alpha.paths.keys).add(old.key)
    await alpha.configure(by_certificate("alpha", old, root))
    expired = (await parts(alpha))["iked.credentials"]
    assert (expired.healthy, expired.detail.endswith("has expired")) == (False, True)


async def test_a_bug_shows_in_the_health_of_its_part(
    pair: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = pair

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as breaking:
        breaking.setattr("agents.ike.v1.door.Door.first_message", broken)
        await beta.configure(by_psk("beta"))
        await alpha.configure(by_psk("alpha"))
        await beta.until_event("ike.bug")
    found = (await parts(beta))["iked.v1"]
    assert not found.healthy
    assert "met (ike.bug)" in found.detail
    assert (await parts(alpha))["iked.v1"].healthy
    await alpha.until_up("beta")


@pytest.mark.usefixtures("log_levels_as_before")
async def test_levels_are_each_parts_own_and_change_at_once(
    pair: tuple[Daemon, Daemon], caplog: pytest.LogCaptureFixture
) -> None:
    alpha, beta = pair
    levels = (await alpha.client.call("log_level", {"component": "iked.v1", "level": "debug"}))["levels"]
    assert levels["iked.v1"] == "debug"
    await alpha.client.call("log_level", {"component": "iked.tunnels", "level": "none"})
    with pytest.raises(RpcError):
        await alpha.client.call("log_level", {"component": "iked.v1", "level": "loud"})
    await beta.configure(by_psk("beta"))
    await alpha.configure(by_psk("alpha"))
    await alpha.until_up("beta")
    assert (await parts(alpha))["iked.v1"].log_level == "debug"
    lines = [record.getMessage() for record in caplog.records if record.name == "agents.iked.v1"]
    for expected in ("main-mode 0x00000000, ", "main-mode 0x00000000, encrypted", "quick-mode 0x"):
        assert [line for line in lines if line.startswith("> ") and expected in line]
    assert "IKE SA established with" in "\n".join(lines)
    assert not [record for record in caplog.records if record.name == "agents.iked.tunnels"]


@pytest.mark.usefixtures("log_levels_as_before")
@pytest.mark.parametrize("mode", list(ExchangeMode))
async def test_no_secret_shows_in_log_status_or_events(
    pair: tuple[Daemon, Daemon], caplog: pytest.LogCaptureFixture, mode: ExchangeMode
) -> None:
    """A planted pre-shared key that both have, then one that only one end has, with everything logged."""
    alpha, beta = pair
    planted, wrong = b"planted secret of both", b"planted secret of one"
    for component in ("iked", *log_levels.PARTS):
        await alpha.client.call("log_level", {"component": component, "level": "debug"})
    await beta.configure(by_psk("beta", planted, mode=mode))
    await alpha.configure(by_psk("alpha", planted, mode=mode))
    await alpha.until_up("beta")
    keys = [spec.encryption_key for spec in alpha.driver.sas.values()]
    keys += [spec.integrity_key for spec in alpha.driver.sas.values()]
    await alpha.configure(by_psk("alpha", wrong, mode=mode))
    await (beta if mode is ExchangeMode.MAIN else alpha).until_event("ikev1.psk-mismatch")
    seen = [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    for daemon in pair:
        seen += [str(await daemon.status()), str(await daemon.events())]
    text = "\n".join(seen)
    assert "main-mode 0x" in text or "aggressive-mode 0x" in text
    for secret in (planted, wrong, *(key.reveal() for key in keys if key is not None)):
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in text
