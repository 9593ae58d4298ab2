"""Arrivals: lazily, in the order of time, at the rate that was asked for, everything from the seed."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.arrivals import asks, size, times
from device_sim.devices.plan import SECOND, newest, plan, rows_of
from device_sim.scenario import Arrivals, Call, DevicesTable, Sensor, Spread, Trace

TRACE = Trace(file="x.csv", rate_hz=2.0, window=4, hop=3, offset_s=1.0, jitter_s=2.0, repeat=True)


def of(kind: str, rate_hz: float = 5.0, **more) -> Arrivals:
    return Arrivals(function="s.f", kind=kind, rate_hz=rate_hz, input_bytes=10, **more)


def device(*arrivals: Arrivals, **more) -> DevicesTable:
    return DevicesTable(prefix="a", count=3, arrivals=arrivals, **more)


def seconds(arrivals: Arrivals, count: int, seed: int = 1, moments=None) -> list[float]:
    drawn = times(arrivals, random.Random(seed), moments or {})
    return [at_ns / SECOND for at_ns in itertools.islice(drawn, count)]


@pytest.mark.parametrize("kind", ["constant", "poisson", "bursty"])
def test_every_kind_keeps_its_mean_rate(kind):
    """20 000 tasks of a rate of 5: within 5 %, five standard errors of the burstiest of them (bursts of four:
    the count of a compound Poisson process has a variance of (2·4 - 1) times its mean)."""
    at_s = seconds(of(kind, burst=4, gap_s=0.001), 20_000)

    assert at_s == sorted(at_s)
    assert 20_000 / at_s[-1] == pytest.approx(5, rel=0.05)


def test_constant_is_even_and_poisson_is_not():
    gaps = {
        kind: [b - a for a, b in itertools.pairwise(seconds(of(kind), 5000))]
        for kind in ("constant", "poisson")
    }

    assert statistics.pstdev(gaps["constant"]) < 1e-8
    assert statistics.pstdev(gaps["poisson"]) / statistics.mean(gaps["poisson"]) == pytest.approx(1, abs=0.08)


def test_bursts_hold_as_many_tasks_as_was_said_a_gap_apart():
    at_s = seconds(of("bursty", rate_hz=0.5, burst=8, gap_s=0.001), 8000)
    inside = [round(b - a, 6) for a, b in itertools.pairwise(at_s) if b - a < 0.01]

    assert set(inside) == {0.001}
    assert 8000 / (8000 - len(inside)) == pytest.approx(8, rel=0.15)  # tasks over bursts


def test_a_burst_of_one_is_a_poisson_process():
    at_s = seconds(of("bursty", burst=1), 5000)
    gaps = [b - a for a, b in itertools.pairwise(at_s)]

    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.1)


def test_a_recorded_trace_is_replayed_faster_and_again():
    moments = {("t.csv", "at"): [0, 2 * SECOND, 6 * SECOND]}
    once = Arrivals(function="s.f", kind="trace", file="t.csv", column="at", speed_up=2.0, input_bytes=1)
    again = Arrivals(function="s.f", kind="trace", file="t.csv", column="at", repeat=True, input_bytes=1)

    assert seconds(once, 9, moments=moments) == [0, 1, 3]
    assert seconds(again, 7, moments=moments) == [0, 2, 6, 9, 11, 15, 18]  # 3 s apart on average


def test_what_one_source_draws_does_not_move_another():
    alone = [ask.at_ns for ask in asks(device(of("poisson")), "a-1", random.Random(7), 20)]
    both = list(asks(device(of("poisson"), of("bursty", priority=5)), "a-1", random.Random(7), 20))

    assert [ask.at_ns for ask in both if ask.priority == 0] == alone
    assert [ask.at_ns for ask in both] == sorted(ask.at_ns for ask in both)
    assert all(0 <= ask.at_ns <= 20 * SECOND for ask in both)
    assert [ask.at_ns for ask in asks(device(of("poisson")), "a-1", random.Random(8), 20)] != alone


def test_calls_come_as_they_are_planned_for_real_daemons_but_lazily():
    calls = (Call(function="s.f"), Call(function="s.g", every_windows=2), Call(function="s.h", whole=True))
    whole = DevicesTable(id="a", trace=TRACE, calls=calls)

    asked = asks(whole, "a", random.Random(3), 60, rows=20)
    first = next(asked)
    rest = list(asked)

    rng = random.Random(random.Random(3).getrandbits(64))  # the stream of the calls
    planned = plan(whole, 20, 60, rng)
    assert [(ask.at_ns, ask.function, ask.rows) for ask in [first, *rest]] == [
        (each.due_ns, each.call.function, (each.first, each.last)) for each in planned
    ]


def test_an_endless_replay_is_asked_for_one_task_at_a_time():
    asked = asks(device(of("poisson", 1e5)), "a-1", random.Random(1), 86_400)

    assert len(list(itertools.islice(asked, 10))) == 10  # of eight thousand million


def test_what_arrives_may_take_the_newest_window():
    source = Trace(file="x.csv", rate_hz=1.0, window=4, hop=3, repeat=True)
    table = device(Arrivals(function="s.f", kind="constant", rate_hz=1.0), trace=source)

    for ask in asks(table, "a-2", random.Random(1), 30, rows=10):
        assert ask.input_bytes == 0 and ask.rows is not None
        assert ask.rows == newest(source, 10, ask.at_ns)
        assert ask.rows[0] >= 0 and ask.rows[1] <= 10
    assert [newest(source, 10, second * SECOND) for second in (0, 2, 3, 6, 9, 10)] == [
        (0, 4), (0, 4), (3, 7), (6, 10), (6, 10), (0, 4),
    ]  # fmt: skip


def test_a_modelled_sensor_gives_readings_to_the_end_of_the_replay():
    sensor = Sensor(kind="meter", rate_hz=2.0, window=10, hop=5, speed_up=3.0)

    assert rows_of(sensor, 20.0) == 10 + 120


def test_a_node_of_another_class_is_refused():
    with pytest.raises(ValueError, match="b-1 is none of a"):
        next(asks(device(of("poisson")), "b-1", random.Random(1), 10))


def test_sizes_are_constant_uniform_or_lognormal():
    rng = random.Random(5)
    uniform = [size(Spread(min=10, max=12), rng) for _ in range(2000)]
    wide = [size(Spread(mean=400.0, cv=0.5), rng) for _ in range(20_000)]

    assert size(77, rng) == 77
    assert set(uniform) == {10, 11, 12}
    assert statistics.mean(wide) == pytest.approx(400, rel=0.03)
    assert statistics.pstdev(wide) / 400 == pytest.approx(0.5, rel=0.05)


KINDS = st.builds(
    of,
    st.sampled_from(["constant", "poisson", "bursty"]),
    st.floats(0.1, 50),
    burst=st.integers(1, 20),
    gap_s=st.floats(0, 2),
)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(KINDS, max_size=4), st.integers(0, 9), st.floats(0, 4), st.floats(0, 4), st.booleans())
def test_everything_comes_in_order_and_in_time(sources, seed, jitter_s, burst_s, called):
    trace = Trace(file="x.csv", rate_hz=3.0, window=4, hop=1, jitter_s=jitter_s, burst_s=burst_s, repeat=True)
    calls = (Call(function="s.f"),) if called else ()
    table = device(*sources, trace=trace, calls=calls)

    asked = list(itertools.islice(asks(table, "a-1", random.Random(seed), 20, rows=9), 3000))

    assert [ask.at_ns for ask in asked] == sorted(ask.at_ns for ask in asked)
    assert all(0 <= ask.at_ns <= 20 * SECOND for ask in asked)
