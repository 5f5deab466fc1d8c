"""What must hold between the rows of a tunnel and between tunnels, said in plain words beside the field.

Pure checks on rows given; they read nothing further. What is merely unwise is in ``match``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from django.core.exceptions import ValidationError

from agents.contract.carriage import LOCAL_CONTEXT, MOST_ROUTES
from agents.contract.config import Endpoint, Identity, IdentityType
from agents.contract.errors import FieldError
from vpnconsole.gateways.choices import DataPlaneChoice, IdentityTypeChoice
from vpnconsole.gateways.models import Gateway, GatewayContext
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn.choices import AttachmentChoice, ConnectionTypeChoice, ModeChoice, Side
from vpnconsole.vpn.inputs import EndInput
from vpnconsole.vpn.models import SelectorPair, Tunnel, TunnelEnd, TunnelRoute
from vpnconsole.vpn.traffic import Traffic, ambiguous, covers, networks_overlap, overlap

MOST_SELECTORS = 64


def build_end(errors: FieldErrors, side: str, data: EndInput) -> TunnelEnd:
    """Return the end as a row, its identity filled in and in canonical form; notes what is wrong with it alone."""
    key = f"end_{side}"
    end = TunnelEnd(side=side, address=data.address.strip(), connection_type=data.connection_type)
    end.identity_type, end.identity_value = _identity(data)
    if data.gateway is None:
        errors.add(f"{key}.gateway", "Choose a gateway.", "required")
    else:
        end.gateway = data.gateway
        end.context = _context(errors, f"{key}.context", end.gateway, data.context)
        end.endpoint_context = _context(errors, f"{key}.endpoint_context", end.gateway, data.endpoint_context)
    end.route_cost = data.route_cost
    errors.clean(key, end, without=("tunnel",) if data.gateway else ("tunnel", "gateway"))
    if errors.any_below(f"{key}.address", f"{key}.identity_type", f"{key}.identity_value"):
        return end
    try:
        identity = Identity(type=IdentityType(end.identity_type), value=end.identity_value)
    except FieldError as error:
        errors.add(f"{key}.identity_value", f"This identity {error.problem}.", "identity")
        return end
    try:
        Endpoint(address=end.address, identity=identity)
    except FieldError as error:
        errors.add(f"{key}.address", f"This {error.problem}.", "address")
    return end


def _identity(data: EndInput) -> tuple[str, str]:
    kind, value = data.identity_type, data.identity_value.strip()
    text = value or data.address.strip()
    if (not value and kind in ("", IdentityTypeChoice.IPV4, IdentityTypeChoice.IPV6)) or kind in ("ipv4", "ipv6"):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return kind or IdentityTypeChoice.IPV4, text
        return kind or (IdentityTypeChoice.IPV4 if address.version == 4 else IdentityTypeChoice.IPV6), str(address)
    if kind == IdentityTypeChoice.KEY_ID:
        return kind, value.lower()
    return kind or IdentityTypeChoice.FQDN, value


def check_address(errors: FieldErrors, key: str, end: TunnelEnd) -> None:
    """Note an address that the end's gateway does not have."""
    known = {row.address for row in end.gateway.addresses.all()}
    if end.address not in known and f"{key}.address" not in errors:
        errors.add(f"{key}.address", f"{end.gateway.name} has no address {end.address}: add it to the gateway first.")


