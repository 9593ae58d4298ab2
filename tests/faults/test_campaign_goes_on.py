"""The campaign itself: it goes on where it was, deals its rounds evenly, keeps what was wrong."""

from __future__ import annotations

import json

import pytest

from tests.faults import campaign
from tests.faults.campaign import Book, Leg, figures_of, over, play, report
from tests.faults.fault import Fault, Lacking, Outcome, quantile


def leg(
    name="kind",
    *,
    full=10,
    broker="embedded",
    bounds=None,
    ends=lambda context: Outcome(context.count, 1, []),
):
    async def run(context):
        context.drawn["lot"] = context.rng.randrange(1000)
        (context.scratch / "trace").write_text("here")
        return ends(context)

    return Leg(
        Fault(1, name, name, (broker,), full, 1, "blows", round_max=2, bounds=bounds or {}), broker, run
    )


def raising(error):
    def ends(context):
        raise error

    return ends


def test_a_round_is_the_same_again(tmp_path):
    first = play(leg(), 3, 77, 2, tmp_path, print)
    again = play(leg(), 3, 77, 2, tmp_path / "elsewhere", print)

    assert (first.seed, first.drawn) == (again.seed, again.drawn)
    assert play(leg(), 4, 77, 2, tmp_path, print).seed != first.seed


def test_a_campaign_that_was_killed_goes_on_where_it_was(tmp_path):
    book = Book(tmp_path / "rounds.jsonl")
    for number in (1, 2):
        book.add(play(leg(), number, 77, 2, tmp_path, print))
    with book.path.open("a") as file:
        file.write('{"fault": "1.kind", "broker": "emb')  # killed while it wrote

    after = Book(book.path)
    assert (after.done(leg()), after.next_number(leg()), after.campaign) == (4, 3, 77)


def test_the_fault_that_is_furthest_behind_is_next(tmp_path):
    book, legs = Book(tmp_path / "rounds.jsonl"), [leg("one"), leg("two", full=4)]
    order = []
    while found := book.next(legs, 1.0, 1e9):
        order.append(found.fault.name)
        book.add(play(found, book.next_number(found), 1, 2, tmp_path, print))

    assert order == ["one", "two", "one", "one", "two", "one", "one"]


def test_a_round_that_does_not_fit_the_time_is_not_begun(tmp_path):
    book = Book(tmp_path / "rounds.jsonl")

    assert book.next([leg()], 1.0, left_s=59) is None
    assert book.next([leg()], 1.0, left_s=61) is not None


def test_a_violation_keeps_its_folder_and_a_plain_round_does_not(tmp_path):
    bad = leg("bad", ends=lambda context: Outcome(1, 1, ["P1: lost"]))
    play(leg(), 1, 1, 1, tmp_path, print)
    told = play(bad, 1, 1, 1, tmp_path, print)

    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["1.bad-embedded-1"]
    assert "--only 1.bad --broker embedded --seed 1 --round 1 --count 1" in campaign.again(told, tmp_path)


def test_a_broken_round_counts_for_nothing_and_is_given_up_in_the_end(tmp_path):
    book, broken = Book(tmp_path / "rounds.jsonl"), leg(ends=raising(AssertionError("no such node")))
    for _ in range(campaign.BROKEN_MAX):
        assert book.next([broken], 1.0, 1e9) is broken
        book.add(play(broken, book.next_number(broken), 1, 2, tmp_path, print))

    assert book.done(broken) == 0 and book.next([broken], 1.0, 1e9) is None
    assert "3 rounds broke" in report(book, [broken], 1.0, "c", tmp_path)
    assert "no such node" in (tmp_path / "scratch" / "1.kind-embedded-1" / "broken.txt").read_text()


def test_what_this_machine_lacks_is_said_and_not_tried_again(tmp_path):
    book, lacking = Book(tmp_path / "rounds.jsonl"), leg(ends=raising(Lacking("needs root")))
    book.add(play(lacking, 1, 1, 2, tmp_path, print))

    assert book.next([lacking], 1.0, 1e9) is None
    assert "not run here: needs root" in report(book, [lacking], 1.0, "c", tmp_path)


def test_figures_over_their_bound_are_told_and_break_nothing(tmp_path):
    slow = leg(
        bounds={"resume_s p99": 10.0},
        ends=lambda context: Outcome(2, 5, [], {"rss_mib": context.seed % 7}, {"resume_s": [1.0, 12.0]}),
    )
    book = Book(tmp_path / "rounds.jsonl")
    book.add(play(slow, 1, 1, 2, tmp_path, print))
    text = report(book, [slow], 1.0, "c", tmp_path)

    assert over(slow.fault, figures_of(book.rounds)) == ["resume_s p99 12 > 10"]
    assert (
        "over: resume_s p99 12 > 10" in text
        and "violations = 0" in text
        and "| 10 blows | 2 | 20% of 10 | 5 | 0 |" in text
    )


def test_the_command_ends_with_the_number_of_violations(tmp_path, monkeypatch, capsys):
    bad = leg("bad", full=2, ends=lambda context: Outcome(2, 1, ["P1: lost"]))
    monkeypatch.setattr(campaign, "legs_of", lambda only, broker: [bad])

    assert campaign.main(["--out", str(tmp_path), "--seed", "5"]) == 1
    assert campaign.main(["--out", str(tmp_path)]) == 0  # nothing is left to do
    said = capsys.readouterr().out
    assert "VIOLATION: P1: lost" in said and "violations = 1" in said
    assert len([json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]) == 1


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_quantile_is_one_of_the_values(share, expected):
    assert quantile([float(n) for n in range(1, 101)], share) == expected
