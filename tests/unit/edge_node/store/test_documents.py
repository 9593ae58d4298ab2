"""Documents on SQLite: TinyDB's face, one row a write."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import threading

import pytest
from tinydb import TinyDB, where
from tinydb.operations import increment
from tinydb.table import Document

from edge_node.store.documents import Documents, doc_id_for
from edge_node.store.storage.sqlite import DOCUMENT_BYTES_MAX, SQLiteStorage
from security.errors import BadInput, Unavailable


@pytest.fixture
def documents(tmp_path):
    with Documents(tmp_path / "store" / "documents.db") as opened:
        yield opened


def test_a_table_does_what_tinydbs_does(documents):
    peers = documents.table("peers")
    first = peers.insert({"id": "pi-1", "load": 1})
    second, third = peers.insert_multiple([{"id": "pi-2", "load": 2}, {"id": "pi-3", "load": 3}])

    assert peers.update({"load": 5}, where("id") == "pi-1") == [first]
    assert peers.update(increment("load"), doc_ids=[second, 12345]) == [second]
    assert peers.get(where("load") == 3) == {"id": "pi-2", "load": 3}
    assert peers.get(doc_id=first).doc_id == first
    assert [d.doc_id for d in peers.get(doc_ids=[third, first])] == [first, third]
    assert sorted(d["id"] for d in peers.search(where("load") == 3)) == ["pi-2", "pi-3"]
    assert peers.count(where("load") > 3) == 1
    assert peers.contains(where("id") == "pi-3") and not peers.contains(doc_id=1)
    assert peers.upsert({"load": 9}, where("id") == "pi-3") == [third]
    assert peers.remove(where("load") == 9) == [third]
    assert [d["id"] for d in peers.all()] == [d["id"] for d in peers] == ["pi-1", "pi-2"]
    assert len(peers) == 2
    peers.truncate()
    assert peers.all() == []


def test_documents_are_there_after_reopening_in_order_of_insertion(tmp_path):
    with Documents(tmp_path / "d.db") as documents:
        ids = documents.table("t").insert_multiple({"n": n} for n in range(50))

    with Documents(tmp_path / "d.db") as documents:
        assert [(d.doc_id, d["n"]) for d in documents.table("t")] == [(i, n) for n, i in enumerate(ids)]
        assert documents.tables() == {"t"}


def test_ids_are_random_and_never_one_two_three(documents):
    ids = documents.table("t").insert_multiple({} for _ in range(100))

    assert len(set(ids)) == 100
    assert all(1 <= i < 2**63 for i in ids)
    assert max(ids) > 2**48


def test_a_key_gives_the_same_id_everywhere(documents):
    rooms = documents.table("rooms", key="id")

    inserted = rooms.insert({"id": "r1", "setpoint_c": 21.5})

    assert inserted == doc_id_for("rooms", "r1") == 2950140159355449202  # part of the format: never changes
    assert doc_id_for("rooms", "1") != doc_id_for("rooms", 1)
    assert rooms.upsert({"id": "r1", "setpoint_c": 20}) == [inserted]
    assert rooms.all() == [{"id": "r1", "setpoint_c": 20}]
    with pytest.raises(ValueError, match="already exists"):
        rooms.insert({"id": "r1"})


def test_a_question_for_the_key_reads_one_row(documents, monkeypatch):
    rooms = documents.table("rooms", key="id")
    rooms.insert_multiple({"id": f"r{n}", "n": n} for n in range(20))

    def never(*_):
        raise AssertionError("scanned the table")

    monkeypatch.setattr(SQLiteStorage, "scan", never)

    assert rooms.get(where("id") == "r7")["n"] == 7
    assert rooms.search(where("id") == "r7")[0]["n"] == 7
    assert rooms.contains(where("id") == "r8") and not rooms.contains(where("id") == "r99")
    assert rooms.upsert({"id": "r7", "n": 70}, where("id") == "r7") == [doc_id_for("rooms", "r7")]
    assert rooms.upsert({"id": "r77", "n": 77}, where("id") == "r77") == [doc_id_for("rooms", "r77")]
    assert rooms.update({"n": 71}, where("id") == "r7") == [doc_id_for("rooms", "r7")]
    assert rooms.remove(where("id") == "r99") == []
    assert rooms.remove(where("id") == "r7") == [doc_id_for("rooms", "r7")]
    assert len(rooms) == 20


def test_an_update_writes_only_the_rows_that_changed(documents, monkeypatch):
    table = documents.table("t")
    ids = table.insert_multiple({"n": n % 2} for n in range(10))
    written = []
    put = SQLiteStorage.put
    monkeypatch.setattr(
        SQLiteStorage,
        "put",
        lambda self, name, rows: (written.extend(i for i, _ in rows), put(self, name, rows)),
    )

    table.update({"n": 1})

    assert sorted(written) == sorted(ids[::2])


@pytest.mark.parametrize(
    "document", [{"x": b"bytes"}, {"x": float("nan")}, {"x": object()}, {"x": {1, 2}}, {("a",): 1}]
)
def test_what_cannot_be_stored_is_refused_and_nothing_changes(documents, document):
    table = documents.table("t")
    table.insert({"n": 1})

    with pytest.raises(BadInput, match="cannot be stored"):
        table.insert_multiple([{"n": 2}, document])

    assert table.all() == [{"n": 1}]


def test_an_update_that_raises_half_way_changes_nothing(documents):
    table = documents.table("t")
    table.insert_multiple({"n": n} for n in range(5))

    def shaky(document):
        if document["n"] == 3:
            raise RuntimeError("half way")
        document["n"] += 100

    with pytest.raises(RuntimeError, match="half way"):
        table.update(shaky)

    assert [d["n"] for d in table.search(where("n") >= 0)] == [0, 1, 2, 3, 4]


def test_too_large_a_document_is_refused(documents):
    with pytest.raises(BadInput, match="bytes is over"):
        documents.table("t").insert({"x": "y" * DOCUMENT_BYTES_MAX})


@pytest.mark.parametrize("document", [{}, {"id": None}, {"id": True}, {"id": 1.0}, {"id": "k" * 300}])
def test_a_keyed_table_wants_its_key(documents, document):
    with pytest.raises(BadInput):
        documents.table("rooms", key="id").upsert(document)


def test_a_key_cannot_be_changed_or_redeclared(documents):
    rooms = documents.table("rooms", key="id")
    rooms.insert({"id": "r1"})

    with pytest.raises(BadInput, match="cannot change"):
        rooms.update({"id": "r2"}, where("id") == "r1")
    with pytest.raises(BadInput, match="cannot change"):
        rooms.update({"id": 5})
    with pytest.raises(BadInput, match="another key"):
        documents.table("rooms", key="name")
    with pytest.raises(BadInput, match="does not follow"):
        rooms.insert(Document({"id": "r3"}, 7))
    assert rooms.all() == [{"id": "r1"}]


def test_a_key_declared_in_the_file_holds_after_reopening(tmp_path):
    with Documents(tmp_path / "d.db") as documents:
        documents.table("rooms", key="id")

    with Documents(tmp_path / "d.db") as documents, pytest.raises(BadInput, match="'id'"):
        documents.table("rooms", key="name")


def test_a_bounded_table_drops_its_oldest(documents):
    table, other = documents.table("t"), documents.table("other")
    table.insert_multiple({"n": n} for n in range(10))
    other.insert({"n": -1})

    assert table.keep_newest(3) == 7
    assert table.keep_newest(3) == 0
    assert [d["n"] for d in table] == [7, 8, 9]
    assert len(other) == 1


def test_the_file_is_private(documents, tmp_path):
    documents.table("t").insert({"n": 1})

    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "store").iterdir()}

    assert modes == {0o600}


@pytest.mark.parametrize("damage", ["head", "middle", "noise"])
def test_a_damaged_file_is_set_aside_not_emptied(tmp_path, damage):
    path = tmp_path / "d.db"
    with Documents(path) as documents:
        documents.table("t").insert_multiple({"n": n, "text": "x" * 500} for n in range(200))
    data = bytearray(path.read_bytes())
    if damage == "head":
        data[:100] = b"\xff" * 100
    elif damage == "middle":
        data[4096 * 2 : 4096 * 12] = b"\xa5" * (4096 * 10)
    else:
        data = bytearray(b"not a database at all" * 300)
    path.write_bytes(data)

    with Documents(path) as documents:
        documents.table("t").insert({"n": 1000})

        assert documents.set_aside is not None
        assert documents.set_aside.read_bytes() == bytes(data)
        *kept, last = documents.table("t").all()
        assert last == {"n": 1000}
        assert all(each == {"n": each["n"], "text": "x" * 500} for each in kept), "nothing is invented"
        assert {"head": len(kept) == 200, "middle": 100 < len(kept) < 200, "noise": not kept}[damage]
        assert documents.verify() == []


def test_a_changed_document_is_left_out_and_the_others_go_on(tmp_path):
    path = tmp_path / "d.db"
    with Documents(path) as documents:
        documents.table("peers", key="id").insert_multiple({"id": f"pi-{n}", "n": n} for n in range(20))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE documents SET body = replace(body, '7', '8') WHERE body LIKE '%pi-7%'")
    database.close()

    with Documents(path) as documents:
        assert documents.set_aside is not None
        assert [each["n"] for each in documents.table("peers", key="id")] == [n for n in range(20) if n != 7]


def test_a_file_of_the_schema_before_is_taken_up(tmp_path):
    path = tmp_path / "d.db"
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE tables (name TEXT PRIMARY KEY, key TEXT) WITHOUT ROWID;"
            "CREATE TABLE documents (seq INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL,"
            " id INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (tbl, id));"
            "INSERT INTO tables VALUES ('t', NULL);"
            "INSERT INTO documents (tbl, id, body) VALUES ('t', 5, '{\"n\":1}');"
            "PRAGMA user_version = 1;"
        )
    database.close()

    with Documents(path) as documents:
        assert documents.table("t").all() == [{"n": 1}]
        assert documents.verify() == []


def test_a_log_cut_short_is_seen_and_the_file_goes_on(tmp_path):
    """SQLite alone would take the log for ended and say nothing."""
    living = Documents(tmp_path / "d.db")
    for n in range(30):
        living.table("t").insert({"n": n})
    for part in ("", "-wal", "-mark"):
        shutil.copyfile(f"{tmp_path / 'd.db'}{part}", f"{tmp_path / 'k.db'}{part}")
    living.close()
    log = tmp_path / "k.db-wal"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])

    with Documents(tmp_path / "k.db") as documents:
        assert documents.set_aside is not None
        kept = sorted(each["n"] for each in documents.table("t").all())
        assert kept == list(range(len(kept))) and 0 < len(kept) < 30


def test_a_newer_schema_is_named_and_left_alone(tmp_path):
    with Documents(tmp_path / "d.db") as documents:
        documents.storage._db.execute("PRAGMA user_version = 99")

    with pytest.raises(BadInput, match="schema 99"):
        Documents(tmp_path / "d.db")
    assert [p.name for p in tmp_path.iterdir() if "damaged" in p.name] == []


def test_a_directory_in_its_place_is_named(tmp_path):
    (tmp_path / "d.db").mkdir()

    with pytest.raises(Unavailable, match="cannot open"):
        Documents(tmp_path / "d.db")


def test_a_plain_tinydb_works_on_the_storage(tmp_path):
    with TinyDB(tmp_path / "d.db", storage=SQLiteStorage) as plain:
        plain.table("t").insert_multiple({"n": n} for n in range(3))
        plain.table("t").remove(where("n") == 1)
        plain.drop_table("nothing")

    with Documents(tmp_path / "d.db") as documents:
        assert [d["n"] for d in documents.table("t")] == [0, 2]


def test_a_dropped_table_is_gone_and_may_come_back(documents):
    table = documents.table("t", key="id")
    table.insert({"id": "a"})

    documents.drop_table("t")

    assert documents.tables() == set()
    assert table.all() == []
    table.insert({"id": "b"})
    assert documents.tables() == {"t"}
    documents.drop_tables()
    assert documents.tables() == set()


def test_threads_take_turns(documents):
    table = documents.table("t", key="id")
    table.insert({"id": "n", "value": 0})

    def add():
        for _ in range(50):
            table.update(increment("value"), where("id") == "n")
            table.search(where("value") > 0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert table.get(where("id") == "n")["value"] == 200
    assert table.search(where("value") == 200)


def test_two_connections_do_not_lose_each_others_updates(tmp_path):
    with Documents(tmp_path / "d.db") as one, Documents(tmp_path / "d.db") as other:
        one.table("t", key="id").insert({"id": "n", "value": 0})
        for _ in range(10):
            one.table("t", key="id").update(increment("value"), where("id") == "n")
            other.table("t", key="id").update(increment("value"), where("id") == "n")

        assert one.table("t").get(where("id") == "n")["value"] == 20


def test_damage_found_while_it_is_open_is_unavailable(tmp_path):
    """The daemon's loop lives on without its notes; the next start sets the file aside."""

    class Malformed:
        in_transaction = False

        def execute(self, *_):
            raise sqlite3.DatabaseError("database disk image is malformed")

    with Documents(tmp_path / "d.sqlite") as documents:
        table = documents.table("peers", key="id")
        held, documents._sqlite._db = documents._sqlite._db, Malformed()
        try:
            with pytest.raises(Unavailable, match="damaged"):
                table.upsert({"id": "pi-1"})
        finally:
            documents._sqlite._db = held
