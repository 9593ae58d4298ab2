"""Fault 9 in small: stores flipped, zeroed, cut and torn; the campaign takes a thousand."""

from __future__ import annotations

import random

import pytest

from tests.faults import damage


@pytest.mark.slow
def test_damage_is_seen_and_nothing_is_invented(tmp_path):
    assert damage.run(20261123, 25, tmp_path / "stores") == []


@pytest.mark.slow
def test_what_was_changed_behind_the_stores_back_would_be_found(tmp_path):
    """The judge itself: a task that vanished, and one that was never there."""
    original = damage._made(random.Random(1), tmp_path / "made")
    path = tmp_path / "made" / "ended" / "ledger.db"
    journal = damage.Journal(path, damage.MESH, damage.NODE)
    expected = {
        summary.id: stored
        for summary in journal.list(1000)
        if (stored := journal.get(summary.id)) is not None
    }
    missing = {**expected, "task-9999": original.tasks[max(original.tasks)]}
    extra = dict(list(expected.items())[1:])

    assert damage.judged(journal, expected) == []
    assert damage.judged(journal, missing) == ["task-9999 differs and nothing names it"]
    assert damage.judged(journal, extra) == [f"{next(iter(expected))} was never there"]
    journal.close()
