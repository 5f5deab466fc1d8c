"""Takes everything of ours off a machine that the agent leaves: routes, rules, VRFs, the packet filter's table."""

from __future__ import annotations

import errno

from agents.agentd.contexts import describe
from agents.agentd.errors import HostError
from agents.agentd.host import ROUTE_PROTOCOL, Host
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.nft import NoNftError
from agents.agentd.parts import contexts, nftables
from agents.agentd.parts import filter as parts_filter


async def withdraw(host: Host, kept: KeptFilter) -> list[str]:
    """Remove what is ours and return a line for each; raises :class:`HostError` where the kernel refuses."""
    done = []
    view = await host.look()
    for route in view.routes:
        if route.protocol == ROUTE_PROTOCOL:
            await host.remove_route(route)
            done.append(f"route to {route.network} through {route.interface}")
    for rule in view.rules:
        await host.remove_rule(rule)
        done.append(f"rule {describe(rule)}")
    for vrf in contexts.ours(view).values():
        await host.remove_vrf(vrf.name, vrf.table)
        done.append(f"VRF {vrf.name}")
    if kept.forget():
        done.append("packet filter kept for the next start")
    try:
        await host.filter(parts_filter.removal())
    except NoNftError:
        return done  # then it was not with us that a table came
    except HostError as error:
        if error.errno != errno.ENOENT:
            raise
    else:
        done.append(f"packet filter table {nftables.FAMILY} {nftables.TABLE}")
    return done
