"""What is asserted of a run: told wrong at once, and held only by what was measured."""

from __future__ import annotations

import math

import pytest

from device_sim.report.assertions import Assertion, judge, parse
from device_sim.report.glossary import FIGURES
from security.errors import BadInput


@pytest.mark.parametrize(
    ("text", "assertion"),
    [
        ("p99_ms < 200", Assertion("p99_ms", "<", 200)),
        ("lost==0", Assertion("lost", "==", 0)),
        ("  completed>=1e3 ", Assertion("completed", ">=", 1000)),
        ("mean_ms<=0.5", Assertion("mean_ms", "<=", 0.5)),
        ("faults != 0", Assertion("faults", "!=", 0)),
        ("open > -1", Assertion("open", ">", -1)),
    ],
)
def test_an_assertion_is_a_name_a_sign_and_a_number(text, assertion):
    assert parse(text) == assertion
    assert parse(str(assertion)) == assertion


@pytest.mark.parametrize(
    "text",
    ["", "p99_ms", "p99_ms <", "< 200", "p99_ms = 200", "p99_ms < 200 ms", "200 > p99_ms", "a" * 10_000],
)
def test_another_shape_is_told_in_one_line(text):
    with pytest.raises(BadInput, match="cannot read the assertion") as caught:
        parse(text)

    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("number", ["fast", "nan", "inf", "1e999", "0x10"])
def test_a_bound_is_a_finite_number(number):
    with pytest.raises(BadInput, match="is no number"):
        parse(f"p99_ms < {number}")


def test_an_unknown_figure_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(BadInput, match="no figure is called 'p98_ms'") as caught:
        parse("p98_ms < 200")

    assert "did you mean p9" in caught.value.fix
    assert all(name in caught.value.fix for name in FIGURES)


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ("<", "passed failed failed"),
        ("<=", "passed passed failed"),
        (">", "failed failed passed"),
        (">=", "failed passed passed"),
        ("==", "failed passed failed"),
        ("!=", "passed failed passed"),
    ],
)
def test_signs_mean_what_they_mean(sign, words):
    found = [Assertion("lost", sign, 2).check({"lost": value}).word for value in (1, 2, 3)]

    assert " ".join(found) == words


@pytest.mark.parametrize("figures", [{}, {"p99_ms": math.nan}])
@pytest.mark.parametrize("sign", ["<", "!="])
def test_what_was_not_measured_holds_nothing(figures, sign):
    check = Assertion("p99_ms", sign, 200).check(figures)

    assert (check.word, check.detail) == ("failed", "nothing to measure")


def test_a_check_says_what_was_found():
    (check,) = judge([parse("p99_ms < 200")], {"p99_ms": 251.25})

    assert (check.name, check.word, check.detail) == ("p99_ms < 200", "failed", "found 251.25")
