"""One tunnel's life from one seed: a bad network, actions at random moments, then quiet; and what must hold in the end.

``python -m tests.harness.seeds --count 10000`` runs many, with progress (``make seeds``), and IKEv1's two modes after
them (:mod:`tests.harness.seeds_v1`), a tenth as many each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agents.contract.config import (
    Child,
    Childless,
    ConnectionType,
    Endpoint,
    Identity,
    IdentityType,
    IkePolicy,
    IpsecProposal,
    Mode,
    Reauthentication,
    Retransmission,
    SequenceNumbers,
)
from agents.contract.status import TunnelState
from agents.ike.errors import LocalError
from agents.ike.limits import HalfOpenLimits
from tests.harness.documents import FAST_ESP, FAST_IKE, Side, child, key, pair
from tests.harness.nat import NatBox
from tests.harness.pki import anchor, certify, root
from tests.harness.world import Host, Network, World, matched

PARIS, LYON, OUTSIDE, SECOND = "192.0.2.1", "192.0.2.2", "198.51.100.9", "192.0.2.11"
_SECRET = b"a shared secret of both"
_LOSS, _DUPLICATES, _DELAY_S = 0.2, 0.2, (0.005, 1.5)
_ROLES = (
    (ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY),
    (ConnectionType.BOTH, ConnectionType.BOTH),
    (ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY),
)
_AH = IpsecProposal(ah_integrity="hmac-sha2-256-128")
_KINDS: tuple[Callable[[], Child], ...] = (
    lambda: child(proposals=(_AH,)),
    lambda: child(proposals=(IpsecProposal(encryption="aes-128-gcm-16", ah_integrity="hmac-sha1-96"), FAST_ESP)),
    lambda: child(sequence_numbers=SequenceNumbers.PREFER_EXTENDED, ipcomp=True),
    lambda: child(sequence_numbers=SequenceNumbers.EXTENDED, pfs_groups=("group-31",)),
    lambda: child(local=(f"{PARIS}/32",), remote=(f"{LYON}/32",), mode=Mode.TRANSPORT),
)
_ODDITIES = ("cookies", "nat", "roams", "exchanges", "fragments", "reauth", "certificates", "childless")
_VERBS = ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike", "terminate", "initiate", "restart", "reauthenticate")


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Two hosts, what they are made of, and the NAT between them, if any."""

    world: World
    paris: Host
    lyon: Host
    sides: tuple[Side, Side]
    nat: NatBox | None = None
    roams: bool = False

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.paris, self.lyon


