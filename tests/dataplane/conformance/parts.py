"""SAs, policies and what both ends must have counted: what the checks are made of."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
from collections.abc import Awaitable
from typing import Any

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    REQID_BASE,
    AuthenticationHeader,
    DataplaneError,
    Direction,
    Features,
    Limits,
    PolicySpec,
    SaProtocol,
    SaSpec,
    SaState,
    Selector,
    UdpEncapsulation,
)
from tests.dataplane.conformance.sites import TUNNEL, Site, SitePair

REQID = REQID_BASE + 77
NO_LIMITS = Limits()
NAT = UdpEncapsulation(source_port=4500, destination_port=4500)
ECHO_OCTETS, ECHO6_OCTETS = 84, 104
"""Echoes of 56 octets of data, as inner packets."""

Suite = tuple[str, str | None]
GCM: Suite = ("aes-128-gcm-16", None)
MUST_CARRY: tuple[Suite, ...] = (
    GCM, ("aes-256-gcm-16", None), ("aes-128-cbc", "hmac-sha2-256-128"), ("aes-256-cbc", "hmac-sha1-96"),
)  # fmt: skip
"""What every driver has, whatever the machine; the rest it says in its features."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What an SA is beside ESP in tunnel mode: AH alone or around it, IPComp, transport mode, that in UDP."""

    name: str
    esp: bool = True
    ah: str | None = None
    compressed: bool = False
    mode: Mode = Mode.TUNNEL
    in_udp: bool = False

    def of(self, spec: SaSpec) -> SaSpec:
        """Return an SA of ESP as one of this kind. AH around ESP has the next SPI but 255, IPComp a CPI of the SPI."""
        if self.ah is not None:
            secret = Secret((spec.spi.to_bytes(4, "big") * 32)[: algorithms.INTEGRITY[self.ah].key_octets])
            spi = spec.spi + 0x100 if self.esp else spec.spi
            spec = dataclasses.replace(spec, ah=AuthenticationHeader(spi=spi, integrity=self.ah, key=secret))
        if not self.esp:
            none = dict.fromkeys(("encryption", "encryption_key", "integrity", "integrity_key"))
            spec = dataclasses.replace(spec, **none)  # type: ignore[arg-type]
        if self.in_udp:
            spec = dataclasses.replace(spec, encapsulation=NAT)
        return dataclasses.replace(spec, compression_cpi=spec.spi & 0xFFFF if self.compressed else None, mode=self.mode)

    def of_policy(self, spec: PolicySpec) -> PolicySpec:
        """Return a policy for SAs of this kind; in transport mode between the outer addresses, whatever it was for."""
        protocols = (SaProtocol.ESP,) * self.esp + (SaProtocol.AH,) * (self.ah is not None)
        spec = dataclasses.replace(spec, protocols=protocols, compressed=self.compressed, mode=self.mode)
        if self.mode is Mode.TUNNEL:
            return spec
        source, destination = (str(ipaddress.ip_network(each)) for each in (spec.source, spec.destination))
        return dataclasses.replace(
            spec, selector=dataclasses.replace(spec.selector, source=source, destination=destination)
        )


SHA2 = "hmac-sha2-256-128"


def kinds(features: Features) -> tuple[Kind, ...]:
    """Return what a driver says it can do beside ESP in tunnel mode."""
    found = []
    if SaProtocol.AH in features.protocols:
        found += [Kind("AH", esp=False, ah=SHA2), Kind("AH around ESP", ah=SHA2)]
    if features.compression:
        found += [Kind("IPComp in ESP", compressed=True)]
        found += [dataclasses.replace(kind, name=f"IPComp in {kind.name}", compressed=True) for kind in found[:2]]
    return tuple({kind.name: kind for kind in found}.values())


def kinds_between_hosts(features: Features) -> tuple[Kind, ...]:
    """Return what a driver says it can do in transport mode."""
    if Mode.TRANSPORT not in features.modes:
        return ()
    found = [
        dataclasses.replace(each, name=f"{each.name}, transport", mode=Mode.TRANSPORT)
        for each in (Kind("ESP"), *kinds(features))
    ]
    in_udp = [
        dataclasses.replace(each, name=f"{each.name} in UDP", in_udp=True)
        for each in found
        if each.ah is None
    ]  # fmt: skip
    return (*found, *in_udp)


def every_kind(features: Features) -> tuple[Kind, ...]:
    """Return what a driver says it can do beside ESP in tunnel mode, in both modes."""
    return (*kinds(features), *kinds_between_hosts(features))


