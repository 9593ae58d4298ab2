"""Notes: peers seen and results, as documents that people query; and how long settled tasks are kept.

A shell: every few seconds, in a thread, since an fsync must not hold up the loop. The ledger has all
results; the notes are a window into it, and whatever is lost here is lost for reading only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any, Protocol

from edge_node.clock import Clock
from edge_node.settings import TaskSettings
from edge_node.store.documents import Documents
from edge_node.store.retention import Retention
from security.errors import EdgeweaveError

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
NOTES_S = 5.0
NOTES_MAX = 100
"""Recent results noted at a time."""
RESULTS_MAX = 1000
"""Results that wait to be noted, and rows kept of each table."""
PRUNE_NS = 60 * SECOND


class Ledger(Protocol):
    def prune(self, *, count_max: int, bytes_max: int, before_ms: int) -> int: ...


class Notes:
    """One member's notes."""

    def __init__(self, *, documents: Documents, ledger: Ledger, clock: Clock, kept: TaskSettings) -> None:
        self._documents = documents
        self._ledger = ledger
        self._clock = clock
        self._kept = kept
        self._retention = Retention(clock, kept.results_kept_s)
        self._peers: dict[str, dict[str, Any]] = {}
        self._results: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def peer(self, row: dict[str, Any]) -> None:
        """What became of the peer ``row["id"]``; the newest counts."""
        self._peers[row["id"]] = row

    def result(self, row: dict[str, Any]) -> None:
        self._results[row["id"]] = row
        while len(self._results) > RESULTS_MAX:
            self._results.popitem(last=False)

    async def run(self) -> None:
        """Until cancelled."""
        written: set[str] = set()
        prune_ns = 0
        while True:
            await asyncio.sleep(NOTES_S)
            if self._clock.now_ns() >= prune_ns:
                prune_ns = self._clock.now_ns() + PRUNE_NS
                await asyncio.to_thread(self._prune)
            peers, self._peers = list(self._peers.values()), {}
            results = [row for task, row in self._results.items() if task not in written]
            if not peers and not results:
                continue
            written = set(self._results)
            try:
                await asyncio.to_thread(self._write, peers, results[-NOTES_MAX:])
            except (EdgeweaveError, OSError) as error:
                log.warning("notes could not be written", extra={"cause": str(error)})

    def _prune(self) -> None:
        before_ms = self._retention.before_ms()
        try:
            gone = self._ledger.prune(
                count_max=self._kept.results_kept_max,
                bytes_max=self._kept.results_bytes_max,
                before_ms=before_ms,
            )
        except EdgeweaveError as error:
            log.error("the ledger could not be pruned", extra={"cause": str(error)})
        else:
            if gone:
                log.info("old results forgotten", extra={"tasks": gone})

    def _write(self, peers: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        with self._documents.transaction():  # one fsync: the ledger waits for the same disk
            for name, rows in (("peers", peers), ("results", results)):
                if rows:
                    table = self._documents.table(name, key="id")
                    for row in rows:
                        table.upsert(row)
                    table.keep_newest(RESULTS_MAX)