def build(seed: int, choose: random.Random) -> Cast:
    """Return the cast of this seed; every fifth has something uncommon about the path or the IKE SA."""
    world = World(seed, Network(loss=_LOSS, duplicates=_DUPLICATES, delay_s=_DELAY_S))
    odd = choose.choice(_ODDITIES) if seed % 5 == 4 else ""
    ike = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=20)
    if odd == "exchanges":
        ike = replace(ike, proposals=(replace(FAST_IKE, additional_key_exchanges=("group-32",)),))
    elif odd == "fragments":
        hybrid = replace(FAST_IKE, additional_key_exchanges=("ml-kem-768",))
        ike = replace(ike, proposals=(hybrid,), fragment_octets=576)
    elif odd == "childless":
        ike = replace(ike, childless=Childless.PREFER)
    elif odd == "reauth":
        order = choose.choice((Reauthentication.MAKE_BEFORE_BREAK, Reauthentication.BREAK_BEFORE_MAKE))
        ike = replace(ike, reauth_s=60, reauthentication=order)
    kinds = _KINDS[:-1] if odd in ("nat", "roams") else _KINDS  # transport mode is for hosts that stay where they are
    first = choose.choice(kinds)() if seed % 4 == 2 else child()
    children = (first,) if seed % 3 else (first, child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",)))
    roles = _ROLES[0] if odd in ("nat", "roams") else choose.choice(_ROLES)
    left, right = pair(types=roles, ike=ike, children=children, secret=_SECRET)
    nat = None
    if odd in ("nat", "roams"):
        identity = Identity(type=IdentityType.FQDN, value="paris.example")
        more = (SECOND,) if odd == "roams" else ()
        left.change(local=Endpoint(address=PARIS, identity=identity, more_addresses=more))
        seen = PARIS if odd == "roams" else OUTSIDE
        right.change(remote=Endpoint(address=seen, identity=identity, more_addresses=more))
        left.keys, right.keys = [key(_SECRET)], [key(_SECRET)]
    if odd == "nat":
        nat = world.network.rewrite = NatBox(world=world, inside=frozenset({PARIS}), outside=OUTSIDE)
    if seed % 20 == 19:
        right.keys = [key(b"another secret")]
    left.retransmission = right.retransmission = Retransmission(initial_ms=500, factor=1.6, tries=6)
    limits = HalfOpenLimits(cookie_threshold=0) if odd == "cookies" else None
    paris, lyon = world.host("paris", PARIS, limits=limits), world.host("lyon", LYON, limits=limits)
    if odd == "certificates":  # and a shell that takes its time
        for side, host in ((left, paris), (right, lyon)):
            certify(side, host)
            host.shell.delay_s = choose.choice(((0.0, 0.1), (0.0, 4.0), (0.5, 12.0)))
        if seed % 20 == 19:
            right.anchors = [anchor("root", root("Somebody Else"))]
    return Cast(world=world, paris=paris, lyon=lyon, sides=(left, right), nat=nat, roams=odd == "roams")


def run_seed(seed: int) -> Cast:
    """Run one seed to its quiet end."""
    choose = random.Random(repr(("scenario", seed)))
    cast = build(seed, choose)
    world, (left, right) = cast.world, cast.sides
    cast.lyon.configure(right.document())
    world.run(choose.choice((0.0, 0.0, 0.3)))
    cast.paris.configure(left.document())
    world.run(choose.uniform(0.5, 8.0))
    for _ in range(choose.randint(0, 4)):
        _act(cast, choose)
        world.run(choose.uniform(0.0, 6.0))
    network = world.network
    network.loss = network.duplicates = 0.0
    network.delay_s = (0.01, 0.01)
    world.run(240)
    for side in cast.sides:  # reauthentication would go on for ever, and so would attempts with the wrong secret
        policy = side.tunnels[0].ike
        side.change(enabled=seed % 20 != 19, ike=replace(policy, reauth_s=0, reauthentication=policy.reauthentication))
    if seed % 20 == 19 or left.tunnels[0].ike != cast.paris.engine.v2.tunnels[left.tunnels[0].id].config.ike:
        for host, side in zip(cast.hosts, cast.sides, strict=True):
            host.configure(side.document())
    world.run(160)
    return cast


def _act(cast: Cast, choose: random.Random) -> None:
    if cast.nat is not None and choose.random() < 0.4:
        cast.nat.rebind()
        return
    if cast.roams and choose.random() < 0.4:
        cast.paris.change_addresses(SECOND if cast.paris.addresses == (PARIS,) else PARIS)
        return
    host, verb = choose.choice(cast.hosts), choose.choice(_VERBS)
    _try(host, verb)
    if choose.random() < 0.4 and verb != "restart":  # collide on purpose
        _try(cast.lyon if host is cast.paris else cast.paris, verb)


def _try(host: Host, verb: str) -> None:
    if verb == "restart":
        document = host.document
        assert document is not None
        host.world.restart(host)
        host.configure(document)
        return
    if verb == "reauthenticate":
        (tunnel,) = host.engine.v2.tunnels.values()
        if tunnel.may_initiate and tunnel.established() and not tunnel.negotiating():
            host.reauthenticate()
        return
    try:
        host.do(getattr(host.engine, verb), host.status().id)
    except LocalError:
        host.world.drain()  # the verb does not fit the state or the role: then nothing must happen


def verdict(cast: Cast) -> str | None:
    """Return what is wrong in the end, or None."""
    paris, lyon = cast.hosts
    for host in cast.hosts:
        problem = _left_behind(host)
        if problem is not None:
            return f"{host.name}: {problem}"
    if not matched(paris, lyon, addresses=cast.nat is None):
        return f"data planes differ: {sorted(map(str, paris.data_plane.sas))} {sorted(map(str, lyon.data_plane.sas))}"
    left = {(sa.spi_i, sa.spi_r) for sa in paris.status().ike_sas if sa.state == "established"}
    right = {(sa.spi_i, sa.spi_r) for sa in lyon.status().ike_sas if sa.state == "established"}
    if left != right or len(left) > 1:
        return f"IKE SAs differ: {left} {right}"
    return _states(cast, bool(left))


def _left_behind(host: Host) -> str | None:
    if host.codes()["ike.bug"]:
        return f"{[report.message for report in host.reports if report.code == 'ike.bug']}"
    lingering = [str(sa) for sa in host.engine.v2.sas.values() if sa.state != "established"]
    if lingering and host.state is TunnelState.UP:
        return f"half-open or lingering {lingering}"
    if host.engine.v2.door.half_open:
        return f"counts half-open SAs {host.engine.v2.door.half_open}"
    children = [child for sa in host.engine.v2.sas.values() for child in sa.children]
    if host.engine.hub.esp_spis != {child.spi_in for child in children}:
        return f"{len(host.engine.hub.esp_spis)} SPIs taken for {len(children)} children"
    if host.engine.hub.cpis != {child.agreement.cpi_in for child in children} - {None}:
        return f"{len(host.engine.hub.cpis)} CPIs taken for {len(children)} children"
    if host.engine.hub.questions.pending() or host.engine.hub.installs:
        return "waits for effects"
    return None


def _states(cast: Cast, standing: bool) -> str | None:
    paris, lyon = cast.hosts
    states = {paris.state, lyon.state}
    children = len(paris.status().children)
    if states == {TunnelState.UP}:
        if len(paris.data_plane.sas) != 2 * children or len(paris.data_plane.policies) != 2 * children:
            return f"more SAs or policies than children: {len(paris.data_plane.sas)} {len(paris.data_plane.policies)}"
        return None if standing else "up without an IKE SA"
    if TunnelState.UP in states or TunnelState.PARTLY_UP in states:
        return f"states differ: {states}"
    if paris.data_plane.sas or paris.data_plane.policies or lyon.data_plane.policies:
        return "down with SAs in the data plane"
    held = [host for host in cast.hosts if any(each.held for each in host.engine.v2.tunnels.values())]
    mismatch = lyon.engine.counters["ike.psk-mismatch"] + paris.engine.counters["ike.peer-refused-auth"]
    return None if held or mismatch else f"down for no reason: {paris.status()} {lyon.status()}"


def check(seed: int) -> tuple[int, str | None]:
    """Run one seed; return it with what is wrong in the end."""
    try:
        return seed, verdict(run_seed(seed))
    except AssertionError as error:
        return seed, f"stopped: {error}"


def main() -> int:
    """Run many seeds and say how it goes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count-v1", type=int, help="of each mode of IKEv1; a tenth of --count where it is not given")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    of_v1 = -(-options.count // 10) if options.count_v1 is None else options.count_v1
    checks: list[tuple[str, Callable[[int], tuple[int, str | None]], int]] = [("IKEv2", check, options.count)]
    checks += [(f"IKEv1 {mode} mode", each, of_v1) for mode, each in seeds_v1().items()]
    wrong = 0
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for name, each, count in checks:
            began, of_these = time.monotonic(), 0
            seeds = range(options.first, options.first + count)
            for done, (seed, problem) in enumerate(pool.imap_unordered(each, seeds, chunksize=20), 1):
                if problem is not None:
                    of_these += 1
                    print(f"{name}, seed {seed}: {problem}", flush=True)
                if done % 500 == 0 or done == count:
                    spent_s = time.monotonic() - began
                    print(f"{name}: {done} seeds in {spent_s:.0f} s, {of_these} not clean", flush=True)
            wrong += of_these
    return 1 if wrong else 0


def seeds_v1() -> dict[str, Callable[[int], tuple[int, str | None]]]:
    """Return what runs one seed of each mode of IKEv1."""
    from tests.harness.seeds_v1 import check_aggressive, check_main  # it is made of this module

    return {"main": check_main, "aggressive": check_aggressive}


if __name__ == "__main__":
    sys.exit(main())
