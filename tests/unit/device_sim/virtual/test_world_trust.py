"""What a mesh in the world begins with: times that its own members believe."""

from __future__ import annotations

from device_sim.virtual.trust import JOINED_S, Trust
from device_sim.virtual.world import WALL_MS, World
from security.certificates import RELEASED_S, floor_s
from security.roster import RESIGN_S, open_roster


def test_every_time_in_the_world_is_believed_by_its_members():
    assert floor_s() == RELEASED_S < JOINED_S < WALL_MS // 1000


def test_the_first_roster_needs_no_other_when_the_world_begins():
    trust = Trust(World(3), "home", {"pi-1": {"site": "a"}})

    roster = open_roster(trust.signed, root_spki_sha256=trust.authority.root_spki_sha256)

    assert roster.version == 1
    assert roster.issued_s + RESIGN_S > WALL_MS // 1000
