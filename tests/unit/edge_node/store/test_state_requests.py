"""Requests: answered once, after the fsync, all or nothing; watches that wait; a store in one process."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.store.authorship import Authorship
from edge_node.store.batch import VALUE_BYTES_MAX
from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.opened import OpenedState
from edge_node.store.replica import (
    Append,
    Changed,
    Failed,
    Limits,
    NotWritten,
    Persisted,
    Reload,
    Replica,
    Write,
    Written,
)
from edge_node.store.requests import MILLISECOND, MINUTE, POLLS_MAX, UNWATCHED_NS, Requests
from edge_node.store.storage.cells import SqliteCellStore
from edge_node.store.tables import Tables
from security.errors import BadInput, Refused, Unavailable
from tests.support.opened_states import NODE, Unsigned, found, opened

MESH = "0123456789abcdef"
SECOND = 1000 * MILLISECOND


class Rules:
    def may_write(self, node, table):
        return table != "forbidden"

    def believed(self, node):
        return False


class Slow:
    """Requests over a replica whose disk answers when the test says so."""

    def __init__(self, limits=None):
        self.disk = MemoryCellStore()
        self.limits = limits
        self.dones, self.appends, self.answers = {}, [], []
        self.load()
        self.tables = Tables(lambda: self.replica.cells, lambda n: bytes(n - 1) + b"\2")
        self.requests = Requests(self.tables, self.write)

    def load(self):
        self.replica = Replica(NODE, Unsigned(), Rules(), self.disk.load(), lambda n: b"\1" * n, self.limits)

    def write(self, changes, done):
        token = len(self.dones)
        self.dones[token] = done
        self.perform(self.replica.handle(0, 1_000_000, Write(token, changes)))

    def perform(self, effects):
        for effect in effects:
            match effect:
                case Append():
                    self.appends.append(effect)
                case Written(token):
                    self.dones[token]("")
                case NotWritten(token, reason):
                    self.dones[token](reason)
                case Changed():
                    self.requests.changed(0, 1_000_000, effect)
                case Reload():
                    self.load()
                    self.requests.reset()

    def fsync(self):
        append = self.appends.pop(0)
        self.disk.commit([append.commit])
        self.perform(self.replica.handle(0, 1_000_000, Persisted(append.serial)))

    def fail(self):
        serial = self.appends[0].serial
        self.appends.clear()
        self.perform(self.replica.handle(0, 1_000_000, Failed(serial, "no space left")))

    def call(self, method, now_ns=0, **params):
        """The list that its answer will lie in."""
        answers = []
        self.requests.call(now_ns, f"state.{method}", params, answers.append)
        return answers


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.requests.check()


def upsert(slow, **document):
    return slow.call("upsert", table="t", document=json.dumps(document), id=1)


# -- writes ------------------------------------------------------------------------------------------------


def test_a_write_is_answered_when_it_is_fsynced(slow):
    answers = upsert(slow, a=1)
    assert answers == []

    slow.fsync()
    assert answers == [{"ids": [1]}]


def test_two_calls_of_one_turn_see_each_others_writes(slow):
    first, second = upsert(slow, a=1), slow.call("update", table="t", set='{"b":2}', where=["==", ["a"], 1])
    reader = slow.call("find", table="t")

    assert reader == [{"documents": [[1, '{"a":1,"b":2}']], "more": False}]
    assert first == second == []
    slow.fsync()
    assert (first, second) == ([{"ids": [1]}], [])
    slow.fsync()
    assert second == [{"ids": [1]}]


def test_a_write_that_changes_nothing_is_answered_when_what_it_found_is_safe(slow):
    upsert(slow, a=1)
    same, nothing = upsert(slow, a=1), slow.call("remove", table="t", ids=[99])
    assert same == nothing == [] and len(slow.appends) == 1

    slow.fsync()
    assert (same, nothing) == ([{"ids": [1]}], [{"ids": []}])
    assert upsert(slow, a=1) == [{"ids": [1]}]


def test_a_disk_that_fails_loses_only_what_was_not_answered(slow):
    upsert(slow, a=1)
    slow.fsync()
    lost, same = upsert(slow, a=2), upsert(slow, a=2)
    slow.fail()

    for answers in (lost, same):
        (error,) = answers
        assert isinstance(error, Unavailable) and "the tables' disk failed" in str(error)
    assert slow.call("find", table="t") == [{"documents": [[1, '{"a":1}']], "more": False}]
    again = upsert(slow, a=3)
    slow.fsync()
    assert again == [{"ids": [1]}]


def test_a_refusal_says_whose_fault_it_is():
    slow = Slow(Limits(quota_bytes=4000))
    cases = [
        (upsert(slow, a="x" * (VALUE_BYTES_MAX - 1)), BadInput, "value is over 65536 bytes"),
        (upsert(slow, **{"f" * 300: 1}), BadInput, "field name is over 256 bytes"),
        (slow.call("counter", name="c", add=2**60), BadInput, "moves by at most"),
        (slow.call("set", name="", add=["a"]), BadInput, "a table's name has 1 to 128 bytes"),
        (slow.call("set", name="s", add=["k" * 257]), BadInput, "key is over 256 bytes"),
        (
            slow.call("insert", table="t", documents=[(100 + n, "{}") for n in range(4097)]),
            BadInput,
            "4097 changes is over 4096",
        ),
        (upsert(slow, a="x" * 4000), Refused, "more than its 4000 bytes"),
        (slow.call("counter", name="forbidden", add=1), Refused, "no writer of table 'forbidden'"),
    ]

    for (error,), kind, text in cases:
        assert type(error) is kind and text in str(error)
    assert slow.appends == [] and slow.call("tables") == [{"tables": []}]
    slow.requests.check()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("find", {}),
        ("find", {"table": 5}),
        ("find", {"table": "t", "wher": []}),
        ("find", {"table": "t", "limit": 0}),
        ("find", {"table": "t", "where": ["nonsense"]}),
        ("find", {"table": "t", "where": ["and", 1, []]}),
        ("count", {"table": "t", "where": ["and", ["noop"], None]}),
        ("remove", {"table": "t", "where": []}),
        ("insert", {"table": "t", "documents": ["{}"]}),
        ("update", {"table": "t", "set": {"a": 1}}),
        ("upsert", {"table": "t", "document": "{}"}),
        ("remove", {"table": "t"}),
        ("watch", {"table": "t", "wait_ms": -1}),
        ("watch", {"table": "t", "where": ["nonsense"]}),
        ("counter", {"name": "c", "add": 1.5}),
        ("set", {"name": "s", "add": ["a"], "discard": ["a"]}),
        ("put", {"table": "t", "documents": [(1, "{}"), (1, "{}")]}),
        ("near", {}),
    ],
)
def test_what_does_not_fit_a_method_is_bad_input(slow, method, params):
    (error,) = slow.call(method, **params)

    assert isinstance(error, BadInput) and error.fix
    assert slow.appends == []


@pytest.fixture
def large(slow):
    """2 500 documents of two fields, on the disk."""
    for first in range(0, 2500, 1250):
        documents = [(doc_id, '{"a":1,"b":2}') for doc_id in range(first, first + 1250)]
        slow.call("insert", table="t", documents=documents)
        slow.fsync()
    return slow


@pytest.mark.slow
def test_a_large_table_is_truncated_in_several_writes(large):
    answers = large.call("truncate", table="t")
    writes = 0
    while large.appends:
        assert answers == [] and len(large.appends) == 1, "one after another"
        large.fsync()
        writes += 1

    assert (answers, writes) == ([{}], 2)
    assert large.call("count", table="t") == [{"count": 0}]


@pytest.mark.slow
def test_a_truncation_that_fails_half_way_says_so(large):
    answers = large.call("truncate", table="t")
    large.fsync()
    large.fail()

    assert [type(each) for each in answers] == [Unavailable]
    assert large.call("count", table="t") == [{"count": 2500 - 4096 // 2}]


def test_a_method_of_another_part_is_called_with_the_time(slow):
    slow.requests.add("state.clock", lambda now_ns, params, answer: answer({"now": now_ns, **params}))

    assert slow.call("clock", now_ns=7, a=1) == [{"now": 7, "a": 1}]
    assert "state.clock" in slow.requests.methods


# -- sets and counters -------------------------------------------------------------------------------------


def test_a_counter_tells_its_value_with_what_was_added():
    with opened() as state:
        assert state.call("state.counter", {"name": "doors"}) == {"value": 0}
        assert state.call("state.counter", {"name": "doors", "add": 5}) == {"value": 5}
        assert state.call("state.counter", {"name": "doors", "add": -7}) == {"value": -2}


def test_a_set_tells_its_elements_in_order_and_page_by_page():
    with opened() as state:
        state.call("state.set", {"name": "s", "add": ["b", "a", "c", "a"]})
        assert state.call("state.set", {"name": "s", "discard": ["b", "x"]}) == {
            "elements": ["a", "c"],
            "more": False,
        }
        assert state.call("state.set", {"name": "s", "limit": 1}) == {"elements": ["a"], "more": True}
        assert state.call("state.set", {"name": "s", "after": "a"}) == {"elements": ["c"], "more": False}


def test_an_element_that_is_added_again_is_written_again(slow):
    """It outlives a removal elsewhere that did not know of this addition."""
    slow.call("set", name="s", add=["a"])
    slow.call("set", name="s", add=["a"])

    assert len(slow.appends) == 2


# -- watches -----------------------------------------------------------------------------------------------


def watching(slow, wait_ms=1000, now_ns=0, **params):
    ((first,),) = [slow.call("watch", now_ns, table="t")]
    return slow.call("watch", now_ns, table="t", after=first["cursor"], wait_ms=wait_ms, **params)


def test_a_watch_is_answered_by_the_change_that_it_waits_for(slow):
    every, some = watching(slow), watching(slow, where=[">", ["a"], 25])
    upsert(slow, a=1)
    assert [each["after"] for each in every[0]["changes"]] == ['{"a":1}'] and some == []

    upsert(slow, a=30)
    assert [each["after"] for each in some[0]["changes"]] == ['{"a":30}']
    upsert(slow, a=31)
    assert len(every) == len(some) == 1, "answered once"


def test_a_watch_that_waited_long_enough_goes_on_from_where_it_was(slow):
    answers = watching(slow, wait_ms=500, now_ns=SECOND, where=["==", ["a"], 2])
    assert slow.requests.deadline_ns() == SECOND + 500 * MILLISECOND
    upsert(slow, a=1)

    slow.requests.tick(SECOND + 499 * MILLISECOND)
    assert answers == []
    slow.requests.tick(SECOND + 500 * MILLISECOND)
    (answer,) = answers
    assert (answer["changes"], answer["missed"]) == ([], False)
    assert slow.call("watch", table="t", after=answer["cursor"])[0]["changes"] == []


def test_a_table_that_nobody_watches_any_more_is_not_followed(slow):
    (first,) = slow.call("watch", table="t")
    late = UNWATCHED_NS + 2 * MINUTE
    while (due := slow.requests.deadline_ns()) is not None and due <= late:
        slow.requests.tick(due)

    assert slow.requests.deadline_ns() is None and slow.tables.watched == 0
    assert slow.call("watch", late, table="t", after=first["cursor"])[0]["missed"] is False, (
        "nothing happened"
    )


def test_changes_while_nobody_followed_were_missed(slow):
    (first,) = slow.call("watch", table="t")
    slow.call("watch", table="u")
    slow.requests.tick(UNWATCHED_NS + MINUTE)
    upsert(slow, a=1)
    slow.call("watch", UNWATCHED_NS + MINUTE, table="u")
    slow.call("upsert", table="u", document="{}", id=1)

    assert slow.call("watch", UNWATCHED_NS + MINUTE, table="t", after=first["cursor"])[0]["missed"] is True


def test_watches_that_wait_are_bounded(slow):
    waiting = [watching(slow) for _ in range(POLLS_MAX)]
    (error,) = watching(slow)

    assert isinstance(error, Unavailable) and not any(waiting)
    upsert(slow, a=1)
    assert all(len(answers) == 1 for answers in waiting)


def test_a_new_replica_tells_who_watches_what_was_lost(slow):
    upsert(slow, a=1)
    slow.fsync()
    upsert(slow, a=2)
    answers = watching(slow)
    slow.fail()

    assert [(each["before"], each["after"]) for each in answers[0]["changes"]] == [('{"a":2}', '{"a":1}')]


# -- opened in one process ---------------------------------------------------------------------------------


@pytest.fixture
def on_disk(tmp_path):
    key = ec.derive_private_key(7, ec.SECP256R1())

    def opened_on_disk():
        store = SqliteCellStore(tmp_path / "state.db", MESH, NODE, b"k" * 32)
        return OpenedState(NODE, store, Authorship(MESH, key, lambda _: NODE))

    return opened_on_disk


def test_what_was_answered_is_there_when_the_store_is_opened_again(on_disk):
    with on_disk() as state:
        state.call("state.declare", {"table": "t", "key": "id"})
        state.call("state.upsert", {"table": "t", "document": '{"id":"r1","a":[1,2]}'})
        state.call("state.counter", {"name": "c", "add": 3})
        before = found(state, "t")
    with on_disk() as state:
        assert found(state, "t") == before
        assert state.call("state.declare", {"table": "t", "key": "id"}) == {"key": "id", "writers": None}
        assert state.call("state.counter", {"name": "c", "add": 1}) == {"value": 4}


def test_what_is_open_for_reading_is_read_and_changed_by_nobody(on_disk):
    with on_disk() as state:
        state.call("state.upsert", {"table": "t", "document": '{"a":1}', "id": 1})
        image = state._store.load()
    reader = OpenedState.reading(NODE, image)

    assert found(reader, "t") == {1: {"a": 1}}
    assert [each["name"] for each in reader.call("state.tables", {})["tables"]] == ["t"]
    with pytest.raises(Refused, match="read only: start the daemon"):
        reader.call("state.upsert", {"table": "t", "document": '{"a":2}', "id": 1})
    assert found(reader, "t") == {1: {"a": 1}}


def test_a_watch_of_one_process_never_waits():
    with opened() as state:
        cursor = state.call("state.watch", {"table": "t"})["cursor"]

        assert state.call("state.watch", {"table": "t", "after": cursor, "wait_ms": 60_000})["changes"] == []
