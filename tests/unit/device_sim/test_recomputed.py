"""Results computed again: equal to the byte, or told."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from device_sim.devices.series import Series
from device_sim.report.account import Promise
from device_sim.report.recompute import recompute
from edge_node.functions import values

SOURCE = """
from edge_node.functions import function


@function
def total(rows: list[dict], times: int = 1) -> int:
    print("not on our stdout")
    return times * sum(row["a"] for row in rows)


@function
def fails(rows: list[dict]) -> int:
    raise ValueError("here only")
"""
SERIES = {"pi-1": Series([{"a": 1}, {"a": 2}, {"a": 4}])}


def promise(task_id: str, value: object, **change) -> Promise:
    digest = hashlib.sha256(values.encode(value)).hexdigest()
    made = Promise(task_id, "pi-1", "pi-1", "lab.total", (0, 2), "", "done", "local", digest)
    return replace(made, **change)


def again(tmp_path, promises, **more):
    path = tmp_path / "lab.py"
    path.write_text(SOURCE)
    return recompute(promises, SERIES, [path], **{"count": 10, "seed": 1} | more)


def test_a_result_is_compared_with_the_same_call(tmp_path, capsys):
    promises = [
        promise("a", 3),
        promise("b", 6, rows=(1, 3)),
        promise("c", 21, rows=(0, 3), arguments={"times": 3}),
    ]

    found = again(tmp_path, promises)

    assert (found.checked, found.differing) == (3, [])
    assert capsys.readouterr().out == ""


def test_another_value_another_type_and_an_error_differ(tmp_path):
    promises = [promise("a", 4), promise("b", 3.0), promise("c", 3, function="lab.fails"), promise("d", 3)]

    assert sorted(again(tmp_path, promises).differing) == ["a", "b", "c"]


def test_only_so_many_of_what_is_done_are_drawn_and_the_seed_says_which(tmp_path):
    promises = [promise(f"{number:02}", number) for number in range(20)]
    promises += [promise("open", 3, status=""), promise("failed", 3, status="failed")]

    one, same, other = (again(tmp_path, promises, count=5, seed=seed) for seed in (1, 1, 2))

    assert one.checked == 5
    assert one.differing == same.differing != other.differing
    assert not {"open", "failed"} & set(again(tmp_path, promises, count=100).differing)
