"""Task: one task's page: its story over time, what was asked for, how it ended and with what."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nicegui import ui

from edge_node.wire.ids import is_task_id
from gateway.console import words
from gateway.console.caller import Refusal
from gateway.console.pages.tasks import SETTLED, cancel, tone_of
from gateway.console.pages.why import names_of, nearest, not_known, once, tell_story
from gateway.console.parts import El, badge, button, card, el, facts, hint, link, loading, moment
from gateway.console.story import Story
from gateway.console.table import Column, Grid
from gateway.console.view import View, heading, page, part, to

EVERY_S: Final = 1.0
STORY_EVERY: Final = 10
"""Looks at an open task after which its story is asked for again: its members are asked, too."""
VALUE_BYTES_MAX: Final = 64 * 1024
"""A larger value is not shown, but for download: it would go through the page's socket."""
HEX_BYTES: Final = 256
VALUE_CHARS_MAX: Final = 20_000
ATTEMPTS: Final = (
    Column("number", "Attempt"),
    Column("node", "Node"),
    Column("started", "Began"),
    Column("took", "Took", end=True),
    Column("ended", "Ended as"),
)


@page("/tasks/{task}", title="Task", section="tasks")
async def task_page(view: View, task: str) -> None:
    if not is_task_id(task):
        await tell_story(view, task)
        return
    await TaskPage(view, task).build()


class TaskPage:
    """The page of one task, kept up to date until the task has ended."""

    def __init__(self, view: View, task: str) -> None:
        self.view, self.task = view, task
        self._shown: dict[str, Any] | None = None
        self._looks = 0
        self._result: El | None = None

    async def build(self) -> None:
        view, path = self.view, f"/v1/tasks/{part(self.task)}"
        try:
            told = await view.api.get(path)
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            await self._elsewhere(refusal)
            return
        asked = told.get("asked") or {}
        function = str(told.get("function") or asked.get("function") or "")
        with heading(function or "Task", under=self.task):
            self._badge = badge(str(told["state"]), tone_of(str(told["state"])))
            copy = el("button", "Copy the id", "btn", type="button")
            copy.props["onclick"] = f"ew.copy('{self.task}', this)"
            self._cancel = button("Cancel the task", self._call_off, tone="danger")
            self._cancel.set_visibility(view.operates and not told["settled"])
        with card("What happened"):
            self._story = Story([function])
        with el("div", cls="cols"):
            with card("How it ended"):
                self._result = el("div", cls="stack")
                with self._result:
                    loading(3)
            with card("What was asked for"):
                self._asked(told, asked, function)
        with card("Attempts"):
            self._attempts = Grid("Attempts", ATTEMPTS, empty="No attempt has ended yet.")
        once(view, lambda: self._tell(told))
        if not told["settled"]:
            self._timer = view.every(EVERY_S, self._look)

    # ── what changes ──────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> None:
        told = await self.view.api.get(f"/v1/tasks/{part(self.task)}")
        self._looks += 1
        if told != self._shown or self._looks % STORY_EVERY == 0:
            await self._tell(told)
        if told["settled"]:
            self._timer.cancel()

    async def _tell(self, told: dict[str, Any]) -> None:
        changed, self._shown = told != self._shown, told
        state = str(told["state"])
        self._badge.text = state
        self._badge.attr(data_tone=tone_of(state))
        self._cancel.set_visibility(self.view.operates and not told["settled"])
        if changed:
            self._attempts.tell([attempt(n, each) for n, each in enumerate(_tries(told), 1)])
            await self._tell_result(told)
        self._story.tell(await self.view.api.get(f"/v1/tasks/{part(self.task)}/why"))

    async def _tell_result(self, told: Mapping[str, Any]) -> None:
        assert self._result is not None
        asked = told.get("asked") or {}
        full: dict[str, Any] = {}
        if told["settled"] and int(asked.get("output_bytes") or 0) <= VALUE_BYTES_MAX:
            full = await self.view.api.get(f"/v1/tasks/{part(self.task)}/result")
        self._result.clear()
        with self._result:
            if not told["settled"]:
                el("p", f"It has not ended yet: it is {told['state']}.")
                hint("This page follows it.")
                return
            facts(pair for pair in ending(told, asked) if pair[1] not in (None, "", "–"))
            if told.get("error"):
                _error(told["error"])
            if str(told["state"]) == "done":
                self._value(full, int(asked.get("output_bytes") or 0))
            if full.get("log"):
                with el("details"):
                    el("summary", "What it printed")
                    el("pre", str(full["log"])[:VALUE_CHARS_MAX])

    def _value(self, full: Mapping[str, Any], size: int) -> None:
        address = f"/v1/tasks/{part(self.task)}/result"
        if full:
            raw = raw_bytes(full.get("value"))
            if raw is None:
                title, text = "Value", json.dumps(full.get("value"), indent=2, ensure_ascii=False)
            else:
                more = f", the first {HEX_BYTES}" if len(raw) > HEX_BYTES else ""
                title, text = f"Value: {words.size(len(raw))} of bytes{more}", raw[:HEX_BYTES].hex(" ")
            el("h3", title, "small muted")
            el("pre", text[:VALUE_CHARS_MAX], "value", tabindex="0", aria_label="Value")
            if len(text) > VALUE_CHARS_MAX:
                hint(f"Its first {words.count(VALUE_CHARS_MAX, 'character')} of {words.count(len(text))}.")
        else:
            el("p", f"Its value has {words.size(size)}: download it to see it.")
        with el("div", cls="actions"):
            link("Download as JSON", address, cls="btn", download=f"{self.task}.json")
            raw = raw_bytes(full.get("value"))
            if raw is not None:
                name = f"{self.task}.bin"
                button(f"Download its {words.size(len(raw))}", lambda: ui.download.content(raw, name))

    async def _call_off(self) -> None:
        if await cancel(self.view, self.task):
            await self.view.attempt(self._look())

    # ── what stays ────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, told: Mapping[str, Any], asked: Mapping[str, Any], function: str) -> None:
        owner = str(told.get("origin") or asked.get("origin") or "")
        digest = str(asked.get("input_sha256") or "")
        labels = ", ".join(f"{name}={value}" for name, value in (asked.get("labels") or {}).items())
        accepted = told.get("accepted_at_ms") or asked.get("accepted_at_ms")
        given = (
            ("Function", lambda: link(function, to(f"/functions/{part(function)}"))),
            ("Its code", lambda: el("span", str(asked.get("code") or "–")[:16], "mono")),
            ("Owner", lambda: link(owner, to(f"/nodes/{part(owner)}"))),
            ("Accepted", lambda: moment(accepted, "full")),
            ("Where", WHERE.get(str(asked.get("where")), f"only {asked.get('where')}")),
            ("Labels", labels),
            ("Priority", asked.get("priority")),
            ("Of use within", words.duration(_s(asked.get("deadline_ms")))),
            ("Kept trying for", words.duration(_s(asked.get("ttl_ms")))),
            ("Arguments", words.size(asked.get("input_bytes"))),
            ("Their SHA-256", lambda: el("span", digest[:32] or "–", "mono", title=digest)),
        )
        facts(pair for pair in given if pair[1] not in (None, "", "–"))

    async def _elsewhere(self, refusal: Refusal) -> None:
        """Not accepted here: another member may tell its story."""
        view = self.view
        try:
            answer = await view.api.get(f"/v1/tasks/{part(self.task)}/why")
        except Refusal as unknown:
            if unknown.status != 404:
                raise
            heading("Task", under=self.task)
            not_known(unknown, nearest(unknown.fix))
            return
        owner = next((str(e["node"]) for e in answer["entries"] if e["what"] == "accepted"), "")
        function = next((str(e["details"].get("function", "")) for e in answer["entries"]
                         if e["what"] == "accepted"), "")  # fmt: skip
        heading(function or "Task", under=self.task)
        with el("p", cls="banner banner--notice", role="note"):
            el("span", "This gateway did not accept it. Its result is kept by its owner")
            if owner:
                el("span", ", ")
                link(owner, to(f"/nodes/{part(owner)}"))
            el("span", ": ask there for it. What follows is its story.")
        with card("What happened"):
            Story([function] if function else await _functions(view)).tell(answer)


