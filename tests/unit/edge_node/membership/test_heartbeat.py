"""When a member beats: each second while its load changes, each five while it does not."""

from __future__ import annotations

from edge_node.membership.heartbeat import SECOND, Heartbeat
from edge_node.wire.messages import Load

IDLE, BUSY, BUSIER = Load(2, 0), Load(2, 100), Load(2, 900)


def beats(heart: Heartbeat, load_at, *, seconds: int) -> list[float]:
    """The moments of the beats, looked at each 100 ms."""
    told = []
    for tenth in range(seconds * 10):
        now_ns = tenth * SECOND // 10
        if heart.deadline_ns() <= now_ns and heart.tick(now_ns, 0, load_at(tenth / 10)) is not None:
            told.append(tenth / 10)
    return told


def test_an_idle_member_beats_every_five_seconds():
    assert beats(Heartbeat(incarnation=1, boot_id=b""), lambda at_s: IDLE, seconds=12) == [0.0, 5.0, 10.0]


def test_a_load_that_changes_is_told_every_second():
    heart = Heartbeat(incarnation=1, boot_id=b"")

    assert beats(heart, lambda at_s: Load(2, 1000 + int(at_s * 10)), seconds=4) == [0.0, 1.0, 2.0, 3.0]


def test_the_first_change_is_told_at_once():
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, IDLE)
    heart.moved(3 * SECOND)

    assert heart.deadline_ns() == 3 * SECOND
    assert heart.tick(3 * SECOND, 0, BUSY) is not None


def test_a_second_change_waits_until_the_second_is_over():
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, IDLE)
    heart.moved(SECOND // 10)

    assert heart.tick(SECOND // 10, 0, BUSY) is None
    assert heart.deadline_ns() == SECOND


def test_what_moved_back_is_not_told():
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, IDLE)
    heart.moved(3 * SECOND)

    assert heart.tick(3 * SECOND, 0, IDLE) is None
    assert heart.deadline_ns() == 5 * SECOND


def test_for_a_newcomer_a_beat_comes_within_a_second_changed_or_not():
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, IDLE)
    heart.hasten(SECOND // 5)

    assert heart.deadline_ns() == SECOND
    assert heart.tick(SECOND, 0, IDLE) is not None


def test_beats_bear_their_order_and_their_life():
    heart = Heartbeat(incarnation=7, boot_id=b"12345678")
    first, direct, second = heart.tick(0, 5, IDLE), heart.direct(6, BUSY), heart.told(SECOND, 7, BUSIER)

    assert [(b.incarnation, b.seq, b.boot_id) for b in (first, direct, second)] == [
        (7, n, b"12345678") for n in (1, 2, 3)
    ]
    assert [b.sent_at_ms for b in (first, direct, second)] == [5, 6, 7]
    heart.check()


def test_after_a_goodbye_there_is_no_beat():
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, IDLE)
    heart.pause(60 * SECOND)

    assert heart.tick(59 * SECOND, 0, BUSY) is None


def test_after_a_goodbye_no_change_makes_it_speak_again():
    """Work that ends while the process does would revive us for everybody who was told that we are gone."""
    heart = Heartbeat(incarnation=1, boot_id=b"")
    heart.tick(0, 0, BUSY)
    heart.pause(60 * SECOND)
    heart.moved(5 * SECOND)
    heart.hasten(5 * SECOND)

    assert heart.tick(5 * SECOND, 0, IDLE) is None
    assert heart.deadline_ns() == 60 * SECOND
    assert heart.tick(60 * SECOND, 0, IDLE) is not None
