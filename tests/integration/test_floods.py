"""Floods from strangers and from a broker: members go on working, and what a flood may cost is bounded.

All enrolled work is done, and the counters stay within their bounds. What a flood does to the pace is a
figure of `make faults`: no test of every run judges the clock of a machine that others use too.
"""

from __future__ import annotations

import pytest

from tests.faults import f21_floods, f22_raced_code

pytestmark = pytest.mark.slow


async def test_a_flood_of_handshakes_stops_nobody_and_fills_nothing(tmp_path):
    await f21_floods.handshakes(tmp_path, seed=21, count=100)


@pytest.mark.mosquitto
@pytest.mark.parametrize("floods", [f21_floods.floods_handshakes, f21_floods.floods_joins])
def test_enrolled_daemons_keep_their_pace_during_a_flood(tmp_path, floods):
    """Real daemons, the real broker, the flood in a process of its own."""
    f21_floods.paced(tmp_path, 21, 100, floods=floods, broker="mosquitto")


async def test_a_flood_of_announcements_stops_nobody_and_hides_no_member(tmp_path):
    await f21_floods.announcements(tmp_path, seed=21, count=100)


async def test_a_flood_of_joins_and_connections_stops_nobody(tmp_path):
    await f21_floods.joins(tmp_path, seed=21, count=100)


async def test_a_code_raced_by_fifty_homes_makes_exactly_one_certificate(tmp_path):
    await f22_raced_code.raced(tmp_path, seed=22, count=1)
