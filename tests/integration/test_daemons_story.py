"""The commands a person types, against real daemons and both brokers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.daemons import Bed, until
from tests.support.links import BROKERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOM = EXAMPLES / "functions" / "room.py"
CLIMATE = EXAMPLES / "data" / "room_climate.csv"
VERSIONED = """
from edge_node.functions import function

@function()
def what() -> int:
    return {}
"""


@pytest.fixture(scope="module", params=BROKERS)
def bed(request, tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("story"), broker=request.param) as bed:
        bed.pair("--label", "site=a")
        yield bed


@pytest.fixture
def gateway(bed):
    return bed.daemons["gateway"]


@pytest.fixture
def node(bed):
    return bed.daemons["pi-1"]


def test_the_ready_line_says_what_runs_where(bed, gateway, node):
    assert gateway.ready["node"] == "gateway"
    assert gateway.ready["broker_kind"] == bed.broker
    assert gateway.ready["broker_address"].startswith("127.0.0.1:")
    assert (node.ready["node"], node.ready["mesh"]) == ("pi-1", gateway.ready["mesh"])
    assert (node.ready["pid"], node.ready["broker"]) == (node.pid, "connected")


def test_a_file_runs_from_the_gateway_and_then_by_name_from_the_node(bed, gateway, node):
    first = bed.cli(gateway, "run", f"{ROOM}:changes", "--input", str(CLIMATE), "--where", "pi-1")
    node.knows("room.changes")
    second = bed.cli(node, "run", "room.changes", "--input", str(CLIMATE))

    assert first.value == second.value
    assert len(first.value) > 0 and all(isinstance(row, int) for row in first.value)
    assert "deployed room.changes, version 1" in first.err
    assert "room.changes ran on pi-1" in first.err


def test_stdout_carries_the_value_alone(bed, gateway):
    told = bed.cli(gateway, "run", "toys.add", "--arg", "a=2", "--arg", "b=3", "--log")

    assert (told.code, told.out) == (0, "5\n")
    assert told.err.splitlines()[0] == "adding 2 3"


def test_prints_stay_away_without_log(bed, node):
    told = bed.cli(node, "run", "toys.add", "--arg", "a=2")

    assert told.out == "3\n"
    assert "adding" not in told.err


@pytest.mark.parametrize(
    ("asked_at", "where", "place"),
    [
        ("gateway", "pi-1", "on pi-1"),
        ("gateway", "local", "here"),
        ("pi-1", "gateway", "on gateway"),
        ("pi-1", "local", "here"),
    ],
)
def test_where_decides_the_place(bed, asked_at, where, place):
    told = bed.cli(bed.daemons[asked_at], "run", "toys.add", "--arg", "a=2", "--where", where)

    assert told.value == 3
    assert f"toys.add ran {place}," in told.err


def test_what_was_submitted_is_fetched_later_and_again(bed, gateway):
    task = bed.cli(gateway, "submit", "toys.add", "--arg", "a=40", "--where", "pi-1").text
    told = bed.cli(gateway, "result", task, "--wait", "60", "--log")
    again = bed.cli(gateway, "result", task, "--json")

    assert (told.value, again.value) == (41, 41)
    assert bed.cli(gateway, "cancel", task).text == "it had been settled before"
    assert "adding 40 1" in told.err


def test_a_task_that_is_cancelled_ends_wherever_it_runs(bed, gateway, tmp_path):
    task = bed.cli(
        gateway, "submit", "toys.until", "--arg", f'path="{tmp_path / "never"}"', "--where", "pi-1"
    ).text
    until("it runs on pi-1", lambda: list(tmp_path.glob("*.running")))

    assert bed.cli(gateway, "result", task).code == 3
    assert bed.cli(gateway, "cancel", task).text == "cancelled"
    told = bed.cli(gateway, "result", task, "--wait", "30", "--json")
    assert (told.code, json.loads(told.out)["error"]["code"]) == (1, "cancelled")
    assert bed.cli(gateway, "cancel", task).text == "cancelled"  # asking twice changes nothing


def test_functions_are_listed_versioned_and_rolled_back(bed, gateway, node, tmp_path):
    source = tmp_path / "ver.py"
    digests = []
    for number in (1, 2):
        source.write_text(VERSIONED.format(number))
        told = bed.cli(gateway, "run", f"{source}:what")
        digests.append(row_of(bed.cli(gateway, "functions", "--json"), "ver.what")["digest"])
        assert told.value == number
    again = bed.cli(gateway, "deploy", str(source))
    back = bed.cli(gateway, "functions", "rollback", "ver.what")

    assert "nothing to do" in again.err
    assert back.text == "ver.what is at version 3 now"
    history = gateway.ask(lambda mesh: mesh.call("history", {"name": "ver.what"}))
    assert [row["version"] for row in history] == [3, 2, 1]
    assert [row["digest"] for row in history] == [digests[0], digests[1], digests[0]]
    assert bed.cli(gateway, "run", "ver.what", "--where", "pi-1").value == 1
    node.until(
        "it has version 3",
        lambda rows: any((r["name"], r["version"]) == ("ver.what", 3) for r in rows),
        method="functions",
    )


def row_of(told, name):
    return next(row for row in told.value if row["name"] == name)


def test_tasks_are_listed_with_place_and_state(bed, gateway):
    task = bed.cli(gateway, "submit", "toys.add", "--arg", "a=1", "--where", "pi-1").text
    assert bed.cli(gateway, "result", task, "--wait", "60").value == 2

    rows = bed.cli(gateway, "tasks", "--json").value
    row = next(row for row in rows if row["id"] == task)
    assert (row["state"], row["place"], row["function"]) == ("done", "pi-1", "toys.add")
    assert [r["id"] for r in rows] == sorted((r["id"] for r in rows), reverse=True)
    assert task in bed.cli(gateway, "tasks", "--state", "done").out
    assert task not in bed.cli(gateway, "tasks", "--state", "failed").out


def test_nodes_and_roster_show_the_members(bed, gateway):
    rows = {row["id"]: row for row in bed.cli(gateway, "nodes", "--json").value}
    roster = bed.cli(gateway, "roster", "--json").value

    assert set(rows) == {"gateway", "pi-1"}
    assert rows["pi-1"]["up"] and rows["pi-1"]["labels"] == {"site": "a"}
    assert {member["id"] for member in roster["members"]} == {"gateway", "pi-1"}
    assert roster["mesh"] == gateway.ready["mesh"]
    assert roster["brokers"] == [gateway.ready["broker_address"]]


@pytest.mark.parametrize("name", ["gateway", "pi-1"])
def test_status_and_doctor_find_a_healthy_daemon(bed, name):
    daemon = bed.daemons[name]
    status = bed.cli(daemon, "status", "--json").value
    doctor = bed.cli(daemon, "doctor", "--mdns", bed.mdns, "--json")

    assert (status["node"], status["member"], status["broker"]["connected"]) == (name, True, True)
    assert status["ledger"]["damaged"] == []
    assert doctor.value["ok"], doctor.out


def test_json_and_csv_come_in_by_stdin(bed, node):
    told = bed.cli(node, "run", f"{bed.toys.stem}.size", "--input", "-", stdin=b'"four"')
    rows = bed.cli(node, "run", "toys.count", "--input", "-", "--format", "csv", stdin=CLIMATE.read_bytes())

    assert (told.value, rows.value) == (4, len(CLIMATE.read_text().splitlines()) - 1)


def test_a_node_that_leaves_is_off_the_roster_and_has_no_keys(bed, gateway):
    leaver = bed.join("leaver").start()
    leaver.connected()
    told = bed.cli(leaver, "leave", "--json")

    assert told.value == {"left": True, "node": "leaver", "gateway_told": True}
    assert leaver.ended().code == 0
    gateway.until(
        "the roster says so",
        lambda r: [m["status"] for m in r["members"] if m["id"] == "leaver"] in (["left"], []),
        method="roster",
    )
    assert not (leaver.home.keys / "identity.pem").exists()
    assert bed.cli(leaver, "up").code == 2


def test_an_open_home_is_private(bed):
    """mosquitto makes its own socket 0770: it lies in a directory that is 0700."""
    for name in ("gateway", "pi-1"):
        home = bed.daemons[name].home
        assert home.socket.stat().st_mode & 0o777 == 0o600
        for path in [home.path, *home.path.rglob("*")]:
            if not path.is_socket():
                assert path.stat().st_mode & 0o077 == 0, path
