"""What a durable SQLite commit costs while the WAL grows, and once it is overwritten from its start.

    python benchmarks/bench_wal.py [DIRECTORY]     on the disk of DIRECTORY; by default the temporary one

The reason for `SqliteLedger._grow_wal`: one row a commit, synchronous = FULL.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

COMMITS = 300


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        path = Path(directory) / "wal.db"
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE rows(id INTEGER PRIMARY KEY, body BLOB)")
        pages = database.execute("PRAGMA wal_autocheckpoint").fetchone()[0]

        def commits(count: int) -> float:
            times = []
            for _ in range(count):
                begin = time.perf_counter()
                database.execute("INSERT INTO rows(body) VALUES (?)", (bytes(200),))
                times.append(time.perf_counter() - begin)
            return 1000 * statistics.median(times)

        growing_ms = commits(COMMITS)
        commits(pages)  # past the first checkpoint: from here on the file keeps its size
        grown_ms = commits(COMMITS)
        database.close()
    print(f"WAL grows       {growing_ms:.3f} ms a commit, p50 of {COMMITS}")
    print(f"WAL overwritten {grown_ms:.3f} ms, {growing_ms / grown_ms:.1f} times less")


if __name__ == "__main__":
    main()
