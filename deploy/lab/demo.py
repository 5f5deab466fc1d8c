"""``make demo``: the main job on one machine, in the foreground.

Builds the lab, starts the console outside and an agent in each managed gateway's namespace, enrols the agents,
creates what an operator would create through the services the browser uses, deploys, waits until the tunnels are
up, keeps real traffic flowing and says where to log in. Ctrl-C or SIGTERM takes everything down again.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from deploy.lab import seed, workspace
from deploy.lab.netns import LabError, Namespace
from deploy.lab.profiles import swanctl_conf
from deploy.lab.relay import OutsideRelay
from deploy.lab.strongswan import StrongSwan
from deploy.lab.topology import EXTRANET, FIELD, LYON, OFFICE, PARIS, Network, Site
from deploy.lab.vici import Message
from deploy.lab.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
AGENT_PORT = 8470
UP_WITHIN_S = 60.0
SETUP_WITHIN_S = 60.0

_IKEV2: Message = {
    "version": "2",
    "proposals": ["aes256gcm16-prfsha384-ecp256", "aes256gcm16-prfsha384-x25519", "aes256-sha256-ecp256"],
    "dpd_delay": "10s",
}
_IKEV1: Message = {
    "version": "1",
    "aggressive": "no",
    "proposals": ["aes256-sha256-modp2048"],
    "dpd_delay": "10s",
    "dpd_timeout": "50s",
}
PEERS: Sequence[tuple[Site, str, Message, list[str]]] = (
    (EXTRANET, "A partner's strongSwan", _IKEV2, ["aes256gcm16-ecp256", "aes256gcm16", "aes256-sha256"]),
    (OFFICE, "An older office: IKEv1 in Main Mode", _IKEV1, ["aes256-sha256-modp2048"]),
)
"""The gateways that are not ours to manage: what they are, how their strongSwan speaks IKE, and its ESP."""


class Demo:
    """The whole demo; :meth:`run` returns when it is asked to stop."""

    def __init__(self, port: int, directory: Path, prefix: str = "", *, bare: bool = False) -> None:
        self.port = port
        self.bare = bare
        self.work = Workspace(directory)
        self.network = Network(prefix)
        self.stop = threading.Event()
        self.peers: list[StrongSwan] = []
        self.url = f"http://127.0.0.1:{port}"
        self.password = secrets.token_urlsafe(9)

    def run(self) -> None:
        """Build, start, wait for the tunnels, then stay until told to stop; always takes everything down."""
        failed = True
        try:
            self.start()
            failed = False
            self._announce()
            while not self.stop.wait(1.0):
                self.work.check_children()
        except Stopped:
            failed = False
        finally:
            self.close(keep_logs=failed)

    def start(self) -> None:
        """Bring everything up and write ``demo.json``; raises :class:`LabError` where something does not come up."""
        self.work.open()
        self._require_free_port()
        say("Building the lab: paris, lyon, extranet, office and field around an internet, a host behind each")
        self.work.namespaces.extend(self.network.namespaces.values())
        self.network.build()
        self.work.save()
        self._start_console()
        self._start_agents()
        if not self.bare:
            self._bring_tunnels_up()
        self.api_token = seed.create_token()
        self._write_description()

    def _bring_tunnels_up(self) -> None:
        keys = {site.name: secrets.token_hex(32) for site, *_ in PEERS}
        for site, _about, ike, esp in PEERS:
            self._start_peer(site, ike, esp, keys[site.name], site.outer_address)
        field_key = secrets.token_hex(32)
        field = self._start_peer(FIELD, _IKEV2, PEERS[0][3], field_key, f"team7.{seed.FIELD_DOMAIN}", calls=True)
        say("Creating keys and tunnels, and deploying them")
        seed.create_tunnels(keys, field_key)
        say("Waiting for the tunnels to come up")
        self.work.wait("paris takes the call from the field", lambda: _called(field), UP_WITHIN_S)
        began = time.monotonic()
        self.work.wait("tunnels up", self._tunnels_up, UP_WITHIN_S)
        say(f"All tunnels are up after {time.monotonic() - began:.1f} s")
        self._start_traffic()

    def close(self, *, keep_logs: bool) -> None:
        """Take everything down."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # going down already: let it finish
        for peer in self.peers:
            peer.stop()
        if hasattr(self.work, "sockets"):
            self.work.close(keep_logs=keep_logs)

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise LabError(f"port {self.port} is in use: choose another with DEMO_PORT=8001 make demo") from None

    def _start_console(self) -> None:
        say("Starting the console: broker, worker, scheduler and web server")
        data = self.work.directory / "data"
        seed.configure(data, self.work.sockets / "console")
        seed.set_up("admin", self.password)
        self.work.start(
            "console",
            [sys.executable, str(ROOT / "manage.py"), "console", "--bind", "127.0.0.1", "--port", str(self.port)],
            environment=os.environ, cwd=ROOT,
        )  # fmt: skip
        self.work.wait("the console answers", self._console_answers, SETUP_WITHIN_S)

    def _console_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/accounts/login/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            raise LabError(f"the console answers its log-in page with {error}") from None
        except OSError:
            return False  # not listening yet

    def _start_agents(self) -> None:
        relay = OutsideRelay()
        relay.add(f"unix:{self.work.sockets}/console.sock", f"tcp:127.0.0.1:{self.port}")
        for site in (PARIS, LYON):
            self._start_agent(site, relay)
        for site, about, *_ in PEERS:
            seed.create_extranet(site, about)

    def _start_agent(self, site: Site, relay: OutsideRelay) -> None:
        say(f"Enrolling the agent of {site.name} with a one-time token")
        namespace = self.network.gateways[site.name]
        inside = f"unix:{self.work.sockets}/agent-{site.name}.sock"
        self.work.start(
            f"relay-{site.name}",
            [
                sys.executable, "-m", "deploy.lab.relay",
                f"{inside}=tcp:127.0.0.1:{AGENT_PORT}", f"tcp:127.0.0.1:80=unix:{self.work.sockets}/console.sock",
            ],
            namespace=namespace, cwd=ROOT,
        )  # fmt: skip
        self.work.wait(f"relay of {site.name}", lambda: self._printed(f"relay-{site.name}", "ready"), SETUP_WITHIN_S)
        outside_port = relay.add("tcp:127.0.0.1:0", inside)
        token = seed.create_gateway(site, "127.0.0.1", outside_port)
        state, sockets = self.work.directory / "agents" / site.name, self.work.sockets / site.name
        agent = [sys.executable, "-m", "agents.cli"]
        places = ["--state", str(state), "--run", str(sockets)]
        token_file = self.work.sockets / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token, encoding="ascii")
        namespace.run(
            "env", f"PYTHONPATH={ROOT}", *agent, "enrol", "--console", "http://127.0.0.1:80",
            "--token-file", str(token_file), "--port", str(outside_port), *places,
        )  # fmt: skip
        token_file.unlink()
        self.work.start(
            f"agent-{site.name}", [*agent, "run", *places, "--listen", f"127.0.0.1:{AGENT_PORT}"],
            namespace=namespace, cwd=ROOT,
        )  # fmt: skip
        self.work.wait(f"agent of {site.name}", lambda: seed.contacted(site.name), SETUP_WITHIN_S)

    def _printed(self, log: str, line: str) -> bool:
        return line in (self.work.logs / f"{log}.log").read_text(encoding="utf-8")

    def _start_peer(
        self, site: Site, ike: Message, esp: list[str], psk: str, identity: str, *, calls: bool = False
    ) -> StrongSwan:
        """Start a strongSwan; one that ``calls`` is the only end that can, so it does again when paris is silent."""
        say(f"Starting strongSwan as the unmanaged gateway {site.name}")
        here, paris = site.outer_address, PARIS.outer_address
        child: Message = {
            "local_ts": site.lan_network, "remote_ts": PARIS.lan_network, "esp_proposals": esp,
            "dpd_action": "restart" if calls else "clear", "close_action": "start" if calls else "none",
        }  # fmt: skip
        connection: Message = {
            "local_addrs": here, "remote_addrs": paris, "encap": "yes", **ike,
            "local": {"auth": "psk", "id": identity}, "remote": {"auth": "psk", "id": paris},
            "children": {"lan": child},
        }  # fmt: skip
        secret = {"id-local": identity, "id-remote": paris, "secret": f"0x{psk}"}
        configuration = swanctl_conf({"connections": {"paris": connection}, "secrets": {"ike-paris": secret}})
        impatient = {"retransmit_tries": "2", "retransmit_timeout": "1.0"} if calls else None
        peer = StrongSwan(
            self.network.gateways[site.name], self.work.sockets / site.name, configuration, settings=impatient
        )
        self.peers.append(peer)
        peer.start()
        peer.wait_ready()
        return peer

    def _tunnels_up(self) -> bool:
        return seed.all_up() and all(workspace.ping(here, there) for here, there, _ in self._checks())

    def _checks(self) -> list[tuple[Namespace, str, str]]:
        hosts = self.network.hosts
        return [
            (hosts[PARIS.name], LYON.host_address, "paris-lyon"),
            (hosts[LYON.name], PARIS.host_address, "paris-lyon"),
            (hosts[PARIS.name], EXTRANET.host_address, "paris-extranet"),
            (hosts[EXTRANET.name], PARIS.host_address, "paris-extranet"),
            (hosts[PARIS.name], OFFICE.host_address, "paris-office"),
            (hosts[OFFICE.name], PARIS.host_address, "paris-office"),
            (hosts[PARIS.name], FIELD.host_address, "paris-field"),
            (hosts[FIELD.name], PARIS.host_address, "paris-field"),
        ]

    def _start_traffic(self) -> None:
        for index, (here, there, tunnel) in enumerate(self._checks()):
            self.work.start(
                f"traffic-{tunnel}-{index}",
                ["ping", "-q", "-i", f"{0.2 + 0.3 * index:.1f}", "-s", str(400 + 200 * index), there],
                namespace=here,
            )

    def _write_description(self) -> None:
        workspace.write_json(
            self.work.directory / "demo.json",
            {
                "url": self.url,
                "username": "admin",
                "password": self.password,
                "api_token": self.api_token,
                "namespaces": {role: namespace.name for role, namespace in self.network.namespaces.items()},
                "checks": [{"from": here.name, "to": there, "via": tunnel} for here, there, tunnel in self._checks()],
            },
        )

    def _announce(self) -> None:
        say("")
        say(f"  address   {self.url}")
        say("  user      admin")
        say(f"  password  {self.password}")
        say("")
        say(f"Also in {self.work.directory / 'demo.json'}. Ctrl-C ends the demo and removes everything it made.")


