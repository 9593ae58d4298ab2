"""Traces: windows in order, no row handed over before the replay has read it, everything from the seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.devices.plan import SECOND, plan, windows
from device_sim.devices.series import NoSuchColumn, Series
from device_sim.scenario import Call, DevicesTable, Trace
from security.errors import BadInput

CALL = Call(function="gait.spectrum")


def device(calls=(CALL,), **trace) -> DevicesTable:
    chosen = {"file": "x.csv", "rate_hz": 1.0, "window": 4, "hop": 3} | trace
    return DevicesTable(id="a", trace=Trace(**chosen), calls=calls)


def due_s(planned) -> list[float]:
    return [each.due_ns / SECOND for each in planned]


def test_windows_cover_a_series_in_full_windows_only():
    assert list(windows(10, 4, 3)) == [(0, 4), (3, 7), (6, 10)]
    assert list(windows(3, 4, 1)) == []


def test_a_window_is_handed_over_when_it_is_full():
    planned = plan(device(speed_up=2.0), 13, 60.0, random.Random(1))

    assert [(each.first, each.last) for each in planned] == [(0, 4), (3, 7), (6, 10), (9, 13)]
    assert due_s(planned) == [0.0, 1.5, 3.0, 4.5]


def test_what_is_due_after_the_replay_is_left_out():
    assert due_s(plan(device(), 1000, 7.0, random.Random(1))) == [0.0, 3.0, 6.0]


def test_a_repeated_trace_goes_on_without_a_window_over_the_seam():
    planned = plan(device(repeat=True), 8, 21.0, random.Random(1))

    assert [(each.first, each.last) for each in planned] == [(0, 4), (3, 7)] * 3
    assert due_s(planned) == [0.0, 3.0, 8.0, 11.0, 16.0, 19.0]


def test_bursts_collect_windows():
    assert due_s(plan(device(burst_s=5.0), 20, 60.0, random.Random(1))) == [0.0, 5.0, 10.0, 10.0, 15.0, 15.0]


def test_calls_take_every_so_manyth_window_and_the_whole_comes_at_the_end():
    second, whole = Call(function="b.c", every_windows=2), Call(function="d.e", whole=True)

    planned = plan(device(calls=(CALL, second, whole)), 10, 20.0, random.Random(1))

    assert [(each.call, each.first, each.last) for each in planned] == [
        (CALL, 0, 4), (second, 0, 4), (CALL, 3, 7), (CALL, 6, 10), (second, 6, 10), (whole, 0, 10),
    ]  # fmt: skip
    assert due_s(planned)[-1] == 20.0


def test_offset_and_jitter_come_from_the_seed():
    chosen = device(offset_s=3.0, jitter_s=1.0)

    one, same, other = (due_s(plan(chosen, 20, 30.0, random.Random(seed))) for seed in ("1/a", "1/a", "1/b"))

    assert one == same != other
    assert 0.0 <= one[0] <= 4.0


def test_a_window_longer_than_the_series_and_endless_plans_are_refused():
    with pytest.raises(ValueError, match="a window of 4 readings is longer than the series of 3"):
        plan(device(), 3, 10.0, random.Random(1))
    with pytest.raises(ValueError, match="more than 50000 tasks"):
        plan(device(repeat=True, speed_up=1e6), 20, 86400.0, random.Random(1))


@given(
    st.integers(4, 40), st.integers(1, 6), st.floats(0.5, 20), st.floats(0, 3), st.floats(0, 3),
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_no_window_is_handed_over_before_its_last_row_was_read(rows, hop, pace, offset, jitter, repeat, seed):
    chosen = device(hop=hop, rate_hz=pace, offset_s=offset, jitter_s=jitter, repeat=repeat)

    planned = plan(chosen, rows, 30.0, random.Random(seed))

    assert due_s(planned) == sorted(due_s(planned)) and all(0 <= each <= 30.0 for each in due_s(planned))
    for each in planned:
        assert each.last - each.first == 4 and each.last <= rows
        assert each.due_ns / SECOND >= each.first / pace - 1e-6  # full first at 0


def write(tmp_path, text: str):
    path = tmp_path / "x.csv"
    path.write_text(text)
    return path


def test_rows_hold_the_columns_that_were_asked_for(tmp_path):
    path = write(tmp_path, "time,a,b\nnow,1,2.5\nlater,3,4\n")

    series = Series.read(path, Trace(file="x.csv", rate_hz=1, window=1, hop=1, columns=("b", "a")))

    assert (len(series), series.window(0, 1)) == (2, [{"b": 2.5, "a": 1}])
    assert Series.read(path, Trace(file="x.csv", rate_hz=1, window=1, hop=1)).window(1, 2) == [
        {"time": "later", "a": 3, "b": 4}
    ]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [("1,2", "int16"), ("1,40000", "int32"), ("1,3000000000", "int64"), ("1,2.5", "float64")],
)
def test_an_array_is_of_the_least_type_that_holds_it(tmp_path, cells, kind):
    pytest.importorskip("numpy")
    path = write(tmp_path, f"a,b\n{cells}\n{cells}\n")

    series = Series.read(path, Trace(file="x.csv", rate_hz=1, window=1, hop=1, form="array"))

    assert (series.window(0, 2).shape, series.window(0, 2).dtype.name) == ((2, 2), kind)


def test_a_column_that_is_not_there_or_no_number_is_told(tmp_path):
    path = write(tmp_path, "time,a\nnow,1\nlater,\n")

    with pytest.raises(NoSuchColumn, match=r"x\.csv has no column 'c'; it has time, a"):
        Series.read(path, Trace(file="x.csv", rate_hz=1, window=1, hop=1, columns=("c",)))
    with pytest.raises(BadInput, match=r"x\.csv:3: a is None, not a number"):
        Series.read(path, Trace(file="x.csv", rate_hz=1, window=1, hop=1, form="array", columns=("a",)))
