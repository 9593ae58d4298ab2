"""What a person gives a function becomes a value, or one line that names the file and its line."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.commands.inputs import (
    number_or_text,
    parse_csv,
    parse_duration,
    parse_labels,
    parse_named,
    read_input,
)
from security.errors import BadInput


def test_csv_rows_become_dicts_with_numbers_parsed():
    text = "time,t,n,note\n2015-02-04T17:51:00,23.18,7,ok\n2015-02-04T18:07:00,23.0,,\n"

    assert parse_csv(text, "x") == [
        {"time": "2015-02-04T17:51:00", "t": 23.18, "n": 7, "note": "ok"},
        {"time": "2015-02-04T18:07:00", "t": 23.0, "n": None, "note": None},
    ]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12", 12),
        ("-3", -3),
        (" 4 ", 4),
        ("0", 0),
        ("1.50", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("2e-3", 0.002),
        ("-1.5E3", -1500.0),
        ("", None),
        ("  ", None),
        ("007", "007"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1,5", "1,5"),
        ("inf", "inf"),
        ("e5", "e5"),
        ("true", "true"),
        ("12345678901234567890", "12345678901234567890"),
        (" padded ", " padded "),
    ],
)
def test_a_cell_becomes_a_number_only_if_it_is_written_as_one(cell, value):
    got = number_or_text(cell)

    assert (got, type(got)) == (value, type(value))


def test_nan_is_a_number():
    assert math.isnan(number_or_text("NaN"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_back(number):
    assert number_or_text(repr(number)) == number


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter):
    text = f"\ufeffa{delimiter}b\r\n1{delimiter}2\r\n"

    assert parse_csv(text, "x") == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "x.csv is empty"),
        ("a,b\n1\n", "x.csv:2: 1 cells under 2 columns"),
        ("a,b\n\n1,2,3\n", "x.csv:3: 3 cells under 2 columns"),
        ("a,a\n1,2\n", "x.csv:1: two columns are called 'a'"),
        ("a,\n1,2\n", "x.csv:1: a column has no name"),
        ('a,b\n1,"2\n', "x.csv:2: unexpected end of data"),
    ],
)
def test_a_bad_csv_is_told_with_its_line(text, told):
    with pytest.raises(BadInput) as caught:
        parse_csv(text, "x.csv")
    assert str(caught.value).startswith(told)


def test_the_projects_own_series_are_read():
    file = next((each for each in Path("examples").rglob("room_climate.csv")), None)
    if file is None:
        pytest.skip("examples/data is not there yet")

    rows = read_input(str(file))

    assert rows[0]["temperature_c"] == 23.18
    assert all(type(row["time"]) is str for row in rows)


def test_json_is_any_value(tmp_path):
    (tmp_path / "x.json").write_text('[1, {"a": null}]')

    assert read_input(str(tmp_path / "x.json")) == [1, {"a": None}]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.json", b"[1,\n2", "x.json:2: not JSON"),
        ("x.json", b"[" * 100_000, "x.json: nested too deeply"),
        ("x.json", b"\n\xff", "x.json:2: not UTF-8"),
        ("x.json", b"[" + b"1" * 5000 + b"]", "x.json: a number of more than 4300 digits"),
        ("x.txt", b"1", "x.txt is neither .csv nor .json"),
    ],
)
def test_a_bad_file_is_told_with_its_name(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadInput) as caught:
        read_input(str(tmp_path / name))
    assert told in str(caught.value)


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*No such file"):
        read_input(str(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('[{"a": 1}]', None, [{"a": 1}]),
        ("7", None, 7),
        ("a,b\n1,2\n", None, [{"a": 1, "b": 2}]),
        ("7\n8\n", "csv", [{"7": 8}]),
    ],
)
def test_stdin_is_json_or_csv(monkeypatch, text, kind, value):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    assert read_input("-", kind) == value


@pytest.mark.parametrize(("text", "kind"), [("[1,", None), ("a,b\n1,2\n", "json"), ("", None)])
def test_stdin_that_meant_to_be_json_is_told_so(monkeypatch, text, kind):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    with pytest.raises(BadInput, match="stdin:1: not JSON"):
        read_input("-", kind)


def test_named_arguments_are_json_or_text():
    assert parse_named(["n=3", "site=a", 'rows=[{"a": 1}]', "on=true"]) == {
        "n": 3,
        "site": "a",
        "rows": [{"a": 1}],
        "on": True,
    }
    for bad in (["n"], ["1x=2"], ["n=1", "n=2"], ["n=" + "1" * 5000]):
        with pytest.raises(BadInput):
            parse_named(bad)


def test_labels_are_pairs():
    assert parse_labels(["site=a", "rack=b=c"]) == {"site": "a", "rack": "b=c"}
    for bad in (["site"], ["site="], ["=a"], ["a=1", "a=2"]):
        with pytest.raises(BadInput):
            parse_labels(bad)


def test_durations_have_units():
    assert [parse_duration(each) for each in ("90", "1.5", "90s", "15m", "1h", "2d")] == [
        90,
        1.5,
        90,
        900,
        3600,
        172800,
    ]
    for bad in ("", "1w", "-1", "h", "1h30m", "1e3"):
        with pytest.raises(BadInput, match="not a duration"):
            parse_duration(bad)
