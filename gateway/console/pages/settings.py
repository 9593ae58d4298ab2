"""Settings: how the console looks, one's own password; for administrators users, tokens and the log level."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nicegui import ui

from gateway.access.roles import SCOPES, WORDS
from gateway.console import words
from gateway.console.caller import Refusal
from gateway.console.forms import Choice, Tick, secret
from gateway.console.parts import Dialogue, El, Entry, button, card, confirmed, el, facts, hint, link
from gateway.console.table import Column, Grid
from gateway.console.view import THEME, View, heading, page, part, to

Row = dict[str, Any]
EVERY_S: Final = 5.0
THEMES: Final = {"auto": "As the device says", "light": "Light", "dark": "Dark"}
ROLES: Final = {
    "viewer": "viewer: sees everything but accounts and the audit log",
    "operator": "operator: and gives work, lets nodes in and out, changes tables",
    "admin": "admin: and publishes code, manages accounts",
}
ENDS: Final = {
    "3600": "1 hour", "86400": "1 day", "604800": "1 week", "2592000": "30 days", "7776000": "90 days",
    "31536000": "1 year",
}  # fmt: skip
LEVELS: Final = {
    "debug": "debug: names every task", "info": "info", "warning": "warning", "error": "error",
    "default": "as it was set: back now",
}  # fmt: skip
WHILES: Final = {"600": "10 minutes", "3600": "1 hour", "28800": "8 hours", "86400": "1 day"}
LOGGERS: Final = {
    "": "everything", "edge_node": "edge_node: the node in the gateway", "edge_node.tasks": "edge_node.tasks",
    "edge_node.transport": "edge_node.transport", "gateway": "gateway", "gateway.broker": "gateway.broker",
}  # fmt: skip
LOOKS_QUIETLY: Final[dict[str, Any]] = {
    "autocomplete": "off",
    "autocapitalize": "none",
    "spellcheck": "false",
}
assert tuple(ROLES) == WORDS


@page("/settings", title="Settings", section="settings")
async def settings(view: View) -> None:
    heading("Settings", under=f"You are {view.me.name}, {view.me.role.word}")
    with el("div", cls="cols"):
        with card("Appearance"):
            chosen = view.request.cookies.get(THEME, "")
            Choice("Light or dark", THEMES, chosen if chosen in THEMES else "auto", _theme)
            hint("Kept in this browser.")
        with card("Your password"):
            _own_password(view)
    if view.administers:
        users, tokens = Users(view), Tokens(view)
        await users.look()
        await tokens.look()
        view.every(EVERY_S, users.look)
        view.every(EVERY_S, tokens.look)
    else:
        with card("Users and tokens"):
            el("p", "Accounts are managed by administrators.", "muted")
    await _log_level(view)
    with card("Elsewhere"):
        hint("What else can be set stands in settings.toml in the gateway's home, for its next start.")
        with el("p", cls="row"):
            link("Who changed what", to("/events/audit"))
            link("Join codes", to("/join"))


def _theme(choice: str) -> None:
    ui.run_javascript(f"ew.setTheme({json.dumps(choice)})")


# ── passwords ─────────────────────────────────────────────────────────────────────────────────────────


def _own_password(view: View) -> None:
    with el("form", cls="stack") as form:
        el("input", type="text", name="username", value=view.me.name, autocomplete="username", cls="sr",
           tabindex="-1", aria_hidden="true", readonly=True)  # fmt: skip
        old = Entry("Present password", kind="password", autocomplete="current-password")
        new, again = _new_password()
        el("p", "All your sessions end, also this one: log in with the new one.", "muted small")
        with el("div", cls="actions"):
            el("button", "Change the password", "btn", type="submit")

    async def change() -> None:
        if not _alike(new, again):
            return
        old.error = None
        path, asked = f"/v1/users/{part(view.me.name)}/password", {"old": old.value, "password": new.value}
        try:
            await view.api.put(path, asked)
        except Refusal as refusal:
            about = old if "old password" in refusal.detail else new
            view.tell(refusal, {"": about, "password": new, "old": old})
        else:
            view.log_in_again()

    _submitted(form, change)


def _submitted(form: El, do: Callable[[], Awaitable[None]]) -> None:
    form.on("submit", do, js_handler="(event) => { event.preventDefault(); emit(); }")


def _new_password() -> tuple[Entry, Entry]:
    new = Entry("New password", kind="password", autocomplete="new-password", hint="At least 12 characters")
    again = Entry("The new one again", kind="password", autocomplete="new-password")
    return new, again


def _alike(new: Entry, again: Entry) -> bool:
    new.error = again.error = None
    if not new.value:
        new.error = "A new password is missing"
    elif new.value != again.value:
        again.error = "That is not the same"
    else:
        return True
    return False


# ── users ─────────────────────────────────────────────────────────────────────────────────────────────


class Users:
    """Everybody with an account."""

    def __init__(self, view: View) -> None:
        self._view = view
        with card("Users"):
            with el("div", cls="actions"):
                button("Add a user", self._add, tone="primary")
            self._grid = Grid("Users", USERS, on_act=self._acted)

    async def look(self) -> None:
        """Raises: Refusal."""
        users = (await self._view.api.get("/v1/users"))["users"]
        self._grid.tell([user_row(each, self._view.me.name) for each in users])

    async def _acted(self, name: str, act: str) -> None:
        do = {"role": self._role, "password": self._password, "remove": self._remove}.get(act)
        if do is not None:
            await do(name)
            await self._view.attempt(self.look())

    async def _add(self) -> None:
        with Dialogue("Add a user") as box:
            name = Entry("Name", hint="1 to 32 of a-z 0-9 . _ -", maxlength=32, **LOOKS_QUIETLY)
            role = Entry("Role", "viewer", options=ROLES)
            new, again = _new_password()

            async def add() -> None:
                if not _alike(new, again):
                    return
                asked = {"name": name.value.strip(), "role": role.value, "password": new.value}
                await self._done(
                    box, self._view.api.post("/v1/users", asked), {"name": name, "password": new}
                )

            _ending(box, "Add", add)
        added = await box.asked()
        if added:
            self._view.note(f"{added['name']} may log in as {added['role']}")
            await self._view.attempt(self.look())

    async def _done(self, box: Dialogue, work: Awaitable[Any], fields: dict[str, Entry]) -> None:
        """A refusal that names no field is told at the one that it speaks of, else at the first."""
        for each in fields.values():
            each.error = None
        try:
            box.answer(await work or True)
        except Refusal as refusal:
            spoken = [entry for word, entry in fields.items() if word and word in refusal.detail]
            first = spoken[0] if spoken else next(iter(fields.values()))
            self._view.tell(refusal, {**fields, "": first})

    async def _role(self, name: str) -> None:
        went, told = await self._view.attempt(self._view.api.send("GET", f"/v1/users/{part(name)}"))
        if not went or told is None:
            return
        user, tag = told.json(), {"if-match": told.headers.get("etag", "*")}
        with Dialogue(f"Role of {name}") as box:
            role = Entry("Role", user["role"], options=ROLES)
            hint("It counts at once, also for the tokens that this user made.")

            async def change() -> None:
                work = self._view.api.patch(f"/v1/users/{part(name)}", {"role": role.value}, headers=tag)
                await self._done(box, work, {"role": role})

            _ending(box, "Change the role", change)
        changed = await box.asked()
        if changed:
            self._view.note(f"{name} is {changed['role']} now")

    async def _password(self, name: str) -> None:
        with Dialogue(f"New password for {name}") as box:
            new, again = _new_password()
            hint(f"All sessions of {name} end.")

            async def change() -> None:
                if _alike(new, again):
                    path = f"/v1/users/{part(name)}/password"
                    await self._done(
                        box, self._view.api.put(path, {"password": new.value}), {"password": new}
                    )

            _ending(box, "Change the password", change)
        if await box.asked():
            self._view.note(f"{name} has a new password")

    async def _remove(self, name: str) -> None:
        went, _ = await confirmed(
            f"Remove {name}?",
            "Sessions and tokens of this user end at once. What was done stays in the audit log.",
            do="Remove",
            name=name,
        )
        if went:
            await self._view.attempt(
                self._view.api.delete(f"/v1/users/{part(name)}"), done=f"{name} is no user any more"
            )


USERS: Final = (
    Column("name", "Name"),
    Column("role", "Role"),
    Column("since", "Since"),
    Column("password", "Password since", hide_narrow=True),
    Column("do", "Change"),
)


def user_row(user: Mapping[str, Any], me: str) -> Row:
    """Args: me: whose own password is changed above."""
    own = user["name"] == me
    acts = [{"act": "role", "text": "Role"}]
    if not own:
        acts += [
            {"act": "password", "text": "Password"},
            {"act": "remove", "text": "Remove", "tone": "danger"},
        ]
    name: list[Row] = [{"text": user["name"]}]
    return {
        "key": user["name"],
        "name": name + ([{"badge": "you", "tone": "busy"}] if own else []),
        "role": user["role"],
        "since": {"at": user["since_at_ms"]},
        "password": {"at": user["password_at_ms"]},
        "do": acts,
    }


def _ending(box: Dialogue, word: str, do: Callable[[], Awaitable[None]]) -> None:
    with el("div", cls="actions actions--end"):
        button("Cancel", lambda: box.answer(None), tone="quiet")
        button(word, do, tone="primary")


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────


class Tokens:
    """What programs log in with."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._names: dict[str, str] = {}
        with card("Tokens"):
            hint("For programs: sent as “Authorization: Bearer …” with each request of the HTTP API.")
            self._made = el("div", aria_live="polite")
            with el("div", cls="actions"):
                button("Make a token", self._add, tone="primary")
            self._grid = Grid("Tokens", TOKENS, empty="No tokens.", on_act=self._revoke)

    async def look(self) -> None:
        """Raises: Refusal."""
        tokens = (await self._view.api.get("/v1/tokens"))["tokens"]
        self._names = {each["id"]: each["name"] for each in tokens}
        now_ms = self._view.services.clock.wall_ms()
        self._grid.tell([token_row(each, now_ms) for each in tokens])

    async def _add(self) -> None:
        with Dialogue("Make a token", wide=True) as box:
            with el("div", cls="form"):
                name = Entry(
                    "Name", hint="Of the program: 1 to 32 of a-z 0-9 . _ -", maxlength=32, **LOOKS_QUIETLY
                )
                role = Entry("Role", "viewer", options=ROLES)
                ttl = Entry("Ends after", "7776000", options=ENDS)
            with el("fieldset", cls="choice"):
                el("legend", "Scopes", "entry-label")
                hint("What of the role it may use. None ticked: all that the role may.")
                with el("div", cls="scopes"):
                    ticks = {scope: Tick(scope) for scope in sorted(SCOPES)}

            async def add() -> None:
                scopes = [scope for scope, tick in ticks.items() if tick.value]
                asked = {
                    "name": name.value.strip(), "role": role.value, "ttl_s": int(ttl.value),
                    "scopes": scopes or None,
                }  # fmt: skip
                went, made = await self._view.attempt(
                    self._view.api.post("/v1/tokens", asked),
                    fields={"": name, "name": name, "role": role, "ttl_s": ttl},
                )
                if went:
                    box.answer(made)

            _ending(box, "Make the token", add)
        made = await box.asked()
        if made:
            self._show(made)
            await self._view.attempt(self.look())

    def _show(self, made: Row) -> None:
        self._made.clear()
        with self._made, card(f"Token {made['name']}, shown this once", cls="once", level=3):
            secret("Token", made["secret"])
            facts((("Role", made["role"]), ("Scopes", scopes_of(made))))
            with el("div", cls="actions"):
                button("I have it: hide the token", lambda: _clear(self._made))
                hint("It cannot be shown again: only its hash is kept.")

    async def _revoke(self, token: str, act: str) -> None:
        name = self._names.get(token, token)
        went, _ = await confirmed(
            f"Revoke {name}?", "Programs that use it are refused from now on.", do="Revoke", name=name
        )
        if went and act == "revoke":
            await self._view.attempt(
                self._view.api.delete(f"/v1/tokens/{part(token)}"), done=f"{name} is revoked"
            )
            await self._view.attempt(self.look())


