"""Documents as a reader sees and types them."""

from __future__ import annotations

import json

import pytest

from gateway.console import documents
from security.errors import BadInput


def test_the_key_leads_the_columns_and_rare_fields_get_none():
    many = [{"id": n, "b": 1, "a": 2} for n in range(3)] + [{"id": 4, **{f"rare{n}": n for n in range(20)}}]

    shown = documents.columns(many, "id")

    assert shown[0] == "id" and {"a", "b"} <= set(shown)
    assert len(shown) == 1 + documents.COLUMNS_MAX
    assert documents.columns([{"b": 1, "a": 2}], None) == ["a", "b"]
    assert documents.columns([], "id") == ["id"]


def test_what_has_no_column_stands_in_the_rest():
    document = {"id": 1, "x": 2, "deep": {"a": [1]}, "note": "hot"}

    assert documents.rest(document, ["id", "x"]) == 'deep {"a": [1]}, note hot'
    assert documents.rest(document, list(document)) == ""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("plain", "plain"),
        ("two\nlines", "two lines"),
        (21.5, "21.5"),
        (None, "null"),
        (True, "true"),
        ({"ä": 1}, '{"ä": 1}'),
        ("x" * 61, "x" * 59 + "…"),
        ("x" * 60, "x" * 60),
    ],
)
def test_a_value_fits_its_cell(value, told):
    assert documents.cell(value) == told


@pytest.mark.parametrize(("text", "value"), [("21.5", 21.5), ('"low"', "low"), ("null", None), ("[1]", [1])])
def test_a_value_is_json(text, value):
    assert documents.value(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("low", "line 1, column 1"),
        ('{\n "a": }', "line 2, column 7"),
        ("", "line 1, column 1"),
        ("NaN", "NaN is no JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text, says):
    with pytest.raises(BadInput) as caught:
        documents.value(text)
    assert says in caught.value.cause and caught.value.fix


def test_a_document_is_an_object():
    assert documents.fields('{"a": 1}') == {"a": 1}
    with pytest.raises(BadInput, match="object"):
        documents.fields("[1]")


def test_a_document_is_typed_back_as_it_was_shown():
    document = {"id": "r1", "deep": {"b": [1, None]}, "text": "ä"}
    assert documents.fields(documents.pretty(document)) == document


def test_a_filter_is_typed_as_conditions_or_as_the_query_itself():
    assert json.loads(documents.where("setpoint_c > 25")) == [">", ["setpoint_c"], 25]
    assert documents.where("  ") == ""
    assert documents.where(' [">", ["a"], 1]') == '[">", ["a"], 1]'
    for wrong in ("setpoint_c >", '["', "a = 1 or b = 2"):
        with pytest.raises(BadInput):
            documents.where(wrong)


def test_a_document_is_called_by_its_key():
    assert documents.said({"id": "r1"}, "id", "77") == "r1"
    assert documents.said({"id": 0}, "id", "77") == "0"
    assert documents.said({"x": 1}, "id", "77") == "77"
    assert documents.said({"id": "r1"}, None, "77") == "77"


def test_the_sides_of_a_twin_are_compared_setting_by_setting():
    desired, reported = {"fan": "low", "rate": 1, "on": True}, {"fan": "low", "on": 1, "mode": "a"}

    told = {name: verdict for name, _, _, verdict in documents.sides(desired, reported)}

    assert told == {"fan": "same", "mode": "only reported", "on": "differs", "rate": "not reported"}
    assert documents.sides({}, {}) == []
