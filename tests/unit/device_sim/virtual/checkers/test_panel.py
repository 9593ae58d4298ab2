"""All checkers together: who is told of what, and that nothing is called passed that was not judged."""

from __future__ import annotations

import random
import typing

import pytest

from device_sim.virtual.checkers.ability import Ability
from device_sim.virtual.checkers.frames import head_of
from device_sim.virtual.checkers.panel import Panel, checkers
from device_sim.virtual.checkers.replicas import Replicas
from device_sim.virtual.checkers.violations import Violations, moment
from device_sim.virtual.evidence import Crashed, End, Event, Framed, Happened, Reached, Started, Told
from edge_node.wire.messages import Ping
from security.envelope import peek_kid
from tests.support.virtual_stories import Speaker, Story, Wire, ns


def test_a_run_that_showed_nothing_is_judged_by_nobody():
    found = Panel(checkers()).verdicts(End(ns(1.0), None, {}, {}, {}))

    assert {verdict.word for verdict in found} == {"not applicable"}
    assert all(verdict.why for verdict in found)


def test_every_promise_has_a_checker_and_every_checker_a_name_of_its_own():
    every = checkers()
    promised = " ".join(checker.promise for checker in every)

    assert len({checker.name for checker in every}) == len(every)
    assert [f"P{n}" for n in range(1, 9) if f"P{n}" not in promised] == []


@pytest.mark.parametrize("checker", [Replicas()])
def test_a_checker_without_a_subject_never_passes(checker):
    verdict = Story().started("pi-1").judged_by(checker)

    assert verdict.word == "not applicable" and len(verdict.why) > 20


def test_violations_are_counted_while_it_goes_on():
    panel = Panel(checkers())
    panel.saw(Told(ns(1.0), "pi-1", "nobody asked for it", "done", "local"))

    assert panel.violations == 1


def test_each_is_told_of_what_it_wants_and_of_nothing_else():
    class Listener:
        name = promise = ""

        def __init__(self, *wants: type) -> None:
            self.wants = wants
            self.heard: list[Event] = []

        def saw(self, event: Event) -> None:
            self.heard.append(event)

        def verdict(self, end: End):
            raise AssertionError("not asked here")

    first, second = Listener(Started, Crashed), Listener(Crashed)
    panel = Panel([first, second])
    started, crashed = Started(1, "pi-1"), Crashed(2, "pi-1", "kill")

    panel.saw(started)
    panel.saw(crashed)
    panel.saw(Framed(3, "pi-1", "", b""))

    assert (first.heard, second.heard) == ([started, crashed], [crashed])
    assert panel.wants(Started) and not panel.wants(Framed)


def test_the_checkers_want_only_what_evidence_knows():
    known = set(typing.get_args(Event))

    assert {kind for checker in checkers() for kind in checker.wants} <= known


def test_a_quiet_day_passes_everywhere_that_something_was_judged():
    """One story for all: work, a crash, a revocation, a heal; and no checker speaks against it."""
    story = Story().started("gateway", "pi-1", "bad")
    story.at_s = 200.0
    wire, speaker, bad = Wire("pi-1", "gateway"), Speaker("pi-1", 1), Speaker("bad", 1)
    for at_s in range(1, 20):
        story.frames(at_s, "bad", bad.topic, bad.beat())
    story.revokes(20.0, "bad")
    story.gone["bad"] = "revoke"
    task = story.accepted(30.0, "pi-1", 1)
    story.runs(30.9, "pi-1", task)
    story.settled(31.0, task)
    story.crashes(40.0, "pi-1", "power")
    story.started("pi-1", at_s=41.0)
    story.frames(42.0, "pi-1", wire.topic, wire.seal(Ping(1)))
    story.reaches(42.1, "gateway", wire.topic, wire.seal(Ping(1)))
    story.happens(50.0, "disk-flip", "pi-1")
    story.happens(100.0, "heal")
    for node in ("gateway", "pi-1"):
        story.shows(190.0, node)
    for at_s in range(2, 190, 2):
        if at_s == 22:
            speaker.adopts(2)
        story.frames(at_s, "pi-1", speaker.topic, speaker.beat())
    panel = Panel(checkers())

    for event in sorted(story.events, key=lambda event: event.at_ns):
        panel.saw(event)
    found = panel.verdicts(story.end())

    assert [verdict for verdict in found if verdict.word == "failed"] == []
    assert sorted(verdict.promise for verdict in found if verdict.word == "not applicable") == [
        "P3",
        "P4",
        "P8",
    ]
    assert panel.wants(Reached)


