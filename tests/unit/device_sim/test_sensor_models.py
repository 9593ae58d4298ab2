"""Modelled sensors: an unbroken count, values that their docstrings promise, everything from the seed."""

from __future__ import annotations

import random
import statistics
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.devices.battery import SECOND, Battery
from device_sim.devices.continuity import WINDOW, Continuity
from device_sim.devices.models import MODELS, readings
from device_sim.devices.series import NoSuchColumn, Series
from device_sim.scenario import Sensor
from security.errors import BadInput


def sensor(kind: str, **more) -> Sensor:
    return Sensor(**({"kind": kind, "rate_hz": 1.0, "window": 8, "hop": 4} | more))


def taken(kind: str, count: int, seed: int = 1, **more) -> list[dict]:
    found = list(islice(readings(sensor(kind, **more), "d-1", random.Random(seed)), count))
    assert [each.seq for each in found] == list(range(count))
    return [each.values for each in found]


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_readings_are_numbered_named_and_repeatable(kind):
    first = list(islice(readings(sensor(kind, rate_hz=4.0), "d-1", random.Random(3)), 50))
    again = list(islice(readings(sensor(kind, rate_hz=4.0), "d-1", random.Random(3)), 50))
    other = list(islice(readings(sensor(kind, rate_hz=4.0), "d-1", random.Random(4)), 50))

    assert first == again != other
    assert [each.at_ms for each in first[:3]] == [0, 250, 500]
    assert all(tuple(each.values) == MODELS[kind].columns and each.device == "d-1" for each in first)
    assert first[7].row == {"device": "d-1", "seq": 7, "at_ms": 1750} | first[7].values


def test_a_rooms_warmth_follows_the_day():
    day = [each["temperature_c"] for each in taken("thermometer", 1440, rate_hz=1 / 60, drift=0.0)]

    assert 15 * 60 - 40 < day.index(max(day)) < 15 * 60 + 90  # the phase of a room and the noise move it
    assert max(day) - min(day) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("kind", ["thermometer", "vibration", "gps"])
def test_noise_drift_and_outliers_are_scaled_by_their_numbers(kind):
    column = MODELS[kind].columns[0]

    def roughness(**more) -> float:
        values = [each[column] for each in taken(kind, 2000, **({"drift": 0.0, "rate_hz": 2000.0} | more))]
        second = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
        return statistics.pstdev(second)

    assert roughness(noise=20.0) > 3 * roughness(noise=1.0)
    assert roughness(outliers=0.05) > 3 * roughness()


def test_drift_walks_away_and_does_not_come_back():
    def spread(**more) -> float:
        ends = [taken("thermometer", 200, seed, rate_hz=1 / 60, noise=0.0, **more)[-1] for seed in range(60)]
        begins = [taken("thermometer", 1, seed, noise=0.0, **more)[-1] for seed in range(60)]
        gone = [b["temperature_c"] - a["temperature_c"] for a, b in zip(begins, ends, strict=True)]
        return statistics.pstdev(gone)

    assert spread(drift=100.0) > 5 * spread(drift=0.0)


def test_a_meters_volume_never_falls_and_is_its_flow():
    found = taken("meter", 3000, outliers=0.01)

    volumes = [each["volume_m3"] for each in found]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(sum(each["flow_l_per_s"] for each in found[1:]) / 1000, rel=1e-3)


def test_a_machine_shakes_around_gravity():
    found = taken("vibration", 4000, rate_hz=400.0)

    assert statistics.mean(each["z_mg"] for each in found) == pytest.approx(1000, abs=10)
    expected = ((120**2 + 40**2 + 15**2) / 2 + 4**2) ** 0.5
    assert statistics.pstdev([each["x_mg"] for each in found]) == pytest.approx(expected, rel=0.05)


def test_frames_grow_with_what_moves_and_a_torn_one_is_small():
    whole = taken("camera", 3000)
    still = [each["frame_bytes"] for each in whole if each["motion"] < 0.05]
    moving = [each["frame_bytes"] for each in whole if each["motion"] > 0.2]

    assert len(still) > len(moving) > 50
    assert statistics.mean(moving) > 1.1 * statistics.mean(still)
    assert min(each["frame_bytes"] for each in whole) > 10_000
    assert min(each["frame_bytes"] for each in taken("camera", 500, outliers=0.05)) < 10_000


