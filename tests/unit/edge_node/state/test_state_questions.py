"""What a table asks: how much at a time, what travels as data and what is done in the program."""

from __future__ import annotations

import json

import pytest
from tinydb import Query, where
from tinydb.operations import increment
from tinydb.table import Document

from edge_node.state.exchange import Ask, awaited, carried_out
from edge_node.state.questions import INSERT_FIELDS_MAX, REWRITES_MAX, Unasked
from edge_node.state.spelling import NotPlain
from edge_node.state.state import State
from security.errors import BadInput, Refused, Unavailable
from tests.support.opened_states import opened


class Daemon:
    """Answers as the tables of one member do; remembers what it was asked."""

    def __init__(self):
        self.state = opened()
        self.asked = []
        self.before = []  # functions that are called ahead of the next questions of a kind

    def call(self, method, params):
        self.asked.append((method.removeprefix("state."), params))
        for each in [each for each in self.before if each[0] == method]:
            self.before.remove(each)
            each[1]()
        return self.state.call(method, params)

    def methods(self):
        return [method for method, _ in self.asked]


@pytest.fixture
def daemon():
    return Daemon()


@pytest.fixture
def table(daemon):
    return State(daemon.call).table("t")


def test_a_condition_travels_and_only_what_matches_comes_back(daemon, table):
    table.insert_multiple([{"n": n} for n in range(4)])
    daemon.asked.clear()

    assert table.search(where("n") > 2) == [{"n": 3}]
    assert daemon.asked == [("find", {"table": "t", "where": [">", ["n"], 2]})]


def test_a_function_looks_at_the_documents_here(daemon, table):
    table.insert_multiple([{"n": n} for n in range(4)])
    daemon.asked.clear()

    assert table.search(where("n").test(lambda n: n > 2)) == [{"n": 3}]
    assert table.count(lambda document: document["n"] > 1) == 2
    assert table.get(lambda document: document["n"] == 2) == {"n": 2}
    assert [params for _, params in daemon.asked] == [{"table": "t"}] * 3


def test_one_document_is_asked_for_as_one(daemon, table):
    table.insert_multiple([{"n": n} for n in range(4)])
    daemon.asked.clear()

    assert table.get(where("n") >= 0)["n"] in range(4)
    assert table.contains(where("n") == 3)
    assert [params["limit"] for _, params in daemon.asked] == [1, 1]


def test_pages_are_asked_for_until_there_are_no_more(daemon, table):
    texts = ["x" * 60_000 + str(n) for n in range(100)]
    table.insert_multiple({"text": text} for text in texts)
    daemon.asked.clear()

    assert sorted(each["text"] for each in table.all()) == sorted(texts)
    assert len(daemon.asked) == 2
    daemon.asked.clear()
    assert next(iter(table))["text"] in texts
    assert len(daemon.asked) == 1  # who looks at the first ones only reads no more


def test_a_page_goes_on_after_a_document_that_is_gone(daemon, table):
    table.insert_multiple({"text": "x" * 60_000} for _ in range(100))
    walk = iter(table)
    seen = [next(walk)]
    table.remove(doc_ids=[each.doc_id for each in table.all()[:71]])

    seen += list(walk)

    assert len({each.doc_id for each in seen}) == len(seen) >= 29


@pytest.mark.slow
def test_many_documents_go_in_several_writes(daemon, table):
    ids = table.insert_multiple({"a": n, "b": n} for n in range(2500))

    sizes = [len(params["documents"]) for method, params in daemon.asked]
    assert sum(sizes) == len(set(ids)) == 2500 and max(sizes) == INSERT_FIELDS_MAX // 2
    assert table.get(doc_id=ids[2321]) == {"a": 2321, "b": 2321}


def test_a_bad_document_among_many_is_told_before_anything_is_sent(daemon, table):
    with pytest.raises(NotPlain, match="a is set"):
        table.insert_multiple([{"a": 1}, {"a": {1}}])

    assert daemon.asked == []


@pytest.mark.slow
def test_an_error_midway_says_how_many_are_in(daemon, table):
    documents = [Document({"a": n}, n) for n in range(INSERT_FIELDS_MAX + 10)]
    documents.append(Document({"a": 0}, INSERT_FIELDS_MAX + 1))

    with pytest.raises(BadInput) as raised:
        table.insert_multiple(documents)

    assert f"the first {INSERT_FIELDS_MAX} of {INSERT_FIELDS_MAX + 11} documents are in" in raised.value.cause
    assert len(table) == INSERT_FIELDS_MAX


