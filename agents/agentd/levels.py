"""How much each process and part logs, asked of and changed in whichever process it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.agentd.iked_link import IkedLink
from agents.runtime import log_levels
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

_TIMEOUT_S = 2.0


class Levels:
    """The levels of all components; those of a process that is away are not known."""

    def __init__(self, link: IkedLink, espd_socket: Path) -> None:
        self._link = link
        self._espd_socket = espd_socket

    async def answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as :func:`agents.runtime.log_levels.answer` does; raises RpcError, ``away`` for a process that is."""
        component = params.get("component")
        if params and component not in log_levels.COMPONENTS:
            known = ", ".join(log_levels.COMPONENTS)
            raise RpcError("invalid", f"component is one of {known}", {"path": "component"})
        found: dict[str, str] = {}
        for process, ask in (("agentd", _own), ("iked", self._link.log_level), ("espd", self._espd)):
            meant = component is not None and component.split(".")[0] == process
            try:
                found |= (await ask(params if meant else {}))["levels"]
            except RpcUnavailable as error:
                if meant:
                    raise RpcError("away", str(error)) from None
        return {"levels": {each: found[each] for each in log_levels.COMPONENTS if each in found}}

    async def _espd(self, params: Mapping[str, Any]) -> dict[str, Any]:
        async with await Client.connect(self._espd_socket) as client:
            answer: dict[str, Any] = await client.call("log_level", dict(params), timeout_s=_TIMEOUT_S)
            return answer


async def _own(params: Mapping[str, Any]) -> dict[str, Any]:
    return log_levels.answer(("agentd",), params)
