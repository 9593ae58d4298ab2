"""The feed: followers of a chronicle miss nothing, over restarts too, and are told where some is gone."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from edge_node.chronicle.entry import Entry, What
from edge_node.store.archive import Archive
from edge_node.store.events_feed import RECENT, EventsFeed
from edge_node.tasks.journal import MemoryJournal
from security.errors import BadInput

BEGINNING = "0-00000000"


def entry(n):
    return Entry(
        0, 1_760_000_000_000 + n, "pi-1", "task", f"t{n}", What.PLACED.value, f"t{n}", "", 1, {"n": n}
    )


class Member:
    """One life of an archive on this loop, and its feed."""

    def __init__(self, path):
        self.archive = Archive(path, "pi-1", MemoryJournal(), lambda: 1_760_000_000_000)
        self.archive.start(asyncio.get_running_loop().call_soon_threadsafe)
        self.feed = EventsFeed(self.archive)

    async def note(self, *numbers):
        """Written when this returns."""
        self.archive.append([entry(n) for n in numbers])
        await self.feed.page(None, 1)

    async def followed(self, after=BEGINNING, limit=7):
        """Everything after, page by page."""
        ids, missed = [], False
        while True:
            page = await self.feed.page(after, limit)
            missed |= page.missed
            if not page.found and not page.missed:
                return ids, page.cursor, missed
            ids += [each.entry.id for each in page.found]
            after = page.cursor

    async def end(self):
        await asyncio.to_thread(self.archive.close)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chronicle.db"


def names(numbers):
    return [f"t{n}" for n in numbers]


async def test_pages_join_without_a_gap_whether_from_memory_or_disk(path):
    member = Member(path)
    await member.note(*range(RECENT + 500))

    from_disk, end, missed = await member.followed(limit=100)
    middle = (await member.feed.page(BEGINNING, 500)).cursor
    rest, again, _ = await member.followed(middle, limit=33)

    assert (from_disk, missed) == (names(range(RECENT + 500)), False)
    assert (rest, again) == (names(range(500, RECENT + 500)), end)
    await member.end()


async def test_who_waits_hears_of_what_is_written_then(path):
    member = Member(path)
    await member.note(1)
    cursor = (await member.feed.page(None)).cursor
    waits = [asyncio.create_task(member.feed.page(cursor, wait_ms=20_000)) for _ in range(3)]
    await asyncio.sleep(0)

    await member.note(2, 3)

    assert [[each.entry.id for each in (await one).found] for one in waits] == [["t2", "t3"]] * 3
    assert (await member.feed.page(waits[0].result().cursor)).found == []
    await member.end()


async def test_a_cursor_goes_on_after_a_restart(path):
    first = Member(path)
    await first.note(1, 2, 3)
    cursor = (await first.feed.page(BEGINNING, 2)).cursor
    await first.end()

    second = Member(path)
    await second.note(4)

    assert (await second.followed(cursor))[0] == ["t3", "t4"]
    assert (await second.followed(cursor))[2] is False
    await second.end()


async def test_a_lost_end_whose_numbers_are_used_again_is_told(path):
    """As after a power cut: what was told is not there, and its number means something else."""
    first = Member(path)
    await first.note(1, 2, 3, 4)
    cursor = (await first.feed.page(BEGINNING)).cursor
    await first.end()
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM entries WHERE number > 2")
    database.close()
    second = Member(path)

    unwritten = await second.feed.page(cursor)
    await second.note(13, 14, 15)
    overwritten = await second.feed.page(cursor)

    assert (unwritten.missed, unwritten.found) == (True, [])
    assert (await second.followed(unwritten.cursor))[0] == names([1, 2, 13, 14, 15])
    assert overwritten.missed and [each.entry.id for each in overwritten.found] == ["t15"]
    assert (await second.followed(overwritten.cursor))[1:] == (overwritten.cursor, False)
    await second.end()


async def test_what_was_forgotten_for_its_age_is_told(path):
    member = Member(path)
    await member.note(1, 2, 3, 4)
    cursor = (await member.feed.page(BEGINNING, 1)).cursor
    await member.end()
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM entries WHERE number < 3")
    database.close()
    again = Member(path)

    page = await again.feed.page(cursor)

    assert page.missed and [each.entry.id for each in page.found] == ["t3", "t4"]
    assert not (await again.feed.page(page.cursor)).missed
    await again.end()


async def test_a_damaged_entry_is_passed_over(path):
    member = Member(path)
    await member.note(1, 2, 3)
    await member.end()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET body = x'c1' WHERE number IN (2, 3)")
    database.close()
    again = Member(path)

    ids, cursor, missed = await again.followed(limit=1)
    waiting = asyncio.create_task(again.feed.page(cursor, wait_ms=20_000))
    await again.note(4)

    assert ids[0] == "t1" and not missed
    assert [each.entry.id for each in (await waiting).found] == ["t4"]
    await again.end()


@pytest.mark.parametrize(
    "cursor", ["", "7", "7-zzzzzzzz", "-1-00000000", "7-00000000\n", "9" * 30 + "-00000000"]
)
async def test_what_is_no_cursor_is_refused(path, cursor):
    member = Member(path)

    with pytest.raises(BadInput):
        await member.feed.page(cursor)
    await member.end()
