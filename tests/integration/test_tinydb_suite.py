"""TinyDB's own tests of tables, queries and operations pass on replicated tables, save what cannot apply.

``EXCEPTIONS`` names each that does not, and why; docs/state.md has the same list. Those that only count on
ids 1, 2, 3, or on the order that follows from them, are run again where ids are counted, and pass there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tinydb
from tinydb.queries import QueryInstance
from tinydb.storages import JSONStorage, MemoryStorage

from edge_node.state.spelling import read, spelt
from edge_node.state.state import State
from edge_node.store.queries import Incomparable
from security.errors import BadInput
from tests.support.tinydb_suite import FILES, Counted, TinyDB, names, opened_at, pinned, suite

ROOT = Path(__file__).resolve().parents[2]

IDS = "ids are random, not 1, 2, 3, and documents come in the order of their ids"
COUNTER = "there is no counter of ids to look at (`_get_next_id`)"
CACHE = "queries are not cached: other members write too"
STORAGE = "no `Storage` or middleware lies below a table"
EMPTY = "a table without documents is not listed"

EXCEPTIONS: dict[str, tuple[str, ...]] = {
    IDS: (
        *("test_contains_ids", "test_doc_ids_json", "test_gc", "test_insert_ids", "test_insert_invalid_dict"),
        *("test_insert_multiple_with_ids", "test_insert_string", "test_insert_with_doc_id"),
        *("test_insert_with_duplicate_doc_id", "test_one_table", "test_remove_ids", "test_remove_ids_mixed"),
        *("test_remove_returns_ids", "test_update_ids", "test_update_ids_mixed", "test_update_returns_ids"),
        *("test_upsert", "test_upsert_by_id"),
    ),
    COUNTER: ("test_lastid_after_open", "test_next_id", "test_truncate_table"),
    CACHE: (
        *("test_lru_cache", "test_query_cache", "test_query_cache_size", "test_search", "test_search_path"),
        "test_zero_cache_size",
    ),
    STORAGE: (
        *("test_access_storage", "test_empty_write", "test_storage_access", "test_storage_closed_once"),
        "test_table_repr",
    ),
    EMPTY: ("test_persist_table",),
}
REASONS = {test: reason for reason, tests in EXCEPTIONS.items() for test in tests}
ELSEWHERE = {("test_tinydb", "test_query_cache"), ("test_queries", "test_search")}
"""Of the same name as an exception, and none."""

TESTS = [(name, test) for name in FILES for test in names(name)]
EXCEPTED = [(name, test) for name, test in TESTS if test in REASONS and (name, test) not in ELSEWHERE]
PASSING = [each for each in TESTS if each not in EXCEPTED and each[0] != "test_queries"]


def database(kind: type[State], path: Any = None, *, storage: Any = JSONStorage, **options: Any) -> TinyDB:
    """What a test of the suite makes itself: in a file, which it may open again, or in memory."""
    assert storage in (JSONStorage, MemoryStorage), "not a storage of TinyDB's own"
    assert options.keys() <= {"ensure_ascii"}
    opened = opened_at(None if path is None else Path(path))
    return TinyDB(kind(opened.call), close=opened.close)


def run(name: str, test: str, kind: type[State], db: TinyDB, tmp_path: Path) -> None:
    """One test of the suite, with the arguments that it asks for."""
    function: Callable[..., None] = getattr(suite(name, functools.partial(database, kind)), test)
    offered = {"db": db, "tmpdir": LocalPath(tmp_path)}
    function(
        **{each: offered[each] for each in function.__code__.co_varnames[: function.__code__.co_argcount]}
    )


class LocalPath:
    """As much of pytest's older paths as the suite uses."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def join(self, name: str) -> Path:
        return self._path / name


@pytest.fixture(params=["memory", "file"])
def where_it_lies(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "suite.db"


def filled(kind: type[State], path: Path | None) -> TinyDB:
    """As the suite's own fixture fills it."""
    db = database(kind, path)
    db.insert_multiple({"int": 1, "char": char} for char in "abc")
    return db


@pytest.mark.parametrize(("name", "test"), PASSING)
def test_of_tinydbs_suite_passes(name, test, where_it_lies, tmp_path):
    with filled(State, where_it_lies) as db:
        run(name, test, State, db, tmp_path)


@pytest.mark.parametrize(("name", "test"), EXCEPTED)
def test_an_exception_is_one(name, test, tmp_path):
    """A test that passes after all is no exception, and leaves the list."""
    with filled(State, None) as db, pytest.raises((AssertionError, AttributeError, TypeError)):
        run(name, test, State, db, tmp_path)


@pytest.mark.parametrize(("name", "test"), [each for each in EXCEPTED if REASONS[each[1]] == IDS])
def test_what_counts_on_ids_passes_where_ids_are_counted(name, test, tmp_path):
    with filled(Counted, None) as db:
        run(name, test, Counted, db, tmp_path)


@pytest.mark.parametrize("test", names("test_queries"))
def test_what_a_query_of_the_suite_matches_a_table_finds(test, monkeypatch, tmp_path):
    """Each document that the suite holds against a query is also searched for by it, in a table."""
    plainly = QueryInstance.__call__
    table = State(opened_at(None).call).table("t")
    inside = False

    def also_in_a_table(query, document):
        nonlocal inside
        if inside or not is_document(document):
            return plainly(query, document)
        inside = True
        try:
            table.truncate()
            table.insert(document)
            assert outcome(lambda: table.search(query) == [document]) == outcome(
                lambda: bool(plainly(query, document))
            )
        finally:
            inside = False
        return plainly(query, document)

    monkeypatch.setattr(QueryInstance, "__call__", also_in_a_table)
    with filled(State, None) as db:
        run("test_queries", test, State, db, tmp_path)


def outcome(looked: Callable[[], bool]) -> bool | str:
    try:
        return looked()
    except (TypeError, Incomparable):
        return "cannot be compared"
    except RuntimeError as error:
        return str(error)


def is_document(value: object) -> bool:
    """Would a table give it back as it is?"""
    try:
        return isinstance(value, dict) and read(spelt(value)) == value
    except BadInput:
        return False


def test_the_exceptions_are_those_that_the_docs_name():
    text = (ROOT / "docs" / "state.md").read_text()
    section = re.search(r"^## What differs from TinyDB$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| ((?:`test_\w+`(?:, )?)+) \| (.+) \|$", section[1], re.MULTILINE)

    told = {reason: tuple(re.findall(r"`(test_\w+)`", tests)) for tests, reason in rows}

    assert told == EXCEPTIONS


def test_the_suite_is_of_the_version_that_is_installed():
    assert pinned()[0] == tinydb.__version__
