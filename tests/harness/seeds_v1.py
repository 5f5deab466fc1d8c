"""One IKEv1 tunnel's life from one seed, as :mod:`tests.harness.seeds` has IKEv2's: Main or Aggressive Mode.

Nothing in IKEv1 answers a Delete, so what must hold in the end is asked after a longer quiet: both ends have the same
SAs with equal keys, or neither has any, and nothing is left over.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from agents.contract.config import (
    Child,
    ConnectionType,
    DpdAction,
    Endpoint,
    ExchangeMode,
    Identity,
    IdentityType,
    IpsecProposal,
    Mode,
    Retransmission,
    SequenceNumbers,
)
from agents.contract.status import TunnelState
from agents.ike.errors import LocalError
from tests.harness.documents import Side, key
from tests.harness.nat import NatBox
from tests.harness.pki import anchor, certify, root
from tests.harness.seeds import Cast
from tests.harness.v1 import FAST_ESP, LYON, PARIS, VOICE, child, cookies, left_behind, pair, policy
from tests.harness.world import Host, Network, World, matched

OUTSIDE = "198.51.100.9"
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
    lambda: child(proposals=(replace(FAST_ESP, ah_integrity="hmac-sha1-96"), FAST_ESP)),
    lambda: child(sequence_numbers=SequenceNumbers.PREFER_EXTENDED, ipcomp=True),
    lambda: child(sequence_numbers=SequenceNumbers.EXTENDED, pfs_groups=("group-19",)),
    lambda: child(remote=("10.2.0.0/16", "10.3.0.0/16"), lifetime_bytes=2**30),
    lambda: child(local=(f"{PARIS}/32",), remote=(f"{LYON}/32",), mode=Mode.TRANSPORT),
)
_ODDITIES = ("nat", "fragments", "certificates", "short", "actions")
_VERBS = (
    "rekey_child",
    "rekey_ike",
    "clear_ipsec",
    "clear_ike",
    "terminate",
    "initiate",
    "restart",
    "dataplane_lost",
    "configure",
)


def build(seed: int, mode: ExchangeMode, choose: random.Random) -> Cast:
    """Return the cast of this seed; every fifth has something uncommon about the path or the ISAKMP SA."""
    world = World((str(mode), seed), Network(loss=_LOSS, duplicates=_DUPLICATES, delay_s=_DELAY_S))
    odd = choose.choice(_ODDITIES) if seed % 5 == 4 else ""
    ike = policy(mode, dpd_interval_s=20)
    if odd == "fragments":
        ike = replace(ike, fragment_octets=576)
    if odd == "actions":
        ike = replace(ike, dpd_action=choose.choice((DpdAction.CLEAR, DpdAction.HOLD)))
    kinds = _KINDS[:-1] if odd == "nat" else _KINDS  # transport mode is for hosts that stay where they are
    first = choose.choice(kinds)() if seed % 4 == 2 else child()
    if odd == "short":
        ike, first = replace(ike, lifetime_s=60), replace(first, lifetime_s=45)
    children = (first,) if seed % 3 else (first, VOICE)
    roles = _ROLES[0] if odd == "nat" else choose.choice(_ROLES)
    left, right = pair(types=roles, ike=ike, children=children, secret=_SECRET)
    nat = _before_nat(world, left, right) if odd == "nat" else None
    if seed % 20 == 19:
        right.keys = [key(b"another secret")]
    left.retransmission = right.retransmission = Retransmission(initial_ms=500, factor=1.6, tries=6)
    paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
    if odd in ("certificates", "fragments"):  # and a shell that takes its time
        for side, host in ((left, paris), (right, lyon)):
            certify(side, host)
            host.shell.delay_s = choose.choice(((0.0, 0.1), (0.0, 4.0), (0.5, 8.0)))
        if seed % 20 == 19:
            right.anchors = [anchor("root", root("Somebody Else"))]
    return Cast(world=world, paris=paris, lyon=lyon, sides=(left, right), nat=nat)


def _before_nat(world: World, left: Side, right: Side) -> NatBox:
    identity = Identity(type=IdentityType.FQDN, value="paris.example")
    left.change(local=Endpoint(address=PARIS, identity=identity))
    right.change(remote=Endpoint(address=OUTSIDE, identity=identity))
    left.keys, right.keys = [key(_SECRET)], [key(_SECRET)]
    box = NatBox(world=world, inside=frozenset({PARIS}), outside=OUTSIDE)
    world.network.rewrite = box
    return box


def run_seed(seed: int, mode: ExchangeMode) -> Cast:
    """Run one seed to its quiet end."""
    choose = random.Random(repr(("scenario", str(mode), seed)))
    cast = build(seed, mode, choose)
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
    if left.tunnels[0].ike.dpd_action is not DpdAction.RESTART:  # an operator is waited for, or traffic
        for host in cast.hosts:
            _try(cast, host, "initiate")
        world.run(60)
    for host, side in zip(cast.hosts, cast.sides, strict=True):
        tunnel = side.tunnels[0]  # renewing would go on for ever, and so would attempts with the wrong secret
        children = tuple(replace(each, lifetime_s=86_400) for each in tunnel.children)
        side.change(enabled=seed % 20 != 19, ike=replace(tunnel.ike, lifetime_s=86_400), children=children)
        host.configure(side.document())
    world.run(200)
    return cast


def _act(cast: Cast, choose: random.Random) -> None:
    if cast.nat is not None and choose.random() < 0.4:
        cast.nat.rebind()
        return
    host, verb = choose.choice(cast.hosts), choose.choice(_VERBS)
    _try(cast, host, verb)
    if choose.random() < 0.4 and verb != "restart":  # collide on purpose
        _try(cast, cast.lyon if host is cast.paris else cast.paris, verb)


def _try(cast: Cast, host: Host, verb: str) -> None:
    document = host.document
    assert document is not None
    if verb == "restart":
        host.world.restart(host)
        host.configure(document)
    elif verb == "dataplane_lost":
        host.data_plane.sas.clear()
        host.data_plane.held.clear()
        host.data_plane.policies.clear()
        host.do(host.engine.dataplane_lost)
    elif verb == "configure":
        side = cast.sides[cast.hosts.index(host)]
        replay = 32 if side.tunnels[0].children[0].replay_window == 64 else 64
        side.change(children=tuple(replace(each, replay_window=replay) for each in side.tunnels[0].children))
        host.configure(side.document())
    else:
        try:
            host.do(getattr(host.engine, verb), host.status().id)
        except LocalError:
            host.world.drain()  # the verb does not fit the state or the role: then nothing must happen


def verdict(cast: Cast) -> str | None:
    """Return what is wrong in the end, or None."""
    for host in cast.hosts:
        problem = left_behind(host)
        if problem is not None:
            return f"{host.name}: {problem}"
        lingering = [str(sa) for sa in host.engine.v1.sas.values() if not sa.standing] if host.engine.v1 else []
        if lingering and host.state is TunnelState.UP:
            return f"{host.name}: half-open or lingering {lingering}"
    paris, lyon = cast.hosts
    if not matched(paris, lyon, addresses=cast.nat is None):
        return f"data planes differ: {sorted(map(str, paris.data_plane.sas))} {sorted(map(str, lyon.data_plane.sas))}"
    if cookies(paris) != cookies(lyon) or len(cookies(paris)) > 1:
        return f"ISAKMP SAs differ: {cookies(paris)} {cookies(lyon)}"
    return _states(cast)


def _states(cast: Cast) -> str | None:
    paris, lyon = cast.hosts
    states = {paris.state, lyon.state}
    pairs = sum(len(each.remote_ts) for each in cast.sides[0].tunnels[0].children)
    if states == {TunnelState.UP}:
        if len(paris.data_plane.sas) != 2 * pairs or len(paris.data_plane.policies) != 2 * pairs:
            return f"more SAs or policies than pairs: {len(paris.data_plane.sas)} {len(paris.data_plane.policies)}"
        return None if cookies(paris) else "up without an ISAKMP SA"
    if TunnelState.UP in states or TunnelState.PARTLY_UP in states:
        return f"states differ: {states}"
    if paris.data_plane.sas or paris.data_plane.policies or lyon.data_plane.policies:
        return "down with SAs in the data plane"
    held = [each for host in cast.hosts if host.engine.v1 for each in host.engine.v1.tunnels.values() if each.held]
    disabled = any(not side.tunnels[0].enabled for side in cast.sides)
    return None if held or disabled else f"down for no reason: {paris.status()} {lyon.status()}"


def check_main(seed: int) -> tuple[int, str | None]:
    """Run one seed of Main Mode; return it with what is wrong in the end."""
    return _check(seed, ExchangeMode.MAIN)


def check_aggressive(seed: int) -> tuple[int, str | None]:
    """Run one seed of Aggressive Mode; return it with what is wrong in the end."""
    return _check(seed, ExchangeMode.AGGRESSIVE)


def _check(seed: int, mode: ExchangeMode) -> tuple[int, str | None]:
    try:
        return seed, verdict(run_seed(seed, mode))
    except AssertionError as error:
        return seed, f"stopped: {error}"
