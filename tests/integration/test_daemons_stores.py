"""A real node on a disk of its own that fills up, and whose ledger is damaged behind its back."""

from __future__ import annotations

import contextlib
import json

import pytest

from security.errors import EdgeweaveError
from tests.support.daemons import Bed, running_marks, until
from tests.support.full_disk import NoDisk, fill, own_disk, until_refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores")
    try:
        with own_disk(path / "pi-1"), Bed(path) as bed:
            bed.pair()
            yield bed
    except NoDisk as error:
        pytest.skip(str(error))


@pytest.fixture
def node(bed):
    return bed.daemons["pi-1"]


def submitted(bed, node, kilobytes):
    return bed.cli(
        node, "submit", "toys.size", "--where", "local", "--input", "-", "--format", "json",
        stdin=json.dumps("x" * (kilobytes * 1024)).encode(),
    )  # fmt: skip


def test_a_full_disk_refuses_at_the_door_and_goes_on_by_itself_when_freed(bed, node, tmp_path):
    gate = tmp_path / "go"
    running = bed.cli(node, "submit", "toys.until", "--where", "local", "--arg", f"path={gate}").text
    until("the task runs", lambda: running_marks(gate))
    assert bed.cli(node, "--json", "status").value["store"]["mode"] == "writing"
    accepted = [running]

    ballast = fill(node.home.path)

    node.ask(lambda mesh: until_refused(mesh, accepted))
    told = submitted(bed, node, 3000)
    assert told.code == 4, told
    assert told.line.startswith("edge-node: store full: ")
    assert told.line.endswith(": free disk space; the node takes work again by itself")
    status = bed.cli(node, "--json", "status").value
    assert status["store"]["mode"].startswith("read-only: ") and "full" in status["store"]["mode"]
    assert status["tasks"]["store_full"] is True

    gate.touch()  # it ends, and how it ended may not be written yet
    ballast.unlink()

    async def ended(mesh):
        return [(await mesh.outcome_of(task, wait_s=30)).status for task in accepted]

    assert set(node.ask(ended)) == {"done"}
    # A second after the last write that failed the door opens again, to try; a small end alone opens nothing.
    until("work is accepted again", lambda: submitted(bed, node, 500).code == 0)
    assert node.until("writing", lambda s: s["store"]["mode"] == "writing")["pid"] == node.pid
    assert bed.cli(node, "store", "verify").code == 0


def test_a_damaged_ledger_goes_on_with_what_can_be_read_and_names_the_rest(bed, node):
    tasks = [
        bed.cli(node, "submit", "toys.add", "--where", "local", "--arg", f"a={n}").text for n in range(12)
    ]
    for task in tasks:
        assert bed.cli(node, "result", task, "--wait", "30").code == 0
    node.term()
    data = bytearray(node.home.ledger.read_bytes())
    hurt = data.find(tasks[5].encode())
    page = hurt // 4096 * 4096
    data[page : page + 4096] = bytes(4096)
    node.home.ledger.write_bytes(data)

    told = bed.cli(node, "store", "verify")
    assert told.code == 1 and "  gap: ledger.db: " in told.out
    node.start().connected()

    status = bed.cli(node, "--json", "status").value
    assert status["ledger"]["damaged"][0].startswith("set aside as ledger.db.damaged-1, ")
    named = " ".join(status["ledger"]["damaged"])

    async def known(mesh):
        found = []
        for task in tasks:
            with contextlib.suppress(EdgeweaveError):
                found.append((await mesh.outcome_of(task, wait_s=0)).task)
        return found

    there = node.ask(known)
    assert all(task in there or task in named or "unreadable between rows" in named for task in tasks)
    told = bed.cli(node, "store", "verify")
    assert told.code == 1 and "gap: ledger.db.damaged-1: " in told.out
    found = bed.cli(node, "doctor", "--json", "--mdns", "none")
    assert "store verify" in found.out
    assert submitted(bed, node, 1).code == 0


def test_a_task_of_an_emptied_ledger_comes_back_from_who_holds_it(bed, node, tmp_path):
    gate = tmp_path / "go"
    task = bed.cli(node, "submit", "toys.until", "--where", "gateway", "--arg", f"path={gate}").text
    until("the gateway runs it", lambda: running_marks(gate))
    node.kill()
    for part in ("-wal", "-shm"):
        node.home.ledger.with_name(f"ledger.db{part}").unlink(missing_ok=True)
    node.home.ledger.write_bytes(b"")
    node.start()

    ledger = node.until("given back", lambda s: task in s["ledger"]["given_back"])["ledger"]
    assert ledger["given_back"][task] == "gateway"
    assert "the file is empty" in ledger["damaged"][-1] or "the file is empty" in " ".join(ledger["damaged"])
    gate.touch()

    outcome = node.ask(lambda mesh: mesh.outcome_of(task, wait_s=60))
    assert (outcome.status, outcome.function) == ("done", "toys.until")


def test_a_ledger_of_another_is_refused_in_one_line(bed, node):
    """Another node's, another mesh's, a newer version's: each names cause and fix, and nothing is changed."""
    import sqlite3

    node.term()
    kept = node.home.ledger.read_bytes()

    def changed(statement):
        node.home.ledger.write_bytes(kept)
        for part in ("-wal", "-shm", "-mark"):
            node.home.ledger.with_name(f"ledger.db{part}").unlink(missing_ok=True)
        with sqlite3.connect(node.home.ledger) as database:
            database.execute(statement)
        database.close()
        return node.launch().ended()

    told = changed("UPDATE meta SET value = 'pi-9' WHERE key = 'node'")
    assert (told.code, told.out.count("\n")) == (2, 1)
    error = json.loads(told.out)["error"]
    assert "belongs to node pi-9, not to pi-1" in error["message"] and error["fix"].startswith("start it as")
    told = changed("UPDATE meta SET value = 'ffff' WHERE key = 'mesh'")
    assert "belongs to mesh ffff" in json.loads(told.out)["error"]["message"]
    told = changed("PRAGMA user_version = 7")
    assert told.code == 2
    assert "schema version 7" in json.loads(told.out)["error"]["message"]
    assert "upgrade" in json.loads(told.out)["error"]["fix"]
