"""Five seconds after a revocation: nothing in, nothing out, nothing readable, nothing counted."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers.revoked import RevokedIsOut
from edge_node.wire.messages import Ping
from tests.support.virtual_stories import Speaker, Story, Wire, epochs


def verdict(story: Story):
    return story.judged_by(RevokedIsOut())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


def said(story: Story, speaker: Speaker, begin_s: float, end_s: float, *, rotates_s: float = 0.0) -> None:
    """A beat every 2 s, under epoch 2 from *rotates_s* on."""
    at_s = begin_s
    while at_s <= end_s:
        if rotates_s and at_s >= rotates_s:
            speaker.adopts(2)
        story.frames(at_s, speaker.name, speaker.topic, speaker.beat())
        at_s += 2.0


@pytest.fixture
def story() -> Story:
    """bad is revoked at 20 s; the others rotate to epoch 2 at 21 s; bad holds epoch 1."""
    told = Story().started("gateway", "pi-1", "bad")
    told.revokes(20.0, "bad")
    said(told, Speaker("pi-1", 1), 1.0, 60.0, rotates_s=21.0)
    said(told, Speaker("bad", 1), 1.5, 20.0)
    told.keys["bad"] = {"groups.cbor": epochs(1).to_bytes()}
    return told


def test_one_who_is_out_passes(story):
    wire = Wire("pi-1", "bad")
    story.reaches(24.9, "bad", wire.topic, wire.seal(Ping(1)))  # within the five seconds

    assert (verdict(story).word, verdict(story).why) == (
        "passed",
        "1 revoked, 2 frames tried with their secrets",
    )


def test_nobody_revoked_is_nothing_judged(story):
    story.events = [event for event in story.events if type(event).__name__ != "Revoked"]

    assert (verdict(story).word, verdict(story).why) == ("not applicable", "nobody was revoked")


def test_a_run_that_ends_before_the_cut_judges_nothing(story):
    story.at_s = 24.0

    assert verdict(story).word == "not applicable"


def test_what_reaches_it_afterwards_is_told(story):
    wire = Wire("pi-1", "bad")
    story.reaches(25.5, "bad", wire.topic, wire.seal(Ping(1)))

    assert the_violation(story) == f"25.500 s bad: revoked, and reached on {wire.topic} 5.500 s after"


def test_what_it_publishes_afterwards_is_told(story):
    wire = Wire("bad", "pi-1")
    story.frames(26.0, "bad", wire.topic, wire.seal(Ping(1)))

    assert f"revoked, and published on {wire.topic}" in the_violation(story)


def test_its_last_will_is_not_its_own(story):
    story.frames(26.0, "bad", Speaker("bad", 1).topic, b"")

    assert verdict(story).word == "passed"


def test_others_may_be_reached(story):
    wire = Wire("gateway", "pi-1")
    story.reaches(30.0, "pi-1", wire.topic, wire.seal(Ping(1)))

    assert verdict(story).word == "passed"


def test_a_group_that_did_not_rotate_is_told():
    story = Story().started("gateway", "pi-1", "bad")
    story.revokes(20.0, "bad")
    said(story, Speaker("pi-1", 1), 1.0, 60.0)
    story.keys["bad"] = {"groups.cbor": epochs(1).to_bytes()}

    found = verdict(story)

    assert found.violations == (
        "27.000 s bad: revoked, and can read what pi-1 said 7.000 s after",
        "59.000 s bad: revoked, and can read what pi-1 said 39.000 s after",
    )


def test_a_group_that_rotated_too_late_is_told():
    story = Story().started("gateway", "pi-1", "bad")
    story.revokes(20.0, "bad")
    said(story, Speaker("pi-1", 1), 1.0, 60.0, rotates_s=40.0)
    story.keys["bad"] = {"groups.cbor": epochs(1).to_bytes()}

    assert "27.000 s bad: revoked, and can read what pi-1 said 7.000 s after" in the_violation(story)


def test_one_who_was_handed_the_new_epoch_is_told(story):
    story.keys["bad"] = {"groups.cbor": epochs(1, 2).to_bytes()}

    assert verdict(story).total == 2


def test_the_epoch_before_the_last_counts_as_readable(story):
    """It lies on the disk beside the last one."""
    said(story, Speaker("pi-2", 1), 1.0, 60.0)
    story.keys["bad"] = {"groups.cbor": epochs(1, 3).to_bytes()}

    assert all("can read what pi-2 said" in line for line in verdict(story).violations)
    assert verdict(story).total == 2


def test_one_who_has_just_come_back_cannot_have_the_new_epoch_yet(story):
    speaker = Speaker("pi-2", 1)
    said(story, speaker, 1.0, 10.0)
    said(story, speaker, 40.0, 49.0)
    assert verdict(story).word == "passed"

    said(story, speaker, 50.0, 60.0)  # but by now it can
    assert "can read what pi-2 said" in the_violations_of(story)


def test_a_restart_shorter_than_a_gap_is_one_too(story):
    """Down when the epoch changed, back 5 s later: its first beats are under the epoch of its disk."""
    speaker = Speaker("pi-2", 1)
    said(story, speaker, 1.0, 19.0)
    story.crashes(19.5, "pi-2", "power")
    story.started("pi-2", at_s=24.5)
    said(story, speaker, 26.0, 34.0)
    assert verdict(story).word == "passed"

    said(story, speaker, 36.0, 40.0)  # but by now it can
    assert "36.000 s bad: revoked, and can read what pi-2 said" in the_violations_of(story)


def test_a_restart_of_the_gateway_does_not_excuse_its_own_beats(story):
    """It makes the epochs: five seconds after it is back it has the new one, or never will."""
    said(story, Speaker("gateway", 1), 1.0, 35.0)
    story.crashes(26.0, "gateway")
    story.started("gateway", at_s=26.5)

    assert "bad: revoked, and can read what gateway said" in the_violations_of(story)


def the_violations_of(story: Story) -> str:
    return "\n".join(verdict(story).violations)


def test_a_node_without_secrets_is_said_not_to_be_tried(story):
    story.keys.clear()

    assert verdict(story).why == "1 revoked, 0 frames tried with their secrets; no secrets on the disk of bad"


def test_a_damaged_store_of_secrets_opens_nothing(story):
    story.keys["bad"] = {"groups.cbor": b"\x00damaged"}

    assert verdict(story).word == "passed"


def test_a_result_that_counts_afterwards_is_told(story):
    story.settled(30.0, story.accepted(10.0, "pi-1", 1), "done", "bad")

    assert "took a result of bad 10.000 s after" in the_violation(story)


def test_a_result_that_was_recorded_before_may_be_told_afterwards(story):
    task = story.accepted(10.0, "pi-1", 1)
    story.keeps_end(15.0, task, "done", "bad")
    story.tells(40.0, task, "done", "bad")

    assert verdict(story).word == "passed"


def test_where_the_disk_does_not_tell_the_telling_counts(story):
    task = story.accepted(10.0, "pi-1", 1)
    story.keeps_end(None, task, "done", "bad")
    story.tells(40.0, task, "done", "bad")

    assert "took a result of bad 20.000 s after" in the_violation(story)


def test_its_own_work_is_its_own(story):
    story.settled(30.0, story.accepted(10.0, "bad", 1), "done", "bad")

    assert verdict(story).word == "passed"


def test_a_gateway_that_dies_in_those_seconds_begins_them_anew(story):
    wire = Wire("pi-1", "bad")
    story.crashes(21.0, "gateway")
    story.started("gateway", at_s=40.0)
    story.reaches(44.0, "bad", wire.topic, wire.seal(Ping(1)))
    assert verdict(story).word == "passed"

    story.reaches(45.5, "bad", wire.topic, wire.seal(Ping(1)))
    assert "reached on" in the_violation(story)


def test_a_gateway_that_dies_later_changes_nothing(story):
    wire = Wire("pi-1", "bad")
    story.crashes(26.0, "gateway")
    story.reaches(27.0, "bad", wire.topic, wire.seal(Ping(1)))

    assert "reached on" in the_violation(story)


def test_a_name_that_joined_again_is_a_member(story):
    wire = Wire("pi-1", "bad")
    story.happens(50.0, "join", "bad")
    story.reaches(51.0, "bad", wire.topic, wire.seal(Ping(1)))
    story.frames(51.0, "bad", Wire("bad", "pi-1").topic, Wire("bad", "pi-1").seal(Ping(1)))
    assert verdict(story).word == "passed"

    story.reaches(49.0, "bad", wire.topic, wire.seal(Ping(1)))
    assert "reached on" in the_violation(story)


@pytest.mark.parametrize("cut", ["pi-1", "gateway"])
def test_one_who_speaks_and_does_not_hear_need_not_have_the_new_epoch(cut):
    story = Story().started("gateway", "pi-1", "bad")
    story.happens(15.0, "partition", cut)
    story.revokes(20.0, "bad")
    story.happens(30.0, "heal-partition", cut)
    said(story, Speaker("pi-1", 1), 1.0, 60.0, rotates_s=38.0)
    story.keys["bad"] = {"groups.cbor": epochs(1).to_bytes()}

    assert verdict(story).word == "passed"


@pytest.mark.parametrize("healed", ["heal-partition", "heal"])
def test_one_who_hears_again_has_ten_seconds_to_take_the_new_epoch(healed):
    story = Story().started("gateway", "pi-1", "bad")
    story.happens(15.0, "partition", "pi-1")
    story.revokes(20.0, "bad")
    story.happens(30.0, healed, "" if healed == "heal" else "pi-1")
    said(story, Speaker("pi-1", 1), 1.0, 60.0)
    story.keys["bad"] = {"groups.cbor": epochs(1).to_bytes()}

    assert verdict(story).violations == (
        "41.000 s bad: revoked, and can read what pi-1 said 21.000 s after",
        "59.000 s bad: revoked, and can read what pi-1 said 39.000 s after",
    )
