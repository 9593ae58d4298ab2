"""Power cuts while the ledger's log begins anew: its head may be torn, and nothing that was safe is missing.

The production ledger runs on a VFS that notes writes and syncs; what was noted is played onto the modelled
disk and cut off right after each write of a log's head. What is left is opened by the production ledger on
the interpreter's SQLite, beside a mark that vouches for what was acknowledged.
"""

from __future__ import annotations

import copy
import random

import pytest

from edge_node.store import verification
from edge_node.store.ledger import SqliteLedger
from edge_node.store.pages import Wal
from edge_node.tasks.rows import StoreDamaged, row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Task
from tests.support.recorded_sqlite import Recording

MESH, NODE = "0123456789abcdef", "pi-1"
CUTS_EACH = 5


def recorded(directory, rng):
    recording = Recording(directory, checkpoint_pages=20)
    recording.note(directory, "create", "l.db")  # the store makes it before SQLite opens it
    ledger = recording.open_store(directory / "l.db", MESH, NODE)
    names = []
    for number in range(60):
        names.append(f"t{number:03}")
        payload = rng.randbytes(rng.choice((10, 500, 3000)))
        ledger.insert([row_of(Accepted(Task(names[-1], "f.noop", b"d" * 32, payload, b"s" * 32, NODE)))])
        recording.note(directory, "told", list(names), (directory / "l.db-mark").read_bytes())
    ledger.close()
    return recording


@pytest.mark.slow
def test_a_head_that_is_torn_while_a_log_begins_anew_is_no_damage(tmp_path):
    rng = random.Random(5)
    (tmp_path / "living").mkdir()
    told, mark, torn = [], b"", 0
    for number, (what, *how), disk in recorded(tmp_path / "living", rng).replayed():
        if what == "told":
            told, mark = how
        if what != "write" or how[:2] != ["l.db-wal", 0] or not told:
            continue
        for cut in range(CUTS_EACH):
            left = copy.deepcopy(disk)
            left.power_cut(random.Random(rng.randrange(2**32)))
            home = tmp_path / f"left-{number}-{cut}"
            home.mkdir()
            for name in left.names():
                (home / name).write_bytes(left.read(name))
            (home / "l.db-mark").write_bytes(mark)
            torn += not Wal(home / "l.db-wal").sound
            assert verification.ledger(home / "l.db").gaps == ()

            ledger = SqliteLedger(home / "l.db", MESH, NODE)

            assert set(told) <= set(ledger.open_ids()) and not ledger.damaged
            ledger.close()
    assert torn >= 3, "some cuts tore the head"


def test_a_log_that_lost_its_head_with_safe_commits_in_it_is_not_touched(tmp_path):
    """Whoever looks whether the file alone is whole must leave the log to who saves what is in it."""
    living = SqliteLedger(tmp_path / "l.db", MESH, NODE)
    for number in range(20):
        living.insert([row_of(Accepted(Task(f"t{number}", "f", b"d" * 32, b"", b"s" * 32, NODE, KNOWN_MS)))])
    home = tmp_path / "left"
    home.mkdir()
    for part in ("", "-wal", "-mark"):
        (home / f"l.db{part}").write_bytes((tmp_path / f"l.db{part}").read_bytes())
    living.close()
    log = home / "l.db-wal"
    log.write_bytes(bytes(8) + log.read_bytes()[8:])
    before = log.read_bytes()

    with pytest.raises(StoreDamaged, match="unreadable from its head on"):
        SqliteLedger(home / "l.db", MESH, NODE)

    assert log.read_bytes() == before
