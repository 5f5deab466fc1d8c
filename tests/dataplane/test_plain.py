from __future__ import annotations

import json

import pytest

from agents.contract.config import Mode
from agents.contract.errors import DocumentError
from agents.dataplane.base import (
    Acquired,
    Expired,
    Features,
    Lost,
    Mapped,
    Notice,
    Rejected,
    Repaired,
    SaId,
    SaProtocol,
    Selector,
)
from agents.dataplane.plain import (
    IkeDatagram,
    features_from_plain,
    features_to_plain,
    notice_from_plain,
    notice_to_plain,
)

SA = SaId(spi=0x1001, destination="192.0.2.1")


@pytest.mark.parametrize(
    "notice",
    [
        Expired(id=SA, hard=True),
        Acquired(reqid=7, selector=Selector(source="10.1.0.1/32", destination="10.2.0.1/32", protocol=6)),
        Mapped(id=SA, address="198.51.100.7", port=40000),
        Rejected(code="esp.replay", count=3, id=SA),
        Rejected(code="esp.no-sa", count=1, id=None),
        Repaired(reqid=7, detail="a policy is back"),
        Lost(reason="the process ended"),
    ],
)
def test_every_notice_survives_the_wire(notice: Notice) -> None:
    assert notice_from_plain(json.loads(json.dumps(notice_to_plain(notice)))) == notice


def test_an_unknown_notice_is_refused() -> None:
    with pytest.raises(DocumentError):
        notice_from_plain({"kind": "surprise"})


def test_features_survive_the_wire() -> None:
    features = Features(
        driver="userspace",
        available=True,
        reason="because",
        encryptions=frozenset({"a", "b"}),
        modes=frozenset(Mode),
        protocols=frozenset({SaProtocol.AH}),
        extended_sequence_numbers=True,
        compression=True,
        owns_port_4500=True,
    )
    assert features_from_plain(json.loads(json.dumps(features_to_plain(features)))) == features


def test_incomplete_features_are_refused() -> None:
    with pytest.raises(DocumentError):
        features_from_plain({"driver": "userspace"})


def test_an_ike_datagram_survives_the_wire() -> None:
    datagram = IkeDatagram(local_address="::1", remote_address="::2", remote_port=4500, datagram=bytes(range(256)))
    assert IkeDatagram.from_plain(json.loads(json.dumps(datagram.to_plain()))) == datagram


@pytest.mark.parametrize("change", [{"remote_port": 0}, {"remote_port": "1"}, {"datagram": "!"}, {"local_address": 1}])
def test_a_malformed_ike_datagram_is_refused(change: dict[str, object]) -> None:
    plain = IkeDatagram(local_address="::1", remote_address="::2", remote_port=1, datagram=b"x").to_plain()
    with pytest.raises(DocumentError):
        IkeDatagram.from_plain(plain | change)
