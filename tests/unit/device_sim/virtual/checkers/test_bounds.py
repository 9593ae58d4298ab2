"""P5 from outside: too many open, too much said, too many heard, and turned away after a yes."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers.bounds import (
    BEAT_FRAME_BYTES_MAX,
    DIGEST_FRAME_BYTES_MAX,
    FOLLOWED_QUIET,
    FOLLOWED_STRUCK,
    Bounds,
)
from edge_node.transport.link import PAYLOAD_BYTES_MAX
from edge_node.wire.codec import encode_message
from edge_node.wire.messages import DIGEST_BYTES_MAX, DigestEntry, FleetDigest
from tests.support.virtual_stories import MESH, Speaker, Story, Wire, name_of, offer_of


def verdict(story: Story, **end):
    return story.judged_by(Bounds(), **end)


def the_violation(story: Story, **end) -> str:
    found = verdict(story, **end)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


def beats(story: Story, sender: str, *, every_s: float, count: int, at_s: float = 1.0, **what) -> None:
    speaker = Speaker(sender, 1)
    for number in range(count):
        story.frames(at_s + number * every_s, sender, speaker.topic, speaker.beat(**what))


def hears(story: Story, reader: str, members: int, *, at_s: float = 61.0) -> None:
    for number in range(members):
        speaker = Speaker(f"pi-{number}", 1)
        story.reaches(at_s + number * 0.01, reader, speaker.topic, speaker.beat())


def test_an_ordinary_minute_passes():
    story = Story().started("pi-1")
    beats(story, "pi-1", every_s=1.0, count=60)
    beats(story, "gateway", every_s=1.0, count=60, entries=10)
    hears(story, "pi-9", 17)
    story.shows(30.0, "pi-1", open_tasks=3)
    wire = Wire("pi-1", "pi-2")
    story.frames(5.0, "pi-1", wire.topic, wire.seal(offer_of(1)))

    assert verdict(story).word == "passed"


def test_nothing_seen_is_nothing_judged():
    assert verdict(Story().started("pi-1")).word == "not applicable"


def test_the_longest_beat_fits_its_bound():
    assert len(Speaker("p" * 32, 1).beat()) <= BEAT_FRAME_BYTES_MAX


def test_the_longest_digest_fits_its_bound_with_the_longest_beat():
    entries = 0
    while len(encode_message(_digest(entries + 1))) <= DIGEST_BYTES_MAX:
        entries += 1

    assert DIGEST_BYTES_MAX < len(Speaker("gateway", 1).beat(entries=entries)) <= DIGEST_FRAME_BYTES_MAX


def _digest(entries: int) -> FleetDigest:
    return FleetDigest(
        1 << 62, [DigestEntry(f"node-{n:027d}", 1 << 31, 1 << 31, 1.5) for n in range(entries)]
    )


@pytest.mark.parametrize(("tasks", "word"), [(10_000, "passed"), (10_001, "failed")])
def test_more_open_tasks_than_the_outbox_holds_are_told(tasks, word):
    story = Story()
    story.shows(5.0, "pi-1", open_tasks=tasks)
    story.shows(6.0, "pi-1", open_tasks=3)

    found = verdict(story)

    assert found.word == word
    if word == "failed":
        assert found.violations == ("5.000 s pi-1: 10001 open tasks, the outbox holds 10000",)


def test_more_open_bytes_than_the_outbox_holds_are_told():
    story = Story()
    story.shows(5.0, "pi-1", open_bytes=1001)

    assert the_violation(story, outbox_bytes_max=1000).endswith("1001 open bytes, the outbox holds 1000")


def test_more_open_tasks_on_the_disk_than_the_outbox_holds_are_told():
    story = Story()
    story.shows(5.0, "pi-1")
    story.settled(2.0, story.accepted(1.0, "pi-1", 1))
    for number in (2, 3, 4):
        story.accepted(3.0, "pi-1", number)

    assert verdict(story, outbox_tasks_max=3).word == "passed"
    assert "3 open tasks on the disk, the outbox holds 2" in the_violation(story, outbox_tasks_max=2)


def test_more_open_bytes_on_the_disk_than_the_outbox_holds_are_told():
    story = Story()
    story.shows(5.0, "pi-1")
    for number in (1, 2):
        story.accepted(3.0, "pi-1", number)

    assert verdict(story, outbox_bytes_max=2 * len(b"input")).word == "passed"
    assert "10 open bytes on the disk" in the_violation(story, outbox_bytes_max=9)


def test_beats_that_come_too_often_are_told():
    story = Story()
    beats(story, "pi-1", every_s=0.5, count=130)

    assert "pi-1: 60 beats beyond one a second" in the_violation(story)


def test_beats_that_waited_behind_a_full_line_may_come_at_once():
    story = Story()
    beats(story, "pi-1", every_s=0.01, count=50)

    assert verdict(story).word == "passed"


def test_a_beat_more_for_each_reconnect_is_allowed():
    story = Story()
    beats(story, "pi-1", every_s=1.0, count=20)
    beats(story, "pi-1", every_s=2.0, count=5, at_s=1.5)

    assert verdict(story).word == "passed"


def test_a_will_is_no_beat():
    story = Story()
    topic = Speaker("pi-1", 1).topic
    for number in range(30):
        story.frames(1.0 + number / 100, "pi-1", topic, b"")

    assert verdict(story).word == "passed"


def test_digests_that_come_too_often_are_told():
    story = Story()
    beats(story, "gateway", every_s=0.25, count=90, entries=10)

    assert [each.partition(": ")[2] for each in verdict(story).violations] == [
        "60 beats beyond one a second",
        "60 digests beyond one a second",
    ]


def test_a_digest_over_its_size_is_told():
    story = Story()
    beats(story, "gateway", every_s=1.0, count=1, entries=25)

    assert "a digest in a frame of" in the_violation(story)


def test_presence_of_a_node_that_is_more_than_a_beat_is_told():
    story = Story()
    beats(story, "pi-1", every_s=1.0, count=1, entries=5)

    assert "more than a beat" in the_violation(story)


@pytest.mark.parametrize(("size", "word"), [(PAYLOAD_BYTES_MAX, "passed"), (PAYLOAD_BYTES_MAX + 1, "failed")])
def test_a_payload_over_what_a_link_carries_is_told(size, word):
    story = Story()
    story.frames(1.0, "gateway", f"ew/1/{MESH}/roster", bytes(size))

    assert verdict(story).word == word


def test_a_node_that_hears_everybody_is_told_once_a_minute():
    story = Story()
    hears(story, "pi-99", FOLLOWED_QUIET + 20)

    assert (
        the_violation(story)
        == f"61.250 s pi-99: presence of more than {FOLLOWED_QUIET} members within a minute"
    )


def test_the_same_members_in_every_minute_are_few():
    story = Story()
    for minute in range(1, 5):
        hears(story, "pi-99", 17, at_s=60.0 * minute)

    assert verdict(story).word == "passed"


def test_other_members_in_another_minute_are_no_violation():
    story = Story()
    for minute in (1, 2):
        for number in range(20):
            speaker = Speaker(f"pi-{minute}-{number}", 1)
            story.reaches(60.0 * minute + number, "pi-99", speaker.topic, speaker.beat())

    assert verdict(story).word == "passed"


@pytest.mark.parametrize("gateway", ["gateway", "site-2/gateway"])
def test_the_gateway_may_hear_everybody(gateway):
    story = Story()
    hears(story, gateway, 200)
    story.shows(1.0, "pi-1")

    assert verdict(story).word == "passed"


def test_a_minute_with_faults_has_room_for_replacements_and_not_for_everybody():
    story = Story()
    story.crashes(50.0, "pi-3")
    hears(story, "pi-99", FOLLOWED_STRUCK)
    assert verdict(story).word == "passed"

    hears(story, "pi-99", FOLLOWED_STRUCK + 1)
    assert f"more than {FOLLOWED_STRUCK} members" in the_violation(story)


def test_accepted_and_turned_away_afterwards_is_told():
    story = Story()
    task = story.accepted(1.0, "pi-1", 1)
    story.answers(5.0, task, accepted=False, reason="outbox full")

    assert the_violation(story) == f"5.000 s pi-1 {task}: accepted, and turned away afterwards: outbox full"


def test_asking_again_after_the_end_may_be_refused():
    story = Story()
    task = story.accepted(1.0, "pi-1", 1)
    story.settled(2.0, task)
    story.answers(5.0, task, accepted=False, reason="duplicate id")
    story.shows(6.0, "pi-1")

    assert verdict(story).word == "passed"


def test_refused_for_a_full_outbox_and_kept_is_told():
    story = Story()
    task = story.asks(1.0, "pi-1", 1)
    story.answers(1.1, task, accepted=False, reason="outbox full")
    assert verdict(story).word == "passed"

    story.keeps_accept(1.2, name_of(1))
    assert "refused for a full outbox, and accepted on the disk" in the_violation(story)
