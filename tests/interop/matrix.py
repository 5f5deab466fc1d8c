"""The interop matrix: every cell, axis by axis. What a cell is, :mod:`tests.interop.cells` says.

The algorithms are those of our own tables; whether the peer has them is found when it runs.
"""

from __future__ import annotations

from agents.contract import algorithms
from agents.contract.config import (
    Childless,
    ConnectionType,
    DpdAction,
    Endpoint,
    Identity,
    IdentityType,
    IkeProposal,
    IpsecProposal,
    Reauthentication,
    SequenceNumbers,
)
from tests.interop import matrix_certificates, steps, steps_path, words
from tests.interop.cells import ESP_GCM, GCM, INITIATOR, ON_DEMAND, OUR_IDENTITY, RESPONDER, Cell, Net
from tests.interop.lab import OUR_SECOND, THEIR_SECOND
from tests.interop.rig import OURS, THEIRS

_AFTER_REKEYS = (
    steps.we_rekey_the_child,
    steps.they_rekey_the_child,
    steps.we_rekey_the_ike_sa,
    steps.they_rekey_the_ike_sa,
)
_QUICK_SLUGS = {"aes-256-gcm-16", "aes-128-cbc", "hmac-sha2-512-256", "prf-hmac-sha2-384", "group-14", "group-31"}


def _ike(
    encryption: str = "aes-128-gcm-16", integrity: str | None = None, prf: str = "", group: str = ""
) -> IkeProposal:
    aead = algorithms.ENCRYPTION[encryption].aead
    return IkeProposal(
        encryption=encryption,
        integrity=None if aead else integrity or "hmac-sha2-256-128",
        prf=prf or "prf-hmac-sha2-256",
        group=group or "group-31",
    )


def _esp(encryption: str, integrity: str | None = None) -> IpsecProposal:
    aead = algorithms.ENCRYPTION[encryption].aead
    return IpsecProposal(encryption=encryption, integrity=None if aead else integrity or "hmac-sha2-256-128")


def _algorithms() -> list[Cell]:
    cells = []
    for slug, cipher in algorithms.ENCRYPTION.items():
        needs, quick = (words.ENCRYPTION[slug].name,), slug in _QUICK_SLUGS
        if cipher.ike:
            cells.append(Cell(axis="IKE encryption", name=cipher.label, ike=(_ike(slug),), needs=needs, quick=quick))
    for slug, integrity in algorithms.INTEGRITY.items():
        needs, quick = (words.INTEGRITY[slug].name,), slug in _QUICK_SLUGS
        ike = (_ike("aes-128-cbc", slug),)
        cells.append(Cell(axis="IKE integrity", name=integrity.label, ike=ike, needs=needs, quick=quick))
    for slug, prf in algorithms.PSEUDO_RANDOM.items():
        needs, quick = (words.PSEUDO_RANDOM[slug].name,), slug in _QUICK_SLUGS
        script = (steps.we_rekey_the_ike_sa, steps.they_rekey_the_ike_sa)
        ike = (_ike(prf=slug),)
        cells.append(Cell(axis="IKE PRF", name=prf.label, ike=ike, needs=needs, quick=quick, script=script))
    for slug, group in algorithms.KEY_EXCHANGE.items():
        needs, quick = (words.KEY_EXCHANGE[slug].name,), slug in _QUICK_SLUGS
        if group.additional_only:
            ike = (GCM,)
        else:
            ike = (_ike(group=slug),)
        pfs = () if group.additional_only else (slug,)
        script = (steps.we_rekey_the_child, steps.they_rekey_the_ike_sa)
        cells.append(
            Cell(
                axis="Key exchange, with PFS",
                name=group.label,
                ike=ike,
                pfs=pfs,
                needs=needs,
                quick=quick,
                script=script,
            )
        )
    for slug, cipher in algorithms.ENCRYPTION.items():
        if cipher.esp:
            needs, quick = (words.ENCRYPTION[slug].name,), slug in _QUICK_SLUGS
            cells.append(Cell(axis="ESP encryption", name=cipher.label, esp=(_esp(slug),), needs=needs, quick=quick))
    for slug, integrity in algorithms.INTEGRITY.items():
        needs, quick = (words.INTEGRITY[slug].name,), slug in _QUICK_SLUGS
        esp = (_esp("aes-128-cbc", slug),)
        cells.append(Cell(axis="ESP integrity", name=integrity.label, esp=esp, needs=needs, quick=quick))
    return cells