def test_a_receiver_drives_as_fast_as_it_says():
    found = taken("gps", 600, noise=0.0)
    north = [111_200 * each["lat_deg"] for each in found]
    east = [111_200 * 0.6428 * each["lon_deg"] for each in found]
    driven = [
        ((b - a) ** 2 + (d - c) ** 2) ** 0.5
        for a, b, c, d in zip(north, north[1:], east, east[1:], strict=False)
    ]

    assert statistics.mean(driven) == pytest.approx(
        statistics.mean(each["speed_m_per_s"] for each in found[1:]), rel=0.02
    )


def test_a_series_is_made_of_a_sensor_as_of_a_file():
    rows = Series.sensed(sensor("meter", columns=("seq", "flow_l_per_s")), "d-1", 20, random.Random(1))

    assert len(rows) == 20
    assert [row["seq"] for row in rows.window(3, 6)] == [3, 4, 5]
    assert set(rows.window(0, 1)[0]) == {"seq", "flow_l_per_s"}
    with pytest.raises(NoSuchColumn, match="a meter has no column 'x_mg'; it has device, seq, at_ms, flow"):
        Series.sensed(sensor("meter", columns=("x_mg",)), "d-1", 20, random.Random(1))
    with pytest.raises(BadInput, match="300000 readings of one device"):
        Series.sensed(sensor("meter"), "d-1", 300_000, random.Random(1))


def test_a_series_of_a_sensor_may_be_an_array():
    pytest.importorskip("numpy")

    series = Series.sensed(sensor("vibration", form="array"), "d-1", 20, random.Random(1))

    assert (series.window(0, 8).shape, series.window(0, 8).dtype.name) == ((8, 3), "int16")


# ── continuity ────────────────────────────────────────────────────────────────────────────────────────


def test_loss_duplication_and_reordering_are_told_apart():
    watch = Continuity()
    for seq in (0, 1, 2, 4, 3, 4, 7):
        watch.saw("a", seq)
    watch.saw("b", 2)
    watch.check()

    told = watch.of("a")
    assert (told.received, told.missing, told.duplicates, told.reordered) == (6, 2, 1, 1)
    assert (watch.of("b").missing, watch.of("c").received) == (2, 0)
    assert (watch.total.received, watch.total.missing) == (7, 4)


def test_what_is_too_late_to_be_judged_is_a_stray():
    watch = Continuity()
    watch.saw("a", 0)
    watch.saw("a", WINDOW)
    watch.saw("a", 0)
    watch.saw("a", 1)

    told = watch.of("a")
    assert (told.strays, told.duplicates, told.reordered, told.missing) == (1, 0, 1, WINDOW - 2)
    with pytest.raises(BadInput, match="they count from 0"):
        watch.saw("a", -1)


@given(st.lists(st.integers(0, 60), max_size=200))
def test_counts_are_those_of_a_plain_list(arrived):
    watch = Continuity()
    late = 0
    for index, seq in enumerate(arrived):
        watch.saw("a", seq)
        watch.check()
        late += seq not in arrived[:index] and bool(arrived[:index]) and seq < max(arrived[:index])

    told = watch.of("a")
    assert told.received == len(set(arrived))
    assert told.duplicates == len(arrived) - len(set(arrived))
    assert told.missing == (max(arrived) + 1 - len(set(arrived)) if arrived else 0)
    assert told.reordered == late


# ── battery ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_battery_is_empty_exactly_when_its_energy_is_spent():
    battery = Battery(1.0, idle_w=1.0, busy_w=4.0, cores=2)

    assert battery.deadline_ns() == 3600 * SECOND
    battery.busy(1800 * SECOND, 1)  # half is left; 2.5 W from now on
    assert battery.left_wh == 0.5
    assert battery.deadline_ns() == (1800 + 720) * SECOND
    assert not battery.tick(2520 * SECOND - 1)
    assert battery.tick(2520 * SECOND)
    assert (battery.left_wh, battery.deadline_ns()) == (0.0, None)
    battery.check()


def test_a_battery_that_gives_nothing_lasts():
    assert Battery(1.0, idle_w=0.0, busy_w=2.0, cores=1).deadline_ns() is None


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 5)), max_size=30))
def test_many_small_spans_cost_what_they_cost_together(steps):
    one, many = (Battery(1e6, idle_w=0.3, busy_w=7.7, cores=4) for _ in range(2))
    now_ns = 0
    for wait_ns, cores in steps:
        for part in range(1, 4):
            many.tick(now_ns + wait_ns * part // 4)
        now_ns += wait_ns
        one.busy(now_ns, cores)
        many.busy(now_ns, cores)
        one.check()

    assert one.left_wh == many.left_wh
    assert one.deadline_ns() == many.deadline_ns()