@pytest.mark.parametrize("doc_id", [float("nan"), None, "7", 2**63])
def test_what_can_be_no_id_names_no_document(daemon, table, doc_id):
    table.insert(Document({"a": 1}, 7))
    daemon.asked.clear()

    assert table.get(doc_ids=[doc_id]) == []
    assert table.update({"a": 2}, doc_ids=[doc_id]) == []
    assert table.update(increment("a"), doc_ids=[doc_id]) == []
    assert table.remove(doc_ids=[doc_id]) == []
    assert daemon.asked == []
    if doc_id is not None:
        with pytest.raises(BadInput, match="is no integer of 64 bits"):
            table.insert(Document({"a": 1}, doc_id))


def test_ids_come_back_in_the_order_in_which_they_were_named(table):
    table.insert_multiple([Document({"a": n}, n) for n in (1, 2, 3)])

    assert table.update({"a": 0}, doc_ids=[3, 9, 1, 3]) == [3, 1]
    assert table.update(increment("a"), doc_ids=[2, 9, 1, 2]) == [2, 1]
    assert table.get(doc_id=2) == {"a": 3}
    assert table.remove(doc_ids=[3, 9, 2]) == [3, 2]


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.get(),
        lambda table: table.contains(),
        lambda table: table.remove(),
    ],
)
def test_naming_nothing_is_the_runtime_error_that_tinydb_raises(daemon, table, call):
    with pytest.raises(RuntimeError) as raised:
        call(table)

    assert isinstance(raised.value, Unasked) and daemon.asked == []


@pytest.mark.parametrize("cond", [None, "a == 1", 3])
def test_a_condition_is_a_condition(daemon, table, cond):
    with pytest.raises(NotPlain, match="is no condition"):
        table.search(cond)
    assert daemon.asked == []


def test_the_empty_query_raises_as_tinydbs_does(table):
    table.insert({"a": 1})

    with pytest.raises(RuntimeError, match="Empty query was evaluated"):
        table.search(Query())


# ── functions that change documents ───────────────────────────────────────────────────────────────────


def test_a_function_writes_the_fields_that_it_changed(daemon, table):
    table.insert(Document({"a": 1, "b": 1}, 7))
    daemon.before.append(("state.put", lambda: daemon.state.call(*set_field(7, "b", 5))))

    assert table.update(increment("a"), where("a") == 1) == [7]
    assert table.get(doc_id=7) == {"a": 2, "b": 5}


def test_a_function_sees_again_what_was_changed_meanwhile(daemon, table):
    table.insert(Document({"a": 1}, 7))
    daemon.before.append(("state.put", lambda: daemon.state.call(*set_field(7, "a", 10))))

    assert table.update(increment("a")) == [7]
    assert table.get(doc_id=7) == {"a": 11}
    assert daemon.methods().count("put") == 2


def test_a_function_that_never_sees_the_latest_gives_up(daemon, table):
    table.insert(Document({"a": 0}, 7))
    numbers = iter(range(100, 1000))

    def overtake():
        daemon.state.call(*set_field(7, "a", next(numbers)))
        daemon.before.append(("state.put", overtake))

    daemon.before.append(("state.put", overtake))

    with pytest.raises(Unavailable, match=f"were changed {REWRITES_MAX} times"):
        table.update(increment("a"))
    assert daemon.methods().count("put") == REWRITES_MAX


def set_field(doc_id, name, value):
    return "state.update", {"table": "t", "set": json.dumps({name: value}), "ids": [doc_id]}


def test_a_function_that_changes_nothing_writes_nothing(daemon, table):
    table.insert(Document({"a": 1}, 7))

    assert table.update(lambda document: None, where("a") == 1) == [7]
    assert "put" not in daemon.methods()


def test_a_function_that_raises_writes_nothing(daemon, table):
    table.insert_multiple([Document({"a": 1}, 1), Document({"b": 1}, 2)])

    with pytest.raises(KeyError):
        table.update(increment("a"))
    assert table.get(doc_id=1) == {"a": 1} and "put" not in daemon.methods()


def test_a_function_that_leaves_what_json_cannot_say_writes_nothing(daemon, table):
    table.insert({"a": 1})

    with pytest.raises(NotPlain):
        table.update(lambda document: document.update(a={1}))
    assert table.all() == [{"a": 1}] and "put" not in daemon.methods()


