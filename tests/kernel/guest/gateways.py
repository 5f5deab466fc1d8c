"""Our ``iked`` on two gateways and strongSwan on a third, with a host behind each, as the demo's network has them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.contract.codec import encode, from_plain, to_plain
from agents.contract.config import (
    Child,
    ConnectionType,
    DataPlane,
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
from agents.contract.secret import Secret
from agents.contract.status import TunnelState, TunnelStatus
from agents.runtime import rpc
from agents.runtime.paths import Paths, write_private
from deploy.lab.netns import Namespace
from deploy.lab.strongswan import StrongSwan
from deploy.lab.topology import EXTRANET, LYON, PARIS, Network, Site
from tests.agentd.fakes import GATEWAY_ID, Authority, make_identity

PSK = Secret(b"correct horse battery staple")
TUNNEL_LYON = "00000000-0000-4000-8000-000000000001"
TUNNEL_EXTRANET = "00000000-0000-4000-8000-000000000002"
WAIT_S = 40.0
NAT_ADDRESS = "192.0.2.77"
"""Of paris, where a NAT hides it."""

_STRONGSWAN = f"""
connections {{
  paris {{
    version = 2
    local_addrs = {EXTRANET.outer_address}
    remote_addrs = {PARIS.outer_address}
    proposals = aes128gcm16-prfsha256-x25519
    local {{ auth = psk
      id = {EXTRANET.outer_address} }}
    remote {{ auth = psk
      id = {PARIS.outer_address} }}
    children {{
      lan {{
        local_ts = {EXTRANET.lan_network}
        remote_ts = {PARIS.lan_network}
        esp_proposals = aes256-sha256
      }}
    }}
  }}
  hidden {{
    version = 0
    local_addrs = {EXTRANET.outer_address}
    remote_addrs = {NAT_ADDRESS}
    proposals = aes128gcm16-prfsha256-x25519, aes128-sha256-modp2048
    local {{ auth = psk
      id = {EXTRANET.outer_address} }}
    remote {{ auth = psk
      id = {PARIS.outer_address} }}
    children {{
      hosts {{
        mode = transport
        esp_proposals = aes256-sha256
      }}
    }}
  }}
}}
secrets {{
  ike-paris {{
    id-local = {EXTRANET.outer_address}
    id-remote = {PARIS.outer_address}
    secret = 0x{PSK.reveal().hex()}
  }}
}}
"""


class Gateway:
    """One ``iked`` process in its namespace, driven through its control socket as ``agentd`` would."""

    def __init__(self, site: Site, namespace: Namespace, document: GatewayDocument) -> None:
        self.site = site
        self.namespace = namespace
        self.document = document
        self._directory = Path(os.environ.get("TMPDIR", "/tmp")) / site.name
        self._process: subprocess.Popen[bytes] | None = None
        self._agentd: subprocess.Popen[bytes] | None = None
        self.client: rpc.Client | None = None

    async def start(self) -> None:
        """Start the process and give it its document."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._process = self._spawn("iked")
        self.client = await self._connect(self._directory / "run" / "iked.sock", self._process)
        await self.client.call("configure", {"document": to_plain(self.document)})

    async def force_udp(self, tunnel_id: str) -> None:
        """Give the process a document whose tunnel always carries ESP in UDP."""
        await self.change(tunnel_id, lambda tunnel: dataclasses.replace(tunnel, force_udp_encapsulation=True))

    async def change(self, tunnel_id: str, edit: Callable[[Tunnel], Tunnel]) -> None:
        """Give the process a document in which one tunnel is another."""
        tunnels = tuple(edit(tunnel) if tunnel.id == tunnel_id else tunnel for tunnel in self.document.tunnels)
        self.document = dataclasses.replace(self.document, generation=self.document.generation + 1, tunnels=tunnels)
        assert self.client is not None
        await self.client.call("configure", {"document": to_plain(self.document)})

    async def start_agentd(self) -> rpc.Client:
        """Start ``agentd`` beside ``iked``, enrolled and with the document it accepted before; returns a client."""
        paths = Paths(state=self._directory / "state", run=self._directory / "run")
        paths.prepare()
        make_identity(paths.identity, Authority.make())
        write_private(paths.document, encode(self.document))
        self._agentd = self._spawn("agentd", "--listen", "127.0.0.1:8470")
        return await self._connect(paths.agentd_socket, self._agentd)

    def kill(self) -> None:
        """End the process without a chance to tidy up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask the processes to end."""
        for process in (self._agentd, self._process):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(WAIT_S)

    async def status(self) -> dict[str, Any]:
        """Return the whole status."""
        assert self.client is not None
        status: dict[str, Any] = await self.client.call("status", {})
        return status

    async def tunnel(self, tunnel_id: str) -> TunnelStatus:
        """Return the status of one tunnel."""
        plain = next(each for each in (await self.status())["tunnels"] if each["id"] == tunnel_id)
        return from_plain(TunnelStatus, plain)

    async def until(self, tunnel_id: str, reached: Callable[[TunnelStatus], bool]) -> TunnelStatus:
        """Wait until the tunnel's status is as wanted: ask again at every change the daemon announces."""
        assert self.client is not None
        last: TunnelStatus | None = None
        try:
            async with asyncio.timeout(WAIT_S):
                last = await self.tunnel(tunnel_id)
                if reached(last):
                    return last
                async for _ in self.client.notifications():
                    last = await self.tunnel(tunnel_id)
                    if reached(last):
                        return last
        except TimeoutError:
            pass
        raise AssertionError(f"{last}\n{self.log()}")

    async def until_up(self, tunnel_id: str) -> TunnelStatus:
        """Wait until the tunnel is up."""
        return await self.until(tunnel_id, lambda status: status.state is TunnelState.UP)

    async def act(self, verb: str, tunnel_id: str) -> None:
        """Perform one verb."""
        assert self.client is not None
        answer = await self.client.call("action", {"verb": verb, "tunnel_id": tunnel_id})
        assert answer["accepted"], answer

    def kernel_sas(self) -> dict[int, tuple[int, int]]:
        """Return SPI to octets and packets, of every SA that ``ip -s xfrm state`` shows."""
        return kernel_sas(self.namespace)

    def log(self) -> str:
        """Return the end of the daemon's log."""
        return "\n".join((self._directory / "log").read_text(errors="replace").splitlines()[-60:])

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        places = ("--state", str(self._directory / "state"), "--run", str(self._directory / "run"))
        with (self._directory / "log").open("ab") as log:
            return self.namespace.start(
                sys.executable, "-m", f"agents.{name}", *places, *arguments, log=log, environment=os.environ
            )

    async def _connect(self, path: Path, process: subprocess.Popen[bytes]) -> rpc.Client:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    return await rpc.Client.connect(path)
                except rpc.RpcUnavailable:
                    assert process.poll() is None, self.log()
                    await asyncio.sleep(0.05)  # a process that starts has no other sign than its socket