def _negotiation() -> list[Cell]:
    cbc, gcm = _ike("aes-256-cbc", group="group-14"), _ike("aes-256-gcm-16", group="group-19")
    axis = "Negotiation"
    return [
        Cell(
            axis=axis, name="another group than guessed", quick=True, their_ike="aes128gcm16-prfsha256-modp2048",
            ike=(_ike(group="group-31"), _ike(group="group-14")),
        ),
        Cell(axis=axis, name="second of several proposals", ike=(cbc, gcm), their_ike=words.ike_keywords(gcm)),
        Cell(
            axis=axis, name="second of several ESP proposals", esp=(_esp("aes-256-cbc"), ESP_GCM),
            their_esp=words.esp_keywords(ESP_GCM),
        ),
        Cell(
            axis=axis, name="all proposals of one side known to the other", ike=(cbc, gcm),
            esp=(_esp("aes-256-cbc"), ESP_GCM),
        ),
    ]  # fmt: skip


def _lives() -> list[Cell]:
    axis = "Rekeying, reauthentication, deletion"
    return [
        Cell(axis=axis, name="child rekeyed by us, by the peer; then the IKE SA", script=_AFTER_REKEYS, quick=True),
        Cell(axis=axis, name="child rekeyed by us", script=(steps.we_rekey_the_child,) * 2),
        Cell(axis=axis, name="child rekeyed by the peer", script=(steps.they_rekey_the_child,) * 2),
        Cell(axis=axis, name="child rekeyed by both at once", script=(steps.both_rekey_the_child,) * 3),
        Cell(axis=axis, name="IKE SA rekeyed by us", script=(steps.we_rekey_the_ike_sa,) * 2),
        Cell(axis=axis, name="IKE SA rekeyed by the peer", script=(steps.they_rekey_the_ike_sa,) * 2),
        Cell(axis=axis, name="IKE SA rekeyed by both at once", script=(steps.both_rekey_the_ike_sa,) * 3),
        Cell(axis=axis, name="IKE SA deleted by us", script=(steps.we_delete_the_ike_sa,)),
        Cell(axis=axis, name="IKE SA deleted by the peer", script=(steps.they_delete_the_ike_sa,), quick=True),
        Cell(axis=axis, name="child deleted by us", script=(steps.we_delete_the_child,)),
        Cell(axis=axis, name="child deleted by the peer", script=(steps.they_delete_the_child,)),
        Cell(
            axis=axis, name="reauthenticated by us, make before break", script=(steps.we_reauthenticate,), limit_s=90,
            policy={"reauth_s": 10, "reauthentication": Reauthentication.MAKE_BEFORE_BREAK},
            connection={"over_time": "3s"}, tunnel={"connection_type": ConnectionType.BOTH},
        ),
        Cell(
            axis=axis, name="reauthenticated by us, break before make", script=(steps.we_reauthenticate,), limit_s=90,
            policy={"reauth_s": 10, "reauthentication": Reauthentication.BREAK_BEFORE_MAKE},
            connection={"over_time": "3s"},
        ),
        Cell(
            axis=axis, name="reauthenticated by the peer, make before break", script=(steps.they_reauthenticate,),
            settings=(("make_before_break", "yes"),), tunnel={"connection_type": ConnectionType.BOTH},
        ),
        Cell(axis=axis, name="reauthenticated by the peer, break before make", script=(steps.they_reauthenticate,)),
    ]  # fmt: skip


def _identity(type_: IdentityType, value: str) -> Identity:
    return Identity(type=type_, value=value)


def _identities() -> list[Cell]:
    axis = "Identities"
    ends = {
        "IPv4 address": (_identity(IdentityType.IPV4, OURS), _identity(IdentityType.IPV4, THEIRS)),
        "IPv6 address": (
            _identity(IdentityType.IPV6, "2001:db8::1"),
            _identity(IdentityType.IPV6, "2001:db8::2"),
        ),
        "e-mail": (_identity(IdentityType.EMAIL, "us@example.net"), _identity(IdentityType.EMAIL, "them@example.net")),
        "key id": (_identity(IdentityType.KEY_ID, "00ff6f757273"), _identity(IdentityType.KEY_ID, "746865697273")),
        "distinguished name": (
            _identity(IdentityType.DN, "CN=ours,O=Example"),
            _identity(IdentityType.DN, "CN=theirs,O=Example"),
        ),
    }
    cells = [
        Cell(axis=axis, name=name, our_identity=ours, their_identity=theirs) for name, (ours, theirs) in ends.items()
    ]
    partial = {"partial: *.example.net": "*.example.net", "partial: one host of *": "*"}
    kinds = {"*": IdentityType.ANY, "*.example.net": IdentityType.FQDN}
    cells += [
        Cell(axis=axis, name=name, our_remote_identity=_identity(kinds[value], value))
        for name, value in partial.items()
    ]
    cells.append(
        Cell(
            axis=axis, name="partial: *@example.net", their_identity=_identity(IdentityType.EMAIL, "them@example.net"),
            our_remote_identity=_identity(IdentityType.EMAIL, "*@example.net"),
        )
    )  # fmt: skip
    return cells


