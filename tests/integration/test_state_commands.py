"""`state` between real daemons: written here, seen there, cut off, in conflict, decided, read at rest."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tinydb import TinyDB, where

from edge_node import doctor
from edge_node.store.identity import doc_id_for
from tests.support.daemons import BIN, Bed, until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("state"), broker="embedded") as bed:
        gateway = bed.gateway().start()
        node = bed.join("pi-1").start()
        node.connected()
        gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])
        yield bed


def state(bed, daemon, *words):
    """What `state …` says; it worked."""
    return bed.cli(daemon, "state", *words).text


def seen(daemon, table, key, **fields):
    """Wait until the document reads so at that daemon."""
    asked = {"table": table, "ids": [doc_id_for(table, key)]}

    def holds():
        found = daemon.ask(lambda mesh: mesh.call("state.find", asked))["documents"]
        return found and fields.items() <= json.loads(found[0][1]).items()

    return until(f"{table}/{key} is {fields} at {daemon.name}", holds)


def test_what_is_set_here_is_watched_and_read_there(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    state(bed, gateway, "declare", "rooms", "--key", "id")
    state(bed, gateway, "set", "rooms", "r1", "setpoint_c=21.5")
    seen(node, "rooms", "r1", setpoint_c=21.5)

    watch = subprocess.Popen(
        [str(BIN / "edge-node"), "state", "watch", "rooms", "--where", "setpoint_c > 25", "--count", "1",
         "--json", "--home", str(node.home.path)],
        env=bed.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watch.stderr.readline() == "watching rooms\n"
        state(bed, gateway, "set", "rooms", "r1", "note=quiet")
        state(bed, gateway, "set", "rooms", "r1", "setpoint_c=26")
        change = json.loads(watch.stdout.readline())
        assert watch.wait(30) == 0
    finally:
        watch.kill()
        watch.communicate()
    assert (change["before"]["setpoint_c"], change["after"]["setpoint_c"]) == (21.5, 26)
    assert change["node"] == "gateway"


def test_the_example_of_a_twin_runs(bed):
    """Set at the gateway before the device is there; the device's readings are the recorded ones."""
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    example = [sys.executable, str(EXAMPLES / "state_twin.py")]
    operator = subprocess.Popen(
        [*example, "operator", "pi-1", "--vent-above", "700", "--home", str(gateway.home.path)],
        env=bed.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        seen(node, "twins.desired", "pi-1", vent_above_ppm=700)
        device = subprocess.run(
            [*example, "device", "pi-1", "--rows", "60", "--every", "0", "--home", str(node.home.path)],
            env=bed.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        out, err = operator.communicate(timeout=60)
    finally:
        operator.kill()
        operator.wait()

    with (EXAMPLES / "data" / "room_climate.csv").open() as opened:
        bad = [float(row["co2_ppm"]) > 700 for row in csv.DictReader(opened)][:60]
    switched = sum(one != other for one, other in pairwise([False, *bad]))
    assert switched > 1
    assert (device.returncode, device.stderr) == (0, "")
    assert device.stdout.splitlines() == [
        "set to {'vent_above_ppm': 700}",
        f"switched {switched} times; here and elsewhere {switched}",
    ]
    assert (operator.returncode, err) == (0, "") and "'vent_above_ppm': 700" in out
    seen(gateway, "twins.reported", "pi-1", ventilating=bad[-1])


def test_only_whom_the_gateway_names_may_write_a_table(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    state(bed, gateway, "declare", "limits", "--key", "id", "--writers", "gateway")
    state(bed, gateway, "set", "limits", "t", "max_c=30")
    seen(node, "limits", "t", max_c=30)

    told = bed.cli(node, "state", "set", "limits", "t", "max_c=99")
    assert told.code == 4 and "limits" in told.line
    assert bed.cli(node, "state", "get", "limits", "t").value == {"id": "t", "max_c": 30}


def test_cut_off_both_write_on_and_what_they_disagree_about_is_decided_by_hand(bed, tmp_path):
    """Each writes while the other is away; a killed daemon's disk is read; both meet; one decides."""
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    node.term()
    state(bed, gateway, "set", "rooms", "r1", "setpoint_c=18")
    state(bed, gateway, "counter", "doors", "--add", "2")
    at_rest = bed.cli(node, "state", "get", "rooms", "r1")
    assert "no daemon runs in" in at_rest.err and json.loads(at_rest.out)["setpoint_c"] == 26
    assert bed.cli(node, "state", "set", "rooms", "r1", "setpoint_c=1").code == 3
    gateway.kill()

    file = tmp_path / "out.json"
    told = bed.cli(gateway, "state", "export", str(file))
    assert "no daemon runs in" in told.err and told.code == 0
    with TinyDB(file) as db:
        assert db.table("rooms").get(where("id") == "r1")["setpoint_c"] == 18

    node.start()  # alone; not for long, as its pauses before it looks for the broker again grow
    state(bed, node, "set", "rooms", "r1", "setpoint_c=24")
    node.ask(lambda mesh: mesh.call("state.counter", {"name": "doors", "add": 3}))
    gateway.start()

    def ask_conflicts(mesh):
        return mesh.call("state.conflicts")

    until(
        "the conflict is known to both",
        lambda: all(each.ask(ask_conflicts)["total"] == 1 for each in (gateway, node)),
    )
    until("all is counted", lambda: state(bed, gateway, "counter", "doors") == "5")
    (conflict,) = bed.cli(node, "state", "conflicts", "--json").value["conflicts"]
    assert {(each["node"], each["value"]) for each in conflict["values"]} == {
        ("gateway", "18"),
        ("pi-1", "24"),
    }
    assert (
        "wrote setpoint_c of r1 in rooms without knowing of each other" in bed.cli(node, "why", "rooms").text
    )
    findings = doctor.of_status(node.timed().ask(lambda mesh: mesh.status()), time.time())
    (tables,) = [each for each in findings if each.check == "tables"]
    assert tables.verdict == "warn" and "1 × two members wrote a field" in tables.detail
    (skew,) = [each for each in findings if each.check == "skew"]
    assert skew.verdict == "ok" and "the gateway's" in skew.detail

    state(bed, node, "resolve", "rooms", "r1", "setpoint_c", "--of", "gateway")
    seen(gateway, "rooms", "r1", setpoint_c=18)
    assert gateway.ask(ask_conflicts)["total"] == 0
    told = bed.cli(gateway, "state", "import", str(file), "--json").value
    assert (told["added"], told["changed"], told["kept"]) == (0, 0, {})
    fresh = bed.cli(gateway, "state", "get", "rooms", "r1", "--fresh", "1s")
    assert (fresh.code, fresh.err) == (0, "")
