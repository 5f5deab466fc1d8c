"""What IKE's sockets need in kernel mode, as far as it shows without ESP (``tests/kernel`` sends through them)."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agents.dataplane.base import DataplaneError
from agents.dataplane.kernel.sockets import accept_encapsulated_esp, bypass_policies

InNamespace = Callable[[Callable[[], Awaitable[Any]]], None]


@pytest.mark.needs("root")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_takes_a_policy_of_its_own(in_namespace: InNamespace, family: socket.AddressFamily) -> None:
    async def body() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            bypass_policies(udp)

    in_namespace(body)


@pytest.mark.needs("root")
def test_a_socket_without_addresses_does_not(in_namespace: InNamespace) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix, pytest.raises(DataplaneError) as caught:
            bypass_policies(unix)
        assert caught.value.operation == "bypass policies"

    in_namespace(body)


@pytest.mark.needs("root")
def test_only_udp_can_carry_esp(in_namespace: InNamespace) -> None:
    async def body() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            accept_encapsulated_esp(udp)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, pytest.raises(DataplaneError) as caught:
            accept_encapsulated_esp(tcp)
        assert caught.value.errno != 0

    in_namespace(body)
