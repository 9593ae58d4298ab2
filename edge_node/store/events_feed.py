"""The feed: a chronicle's entries in order, as they are written, for whoever follows them.

    archive ─► on_written ─► the last 1 024, in memory ─► everybody who waits
                     file ─► who is further back

A cursor is an entry's number and the checksum of its body, ``1042-5f3a2b1c``. Numbers only grow, over
restarts too; but a power cut may take the last minute of a chronicle, and what is noted then gets the same
numbers. The checksum tells: then, and where the entry was forgotten for its age, the follower is told that
it has missed something. What was told to a follower was written before, so that a killed daemon forgets
nothing that it told.

In: an archive. Out: pages. A follower holds nothing here but its wait; one that is slow reads from the file.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from edge_node.chronicle.entry import Entry, decoded
from security.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edge_node.store.archive import Archive, Excerpt

RECENT: Final = 1024
"""Entries in memory, some 300 bytes each: followers that keep up ask no disk."""
LIMIT_MAX: Final = 500
WAIT_MS_MAX: Final = 60_000
WAITING_MAX: Final = 128
"""Followers that wait at once: each is woken by each write."""
_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9a-f]{8})\Z")


class Happening:
    """One entry of the chronicle, and the cursor that goes on after it."""

    __slots__ = ("_told", "cursor", "entry")

    def __init__(self, cursor: str, entry: Entry) -> None:
        self.cursor = cursor
        self.entry = entry
        self._told: dict[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """The entry under its names; the same for everybody who follows: never changed."""
        if self._told is None:
            self._told = {"cursor": self.cursor, **msgspec.to_builtins(_Fields.of(self.entry))}
        return self._told


class Page(NamedTuple):
    """What happened, in order. missed: entries between *after* and these are not there any more."""

    found: list[Happening]
    cursor: str
    missed: bool


class _Fields(msgspec.Struct):
    """An entry under its names: on the wire it is a list."""

    number: int
    at_ms: int
    node: str
    subject: str
    id: str
    what: str
    cause: str
    place: str
    attempt: int
    details: dict[str, int | float | str]

    @classmethod
    def of(cls, entry: Entry) -> _Fields:
        return cls(*msgspec.structs.astuple(entry))


class EventsFeed:
    """Of one archive, from the first time that somebody follows."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._recent: deque[tuple[int, Happening]] = deque(maxlen=RECENT)
        self._moved: asyncio.Future[None] | None = None
        self._waiting = 0
        archive.on_written = self._written

    async def page(self, after: str | None, limit: int = 100, wait_ms: int = 0) -> Page:
        """The next entries after that cursor; None: the last ones; waits at most so long for the first.

        Raises: BadInput: no cursor, or a bound. Unavailable: too many wait.
        """
        number, checksum = (None, "") if after is None else parsed(after)
        if not 1 <= limit <= LIMIT_MAX:
            raise BadInput(f"limit is a whole number from 1 to {LIMIT_MAX}")
        if not 0 <= wait_ms <= WAIT_MS_MAX:
            raise BadInput(f"wait_ms is from 0 to {WAIT_MS_MAX}")
        end_s = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            page = self._from_memory(number, checksum, limit) or await self._from_disk(
                number, checksum, limit
            )
            left_s = end_s - asyncio.get_running_loop().time()
            if page.found or page.missed or left_s <= 0 or number is None:
                return page
            number, checksum = parsed(page.cursor)
            if not self._is_newer(number):
                await self._wait(left_s)

    def _from_memory(self, number: int | None, checksum: str, limit: int) -> Page | None:
        """None: memory does not reach back to there."""
        recent = self._recent
        if number is None or not recent or not recent[0][0] <= number <= recent[-1][0]:
            return None
        at = number - recent[0][0]
        if at >= len(recent) or recent[at][0] != number:
            return None
        if recent[at][1].cursor != f"{number}-{checksum}":
            return None
        found = [recent[each][1] for each in range(at + 1, min(at + 1 + limit, len(recent)))]
        return Page(found, found[-1].cursor if found else recent[at][1].cursor, False)

    async def _from_disk(self, number: int | None, checksum: str, limit: int) -> Page:
        told: asyncio.Future[Excerpt] = asyncio.get_running_loop().create_future()
        self._archive.excerpt(
            number, limit, lambda excerpt: None if told.done() else told.set_result(excerpt)
        )
        excerpt = await told
        found = [happening for row in excerpt.rows if (happening := happening_of(*row)) is not None]
        if found:
            cursor = found[-1].cursor
        elif excerpt.rows:
            cursor = cursor_of(*excerpt.rows[-1])  # damaged: passed over
        else:
            cursor = "0-00000000" if number is None else f"{number}-{checksum}"
        missed = False
        if number:
            missed = (_checksum(excerpt.before) if excerpt.before else "") != checksum
            if missed and not excerpt.rows and number > excerpt.newest:
                # The end was lost: whoever goes on from here has to begin with what there is.
                return Page([], "0-00000000", True)
        elif number == 0:
            missed = excerpt.oldest > 1
        return Page(found, cursor, missed)

    def _written(self, rows: list[tuple[int, bytes]]) -> None:
        for row in rows:
            if self._recent and row[0] != self._recent[-1][0] + 1:
                self._recent.clear()
            happening = happening_of(*row)
            if happening is None:
                self._recent.clear()
                continue
            self._recent.append((row[0], happening))
        moved, self._moved = self._moved, None
        if moved is not None and not moved.done():
            moved.set_result(None)

    def _is_newer(self, number: int) -> bool:
        return bool(self._recent) and self._recent[-1][0] > number

    async def _wait(self, wait_s: float) -> None:
        if self._waiting >= WAITING_MAX:
            raise Unavailable(f"{WAITING_MAX} follow already", fix="follow less, or later", retry_after_s=5.0)
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        self._waiting += 1
        try:
            await asyncio.wait([self._moved], timeout=wait_s)
        finally:
            self._waiting -= 1


def parsed(cursor: str) -> tuple[int, str]:
    """Raises: BadInput: not a cursor."""
    found = _CURSOR.match(cursor)
    if found is None:
        raise BadInput(f"{cursor!r:.60} is no place in the events", fix="give back a cursor as it was told")
    return int(found[1]), found[2]


def happening_of(number: int, body: bytes) -> Happening | None:
    """None: a bit of it has flipped."""
    entry = decoded(body)
    if entry is None:
        return None
    return Happening(cursor_of(number, body), msgspec.structs.replace(entry, number=number))


def cursor_of(number: int, body: bytes) -> str:
    return f"{number}-{_checksum(body)}"


def _checksum(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"
