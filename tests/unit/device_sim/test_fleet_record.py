"""The record of a fleet: the account's rows seen as events, its files, and where it took place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from device_sim.report import folder
from device_sim.report.expectations import Verdict
from device_sim.report.fleet_record import record_of
from device_sim.report.glossary import FIGURES
from device_sim.report.record import Edge, Manifest, Record, Struck
from device_sim.report.surroundings import commit, machine, versions
from security.errors import Unavailable
from tests.support.synthetic_records import record

BEGUN = 1_760_000_000.0
PNG = ["latency.png", "load.png", "messages.png", "faults.png", "mesh.png"]


def row(task: str, at_s: float, *, place: str = "local", ran_at: str | None = "pi-1", status: str = "done",
        latency_ms: float | None = 400.0) -> dict:  # fmt: skip
    """Accepted at once, runs from 0.1 to 0.4 s after that; "open": not settled."""
    at, is_open = BEGUN + at_s, status == "open"
    attempt = {"node": ran_at, "pid": 7, "start": at + 0.1, "end": at + 0.4, "ended_as": status}
    return {
        "id": task, "function": "room.changes", "origin": "pi-1", "accepted_at": at,
        "settled_at": None if is_open else at + 0.4, "attempts": [attempt] if ran_at else [],
        "status": status, "place": None if is_open else place, "ran_at": ran_at,
        "latency_ms": None if is_open else latency_ms,
    }  # fmt: skip


def fleet_record(rows: list[dict], latencies: list[float], *, kept: bool = True, **more: object) -> Record:
    counters = {"duplicates": 2}
    nodes = [{"id": "gateway", "class": "gateway", "up": True, "counters": {}}]
    nodes += [{"id": f"pi-{n}", "class": "pi", "up": n == 1, "counters": counters} for n in (1, 2)]
    facts = {
        "begun_at": BEGUN, "nodes": nodes, "planned": 10, "left_out": 1, "accepted": len(rows),
        "completed": sum(each["status"] == "done" for each in rows), "failed": 0, "lost": [], "explained": {},
        "verified": {"checked": 5, "differing": []}, "bytes_wire": 6000, "kill_to_replacement_s": None,
        "revoked_cut_s": None,
        "faults": [
            {"do": "kill", "node": "pi-2", "at_s": 1.0, "resumed_tasks": 1},
            {"do": "restart", "node": "pi-2", "at_s": 3.0},
            {"do": "revoke", "node": "pi-2", "at_s": 4.0},
        ],
    } | more  # fmt: skip
    manifest = Manifest(
        kind="fleet", scenario="small", seed=1, commit="", versions={}, machine="",
        command="device-sim fleet", duration_s=10, wall_s=12,
    )  # fmt: skip
    verdicts = [Verdict("failed_max", 0, 0, True), Verdict("resumed_min", 2, 1, False)]
    return record_of(facts, rows, latencies, verdicts, kept=kept, workers={"pi-1": 1}, manifest=manifest)


ROWS = [
    row("a", 0.0),
    row("b", 2.0, place="peer", ran_at="pi-2"),
    row("c", 5.0, place="gateway", ran_at="gateway", latency_ms=450.0),
    row("d", 9.9, status="open", ran_at=None),
]


def test_rows_become_figures_load_and_edges():
    found = fleet_record(ROWS, [400.0, 400.0, 450.0], accepted=4)

    assert (found.figures["accepted"], found.figures["completed"], found.figures["open"]) == (4, 3, 1)
    assert (found.figures["peers"], found.figures["offloaded"], found.figures["asked"]) == (1, 2, 9)
    assert (found.figures["p50_ms"], found.figures["max_ms"]) == (400.0, 450.0)
    assert (
        found.figures["duplicates"] == 4 and found.figures["crashes"] == 1 and found.figures["resumed"] == 1
    )
    assert found.figures["bytes_per_node_minute"] == 12_000
    assert found.figures.keys() <= FIGURES.keys()
    assert [(edge.place, edge.tasks) for edge in found.edges] == [("gateway", 1), ("pi-1", 1), ("pi-2", 1)]
    assert isinstance(found.edges[0], Edge)
    at = found.load.nodes.index("pi-1")
    assert found.load.shares[at][:6] == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert sum(count for _, count in found.latencies_ms["room.changes"]) == 3


def test_what_daemons_do_not_tell_is_left_out_and_said():
    found = fleet_record(ROWS, [])

    assert found.figures.keys() & {"refused", "messages", "messages_per_task", "deliveries"} == set()
    assert found.messages == [] and any("not counted by kind" in note for note in found.notes)


def test_faults_of_a_fleet_have_their_spans_and_its_nodes_their_absence():
    found = fleet_record(ROWS, [])

    assert found.faults == [
        Struck(at_s=1, do="kill", node="pi-2", until_s=3),
        Struck(at_s=4, do="revoke", node="pi-2"),
    ]
    shares = found.load.shares[found.load.nodes.index("pi-2")]
    assert [share < 0 for share in shares] == [10 <= column < 30 for column in range(len(shares))]
    assert [node.up for node in found.nodes] == [True, True, False]


@pytest.mark.parametrize(("kept", "word"), [(True, "passed"), (False, "failed")])
def test_the_account_and_each_expectation_are_checks(kept, word):
    found = fleet_record(ROWS, [], kept=kept, lost=[] if kept else ["d"])

    assert [(check.name, check.word) for check in found.checks] == [
        ("kept", word), ("failed_max", "passed"), ("resumed_min", "failed"),
    ]  # fmt: skip
    assert found.checks[2].detail == "resumed_min: expected at least 2, found 1"
    assert ("lost: d" in found.checks[0].detail) is not kept
    assert found.figures["violations"] == 1 + (not kept)


@pytest.mark.slow
def test_a_record_is_written_with_its_page_and_its_pictures(tmp_path):
    found = record(tasks=200)

    assert folder.write(found, tmp_path / "new") == ""
    assert folder.read(tmp_path / "new" / "record.json") == found
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        [*PNG, "record.json", "report.html"]
    )
    page = (tmp_path / "new" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5

    folder.write(record(tasks=0, faults=0), tmp_path / "new")  # a picture of a run before does not stay

    assert not (tmp_path / "new" / "latency.png").exists()


@pytest.mark.slow
def test_without_matplotlib_the_rest_is_written_and_the_extra_is_named(tmp_path):
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(record(tasks=20)))
    code = f"""
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
from pathlib import Path
from device_sim.report import folder
here = Path({str(tmp_path)!r})
print(folder.write(folder.read(here / "record.json"), here / "out"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout == "no pictures: matplotlib is not installed: pip install 'edgeweave[report]'\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["record.json", "report.html"]
    assert json.loads((tmp_path / "out" / "record.json").read_bytes())["manifest"]["scenario"] == "synthetic"


def test_a_folder_that_cannot_be_made_is_told_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Unavailable, match="cannot write to") as caught:
        folder.make_folder(tmp_path / "file")
    assert "\n" not in str(caught.value)


def git(tree: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(tree), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_the_commit_is_told_and_whether_something_was_changed(tmp_path):
    assert commit(tmp_path) == ""

    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "one")

    assert commit(tmp_path) == git(tmp_path, "rev-parse", "--short=12", "HEAD")

    (tmp_path / "a").write_text("2")

    assert commit(tmp_path).endswith("+")


def test_the_machine_and_the_versions_are_told():
    assert "core" in machine() and "GiB of memory" in machine()
    assert {"python", "platform", "msgspec"} <= versions().keys()
