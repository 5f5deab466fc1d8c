"""Fetching revocation data over plain HTTP for a certificate: where it may connect to and how much it may cost.

The URL comes from a CA's certificate, so it is trusted only so far: no other scheme, no credentials, no address that
is this gateway's own or of a private network unless the tunnel allows it. A name is resolved first and the connection
goes to the very addresses that were checked. Plain HTTP is what RFC 5280 asks for: the data is signed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

TIMEOUT_S = 5.0
MOST_REDIRECTS = 2
_LONGEST_URL = 1_024
_MOST_ADDRESSES = 4

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(Exception):
    """Nothing usable came; one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to fetch: GET ``url``, or POST ``body`` to it; at most ``most_octets`` come back."""

    url: str
    most_octets: int
    body: bytes | None = None
    content_type: str = ""
    allow_private: bool = False


async def system_resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host; raises OSError, and UnicodeError for what cannot be a host name.

    In a thread nobody waits for at the end: the system's resolver may take half a minute to give up.
    """
    answer: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)
        else:
            answer.set_result(list(dict.fromkeys(str(each[4][0]) for each in found)))

    answer.set_running_or_notify_cancel()
    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    return await asyncio.wrap_future(answer)


class Fetcher:
    """One client for all. ``resolve`` is the system's resolver outside of tests."""

    def __init__(self, resolve: Resolve = system_resolve, *, most_at_once: int = 16) -> None:
        self._resolve = resolve
        self._slots = asyncio.Semaphore(most_at_once)

    async def fetch(self, question: Question) -> bytes:
        """Return the body of the answer; raises FetchError. Takes at most :data:`TIMEOUT_S` from when it has a slot."""
        async with self._slots:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return await self._follow(question)
            except TimeoutError:
                raise FetchError(f"{shown(question.url)} did not answer within {TIMEOUT_S:.0f} s") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise FetchError(f"{shown(question.url)} cannot be fetched ({type(error).__name__})") from None

    async def _follow(self, question: Question) -> bytes:
        url = question.url
        for _ in range(1 + MOST_REDIRECTS):
            target = _checked_url(url)
            addresses = await self._addresses(target, question.allow_private)
            answer = await _ask(target, addresses, question)
            if isinstance(answer, bytes):
                return answer
            url = str(target.join(URL(answer.location)))
        raise FetchError(f"{shown(question.url)} redirects more than {MOST_REDIRECTS} times")

    async def _addresses(self, url: URL, allow_private: bool) -> list[Address]:
        host = url.host or ""
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            try:
                found = await self._resolve(host, url.port or 80)
            except OSError:
                raise FetchError(f"{shown(str(url))}: the name cannot be resolved") from None
        addresses = [ipaddress.ip_address(each.partition("%")[0]) for each in found]
        allowed = [each for each in addresses if may_connect(each, allow_private)]
        if not allowed:
            raise FetchError(f"{shown(str(url))} is at an address this gateway may not fetch from")
        return allowed[:_MOST_ADDRESSES]


def may_connect(address: Address, allow_private: bool) -> bool:
    """Whether an address is a host's on the internet; with ``allow_private`` any host's, this one's included."""
    for each in _meanings(address):
        if each.is_multicast or each.is_unspecified or int(each) == 0xFFFFFFFF:
            return False
        if not allow_private and (not each.is_global or _is_own(each)):
            return False
    return True


def _meanings(address: Address) -> list[Address]:
    """Return the address and the IPv4 address inside it, if it is a form of one."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return [address.ipv4_mapped]
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found += address.teredo
        if address in _NAT64:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if int(address) >> 32 == 0 and int(address) > 1:  # IPv4-compatible, deprecated
            found.append(ipaddress.IPv4Address(int(address)))
    return found


def _is_own(address: Address) -> bool:
    """Whether an address is this host's: then a datagram to it would come from it. The kernel is always up to date."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing
        except OSError:
            return False
        return str(probe.getsockname()[0]) == str(address)


def shown(url: str) -> str:
    """Return a URL for a person: bounded, printable, without what could be a password."""
    clean = "".join(each if "!" <= each <= "~" else "." for each in url[:200])
    scheme, separator, rest = clean.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path.partition("?")[0]


def _checked_url(text: str) -> URL:
    if len(text) > _LONGEST_URL:
        raise FetchError("a URL of more than 1024 characters is not followed")
    url = URL(text)
    if url.scheme != "http" or not url.host:
        raise FetchError(f"{shown(text)} is not an http URL")
    if url.user is not None or url.password is not None:
        raise FetchError(f"{shown(text)} has a user name in it")
    if url.host.replace(".", "").isdigit() and not _canonical(url.host):
        raise FetchError(f"{shown(text)} has an address in an odd form")  # the client would not ask our resolver
    return url.with_fragment(None)


def _canonical(host: str) -> bool:
    try:
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Redirect:
    location: str


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked, whatever the name would resolve to now."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(each),
                port=port,
                family=socket.AF_INET if each.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in self._addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


async def _ask(url: URL, addresses: list[Address], question: Question) -> bytes | _Redirect:
    connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False, force_close=True, limit=1)
    headers = {"Accept-Encoding": "identity", "User-Agent": "vpn-agent"}
    if question.content_type:
        headers["Content-Type"] = question.content_type
    async with (
        aiohttp.ClientSession(
            connector=connector, trust_env=False, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        session.request(
            "GET" if question.body is None else "POST", url, data=question.body, headers=headers, allow_redirects=False
        ) as answer,
    ):
        if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
            return _Redirect(location=answer.headers["Location"])
        if answer.status != 200:
            raise FetchError(f"{shown(str(url))} answers with status {answer.status}")
        return await _body(answer, url, question.most_octets)


async def _body(answer: aiohttp.ClientResponse, url: URL, most_octets: int) -> bytes:
    octets = bytearray()
    async for chunk in answer.content.iter_chunked(16_384):
        octets += chunk
        if len(octets) > most_octets:
            raise FetchError(f"{shown(str(url))} sends more than {most_octets} octets")
    return bytes(octets)
