"""What ``agentd`` meets in tests: an ``iked`` that does as told, a machine in memory, a certificate authority."""

from __future__ import annotations

import asyncio
import datetime
import errno
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agents.agentd import identity, nft
from agents.agentd.errors import HostError
from agents.agentd.host import Address, HostView, Link, Route, Rule
from agents.agentd.identity import GatewayIdentity
from agents.contract.codec import from_plain, to_plain
from agents.contract.config import (
    Child,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    PresharedKey,
    TrafficSelector,
    Tunnel,
)
from agents.contract.enrolment import CONSOLE_NAME, server_name
from agents.contract.events import KINDS, Event
from agents.contract.manual import ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import (
    ChildStatus,
    ComponentHealth,
    Counters,
    DataPlaneStatus,
    ExchangeCounters,
    TunnelState,
    TunnelStatus,
)
from agents.runtime import tracing
from agents.runtime.rpc import Connection, RpcError, Server
from agents.runtime.tracing import Tracer

GATEWAY_ID = "11111111-1111-4111-8111-111111111111"
TUNNEL_ID = "aaaaaaaa-1111-4111-8111-111111111111"
OTHER_TUNNEL_ID = "bbbbbbbb-2222-4222-8222-222222222222"


def tunnel(**changes: Any) -> Tunnel:
    """A tunnel from 127.0.0.1 to 192.0.2.9, 10.1.0.0/24 === 10.2.0.0/24."""
    local_ts = changes.pop("local_ts", ("10.1.0.0/24",))
    remote_ts = changes.pop("remote_ts", ("10.2.0.0/24",))
    local, remote = changes.pop("local", "127.0.0.1"), changes.pop("remote", "192.0.2.9")
    values: dict[str, Any] = {
        "id": TUNNEL_ID,
        "name": "paris-lyon",
        "local": Endpoint(address=local, identity=Identity(type=IdentityType.FQDN, value="paris")),
        "remote": Endpoint(address=remote, identity=Identity(type=IdentityType.FQDN, value="lyon")),
        "ike": IkePolicy(
            proposals=(IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31"),)
        ),
        "children": (
            Child(
                name="net",
                local_ts=tuple(TrafficSelector(network=network) for network in local_ts),
                remote_ts=tuple(TrafficSelector(network=network) for network in remote_ts),
                proposals=(IpsecProposal(encryption="aes-128-gcm-16"),),
            ),
        ),
    }
    return Tunnel(**(values | changes))


def document(generation: int = 1, *tunnels: Tunnel, **changes: Any) -> GatewayDocument:
    """A document with one PSK and one tunnel unless others are given."""
    values: dict[str, Any] = {
        "gateway_id": GATEWAY_ID,
        "gateway_name": "paris",
        "generation": generation,
        "nonce": "00" * 16,
        "preshared_keys": (PresharedKey(id="psk", secret=Secret(b"planted-psk-value")),),
        "tunnels": tunnels or (tunnel(),),
    }
    return GatewayDocument(**(values | changes))


def up_status(which: Tunnel | ManualTunnel, *, up: bool = True, interface: str | None = None) -> TunnelStatus:
    """The status of a tunnel whose children are all up, or all down."""
    return TunnelStatus(
        id=which.id,
        name=which.name,
        state=TunnelState.UP if up else TunnelState.DOWN,
        since=1_700_000_000.0,
        children=tuple(ChildStatus(name=child.name, up=up) for child in which.children),
        counters=Counters(bytes_in=5, packets_in=1),
        interface=interface,
    )


class FakeIked:
    """An ``iked`` without IKE: it remembers what it is given and says what the test puts in."""

    def __init__(self, path: Path, *, driver: str | None = "userspace", boot_id: str = "boot-1") -> None:
        self.path = path
        self.driver = driver
        self.boot_id = boot_id
        self.documents: list[GatewayDocument] = []
        self.actions: list[tuple[str, str]] = []
        self.up: set[str] = set()
        self.statuses: dict[str, TunnelStatus] = {}
        self.events: list[Event] = []
        self.ring = 1_000
        self.refuse_configuration = ""
        self.parts = (ComponentHealth(name="iked.v2", healthy=True, log_level="information"),)
        self.levels = {"iked": "information", "iked.v2": "information"}
        self.action_answer: dict[str, Any] = {"accepted": True, "message": "negotiating"}
        self.configured = asyncio.Event()
        self.tracer = Tracer()
        handlers = {
            "configure": self._configure,
            "status": self._status,
            "action": self._action,
            "events": self._events,
            "log_level": self._log_level,
            "trace": self._trace,
        }
        self._server = Server(path, handlers)

    async def __aenter__(self) -> FakeIked:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._server.__aexit__(*exception)

    async def set_up(self, *tunnel_ids: str) -> None:
        """Say that exactly these tunnels are up."""
        self.up = set(tunnel_ids)
        await self.changed()

    async def changed(self) -> None:
        """Tell ``agentd`` to ask again."""
        await self._server.notify("changed", {})

    def happen(self, code: str, message: str = "something") -> None:
        """Add an event to the ring."""
        sequence = self.events[-1].sequence + 1 if self.events else 1
        self.events.append(
            Event(
                sequence=sequence,
                time=1_700_000_000.0,
                code=code,
                severity=KINDS[code].severity,
                message=message,
                tunnel_id=TUNNEL_ID,
            )
        )

    async def _configure(self, params: dict[str, Any], _connection: Connection) -> Any:
        if self.refuse_configuration:
            raise RpcError("invalid", self.refuse_configuration)
        self.documents.append(from_plain(GatewayDocument, params["document"]))
        self.configured.set()
        return {}

    async def _status(self, _params: dict[str, Any], _connection: Connection) -> Any:
        current = self.documents[-1] if self.documents else None
        configured: list[Tunnel | ManualTunnel] = [*current.tunnels, *current.manual_tunnels] if current else []
        tunnels = [self.statuses.get(each.id) or up_status(each, up=each.id in self.up) for each in configured]
        return {
            "tunnels": to_plain(tunnels),
            "data_plane": to_plain(DataPlaneStatus(driver=self.driver, reason="because the test says so")),
            "generation": current.generation if current else 0,
            "health": to_plain(ComponentHealth(name="iked", healthy=True, pid=1)),
            "parts": to_plain(self.parts),
            "counters": {"drop.malformed": 3, "esp.replay": 2},
            "exchanges": to_plain((ExchangeCounters(exchange="ike-auth", requests_in=7, refused=1),)),
        }

    async def _action(self, params: dict[str, Any], _connection: Connection) -> Any:
        self.actions.append((params["verb"], params["tunnel_id"]))
        return self.action_answer

    async def _log_level(self, params: dict[str, Any], _connection: Connection) -> Any:
        if params:
            self.levels[params["component"]] = params["level"]
        return {"levels": self.levels}

    async def _trace(self, params: dict[str, Any], _connection: Connection) -> Any:
        return tracing.answer(params, self.tracer)

    async def _events(self, params: dict[str, Any], _connection: Connection) -> Any:
        after = params["after"] if params["boot_id"] == self.boot_id else 0
        kept = self.events[-self.ring :]
        last = self.events[-1].sequence if self.events else 0
        return {
            "boot_id": self.boot_id,
            "events": to_plain([event for event in kept if event.sequence > after]),
            "oldest": kept[0].sequence if kept else 1,
            "last": last,
        }


class FakeNft:
    """Our table in memory: counters that go on, and whatever else the last transaction put there."""

    def __init__(self) -> None:
        self.there = False
        self.counters: dict[str, int] = {}
        self.rest: list[nft.Command] = []
        self.transactions: list[list[nft.Command]] = []
        self.listings = 0
        self.generation = 1

    def meddle(self) -> None:
        """Take a rule away as somebody else would."""
        self.rest.pop()
        self.generation += 1

    def perform(self, commands: Sequence[nft.Command]) -> tuple[nft.Command, ...]:
        if "list" in commands[0]:
            self.listings += "table" in commands[0]["list"]
            if not self.there:
                raise HostError("change", "the packet filter", errno.ENOENT, "No such file or directory")
            counted = [{"counter": {"name": name, "packets": count}} for name, count in self.counters.items()]
            return ({"table": {"name": "vpnconsole"}}, *counted, *self.rest)
        self.transactions.append(list(commands))
        self.generation += 1
        self.rest = []
        for command in commands:
            verb, what = next(iter(command.items()))
            kind, value = next(iter(what.items()))
            if kind == "table":
                self.there = verb == "add"
                self.counters = self.counters if self.there else {}
            elif kind == "counter" and verb == "add":
                self.counters.setdefault(value["name"], 0)
            elif kind == "counter":
                del self.counters[value["name"]]
            elif verb == "add":
                self.rest.append(what)
        return ()


class FakeHost:
    """A machine in memory. ``refuse`` makes the next changes fail."""

    def __init__(self, view: HostView | None = None) -> None:
        self.view = view or HostView(
            links=(
                Link(index=1, name="lo", mtu=65_536, up=True),
                Link(index=2, name="wan", mtu=1_500, up=True),
                Link(index=3, name="vpnaaaaaaaa", mtu=1_400, up=True),
            ),
            addresses=(
                Address(interface="lo", address="127.0.0.1"),
                Address(interface="wan", address="198.51.100.2"),
                Address(interface="lan", address="10.1.0.1"),
            ),
            routes=(
                Route(network="0.0.0.0/0", interface="wan", gateway="198.51.100.1", protocol=3),
                Route(network="198.51.100.0/24", interface="wan", protocol=2),
            ),
        )
        self.settings = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "0"}
        self.vrfs = False
        self.nft = FakeNft()
        self.path_mtus: dict[str, int] = {}
        self.refuse: str | None = None
        self.writes = 0
        self._changed = asyncio.Event()

    async def look(self) -> HostView:
        return self.view

    async def add_route(self, route: Route) -> None:
        self._write("add route", route.network)
        assert route.key not in {each.key for each in self.view.routes}
        self.view = replace(self.view, routes=(*self.view.routes, route))

    async def replace_route(self, route: Route) -> None:
        self._write("replace route", route.network)
        kept = [each for each in self.view.routes if each.key != route.key]
        assert len(kept) == len(self.view.routes) - 1
        self.view = replace(self.view, routes=(*kept, route))

    async def remove_route(self, route: Route) -> None:
        self._write("remove route", route.network)
        self.view = replace(self.view, routes=tuple(each for each in self.view.routes if each != route))
        self._changed.set()

    async def add_rule(self, rule: Rule) -> None:
        self._write("add rule", str(rule.table))
        assert rule not in self.view.rules
        self.view = replace(self.view, rules=(*self.view.rules, rule))

    async def remove_rule(self, rule: Rule) -> None:
        self._write("remove rule", str(rule.table))
        self.view = replace(self.view, rules=tuple(each for each in self.view.rules if each != rule))

    async def has_vrfs(self) -> bool:
        return self.vrfs

    async def add_vrf(self, name: str, table: int, alias: str) -> None:
        self._write("make VRF", name)
        index = 1 + max(link.index for link in self.view.links)
        link = Link(index=index, name=name, mtu=65_575, up=True, kind="vrf", alias=alias, table=table)
        self.view = replace(self.view, links=(*self.view.links, link))

    async def remove_vrf(self, name: str, table: int) -> None:
        self._write("remove VRF", name)
        gone = self.view.link(name)
        links = [link for link in self.view.links if link.name != name]
        if gone is not None:
            links = [replace(link, master=None) if link.master == gone.index else link for link in links]
        self.view = replace(self.view, links=tuple(links))

    async def set_master(self, name: str, master: str | None) -> None:
        self._write("set the VRF of", name)
        vrf = self.view.link(master) if master is not None else None
        index = vrf.index if vrf is not None else None
        links = tuple(replace(link, master=index) if link.name == name else link for link in self.view.links)
        self.view = replace(self.view, links=links)

    async def filter(self, commands: Sequence[nft.Command]) -> tuple[nft.Command, ...]:
        if "list" not in commands[0]:
            self._write("change", "the packet filter")
        return self.nft.perform(commands)

    async def filter_generation(self) -> int:
        return self.nft.generation

    def drop(self, network: str) -> None:
        """Remove a route behind the agent's back."""
        self.view = replace(self.view, routes=tuple(each for each in self.view.routes if each.network != network))
        self._changed.set()

    async def set_link(self, name: str, mtu: int) -> None:
        self._write("set link", name)
        links = tuple(replace(link, mtu=mtu, up=True) if link.name == name else link for link in self.view.links)
        self.view = replace(self.view, links=links)

    def path_mtu(self, local: str, remote: str) -> int:
        return self.path_mtus.get(remote, 1_500)

    def setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def change_setting(self, name: str, value: str) -> None:
        self._write("set", name)
        self.settings[name] = value

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield None

    def _write(self, operation: str, target: str) -> None:
        if self.refuse is not None:
            raise HostError(operation, target, 1, self.refuse)
        self.writes += 1


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of the test's own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str = "fleet CA") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, public_key: ec.EllipticCurvePublicKey, *names: str, days_ago: int = 0) -> str:
        """Issue a certificate for these DNS names, good for a day."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issued")])
        certificate = (
            _builder(subject, self.certificate.subject, public_key, days_ago)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days_ago: int = 0
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days_ago)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_identity(directory: Path, authority: Authority) -> GatewayIdentity:
    """An enrolled gateway."""
    key = ec.generate_private_key(ec.SECP256R1())
    return identity.store(
        directory,
        gateway_id=GATEWAY_ID,
        gateway_name="paris",
        agent_port=0,
        key_pem=key_pem(key),
        certificate_pem=authority.issue(key.public_key(), server_name(GATEWAY_ID)),
        fleet_ca_pem=authority.pem,
    )


def client_context(
    directory: Path, authority: Authority, *, issuer: Authority | None = None, name: str | None = CONSOLE_NAME
) -> ssl.SSLContext:
    """A client's TLS settings: the certificate from ``issuer`` for ``name``, none at all when ``name`` is None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem)
    if name is not None:
        key = ec.generate_private_key(ec.SECP256R1())
        file = directory / f"client-{name}-{id(context)}.pem"
        file.write_bytes(key_pem(key) + (issuer or authority).issue(key.public_key(), name).encode())
        context.load_cert_chain(file)
    return context
