"""Values as text: strict JSON can be read by anything, tables stay on one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from edge_node.commands.rendering import cell, plain_table, to_json

numpy = pytest.importorskip("numpy")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([1, 2.5, "ä", True], '[1, 2.5, "ä", true]'),
        (b"\x00\xff", '{"base64": "AP8="}'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05+00:00"'),
        ({1: "a", b"k": 2, None: 3}, '{"1": "a", "aw==": 2, "null": 3}'),
        (2**80, str(2**80)),
    ],
)
def test_every_value_has_a_json_form(value, text):
    assert to_json(value, strict=True) == text
    json.loads(text)


def test_arrays_are_nested_lists():
    assert to_json(numpy.arange(4).reshape(2, 2), strict=True) == "[[0, 1], [2, 3]]"
    assert to_json({"x": numpy.float32(0.5)}, strict=True) == '{"x": 0.5}'
    assert json.loads(to_json(numpy.array([1 + 2j]), strict=True)) == [[1.0, 2.0]]


def test_what_json_lacks_is_null_only_when_strict():
    values = [float("nan"), float("inf"), 1.0]

    assert json.loads(to_json(values, strict=True), parse_constant=pytest.fail) == [None, None, 1.0]
    assert to_json(values, strict=False) == "[NaN, Infinity, 1.0]"


def test_a_cell_is_short_and_on_one_line():
    assert cell("a\nb") == "a b"
    assert cell(bytes(range(32)), "digest") == "000102030405"
    assert cell({"site": "a", "n": 1}, "labels") == "site=a n=1"
    assert cell({"a": {"b": 1, "c": {}}, "d": 0, "e": ""}) == "a=(b=1) d=0"
    assert cell([["a", "b"], "c"]) == "a, b, c"
    assert len(cell("x" * 500, "doc")) == 60
    assert cell(0, "settled_at_ms") == ""
    assert cell("x" * 500, "doc", whole=True) == "x" * 500
    assert cell(1_700_000_000_000, "settled_at_ms").startswith("2023-11-1")


def test_a_plain_table_is_aligned():
    assert plain_table(["id", "n"], [["a", "10"], ["long", "2"]]) == "id    n\na     10\nlong  2"
