"""Real packets through two real ``espd`` processes."""

from __future__ import annotations

import pytest

from agents.dataplane.base import Direction, UdpEncapsulation
from tests.espd import pair
from tests.espd.pair import INNER_4, INNER_6, NAT, OUTER_4, OUTER_6, espd_pair, key, run_inside, sa_specs

pytestmark = [pytest.mark.lab, pytest.mark.skipif(pair.missing() is not None, reason=pair.missing() or "")]


@pytest.mark.parametrize("outer", [OUTER_4, OUTER_6], ids=["outer4", "outer6"])
@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_pings_both_ways(outer: tuple[str, str], encapsulation: UdpEncapsulation | None) -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs(outer=outer, encapsulation=encapsulation))
        await run_inside(ends[0], "ping", "-c", "3", "-i", "0.05", "-W", "2", INNER_4[1])
        await run_inside(ends[0], "ping", "-c", "3", "-i", "0.05", "-W", "2", INNER_6[1])
        await run_inside(ends[1], "ping", "-c", "2", "-i", "0.05", "-W", "2", "-s", "1300", INNER_4[0])
        for end in ends:
            states = {state.direction: state for state in await end.driver.list_sas()}
            assert states[Direction.OUT].counters.packets_out == 8
            assert states[Direction.IN].counters.packets_in == 8
            assert states[Direction.OUT].counters.bytes_out == 3 * 84 + 3 * 104 + 2 * 1328
            assert states[Direction.IN].counters.bytes_in == 3 * 84 + 3 * 104 + 2 * 1328
