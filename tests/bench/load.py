"""``python -m tests.bench.load SUITE COUNT AT_ONCE``: initiators that drive whatever responder there is, over UDP.

Each is a protocol engine with one tunnel, an address and a socket of its own in the present network namespace; done
when its child SA is in place. The client's key and certificates come on standard input (:func:`main`), one line of JSON
with the seconds it took goes to standard output.
"""

from __future__ import annotations

import gc
import json
import selectors
import socket
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agents.contract import algorithms
from agents.contract.config import GatewayDocument
from agents.contract.secret import Secret
from agents.ike import outputs
from agents.ike.crypto import signature
from agents.ike.engine import Engine
from agents.iked.entropy import OsEntropy
from tests.bench import suites
from tests.bench.suites import Proofs
from tests.pki import Authority, Leaf, PrivateKey, spki

_PORT, _NAT_T_PORT = 500, 4500
_MARKER = bytes(4)
_LIMIT_S = 60


class Initiator:
    """One engine with one tunnel and sockets of its own; established when its child has been installed."""

    def __init__(self, number: int, config: GatewayDocument, proofs: Proofs, selector: selectors.BaseSelector) -> None:
        self.engine = Engine(OsEntropy())
        self.established = False
        self._proofs = proofs
        self._selector = selector
        self._address = suites.address(number)
        self._sockets = {port: self._bound(port) for port in (_PORT, _NAT_T_PORT)}
        self.engine.configure(config, time.monotonic())
        self.drain()

    def readable(self, local_port: int) -> None:
        """Take one datagram; on port 4500, where strongSwan goes for encapsulation, there is a marker before it."""
        octets, (remote, port) = self._sockets[local_port].recvfrom(65_535)
        if local_port == _NAT_T_PORT:
            octets = octets.removeprefix(_MARKER)
        path = outputs.Path(local_address=self._address, local_port=local_port, remote_address=remote, remote_port=port)
        self.engine.receive(octets, path, time.monotonic())
        self.drain()

    def tick(self) -> None:
        """Send again what is due."""
        deadline = self.engine.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            self.engine.handle_timer(time.monotonic())
            self.drain()

    def drain(self) -> None:
        """Perform the outputs; installing is instant."""
        now = time.monotonic()
        while found := self.engine.take_outputs():
            for output in found:
                match output:
                    case outputs.Transmit(datagram=datagram, path=path):
                        marker = _MARKER if path.local_port == _NAT_T_PORT else b""
                        to = path.remote_address, path.remote_port
                        self._sockets[path.local_port].sendto(marker + datagram, to)
                    case outputs.FindPsk():
                        self.engine.psk_found(output.request_id, Secret(suites.PSK), now)
                    case outputs.Sign():
                        row = algorithms.SIGNATURE[output.signature]
                        signed = signature.sign(self._proofs.client.key, row, output.octets)
                        self.engine.signed(output.request_id, signed, now)
                    case outputs.Validate():
                        verdict = outputs.Verdict(public_key=spki(self._proofs.gateway.certificate))
                        self.engine.validated(output.request_id, verdict, now)
                    case outputs.InstallChild():
                        self.engine.child_installed(output.install_id, now)
                        self.established = True

    def close(self) -> None:
        """Give the sockets back; the responder keeps its SA."""
        for each in self._sockets.values():
            self._selector.unregister(each)
            each.close()

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        bound.bind((self._address, port))
        self._selector.register(bound, selectors.EVENT_READ, (self, port))
        return bound


def establish(configs: list[GatewayDocument], proofs: Proofs, at_once: int) -> float:
    """Run one handshake per document with ``at_once`` under way at any time; returns the seconds it took."""
    gc.freeze()
    count = len(configs)
    with selectors.DefaultSelector() as selector:
        under_way: set[Initiator] = set()
        started = done = 0
        began = time.perf_counter()
        while done < count:
            while started < count and len(under_way) < at_once:
                under_way.add(Initiator(started, configs[started], proofs, selector))
                started += 1
            ready = selector.select(0.2)
            for key, _ in ready:
                initiator, port = key.data
                if initiator not in under_way:
                    continue
                initiator.readable(port)
                if initiator.established:
                    initiator.close()
                    under_way.discard(initiator)
                    done += 1
            if not ready:
                for initiator in under_way:
                    initiator.tick()
            if time.perf_counter() > began + _LIMIT_S:
                raise RuntimeError(f"only {done} of {count} handshakes were completed in {_LIMIT_S} s")
        return time.perf_counter() - began


def main() -> None:
    """Run as many handshakes as asked for."""
    suite = suites.SUITES[int(sys.argv[1])]
    proofs = _read(json.load(sys.stdin))
    configs = [suites.initiator_document(suite, number, proofs) for number in range(int(sys.argv[2]))]
    print(json.dumps({"elapsed_s": establish(configs, proofs, int(sys.argv[3]))}))


def _read(given: dict[str, str]) -> Proofs:
    certificates = {name: x509.load_pem_x509_certificate(given[name].encode()) for name in ("ca", "client", "gateway")}
    key: PrivateKey = load_pem_private_key(given["key"].encode(), None)  # type: ignore[assignment]
    return Proofs(
        authority=Authority(key=key, certificate=certificates["ca"]),
        client=Leaf(key=key, certificate=certificates["client"]),
        gateway=Leaf(key=key, certificate=certificates["gateway"]),
    )


if __name__ == "__main__":
    main()
