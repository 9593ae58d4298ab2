"""Shortening: what remains fails as the whole run does, can be done, and costs a bounded number of plays."""

from __future__ import annotations

from device_sim.faults import SECOND, Fault, impossible
from device_sim.virtual.shorten import GRAIN_NS, shortened, units

FAULTS = (
    Fault(at_s=2.0, do="kill", node="a"),
    Fault(at_s=3.0, do="slow", node="b", until_s=9.0, factor=3.0),
    Fault(at_s=4.0, do="restart", node="a"),
    Fault(at_s=5.0, do="partition", node="b", direction="to"),
    Fault(at_s=6.0, do="kill", node="a"),
    Fault(at_s=8.0, do="heal-partition", node="b"),
    Fault(at_s=9.0, do="restart", node="a"),
    Fault(at_s=11.0, do="kill-broker"),
)
DURATION_NS = 40 * SECOND


def test_a_fault_and_what_ends_it_are_one_unit():
    kill, slow, back, cut, again, whole, second, broker = FAULTS

    assert units(FAULTS) == [(kill, back), (slow,), (cut, whole), (again, second), (broker,)]


def test_the_one_fault_that_matters_and_its_moment_are_found():
    cut = FAULTS[3]

    def fails(faults, until_ns):
        assert impossible(faults) is None
        return cut in faults and until_ns >= 7 * SECOND

    found = shortened(FAULTS, DURATION_NS, fails)

    assert found.faults == (cut,), "what would end it comes after everything has been made good"
    assert 7 * SECOND <= found.prefix_ns <= 7 * SECOND + GRAIN_NS
    assert fails(found.faults, found.prefix_ns)


def test_two_faults_that_only_fail_together_are_kept_together():
    found = shortened(FAULTS, DURATION_NS, lambda faults, _: FAULTS[0] in faults and FAULTS[4] in faults)

    assert [fault.do for fault in found.faults if fault.do == "kill"] == ["kill", "kill"]
    assert {fault.do for fault in found.faults} <= {"kill", "restart"}


def test_what_needs_no_fault_keeps_none():
    found = shortened(FAULTS, DURATION_NS, lambda faults, until_ns: until_ns >= SECOND, first_ns=20 * SECOND)

    assert (found.faults, found.prefix_ns) == ((), SECOND)


def test_a_run_that_fails_only_as_a_whole_stays_whole_within_the_bound():
    plays = []

    def fails(faults, until_ns):
        plays.append(until_ns)
        return faults == FAULTS and until_ns == DURATION_NS

    found = shortened(FAULTS, DURATION_NS, fails, plays_max=9)

    assert (found.faults, found.prefix_ns) == (FAULTS, DURATION_NS)
    assert len(plays) == found.plays == 9
