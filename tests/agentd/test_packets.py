"""Drop counts from either data plane."""

from __future__ import annotations

from pathlib import Path

from agents.agentd import packets


def test_espd_counts_are_summed() -> None:
    counters = {"esp.replay": 2, "esp.late": 3, "esp.integrity": 4, "in.link": 1, "out.no-sa": 7, "esp.policy": 1}
    assert packets.from_espd(counters) == {"in": 11, "in.integrity": 4, "in.replay": 5, "in.policy": 1, "out": 7}


def test_kernel_counts_are_summed() -> None:
    statistics = "XfrmInStateSeqError     \t3\nXfrmInStateProtoError\t2\nXfrmInNoStates 5\nXfrmOutNoStates 4\n\n"
    assert packets.from_kernel(statistics) == {
        "in": 10,
        "in.integrity": 2,
        "in.replay": 3,
        "in.policy": 0,
        "out": 4,
    }


async def test_nobody_to_ask_is_unknown(tmp_path: Path) -> None:
    assert await packets.dropped(None, tmp_path / "none") is None
    assert await packets.dropped("userspace", tmp_path / "none") is None
