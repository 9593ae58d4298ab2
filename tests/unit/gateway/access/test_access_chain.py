"""The audit log's chain: whatever is done to its lines is found, and the first broken one is named."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.chain import LINE_BYTES_MAX, VALUE_BYTES_MAX, Head, Verdict, Verification, read, spell

texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
changes = st.lists(st.tuples(texts, texts, texts, values, values, texts), min_size=1, max_size=3)


def written(script, head: Head | None = None) -> tuple[list[bytes], Head]:
    lines, head = [], head or Head()
    for at_ms, each in enumerate(script):
        head, line = spell(head, at_ms, *each)
        lines.append(line.removesuffix(b"\n"))
    return lines, head


def plain(count: int) -> tuple[list[bytes], Head]:
    return written(
        [("ann", "node.revoke", f"pi-{n}", {"status": "active"}, None, "lost") for n in range(count)]
    )


def judged(lines, head: Head | None = None) -> Verdict:
    check = Verification(head)
    for line in lines:
        check.take(line)
    return check.verdict()


@given(changes)
def test_what_was_written_holds_and_reads_as_it_was_told(script):
    lines, head = written(script)

    assert judged(lines, head) == Verdict(len(script), None, "", head)
    for line, (who, what, target, before, after, cause) in zip(lines, script, strict=True):
        entry = read(line)
        assert entry is not None and b"\n" not in line
        assert (entry.who, entry.what, entry.target, entry.cause) == (who, what, target, cause)
        assert (entry.before, entry.after) == (before, after)


counts = st.integers(1, 12)


@given(counts, st.data())
def test_any_changed_byte_is_found_where_it_is(count, data):
    lines, head = plain(count)
    number = data.draw(st.integers(0, count - 1))
    at = data.draw(st.integers(0, len(lines[number]) - 1))
    flipped = lines[number][at] ^ data.draw(st.integers(1, 255))
    lines[number] = lines[number][:at] + bytes([flipped]) + lines[number][at + 1 :]

    verdict = judged(lines, head)

    assert (verdict.entries, verdict.broken_at) == (number, number + 1)
    assert str(number + 1) in verdict.reason


def test_any_removed_lines_are_found():
    lines, head = plain(6)
    for first, last in itertools.combinations_with_replacement(range(6), 2):
        verdict = judged(lines[:first] + lines[last + 1 :], head)

        assert (verdict.entries, verdict.broken_at) == (first, first + 1)
        assert "missing" in verdict.reason


def test_any_two_swapped_lines_are_found():
    for one, other in itertools.combinations(range(6), 2):
        lines, head = plain(6)
        lines[one], lines[other] = lines[other], lines[one]

        assert judged(lines, head).broken_at == one + 1


def test_any_line_put_in_is_found():
    """Even one that is right by itself: of another log, or of the same one."""
    lines, head = plain(5)
    others, _ = written([("eve", "x", "y", None, None, "")] * 5, Head(0, "f" * 64))
    for at, forged in itertools.product(range(6), others + lines):
        verdict = judged([*lines[:at], forged, *lines[at:]], head)

        same = at < 5 and forged == lines[at]
        assert verdict.broken_at == (at + 2 if same else at + 1), (
            "the second of two alike is the one too many"
        )


def test_a_cut_end_is_found_by_the_head_alone():
    lines, head = plain(6)
    for kept in range(6):
        assert judged(lines[:kept]).broken_at is None
        assert judged(lines[:kept], head).broken_at == kept + 1


def test_a_log_written_anew_does_not_fit_the_head_that_was_noted():
    _, head = plain(3)
    lines, _ = written([("mallory", "node.revoke", "pi-1", None, None, "")] * 5)

    verdict = judged(lines, head)

    assert verdict.broken_at == 3
    assert verdict.reason == "entry 3 is not the one that was noted: the log was written anew"


def test_a_log_may_be_ahead_of_the_head():
    lines, _ = plain(5)
    _, head = plain(3)

    assert judged(lines, head).broken_at is None
    assert judged([], Head()).broken_at is None


def test_each_break_is_named():
    lines, head = plain(5)

    assert judged(lines[:3], head).reason == "the last 2 entries are missing: there were 5"
    assert judged(lines[:4], head).reason == "the last entry is missing: there were 5"
    assert judged([lines[0], *lines[2:]], head).reason == "entry 2 is missing"
    assert judged([lines[0], *lines[3:]], head).reason == "entries 2 to 3 are missing"
    assert judged([lines[0], lines[0], *lines[1:]], head).reason == "entry 1 stands where entry 2 belongs"
    assert judged([*lines[:2], lines[2].replace(b"pi-2", b"pi-9"), *lines[3:]], head).reason == (
        "entry 3 was changed: it does not fit its hash"
    )
    assert judged([b"hello", *lines], head).reason == "line 1 is no entry"


@pytest.mark.parametrize(
    "value", ["x" * (VALUE_BYTES_MAX + 1), {"a": ["é" * 5000]}, object(), "\ud800", {1j: 2}, b"\xff" * 9000]
)
def test_a_value_that_is_too_long_or_no_json_is_named_and_not_copied(value):
    head, line = spell(Head(), 1, "ann", "x", "y", value, None, "")

    entry = read(line[:-1])
    assert entry is not None and len(line) < 600
    assert "omitted_bytes" in entry.before or "unspeakable" in entry.before
    assert judged([line[:-1]], head).broken_at is None


def test_the_longest_line_is_bounded_and_one_line():
    hostile = "\x00\n\u2028\ud800" * 500

    head, line = spell(Head(), 1, hostile, hostile, hostile, "\x01" * 600, "\x01" * 600, hostile)

    assert line.count(b"\n") == 1 and len(line) <= LINE_BYTES_MAX
    assert judged([line[:-1]], head).broken_at is None
    assert json.loads(line)["n"] == 1