def check_ends(errors: FieldErrors, end_a: TunnelEnd, end_b: TunnelEnd, *, starts: bool = True) -> None:
    """Note what is wrong between the two ends; with ``starts`` one of them has to start the negotiation."""
    check_address(errors, "end_a", end_a)
    check_address(errors, "end_b", end_b)
    if errors.any_below("end_a", "end_b"):
        return
    versions = [ipaddress.ip_address(end.address).version for end in (end_a, end_b)]
    if end_a.gateway == end_b.gateway:
        errors.add("end_b.gateway", "Both ends are the same gateway: choose another one.", "same")
    elif versions[0] != versions[1]:
        errors.add(
            "end_b.address",
            f"One end has an IPv{versions[0]} address, this one IPv{versions[1]}: both must be of the same kind.",
            "family",
        )
    elif end_a.address == end_b.address:
        errors.add("end_b.address", "Both ends have the same address.", "same")
    if not (end_a.gateway.is_managed or end_b.gateway.is_managed):
        errors.add("end_b.gateway", "Neither gateway is managed by this console: one of them has to be.", "extranet")
    types = {end_a.connection_type, end_b.connection_type} if starts else set()
    if types == {ConnectionTypeChoice.RESPONDER_ONLY}:
        errors.add("end_b.connection_type", "Both ends only answer, so neither would ever start.", "deadlock")
    elif types == {ConnectionTypeChoice.INITIATOR_ONLY}:
        errors.add("end_b.connection_type", "Both ends only start and neither answers.", "deadlock")


def build_routes(errors: FieldErrors, side: str, data: EndInput) -> list[TunnelRoute]:
    """Return the static routes of an end as rows; what is wrong with one stands beside the list."""
    key, rows = f"end_{side}.routes", list[TunnelRoute]()
    for route in data.routes:
        if route.cost is None:
            errors.add(key, f"{route.network}: write a network, or a network and its cost.", "cost")
            continue
        row = TunnelRoute(network=route.network, cost=route.cost)
        try:
            row.full_clean(exclude={"end"}, validate_constraints=False)
        except ValidationError as error:
            errors.add(key, f"{route.network}: {error.messages[0]}", "route")
            continue
        if row.network in [earlier.network for earlier in rows]:
            errors.add(key, f"{row.network} stands there twice.", "twice")
        rows.append(row)
    if len(rows) > MOST_ROUTES:
        errors.add(key, f"At most {MOST_ROUTES} routes.", "count")
    if rows and data.gateway is not None and not data.gateway.is_managed:
        errors.add(key, f"{data.gateway.name} is not ours: its routes are set there.", "extranet")
    return rows


def _context(errors: FieldErrors, field: str, gateway: Gateway, name: str) -> GatewayContext | None:
    if name in ("", LOCAL_CONTEXT):
        return None
    found = gateway.contexts.filter(name=name).first()
    if found is None:
        errors.add(field, f"{gateway.name} has no context {name}: add it to the gateway first.", "context")
    return found


def check_endpoint_contexts(errors: FieldErrors, ends: Sequence[TunnelEnd], others: Iterable[Tunnel]) -> None:
    """Note enabled tunnels that have an address of ours in another context: all it sends is routed by one table."""
    enabled = [other for other in others if other.enabled]
    for end in ends:
        field = f"end_{end.side}.endpoint_context"
        for other in enabled if end.gateway.is_managed else ():
            theirs = next((each for each in other.ends.all() if each.gateway_id == end.gateway_id), None)
            if theirs is None or theirs.address != end.address or field in errors:
                continue
            if theirs.endpoint_context_id != end.endpoint_context_id:
                name = theirs.endpoint_context.name if theirs.endpoint_context else LOCAL_CONTEXT
                errors.add(
                    field,
                    f"Tunnel {other.name} has {end.address} in context {name}, and an address is in one context: use "
                    "that, or another address. To move both, switch one off until both are changed.",
                    "clash",
                )


def check_selectors(errors: FieldErrors, tunnel: Tunnel, pairs: Sequence[SelectorPair]) -> None:
    """Note what is wrong with each pair and between pairs of one tunnel."""
    if not 1 <= len(pairs) <= MOST_SELECTORS:
        errors.add("selectors", f"Give 1 to {MOST_SELECTORS} pairs of networks.", "count")
    for index, pair in enumerate(pairs):
        key = f"selectors.{index}"
        errors.clean(key, pair, without=("tunnel",))
        if not errors.any_below(key):
            _check_pair(errors, key, tunnel, pair)
    for index, pair in enumerate(pairs):
        for earlier in range(index):
            if errors.any_below(f"selectors.{index}", f"selectors.{earlier}"):
                continue
            if covers(traffic(pairs[earlier], Side.A), traffic(pair, Side.A)):
                errors.add(
                    f"selectors.{index}.network_b",
                    f"Pair {earlier + 1} ({pairs[earlier]}) comes first and takes every packet of this one: move this "
                    "one up, or leave it out.",
                    "covered",
                )


