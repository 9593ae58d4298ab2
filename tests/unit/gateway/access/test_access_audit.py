"""The audit log on a real disk: durable before answered, taken back if it cannot be, honest after a crash."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from edge_node.clock import ManualClock
from gateway.access import audit as shell
from gateway.access.audit import Audit, verify_file
from gateway.access.chain import Head
from security.errors import BadInput, Unavailable


class Disk:
    """A log and the place of its head. ``full``: the head cannot be written."""

    def __init__(self, path):
        self.path = path / "audit.log"
        self.head = Head()
        self.full = False
        self.audit = self.fresh()

    def fresh(self) -> Audit:
        return Audit(self.path, clock=ManualClock(), contents=self._contents, save=self._save)

    def _contents(self, head: Head) -> bytes:
        return f"{head.n} {head.hash}".encode()

    def _save(self, data: bytes) -> None:
        if self.full:
            raise Unavailable("no space left on device")
        n, digest = data.decode().split()
        self.head = Head(int(n), digest)

    async def restart(self):
        self.audit.close()
        self.audit = self.fresh()
        return await self.audit.open(self.head)

    async def note(self, count: int) -> None:
        for n in range(count):
            await self.audit.append("ann", "node.revoke", f"pi-{n}", {"n": n}, None)


@pytest.fixture
async def disk(tmp_path):
    disk = Disk(tmp_path)
    await disk.audit.open(Head())
    yield disk
    disk.audit.close()


async def test_what_was_answered_is_read_again_and_holds(disk):
    await disk.note(3)
    verdict = await disk.restart()
    assert await disk.audit.append("bob", "x", "y", None, 1) == 4

    assert verdict.broken_at is None
    assert [entry.n for entry in disk.audit.read(0, 1000)] == [1, 2, 3, 4]
    assert [entry.target for entry in disk.audit.read(1, 2)] == ["pi-1", "pi-2"]
    assert disk.audit.verify().entries == 4 and disk.head == disk.audit.head
    assert oct(disk.path.stat().st_mode & 0o777) == "0o600"


async def test_reading_pages_reaches_every_entry_of_a_long_log(disk, monkeypatch):
    monkeypatch.setattr(shell, "_EVERY", 4)
    await disk.note(23)
    await disk.restart()

    seen, after = [], 0
    while page := disk.audit.read(after, 5):
        seen += [entry.n for entry in page]
        after = page[-1].n
    assert seen == list(range(1, 24))
    assert disk.audit.read(23, 5) == []


async def test_many_at_once_are_one_chain(disk):
    numbers = await asyncio.gather(*(disk.audit.append("ann", "x", str(n), None, None) for n in range(50)))

    assert sorted(numbers) == list(range(1, 51))
    assert disk.audit.verify().entries == 50


async def test_too_many_at_once_are_refused_not_queued(disk, monkeypatch):
    monkeypatch.setattr(shell, "WAITING_MAX", 10)

    told = await asyncio.gather(*(disk.note(1) for _ in range(15)), return_exceptions=True)

    assert sum(isinstance(each, Unavailable) for each in told) == 5
    assert disk.audit.verify().entries == 10


async def test_a_line_whose_head_cannot_be_written_is_taken_back(disk):
    await disk.note(2)
    before = disk.path.read_bytes()
    disk.full = True

    with pytest.raises(Unavailable, match="nothing was changed: no space left on device"):
        await disk.note(1)
    assert disk.path.read_bytes() == before
    disk.full = False
    await disk.note(1)
    assert disk.audit.verify().entries == 3


async def test_what_is_done_and_could_not_be_noted_is_owed_and_blocks_further_changes(disk):
    disk.full = True
    await disk.audit.note("ann", "node.revoke", "pi-1", None, None)
    with pytest.raises(Unavailable):
        await disk.audit.ready()

    disk.full = False
    await disk.audit.ready()
    assert [entry.target for entry in disk.audit.read(0, 10)] == ["pi-1"]
    await disk.audit.ready()
    assert disk.audit.head.n == 1


async def test_whoever_is_cancelled_while_it_is_written_leaves_a_whole_chain(disk):
    for n in range(10):
        writing = asyncio.create_task(disk.audit.append("ann", "x", str(n), None, None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
    await disk.note(1)

    verdict = disk.audit.verify()
    assert verdict.broken_at is None and verdict.head == disk.head


async def test_whoever_is_cancelled_twice_still_holds_the_turn_until_it_is_known(disk, monkeypatch):
    writing, goes_on, commit = asyncio.Event(), threading.Event(), disk.audit._commit
    loop = asyncio.get_running_loop()

    def slow(*given):
        loop.call_soon_threadsafe(writing.set)
        assert goes_on.wait(30)
        commit(*given)

    monkeypatch.setattr(disk.audit, "_commit", slow)
    disk.full = True
    first, shares = (asyncio.create_task(disk.audit.append("ann", "x", n, None, None)) for n in "12")
    await writing.wait()
    for _ in range(2):
        first.cancel()
        await asyncio.sleep(0)
    assert disk.audit.turn.locked() and not first.done()
    goes_on.set()

    told = await asyncio.gather(first, shares, return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable, Unavailable]
    assert disk.audit.head.n == 0 and disk.audit.verify().broken_at is None


@pytest.mark.parametrize("torn", [b"{", b'{"n":3,"at_ms":0', b"\0" * 100])
async def test_what_a_power_cut_left_unfinished_is_taken_off(disk, torn):
    await disk.note(2)
    with disk.path.open("ab") as file:
        file.write(torn)

    assert (await disk.restart()).broken_at is None
    await disk.note(1)
    assert disk.audit.verify().entries == 3


async def test_a_line_whose_head_a_power_cut_swallowed_stands(disk):
    await disk.note(2)
    held = disk.head
    await disk.note(1)
    disk.head = held

    assert (await disk.restart()).broken_at is None
    assert await disk.audit.append("ann", "x", "y", None, None) == 4


@pytest.mark.parametrize(
    ("damage", "at", "told"),
    [
        (lambda lines: lines[:2], 3, "the last 2 entries are missing: there were 4"),
        (lambda lines: [], 1, "the last 4 entries are missing: there were 4"),
        (lambda lines: [lines[0], *lines[2:]], 2, "entry 2 is missing"),
        (lambda lines: [*lines[:3], lines[3][:-9]], 4, "the last entry is missing"),
        (lambda lines: [lines[0].replace(b"pi-0", b"pi-8"), *lines[1:]], 1, "entry 1 was changed"),
    ],
)
async def test_a_damaged_log_is_named_left_as_it_is_and_goes_on(disk, damage, at, told):
    await disk.note(4)
    damaged = b"".join(damage(disk.path.read_bytes().splitlines(keepends=True)))
    disk.path.write_bytes(damaged)

    verdict = await disk.restart()
    assert verdict.broken_at == at and told in verdict.reason
    assert await disk.audit.append("ann", "x", "y", None, None) == 5
    again = disk.audit.verify()
    assert again.broken_at == at, "what is written behind does not hide it"
    assert disk.path.read_bytes().startswith(damaged)
    assert disk.audit.read(4, 10)[0].n == 5


async def test_a_log_that_was_removed_is_missed(disk):
    await disk.note(2)
    disk.path.unlink()

    assert disk.audit.verify().reason == "the last 2 entries are missing: there were 2"
    assert (await disk.restart()).broken_at == 1


async def test_a_copy_is_checked_without_its_home(disk, tmp_path):
    await disk.note(3)
    copy = tmp_path / "copy"
    copy.write_bytes(disk.path.read_bytes())

    assert verify_file(copy, None).broken_at is None
    assert verify_file(copy, disk.head).entries == 3
    copy.write_bytes(copy.read_bytes()[:-1])
    assert verify_file(copy, None).broken_at == 3, "its last line is cut"
    with pytest.raises(BadInput, match="there is no"):
        verify_file(tmp_path / "none", None)


async def test_a_log_that_others_may_read_or_that_is_a_link_is_refused(disk, tmp_path):
    await disk.note(1)
    disk.path.chmod(0o644)
    with pytest.raises(BadInput, match="open to others"):
        await disk.restart()
    disk.path.unlink()
    disk.path.symlink_to("/dev/null")
    with pytest.raises(Unavailable, match="cannot be opened"):
        await disk.restart()


@pytest.mark.parametrize(("after", "limit"), [(0, 0), (0, 1001), (-1, 5)])
async def test_a_page_has_its_bounds(disk, after, limit):
    with pytest.raises(BadInput, match="1 to 1000"):
        disk.audit.read(after, limit)


async def test_what_waits_for_the_disk_shares_its_next_commit(disk, monkeypatch):
    """Else a program that hands in tasks over HTTP waits for three fsyncs a task, one after the other."""
    commits = []
    commit = shell.Audit._commit
    monkeypatch.setattr(shell.Audit, "_commit", lambda *all_: commits.append(len(all_[2])) or commit(*all_))

    numbers = await asyncio.gather(*(disk.audit.append("ann", "x", str(n), None, None) for n in range(100)))

    assert numbers == list(range(1, 101)), "in the order in which they came"
    assert [each.target for each in disk.audit.read(0, 100)] == [str(n) for n in range(100)]
    assert sum(commits) == 100 and len(commits) <= 3
    assert (await disk.restart()).broken_at is None


async def test_who_shares_a_commit_that_fails_is_told_so(disk):
    disk.full = True
    told = await asyncio.gather(
        *(disk.audit.append("ann", "x", str(n), None, None) for n in range(9)), return_exceptions=True
    )
    disk.full = False

    assert all(isinstance(each, Unavailable) for each in told)
    assert await disk.audit.append("ann", "x", "y", None, None) == 1
    assert disk.audit.verify().entries == 1


async def test_entries_that_cannot_be_spelled_are_told_so_to_all_who_share(disk):
    async with disk.audit.turn:
        tasks = [asyncio.create_task(disk.audit.append("a", "x", each, None, None)) for each in ("1", None)]
        await asyncio.sleep(0)
    done = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(each) for each in done] == [TypeError, TypeError]
    assert await disk.audit.append("a", "x", "3", None, None) == 1 and disk.audit.verify().entries == 1


async def test_what_is_done_is_noted_though_whoever_did_it_is_cancelled(disk):
    async with disk.audit.turn:
        noting = asyncio.create_task(disk.audit.note("ann", "task.submit", "t1", None, None))
        for _ in range(3):
            await asyncio.sleep(0)
        noting.cancel()
        await asyncio.wait([noting])
    await disk.audit.finish()
    await disk.note(1)

    assert noting.cancelled() and [each.what for each in disk.audit.read(0, 9)] == [
        "task.submit",
        "node.revoke",
    ]


async def test_who_is_cancelled_among_others_takes_nobody_along(disk):
    for first in range(0, 60, 12):
        tasks = [
            asyncio.create_task(disk.audit.append("a", "x", str(first + n), None, None)) for n in range(12)
        ]
        for _ in range(first // 12):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        kept = {each.target for each in disk.audit.read(0, 1000)}
        for n, each in enumerate(done):
            if n % 3:
                assert isinstance(each, int) and str(first + n) in kept

    verdict = disk.audit.verify()
    assert verdict.broken_at is None and verdict.head == disk.head


def test_what_is_no_log_and_has_no_end_is_told_at_once():
    assert verify_file(Path("/dev/zero"), None).broken_at == 1


def test_a_copy_without_any_entry_is_not_called_whole(tmp_path):
    copy = tmp_path / "audit.log"
    copy.touch()

    with pytest.raises(BadInput, match="there is no entry"):
        verify_file(copy, None)
    assert verify_file(copy, Head(2, "0" * 64)).broken_at == 1
