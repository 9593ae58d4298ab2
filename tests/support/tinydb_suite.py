"""TinyDB's own test suite, and a TinyDB that is made of our tables for it to test.

The suite is in TinyDB's source distribution: `make setup` fetches it by its hash into out/, else the first
test that needs it does. Its files are run as they are, but for the name ``TinyDB``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import tinydb

from edge_node.state.links import Links
from edge_node.state.state import State
from edge_node.state.table import Table
from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.opened import OpenedState
from edge_node.store.storage.cells import SqliteCellStore
from tests.support.opened_states import NODE, Unsigned

ROOT = Path(__file__).resolve().parents[2]
PIN = ROOT / "deploy" / "tinydb-suite.txt"
FOLDER = ROOT / "out" / "tinydb-suite"
FETCH_S_MAX = 120.0
FILES = ("test_tables", "test_queries", "test_operations", "test_tinydb")


def pinned() -> tuple[str, str]:
    """(version, SHA-256) of the distribution."""
    found = re.search(r"^tinydb==(\S+) --hash=sha256:([0-9a-f]{64})$", PIN.read_text(), re.MULTILINE)
    assert found is not None, PIN
    return found[1], found[2]


@functools.cache
def sources() -> dict[str, str]:
    """The text of each file of the suite, by its name."""
    version, digest = pinned()
    archive = FOLDER / f"tinydb-{version}.tar.gz"
    if not archive.is_file():
        fetch()
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest, f"{archive} is another file: remove it"
    with tarfile.open(archive) as opened:
        texts = {}
        for name in FILES:
            member = opened.extractfile(f"tinydb-{version}/tests/{name}.py")
            assert member is not None
            texts[name] = member.read().decode()
    return texts


def fetch() -> None:
    """As `make setup` does, from whatever index pip is configured for."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-input", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"),
            *("-r", str(PIN), "-d", str(FOLDER)),
        ],
        check=False, capture_output=True, text=True, timeout=FETCH_S_MAX,
    )  # fmt: skip
    assert done.returncode == 0, f"TinyDB's own tests cannot be fetched; is an index reachable? {done.stderr}"


def suite(name: str, database: Callable[..., Any]) -> ModuleType:
    """One file of it, whose TinyDB is *database*."""
    module = ModuleType(f"tinydb_suite_{name}")
    exec(_compiled(name), module.__dict__)
    if hasattr(module, "TinyDB"):
        module.TinyDB = database
    return module


@functools.cache
def _compiled(name: str) -> CodeType:
    return compile(sources()[name], f"tinydb/tests/{name}.py", "exec")


def names(name: str) -> list[str]:
    return re.findall(r"^def (test_\w+)\(", sources()[name], re.MULTILINE)


def entropy(size: int) -> bytes:
    """Random, but for ids, which come backwards: who relies on their order is found out each time."""
    return (next(_BACKWARDS) << 1).to_bytes(8, "big") if size == 8 else os.urandom(size)


_BACKWARDS = itertools.count(2**62, -1)


class TinyDB(tinydb.TinyDB):
    """The database's face over a `State`: its tables are replicated ones, its storage is none."""

    def __init__(self, state: State, *, close: Callable[[], None] = lambda: None) -> None:
        self._state = state
        self._tables: dict[str, Table] = {}
        self._opened = True
        self._end = close

    @property
    def storage(self) -> None:  # type: ignore[override]
        return None

    def table(self, name: str, **options: Any) -> Table:  # type: ignore[override]
        self._tables[name] = table = self._state.table(name, **options)
        return table

    def tables(self) -> set[str]:
        return {each.name for each in self._state.tables()}

    def drop_table(self, name: str) -> None:
        self._state.table(name).truncate()
        self._tables.pop(name, None)

    def drop_tables(self) -> None:
        for name in self.tables():
            self.drop_table(name)

    def close(self) -> None:
        self._opened = False
        self._end()


class CountedTable(Table):
    """Gives new documents the ids that TinyDB would."""

    def __init__(self, links: Links, name: str, declaration: Mapping[str, Any] | None = None) -> None:
        super().__init__(links, name, declaration, next_id=self._next)
        self._last = 0

    def _next(self) -> int:
        self._last = 1 + max(self._last, *(document.doc_id for document in self), 0)
        return self._last

    def truncate(self) -> None:
        super().truncate()
        self._last = 0


class Counted(State):
    table_class = CountedTable


def opened_at(path: Path | None) -> OpenedState:
    store = MemoryCellStore() if path is None else SqliteCellStore(path, "suite", NODE, bytes(32))
    return OpenedState(NODE, store, Unsigned(), entropy=entropy)