def _selectors() -> list[Cell]:
    axis = "Children and selectors"
    two = (Net(name="one"), Net(name="two", ours=("10.1.1.0/24",), theirs=("10.2.1.0/24",)))
    three = (*two, Net(name="three", ours=("10.1.2.0/24",), theirs=("10.2.2.0/24",)))
    inner6 = Net(ours=("2001:db8:1::/64",), theirs=("2001:db8:2::/64",))
    both = Net(ours=("10.1.0.0/24", "2001:db8:1::/64"), theirs=("10.2.0.0/24", "2001:db8:2::/64"))
    several = Net(ours=("10.1.0.0/24", "10.1.1.0/24"), theirs=("10.2.0.0/24", "10.2.1.0/24"))
    wider_there = Net(their_ours=("10.1.0.0/16",), their_theirs=("10.2.0.0/16",))
    wider_here = Net(
        ours=("10.1.0.0/16",), theirs=("10.2.0.0/16",), their_ours=("10.1.0.0/24",), their_theirs=("10.2.0.0/24",)
    )
    icmp = Net(ours=("10.1.0.0/24[1]",), theirs=("10.2.0.0/24[1]",))
    return [
        Cell(axis=axis, name="two children", nets=two, quick=True),
        Cell(axis=axis, name="three children, IKE SA rekeyed by each", nets=three, script=_AFTER_REKEYS[2:]),
        Cell(axis=axis, name="several networks in one child", nets=(several,)),
        Cell(axis=axis, name="narrowed to ours", nets=(wider_there,), script=(steps.selectors_are_narrow,), quick=True),
        Cell(axis=axis, name="narrowed to theirs", nets=(wider_here,), script=(steps.selectors_are_narrow,)),
        Cell(axis=axis, name="one protocol only (ICMP)", nets=(icmp,)),
        Cell(axis=axis, name="IPv6 in IPv4", nets=(inner6,), script=(steps.we_rekey_the_child,), quick=True),
        Cell(axis=axis, name="IPv4 and IPv6 in one child", nets=(both,)),
        Cell(axis=axis, name="IPv4 in IPv6", outer=6, script=(steps.they_rekey_the_child,)),
        Cell(axis=axis, name="IPv6 in IPv6", outer=6, nets=(inner6,)),
    ]


def _nat() -> list[Cell]:
    cells = []
    for lab, name in (("nat-ours", "in front of us"), ("nat-theirs", "in front of the peer"), ("nat-both", "both")):
        cells.append(
            Cell(axis="NAT", name=name, lab=lab, script=(steps.we_see_the_nat, *_AFTER_REKEYS), quick=lab == "nat-ours")
        )
    cells.append(
        Cell(
            axis="NAT",
            name="mapping in front of the peer changes",
            lab="nat-theirs",
            roles=(RESPONDER,),
            script=(steps_path.mapping_in_front_of_the_peer_changes, *_AFTER_REKEYS),
            policy={"mobike": False},
            connection={"mobike": "no"},
        )
    )
    cells.append(
        Cell(
            axis="NAT", name="mapping in front of the peer changes, with MOBIKE", lab="nat-theirs", roles=(RESPONDER,),
            connection={"dpd_delay": "3s"}, limit_s=90,
            script=(
                steps_path.the_peer_has_looked_once, steps_path.mapping_in_front_of_the_peer_changes, *_AFTER_REKEYS,
            ),
        )
    )  # fmt: skip
    return cells


def _moves() -> list[Cell]:
    axis = "MOBIKE"
    addresses = {"local_addrs": [THEIRS, THEIR_SECOND], "remote_addrs": [OURS, OUR_SECOND], "mobike": "yes"}
    tunnel = {"local": Endpoint(address=OURS, identity=OUR_IDENTITY, more_addresses=(OUR_SECOND,))}
    policy = {"dpd_interval_s": 1}
    return [
        Cell(
            axis=axis, name="our address moves", tunnel=tunnel, policy=policy, connection=addresses, limit_s=90,
            script=(steps_path.our_address_moves,),
        ),
        Cell(
            axis=axis, name="the peer's address moves", tunnel=tunnel, policy=policy, connection=addresses, limit_s=90,
            script=(steps_path.their_address_moves,),
        ),
        Cell(axis=axis, name="off at our side", policy={"mobike": False}, connection=addresses),
        Cell(axis=axis, name="off at the peer's", tunnel=tunnel, connection={**addresses, "mobike": "no"}),
    ]  # fmt: skip


