"""What a rate means in octets, for both data planes."""

from __future__ import annotations

import pytest

from agents.dataplane.shaping import TokenBucket, burst_octets, octets_per_second, waiting_octets


@pytest.mark.parametrize(
    ("rate_kbps", "per_second", "burst", "waiting"),
    [
        (64, 8_000, 2_800, 5_600),  # two packets may go, four may wait, however slow the path
        (800, 100_000, 2_800, 20_000),
        (100_000, 12_500_000, 125_000, 2_500_000),
        (10_000_000, 1_250_000_000, 12_500_000, 4_194_304),
    ],
)
def test_a_rate_in_octets(rate_kbps: int, per_second: int, burst: int, waiting: int) -> None:
    assert octets_per_second(rate_kbps) == per_second
    assert (burst_octets(rate_kbps, 1_400), waiting_octets(rate_kbps, 1_400)) == (burst, waiting)


def test_a_bucket_fills_with_time_and_holds_a_burst() -> None:
    bucket = TokenBucket(800, 1_400)
    assert bucket.packets(5.0) == 2
    bucket.spend(2_799)
    assert bucket.packets(5.0) == 1, "the last may take more than there is"
    bucket.spend(1_001)
    assert bucket.packets(5.0) == 0
    assert bucket.wait_s == pytest.approx(0.01001)
    assert bucket.packets(5.0 + bucket.wait_s / 2) == 0
    assert bucket.packets(5.0 + 2 * bucket.wait_s) == 1
    assert bucket.wait_s == 0
    assert bucket.packets(60.0) == 2
