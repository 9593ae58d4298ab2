"""Wear: how much is written to the disk, measured; a card of a small board stands some terabytes in its life.

    process    what this process caused to be written to block devices since its start, by /proc/self/io
               `write_bytes` (workers and the broker count for themselves); counted when a page is dirtied
    ledger     pages of the write-ahead log that the ledger's commits wrote, by the log's own index; copying
               them into the file later writes each changed page once more and is in `process` alone
    tables     the same of the replicated tables' file

An hourly figure is told from the first minute on: before it would be a guess. Not here: what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_node.clock import Clock

SECOND = 1_000_000_000
TOLD_AFTER_S = 60.0


def written_by_process(io: Path = Path("/proc/self/io")) -> int | None:
    """Bytes. None: the system does not say."""
    try:
        for line in io.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "write_bytes":
                return int(value)
    except (OSError, ValueError):
        pass
    return None


class Wear:
    """Of one process. Args: ledger, tables: bytes of log that they have written so far."""

    def __init__(
        self,
        clock: Clock,
        ledger: Callable[[], int],
        *,
        tables: Callable[[], int] = lambda: 0,
        process: Callable[[], int | None] = written_by_process,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._tables = tables
        self._process = process
        self._began_ns = clock.now_ns()
        self._before = process()
        self._ledger_before = ledger()
        self._tables_before = tables()

    def figures(self) -> dict[str, int | float | None]:
        """Since the start, and an hour's worth of it; None: not known, or too early to tell."""
        passed_s = (self._clock.now_ns() - self._began_ns) / SECOND
        now = self._process()
        process = None if now is None or self._before is None else now - self._before
        ledger = self._ledger() - self._ledger_before
        tables = self._tables() - self._tables_before
        return {
            "measured_s": round(passed_s, 1),
            "process_bytes": process,
            "process_bytes_per_hour": _hourly(process, passed_s),
            "ledger_log_bytes": ledger,
            "ledger_log_bytes_per_hour": _hourly(ledger, passed_s),
            "tables_log_bytes": tables,
            "tables_log_bytes_per_hour": _hourly(tables, passed_s),
        }


def _hourly(count: int | None, passed_s: float) -> int | None:
    return None if count is None or passed_s < TOLD_AFTER_S else int(count * 3600 / passed_s)