def _dead_peers() -> list[Cell]:
    axis = "Dead peers"
    dead, back = steps_path.the_peer_is_killed, steps_path.the_peer_comes_back_and_we_restart
    killed = steps_path.we_are_killed_and_the_peer_clears
    return [
        Cell(
            axis=axis, name="peer killed: restart", roles=(INITIATOR,), script=(dead, back), limit_s=90,
            policy={"dpd_interval_s": 1, "dpd_action": DpdAction.RESTART},
        ),
        Cell(
            axis=axis, name="peer killed: clear", limit_s=90,
            policy={"dpd_interval_s": 1, "dpd_action": DpdAction.CLEAR},
            script=(dead, steps_path.the_tunnel_is_cleared_until_asked_for),
        ),
        Cell(
            axis=axis, name="we are killed: the peer clears", script=(killed,), limit_s=90,
            settings=(("retransmit_timeout", "0.2"),), connection={"dpd_delay": "1s"},
        ),
    ]  # fmt: skip


def _further() -> list[Cell]:
    axis, key, other = "Further exchanges", b"0123456789abcdef" * 2, b"fedcba9876543210" * 2
    ppk = {"ppk@example.net": key}
    kem = IkeProposal(
        encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31", additional_key_exchanges=("ml-kem-768",)
    )
    return [
        Cell(
            axis=axis, name="childless, asked for by the initiator", policy={"childless": Childless.FORCE},
            connection={"childless": "force"}, pfs=("group-31",), script=(steps.the_child_came_on_its_own,), quick=True,
        ),
        Cell(
            axis=axis, name="PPK required by both", ppks=ppk, tunnel={"ppk": "ppk@example.net", "ppk_required": True},
            connection={"ppk_id": "ppk@example.net", "ppk_required": "yes"}, quick=True,
            script=(steps.a_ppk_is_used, *_AFTER_REKEYS, steps.a_ppk_is_used),
        ),
        Cell(
            axis=axis, name="PPK used where both have it", ppks=ppk, tunnel={"ppk": "ppk@example.net"},
            connection={"ppk_id": "ppk@example.net"}, script=(steps.a_ppk_is_used,),
        ),
        Cell(
            axis=axis, name="PPK at our side only, not required", ppks={"elsewhere@example.net": other},
            their_ppks={}, tunnel={"ppk": "elsewhere@example.net"}, script=(steps.no_ppk_is_used,),
        ),
        Cell(
            axis=axis, name="the peer asks us for a cookie", roles=(INITIATOR,), up=False,
            settings=(("cookie_threshold", "1"), ("block_threshold", "0")),
            script=(steps_path.the_peer_wants_a_cookie,),
        ),
        Cell(
            axis=axis, name="we ask the peer for a cookie", roles=(RESPONDER,), up=False,
            script=(steps_path.we_want_a_cookie,),
        ),
        Cell(
            axis=axis, name="additional key exchange offered first, a proposal without it taken",
            ike=(kem, GCM), their_ike=words.ike_keywords(GCM), roles=(INITIATOR,),
        ),
        Cell(
            axis=axis, name="additional key exchanges (RFC 9370)",
            impossible="strongSwan has them from version 6.0 on",
        ),
        Cell(
            axis=axis, name="ESN preferred by us, refused by the peer",
            nets=(Net(child={"sequence_numbers": SequenceNumbers.PREFER_EXTENDED}),),
        ),
        Cell(axis=axis, name="IPComp offered by us, refused by the peer", nets=(Net(child={"ipcomp": True}),)),
        *(
            Cell(axis=axis, name=name, impossible="strongSwan's kernel-libipsec carries ESP in tunnel mode only")
            for name in ("transport mode", "ESN", "AH", "AH around ESP", "IPComp")
        ),
    ]  # fmt: skip


def cells() -> list[Cell]:
    """Return the whole matrix in the order of the document."""
    return [
        *_algorithms(),
        *_negotiation(),
        *_identities(),
        *matrix_certificates.cells(),
        *_lives(),
        *_selectors(),
        *_nat(),
        *_moves(),
        *_dead_peers(),
        *_further(),
        *_on_demand(),
    ]


def _on_demand() -> list[Cell]:
    axis, here = "On-demand tunnels", (RESPONDER,)
    narrower = Net(theirs=("10.0.0.0/8",), their_theirs=("10.2.0.0/24",), pings=(("10.1.0.1", "10.2.0.1"),))
    return [
        Cell(
            axis=axis,
            name="a peer from an unknown address",
            roles=here,
            tunnel=ON_DEMAND,
            script=_AFTER_REKEYS,
            quick=True,
        ),
        Cell(axis=axis, name="its network is part of ours", roles=here, tunnel=ON_DEMAND, nets=(narrower,)),
        Cell(axis=axis, name="behind a NAT", roles=here, lab="nat-theirs", tunnel=ON_DEMAND),
    ]
