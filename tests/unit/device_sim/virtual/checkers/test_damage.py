"""P6, as far as it goes: a damaged store names what it lost, a sound one names nothing."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers.damage import Damage
from device_sim.virtual.evidence import DAMAGES_A_STORE
from edge_node.store.ledger import SqliteLedger
from edge_node.tasks.rows import Reading, row_of
from edge_node.tasks.rows import Row as Stored
from tests.support.virtual_stories import MESH, Story, name_of


def verdict(story: Story):
    return story.judged_by(Damage())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


@pytest.fixture(params=DAMAGES_A_STORE)
def story(request) -> Story:
    told = Story().started("pi-1", "pi-2")
    told.settled(3.0, told.accepted(1.0, "pi-1", 1))
    told.accepted(2.0, "pi-1", 2)
    told.happens(10.0, request.param, "pi-1")
    return told


def test_damage_that_took_nothing_away_need_not_be_found(story):
    assert (verdict(story).word, verdict(story).why) == (
        "passed",
        "1 stores damaged, 0 records missing and named",
    )


def test_no_damage_is_nothing_judged():
    story = Story().started("pi-1")
    story.accepted(1.0, "pi-1", 1)
    story.happens(5.0, "kill", "pi-1")

    assert (verdict(story).word, verdict(story).why) == ("not applicable", "no store was damaged")


@pytest.mark.parametrize("named", ["row", "file"])
def test_what_is_missing_and_named_passes(story, named):
    story.loses("pi-1", name_of(2), 0)
    story.damaged["pi-1"] = [f"{name_of(2)}/0: checksum"] if named == "row" else ["ledger.db: set aside"]

    assert (verdict(story).word, verdict(story).why) == (
        "passed",
        "1 stores damaged, 1 records missing and named",
    )


@pytest.mark.parametrize(("number", "kind", "what"), [(2, 0, "accept"), (1, 1, "terminal record")])
def test_what_is_missing_and_not_named_is_told(story, number, kind, what):
    story.loses("pi-1", name_of(number), kind)

    lacks = f"its store was damaged and lacks this {what}, and names neither it nor the file"
    assert the_violation(story) == f"10.000 s pi-1 {name_of(number)}: {lacks}"


def test_a_store_emptied_in_silence_is_told(story):
    story.ledgers["pi-1"].clear()

    assert verdict(story).total == 3


def test_another_tasks_name_does_not_cover_it(story):
    story.loses("pi-1", name_of(2), 0)
    story.damaged["pi-1"] = [f"{name_of(1)}/0: checksum"]

    assert "names neither it nor the file" in the_violation(story)


def test_a_record_whose_owner_cannot_be_told_may_be_the_missing_one(story):
    """A flipped bit in the name of a row: the journal sees that it is damaged, under a name of nobody."""
    story.loses("pi-1", name_of(2), 0)
    story.damaged["pi-1"] = [f"{name_of(77)}/0: checksum"]

    assert verdict(story).word == "passed"


@pytest.mark.parametrize("column", ["body", "id"])
def test_a_real_journal_names_a_flipped_bit_in_words_that_are_understood(tmp_path, story, column):
    store = SqliteLedger(tmp_path / "ledger.db", MESH, "pi-1")
    store.insert([Stored(*row_of(record)) for record in story.records["pi-1"]])
    flipped = {"body": "body = zeroblob(length(body))", "id": "id = 'z' || substr(id, 2)"}[column]
    store._writer.execute(f"UPDATE records SET {flipped} WHERE id = ? AND kind = 0", (name_of(2),))
    journal = Reading(store)
    journal.open_tasks()
    story.loses("pi-1", name_of(2), 0)
    assert "names neither it nor the file" in the_violation(story)

    story.damaged["pi-1"] = journal.damaged or journal.verify()
    assert story.damaged["pi-1"] and verdict(story).word == "passed"


def test_damage_that_nobody_did_is_told(story):
    story.damaged["pi-2"] = ["ledger.db: malformed"]

    assert the_violation(story) == "100.000 s pi-2: names damage that nobody did: ledger.db: malformed"


def test_a_disk_that_went_with_its_node_is_not_asked(story):
    del story.ledgers["pi-1"]
    story.gone["pi-1"] = "kill"

    assert verdict(story).word == "passed"


def test_promises_made_after_the_damage_are_not_judged_here(story):
    story.loses("pi-1", story.accepted(20.0, "pi-1", 3), 0)

    assert verdict(story).word == "passed"