# ── the parts they share


def test_violations_keep_twenty_lines_the_count_and_the_earliest_moment():
    found = Violations()
    for number in range(30):
        found.add(ns(100 - number), "pi-1", "wrong", "t")

    verdict = found.verdict("name", "P1", nothing="nothing")

    assert (verdict.word, verdict.total, len(verdict.violations), verdict.first_ns) == (
        "failed",
        30,
        20,
        ns(71),
    )
    assert verdict.violations[0] == "100.000 s pi-1 t: wrong"


def test_a_moment_is_told_without_rounding():
    assert [moment(at) for at in (0, 999_999, 1_000_000, 61_999_999_999)] == [
        "0.000 s", "0.000 s", "0.001 s", "61.999 s",
    ]  # fmt: skip


def test_ability_knows_overlapping_reasons():
    ability = Ability()
    for event in (
        Started(0, "a"),
        Happened(ns(10), "disk-full", "a"),
        Crashed(ns(20), "a", "kill"),
        Happened(ns(30), "disk-free", "a"),
        Started(ns(40), "a"),
    ):
        ability.saw(event)

    assert not ability.is_late("a", ns(12), ns(45), ns(5))
    assert ability.is_late("a", ns(12), ns(45.1), ns(5))
    assert ability.is_late("a", ns(4), ns(45), ns(5))
    assert ability.down("a") is None and ability.last_start("a", ns(39)) == 0


def test_a_process_that_is_gone_is_not_paused_any_more():
    ability = Ability()
    for event in (Happened(ns(10), "pause", "a"), Crashed(ns(20), "a", "kill"), Started(ns(30), "a")):
        ability.saw(event)

    assert ability.is_late("a", ns(12), ns(36), ns(5))


def test_what_was_over_before_the_due_moment_gives_no_time():
    ability = Ability()
    for event in (Happened(ns(10), "slow", "a"), Happened(ns(20), "slow", "a", "ended")):
        ability.saw(event)

    assert ability.is_late("a", ns(30), ns(35.1), ns(5))
    assert not ability.is_late("a", ns(30), ns(35), ns(5))


def test_a_span_of_ability_as_long_as_the_grace_is_not_too_long():
    ability = Ability()
    for event in (Happened(ns(35), "slow", "a"), Happened(ns(90), "slow", "a", "ended")):
        ability.saw(event)

    assert not ability.is_late("a", ns(30), ns(95), ns(5))
    assert ability.is_late("a", ns(29.9), ns(95), ns(5))


def test_ability_of_everybody_can_be_taken_away_at_once():
    ability = Ability()
    ability.saw(Happened(ns(10), "slow"))
    ability.saw(Happened(ns(50), "slow", detail="ended"))

    assert not ability.is_late("a", ns(11), ns(54), ns(5))
    assert ability.is_late("a", ns(11), ns(56), ns(5))


@pytest.mark.parametrize("seed", range(50))
def test_heads_are_read_as_production_reads_them(seed):
    """An independent reading of the same bytes: what one takes for an envelope, so does the other."""
    rng = random.Random(seed)
    wire = Wire("pi-1", "pi-2", seed=seed)
    sealed = wire.seal(
        Ping(rng.getrandbits(rng.randint(1, 60))), seq=rng.randint(1, rng.choice([200, 60_000, 2**24 - 1]))
    )

    head = head_of(sealed, group=False)

    assert head is not None and (head.key, head.seq) == (peek_kid(sealed), wire.seq)
    assert head_of(sealed, group=True) is None
