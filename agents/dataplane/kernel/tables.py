"""The kernel's two tables, states and policies: list, find, write, remove; ownership is checked here.

Each function takes the open :class:`~agents.dataplane.kernel.channel.Requests` and may raise :class:`DataplaneError`.
"""

from __future__ import annotations

import errno

from agents.dataplane.base import DataplaneError, PolicySpec
from agents.dataplane.kernel import messages, rows
from agents.dataplane.kernel.channel import ACK, CREATE, REQUEST, Requests


async def dump_states(requests: Requests) -> list[rows.StateRow]:
    """Return our states."""
    dumped = [rows.read_state(message) for message in await requests.dump("list_sas", messages.GETSA)]
    return [row for row in dumped if row is not None and rows.is_ours(row.reqid)]


async def dump_policies(requests: Requests) -> list[rows.PolicyRow]:
    """Return our policies, of the kernel's three directions."""
    dumped = [rows.read_policy(message) for message in await requests.dump("list_policies", messages.GETPOLICY)]
    return [row for row in dumped if row is not None and rows.is_ours(row.reqid)]


async def sweep(requests: Requests) -> None:
    """Remove every row of ours: policies first, so that no traffic asks for the states just removed."""
    for policy in await dump_policies(requests):
        await remove_policy_row(requests, policy)
    for state in await dump_states(requests):
        await remove_state(requests, state.id)


async def remove_state(requests: Requests, state: rows.StateId) -> None:
    """Remove a state; it need not be there."""
    try:
        await requests.send("remove_sa", str(state), rows.state_id_message(state), messages.DELSA)
    except DataplaneError as error:
        if error.errno != errno.ESRCH:
            raise


async def find_policy(
    requests: Requests, spec: PolicySpec, direction: int, steering: rows.Steering
) -> rows.PolicyRow | None:
    """Return our policy of this selector in one of the kernel's directions; None if there is none or it is not ours."""
    body = rows.policy_id_message(direction=direction, spec=spec, steering=steering)
    try:
        answer = await requests.send("policy", rows.policy_target(spec), body, messages.GETPOLICY, REQUEST)
    except DataplaneError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    row = rows.read_policy(answer[0]) if answer else None
    return row if row is not None and rows.is_ours(row.reqid) else None


async def write_policy(requests: Requests, spec: PolicySpec, direction: int, steering: rows.Steering) -> None:
    """Install a policy or replace ours of the same selector; raises EEXIST when another owner has it."""
    body = rows.policy_message(spec, direction, steering)
    target = rows.policy_target(spec)
    try:
        await requests.send("add_policy", target, body, messages.NEWPOLICY, CREATE)
        return
    except DataplaneError as error:
        if error.errno != errno.EEXIST:
            raise
    if await find_policy(requests, spec, direction, steering) is None:
        reason = "a policy that is not ours has this direction and selector"
        raise DataplaneError("add_policy", target, errno.EEXIST, reason)
    again = rows.policy_message(spec, direction, steering)
    await requests.send("add_policy", target, again, messages.UPDPOLICY, ACK)


async def remove_policy_row(requests: Requests, row: rows.PolicyRow) -> None:
    """Remove a policy by the kernel's index, which cannot hit another's; it need not be there."""
    target = f"{row.selector.source} to {row.selector.destination}"
    body = rows.policy_id_message(direction=row.direction, index=row.index, steering=row.steering)
    try:
        await requests.send("remove_policy", target, body, messages.DELPOLICY)
    except DataplaneError as error:
        if error.errno != errno.ENOENT:
            raise