def _check_pair(errors: FieldErrors, key: str, tunnel: Tunnel, pair: SelectorPair) -> None:
    network_a, network_b = ipaddress.ip_network(pair.network_a), ipaddress.ip_network(pair.network_b)
    if network_a.version != network_b.version:
        errors.add(
            f"{key}.network_b",
            f"{network_a} is IPv{network_a.version}, {network_b} is IPv{network_b.version}: "
            "both networks of a pair must be of the same kind.",
            "family",
        )
    elif networks_overlap(network_a, network_b):
        everything = [network.prefixlen == 0 for network in (network_a, network_b)]
        if not any(everything):
            errors.add(
                f"{key}.network_b",
                f"{network_a} and {network_b} overlap: the same addresses cannot be on both sides.",
                "overlap",
            )
        elif all(everything) and tunnel.attachment != AttachmentChoice.INTERFACE:
            errors.add(
                f"{key}.network_b",
                "Both sides are everything, which takes every packet there is: give the tunnel an interface of its "
                "own, so that routes say what goes through it.",
                "overlap",
            )
        elif tunnel.add_routes:
            errors.add(
                f"{key}.network_b",
                "A tunnel for everything cannot add its routes by itself, it would catch its own encrypted packets: "
                "turn off adding routes.",
                "everything",
            )
    for side in Side.values:
        if getattr(pair, f"port_{side}_start") > getattr(pair, f"port_{side}_end"):
            errors.add(f"{key}.port_{side}_end", "The last port comes before the first.", "range")
    ports = (pair.port_a_start, pair.port_a_end, pair.port_b_start, pair.port_b_end)
    if pair.protocol == 0 and ports != (0, 65_535, 0, 65_535):
        errors.add(f"{key}.protocol", "Ports need a protocol that has them: 6 for TCP, 17 for UDP.", "ports")


def check_mode(errors: FieldErrors, tunnel: Tunnel, ends: Sequence[TunnelEnd], pairs: Sequence[SelectorPair]) -> None:
    """Note networks that transport mode cannot carry: it protects what the two gateways themselves say."""
    for index, pair in enumerate(pairs):
        policy = tunnel.ipsec_policy_of(pair)
        check_transport(errors, f"Policy {policy.name} is", policy.mode, ends, {index: pair})


def check_transport(
    errors: FieldErrors, subject: str, mode: str, ends: Sequence[TunnelEnd], pairs: Mapping[int, SelectorPair]
) -> None:
    """Note networks beside their pair, by its index, that ``mode`` cannot carry; ``subject`` asks for the mode."""
    if mode != ModeChoice.TRANSPORT:
        return
    for index, pair in pairs.items():
        for end in ends:
            network = ipaddress.ip_network(getattr(pair, f"network_{end.side}"))
            own = ipaddress.ip_network(end.address)
            if network != own:
                errors.add(
                    f"selectors.{index}.network_{end.side}",
                    f"{subject} for transport mode, which carries only traffic of the gateway itself: "
                    f"{own}. Choose tunnel mode, or this network.",
                    "mode",
                )


def traffic(pair: SelectorPair, side: str) -> Traffic:
    """Return a pair as the gateway on ``side`` sees it."""
    a = (ipaddress.ip_network(pair.network_a), (pair.port_a_start, pair.port_a_end))
    b = (ipaddress.ip_network(pair.network_b), (pair.port_b_start, pair.port_b_end))
    (local, local_ports), (remote, remote_ports) = (a, b) if side == Side.A else (b, a)
    return Traffic(
        local=local, remote=remote, protocol=pair.protocol, local_ports=local_ports, remote_ports=remote_ports
    )


