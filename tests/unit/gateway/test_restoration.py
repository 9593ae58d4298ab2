"""A restored gateway: whom it asks, and when it may sign again."""

from __future__ import annotations

import pytest

from gateway.restoration import (
    ASK_NS,
    GRACE_NS,
    SECOND,
    Ask,
    Came,
    Members,
    Restoration,
    Restored,
    Settle,
    Settled,
    Shown,
    Went,
)

BACKUP = Restored(backup_version=12, backup_s=1_000, restored_s=2_000)


def listening(*members):
    core = Restoration(BACKUP)
    assert core.handle(0, Members(frozenset(members))) == []
    return core


def drive(core, *events):
    effects = []
    for now_ns, event in events:
        effects += core.handle(now_ns, event)
        core.check()
    return effects


def test_every_member_is_asked_and_then_it_signs_again():
    core = listening("pi-1", "pi-2")

    assert drive(core, (1, Came("pi-1")), (2, Shown("pi-1", 12)), (3, Came("pi-2"))) == [
        Ask("pi-1"),
        Ask("pi-2"),
    ]
    assert drive(core, (4, Shown("pi-2", 19))) == [Settled("every member was heard")]
    assert (core.record.learned_version, core.record.learned_from) == (19, "pi-2")
    assert core.over and core.deadline_ns() is None


def test_members_that_only_the_newer_roster_lists_are_waited_for_too():
    core = listening("pi-1")

    # The event's order at the gateway: the roster is taken, its members are told, then who showed it.
    effects = drive(
        core, (1, Came("pi-1")), (2, Members(frozenset({"pi-1", "pi-3"}))), (2, Shown("pi-1", 19))
    )
    assert effects == [Ask("pi-1")]
    assert core.unheard == ["pi-3"]
    assert drive(core, (3, Came("pi-3")), (4, Shown("pi-3", 20)))[-1] == Settled("every member was heard")
    assert core.record.learned_version == 20


def test_who_was_revoked_since_is_not_waited_for():
    core = listening("pi-1", "pi-2")
    drive(core, (1, Came("pi-1")), (2, Shown("pi-1", 19)))

    assert drive(core, (3, Members(frozenset({"pi-1"})))) == [Settled("every member was heard")]


def test_a_member_that_does_not_answer_is_asked_again_while_it_is_there():
    core = listening("pi-1")
    drive(core, (0, Came("pi-1")))

    assert core.tick(ASK_NS - 1) == []
    assert core.deadline_ns() == ASK_NS
    assert core.tick(ASK_NS) == [Ask("pi-1")]
    drive(core, (ASK_NS + 1, Went("pi-1")))
    assert core.deadline_ns() is None and core.tick(10 * ASK_NS) == []
    assert drive(core, (11 * ASK_NS, Came("pi-1"))) == [Ask("pi-1")]


def test_a_member_that_never_comes_holds_it_up_for_the_grace_after_the_word_of_most():
    core = listening("pi-1", "pi-2", "pi-9")
    drive(core, (5 * SECOND, Shown("pi-1", 13)), (6 * SECOND, Shown("pi-2", 13)))

    assert core.deadline_ns() == 6 * SECOND + GRACE_NS
    assert core.tick(6 * SECOND + GRACE_NS - 1) == []
    assert core.tick(6 * SECOND + GRACE_NS) == [Settled("waited long enough for pi-9")]


def test_one_that_was_revoked_since_cannot_wait_the_others_out():
    """Its old roster lists it as active; nobody else has come to say otherwise."""
    core = listening("pi-1", "pi-2", "pi-9")
    drive(core, (0, Shown("pi-9", 12)))

    assert core.deadline_ns() is None and core.tick(1000 * GRACE_NS) == []
    assert drive(core, (1, Settle())) == [Settled("by the operator")]


def test_a_roster_that_lists_more_members_asks_for_the_word_of_most_of_them():
    core = listening("pi-1")
    drive(core, (0, Members(frozenset({"pi-1", "pi-2", "pi-3"}))), (0, Shown("pi-1", 13)))

    assert core.deadline_ns() is None
    assert drive(core, (SECOND, Shown("pi-2", 13))) == []
    assert core.deadline_ns() == SECOND + GRACE_NS


def test_without_any_word_it_waits_for_ever_or_for_the_operator():
    core = listening("pi-1")

    assert core.deadline_ns() is None and core.tick(1000 * GRACE_NS) == []
    assert drive(core, (1, Settle())) == [Settled("by the operator")]
    assert drive(core, (2, Settle()), (3, Shown("pi-1", 30))) == []


def test_a_mesh_without_members_has_nobody_to_ask():
    assert Restoration(BACKUP).handle(0, Members(frozenset())) == [Settled("it has no members to ask")]


def test_the_retained_topic_teaches_and_proves_no_members_word():
    core = listening("pi-1")

    assert drive(core, (1, Shown("", 15))) == []
    assert (core.record.learned_version, core.unheard) == (15, ["pi-1"])
    assert core.deadline_ns() is None, "an old broker's message starts no grace"


def test_the_record_survives_the_disk_and_says_what_happened():
    core = listening("pi-2")
    drive(core, (1, Came("pi-2")), (2, Shown("pi-2", 19)))

    assert Restored.decode(core.record.encode()) == core.record
    assert "roster 12 -> 19 taken from pi-2" in core.record.told
    assert "signs nothing until" in BACKUP.told


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"backup_version": 1}', b'{"other": 1}', b"\xff"])
def test_a_damaged_record_is_known_as_such(data):
    assert Restored.decode(data) is None


def test_a_settled_record_is_not_begun_anew():
    core = Restoration(Restored(1, 2, 3, settled_s=4, settled_why="by the operator"))

    assert core.over and core.handle(0, Came("pi-1")) == []
