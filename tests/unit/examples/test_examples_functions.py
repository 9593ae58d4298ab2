"""The example functions against what people marked, against textbook results and brute force.

Expected values do not come from the functions themselves: five annotations of the room series and the
description of the water series (examples/data/SOURCES.md), closed forms, and O(n²·m) brute force.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest

from edge_node.functions.arguments import check_arguments
from edge_node.functions.bundle import Bundle
from edge_node.functions.manifest import read_manifests
from edge_node.functions.values import decode, encode

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
ANNOTATIONS = [
    [238, 416],
    [53, 143, 238, 417],
    [53, 92, 142, 181, 236, 264, 341, 416, 436, 451, 506],
    [1, 52, 91, 142, 181, 234, 267, 324, 360, 416, 451, 506],
    [234, 415],
]
MARGIN = 5


def load(name: str):
    path = EXAMPLES / "functions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict]:
    with (EXAMPLES / "data" / name).open() as file:
        return [
            {key: text if key == "time" else float(text) for key, text in row.items()}
            for row in csv.DictReader(file)
        ]


def hits(true: set[int], found: set[int]) -> int:
    left, count = set(found), 0
    for point in sorted(true):
        near = [other for other in left if abs(other - point) <= MARGIN]
        if near:
            left.remove(min(near, key=lambda other: abs(other - point)))
            count += 1
    return count


def f1(found: list[int]) -> float:
    """F1 over several annotators, index 0 counted as found by all: G. van den Burg, C. Williams, "An
    Evaluation of Change Point Detection Algorithms", arXiv:2003.06222, section 4.2."""
    ours = set(found) | {0}
    theirs = [set(marked) | {0} for marked in ANNOTATIONS]
    precision = hits(set().union(*theirs), ours) / len(ours)
    recall = sum(hits(marked, ours) / len(marked) for marked in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall)


def covering(found: list[int], count: int) -> float:
    """Segmentation covering over several annotators; same source."""

    def parts(points):
        bounds = [0, *sorted(points), count]
        return [range(a, b) for a, b in pairwise(bounds) if b > a]

    def overlap(a: range, b: range) -> float:
        shared = max(0, min(a.stop, b.stop) - max(a.start, b.start))
        return shared / (len(a) + len(b) - shared)

    each = [
        sum(len(part) * max(overlap(part, ours) for ours in parts(found)) for part in parts(marked)) / count
        for marked in ANNOTATIONS
    ]
    return sum(each) / len(each)


def test_room_changes_lie_where_people_marked_them():
    """Nothing at all would score F1 0.34 and covering 0.24, a point every 50 rows 0.29 and 0.46."""
    readings = rows("room_climate.csv")
    found = load("room").changes(readings)

    assert f1(found) >= 0.9
    assert covering(found, len(readings)) >= 0.6
    assert f1([]) < 0.35 and f1(list(range(50, 509, 50))) < 0.3


def test_room_changes_follow_the_steps_of_a_made_series():
    noise = random.Random(7)
    readings = [
        {
            "light_lux": (400 if 60 <= i < 130 else 0) + abs(noise.gauss(0, 2)),
            "co2_ppm": (900 if 60 <= i < 130 else 450) + noise.gauss(0, 5),
            "temperature_c": 21 + noise.gauss(0, 0.1),
        }
        for i in range(200)
    ]

    assert load("room").changes(readings) == [60, 130]


