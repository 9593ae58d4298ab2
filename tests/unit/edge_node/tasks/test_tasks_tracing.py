"""Trace context, by the examples and the rules of W3C Trace Context Level 1."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.tasks import tracing
from edge_node.wire import messages
from security.errors import BadInput

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"


def test_a_traceparent_is_kept_as_it_came():
    assert tracing.parsed(PARENT) == PARENT
    assert tracing.parsed(PARENT, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE") == (
        f"{PARENT} rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    )
    assert (tracing.trace_id(PARENT), tracing.parent_id(PARENT), tracing.is_sampled(PARENT)) == (
        ID,
        SPAN,
        True,
    )
    assert not tracing.is_sampled(tracing.parsed(f"00-{ID}-{SPAN}-00", "a=b"))


@pytest.mark.parametrize(
    "wrong",
    [
        "", "x", PARENT[:-1], PARENT + "0", PARENT + "-00", PARENT.upper(), PARENT.replace("-", "_"),
        f"ff-{ID}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"00-{ID}-{SPAN}-0x",
        f"cc-{ID}-{SPAN}-01.what", f" {PARENT}", f"{PARENT}\n", f"00-{ID}-{SPAN}-٠١", "0" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_none_and_its_tracestate_counts_for_nothing(wrong):
    assert tracing.parsed(wrong, "rojo=1") == ""
    with pytest.raises(BadInput, match="no traceparent"):
        tracing.checked(wrong, "rojo=1")


def test_of_a_later_version_the_known_fields_are_taken_and_of_the_flags_the_known_one():
    """Section 4.3: a higher version is read as far as 00 goes, and told as 00; other flags are zeroed."""
    assert tracing.parsed(f"cc-{ID}-{SPAN}-01-what-the-future-brings") == PARENT
    assert tracing.parsed(f"00-{ID}-{SPAN}-ff") == PARENT
    assert tracing.parsed(f"00-{ID}-{SPAN}-fe") == f"00-{ID}-{SPAN}-00"


def test_none_is_no_mistake():
    assert tracing.checked("") == ""


@pytest.mark.parametrize(
    "wrong", ["foo", "foo=", "=1", "foo=1,foo=2", "FOO=1", "foo=a=b", "foo=\x7f", "a" * 257 + "=1", "foo @=1"]
)
def test_a_malformed_tracestate_is_left_out_and_the_parent_kept(wrong):
    assert tracing.parsed(PARENT, wrong) == PARENT


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("foo=1 \t , \t bar=2", "foo=1,bar=2"),
        ("foo=1,,bar=2,", "foo=1,bar=2"),
        ("0foo@a=1,1a-_*/=2", "0foo@a=1"),
        ("fw529a3039@dt=FfD7PAAAAAI,a-b_c*d/e= !#$%&'()*+-./:;<>?@[]^_`{|}~", None),
    ],
)
def test_spaces_around_members_and_empty_members_are_allowed(given_, kept):
    found = tracing.parts(tracing.parsed(PARENT, given_))[1]

    if kept == "0foo@a=1":
        assert found == "", "a key that begins with a digit is a tenant's, with a system behind @"
    else:
        assert found == (kept if kept is not None else given_)


def test_a_long_tracestate_loses_large_members_first_and_then_the_last():
    """Section 3.3.1.5."""
    large = f"large={'x' * 200}"
    small = [f"k{n}={'y' * 30}" for n in range(14)]

    found = tracing.parts(tracing.parsed(PARENT, ",".join([small[0], large, *small[1:]])))[1]
    assert found == ",".join(small), "without the large one the others fit"

    many = [f"k{n}={'y' * 30}" for n in range(30)]
    found = tracing.parts(tracing.parsed(PARENT, ",".join(many)))[1]
    assert found == ",".join(many[:14]) and len(found) <= tracing.STATE_CHARS_MAX

    assert tracing.parsed(PARENT, ",".join(f"k{n}=1" for n in range(33))) == PARENT, "32 members at most"


def test_the_run_is_the_functions_caller_and_everybody_names_it_alike():
    whole = tracing.parsed(PARENT, "rojo=1")
    run = tracing.of_run(whole, "t1", 2)

    assert run == f"00-{ID}-{tracing.span_id('t1', 'run', 2)}-01 rojo=1"
    assert tracing.parsed(*tracing.parts(run)) == run
    assert tracing.of_run("junk from a peer\0", "t1", 2) == ""


def test_spans_of_tasks_attempts_and_runs_differ():
    spans = {
        tracing.span_id(task, what, n)
        for task in ("t1", "t2")
        for what in ("task", "attempt", "run")
        for n in (1, 2)
    }

    assert len(spans) == 12 and all(len(each) == 16 and int(each, 16) for each in spans)


@given(st.binary(min_size=24, max_size=24))
def test_a_trace_begun_anew_is_a_valid_one(chance):
    begun = tracing.begun(chance)

    assert tracing.parsed(begun) == begun and tracing.is_sampled(begun)


@given(st.text(max_size=80) | st.just(PARENT), st.text(alphabet=string.printable, max_size=700))
def test_whatever_comes_what_is_kept_is_valid_and_bounded(parent, state):
    kept = tracing.parsed(parent, state)

    assert tracing.parsed(*tracing.parts(kept)) == kept
    assert len(kept) <= tracing.TRACE_CHARS_MAX and kept.isascii() and kept.isprintable()


def test_the_wire_takes_the_longest():
    (limit,) = messages.Trace.__metadata__
    assert limit.max_length == tracing.TRACE_CHARS_MAX
