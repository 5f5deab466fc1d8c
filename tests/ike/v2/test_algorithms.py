"""Two engines agree on every algorithm of the tables: IKE SA, child with PFS, and both rekeyed."""

from __future__ import annotations

import pytest

from agents.contract import algorithms
from agents.contract.config import IkePolicy, IkeProposal, IpsecProposal
from agents.ike.outputs import InstallChild
from tests.harness.documents import FAST_ESP, FAST_IKE, child, pair
from tests.harness.world import World, matched, up

_GROUPS = [slug for slug, row in algorithms.KEY_EXCHANGE.items() if not row.additional_only]


def _ciphers(use: str) -> list[str]:
    return [slug for slug, row in algorithms.ENCRYPTION.items() if getattr(row, use)]


def _suite(encryption: str, integrity: str = "hmac-sha2-256-128") -> dict[str, str | None]:
    return {"encryption": encryption, "integrity": None if algorithms.ENCRYPTION[encryption].aead else integrity}


def _agree(ike: IkeProposal, esp: IpsecProposal, pfs_group: str | None = None) -> None:
    world = World()
    groups = () if pfs_group is None else (pfs_group,)
    left, right = pair(ike=IkePolicy(proposals=(ike,)), children=(child(proposals=(esp,), pfs_groups=groups),))
    left.allow_legacy = right.allow_legacy = True
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    assert world.run(30, up(paris, lyon)), (paris.codes(), lyon.codes())
    paris.do(paris.engine.rekey_child, left.tunnels[0].id)
    world.run(1)
    lyon.do(lyon.engine.rekey_ike, right.tunnels[0].id)
    world.run(1)
    assert matched(paris, lyon)
    assert len([each for each in paris.data_plane.history if isinstance(each, InstallChild)]) == 2
    status = paris.status().ike_sas[0]
    assert (status.encryption, status.integrity, status.prf, status.group) == (
        ike.encryption, ike.integrity, ike.prf, ike.group,
    )  # fmt: skip
    for spec in paris.data_plane.sas.values():
        assert (spec.encryption, spec.integrity) == (esp.encryption, esp.integrity)
        assert spec.encryption_key is not None
        assert len(spec.encryption_key) == algorithms.ENCRYPTION[esp.encryption or ""].keymat_octets


@pytest.mark.parametrize("encryption", _ciphers("ike"))
def test_every_cipher_protects_ike(encryption: str) -> None:
    _agree(IkeProposal(**_suite(encryption), prf="prf-hmac-sha2-256", group="group-31"), FAST_ESP)  # type: ignore[arg-type]


@pytest.mark.parametrize("integrity", algorithms.INTEGRITY)
def test_every_integrity_algorithm_protects_both(integrity: str) -> None:
    esp = IpsecProposal(**_suite("aes-128-cbc", integrity))
    _agree(IkeProposal(**_suite("aes-128-ctr", integrity), prf="prf-hmac-sha2-256", group="group-31"), esp)  # type: ignore[arg-type]


@pytest.mark.parametrize("prf", algorithms.PSEUDO_RANDOM)
def test_every_prf_derives(prf: str) -> None:
    _agree(IkeProposal(encryption="aes-128-gcm-16", prf=prf, group="group-31"), FAST_ESP)


@pytest.mark.parametrize("group", _GROUPS)
def test_every_group_keys_the_sa_and_its_child(group: str) -> None:
    _agree(IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group=group), FAST_ESP, pfs_group=group)


@pytest.mark.parametrize("encryption", _ciphers("esp"))
def test_every_cipher_keys_a_child(encryption: str) -> None:
    _agree(FAST_IKE, IpsecProposal(**_suite(encryption, "aes-cmac-96")))
