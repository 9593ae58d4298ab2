"""kill -9 in the middle of writing: what was acknowledged is there, the file is whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_node.store.documents import Documents

WRITER = """
import sys
from edge_node.store.documents import Documents

table = Documents(sys.argv[1]).table("t", key="n")
n = len(table)
while True:
    table.upsert({"n": n, "text": "x" * (n * 37 % 900)})
    table.upsert({"n": n // 2, "again": n})
    print(n, flush=True)
    n += 1
"""


@pytest.mark.slow
def test_acknowledged_writes_survive_kill_9(tmp_path):
    path = tmp_path / "d.db"
    acknowledged = -1
    for kill in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        try:
            for _ in range(20 + 7 * kill):
                acknowledged = int(writer.stdout.readline())
        finally:
            writer.kill()
            rest = writer.communicate()[0].split()
        acknowledged = max([acknowledged, *map(int, rest)])

        with Documents(path) as documents:
            assert documents.set_aside is None
            assert documents.verify() == []
            numbers = {d["n"] for d in documents.table("t", key="n")}
            assert set(range(acknowledged + 1)) <= numbers
