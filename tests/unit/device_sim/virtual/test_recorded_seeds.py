"""A recorded seed comes back as it was written; what is none is told in one line. A story has an order."""

from __future__ import annotations

import msgspec
import pytest

from device_sim.virtual import drawing, recorded
from device_sim.virtual.attempt import Broken
from device_sim.virtual.checkers.violations import moment, moment_of
from device_sim.virtual.drawing import drawn_scenario
from device_sim.virtual.evidence import Asked
from device_sim.virtual.particulars import particulars
from device_sim.virtual.play import BEGIN_NS
from device_sim.virtual.shorten import Shortened
from device_sim.virtual.story import VIOLATED, Story
from security.errors import BadInput

SECOND = 1_000_000_000
BROKEN = Broken(
    checker="bounds", promise="P5", total=2, first_ns=2, lines=("3.000 s n0-1 t1: too much", "odd")
)


def kept(seed=3):
    scenario = drawn_scenario(seed, 5).scenario
    return recorded.Recorded(
        format=recorded.FORMAT, drawing=drawing.VERSION, version="1", commit="abc+", seed=seed, nodes=5,
        drawn=particulars(scenario), scenario=scenario, faults=scenario.timeline(), trace_hash="00", steps=7,
        ended_ns=9, broken=(BROKEN,), shortened=Shortened(prefix_ns=5, faults=(), plays=2),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_a_recorded_seed_is_read_as_it_was_written(tmp_path, seed):
    recorded.write(tmp_path / "seed.json", kept(seed))

    assert recorded.read(tmp_path / "seed.json") == kept(seed)
    assert [path.name for path in tmp_path.iterdir()] == ["seed.json"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "is not a recorded seed"),
        (b"\xff\xfe", "is not a recorded seed"),
        (b"[]", "is not a recorded seed"),
        (b'{"format": "edgeweave seed 9"}', 'has the form "edgeweave seed 9", this version reads'),
        (b'{"format": "edgeweave seed 1"}', "holds what this version does not know"),
    ],
)
def test_what_is_no_recorded_seed_says_so(tmp_path, data, told):
    (tmp_path / "seed.json").write_bytes(data)

    with pytest.raises(BadInput, match=told):
        recorded.read(tmp_path / "seed.json")


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        recorded.read(tmp_path / "seed.json")


def test_a_scenario_of_another_form_is_no_traceback(tmp_path):
    tree = msgspec.to_builtins(kept())
    tree["scenario"]["fleet"]["colour"] = "red"
    (tmp_path / "seed.json").write_bytes(msgspec.json.encode(tree))

    with pytest.raises(BadInput, match="colour"):
        recorded.read(tmp_path / "seed.json")


@pytest.mark.parametrize("at_ns", [0, 12_345_000_000, -1_250_000_000, 999_000_000])
def test_a_moment_is_read_as_it_is_told(at_ns):
    assert moment_of(moment(at_ns) + " n0-1: something") == at_ns


def test_violations_stand_in_the_story_where_they_were():
    story = Story()
    story.saw(Asked(BEGIN_NS + SECOND, "n0-1", "t1", "work.short", 1))
    story.saw(Asked(BEGIN_NS + 2 * SECOND, "n0-2", "t2", "work.short", 1))
    story.keep(BEGIN_NS + 4 * SECOND, "n0-1", "fault", "kill")
    story.keep(BEGIN_NS + 5 * SECOND, "n0-2", "told", "t2 done local")

    told = list(story.told(broken=(msgspec.structs.replace(BROKEN, lines=BROKEN.lines[:1]),)))
    of_node = [line.detail for line in story.told(nodes=("n0-2",))]
    of_task = [line.at_ns for line in story.told(tasks=("t1",))]

    assert [line.kind for line in told] == ["asked", "bounds", "fault"], "other tasks are left out"
    assert told[1].place == VIOLATED
    assert told[1].text().split() == ["3.000", "s", VIOLATED, "bounds", "n0-1", "t1:", "too", "much"]
    assert of_node == ["t2 work.short", "t2 done local"]
    assert of_task == [SECOND]
