"""The tables' file: what it hides, what it refuses, what a failed commit leaves, how it shrinks."""

from __future__ import annotations

import os
import sqlite3

import pytest

from edge_node.store.cell_store import Commit, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.store.storage.cell_file import CellFile, state_key
from edge_node.store.storage.cells import SPARE_PAGES, SqliteCellStore
from edge_node.store.storage.seal import OVERHEAD_BYTES, Seal
from edge_node.tasks.rows import StoreDamaged
from security.errors import BadInput, Unavailable
from security.keystore import KeyStore

MESH, KEY = "0123456789abcdef", bytes(range(32))
A, B = CellId(0, "rooms", "kitchen", "setpoint"), CellId(0, "rooms", "kitchen", "humidity")


def opened(folder, *, mesh=MESH, node="n1", key=KEY, **more):
    return SqliteCellStore(folder / "state.db", mesh, node, key, **more)


def log(number, data=b"batch"):
    return Logged(number, "n1", 2**62, number + 1, number + 1, data)


def some_of_everything(store):
    store.commit(
        [
            Commit({A: b"21.5 degrees", B: b"40 percent"}, [log(0, b"a signed batch"), log(1)], head=b"head"),
            Commit(waiting=[Waiting("attic-node", 7, 1, b"later")]),
        ]
    )


def changed(folder, statement, *values):
    with sqlite3.connect(folder / "state.db") as db:
        db.execute(statement, values)
    db.close()


# ── what it hides ─────────────────────────────────────────────────────────────────────────────────────


def test_neither_values_nor_names_lie_on_the_disk_in_clear(tmp_path):
    store = opened(tmp_path)
    some_of_everything(store)
    before_the_checkpoint = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    store.close()
    lying = before_the_checkpoint + b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    for secret in (b"rooms", b"kitchen", b"setpoint", b"21.5", b"signed", b"attic", b"later", KEY):
        assert secret not in lying
    assert MESH.encode() in lying, "whose it is can be told without the key"


def test_the_same_row_never_lies_there_twice_alike(tmp_path):
    """Each is sealed under a nonce of its own, also in the next life."""
    nonces = set()
    for _ in range(3):
        store = opened(tmp_path)
        for _ in range(20):
            store.commit([Commit({A: b"the same"}, head=b"the same")])
            rows = store._db.execute("SELECT body FROM rows").fetchall()
            nonces |= {body[:12] for (body,) in rows}
        store.close()

    assert len(nonces) == 3 * 20 * 2


def test_a_nonce_is_drawn_anew_before_its_counter_would_come_round():
    drawn = iter([b"11111111", b"22222222"])
    seal = Seal(KEY, "m/n1", lambda count: next(drawn)[:count])
    seal.sealed(b"h", b"")
    seal._count = 2**32 - 1

    last, fresh = seal.sealed(b"h", b"x"), seal.sealed(b"h", b"x")

    assert last[:12] == b"11111111\xff\xff\xff\xff"
    assert fresh[:12] == b"22222222\0\0\0\0"
    assert len(fresh) == 1 + OVERHEAD_BYTES
    assert seal.opened(b"h", fresh) == seal.opened(b"h", last) == b"x"


@pytest.mark.parametrize("bit", [0, 100, 8 * OVERHEAD_BYTES + 3])
def test_a_flipped_bit_or_another_name_does_not_open(bit):
    seal = Seal(KEY, "m/n1")
    sealed = seal.sealed(b"h", b"body")
    flipped = bytearray(sealed)
    flipped[bit // 8 % len(sealed)] ^= 1 << bit % 8

    for name, data, by in (
        (b"h", bytes(flipped), seal),
        (b"u", sealed, seal),
        (b"h", sealed, Seal(KEY, "m/n2")),
        (b"h", sealed[:20], seal),
        (b"h", None, seal),
    ):
        with pytest.raises(ValueError, match="sealed"):
            by.opened(name, data)
    assert seal.opened(b"h", sealed) == b"body"


def test_the_fields_of_a_document_lie_side_by_side():
    seal = Seal(KEY, "m/n1")
    fields = [seal.cell(CellId(0, "t", "k", f"f{n}")) for n in range(5)]
    other = seal.cell(CellId(0, "t", "k2", "f0"))

    assert len({name[:13] for name in fields}) == 1
    assert other[:13] != fields[0][:13] and other[13:] != fields[0][13:]
    assert len(set(fields)) == 5


# ── damage and strangers ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["a", "b", "c", "h"])
def test_a_changed_row_is_seen(tmp_path, kind):
    store = opened(tmp_path)
    some_of_everything(store)
    store.close()
    changed(tmp_path, "UPDATE rows SET body = zeroblob(60) WHERE substr(name, 1, 1) = ?", kind.encode())

    with pytest.raises(StoreDamaged, match="authenticate"):
        opened(tmp_path).load()


def test_two_rows_that_changed_places_are_seen(tmp_path):
    store = opened(tmp_path)
    some_of_everything(store)
    store.close()
    changed(
        tmp_path,
        "UPDATE rows SET body = (SELECT body FROM rows WHERE name < x'62' ORDER BY name DESC LIMIT 1)"
        " WHERE name < x'62'",
    )

    with pytest.raises(StoreDamaged, match="authenticate"):
        opened(tmp_path).load()


def test_another_members_or_a_newer_or_no_store_is_refused(tmp_path):
    opened(tmp_path).close()

    with pytest.raises(BadInput, match=f"holds the tables of {MESH}/n1, not of {MESH}/n2: restore"):
        opened(tmp_path, node="n2")
    with pytest.raises(BadInput, match="sealed with another key than this node's: put back its keys/state"):
        opened(tmp_path, key=bytes(32))
    for version, told in ((3, "schema 3, this version reads up to 2: update"), (1, "never released: move")):
        changed(tmp_path, f"PRAGMA user_version = {version}")
        with pytest.raises(BadInput, match=told):
            opened(tmp_path)
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "state.db").write_bytes(b"noise" * 1000)
    with pytest.raises(StoreDamaged):
        opened(tmp_path / "noise")
    with pytest.raises(Unavailable):
        opened(tmp_path / "nowhere")
    (tmp_path / "theirs").mkdir()
    changed(tmp_path / "theirs", "CREATE TABLE songs(title)")
    with pytest.raises(BadInput, match="another program's"):
        opened(tmp_path / "theirs")


