"""Join: a code for a new device, shown once; who waits to be let in; and who has just arrived."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from gateway.console.caller import Refusal
from gateway.console.forms import Choice, Tick, qr, secret
from gateway.console.parts import El, Entry, badge, button, card, confirmed, el, facts, hint, link, moment
from gateway.console.table import Column, Grid
from gateway.console.view import View, heading, page, part, to, why
from security.enrolment import checked_name
from security.errors import BadInput

EVERY_S: Final = 1.0
"""Somebody stands beside a device and looks here."""
ARRIVALS_MAX: Final = 8
EVENTS: Final = 200
TIMES: Final = {"600": "10 minutes", "3600": "1 hour", "86400": "1 day", "604800": "1 week"}
APPROVALS: Final = {"auto": "At once, with the code", "pending": "When somebody has compared the words"}
OPERATORS: Final = "To let devices in, you need the role operator: ask an administrator."


@page("/join", title="Join", section="join")
async def join(view: View) -> None:
    heading("Join", under="Let a device into the mesh, by a code that is good once")
    arrivals = Arrivals(view)
    await arrivals.begin()
    waiting = Waiting(view)
    shown = Shown()
    with el("div", cls="cols"):
        with card("Invite a device"):
            if view.operates:
                _form(view, shown)
            else:
                hint(OPERATORS)
            _steps()
        codes = Codes(view, shown)

    async def look() -> None:
        await waiting.look()
        await codes.look()
        await arrivals.look()

    await look()
    view.every(EVERY_S, look)


# ── a code ────────────────────────────────────────────────────────────────────────────────────────────


def _form(view: View, shown: Shown) -> None:
    with el("div", cls="form"):
        name = Entry(
            "Name (optional)",
            hint="The only name that may join with it. Empty: the device says its own.",
            maxlength=32, placeholder="pi-7", autocapitalize="none", autocomplete="off", spellcheck="false",
        )  # fmt: skip
        ttl = Entry("Good for", "3600", options=TIMES)
    approval = Choice("It is let in", APPROVALS, "auto")
    with el("fieldset", cls="choice"):
        el("legend", "Roles", "entry-label")
        with el("div", cls="stack"):
            reason = "" if view.administers else "It signs code: only an administrator gives this role"
            deployer = Tick("deployer: it may publish code for all members", disabled=reason)
            store = Tick("store: its copy of the tables is believed, as the gateway's is")
    fields = {"name": name, "ttl_s": ttl, "": name}

    async def make() -> None:
        try:
            if name.value.strip():
                checked_name(name.value.strip())
        except BadInput as error:
            name.error = str(error)
            return
        roles = [word for word, tick in (("deployer", deployer), ("store", store)) if tick.value]
        asked = {
            "ttl_s": int(ttl.value), "approval": approval.value, "name": name.value.strip(), "roles": roles,
        }  # fmt: skip
        went, made = await view.attempt(view.api.post("/v1/invites", asked), fields=fields)
        if went and made is not None:
            shown.show(made, asked)

    with el("div", cls="actions"):
        button("Create a code", make, tone="primary")


def command(code: str, name: str = "") -> str:
    """What is typed on the device."""
    return shlex.join(["edge-node", "join", code, *(["--name", name] if name else [])])


class Shown:
    """Room for the code that was made last, until its reader has it or withdraws it."""

    def __init__(self) -> None:
        self._room = el("div")
        self._id = ""

    def show(self, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        self._room.clear()
        self._id = made["id"]
        with self._room:
            _code(self._room, made, asked)

    def over(self, code: str) -> None:
        """Nobody joins with that one any more."""
        if code == self._id:
            self._room.clear()


def _code(room: El, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    with card("The code, shown this once", cls="once") as box:
        box.attr(tabindex="-1")
        with el("div", cls="once-body"):
            with el("div", cls="stack"):
                secret("Join code", made["code"])
                secret("Type this on the device", command(made["code"], asked["name"]))
                secret("Then start it, now and after each boot", "edge-node up")
                facts(
                    (
                        ("Its id", made["id"]),
                        ("Good until", lambda: moment(made["expires_at_ms"], "full")),
                        ("Let in", APPROVALS[asked["approval"]].lower()),
                        ("For", asked["name"] or "any name that is free"),
                        ("Roles", ", ".join(asked["roles"]) or "none"),
                        ("It asks at", ", ".join(made["addresses"])),
                    )
                )
            qr(made["code"], "The join code, for a camera")
        with el("div", cls="actions"):
            button("I have it: hide the code", lambda: _clear(room))
            hint("It cannot be shown again: it is not kept here.")


def _clear(room: El) -> None:
    room.clear()


def _steps() -> None:
    with el("details", cls="more"):
        el("summary", "How a device joins")
        with el("ol", cls="steps"):
            el("li", "Install edgeweave on it, as in the README.")
            el("li", "Create a code here and type the command on it; a camera can read the code.")
            el("li", "If it has to be approved, compare the six words that both sides show: they are alike "
                     "only if nobody stands between them.")  # fmt: skip
            el("li", "Start its daemon. It appears above by itself.")


# ── who waits ─────────────────────────────────────────────────────────────────────────────────────────


class Waiting:
    """Devices that wait to be let in, with the words to compare."""

    def __init__(self, view: View) -> None:
        self._view = view
        columns = [
            Column("name", "Device"), Column("words", "Its words"), Column("from", "From"),
            Column("asked", "Asked"), Column("until", "Waits until", hide_narrow=True),
        ]  # fmt: skip
        if view.operates:
            columns.append(Column("do", "Decide"))
        with card("Waiting to be let in"):
            hint("Let one in only if the device shows the same six words.")
            self._grid = Grid(
                "Waiting to be let in", columns, empty="Nobody waits.",
                on_act=self._decided if view.operates else None,
            )  # fmt: skip
        self._words: dict[str, str] = {}

    async def look(self) -> None:
        """Raises: Refusal."""
        pending = (await self._view.api.get("/v1/pending"))["pending"]
        self._words = {each["id"]: each["fingerprint"] for each in pending}
        self._grid.tell([waiting_row(each) for each in pending])

    async def _decided(self, name: str, act: str) -> None:
        if act == "approve":
            await self._approve(name)
        elif act == "deny":
            await self._deny(name)

    async def _approve(self, name: str) -> None:
        words = self._words.get(name, "")
        went, _ = await confirmed(
            f"Let {name} in?",
            f"Does the device show exactly these words: {words}? If not, somebody stands between.",
            do="They are the same: let it in",
            name=name,
        )
        if went and self._words.get(name) == words:
            await self._view.attempt(
                self._view.api.post(f"/v1/pending/{part(name)}/approve"), done=f"{name} is let in"
            )
            await self._view.attempt(self.look())
        elif went:
            self._view.note(f"Another device asks as {name} by now: look at its words first", "bad")

    async def _deny(self, name: str) -> None:
        went, _ = await confirmed(
            f"Turn {name} away?", "Its code is worth nothing from now on.", do="Turn away", name=name
        )
        if went:
            await self._view.attempt(
                self._view.api.post(f"/v1/pending/{part(name)}/deny"), done=f"{name} was turned away"
            )
            await self._view.attempt(self.look())


def waiting_row(pending: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": pending["id"],
        "name": pending["id"],
        "words": {"text": pending["fingerprint"], "cls": "words"},
        "from": pending["address"],
        "asked": {"at": pending.get("asked_at_ms")},
        "until": {"at": pending.get("expires_at_ms"), "kind": "clock"},
        "do": [
            {"act": "approve", "text": "Let in", "tone": "primary"},
            {"act": "deny", "text": "Turn away", "tone": "danger"},
        ],
    }


class Codes:
    """Codes that nobody has used yet."""

    def __init__(self, view: View, shown: Shown) -> None:
        self._view = view
        self._shown = shown
        columns = [
            Column("code", "Code"),
            Column("in", "Let in"),
            Column("roles", "Roles"),
            Column("until", "Ends"),
        ]
        if view.operates:
            columns.append(Column("do", "Take back"))
        with card("Open codes"):
            self._grid = Grid(
                "Open codes", columns, empty="No code is open.",
                on_act=self._decided if view.operates else None,
            )  # fmt: skip
        self._whose: dict[str, str] = {}

    async def look(self) -> None:
        """Raises: Refusal."""
        invites = (await self._view.api.get("/v1/invites"))["invites"]
        self._whose = {each["id"]: whose(each) for each in invites}
        self._grid.tell([code_row(each) for each in invites])

    async def _decided(self, code: str, act: str) -> None:
        if act != "withdraw":
            return
        went, _ = await confirmed(
            f"Withdraw the code {code}?",
            f"It is for {self._whose.get(code, 'a device')}. Nobody joins with it any more, and whoever "
            "tries is told so. A new one is made in a moment.",
            do="Withdraw",
        )
        if went:
            path = f"/v1/invites/{part(code)}"
            await self._view.attempt(self._view.api.delete(path), done=f"The code {code} is withdrawn")
            looked, _ = await self._view.attempt(self.look())
            if looked and code not in self._whose:  # also if somebody else was quicker
                self._shown.over(code)


def whose(invite: Mapping[str, Any]) -> str:
    """For whom a code is."""
    name = invite["name"] or "any name"
    return f"the board of {name}" if invite["replaces"] else name


def code_row(invite: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": invite["id"],
        "code": [
            {"text": invite["id"], "cls": "line mono"},
            {"text": f"for {whose(invite)}", "cls": "line"},
        ],
        "in": "at once" if invite["approval"] == "auto" else "after approval",
        "roles": ", ".join(invite["roles"]),
        "until": {"at": invite["expires_at_ms"]},
        "do": {"act": "withdraw", "text": "Withdraw", "tone": "danger"},
    }


# ── who has come ──────────────────────────────────────────────────────────────────────────────────────


class Arrivals:
    """Members that were enrolled since the page was opened, the newest first, until they are up."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._after = ""
        self._come: deque[tuple[str, int]] = deque(maxlen=ARRIVALS_MAX)
        self._up: set[str] = set()
        self._room = el("div", cls="stack", aria_live="polite")

    async def begin(self) -> None:
        """Raises: Refusal."""
        told = await self._view.api.get("/v1/events/page", limit=1)
        self._after = told["next"]

    async def look(self) -> None:
        """Raises: Refusal."""
        told = await self._view.api.get("/v1/events/page", after=self._after, limit=EVENTS)
        self._after = told["next"]
        come = [(each["id"], each["at_ms"]) for each in told["events"] if is_arrival(each)]
        for name, at_ms in come:
            self._come = deque((pair for pair in self._come if pair[0] != name), ARRIVALS_MAX)
            self._come.appendleft((name, at_ms))
            self._up.discard(name)
        fresh = False
        for name, _ in self._come:
            if name not in self._up and await self._is_up(name):
                self._up.add(name)
                fresh = True
        if come or fresh:
            self._show()

    async def _is_up(self, name: str) -> bool:
        try:
            node = await self._view.api.get(f"/v1/nodes/{part(name)}")
        except Refusal as refusal:
            if refusal.status == 404:  # it has left again
                return False
            raise
        return bool(node["up"])

    def _show(self) -> None:
        self._room.clear()
        with self._room:
            for name, at_ms in self._come:
                with el("p", cls="arrived"):
                    link(name, to(f"/nodes/{part(name)}"))
                    el("span", "has joined")
                    moment(at_ms)
                    badge(
                        "up" if name in self._up else "not started yet", "" if name in self._up else "notice"
                    )
                    link("why", why(name))


def is_arrival(event: Mapping[str, Any]) -> bool:
    return (event["subject"], event["what"]) == ("node", "enrolled")


PAGES = (join,)
