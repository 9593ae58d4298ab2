"""The same operations on replicated tables and on a plain TinyDB give the same documents and errors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinydb import Query, TinyDB, where
from tinydb.storages import MemoryStorage
from tinydb.table import Document

from edge_node.store.identity import doc_id_for
from edge_node.store.queries import Incomparable, decoded, encoded, fields_of
from security.errors import BadInput
from tests.support.opened_states import found, opened

FIELDS = ["a", "b", "c", ""]
fields = st.sampled_from(FIELDS)
numbers = st.integers(-2, 3) | st.sampled_from([0.5, 1.0, True, False])
words = st.sampled_from(["", "x", "xy", "é", "X\ny"])
flat = st.none() | numbers | words
values = flat | st.lists(flat, max_size=3) | st.dictionaries(st.sampled_from(["a", "k"]), flat, max_size=2)
bodies = st.dictionaries(fields, values, max_size=4)
numeric_bodies = st.dictionaries(st.sampled_from(["a", "b"]), numbers, max_size=2)
paths = st.one_of(fields.map(lambda name: [name]), st.just(["a", "k"]), st.just(["b", "a"]))
patterns = st.sampled_from(["x", "^x.y?$", "X.y", "[xé]+", ""])


def at(path):
    query = Query()
    for part in path:
        query = query[part]
    return query


def compared(path, operator, value):
    query = at(path)
    match operator:
        case "==":
            return query == value
        case "!=":
            return query != value
        case "<":
            return query < value
        case "<=":
            return query <= value
        case ">":
            return query > value
        case ">=":
            return query >= value


OPERATORS = ["==", "!=", "<", "<=", ">", ">="]
operators = st.sampled_from(OPERATORS)
leaves = st.one_of(
    st.builds(compared, paths, operators, values),
    st.builds(compared, paths, operators, numbers),
    st.builds(lambda p: at(p).exists(), paths),
    st.builds(lambda p, r, f: at(p).matches(r, f), paths, patterns, st.sampled_from([0, 2, 16])),
    st.builds(lambda p, r, f: at(p).search(r, f), paths, patterns, st.sampled_from([0, 2, 16])),
    st.builds(lambda p, v: at(p).one_of(v), paths, st.lists(flat, max_size=3)),
    st.builds(lambda p, v: at(p).one_of(v), paths, st.lists(values, max_size=3)),
    st.builds(lambda p, v: at(p).any(v), paths, st.lists(flat, max_size=3)),
    st.builds(lambda p, v: at(p).all(v), paths, st.lists(flat, max_size=3)),
    st.builds(lambda p, n, v: at(p).any(where(n) == v), paths, fields, flat),
    st.builds(lambda p, n: at(p).all(where(n).exists()), paths, fields),
    st.builds(lambda d: Query().fragment(d), bodies),
    st.builds(lambda p, d: at(p).fragment(d), paths, bodies),
    st.just(Query().noop()),
)
queries = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda q, r: q & r, inner, inner),
        st.builds(lambda q, r: q | r, inner, inner),
        st.builds(lambda q: ~q, inner),
    ),
    max_leaves=5,
)
ids = st.integers(1, 9)
keys = st.sampled_from(["r1", "r2", 1, 2, "1"])


def operations(documents, queries):
    return st.one_of(
        st.tuples(st.just("insert"), st.lists(st.tuples(ids, documents), min_size=1, max_size=4)),
        st.tuples(st.just("update"), documents, queries),
        st.tuples(st.just("update_ids"), documents, st.lists(ids, min_size=1, max_size=3)),
        st.tuples(st.just("put"), ids, documents),
        st.tuples(st.just("upsert"), ids, documents),
        st.tuples(st.just("upsert_where"), documents, queries),
        st.tuples(st.just("remove"), queries),
        st.tuples(st.just("remove_ids"), st.lists(ids, min_size=1, max_size=3)),
        st.tuples(st.just("truncate")),
        st.tuples(st.just("search"), queries),
        st.tuples(st.just("search"), queries),
    )


def on_tinydb(table, step):
    match step:
        case "insert", many:
            if len({doc_id for doc_id, _ in many}) < len(many) or {i for i, _ in many} & {
                each.doc_id for each in table
            }:
                raise ValueError("there already")  # its memory would keep half of them
            return table.insert_multiple([Document(body, doc_id) for doc_id, body in many])
        case "update", body, query:
            return table.update(body, query)
        case "update_ids", body, doc_ids:
            return table.update(body, doc_ids=list(dict.fromkeys(doc_ids)))
        case "put", doc_id, body:
            if table.contains(doc_id=doc_id):
                table.remove(doc_ids=[doc_id])
            return [table.insert(Document(body, doc_id))]
        case "upsert", doc_id, body:
            return table.upsert(Document(body, doc_id))
        case "remove", query:
            return table.remove(query)
        case "remove_ids", doc_ids:
            return table.remove(doc_ids=list(dict.fromkeys(doc_ids)))
        case ("truncate",):
            return table.truncate()
        case "search", query:
            return {each.doc_id: dict(each) for each in table.search(query)}, table.count(query)


def on_ours(state, step):
    match step:
        case "insert", many:
            documents = [(doc_id, json.dumps(body)) for doc_id, body in many]
            return state.call("state.insert", {"table": "t", "documents": documents})["ids"]
        case "update", body, query:
            params = {"table": "t", "set": json.dumps(body), "where": encoded(query)}
            return state.call("state.update", params)["ids"]
        case "update_ids", body, doc_ids:
            return state.call("state.update", {"table": "t", "set": json.dumps(body), "ids": doc_ids})["ids"]
        case "put", doc_id, body:
            return state.call("state.put", {"table": "t", "documents": [(doc_id, json.dumps(body))]})["ids"]
        case "upsert", doc_id, body:
            return state.call("state.upsert", {"table": "t", "document": json.dumps(body), "id": doc_id})[
                "ids"
            ]
        case "remove", query:
            return state.call("state.remove", {"table": "t", "where": encoded(query)})["ids"]
        case "remove_ids", doc_ids:
            return state.call("state.remove", {"table": "t", "ids": doc_ids})["ids"]
        case ("truncate",):
            state.call("state.truncate", {"table": "t"})
            return None
        case "search", query:
            count = state.call("state.count", {"table": "t", "where": encoded(query)})["count"]
            return found(state, "t", query), count


def attempt(perform, table, step):
    """Its answer, lists of ids in order, or what went wrong: cannot be compared, or no such document."""
    try:
        answer = perform(table, step)
    except (TypeError, Incomparable):
        return "incomparable"
    except (ValueError, KeyError, BadInput):
        return "unfit"
    return sorted(answer) if isinstance(answer, list) else answer


def upserted_where(plain, state, step):
    """The new document's id is random here: it is given to the other."""
    _, body, query = step
    try:
        updated = plain.update(body, query)
    except TypeError:
        updated = "incomparable"
    params = {"table": "t", "document": json.dumps(body), "where": encoded(query)}
    try:
        ours = state.call("state.upsert", params)["ids"]
    except Incomparable:
        ours = "incomparable"
    if updated == []:
        plain.insert(Document(body, ours[0]))
    else:
        assert sorted(ours) == sorted(updated)


