"""Rows of the pages Functions, Join, State and Settings."""

from __future__ import annotations

import pytest

from gateway.console.pages import functions, join, settings, state

FUNCTION = {"name": "toys.add", "version": 3, "doc": "The sum.", "issued_at_ms": 5}
FIGURES = {
    "tasks": 40, "failed": 1, "quarantined": 1, "median_s": 0.012, "p95_s": 0.03,
    "places": {"pi-1": 1, "pi-2": 30, "pi-3": 5, "gateway": 4},
}  # fmt: skip


def test_a_function_nobody_ran_has_no_times():
    row = functions.row(FUNCTION, None)
    assert (row["runs"], row["failed"], row["median"], row["places"]) == (0, 0, None, None)


def test_a_function_is_told_with_its_failures_and_the_places_most_used():
    row = functions.row(FUNCTION, FIGURES)
    assert row["failed"] == {"badge": "2", "tone": "bad"}
    assert [each["text"] for each in row["places"]] == ["pi-2", "pi-3", "gateway", "and 1 more"]
    assert functions.row(FUNCTION, FIGURES | {"failed": 0, "quarantined": 0})["failed"] == 0


def test_shares_are_of_the_whole():
    bars = [each["share"]["bar"] for each in functions.shares(FIGURES["places"])]
    assert sum(bars) == pytest.approx(1) and bars == sorted(bars, reverse=True)
    assert functions.shares({}) == []


def test_figures_say_what_they_are_of():
    assert "all 1 task " in functions.reach({"tasks": 1, "all": True})
    assert "the newest 1\u202f000 tasks" in functions.reach({"tasks": 1000, "all": False})
    assert functions.reach({"tasks": 0, "all": True}).startswith("No task")


@pytest.mark.parametrize(
    ("compared", "word"),
    [
        ({"before": None, "new": True}, "new"),
        ({"before": {}, "new": False}, "unchanged"),
        ({"before": {"timeout_s": 1.0}, "after": {"timeout_s": 1.0}, "new": True}, "new code"),
        (
            {"before": {"timeout_s": 1.0}, "after": {"timeout_s": 2.0}, "new": True},
            "changed: callers may notice",
        ),
    ],
)
def test_what_deploying_does_to_a_function_has_a_word(compared, word):
    assert functions.change_of(compared)[0] == word


def test_a_parameter_says_how_it_is_given():
    plain = {"name": "a", "annotation": "int", "has_default": False, "kind": "either"}
    assert functions.parameter_row(plain)["given"] == "yes"
    assert functions.parameter_row(plain | {"has_default": True})["given"] == "no: it has a default"
    rest = functions.parameter_row(plain | {"annotation": "", "kind": "kwargs"})
    assert (rest["given"], rest["type"]["text"], rest["how"]) == ("no", "any", "any others, by name")


def test_a_name_from_the_mesh_cannot_leave_its_place_in_an_address():
    assert functions.at("a/../b?c#d") == "/console/functions/a%2F..%2Fb%3Fc%23d"
    assert state.table_at("a b/c", where="x > 1") == "/console/state/a%20b%2Fc?where=x+%3E+1"


def test_the_command_for_a_device_is_safe_to_paste():
    assert join.command("ew1.abc") == "edge-node join ew1.abc"
    assert join.command("ew1.abc", "pi-7") == "edge-node join ew1.abc --name pi-7"
    assert join.command("ew1; rm", "") == "edge-node join 'ew1; rm'"


def test_a_code_says_for_whom_it_is():
    invite = {
        "id": "k7q2mz", "name": "pi-7", "approval": "pending", "roles": ["store"], "replaces": True,
        "expires_at_ms": 9,
    }  # fmt: skip
    row = join.code_row(invite)
    assert [each["text"] for each in row["code"]] == ["k7q2mz", "for the board of pi-7"]
    assert (row["key"], row["do"]["act"]) == ("k7q2mz", "withdraw")
    plain = join.code_row(invite | {"name": "", "replaces": False, "approval": "auto"})
    assert (plain["code"][1]["text"], plain["in"]) == ("for any name", "at once")


def test_only_an_enrolment_is_an_arrival():
    assert join.is_arrival({"subject": "node", "what": "enrolled"})
    assert not join.is_arrival({"subject": "node", "what": "back"})
    assert not join.is_arrival({"subject": "task", "what": "enrolled"})


def test_a_table_counts_what_it_holds_and_shows_its_conflicts():
    told = {"name": "rooms", "kind": "documents", "count": 1, "key": "id", "writers": None, "conflicts": 2}
    row = state.table_row(told)
    assert (row["count"], row["writers"], row["conflicts"]["badge"]) == ("1 document", "every member", "2")
    counter = state.table_row(told | {"kind": "counter", "conflicts": 0, "writers": ["pi-1"]})
    assert (counter["count"], counter["writers"], counter["conflicts"]) == (None, "pi-1", 0)
    assert counter["name"]["href"].endswith("?kind=counter")


def test_a_twin_counts_what_is_to_come():
    said = [
        state.twin_row("pi-1", desired, reported)["differs"]["badge"]
        for desired, reported in (({}, {"a": 1}), ({"a": 1}, {"a": 1}), ({"a": 1, "b": 2}, {"a": 2}))
    ]
    assert said == ["nothing desired", "as desired", "2 settings to come"]


def test_nobody_removes_himself_and_tokens_that_are_over_say_so():
    user = {"name": "ann", "role": "admin", "since_at_ms": 1, "password_at_ms": 2}
    assert [each["act"] for each in settings.user_row(user, "ann")["do"]] == ["role"]
    assert [each["act"] for each in settings.user_row(user, "bob")["do"]] == ["role", "password", "remove"]

    token = {"id": "k", "name": "g", "role": "viewer", "scopes": None, "owner": "ann", "expires_at_ms": 10}
    assert settings.token_row(token, 9)["ends"] == [{"at": 10}]
    assert settings.token_row(token, 10)["ends"][0] == {"badge": "over", "tone": "bad"}
    assert settings.scopes_of(token | {"scopes": ["metrics:read"]}) == "metrics:read"