TOKENS: Final = (
    Column("name", "Name"),
    Column("role", "Role"),
    Column("scopes", "Scopes"),
    Column("owner", "Made by"),
    Column("ends", "Ends"),
    Column("do", "Change"),
)


def token_row(token: Mapping[str, Any], now_ms: int) -> Row:
    over = token["expires_at_ms"] <= now_ms
    ends: list[Row] = [{"at": token["expires_at_ms"]}]
    return {
        "key": token["id"],
        "name": token["name"],
        "role": token["role"],
        "scopes": scopes_of(token),
        "owner": token["owner"],
        "ends": ([{"badge": "over", "tone": "bad"}] if over else []) + ends,
        "do": {"act": "revoke", "text": "Revoke", "tone": "danger"},
    }


def scopes_of(token: Mapping[str, Any]) -> str:
    return "all of its role" if token["scopes"] is None else ", ".join(token["scopes"])


def _clear(room: El) -> None:
    room.clear()


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────


async def _log_level(view: View) -> None:
    with card("Log level"):
        now = el("p", "")
        grid = Grid("Levels that differ now", LEVELS_NOW, empty="Nothing differs from the setting.")

        async def look() -> None:
            told = await view.api.get("/v1/log-level")
            now.text = f"The gateway writes {told['level']} and graver into its log."
            grid.tell([level_row(each) for each in told["changed"]])

        await look()
        view.every(EVERY_S, look)
        if not view.administers:
            hint("Administrators change it for a while.")
            return
        with el("div", cls="form"):
            logger = Entry("Of", "", options=LOGGERS)
            level = Entry("Level", "debug", options=LEVELS)
            lasts = Entry("For", "600", options=WHILES)

        async def change() -> None:
            asked = {"logger": logger.value, "level": level.value, "for_s": float(lasts.value)}
            went, _ = await view.attempt(
                view.api.put("/v1/log-level", asked),
                fields={"": logger, "logger": logger, "level": level, "for_s": lasts},
                done="The log level is changed",
            )
            if went:
                await view.attempt(look())

        with el("div", cls="actions"):
            button("Change the level", change)
            hint("What shall stay is the setting [log] level.")


LEVELS_NOW: Final = (Column("of", "Of"), Column("level", "Level"), Column("while", "Changed for"))


def level_row(changed: Mapping[str, Any]) -> Row:
    return {
        "key": changed["logger"],
        "of": changed["logger"] or "everything",
        "level": changed["level"],
        "while": words.duration(changed["for_s"]),
    }


PAGES = (settings,)
