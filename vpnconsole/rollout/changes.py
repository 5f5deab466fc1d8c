"""What differs between two gateway documents, in words for a person. Pure; of a secret only that it changed is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agents.contract.codec import to_plain
from agents.contract.config import AuthKind, GatewayDocument, PresharedKey, Tunnel
from agents.contract.manual import ManualTunnel
from vpnconsole.vpn.ikev1 import key_note

_WORDS = {
    "local": "this end",
    "remote": "other end",
    "ike": "IKE policy",
    "children": "selector pairs",
    "connection_type": "connection type",
    "force_udp_encapsulation": "forced UDP encapsulation",
    "add_routes": "adding of routes",
    "mtu": "MTU",
    "version": "IKE version",
    "exchange_mode": "exchange mode (IKEv1)",
    "lifetime_kilobytes": "lifetime (kB, IKEv1)",
    "local_ts": "local network",
    "remote_ts": "remote network",
    "pfs_groups": "PFS groups",
    "lifetime_s": "lifetime (s)",
    "lifetime_bytes": "lifetime (octets)",
    "lifetime_packets": "lifetime (packets)",
    "replay_window": "replay window",
    "dpd_interval_s": "liveness check interval (s)",
    "dpd_action": "action when the peer is gone",
    "reauth_s": "reauthentication interval (s)",
    "keepalive_s": "NAT keepalive interval (s)",
    "mobike": "MOBIKE",
    "ah_integrity": "AH",
    "ipcomp": "IPComp",
    "inbound": "inbound SA",
    "outbound": "outbound SA",
    "esp_spi": "ESP SPI",
    "ah_spi": "AH SPI",
    "ah_key": "AH key",
    "df_bit": "DF bit",
    "copy_dscp": "copying of the DSCP",
    "clamp_tcp_mss": "clamping of TCP's segment size",
    "endpoint_context": "context of the endpoint",
    "rate_kbps": "rate (kbit/s)",
    "route_cost": "cost of routes",
    "routes": "static routes",
    "most_peers": "peers at a time",
    "start_port": "first port",
    "end_port": "last port",
}


_KEYS = {"encryption_key", "integrity_key", "ah_key"}
_MANUAL = (
    "Manual keys: change both ends together. Until both have the same SPIs and keys, the packets of one are dropped by "
    "the other."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One changed thing: a tunnel, or the gateway's own settings; ``details`` are lines like ``mtu: none -> 1400``.

    ``remark`` is what a person should know of it before it is deployed.
    """

    action: Literal["added", "removed", "changed"]
    subject: str
    tunnel_id: str | None = None
    details: tuple[str, ...] = ()
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.subject} {self.action}" + (f": {'; '.join(self.details)}" if self.details else "")


def differences(old: GatewayDocument | None, new: GatewayDocument) -> tuple[Change, ...]:
    """List what ``new`` changes against ``old`` (None: nothing was ever delivered), tunnels by name."""
    before = _tunnels(old) if old else {}
    after = _tunnels(new)
    keys_before = {key.id: key for key in old.preshared_keys} if old else {}
    keys_after = {key.id: key for key in new.preshared_keys}
    changes = []
    for tunnel_id in sorted(before.keys() | after.keys(), key=lambda key: (before | after)[key].name):
        was, now = before.get(tunnel_id), after.get(tunnel_id)
        if was is None and now is not None:
            subject = f"tunnel {now.name}"
            changes.append(Change(action="added", subject=subject, tunnel_id=tunnel_id, remark=_remark(now)))
        elif now is None and was is not None:
            changes.append(Change(action="removed", subject=f"tunnel {was.name}", tunnel_id=tunnel_id))
        elif was is not None and now is not None:
            details = _tunnel_details(was, now, keys_before.get(tunnel_id), keys_after.get(tunnel_id))
            if details:
                subject = f"tunnel {now.name}"
                about = "" if isinstance(now, ManualTunnel) and not _touches_sas(details) else _remark(now)
                remark = " ".join(filter(None, (_rules_remark(was, now), about)))
                changes.append(
                    Change(action="changed", subject=subject, tunnel_id=tunnel_id, details=details, remark=remark)
                )
    return (*_gateway_changes(old, new), *changes)


def _tunnels(document: GatewayDocument) -> dict[str, Tunnel | ManualTunnel]:
    tunnels: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
    return {tunnel.id: tunnel for tunnel in tunnels}


def _remark(tunnel: Tunnel | ManualTunnel) -> str:
    """How IKEv1 finds the tunnel's pre-shared key, or that manual keys have to change at both ends at once."""
    if isinstance(tunnel, ManualTunnel):
        return _MANUAL
    if not tunnel.version.allows_v1 or tunnel.local_auth.kind is not AuthKind.PSK:
        return ""
    return key_note(tunnel.ike.exchange_mode, tunnel.local.address, tunnel.remote.address)


