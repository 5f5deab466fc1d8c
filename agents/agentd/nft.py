"""The program ``nft`` with JSON (libnftables-json(5)): the whole of one call is one transaction of the kernel."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETGEN, AsyncNFTSocket, nft_gen_msg

from agents.agentd.errors import HostError

Command = dict[str, Any]
_TIMEOUT_S = 30.0
_NO_SUCH_TABLE = "No such file or directory"


class NoNftError(HostError):
    """There is no ``nft`` on this machine."""


async def run(commands: Sequence[Command]) -> tuple[Command, ...]:
    """Perform commands, all or none, and return the objects they list; raises :class:`HostError` with its words.

    ``errno`` is ENOENT where an object is not there; without the program it is :class:`NoNftError`.
    """
    with os.fdopen(os.memfd_create("nft"), "w+b") as text:  # nft opens its input by name, which a socket has not
        text.write(json.dumps({"nftables": list(commands)}).encode())
        text.flush()
        process = await _start(text.fileno())
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, problem = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise HostError("run", "nft", errno.ETIMEDOUT, f"it did not end within {_TIMEOUT_S:.0f} s") from None
    if process.returncode != 0:
        lines = problem.decode("utf-8", errors="replace").splitlines()
        reason = next((line.partition("Error: ")[2] for line in lines if "Error: " in line), "it says nothing")
        raise HostError("change", "the packet filter", errno.ENOENT if _NO_SUCH_TABLE in reason else 0, reason)
    listed: tuple[Command, ...] = tuple(json.loads(output)["nftables"]) if output.strip() else ()
    return listed


async def generation() -> int:
    """Return the number of the packet filter's rules, which every change by anybody makes another one.

    Raises :class:`HostError`.
    """
    asking = AsyncNFTSocket()
    try:
        await asking.bind()
        question = nft_gen_msg()
        question["nfgen_family"] = socket.AF_UNSPEC
        answers = [each async for each in await asking.request_get(question, NFT_MSG_GETGEN, NLM_F_REQUEST)]
        return int(answers[0].get("NFTA_GEN_ID"))
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        raise HostError("look at", "the packet filter", number or 0, os.strerror(number or 0)) from None
    finally:
        asking.close()


async def _start(text: int) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *("nft", "--json", "--file", "/proc/self/fd/0"),
            stdin=text,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        reason = "the program is not there: install the package nftables"
        raise NoNftError("run", "nft", 0, reason) from None
