"""The watchdog: a link that carries nothing is made anew, one that nobody needs is left alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edge_node.transport.watchdog import (
    LOOK_NS,
    PROBES_MAX,
    QUIET_NS,
    REBUILD_NS_MAX,
    SECOND,
    TAKEN_NS,
    Probe,
    Rebuild,
    Watchdog,
)


class Watch:
    def __init__(self) -> None:
        self.dog = Watchdog()
        self.now_ns = 0
        self.dog.link_up(0)
        self.seen: list[tuple[float, str]] = []

    def pass_by(
        self, seconds: float, *, waits: bool = True, taken: int = 0, on_line: int = 0
    ) -> list[object]:
        told: list[object] = []
        end_ns = self.now_ns + int(seconds * SECOND)
        while self.now_ns < end_ns:
            self.now_ns += LOOK_NS
            effects = self.dog.look(self.now_ns, waits=waits, taken=taken, on_line=on_line)
            self.dog.check()
            told += effects
            self.seen += [(self.now_ns / SECOND, type(each).__name__) for each in effects]
        return told


def test_nothing_happens_while_nothing_waits():
    assert Watch().pass_by(3600, waits=False) == []


def test_an_answered_probe_ends_the_suspicion():
    watch = Watch()
    assert watch.pass_by(QUIET_NS / SECOND + 5) == [Probe()]
    watch.dog.heard(watch.now_ns)
    assert watch.pass_by(QUIET_NS / SECOND - 5) == []


def test_unanswered_probes_rebuild_the_link_and_say_why():
    told = Watch().pass_by(50)
    assert told[:PROBES_MAX] == [Probe()] * PROBES_MAX
    (rebuild,) = told[PROBES_MAX:]
    assert isinstance(rebuild, Rebuild) and "not even our own probes" in rebuild.reason


def test_a_broker_that_takes_nothing_is_given_up_whatever_it_says():
    watch = Watch()
    told: list[object] = []
    for _ in range(10):
        watch.dog.heard(watch.now_ns)  # it still delivers
        told += watch.pass_by(5, taken=7, on_line=100)
    assert [type(each) for each in told] == [Rebuild]


def test_a_slow_line_that_moves_is_progress():
    watch = Watch()
    for taken in range(100):
        watch.dog.heard(watch.now_ns)
        assert watch.pass_by(10, taken=taken, on_line=200_000) == []


def test_one_large_message_has_its_time():
    watch = Watch()
    told: list[object] = []
    for _ in range((TAKEN_NS // SECOND + 50) // 5):
        watch.dog.heard(watch.now_ns)
        told += watch.pass_by(5, taken=1, on_line=256 * 1024)
    assert told == []


def test_rebuilding_in_vain_gets_rarer_and_success_forgives():
    watch = Watch()
    moments = []
    for _ in range(2000):
        if any(isinstance(each, Rebuild) for each in watch.pass_by(5)):
            moments.append(watch.now_ns)
            watch.dog.link_down()
            watch.dog.link_up(watch.now_ns)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps == sorted(gaps) and gaps[-1] <= REBUILD_NS_MAX + 2 * LOOK_NS
    watch.pass_by(60)
    watch.dog.heard(watch.now_ns)
    before = watch.dog.rebuilt
    watch.pass_by(120)
    assert watch.dog.rebuilt > before, "after a sign of life it is as attentive as at first"


@pytest.mark.parametrize("on_line", [0, 5000])
def test_a_link_that_is_down_is_not_looked_at(on_line):
    watch = Watch()
    watch.dog.link_down()
    assert watch.pass_by(600, on_line=on_line) == []
