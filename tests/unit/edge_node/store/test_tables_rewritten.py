"""What a client read, changed and gives back: its fields are written, those of others stay."""

from __future__ import annotations

import json

import pytest

from security.errors import BadInput
from tests.support.opened_states import opened


@pytest.fixture
def state():
    with opened() as state:
        yield state


def put(state, was, becomes, doc_id=1):
    return state.call(
        "state.put",
        {"table": "t", "documents": [[doc_id, json.dumps(becomes)]], "seen": [json.dumps(was)]},
    )


def documents(state):
    found = state.call("state.find", {"table": "t"})["documents"]
    return {doc_id: json.loads(text) for doc_id, text in found}


def insert(state, document, doc_id=1):
    state.call("state.insert", {"table": "t", "documents": [[doc_id, json.dumps(document)]]})


def test_a_field_that_somebody_else_set_meanwhile_stays(state):
    insert(state, {"a": 1})
    state.call("state.update", {"table": "t", "set": '{"b":2}', "ids": [1]})

    assert put(state, {"a": 1}, {"a": 5}) == {"ids": [1]}
    assert documents(state) == {1: {"a": 5, "b": 2}}


def test_a_field_that_was_changed_meanwhile_is_told_and_nothing_is_written(state):
    insert(state, {"a": 1, "b": 1})
    state.call("state.update", {"table": "t", "set": '{"a":2}', "ids": [1]})

    assert put(state, {"a": 1, "b": 1}, {"a": 5, "b": 5}) == {"ids": [], "stale": [1]}
    assert documents(state) == {1: {"a": 2, "b": 1}}


def test_a_document_that_is_gone_is_told(state):
    assert put(state, {"a": 1}, {"a": 5}) == {"ids": [], "stale": [1]}
    assert documents(state) == {}


def test_fields_go_and_the_last_one_leaves_an_empty_document(state):
    insert(state, {"a": 1, "b": 1})

    put(state, {"a": 1, "b": 1}, {"b": 1})
    assert documents(state) == {1: {"b": 1}}
    put(state, {"b": 1}, {})
    assert documents(state) == {1: {}}
    put(state, {}, {"c": 1})
    assert documents(state) == {1: {"c": 1}}


def test_a_document_cannot_change_its_key(state):
    state.call("state.declare", {"table": "t", "key": "id"})
    (doc_id,) = state.call("state.insert", {"table": "t", "documents": [[None, '{"id":"r1"}']]})["ids"]

    with pytest.raises(BadInput, match="cannot change its 'id'"):
        put(state, {"id": "r1"}, {"id": "r2"}, doc_id)
    assert documents(state) == {doc_id: {"id": "r1"}}


def test_as_many_documents_as_were_seen(state):
    with pytest.raises(BadInput, match="each document is put once"):
        state.call("state.put", {"table": "t", "documents": [[1, "{}"]], "seen": []})


def test_ids_that_are_not_there_are_passed_over(state):
    insert(state, {"a": 1})

    assert state.call("state.update", {"table": "t", "set": '{"a":2}', "ids": [9, 1]}) == {"ids": [1]}
    assert state.call("state.remove", {"table": "t", "ids": [9, 1]}) == {"ids": [1]}


def test_an_index_is_declared_without_a_word_about_the_key(state):
    state.call("state.declare", {"table": "t", "key": "id"})

    assert state.call("state.declare", {"table": "t", "indexes": ["a"]}) == {"key": "id", "writers": None}
    with pytest.raises(BadInput, match="was declared with the key 'id', not no key"):
        state.call("state.declare", {"table": "t", "key": None})


def test_an_index_alone_declares_no_key(state):
    state.call("state.declare", {"table": "t", "indexes": ["a"]})

    assert state.call("state.declare", {"table": "t", "key": "id"}) == {"key": "id", "writers": None}