def test_room_search_is_exact():
    """PELT prunes but finds the optimum: compared with dynamic programming over everything."""
    room = load("room")
    noise = random.Random(3)
    channels = [[noise.gauss(i // 15 % 3, 0.7) for i in range(60)] for _ in range(2)]

    def cost(a: int, b: int) -> float:
        total = 0.0
        for channel in channels:
            mean = sum(channel[a:b]) / (b - a)
            total += sum((x - mean) ** 2 for x in channel[a:b])
        return total

    def whole(points: list[int], penalty: float) -> float:
        bounds = [0, *points, 60]
        return sum(cost(a, b) for a, b in pairwise(bounds)) + penalty * len(points)

    for penalty in (0.5, 2.0, 6.0, 20.0):
        best = [-penalty] + [math.inf] * 60
        for end in range(2, 61):
            best[end] = min(best[start] + cost(start, end) + penalty for start in range(end - 1))
        found = room._pelt(channels, penalty)
        assert whole(found, penalty) == pytest.approx(best[60])


def test_room_refuses_what_is_no_reading():
    room = load("room")

    with pytest.raises(ValueError, match="row 2: co2_ppm is None"):
        room.changes([{"light_lux": 1, "co2_ppm": 1, "temperature_c": 1}] * 2 + [{"light_lux": 1}] * 2)
    assert room.changes([]) == []
    assert room.changes([{"light_lux": 1, "co2_ppm": 1, "temperature_c": 1}] * 9) == []


def test_water_holds_three_losses_and_one_peak():
    """As its giver describes it; where they are, the eye sees at 24 and 110 l/s against a usual 102."""
    water = load("water")
    readings = rows("water_flow.csv")
    lost = water.losses(readings)

    assert len(lost) == 3
    for stretch, (first, last) in zip(lost, [(96, 106), (212, 218), (874, 884)], strict=True):
        assert stretch["first"] <= first and last <= stretch["last"]
        assert stretch["last"] - stretch["first"] <= last - first + 12
        assert stretch["lowest_l_per_s"] < 25
        # Flow stood at 24 instead of about 102 l/s from first to last; the flanks add at most as much again.
        full_m3 = 78 * 3.6 * (last - first + 1)
        assert full_m3 * 0.95 < stretch["missing_m3"] < full_m3 * 2
    (peak,) = water.peaks(readings)
    assert readings[peak]["flow_l_per_s"] == max(reading["flow_l_per_s"] for reading in readings)


def test_a_steady_or_empty_pipe_has_neither():
    water = load("water")
    steady = [{"flow_l_per_s": 100.0}] * 300

    assert (water.losses(steady), water.peaks(steady), water.losses([]), water.peaks([])) == ([], [], [], [])


class TestGait:
    np = None

    @pytest.fixture(autouse=True)
    def _numpy(self):
        self.np = pytest.importorskip("numpy")
        self.gait = load("gait")

    def test_a_sine_shows_at_its_frequency_with_its_power(self):
        t = self.np.arange(1024) / 64
        found = self.gait.spectrum((3 * self.np.sin(2 * math.pi * 5 * t)).tolist())
        step = found["frequency_hz"][1]

        assert found["peak_hz"] == 5.0
        assert sum(found["power_per_hz"]) * step == pytest.approx(3**2 / 2, rel=1e-6)  # Parseval

    def test_white_noise_has_the_density_of_its_variance(self):
        noise = self.np.random.default_rng(1).normal(0, 2, 60_000)
        found = self.gait.spectrum(noise)

        assert self.np.mean(found["power_per_hz"][2:-2]) == pytest.approx(2 * 4 / 64, rel=0.03)

    def test_the_freeze_index_is_the_ratio_of_the_two_bands(self):
        t = self.np.arange(64 * 12) / 64
        walking, trembling = self.np.sin(2 * math.pi * 1.5 * t), self.np.sin(2 * math.pi * 6 * t)

        assert self.gait.freeze_index(2 * walking + trembling) == pytest.approx(0.25, rel=0.02)
        assert self.gait.freeze_index(walking + 3 * trembling) == pytest.approx(9, rel=0.02)
        with pytest.raises(ValueError, match="nothing moves"):
            self.gait.freeze_index([0.0] * 400)

    def test_a_record_without_marked_freezing_has_a_low_index(self):
        readings = rows("gait_accelerometer.csv")
        assert not any(row["is_anomaly"] for row in readings), "or compare both kinds of window here"
        indexes = [
            self.gait.freeze_index([row["leg_vert_mg"] for row in readings[start : start + 384]])
            for start in range(0, len(readings) - 384, 192)
        ]

        assert self.np.median(indexes) < 1 and self.np.mean(self.np.array(indexes) < 2) > 0.85

    def test_the_matrix_profile_equals_brute_force(self):
        np, length = self.np, 16
        series = np.random.default_rng(2).normal(size=150).cumsum() + 1000
        found = self.gait.matrix_profile(series, length=length)

        stretches = np.lib.stride_tricks.sliding_window_view(series, length)
        z = (stretches - stretches.mean(1, keepdims=True)) / stretches.std(1, keepdims=True)
        distances = np.sqrt(((z[:, None] - z[None]) ** 2).sum(-1))
        for i in range(len(z)):
            distances[i, max(0, i - length // 2) : i + length // 2 + 1] = np.inf
        brute = distances.min(1)
        assert np.allclose(found["profile"], brute, atol=1e-6)
        assert found["discord"] == int(brute.argmax())
        a, b = found["motif"]
        assert distances[a, b] == pytest.approx(brute.min(), abs=1e-6)

    def test_a_hidden_oddity_is_the_discord(self):
        np = self.np
        series = np.sin(np.arange(1200) / 7) + np.random.default_rng(5).normal(0, 0.05, 1200)
        series[600:640] = 0.3

        assert 600 - 64 < self.gait.matrix_profile(series, length=64)["discord"] < 640

    @pytest.mark.parametrize("window", [[], [1.0] * 7, [1.0] * 8 + ["x"], [[1, 2], [3]] * 8, [math.nan] * 99])
    def test_what_is_no_window_is_refused(self, window):
        for call in (self.gait.spectrum, self.gait.freeze_index, self.gait.matrix_profile):
            with pytest.raises(ValueError, match=r"window|numbers"):
                call(window)

    def test_every_shape_of_window_is_taken(self):
        readings = rows("gait_accelerometer.csv")[:256]
        table = [[value for key, value in row.items() if key.endswith("_mg")] for row in readings]

        assert self.gait.spectrum(readings) == self.gait.spectrum(self.np.array(table))
        assert len(self.gait.matrix_profile(readings, length=32)["profile"]) == 225


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("room", ["room.changes"]),
        ("water", ["water.losses", "water.peaks"]),
        ("gait", ["gait.spectrum", "gait.freeze_index", "gait.matrix_profile"]),
    ],
)
def test_every_example_can_be_offered_and_its_results_travel(name, offered):
    path = EXAMPLES / "functions" / f"{name}.py"
    manifests = read_manifests(str(path), path.read_bytes())

    assert [manifest.name for manifest in manifests] == offered
    assert len(Bundle.of_source(str(path), path.read_bytes()).digest) == 32
    assert all(manifest.doc for manifest in manifests)


def test_example_arguments_and_results_travel():
    readings = rows("water_flow.csv")[:300]
    source = EXAMPLES / "functions" / "water.py"
    manifest = read_manifests("water.py", source.read_bytes())[0]
    check_arguments(manifest, [decode(encode(readings))], {})
    result = load("water").losses(readings)

    assert decode(encode(result)) == result