async def _functions(view: View) -> list[str]:
    return [str(each["name"]) for each in await names_of(view, "functions")]


WHERE: Final = {"any": "anywhere", "local": "at its owner", "gateway": "on the gateway"}


def ending(told: Mapping[str, Any], asked: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """How it ended, as names and values."""
    place, state = str(told.get("place") or ""), str(told["state"])
    whole_s = max(0, told["settled_at_ms"] - told["accepted_at_ms"]) / 1000
    return [
        ("State", lambda: badge(state, tone_of(state))),
        ("Ran on", (lambda: link(place, to(f"/nodes/{part(place)}"))) if place else None),
        ("Settled", lambda: moment(told["settled_at_ms"], "full")),
        ("Took", words.duration(whole_s)),
        ("Of it running", words.duration(_s(asked.get("run_ms")))),
        ("CPU time", words.duration(_s(asked.get("cpu_ms")))),
        ("Reason", told.get("reason")),
    ]


def attempt(number: int, each: Mapping[str, Any]) -> dict[str, Any]:
    """One try, as the table shows it."""
    node, ended = str(each["node"]), str(each["ended_as"])
    began, end = each["started_at_ms"], each["ended_at_ms"]
    well = ended == "done" or ended in SETTLED
    return {
        "key": str(number),
        "number": number,
        "node": {"text": node, "href": to(f"/nodes/{part(node)}")},
        "started": {"at": began, "kind": "precise"} if began else None,
        "took": words.duration((end - began) / 1000) if began and end else None,
        "ended": {
            "badge": ended or "running",
            "tone": words.tone(ended) if well else "bad" if ended else "busy",
        },
    }


def raw_bytes(value: Any) -> bytes | None:
    """What a function returned as bytes; None: it returned something else."""
    if not (isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str)):
        return None
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError):
        return None


def _error(error: Mapping[str, Any]) -> None:
    with el("div", cls="banner banner--bad", role="note"):
        el("strong", str(error.get("type") or error.get("kind") or "error"))
        el("pre", str(error.get("message") or "")[:VALUE_CHARS_MAX], "bare")


def _tries(told: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Attempts so far: of an open task they are told with what was asked for."""
    found: Sequence[Mapping[str, Any]] = (
        told.get("attempts") or (told.get("asked") or {}).get("attempts") or ()
    )
    return found


def _s(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


PAGES = (task_page,)