def agree(script, afterwards=()):
    plain = TinyDB(storage=MemoryStorage).table("t")
    looked_at, indexed = opened(), opened()
    indexed.call("state.declare", {"table": "t", "indexes": FIELDS[:3]})
    for step in script:
        for state in (looked_at, indexed):
            other = TinyDB(storage=MemoryStorage).table("t")
            other.insert_multiple(plain.all())
            if step[0] == "upsert_where":
                upserted_where(other, state, step)
            else:
                assert attempt(on_ours, state, step) == attempt(on_tinydb, other, step)
            assert found(state, "t") == {each.doc_id: dict(each) for each in other}
        plain = other
    for step in afterwards:
        assert attempt(on_ours, indexed, step) == attempt(on_tinydb, plain, step)
    looked_at.requests.check()
    indexed.requests.check()


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(operations(bodies, queries), max_size=12))
def test_documents_of_any_kind_are_found_and_changed_as_in_tinydb(script):
    """With and without indexes; where TinyDB cannot compare, neither can we."""
    agree(script)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        operations(
            numeric_bodies,
            st.recursive(
                st.builds(compared, st.sampled_from([["a"], ["b"]]), operators, numbers)
                | st.builds(lambda p, v: at(p).one_of(v), st.sampled_from([["a"], ["b"]]), st.lists(numbers)),
                lambda inner: st.builds(lambda q, r: q & r, inner, inner) | st.builds(lambda q: ~q, inner),
                max_leaves=4,
            ),
        ),
        min_size=6,
        max_size=16,
    )
)
def test_an_index_never_changes_an_answer(script):
    """Numbers only, so that orderings are used; each of them at the values that there are."""
    orderings = (compared(["a"], operator, value) for operator in OPERATORS for value in (-1, 0, 0.5, 1, 3))
    agree(script, [("search", query) for query in orderings])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(queries, st.lists(bodies, max_size=5))
def test_a_query_that_travelled_holds_for_the_same_documents(query, documents):
    data = encoded(query)
    assert data is not None and data == json.loads(json.dumps(data))
    test = decoded(data)
    looked_at = fields_of(data)
    for body in documents:
        part = {name: value for name, value in body.items() if name in looked_at}
        assert attempt(lambda run, document: run(document), test, part) == attempt(
            lambda run, document: run(document), test, body
        )
        assert attempt(lambda run, document: run(document), test, body) == attempt(
            lambda run, document: run(document), query, body
        )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["upsert", "insert", "remove"]), keys, bodies), max_size=15))
def test_a_key_is_a_documents_identity(script):
    """A table with a key against a dict by (kind of key, key)."""
    state, expected = opened(), {}
    state.call("state.declare", {"table": "t", "key": "id"})
    for what, key, body in script:
        document = {**body, "id": key}
        doc_id = doc_id_for("t", key)
        if what == "remove":
            removed = state.call("state.remove", {"table": "t", "where": encoded(where("id") == key)})["ids"]
            assert removed == ([doc_id] if expected.pop(doc_id, None) else [])
        elif what == "insert" and doc_id in expected:
            with pytest.raises(BadInput, match="already"):
                state.call("state.insert", {"table": "t", "documents": [(None, json.dumps(document))]})
        elif what == "insert":
            state.call("state.insert", {"table": "t", "documents": [(None, json.dumps(document))]})
            expected[doc_id] = document
        else:
            state.call("state.upsert", {"table": "t", "document": json.dumps(document)})
            expected[doc_id] = {**expected.get(doc_id, {}), **document}
        assert found(state, "t") == expected
        assert found(state, "t", where("id") == key) == (
            {doc_id: expected[doc_id]} if doc_id in expected else {}
        )
        state.requests.check()
