"""The interop matrix: every cell, axis by axis. What a cell is, :mod:`tests.interop.cells` says.

The algorithms are those of our own tables; whether the peer has them is found when it runs.
"""

from __future__ import annotations

from agents.contract import algorithms
from agents.contract.config import IkeProposal, IpsecProposal
from tests.interop import steps, words
from tests.interop.cells import ESP_GCM, GCM, Cell, Net

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
    ]


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
        Cell(axis=axis, name="narrowed to ours", nets=(wider_there,), quick=True),
        Cell(axis=axis, name="narrowed to theirs", nets=(wider_here,)),
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
    return cells


def cells() -> list[Cell]:
    """Return the whole matrix in the order of the document."""
    return [*_algorithms(), *_negotiation(), *_lives(), *_selectors(), *_nat()]