class Gateways:
    """The three gateways and their network."""

    def __init__(self) -> None:
        self.network = Network("vck")
        gateways = self.network.gateways
        self.paris = Gateway(PARIS, gateways["paris"], _document(PARIS, [_to_lyon(), _to_extranet()]))
        self.lyon = Gateway(LYON, gateways["lyon"], _document(LYON, [_from_lyon()]))
        self.extranet = gateways["extranet"]
        directory = Path(os.environ.get("TMPDIR", "/tmp")) / "strongswan"
        self.strongswan = StrongSwan(self.extranet, directory, _STRONGSWAN, kernel_esp=True)

    def build(self) -> None:
        """Make the network, and the routes that ``agentd`` would add in kernel mode."""
        self.network.build()
        for here, there in ((PARIS, LYON), (PARIS, EXTRANET), (LYON, PARIS), (EXTRANET, PARIS)):
            self.network.gateways[here.name].ip("route", "add", there.lan_network, "via", here.router_address)

    async def ping(self, source: Site, target: Site, count: int = 3) -> int:
        """Send echo requests from one gateway's host to the other's; returns how many were answered."""
        return await ping(self.network.hosts[source.name], target.host_address, count)

    async def ping_outside(self, source: Site, target: Site, count: int = 3) -> int:
        """Send echo requests from one gateway itself to the other."""
        return await ping(self.network.gateways[source.name], target.outer_address, count)


async def ping(namespace: Namespace, target: str, count: int = 3, payload: int = 200) -> int:
    """Send echo requests of compressible octets; returns how many were answered."""
    output = await asyncio.to_thread(
        namespace.run, "ping", "-n", "-c", str(count), "-i", "0.05", "-W", "2", "-s", str(payload), "-p", "76706e",
        target, check=False,
    )  # fmt: skip
    found = re.search(r"(\d+) received", output)
    assert found is not None, output
    return int(found[1])


def kernel_sas(namespace: Namespace) -> dict[int, tuple[int, int]]:
    """Return SPI to octets and packets, of every SA that ``ip -s xfrm state`` shows in a namespace."""
    listing = namespace.run("ip", "-s", "xfrm", "state")
    found = re.findall(
        r"spi 0x([0-9a-f]+)\(.*?lifetime current:\s*(\d+)\(bytes\), (\d+)\(packets\)", listing, re.DOTALL
    )
    return {int(spi, 16): (int(octets), int(packets)) for spi, octets, packets in found}


def _endpoint(site: Site) -> Endpoint:
    return Endpoint(address=site.outer_address, identity=Identity(type=IdentityType.IPV4, value=site.outer_address))


def _tunnel(tunnel_id: str, here: Site, there: Site, esp: IpsecProposal, connection: ConnectionType) -> Tunnel:
    return Tunnel(
        id=tunnel_id,
        name=f"{here.name}-{there.name}",
        local=_endpoint(here),
        remote=_endpoint(there),
        # With MOBIKE (RFC 4555) the opener tells where it is; without, a NAT's changes are followed from its packets.
        ike=IkePolicy(
            proposals=(IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31"),),
            mobike=False,
        ),
        children=(
            Child(
                name="lan",
                local_ts=(TrafficSelector(network=here.lan_network),),
                remote_ts=(TrafficSelector(network=there.lan_network),),
                proposals=(esp,),
            ),
        ),
        connection_type=connection,
    )


def _to_lyon() -> Tunnel:
    gcm = IpsecProposal(encryption="aes-256-gcm-16")
    return _tunnel(TUNNEL_LYON, PARIS, LYON, gcm, ConnectionType.INITIATOR_ONLY)


def _from_lyon() -> Tunnel:
    gcm = IpsecProposal(encryption="aes-256-gcm-16")
    return _tunnel(TUNNEL_LYON, LYON, PARIS, gcm, ConnectionType.RESPONDER_ONLY)


def _to_extranet() -> Tunnel:
    cbc = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
    return _tunnel(TUNNEL_EXTRANET, PARIS, EXTRANET, cbc, ConnectionType.BOTH)


def _document(site: Site, tunnels: list[Tunnel]) -> GatewayDocument:
    return GatewayDocument(
        gateway_id=GATEWAY_ID,
        gateway_name=site.name,
        generation=1,
        nonce="00" * 16,
        data_plane=DataPlane.AUTO,
        preshared_keys=(PresharedKey(id="one", secret=PSK, local_address=site.outer_address),),
        tunnels=tuple(tunnels),
    )
