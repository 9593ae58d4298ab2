"""Actions: what may be done to a row, how it is confirmed, what the gateway is asked, what is said of it.

Each is a command of `edge-gateway` too, named here, so that the screen teaches the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.top.views import Row, clean

TAIL: Final = 6
"""Characters of a task's id that are typed: all 23 nobody would type."""


@dataclass(frozen=True, slots=True)
class Action:
    """*states*: of rows that it fits; empty: all. *param*: which parameter names the target."""

    key: str
    word: str
    view: str
    method: str
    param: str
    states: tuple[str, ...]
    consequence: str
    command: str
    done: str


_MEMBER: Final = ("up", "down", "unseen", "suspect", "paused", "draining")
ACTIONS: Final = (
    Action(
        "a",
        "approve",
        "nodes",
        "approve",
        "node",
        ("pending",),
        "It becomes a member. Compare the six words with the device's first.",
        "approve",
        "is a member now",
    ),
    Action(
        "d",
        "deny",
        "nodes",
        "deny",
        "node",
        ("pending",),
        "It is turned down, and its code is used up.",
        "deny",
        "is turned down",
    ),
    Action(
        "x",
        "revoke",
        "nodes",
        "revoke",
        "node",
        _MEMBER,
        "It is shut out for good; it can come back only with a new code and new keys.",
        "revoke",
        "is revoked",
    ),
    Action(
        "z",
        "pause",
        "nodes",
        "pause",
        "node",
        ("up", "suspect"),
        "It takes no new work until it is resumed.",
        "pause",
        "is paused",
    ),
    Action(
        "u",
        "resume",
        "nodes",
        "resume",
        "node",
        ("paused", "draining"),
        "It takes work again.",
        "resume",
        "takes work again",
    ),
    Action(
        "w",
        "drain",
        "nodes",
        "drain",
        "node",
        ("up", "suspect", "paused"),
        "It takes no new work, and hands back what waits there.",
        "drain",
        "is draining",
    ),
    Action(
        "c",
        "cancel",
        "tasks",
        "cancel",
        "task",
        ("open",),
        "It ends as cancelled, wherever it runs.",
        "cancel",
        "is cancelled",
    ),
    Action(
        "b",
        "roll back",
        "functions",
        "rollback",
        "name",
        (),
        "The name points to the code it had before, as a new signed version.",
        "functions rollback",
        "is rolled back",
    ),
)


def fitting(view: str, row: Row | None, methods: frozenset[str]) -> list[Action]:
    """What can be done to this row at a gateway with these methods; cancelling is no method, all can."""
    if row is None:
        return []
    state = row.fields.get("state", "").split()
    return [
        each
        for each in ACTIONS
        if each.view == view
        and (each.method == "cancel" or each.method in methods)
        and (not each.states or set(each.states) & set(state))
        and not ("gateway" in (row.facts.get("roles") or ()) or (row.key == "gateway" and view == "nodes"))
    ]


def to_type(action: Action, row: Row) -> str:
    """What confirms it: the name, or the end of a task's id."""
    return row.key[-TAIL:] if action.view == "tasks" else row.key


def asked(action: Action, row: Row) -> str:
    """What is to be typed, as a question."""
    if action.view == "tasks":
        return f"Type the last {TAIL} characters of its id, {to_type(action, row)}, then Enter:"
    return f"Type its name, {to_type(action, row)}, then Enter:"


def wants_reason(action: Action) -> bool:
    """Is it asked why? Of what cannot be taken back."""
    return action.method == "revoke"


def params_of(action: Action, row: Row, operator: str, reason: str = "") -> dict[str, Any]:
    params: dict[str, Any] = {action.param: row.key}
    return params | {"by": operator, "reason": reason} if wants_reason(action) else params


def said(action: Action, row: Row, answer: object) -> str:
    """One sentence of what was done."""
    told: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    if action.method == "cancel" and answer is False:
        return f"task {row.key} had been settled before"
    text = f"{row.key} {action.done}"
    if action.method == "revoke" and told.get("already"):
        text = f"{row.key} had been revoked before"
    elif action.method == "revoke" and not told.get("cut", True):
        text += "; the broker does not answer now and is told as soon as it does"
    return clean(text)
