"""What the pages of nodes say: states in one word, who is away and why, sessions, functions, twins."""

from __future__ import annotations

import pytest

from gateway.console.pages.node import (
    ended,
    functions_of,
    line_of,
    line_told,
    neighbours_of,
    settings_of,
    under_of,
    vitals_of,
)  # fmt: skip
from gateway.console.pages.nodes import row, standing

PI = {
    "id": "pi-1", "status": "active", "up": True, "roles": ["node"], "labels": {"site": "a", "rack": "r2"},
    "workers": 4, "load": "0.2 s",
    "last_seen_at_ms": 1_790_000_000_000, "restarts": 0, "work": "work", "reason": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "up"), ({"work": "pause"}, "paused"), ({"work": "drain"}, "draining"), ({"up": False}, "down"),
        ({"up": False, "last_seen_at_ms": 0}, "never seen"), ({"status": "revoked", "up": False}, "revoked"),
        ({"status": "pending", "up": False}, "pending"),
    ],
)  # fmt: skip
def test_a_node_stands_in_one_word(given, word):
    assert standing(PI | given) == word


def test_a_row_tells_load_of_those_that_are_there_and_reasons_of_those_that_are_not():
    there = row(PI)
    away = row(PI | {"up": False, "reason": "silent", "restarts": 3})

    assert (there["load"], there["reason"], there["labels"]) == ("0.2 s", "", "rack=r2 site=a")
    assert (away["load"], away["workers"], away["reason"], away["restarts"]) == (None, None, "silent", 3)
    assert there["name"] == {"text": "pi-1", "href": "/console/nodes/pi-1"}


def test_who_waits_to_be_let_in_leads_to_where_that_is_decided():
    waiting = {
        "id": "pi-7", "status": "pending", "up": False, "roles": [], "labels": {}, "address": "192.0.2.7",
        "last_seen_at_ms": 5,
    }  # fmt: skip

    assert row(waiting)["name"]["href"] == "/console/join"
    assert row(waiting)["reason"] == "from 192.0.2.7"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ""),
        ({"up": False, "reason": "silent for 5 s"}, "pi-1 is down: silent for 5 s."),
        (
            {"status": "revoked", "up": False, "by": "ann", "reason": "stolen"},
            "pi-1 was revoked by ann: stolen.",
        ),
        ({"status": "left", "up": False}, "pi-1 has left the mesh."),
    ],
)
def test_why_a_node_is_away_is_one_sentence(given, said):
    assert ended(PI | given) == said


def test_vitals_give_times_as_times():
    away = dict(vitals_of(PI | {"up": False, "speed": 0.5, "software": "0.1.0"}))

    assert away["Last heard"] == 1_790_000_000_000
    assert away["Speed"] == "0.5 of the reference board"
    assert "Last heard" not in dict(vitals_of(PI))
    assert under_of(PI) == "node · rack=r2 site=a"


def test_neighbours_are_the_nearest_first_and_those_whose_session_ended_last():
    def tie(name, **given):
        return {
            "a": "gateway",
            "b": name,
            "up": True,
            "rtt_ms": 9.0,
            "in_bytes_s": 1024,
            "out_bytes_s": 0,
            **given,
        }

    links = [
        tie("far", rtt_ms=80.0),
        tie("gone", up=False, rtt_ms=None),
        tie("near", rtt_ms=2.0),
        tie("new", rtt_ms=None),
    ]

    assert [each["key"] for each in neighbours_of("gateway", links)] == ["near", "far", "new", "gone"]
    assert [each["key"] for each in neighbours_of("near", [links[2]])] == ["gateway"]
    assert neighbours_of("near", [links[2]])[0]["traffic"] == "1.0 KiB/s"


def test_functions_are_those_that_ran_there():
    cell = {
        "function": "toys.add",
        "place": "pi-1",
        "runs": 3,
        "share": 0.75,
        "run_ms": None,
        "learned_ms": 12.0,
    }

    (found,) = functions_of("pi-1", [cell, cell | {"place": "pi-2"}])

    assert (found["runs"], found["took"], found["share"]["bar"]) == ("3", "12 ms", 0.75)


def test_a_twin_tells_what_differs_first():
    both = {"desired": {"fan": "low", "a": 1}, "reported": {"a": 1, "up_s": 4}, "delta": {"fan": "low"}}

    assert [(each["name"], each["is"]["badge"]) for each in settings_of(both)] == [
        ("fan", "differs"), ("a", "as desired"), ("up_s", "reported"),
    ]  # fmt: skip


def test_the_line_is_told_in_words_and_has_gaps_where_the_node_was_away():
    trail = [(1000, 0.0), (3000, None), (5000, 1.5)]

    assert line_of(trail)["series"][0]["data"] == [[1000, 0.0], [3000, None], [5000, 1.5]]
    assert line_of(trail)["xAxis"]["max"] - line_of(trail)["xAxis"]["min"] == 300_000
    assert line_told(trail) == "Over the last 4.0 s, as long as somebody looked: 1.5 s now, at most 1.5 s."
    assert "from the moment" in line_told(trail[:1])
