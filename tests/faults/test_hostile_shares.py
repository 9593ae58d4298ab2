"""A small share of those faults of parcels, sizes and identities that no other test plays.

The others are played by tests of the room that they are about: `integration/test_hostile_broker`,
`test_hostile_restarts`, `test_floods`, `test_daemons_restored`, `test_journal_power_cut`, and by
`property/test_fuzz_parsers`.
"""

from __future__ import annotations

import pytest

from tests.faults import f06_lossy_parcels, f12_oversize, f17_certificates, f19_spoofed
from tests.support.links import BROKERS, needs

pytestmark = pytest.mark.slow


async def test_lost_and_doubled_parcels_lose_no_task(tmp_path):
    """Of the six conditions those that do not take their time."""
    under = ["lost 30 %", "doubled 10 %"]
    await f06_lossy_parcels.parcels(tmp_path, seed=6, count=30, broker="embedded", under=under)


def test_every_door_refuses_a_byte_too_many_for_its_size(tmp_path):
    f12_oversize.doors(tmp_path, seed=12, count=1)


async def test_an_agent_works_on_after_what_is_too_large_for_any_link(tmp_path):
    await f12_oversize.at_an_agent(tmp_path, seed=12, count=3)


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_packet_over_its_bound_cuts_its_sender_alone(tmp_path, broker):
    needs(broker)
    await f12_oversize.at_a_broker(tmp_path, seed=12, count=1, broker=broker)


async def test_a_link_says_no_byte_to_any_bad_broker(tmp_path):
    await f17_certificates.by_a_link(tmp_path, seed=17, count=15)


@pytest.mark.parametrize("broker", BROKERS)
async def test_drawn_names_filters_and_topics_get_a_member_nothing(tmp_path, broker):
    needs(broker)
    await f19_spoofed.escalated(tmp_path, seed=19, count=12, broker=broker)