def suites(features: Features) -> tuple[Suite, ...]:
    """Return each cipher that a driver says it has, and each integrity algorithm with AES-CBC."""
    ciphers = [row for row in algorithms.ENCRYPTION.values() if row.esp and row.slug in features.encryptions]
    return (
        *((row.slug, None) for row in ciphers if row.aead),
        *((row.slug, "hmac-sha2-256-128") for row in ciphers if not row.aead),
        *(("aes-128-cbc", slug) for slug in algorithms.INTEGRITY if slug in features.integrities),
    )


def sa(
    spi: int, source: str, destination: str, suite: Suite = GCM, *, direction: Direction = Direction.OUT,
    limits: Limits = NO_LIMITS, key: int = 1,
) -> SaSpec:  # fmt: skip
    """Return an SA of plain ESP with keys made of ``key`` and the SPI."""
    encryption, integrity = suite
    seed = spi.to_bytes(4, "big") + key.to_bytes(4, "big")
    return SaSpec(
        tunnel_id=TUNNEL,
        direction=direction,
        spi=spi,
        source=source,
        destination=destination,
        reqid=REQID,
        encryption=encryption,
        encryption_key=Secret((seed * 32)[: algorithms.ENCRYPTION[encryption].keymat_octets]),
        integrity=integrity,
        integrity_key=Secret((seed * 32)[: algorithms.INTEGRITY[integrity].key_octets]) if integrity else None,
        limits=limits,
    )


def policy(direction: Direction, here: str, there: str, outer: tuple[str, str], **more: int) -> PolicySpec:
    """Return a policy between two prefixes; ``here`` and ``outer[0]`` are the gateway's own."""
    inward = direction is Direction.IN
    return PolicySpec(
        tunnel_id=TUNNEL,
        direction=direction,
        selector=Selector(source=there if inward else here, destination=here if inward else there),
        source=outer[1] if inward else outer[0],
        destination=outer[0] if inward else outer[1],
        reqid=more.get("reqid", REQID),
        priority=more.get("priority", 1000),
    )


def peer_of(site: Site) -> tuple[str, str]:
    """Return outer addresses for SAs whose peer need not exist."""
    return site.outer, "192.0.2.77"


def by_spi(states: tuple[SaState, ...]) -> dict[int, SaState]:
    return {state.id.spi: state for state in states}


async def refused(call: Awaitable[object]) -> DataplaneError:
    try:
        await call
    except DataplaneError as error:
        return error
    raise AssertionError("nothing was raised")


async def key(
    pair: SitePair, suite: Suite = GCM, *, spi: int = 0x6001, six: bool = False, limits: Limits = NO_LIMITS,
    extended: bool = False, kind: Kind | None = None, **changes: Any,
) -> None:  # fmt: skip
    """Install SAs left to right (``spi``) and right to left (``spi + 1``), each inbound first; ``changes`` are all
    SAs'."""
    for source, target, number in ((pair.left, pair.right, spi), (pair.right, pair.left, spi + 1)):
        outer = (source.outer6, target.outer6) if six else (source.outer, target.outer)
        spec = dataclasses.replace(sa(number, *outer, suite, limits=limits), extended_sequence_numbers=extended)
        spec = dataclasses.replace(spec if kind is None else kind.of(spec), **changes)
        await target.driver.add_sa(dataclasses.replace(spec, direction=Direction.IN))
        await source.driver.add_sa(spec)


async def policies(pair: SitePair, *, six: bool = False, kind: Kind | None = None) -> frozenset[int]:
    """Install policies between the inner addresses of both families; ``six`` is about the outer ones.

    Returns the inner IP versions they are for at both ends: a driver may refuse the other version in what is several
    SAs in one.
    """
    outside = 6 if six else 4
    refused = set()
    for here, there in ((pair.left, pair.right), (pair.right, pair.left)):
        outer = (here.outer6, there.outer6) if six else (here.outer, there.outer)
        for direction in Direction:
            for version, ours, theirs in (
                (4, f"{here.inner}/32", f"{there.inner}/32"),
                (6, f"{here.inner6}/128", f"{there.inner6}/128"),
            ):
                spec = policy(direction, ours, theirs, outer)
                try:
                    await here.driver.add_policy(spec if kind is None else kind.of_policy(spec))
                except DataplaneError as error:
                    if error.errno != errno.EAFNOSUPPORT or version == outside:
                        raise
                    refused.add(version)
    return frozenset({4, 6} - refused)


async def counted(pair: SitePair, spi: int, packets: int, octets: int) -> None:
    """Assert what both ends counted on an SA."""
    for site in (pair.left, pair.right):
        counters = by_spi(await site.driver.list_sas())[spi].counters
        found = (counters.packets_in + counters.packets_out, counters.bytes_in + counters.bytes_out)
        assert found == (packets, octets), (spi, found)