def test_several_updates_go_through_each_document_in_order(daemon, table):
    table.insert_multiple([Document({"a": n}, n) for n in (1, 2, 3)])

    updated = table.update_multiple(
        [({"b": 1}, where("a") == 1), (increment("a"), where("b") == 1), ({"c": 1}, where("a") == 2)]
    )

    assert updated == [1, 1, 1, 2]
    assert table.all() == [{"a": 2, "b": 1, "c": 1}, {"a": 2, "c": 1}, {"a": 3}]
    assert daemon.methods().count("put") == 1
    assert table.update_multiple([]) == []


def test_several_updates_with_a_function_among_the_conditions(table):
    table.insert_multiple([Document({"a": n}, n) for n in (1, 2)])

    assert table.update_multiple([({"b": 1}, where("a").test(lambda a: a == 2))]) == [2]
    assert table.get(doc_id=2) == {"a": 2, "b": 1}


# ── upsert, declarations ──────────────────────────────────────────────────────────────────────────────


def test_an_upsert_by_function_updates_or_inserts(table):
    table.upsert({"a": 1}, lambda document: False)
    table.upsert({"b": 2}, lambda document: document["a"] == 1)

    assert table.all() == [{"a": 1, "b": 2}]


def test_the_key_stands_in_for_a_condition(daemon):
    table = State(daemon.call).table("rooms", key="id")

    assert table.upsert({"id": "r1", "a": 1}) == table.upsert({"id": "r1", "b": 1})
    assert table.all() == [{"id": "r1", "a": 1, "b": 1}]


def test_without_a_key_an_upsert_needs_a_condition_or_an_id(table):
    with pytest.raises(ValueError, match="an upsert needs a condition, or a document with an id"):
        table.upsert({"a": 1})


def test_a_table_is_declared_once_by_its_first_question(daemon):
    table = State(daemon.call).table("rooms", key="id", indexes=["a"])
    assert daemon.asked == []

    table.count()
    table.count()

    assert daemon.asked[0] == ("declare", {"table": "rooms", "key": "id", "indexes": ["a"]})
    assert daemon.methods() == ["declare", "count", "count"]


def test_a_declaration_that_failed_is_made_again(daemon):
    State(daemon.call).table("rooms", key="id").insert({"id": 1})
    other = State(daemon.call).table("rooms", key="name")

    for _ in range(2):
        with pytest.raises(BadInput, match="was declared with the key 'id', not the key 'name'"):
            other.count()


def test_what_is_named_later_is_declared_then(daemon):
    state = State(daemon.call)
    table = state.table("rooms")
    table.count()

    assert state.table("rooms", key="id") is table
    assert state.table("rooms", indexes=["a"]) is table
    table.count()
    assert daemon.asked[1] == ("declare", {"table": "rooms", "key": "id", "indexes": ["a"]})
    with pytest.raises(BadInput, match="was named with another key: 'id', now 'name'"):
        state.table("rooms", key="name")


@pytest.mark.parametrize(
    "name",
    [
        lambda state: state.table(""),
        lambda state: state.table("x" * 129),
        lambda state: state.table(3),
        lambda state: state.table("t", key=""),
        lambda state: state.table("t", writers="pi-1"),
        lambda state: state.counter(""),
        lambda state: state.set("x" * 129),
        lambda state: state.twin(""),
    ],
)
def test_names_are_checked_before_anything_is_asked(daemon, name):
    with pytest.raises(BadInput):
        name(State(daemon.call))
    assert daemon.asked == []


# ── the two drivers ───────────────────────────────────────────────────────────────────────────────────


def stubborn():
    """Asks until it is answered."""
    refused = 0
    while True:
        try:
            answer = yield Ask("m", {})
        except Refused:
            refused += 1
        else:
            return refused, answer


def failing_twice():
    calls = []

    def call(method, params):
        calls.append(method)
        if len(calls) < 3:
            raise Refused("no")
        return "yes"

    return call


async def test_both_drivers_let_an_exchange_make_up_its_mind_about_errors():
    call = failing_twice()

    async def waiting(method, params):
        return other(method, params)

    other = failing_twice()

    assert carried_out(stubborn(), call) == await awaited(stubborn(), waiting) == (2, "yes")


def test_an_error_that_nobody_wants_is_raised(table):
    def call(method, params):
        raise Refused("no writer")

    with pytest.raises(Refused, match="no writer"):
        State(call).table("t").insert({"a": 1})
