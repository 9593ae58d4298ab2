"""What the seal of the replicated tables' file costs: the same store with it, and with none, in turns.

    python benchmarks/bench_sealed_tables.py [DIRECTORY]     on the disk of DIRECTORY; else the temporary one

10 000 cells of 80 bytes; a commit is one cell and its signed batch of 300 bytes, fsynced. Medians over all
rounds: neighbours on the machine slow both alike. CPU is of the committing thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from edge_node.store.cell_store import Commit, Logged
from edge_node.store.cells import CellId
from edge_node.store.storage.cells import SqliteCellStore
from edge_node.store.storage.seal import Seal

CELLS, ROUNDS, COMMITS = 10_000, 40, 25


class NoSeal(Seal):
    """Rows in clear, under names in clear: as short and as cheap as they can be."""

    def cell(self, cell: CellId) -> bytes:
        return b"a" + "\0".join(cell[1:]).encode()

    def waiting(self, node: str, epoch: int, first: int, kind: bytes = b"c") -> bytes:
        return kind + f"{node}/{epoch}/{first}".encode()

    def sealed(self, name: bytes, body: bytes) -> bytes:
        return body

    def opened(self, name: bytes, sealed: object) -> bytes:
        assert isinstance(sealed, bytes)
        return sealed


class Clear(SqliteCellStore):
    def _open(self, *, after_failure: bool = False) -> None:
        self._seal = NoSeal(bytes(32), self._owner)
        super()._open(after_failure=after_failure)


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    cells = [CellId(0, "rooms", f"sensor-{number:05}", "setpoint_c") for number in range(CELLS)]
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        stores = {
            "in clear": Clear(Path(directory) / "clear.db", "0" * 16, "n1", bytes(32)),
            "sealed": SqliteCellStore(Path(directory) / "sealed.db", "0" * 16, "n1", bytes(32)),
        }
        took: dict[str, list[float]] = {name: [] for name in stores}
        cpu: dict[str, list[float]] = {name: [] for name in stores}
        for store in stores.values():
            store.commit([Commit({cell: bytes(80) for cell in cells})])
        number = 0
        for _ in range(ROUNDS):
            for name, store in stores.items():
                for _ in range(COMMITS):
                    number += 1
                    batch = Logged(number, "n1", 7, number, number, bytes(300))
                    commit = Commit({cells[number * 7919 % CELLS]: number.to_bytes(80, "big")}, [batch])
                    begin, begin_cpu = time.perf_counter(), time.thread_time()
                    store.commit([commit])
                    took[name].append(time.perf_counter() - begin)
                    cpu[name].append(time.thread_time() - begin_cpu)
        for name, store in stores.items():
            begin_cpu = time.thread_time()
            store.load()
            load_ms = 1e3 * (time.thread_time() - begin_cpu)
            p50, p50_cpu = statistics.median(took[name]) * 1e6, statistics.median(cpu[name]) * 1e6
            size = store.path.stat().st_size
            print(
                f"{name:<9} {p50:7.0f} us a commit, p50 of {len(took[name])}; {p50_cpu:5.0f} us of CPU; "
                f"load {load_ms:4.0f} ms of CPU; {size:,} bytes"
            )
            store.close()
        ratio = statistics.median(took["sealed"]) / statistics.median(took["in clear"])
        ratio_cpu = statistics.median(cpu["sealed"]) / statistics.median(cpu["in clear"])
    print(f"sealed / in clear: {ratio:.2f} times the time, {ratio_cpu:.2f} times the CPU")


if __name__ == "__main__":
    main()
