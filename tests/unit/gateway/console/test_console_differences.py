"""What differs between two texts, and between what a function was and will be."""

from __future__ import annotations

from gateway.console import differences
from gateway.console.differences import Line, lines


def numbered(count, **changed):
    return "".join(changed.get(f"l{n}", f"line {n}") + "\n" for n in range(count))


def test_alike_texts_do_not_differ():
    assert lines("a\nb\n", "a\nb") == []
    assert lines("", "") == []


def test_a_changed_line_goes_and_comes_with_lines_around_it():
    found = lines(numbered(20), numbered(20, l10="new"))

    assert found[0] == Line("…", "line 8")
    assert [each for each in found if each.sign in "+-"] == [Line("-", "line 10"), Line("+", "new")]
    assert sum(each.sign == " " for each in found) == 2 * differences.AROUND


def test_changes_far_apart_stand_in_parts():
    found = lines(numbered(100), numbered(100, l5="x", l90="y"))

    assert [each.text for each in found if each.sign == "…"] == ["line 3", "line 88"]


def test_a_new_file_comes_whole():
    assert lines("", "a\nb") == [Line("+", "a"), Line("+", "b")]


def test_long_texts_are_not_compared_and_long_differences_are_cut():
    half = differences.LINES_MAX // 2
    assert lines(numbered(half), numbered(half + 1)) is None
    found = lines("", numbered(half))
    assert len(found) == differences.SHOWN_MAX + 1
    assert found[-1] == Line("…", f"{half - differences.SHOWN_MAX} more lines")


def test_only_wishes_that_differ_are_told():
    before = {"signature": "f(a)", "timeout_s": 20.0, "memory_mb": 256, "requires": [], "labels": {}}
    after = before | {"timeout_s": 5.5, "requires": ["numpy"], "labels": {"site": "a"}}

    assert differences.wishes(before, before) == []
    assert differences.wishes(before, after) == [
        ("time limit (s)", "20", "5.5"),
        ("requires", "", "numpy"),
        ("labels", "", "site=a"),
    ]
    assert ("signature", "", "f(a)") in differences.wishes(None, before)