def _called(peer: StrongSwan) -> bool:
    """Let a peer of an on-demand tunnel call; False where nobody takes it yet."""
    try:
        peer.swanctl("--initiate", "--child", "lan", "--timeout", "5")
    except LabError:
        return False
    return True


class Stopped(Exception):  # noqa: N818 (not an error)
    """Someone asked the demo to end while it was still starting."""


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description="The main job of VPN Console, on this machine.")
    parser.add_argument("--port", type=int, default=8000, help="port of the console on 127.0.0.1")
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo", help="where the demo keeps its files")
    parser.add_argument("--prefix", default="", help="put before the names of the network namespaces")
    parser.add_argument("--bare", action="store_true", help="enrol the agents and leave the rest to the operator")
    options = parser.parse_args(arguments)
    try:
        workspace.enter_user_namespace("deploy.lab.demo", sys.argv[1:] if arguments is None else arguments)
        demo = Demo(options.port, options.directory.resolve(), options.prefix, bare=options.bare)

        def asked(_number: int, _frame: FrameType | None) -> None:
            if demo.stop.is_set():
                return
            demo.stop.set()
            if not (demo.work.directory / "demo.json").exists():
                raise Stopped

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, asked)
        demo.run()
    except LabError as error:
        print(f"\nThe demo cannot go on: {error}", file=sys.stderr)
        return 1
    say("The demo is down; nothing of it is left.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