def _gateway_changes(old: GatewayDocument | None, new: GatewayDocument) -> tuple[Change, ...]:
    if old is None:
        return ()
    details: list[str] = []
    for field in ("gateway_name", "data_plane", "allow_legacy", "retransmission", "contexts", "packet_filter"):
        _compare(field.replace("_", " "), to_plain(getattr(old, field)), to_plain(getattr(new, field)), details)
    return (Change(action="changed", subject="gateway settings", details=tuple(details)),) if details else ()


def _tunnel_details(
    was: Tunnel | ManualTunnel, now: Tunnel | ManualTunnel, key_was: PresharedKey | None, key_now: PresharedKey | None
) -> tuple[str, ...]:
    details: list[str] = []
    if isinstance(was, ManualTunnel) != isinstance(now, ManualTunnel):
        details.append("keys: " + ("negotiated → manual" if isinstance(now, ManualTunnel) else "manual → negotiated"))
    else:
        plain_was, plain_now = to_plain(was), to_plain(now)
        _hide_keys(plain_was, plain_now)
        _compare("", plain_was, plain_now, details)
        details += _order(was, now)
    if (key_was and key_was.secret) != (key_now and key_now.secret):
        details.append("pre-shared key: changed")
    return tuple(details)


def _hide_keys(was: Any, now: Any) -> None:
    """Put what is to be said of manual keys in their place: nothing where they are equal, else that they changed."""
    before = {child["name"]: child for child in was["children"]}
    for child in now["children"]:
        other = before.get(child["name"], {})
        for direction in ("inbound", "outbound"):
            for field in _KEYS & child.get(direction, {}).keys():
                same = other.get(direction, {}).get(field) == child[direction][field]
                child[direction][field] = _Key("kept" if same else "changed")
    for child in was["children"]:
        for direction in ("inbound", "outbound"):
            for field in _KEYS & child.get(direction, {}).keys():
                child[direction][field] = _Key("kept")


class _Key(str):
    """What is said of a key in place of its octets."""

    __slots__ = ()


def _touches_sas(details: tuple[str, ...]) -> bool:
    """Whether lines on a tunnel with manual keys say more than how its packets are carried."""
    return any(line.startswith(("selector pairs", "keys:")) for line in details)


def _rules_remark(was: Tunnel | ManualTunnel, now: Tunnel | ManualTunnel) -> str:
    """What a change of the rules does to what runs: see ``agents.ike.change`` and ``agents.iked.manual``."""
    if [child.name for child in was.children] == [child.name for child in now.children]:
        return ""
    if isinstance(now, ManualTunnel) or isinstance(was, ManualTunnel):
        return "The rules take effect at once; the SAs of a pair whose keys stay are not touched."
    return (
        "The rules take effect at once and no SA of a pair that stays is cleared; one that has another place now is "
        "rekeyed without a gap."
    )


def _order(was: Tunnel | ManualTunnel, now: Tunnel | ManualTunnel) -> list[str]:
    """Return the new order of the rules that stay, where it changed, and what that does to what runs."""
    before, after = [child.name for child in was.children], [child.name for child in now.children]
    stay = [name for name in after if name in before]
    if stay == [name for name in before if name in after]:
        return []
    return [f"order of the rules: {', '.join(after)}"]


def _compare(path: str, was: Any, now: Any, details: list[str]) -> None:
    if was == now:
        return
    if isinstance(now, _Key) or isinstance(was, _Key):
        details.append(f"{path}: {now if isinstance(now, _Key) else 'removed'}")
    elif isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            label = _WORDS.get(name, name.replace("_", " "))
            _compare(f"{path} {label}".strip(), was.get(name), now.get(name), details)
    elif _named(was) and _named(now):
        _compare_named(path, was, now, details)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now) == 1:
        _compare(path, was[0], now[0], details)
    else:
        details.append(f"{path}: {_text(was)} → {_text(now)}")


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "name" in item for item in value)


def _compare_named(path: str, was: list[dict[str, Any]], now: list[dict[str, Any]], details: list[str]) -> None:
    before, after = ({item["name"]: item for item in items} for items in (was, now))
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            details.append(f"{path} {name}: added ({_about(after[name])})")
        elif name not in after:
            details.append(f"{path} {name}: removed ({_about(before[name])})")
        else:
            _compare(f"{path} {name}", before[name], after[name], details)


def _about(item: dict[str, Any]) -> str:
    """What a named thing is: a child by its networks, a context by its table."""
    return _networks(item) if "local_ts" in item else _text({key: item[key] for key in item if key != "name"})


def _networks(child: dict[str, Any]) -> str:
    def networks(side: Any) -> str:
        # With manual keys a pair has one selector on each side, else a list of them.
        return _text([ts["network"] for ts in (side if isinstance(side, list) else [side])])

    return f"{networks(child['local_ts'])} ↔ {networks(child['remote_ts'])}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, dict) and value.keys() == {"network", "cost"}:
        return f"{value['network']} at cost {value['cost']}"
    if isinstance(value, dict) and "table" in value:
        return " ".join(filter(None, (value.get("name"), f"table {value['table']}")))
    if isinstance(value, dict):
        return "/".join(_text(item) for item in value.values() if item is not None)
    return str(value)
