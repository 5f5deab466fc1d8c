"""Two engines agree by IKEv1 on every algorithm that has a number there: ISAKMP SA, child with PFS, both renewed."""

from __future__ import annotations

import pytest

from agents.contract import algorithms, ikev1
from agents.contract.config import ExchangeMode, IkeProposal, IpsecProposal, Mode, SequenceNumbers
from tests.harness.v1 import BOTH, FAST_ESP, FAST_IKE, LYON, MODES, PARIS, Scene, child, policy

_MAIN, _AGGRESSIVE = MODES


def _esp(encryption: str, integrity: str = "hmac-sha2-256-128") -> IpsecProposal:
    return IpsecProposal(encryption=encryption, integrity=None if algorithms.ENCRYPTION[encryption].aead else integrity)


def _ike(encryption: str = "aes-128-cbc", integrity: str = "hmac-sha2-256-128", group: str = "group-19") -> IkeProposal:
    hashed = algorithms.INTEGRITY[integrity].hash
    prf = next(
        slug for slug, row in algorithms.PSEUDO_RANDOM.items() if row.hash == hashed and slug.startswith("prf-hmac")
    )
    return IkeProposal(encryption=encryption, integrity=integrity, prf=prf, group=group)


def _agree(
    ike: IkeProposal = FAST_IKE,
    esp: IpsecProposal = FAST_ESP,
    mode: ExchangeMode = _MAIN,
    *,
    transport: bool = False,
    **of_child: object,
) -> Scene:
    of_child["mode"] = Mode.TRANSPORT if transport else Mode.TUNNEL
    scene = Scene(mode, ike=policy(mode, ike), types=BOTH, children=(child(proposals=(esp,), **of_child),))  # type: ignore[arg-type]
    scene.left.allow_legacy = scene.right.allow_legacy = True
    scene.come_up(rest_s=15)
    paris, lyon = scene.hosts
    paris.do(paris.engine.rekey_child, paris.status().id)
    scene.world.run(1)
    lyon.do(lyon.engine.rekey_ike, lyon.status().id)
    scene.world.run(40)
    scene.check()
    (status,) = paris.status().ike_sas
    assert (status.encryption, status.integrity, status.prf, status.group, status.version) == (
        ike.encryption, ike.integrity, ike.prf, ike.group, "v1",
    )  # fmt: skip
    for spec in paris.data_plane.sas.values():
        assert (spec.encryption, spec.integrity) == (esp.encryption, esp.integrity)
        if esp.encryption is not None:
            assert spec.encryption_key is not None
            assert len(spec.encryption_key) == algorithms.ENCRYPTION[esp.encryption].keymat_octets
        if esp.ah_integrity is not None:
            assert spec.ah is not None
            assert spec.ah.integrity == esp.ah_integrity
            assert len(spec.ah.key) == algorithms.INTEGRITY[esp.ah_integrity].key_octets
    return scene


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("encryption", ikev1.ENCRYPTION)
def test_every_cipher_protects_phase_1(encryption: str, mode: ExchangeMode) -> None:
    _agree(_ike(encryption), mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("hashed", ikev1.HASH)
def test_every_hash_authenticates_phase_1(hashed: str, mode: ExchangeMode) -> None:
    slugs = [slug for slug, row in algorithms.INTEGRITY.items() if row.hash == hashed and slug.startswith("hmac")]
    _agree(_ike("aes-256-cbc", slugs[0]), mode=mode)


@pytest.mark.parametrize("group", sorted(ikev1.GROUPS))
def test_every_group_keys_both_phases(group: str) -> None:
    scene = _agree(_ike(group=group), pfs_groups=(group,))
    assert scene.paris.status().children[0].sas[0].group == group


@pytest.mark.parametrize("group", ["group-2", "group-14", "group-20"])
def test_groups_in_aggressive_mode(group: str) -> None:
    _agree(_ike(group=group), mode=_AGGRESSIVE, pfs_groups=(group,))


@pytest.mark.parametrize("encryption", ikev1.ESP)
def test_every_cipher_keys_a_child(encryption: str) -> None:
    _agree(esp=_esp(encryption, "hmac-sha1-96"))


@pytest.mark.parametrize("integrity", ikev1.AUTHENTICATION)
def test_every_integrity_algorithm_authenticates_esp(integrity: str) -> None:
    _agree(esp=_esp("aes-128-cbc", integrity))


@pytest.mark.parametrize("integrity", ikev1.AH)
def test_every_integrity_algorithm_authenticates_ah(integrity: str) -> None:
    _agree(esp=IpsecProposal(ah_integrity=integrity))


@pytest.mark.parametrize("encryption", ["aes-128-cbc", "aes-256-gcm-16", "3des-cbc", "null"])
def test_ah_around_esp(encryption: str) -> None:
    esp = _esp(encryption)
    both = IpsecProposal(encryption=esp.encryption, integrity=esp.integrity, ah_integrity="hmac-sha1-96")
    _agree(esp=both)


@pytest.mark.parametrize("esp", [FAST_ESP, IpsecProposal(ah_integrity="hmac-sha1-96")], ids=["esp", "ah"])
def test_extended_sequence_numbers(esp: IpsecProposal) -> None:
    scene = _agree(esp=esp, sequence_numbers=SequenceNumbers.EXTENDED)
    assert all(spec.extended_sequence_numbers for spec in scene.paris.data_plane.sas.values())


def test_compression() -> None:
    scene = _agree(ipcomp=True)
    assert all(spec.compression_cpi is not None for spec in scene.paris.data_plane.sas.values())
    assert len(scene.paris.engine.hub.cpis) == 1


@pytest.mark.parametrize("esp", [FAST_ESP, IpsecProposal(ah_integrity="hmac-sha1-96")], ids=["esp", "ah"])
def test_transport_mode(esp: IpsecProposal) -> None:
    scene = _agree(
        esp=esp,
        local_ts=child(local=(f"{PARIS}/32",)).local_ts,
        remote_ts=child(remote=(f"{LYON}/32",)).remote_ts,
        transport=True,
    )
    assert {spec.mode for spec in scene.paris.data_plane.sas.values()} == {Mode.TRANSPORT}