def check_endpoints_unique(
    errors: FieldErrors, tunnel: Tunnel, ends: Sequence[TunnelEnd], others: Iterable[Tunnel]
) -> None:
    """Note another tunnel between the same addresses under the same identities: IKE could not tell the two apart."""
    if tunnel.is_on_demand:
        return
    seen = set(_pairs_seen(ends))
    for other in others:
        if not other.is_on_demand and seen & set(_pairs_seen([other.end_a, other.end_b])):
            errors.add(
                "end_b.identity_value",
                f"Tunnel {other.name} joins the same addresses under the same identities already, so the gateways "
                "could not tell the two apart: use another address or another identity.",
                "clash",
            )


def _pairs_seen(ends: Sequence[TunnelEnd]) -> Iterable[tuple[object, ...]]:
    for local, remote in (ends, ends[::-1]):
        if local.gateway.is_managed:
            yield (local.gateway_id, *_face(local), *_face(remote))


def _face(end: TunnelEnd) -> tuple[str, str, str]:
    return end.address, end.identity_type, end.identity_value


def check_traffic_unique(
    errors: FieldErrors,
    tunnel: Tunnel,
    ends: Sequence[TunnelEnd],
    pairs: Sequence[SelectorPair],
    others: Iterable[Tunnel],
) -> None:
    """Note enabled tunnels on the same managed gateway that claim the same packets, with nothing to choose by."""
    for index, side, gateway, other, other_pair in shared_traffic(ends, pairs, others):
        mine, theirs = traffic(pairs[index], side), traffic(other_pair, other_side(other, gateway))
        field = f"selectors.{index}.network_{Side.B if side == Side.A else Side.A}"
        if ambiguous(mine, theirs) and not _chosen_otherwise(tunnel, ends, side, other) and field not in errors:
            errors.add(
                field,
                f"Tunnel {other.name} carries {theirs.local} to {theirs.remote} on {gateway.name} already: "
                "the gateway could not tell which tunnel a packet belongs to. To have one stand in for the other, give "
                "both an interface of their own, and their routes different costs.",
                "overlap",
            )


def _chosen_otherwise(tunnel: Tunnel, ends: Sequence[TunnelEnd], side: str, other: Tunnel) -> bool:
    """Whether something else than selectors decides between two tunnels: who came, or which route costs less.

    Routes decide where each tunnel has a link: one of its own, or whatever its attachment the userspace data plane's.
    """
    if tunnel.is_on_demand or other.is_on_demand:
        return True  # what each peer asks for decides
    mine = next(end for end in ends if end.side == side)
    own_links = {tunnel.attachment, other.attachment} == {AttachmentChoice.INTERFACE}
    if not own_links and mine.gateway.data_plane != DataPlaneChoice.USERSPACE:
        return False
    if not (tunnel.add_routes and other.add_routes):
        return True  # at least one has no routes but those written down, costs and all, or a routing protocol's
    theirs = next(end for end in other.ends.all() if end.gateway_id == mine.gateway_id)
    return (mine.context_id, mine.route_cost) != (theirs.context_id, theirs.route_cost)


def shared_traffic(
    ends: Sequence[TunnelEnd], pairs: Sequence[SelectorPair], others: Iterable[Tunnel]
) -> Iterable[tuple[int, str, Gateway, Tunnel, SelectorPair]]:
    """Yield (pair index, side, gateway, other tunnel, its pair) wherever an enabled tunnel shares packets."""
    enabled = [other for other in others if other.enabled]
    for end in ends:
        if not end.gateway.is_managed:
            continue
        for other in enabled:
            side = other_side(other, end.gateway)
            for index, pair in enumerate(pairs):
                for other_pair in other.selectors.all() if side else ():
                    if overlap(traffic(pair, end.side), traffic(other_pair, side)):
                        yield index, end.side, end.gateway, other, other_pair


def other_side(tunnel: Tunnel, gateway: Gateway) -> str:
    """Return the side of ``tunnel`` that is on ``gateway``, or an empty text."""
    return next((end.side for end in tunnel.ends.all() if end.gateway_id == gateway.pk), "")
