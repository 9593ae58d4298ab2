"""Writers of replicated tables, who note every word, and the judge of what all members answer in the end.

    writers = [Writer(fleet, member) …]                      each writes its own cells, and those of everybody
    pictures = await alike(fleet, 60)                        what each member answers, once all are equal
    judge(notes, pictures, cuts) ─► Judgement                shares no code with the tables

What is held: an acknowledged write is there, or stands among the conflicts, or was replaced by a write whose
author can have seen it (P3). Nobody asks the product who had seen what: a write cannot have seen another one
that was asked for after its own answer, nor one from the other side of a cut that lasted from that asking
to its answer. Counters are what was acknowledged, give or take answers that were lost; a set's element is
there unless somebody removed it; all members answer the same (P4); nothing is there that nobody wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edge_node.client import Mesh
from edge_node.home import Home
from security.errors import BadInput, EdgeweaveError, Refused
from tests.faults.fault import Outcome
from tests.faults.fleet import Fleet, Member

OWN: Final = "own"
"""Documents of one lane of one writer each: nobody else writes them."""
SHARED: Final = "shared"
"""Documents that everybody writes."""
COUNTERS: Final = ("doors", "litres")
TAGS: Final = "tags"
FIELDS: Final = ("a", "b", "c")
SHARED_KEYS: Final = 6
LANES: Final = 3
"""Writes that one member has under way at a time."""
STALL_S: Final = 60.0
LOOK_S: Final = 0.15
VIOLATIONS_MAX: Final = 30

Cell = tuple[str, str, str]


@dataclass(slots=True)
class Note:
    """One write as its writer knew it. how: "ok", "refused", or "unknown": the answer was lost."""

    what: str  # "put", "count", "add", "discard"
    at: str
    cell: Cell
    value: Any  # of a put: its text, None: removed; of a count: the amount; of a set: the element
    asked_s: float
    told_s: float = float("inf")
    how: str = "unknown"


@dataclass(frozen=True, slots=True)
class Cut:
    """For that long, only those in *reach* could talk to each other."""

    reach: frozenset[str]
    begun_s: float
    ended_s: float

    def parts(self, one: str, other: str) -> bool:
        return one != other and not {one, other} <= self.reach


@dataclass
class Picture:
    """Everything that a member answers."""

    documents: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # table -> id -> document
    sets: dict[str, list[str]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    conflicts: dict[Cell, list[tuple[str | None, str, int]]] = field(default_factory=dict)


@dataclass
class Judgement:
    acknowledged: int
    violations: list[str]
    figures: dict[str, float | int | str]


class Writer:
    """One client of one member, through all of its lives."""

    def __init__(self, fleet: Fleet, member: Member) -> None:
        self.fleet = fleet
        self.member = member
        self.notes: list[Note] = []
        self.resting = asyncio.Event()  # cleared: it writes nothing for a while
        self.resting.set()
        self._mesh = Mesh(Home(member.home))
        self._busy = 0

    async def declared(self) -> None:
        for table in (OWN, SHARED):
            await self._mesh.call("state.declare", {"table": table, "key": "id"})

    async def steadily(self, every_s: float, stop: asyncio.Event) -> None:
        """Each lane a write every *every_s* on average, until *stop*."""
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                group.create_task(self._lane(lane, every_s, stop), name=f"{self.member.name}/{lane}")

    async def rest(self) -> None:
        """Nothing is under way, and nothing is begun, until ``resting`` is set again."""
        self.resting.clear()
        while self._busy:
            await asyncio.sleep(0.01)

    async def _lane(self, lane: int, every_s: float, stop: asyncio.Event) -> None:
        rng = random.Random(f"{self.fleet.context.seed}/{self.member.name}/{lane}")
        key, number, doc_id = f"{self.member.name}-{lane}", 0, 0
        while not stop.is_set():
            await self.resting.wait()
            if not (self.member.alive and self.member.ready):
                await asyncio.sleep(LOOK_S)
                continue
            self._busy += 1
            try:
                number += 1
                value = f"{self.member.name}.{lane}:{number}"
                match rng.choice(("own", "own", "shared", "shared", "count", "tag", "untag", "remove")):
                    case "own":
                        told = await self._put(OWN, key, "v", value)
                        doc_id = told["ids"][0] if told else doc_id
                    case "remove" if doc_id:
                        asked = Note("put", self.member.name, (OWN, key, "v"), None, time.monotonic())
                        told = await self._told(asked, "state.remove", {"table": OWN, "ids": [doc_id]})
                        if told and not told["ids"]:
                            asked.how = "refused"  # it was not there: nothing was written
                    case "count":
                        name, amount = rng.choice(COUNTERS), rng.choice((1, 2, 5, -1))
                        asked = Note("count", self.member.name, (name, "", ""), amount, time.monotonic())
                        await self._told(asked, "state.counter", {"name": name, "add": amount})
                    case "tag":
                        asked = Note("add", self.member.name, (TAGS, value, ""), value, time.monotonic())
                        await self._told(asked, "state.set", {"name": TAGS, "add": [value], "limit": 1})
                    case "untag":
                        await self._untag(rng)
                    case _:
                        where = f"s{rng.randrange(SHARED_KEYS)}"
                        await self._put(SHARED, where, rng.choice(FIELDS), value)
            finally:
                self._busy -= 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.expovariate(1 / every_s)):
                    await stop.wait()

    async def _put(self, table: str, key: str, name: str, value: str) -> Any:
        asked = Note("put", self.member.name, (table, key, name), value, time.monotonic())
        document = json.dumps({"id": key, name: value})
        return await self._told(asked, "state.upsert", {"table": table, "document": document})

    async def _untag(self, rng: random.Random) -> None:
        """One that this life of the member shows: what it never saw, it cannot remove."""
        life = self.member.starts
        try:
            elements = (await self._mesh.call("state.set", {"name": TAGS, "limit": 64}))["elements"]
        except EdgeweaveError:
            return
        if elements:
            element = rng.choice(elements)
            asked = Note("discard", self.member.name, (TAGS, element, ""), element, time.monotonic())
            call = {"name": TAGS, "discard": [element], "limit": 1}
            await self._told(asked, "state.set", call)
            if self.member.starts != life and asked.how == "ok":
                asked.how = "unknown"

    async def _told(self, asked: Note, method: str, params: dict[str, Any]) -> Any:
        self.notes.append(asked)
        try:
            told = await self._mesh.call(method, params)
        except (Refused, BadInput):
            asked.how = "refused"
            return None
        except EdgeweaveError:  # it is down, was killed, or its disk failed: nobody knows
            await asyncio.sleep(0.1)
            return None
        asked.how, asked.told_s = "ok", time.monotonic()
        return told

    async def close(self) -> None:
        await self._mesh.__aexit__()


class Writers:
    """Of all members, writing while the block lasts."""

    def __init__(self, fleet: Fleet, every_s: float) -> None:
        self.each = {name: Writer(fleet, member) for name, member in fleet.members.items()}
        self._every_s = every_s
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Writers:
        first = next(iter(self.each.values()))
        await first.declared()
        self._tasks = [
            asyncio.create_task(writer.steadily(self._every_s, self._stop), name=name)
            for name, writer in self.each.items()
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        for writer in self.each.values():
            writer.resting.set()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self.each.values():
            await writer.close()
        for error in done:
            if isinstance(error, BaseException) and not any(exc):
                raise error

    @property
    def notes(self) -> list[Note]:
        return [note for writer in self.each.values() for note in writer.notes]

    def acknowledged(self) -> int:
        return sum(note.how == "ok" for note in self.notes)


# ── what all answer in the end ────────────────────────────────────────────────────────────────────────


async def picture_of(mesh: Mesh) -> Picture:
    """Raises: EdgeweaveError: nobody answers."""
    picture = Picture()
    for row in (await mesh.call("state.tables", {}))["tables"]:
        name = row["name"]
        if row["kind"] == "counter":
            picture.counters[name] = (await mesh.call("state.counter", {"name": name}))["value"]
        elif row["kind"] == "set":
            picture.sets[name] = [each async for each in _elements(mesh, name)]
        else:
            documents = [json.loads(text) async for text in _documents(mesh, name)]
            picture.documents[name] = {str(each.get("id")): each for each in documents}
    told = await mesh.call("state.conflicts", {"limit": 1000})
    for row in told["conflicts"]:
        cell = row["table"], str(row["key"]), row["field"]
        picture.conflicts[cell] = [(each["value"], each["node"], each["at_ms"]) for each in row["values"]]
    return picture


async def _documents(mesh: Mesh, table: str) -> Any:
    after = None
    while True:
        told = await mesh.call("state.find", {"table": table} | ({} if after is None else {"after": after}))
        for doc_id, text in told["documents"]:
            after = doc_id
            yield text
        if not told["more"]:
            return


async def _elements(mesh: Mesh, name: str) -> Any:
    after = None
    while True:
        told = await mesh.call("state.set", {"name": name} | ({} if after is None else {"after": after}))
        for element in told["elements"]:
            after = element
            yield element
        if not told["more"]:
            return


async def pictures_of(fleet: Fleet) -> dict[str, Picture | None]:
    """None: that member does not answer."""

    async def look(member: Member) -> Picture | None:
        try:
            async with asyncio.timeout(10), Mesh.open(member.home) as mesh:
                return await picture_of(mesh)
        except (EdgeweaveError, TimeoutError):
            return None

    return dict(zip(fleet.members, await asyncio.gather(*map(look, fleet.members.values())), strict=True))


async def alike(fleet: Fleet, within_s: float = STALL_S) -> tuple[float, dict[str, Picture | None]]:
    """(seconds until all members answered the same, what they answered last)."""
    begun = time.monotonic()
    while True:
        pictures = await pictures_of(fleet)
        first, *others = pictures.values()
        took_s = time.monotonic() - begun
        if (first is not None and all(each == first for each in others)) or took_s > within_s:
            return took_s, pictures
        await asyncio.sleep(LOOK_S)


# ── the judge ─────────────────────────────────────────────────────────────────────────────────────────


def judge(
    notes: Iterable[Note],
    pictures: Mapping[str, Picture | None],
    cuts: Sequence[Cut] = (),
    *,
    rivals_of_one: bool = False,
) -> Judgement:
    """Args: rivals_of_one: a cell that one alone wrote may be in conflict: its disk forgot a write."""
    said = list(notes)
    violations = _unequal(pictures)
    picture = next((each for each in pictures.values() if each is not None), Picture())
    by_cell: dict[tuple[str, Cell], list[Note]] = defaultdict(list)
    for note in said:
        if note.how != "refused":
            by_cell[note.what if note.what != "discard" else "add", note.cell].append(note)
    puts = {cell: each for (what, cell), each in by_cell.items() if what == "put"}
    for cell, each in puts.items():
        violations += _cell_of(cell, each, picture, cuts)
        if cell[0] == OWN and cell in picture.conflicts and not rivals_of_one:
            violations.append(f"P3: {_named(cell)} is in conflict, and one writer alone wrote it")
    violations += _invented(puts, picture)
    for (what, cell), each in by_cell.items():
        if what == "count":
            violations += _counted(cell[0], each, picture)
        elif what == "add":
            violations += _tagged(each, picture)
    hows = Counter(note.how for note in said)
    asked_of = {note.value for note in said if note.what == "add"}
    for element in set(picture.sets.get(TAGS, ())) - asked_of:
        violations.append(f"P3: the set holds {element!r}, which nobody added")
    figures: dict[str, float | int | str] = {
        "acknowledged writes": hows["ok"],
        "answers lost": hows["unknown"],
        "writes refused": hows["refused"],
        "cells in conflict": len(picture.conflicts),
    }
    return Judgement(hows["ok"], violations[:VIOLATIONS_MAX], figures)


def _unequal(pictures: Mapping[str, Picture | None]) -> list[str]:
    found = [f"P7: {name} does not answer" for name, each in pictures.items() if each is None]
    there = {name: each for name, each in pictures.items() if each is not None}
    if there:
        first, *others = there
        found += [
            f"P4: {first} and {other} differ: {_difference(there[first], there[other])}"
            for other in others
            if there[first] != there[other]
        ]
    return found


def _difference(one: Picture, other: Picture) -> str:
    for what in ("documents", "sets", "counters", "conflicts"):
        mine, theirs = getattr(one, what), getattr(other, what)
        if what == "documents":
            mine = {(t, k): d for t, table in mine.items() for k, d in table.items()}
            theirs = {(t, k): d for t, table in theirs.items() for k, d in table.items()}
        unlike = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if unlike:
            key = unlike[0]
            return f"{len(unlike)} {what}, such as {key}: {mine.get(key)!r:.300} and {theirs.get(key)!r:.300}"
    return "somewhere"


def _finals(cell: Cell, picture: Picture) -> list[str | None]:
    """The winner's value, and the rivals'."""
    table, key, name = cell
    found: list[str | None] = [picture.documents.get(table, {}).get(key, {}).get(name)]
    for value, *_ in picture.conflicts.get(cell, ()):
        found.append(None if value is None else json.loads(value))
    return found


def _cell_of(cell: Cell, notes: list[Note], picture: Picture, cuts: Sequence[Cut]) -> list[str]:
    finals = _finals(cell, picture)
    kept = [note for note in notes if note.value in finals]
    lost = [note for note in notes if note.value not in finals]
    front = kept
    while front and lost:
        front, before = [], front
        still = []
        for note in lost:
            (front if any(_may_have_seen(later, note, cuts) for later in before) else still).append(note)
        lost = still
    return [
        f"P3: {note.value!r} at {_named(cell)} was acknowledged at {note.at} and is neither there, nor a "
        f"rival, nor can anybody who replaced it have seen it; there: {finals!r:.200}"
        for note in lost
        if note.how == "ok"
    ]


def _may_have_seen(later: Note, note: Note, cuts: Sequence[Cut]) -> bool:
    """Can *later* have been made by somebody who had seen *note*?"""
    if later is note or later.told_s < note.asked_s:
        return False
    return not any(
        cut.parts(later.at, note.at) and cut.begun_s <= note.asked_s and later.told_s <= cut.ended_s
        for cut in cuts
    )


def _invented(puts: Mapping[Cell, list[Note]], picture: Picture) -> list[str]:
    found = []
    for table in (OWN, SHARED):
        for key, document in picture.documents.get(table, {}).items():
            for name in document.keys() - {"id"}:
                cell = table, key, name
                written = {note.value for note in puts.get(cell, ())}
                found += [
                    f"P3: {value!r} is at {_named(cell)}, and nobody wrote it"
                    for value in _finals(cell, picture)
                    if value is not None and value not in written
                ]
    return found


def _counted(name: str, notes: list[Note], picture: Picture) -> list[str]:
    sure = sum(note.value for note in notes if note.how == "ok")
    unknown = [note.value for note in notes if note.how == "unknown"]
    least = sure + sum(each for each in unknown if each < 0)
    most = sure + sum(each for each in unknown if each > 0)
    value = picture.counters.get(name, 0)
    if least <= value <= most:
        return []
    return [f"P3: counter {name} is {value}, and what was acknowledged makes {least} to {most}"]


def _tagged(notes: list[Note], picture: Picture) -> list[str]:
    """Each element is added once."""
    element = notes[0].value
    there = element in picture.sets.get(TAGS, ())
    added = any(note.what == "add" and note.how == "ok" for note in notes)
    removals = [note.how for note in notes if note.what == "discard"]
    if added and not removals and not there:
        return [f"P3: {element!r} was added to the set and is not there, and nobody removed it"]
    if "ok" in removals and there:
        return [f"P3: {element!r} was removed from the set and is there"]
    return []


def _named(cell: Cell) -> str:
    return "/".join(cell)


def whole(outcome: Outcome, judged: Judgement) -> Outcome:
    """The fleet's outcome with the tables' added: what was accepted is acknowledged writes."""
    outcome.accepted += judged.acknowledged
    outcome.violations += judged.violations
    outcome.figures |= judged.figures
    return outcome
