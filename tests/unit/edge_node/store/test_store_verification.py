"""`store verify`: every gap of every store is named, and asking changes nothing."""

from __future__ import annotations

import json
import sqlite3

import pytest

from edge_node import cli
from edge_node.functions.bundle import Bundle, BundleStore
from edge_node.home import Home
from edge_node.store.documents import Documents
from edge_node.store.ledger import SqliteLedger
from edge_node.store.verification import verify
from edge_node.tasks.rows import row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Closed, Noted, Outcome, Task
from security.errors import BadInput
from security.identity import NodeKeys
from security.keystore import KeyStore


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    store = SqliteLedger(home.ledger, "m", "pi-1")
    for number in range(20):
        task = Task(f"t{number}", "f.noop", b"d" * 32, bytes(600), b"s" * 32, "pi-1", accepted_at_ms=KNOWN_MS)
        outcome = Outcome("done", b"out", settled_at_ms=KNOWN_MS)
        store.insert(
            [row_of(Accepted(task)), row_of(Closed(task.id, outcome)), row_of(Noted(task.id, 5, "x"))]
        )
    store.close()
    with Documents(home.documents) as documents:
        documents.table("peers", key="id").insert_multiple({"id": f"pi-{n}"} for n in range(7))
    BundleStore(home.bundles).put(
        Bundle.of_source(
            "lab.py", "from edge_node.functions import function\n\n@function\ndef f(): ...\n"
        ).to_bytes()
    )
    KeyStore(home.keys).save_joining(NodeKeys.generate())
    return home


def gaps(home):
    return {each.store: list(each.gaps) for each in verify(home) if each.gaps}


def files(home):
    return {file: file.read_bytes() for file in home.path.rglob("*") if file.is_file()}


def test_a_sound_home_has_no_gap_and_is_not_changed(home):
    before = files(home)

    found = {each.store: each for each in verify(home)}

    assert {store: each.rows for store, each in found.items()} == {
        "ledger": 60, "documents": 7, "keys": 1, "bundles": 1, "estimates": 0,
    }  # fmt: skip
    assert gaps(home) == {}
    assert found["ledger"].bytes > 20_000
    assert files(home) == before


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        ("UPDATE records SET body = x'00' WHERE id = 't7' AND kind = 1", "t7/1: checksum"),
        ("UPDATE records SET state = 'failed' WHERE id = 't3' AND kind = 1", "t3/1: its time or state"),
        ("UPDATE records SET at_ms = 1 WHERE id = 't3' AND kind = 0", "t3/0: its time or state"),
        ("UPDATE records SET id = x'ff' WHERE id = 't3' AND kind = 0", "row 10: unreadable"),
    ],
)
def test_a_changed_row_is_named(home, change, gap):
    with sqlite3.connect(home.ledger) as database:
        database.execute(change)
    database.close()

    (told,) = gaps(home)["ledger"]

    assert told.startswith(gap)


def test_each_store_names_its_own(home):
    with sqlite3.connect(home.documents) as database:
        database.execute("UPDATE documents SET body = '{}' WHERE body LIKE '%pi-3%'")
    database.close()
    (bundle,) = home.bundles.iterdir()
    bundle.write_bytes(bundle.read_bytes() + b"x")
    (home.keys / "joining.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (home.keys / "floor").write_bytes(b"soon")
    home.estimates.write_bytes(b"\x01\x00\x00\x00\x09damaged")

    found = gaps(home)

    assert list(found) == ["documents", "keys", "bundles", "estimates"]
    assert [len(each) for each in found.values()] == [1, 2, 1, 1]


def test_a_running_store_is_verified_beside_its_writer(home):
    store = SqliteLedger(home.ledger, "m", "pi-1")
    try:
        task = Task("later", "f.noop", b"d" * 32, b"", b"s" * 32, "pi-1")
        store.insert([row_of(Accepted(task))])

        assert gaps(home) == {}
        assert verify(home)[0].rows == 61
    finally:
        store.close()


def test_a_killed_store_that_lost_its_log_is_told_before_anybody_starts_it(home):
    store = SqliteLedger(home.ledger, "m", "pi-1")
    store.insert([row_of(Accepted(Task("later", "f.noop", b"d" * 32, b"", b"s" * 32, "pi-1")))])
    kept = files(home)
    store.close()
    for file, data in kept.items():
        file.write_bytes(data)
    log = home.ledger.with_name("ledger.db-wal")
    log.write_bytes(log.read_bytes()[:2000])

    (told, *_) = gaps(home)["ledger"]
    assert told.startswith("ledger.db: frame 1 of ") and "write-ahead log does not hold" in told


def test_the_command_ends_with_zero_only_without_a_gap(home, capsys):
    def told(*words):
        code = cli.program.enter(["--home", str(home.path), *words])
        out, err = capsys.readouterr()
        assert err == ""
        return code, out

    assert told("store", "verify")[0] == 0
    with sqlite3.connect(home.ledger) as database:
        database.execute("DELETE FROM records WHERE id = 't3' AND kind = 0")
        database.execute("UPDATE records SET body = x'00' WHERE id = 't3' AND kind = 1")
    database.close()

    code, out = told("store", "verify")
    assert code == 1 and "  gap: t3/1: checksum" in out.splitlines()
    code, out = told("--json", "store", "verify")
    assert code == 1
    assert (json.loads(out)["ok"], json.loads(out)["gaps"]) == (False, 1)
    assert json.loads(out)["stores"][0]["gaps"] == ["t3/1: checksum"]
    assert told("store")[1].splitlines()[1].split()[:2] == ["ledger", "59"]


def test_no_home_and_a_newer_ledger_are_refused_in_one_line(home, tmp_path):
    with pytest.raises(BadInput, match="is no home"):
        verify(Home(tmp_path / "nowhere"))
    with sqlite3.connect(home.ledger) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(BadInput, match="schema version 9, this program reads up to 1"):
        verify(home)
