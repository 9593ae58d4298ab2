"""`--where`: what a person types becomes the data that TinyDB's query becomes, or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinydb import where

from edge_node.commands.conditions import CHARS_MAX, parsed
from edge_node.store.queries import decoded, encoded
from security.errors import BadInput


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("setpoint_c > 25", where("setpoint_c") > 25),
        ("setpoint_c>=25.5", where("setpoint_c") >= 25.5),
        ("site = a and alarm.level < 2", (where("site") == "a") & (where("alarm").level < 2)),
        ("on == true and note != null", (where("on") == True) & (where("note") != None)),  # noqa: E711, E712
        ('room in ["r1", "r2"]', where("room").one_of(["r1", "r2"])),
        ("note exists", where("note").exists()),
        ('"my field" <= 1', where("my field") <= 1),
        ('note = "here and there"', where("note") == "here and there"),
        ("since > 2026-11-23", where("since") > "2026-11-23"),
        ("lease = 1h", where("lease") == "1h"),
        ("on = truely", where("on") == "truely"),
        ("in_use exists and android = 1", where("in_use").exists() & (where("android") == 1)),
        ("tags = [1, {\"a\": null}]", where("tags") == [1, {"a": None}]),
        ("  a  =  1  ", where("a") == 1),
    ],
)  # fmt: skip
def test_a_condition_says_what_tinydbs_query_says(text, query):
    assert parsed(text) == encoded(query)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at its end: expected the name of a field"),
        ("a", "at its end: expected an operator"),
        ("a >", "at its end: expected a value"),
        ("a > 1 and", "at 'and': expected `and`, or the end"),
        ("a > 1 or b > 2", "at 'or b > 2': expected `and`, or the end"),
        ("a > two words", "at 'words': expected `and`, or the end"),
        ("a in 5", "after `in` stands a list"),
        ("a. = 1", "expected the name of a field"),
        ("5 = a", "at '5 = a': expected the name of a field"),
        ('"a = 1', "expected the name of a field"),
        ('"\\q" = 1', "this is no name in quotes"),
        ('"\\ud800" = 1', "this is no name in quotes"),
        ('a = "b', "expected a value"),
        ("a = __import__('os')", "expected `and`, or the end"),
        ("a = NaN", "NaN is no JSON"),
        ("a = 1e999", "NaN and infinities are no JSON"),
        ("a = 99999999999999999999", "over 64 bits"),
        ("a = " + "[" * 5000, "the condition"),
        ("a in [" + "9" * 5000 + "]", "expected a value"),
        ("a = " + "x" * CHARS_MAX, "has more than"),
        ('a = "\\ud800"', "no UTF-8 spelling"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text, told):
    with pytest.raises(BadInput, match=r".") as caught:
        parsed(text)

    assert told in caught.value.cause and caught.value.fix


@given(st.text(max_size=60) | st.text('ab.="<>! andinexists[]{}0123\\', max_size=40))
def test_any_text_is_a_query_or_is_refused(text):
    try:
        data = parsed(text)
    except BadInput as refused:
        assert refused.fix
    else:
        decoded(data)
