"""A client of strongSwan's control socket (vici), as much of it as a lab needs: requests and streams.

The protocol is described in strongSwan's ``src/libcharon/plugins/vici/README.md``: packets of a 4-octet length, a type,
a name for requests and events, and a message of nested sections, lists and values. Values that come stay ``str``;
``bytes`` may be sent.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.lab.netns import LabError

_REQUEST, _RESPONSE, _UNKNOWN_REQUEST, _REGISTER, _UNREGISTER, _CONFIRM, _UNKNOWN_EVENT, _EVENT = range(8)
_SECTION_START, _SECTION_END, _KEY_VALUE, _LIST_START, _LIST_ITEM, _LIST_END = range(1, 7)

Message = dict[str, Any]


class Vici:
    """One connection."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._events: deque[tuple[str, Message]] = deque()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Vici:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, command: str, message: Mapping[str, Any] | None = None) -> Message:
        """Perform one command and return its answer. Raises LabError when the daemon says it failed."""
        self._send(_REQUEST, command, message or {})
        answer = self._next_until(time.monotonic() + self._timeout_s, _RESPONSE)
        if answer.get("success", "yes") != "yes":
            raise LabError(f"{command}: {answer.get('errmsg', 'failed')}")
        return answer

    def stream(self, command: str, event: str, message: Mapping[str, Any] | None = None) -> list[Message]:
        """Perform a command that answers with a stream of events, and return them."""
        self._subscribe(event)
        self.request(command, message)
        self._send(_UNREGISTER, event)
        self._next_until(time.monotonic() + self._timeout_s, _CONFIRM)
        mine = [content for name, content in self._events if name == event]
        self._events = deque((name, content) for name, content in self._events if name != event)
        return mine

    def list_sas(self) -> dict[str, Message]:
        """Return the IKE SAs by connection name; two of one name (a rekey under way) keep the newer."""
        sas: dict[str, Message] = {}
        for content in self.stream("list-sas", "list-sa"):
            sas.update(content)
        return sas

    def _subscribe(self, event: str) -> None:
        self._send(_REGISTER, event)
        self._next_until(time.monotonic() + self._timeout_s, _CONFIRM)

    def _next_until(self, deadline: float, wanted: int) -> Message:
        while True:
            kind, name, content = self._receive(deadline)
            if kind == wanted:
                return content
            if kind == _EVENT:
                self._events.append((name, content))
            elif kind in (_UNKNOWN_REQUEST, _UNKNOWN_EVENT):
                raise LabError("strongSwan does not know this command or event")

    def _send(self, kind: int, name: str, message: Mapping[str, Any] | None = None) -> None:
        packet = bytes((kind, len(name))) + name.encode() + b"".join(_encode(message or {}))
        self._socket.sendall(struct.pack(">I", len(packet)) + packet)

    def _receive(self, deadline: float) -> tuple[int, str, Message]:
        (length,) = struct.unpack(">I", self._exactly(4, deadline))
        packet = self._exactly(length, deadline)
        kind, offset, name = packet[0], 1, ""
        if kind == _EVENT:
            offset = 2 + packet[1]
            name = packet[2:offset].decode()
        return kind, name, _decode(packet[offset:])

    def _exactly(self, octets: int, deadline: float) -> bytes:
        out = b""
        while len(out) < octets:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._socket.recv(octets - len(out))
            except TimeoutError:
                raise LabError("strongSwan did not answer in time") from None
            if not part:
                raise LabError("strongSwan closed its control socket")
            out += part
        return out


def _encode(message: Mapping[str, Any]) -> Iterator[bytes]:
    for key, value in message.items():
        name = bytes((len(key),)) + key.encode()
        if isinstance(value, Mapping):
            yield bytes((_SECTION_START,)) + name
            yield from _encode(value)
            yield bytes((_SECTION_END,))
        elif isinstance(value, list | tuple):
            yield bytes((_LIST_START,)) + name
            for item in value:
                yield bytes((_LIST_ITEM,)) + _text(item)
            yield bytes((_LIST_END,))
        else:
            yield bytes((_KEY_VALUE,)) + name + _text(value)


def _text(value: object) -> bytes:
    octets = value if isinstance(value, bytes) else str(value).encode()
    return struct.pack(">H", len(octets)) + octets


def _decode(octets: bytes) -> Message:
    offset = 0

    def take(size_octets: int) -> str:
        nonlocal offset
        length = int.from_bytes(octets[offset : offset + size_octets], "big")
        start = offset + size_octets
        offset = start + length
        return octets[start:offset].decode(errors="replace")

    sections: list[Message] = [{}]
    items: list[str] = []
    while offset < len(octets):
        kind = octets[offset]
        offset += 1
        if kind == _SECTION_START:
            section: Message = {}
            sections[-1][take(1)] = section
            sections.append(section)
        elif kind == _SECTION_END:
            sections.pop()
        elif kind == _KEY_VALUE:
            key = take(1)
            sections[-1][key] = take(2)
        elif kind == _LIST_START:
            items = []
            sections[-1][take(1)] = items
        elif kind == _LIST_ITEM:
            items.append(take(2))
    return sections[0]
