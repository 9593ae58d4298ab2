"""Queries as data: what travels, what stays with the client, what a hostile one meets."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tinydb import Query, where

from edge_node.store.queries import (
    DEPTH_MAX,
    NODES_MAX,
    PATTERN_CHARS_MAX,
    QUERY_STEPS_MAX,
    TEXT_STEPS_MAX,
    Lookup,
    decoded,
    encoded,
    plan,
)
from security.errors import BadInput


@pytest.mark.parametrize(
    ("query", "data"),
    [
        (where("setpoint_c") > 25, [">", ["setpoint_c"], 25]),
        (where("a")["b"].c == [1, {"k": None}], ["==", ["a", "b", "c"], [1, {"k": None}]]),
        (where("a").exists(), ["exists", ["a"]]),
        (where("a").one_of((1, 2)), ["one_of", ["a"], [1, 2]]),
        (where("a").matches("^x", re.IGNORECASE), ["matches", ["a"], "^x", 2]),
        (where("a").search("x$", re.MULTILINE), ["search", ["a"], "x$", 8]),
        (where("a").any([1]), ["any", ["a"], [1]]),
        (where("a").any(where("b") == 1), ["any_where", ["a"], ["==", ["b"], 1]]),
        (where("a").all(~where("b").exists()), ["all_where", ["a"], ["not", ["exists", ["b"]]]]),
        (Query().fragment({"a": {"b": 1}}), ["fragment", [], {"a": {"b": 1}}]),
        (where("a").fragment({"b": 1}), ["fragment", ["a"], {"b": 1}]),
        (Query().noop() & (where("a") != 1), ["and", ["noop"], ["!=", ["a"], 1]]),
    ],
)
def test_every_operator_of_tinydb_travels(query, data):
    assert encoded(query) == data


def test_a_chain_keeps_its_order_and_stays_flat():
    """TinyDB nests to the left, and describes the members of an AND by a set."""
    query = Query().noop()
    for number in range(100):
        query = query & (where("a") != number)

    assert encoded(query) == ["and", ["noop"], *(["!=", ["a"], number] for number in range(100))]
    assert encoded((where("a") == 1) | ((where("b") == 2) | (where("c") == 3))) == [
        "or",
        ["==", ["a"], 1],
        ["or", ["==", ["b"], 2], ["==", ["c"], 3]],
    ]


class OwnQuery(Query):
    def __eq__(self, rhs):
        return self._generate_test(lambda value: value is rhs, ("==", self._path, rhs))

    __hash__ = Query.__hash__


@pytest.mark.parametrize(
    "query",
    [
        where("a").test(bool),
        where("a").map(len) == 1,
        where("a").any(lambda each: True),
        (where("a") == 1) & where("b").test(bool),
        ~where("a").test(bool),
        where("a") == (1, 2),
        where("a") == {1, 2},
        where("a") == b"bytes",
        where("a") == 2**70,
        where("a") < float("inf"),
        where("a") == "\ud800",
        where("a").one_of(range(3)),
        where("a").matches(re.compile("x")),
        where("a").matches(b"x"),
        OwnQuery().a == 1,
        Query(),
        lambda document: True,
        None,
    ],
)
def test_what_is_no_plain_data_stays_with_the_client(query):
    assert encoded(query) is None


def test_a_query_of_too_many_parts_stays_with_the_client():
    deep = where("a") == 1
    for _ in range(DEPTH_MAX + 1):
        deep = ~deep

    assert encoded(deep) is None
    assert encoded(where("a").one_of(list(range(NODES_MAX)))) is None
    assert encoded(where("a").one_of(list(range(NODES_MAX // 2)))) is not None


@pytest.mark.parametrize(
    "data",
    [
        None, [], "==", ["=="], ["==", ["a"]], ["==", [], 1], ["==", "a", 1], ["==", [1], 1],
        ["==", ["a"], 1, 2], ["and"], ["and", ["noop"]], ["or", 1, 2], ["not"], ["noop", 1],
        ["near", ["a"], 1], ["exists", ["a"], 1], ["one_of", ["a"], {"b": 1}], ["fragment", ["a"], [1]],
        ["==", ["a"], b"x"],
        ["==", ["a"], {1: 2}], ["==", ["a"], float("nan")], ["==", ["a"], "\ud800"], ["==", ["a"], 2**64],
        ["matches", ["a"], "x"], ["matches", ["a"], "(", 0], ["matches", ["a"], "x", True],
        ["matches", ["a"], "x", 2**40], ["search", ["a"], "x" * (PATTERN_CHARS_MAX + 1), 0],
        ["any_where", ["a"], 1],
    ],
)  # fmt: skip
def test_what_is_no_query_is_refused(data):
    with pytest.raises(BadInput):
        decoded(data)


def test_a_bottomless_query_is_refused():
    data = ["noop"]
    for _ in range(100_000):
        data = ["not", data]
    value = []
    for _ in range(100_000):
        value = [value]

    for bottomless in (data, ["==", ["a"], value]):
        with pytest.raises(BadInput, match="too large"):
            decoded(bottomless)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|aa)+$",
        "(a*)*b",
        r"(.*)\1",
        "a*a*a*b",
        "(?:a{2,40}){9}b",
        "(?:(?:a?){20}){20}b",
        "(x+x+)+y",
    ],
)
def test_a_pattern_that_may_never_end_stays_with_the_client(pattern):
    assert encoded(where("a").matches(pattern)) is None
    with pytest.raises(BadInput, match="very long"):
        decoded(["search", ["a"], pattern, 0])


@pytest.mark.parametrize(
    "pattern", [r"^\w+$", "^room-[0-9]{3}$", ".*alarm.*", "(a|b)c", "(?i)x", "a?b{2,3}[^c]"]
)
def test_a_usual_pattern_travels(pattern):
    data = encoded(where("a").search(pattern))
    assert data is not None
    for text in ("room-001", "an alarm!", "ac", "X", "bbx", "", "\n"):
        assert decoded(data)({"a": text}) == where("a").search(pattern)({"a": text})


def test_a_pattern_is_not_let_loose_on_a_text_that_may_take_long():
    """It may start anywhere, and two repetitions may give back anything that they took."""
    test = decoded(["search", ["a"], "a*a*b", 0])
    length = int(TEXT_STEPS_MAX ** (1 / 3))

    assert not test({"a": "a" * (length - 1)})
    with pytest.raises(BadInput, match="may take the daemon long"):
        test({"a": "a" * (length + 1)})
    assert decoded(["search", ["a"], "b.*", 0])({"a": "a" * 60_000 + "b"}), (
        "what ends with it gives nothing back"
    )


def test_a_query_ends_when_its_texts_together_may_take_long():
    test = decoded(["matches", ["a"], "a*a*b", 0])
    text = "a" * 3000
    for _ in range(QUERY_STEPS_MAX // (3000**2 + 3000)):
        assert not test({"a": text})

    with pytest.raises(BadInput, match="may take the daemon long"):
        test({"a": text})


def test_a_plan_names_what_narrows_the_query():
    query = (where("a") == 1) & (where("b").c == 2) & (where("d") <= "x") & where("e").one_of([1, None])

    assert plan(encoded(query)) == [
        Lookup("a", "==", 1),
        Lookup("d", "<=", "x"),
        Lookup("e", "one_of", [1, None]),
    ]


@pytest.mark.parametrize(
    "query",
    [
        (where("a") == 1) | (where("b") == 2),
        ~(where("a") == 1),
        where("a").b == 1,
        where("a") == [1],
        where("a").one_of([1, [2]]),
        (where("a").b < 1) & (where("c") == 1),  # may raise on a document that c leaves out
        where("a").any([1]) & (where("c") == 1),
    ],
)
def test_a_plan_never_leaves_out_what_could_match_or_raise(query):
    assert plan(encoded(query)) == []


def test_a_daemon_needs_no_tinydb_to_answer_queries():
    code = (
        "import sys; from edge_node.store.queries import decoded; "
        "assert decoded(['==', ['a'], 1])({'a': 1}); assert 'tinydb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