def test_whose_it_is_cannot_be_changed_unseen(tmp_path):
    opened(tmp_path).close()
    changed(tmp_path, "UPDATE meta SET value = x'00' WHERE name = 'key'")

    with pytest.raises(StoreDamaged, match="checksum"):
        opened(tmp_path)


def test_the_key_is_made_once_and_its_loss_is_told(tmp_path):
    keystore = KeyStore(tmp_path / "keys")
    path = tmp_path / "state.db"
    key = state_key(path, keystore)

    assert state_key(path, keystore) == key == keystore.state_key()
    assert len(key) == 32 and (tmp_path / "keys" / "state.key").stat().st_mode & 0o777 == 0o600
    file = CellFile(path, MESH, "n1", key)
    file.load()
    file.close()
    keystore.remove("state.key")
    with pytest.raises(BadInput, match=r"the key of .*state.db is gone: put back its keys/state.key"):
        state_key(path, keystore)
    keystore.write("state.key", b"short")
    with pytest.raises(BadInput, match=r"state.key is damaged: restore it from a backup"):
        state_key(path, keystore)


# ── commits ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_commit_that_fails_leaves_nothing_of_itself(tmp_path):
    store = opened(tmp_path)
    store.commit([Commit({A: b"one"})])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(Unavailable, match="full"):
        store.commit([Commit({B: b"two"}), Commit({A: b"x" * 60_000})])
    assert store.load().cells == [(A, b"one")]

    store.commit([Commit({B: b"two"})])
    assert sorted(store.load().cells) == [(B, b"two"), (A, b"one")]
    store.close()
    assert sorted(opened(tmp_path).load().cells) == [(B, b"two"), (A, b"one")]


def test_large_and_mixed_commits_are_one_transaction(tmp_path):
    store = opened(tmp_path)
    cells = {CellId(0, "t", f"k{n}", "f"): b"%d" % n for n in range(1500)}
    store.commit([Commit(dict(cells), [log(n) for n in range(600)])])
    for cell in list(cells)[:700]:
        cells[cell] = None
    store.commit([Commit(dict(cells), forgotten=list(range(599)), head=b"h")])
    store.close()

    image = opened(tmp_path).load()
    assert dict(image.cells) == {cell: body for cell, body in cells.items() if body is not None}
    assert (image.logged, image.head) == ([log(599)], b"h")


def test_a_batch_that_was_logged_and_forgotten_in_one_group_is_gone(tmp_path):
    store = opened(tmp_path)
    store.commit([Commit({A: b"x"}, [log(0)], head=b"one"), Commit({A: None}, forgotten=[0], head=b"two")])
    assert (store.load().cells, store.load().logged, store.load().head) == ([], [], b"two")

    store.commit([Commit({A: b"old"}, [log(1)]), Commit({B: b"new"}, anew=True), Commit(logged=[log(2)])])
    assert (store.load().cells, store.load().logged) == ([(B, b"new")], [log(2)])
    store.close()


def test_space_is_given_back_in_steps(tmp_path):
    store = opened(tmp_path)
    cells = {CellId(0, "t", f"k{n}", "f"): os.urandom(4000) for n in range(600)}
    store.commit([Commit(dict(cells))])
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    full = (tmp_path / "state.db").stat().st_size
    assert store.tidy() is False, "nothing is unused"
    store.commit([Commit(dict.fromkeys(cells))])

    steps = 0
    while store.tidy():
        steps += 1

    assert steps >= 5
    assert full > 2_400_000
    assert (tmp_path / "state.db").stat().st_size < (SPARE_PAGES + 100) * 4096
    assert store.load().cells == []
    store.close()


def test_what_was_written_is_counted(tmp_path):
    store = opened(tmp_path)
    store.commit([Commit({A: b"x"})])
    before = store.log_bytes
    store.commit([Commit({A: b"y"})])

    assert 4096 <= store.log_bytes - before <= 4 * 4200
    store.close()
