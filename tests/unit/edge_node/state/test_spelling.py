"""What a document may hold is told before it is sent, with the place; what passes comes back as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.state.spelling import DEPTH_MAX, NotPlain, check_text, read, spelt
from edge_node.store.batch import FIELD_BYTES_MAX, VALUE_BYTES_MAX
from security.errors import BadInput

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(texts, plain, max_size=4))
def test_plain_documents_come_back_as_they_were(document):
    assert read(spelt(document)) == document
    assert json.loads(spelt(document)) == document


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("document", "cause"),
    [
        ({1: "x"}, "a field is named 1, which is no text"),
        ({"a": {"b": [0, {2: 1}]}}, "a['b'][1] has the key 2, which is no text"),
        ({"a": [1, float("nan")]}, "a[1] is nan, which JSON cannot say"),
        ({"a": float("-inf")}, "a is -inf, which JSON cannot say"),
        ({"a": {"b": {1}}}, "a['b'] is set, which JSON cannot say"),
        ({"a": b"x"}, "a is bytes, which JSON cannot say"),
        ({"a": "x\ud800"}, "a holds text with a lone surrogate"),
        ({"x\udfff": 1}, "'x\\udfff' holds text with a lone surrogate"),
        ({"a": {"\ud800": 1}}, "a holds text with a lone surrogate"),
        ({"a": 10**5000}, "a cannot be written"),
        ({"a": nested(DEPTH_MAX + 1)}, f"is nested more than {DEPTH_MAX} deep"),
    ],
)
def test_what_json_cannot_say_is_named_with_its_place(document, cause):
    with pytest.raises(NotPlain) as raised:
        spelt(document)

    assert cause in raised.value.cause and raised.value.fix
    assert isinstance(raised.value, TypeError) and isinstance(raised.value, BadInput)


def test_a_document_that_holds_itself_ends():
    document = {}
    document["a"] = document

    with pytest.raises(NotPlain, match="deep"):
        spelt(document)


def test_a_value_fits_to_the_last_byte():
    spelt({"a": "é" * (VALUE_BYTES_MAX // 2 - 1)})

    with pytest.raises(BadInput, match=f"field 'a' has {VALUE_BYTES_MAX + 2} bytes"):
        spelt({"a": "é" * (VALUE_BYTES_MAX // 2)})


def test_a_name_fits_to_the_last_byte():
    spelt({"n" * FIELD_BYTES_MAX: 1})

    with pytest.raises(BadInput, match="name is over 256 bytes"):
        spelt({"é" + "n" * (FIELD_BYTES_MAX - 1): 1})


@pytest.mark.parametrize("document", [None, [1], {"bark"}, "text", object()])
def test_no_mapping_is_no_document(document):
    with pytest.raises(BadInput, match="Document is not a Mapping"):
        spelt(document)


def test_kinds_that_stand_for_plain_ones_are_written_as_these():
    class Celsius(float):
        pass

    assert spelt({"a": (1, True, Celsius(2.5))}) == '{"a":[1,true,2.5]}'


@pytest.mark.parametrize("text", [None, 3, "\ud800"])
def test_a_name_is_text(text):
    with pytest.raises(NotPlain, match="a table's name"):
        check_text("a table's name", text, 10)


@pytest.mark.parametrize("text", ["", "x" * 11])
def test_a_name_has_its_length(text):
    with pytest.raises(BadInput, match=f"a table's name has {len(text)} bytes: use 1 to 10"):
        check_text("a table's name", text, 10)
