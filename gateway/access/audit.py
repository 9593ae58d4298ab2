"""The audit log on disk: ``audit.log``, a line an entry, appended and fsynced before a change is answered.
Entries that wait for the disk at the same time share a commit.

Its head (number and hash of the last entry) lies in ``access.json`` too, written right after the line, so
that a cut end is noticed. A line that cannot be written, or whose head cannot, is taken back, and whoever
wanted it is told. What a power cut leaves behind the last newline, beyond the head, was never answered and is
taken off at the next start; a log that is broken anywhere else is left as it is, said loudly, and goes on
with the next number, so that the break stays where it is. It grows by about 300 bytes a change and is never
shortened by us.

What an entry is, and how a break is found, says ``chain``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_node.clock import Clock
from gateway.access.chain import LINE_BYTES_MAX, Entry, Head, Verdict, Verification, read, spell
from security.errors import BadInput, Unavailable

log = logging.getLogger(__name__)

READ_MAX: Final = 1000  # entries of one answer: 16 MiB at the very worst
OWED_MAX: Final = 64  # done but not written yet: as many as the control socket lets run at once
WAITING_MAX: Final = 256  # changes that wait for the disk
GATHERED_MAX: Final = 64  # of these, that share its next commit: a program that hands in task after task
_EVERY: Final = 256  # a mark in the index for so many lines: 8 bytes of memory for 256 entries


@dataclass(frozen=True, slots=True)
class _Owed:
    who: str
    what: str
    target: str
    before: object
    after: object
    cause: str


class Audit:
    """One log. Changes take turns: an entry and what it tells of are written together.

    Args: contents: of ``access.json`` with this head.   save: writes them (blocking), or raises Unavailable.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        contents: Callable[[Head], bytes],
        save: Callable[[bytes], None],
    ) -> None:
        self.path = path
        self.turn = asyncio.Lock()
        self._clock = clock
        self._contents = contents
        self._save = save
        self._head = Head()
        self._fd = -1
        self._size = 0
        self._lines = 0
        self._marks: list[int] = []  # where lines 1, 257, 513, … begin
        self._owed: list[_Owed] = []
        self._gathered: list[tuple[_Owed, asyncio.Future[int | Exception]]] = []
        self._noting: set[asyncio.Task[None]] = set()
        self._waiting = 0

    @property
    def head(self) -> Head:
        return self._head

    async def open(self, head: Head) -> Verdict:
        """Read the whole log. Raises: BadInput, Unavailable: it is not ours to use, or the disk refuses."""
        verdict = await asyncio.to_thread(self._open, head)
        if verdict.broken_at is not None:
            log.critical(
                "the audit log is broken: it goes on behind the break",
                extra={"at": verdict.broken_at, "cause": verdict.reason},
            )
        return verdict

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    async def append(
        self, who: str, what: str, target: str, before: object, after: object, cause: str = ""
    ) -> int:
        """On disk when it returns. Returns: the entry's number. Raises: Unavailable: nothing was written."""
        told: asyncio.Future[int | Exception] = asyncio.get_running_loop().create_future()
        mine = (_Owed(who, what, target, before, after, cause), told)
        self._gathered.append(mine)  # whoever has the turn before may write it along with its own
        try:
            async with self._in_turn():
                if not told.done():
                    await self._write_gathered()
        finally:
            if mine in self._gathered:  # refused, or cancelled before anybody wrote it
                self._gathered.remove(mine)
        number = told.result()
        if isinstance(number, Exception):
            raise number
        return number

    async def _write_gathered(self) -> None:
        """What waits, in one commit; each is told its number, or why there is none."""
        batch, self._gathered = self._gathered[:GATHERED_MAX], self._gathered[GATHERED_MAX:]
        head, lines, at_ms = self._head, [], self._clock.wall_ms()
        first, failure = head.n + 1, None
        try:
            for each, _ in batch:
                head, line = spell(
                    head, at_ms, each.who, each.what, each.target, each.before, each.after, each.cause
                )
                lines.append(line)
            contents = self._contents(head)
            await _to_its_end(lambda: self._commit(head, lines, contents))
        except Exception as error:
            failure = error
        finally:  # also when we were cancelled meanwhile: it is written by then
            for number, (_, told) in enumerate(batch, first):
                told.set_result(failure or number)

    async def note(
        self, who: str, what: str, target: str, before: object, after: object, cause: str = ""
    ) -> None:
        """What is done and cannot be undone: kept until it can be written, if it cannot now.

        Who is cancelled, as a page that is closed, takes nothing back: it is written without them.
        """
        noting = asyncio.create_task(self._note(who, what, target, before, after, cause), name="audit-note")
        self._noting.add(noting)  # `append` refuses more than may wait
        noting.add_done_callback(self._noting.discard)
        await asyncio.shield(noting)

    async def finish(self) -> None:
        """Until what is being noted is written, or owed; before ``close``."""
        if self._noting:
            await asyncio.wait(self._noting)

    async def _note(
        self, who: str, what: str, target: str, before: object, after: object, cause: str
    ) -> None:
        try:
            await self.append(who, what, target, before, after, cause)
        except Unavailable as error:
            log.critical(
                "a change could not be written to the audit log yet",
                extra={"who": who, "what": what, "target": target, "cause": error.cause},
            )
            if len(self._owed) < OWED_MAX:
                self._owed.append(_Owed(who, what, target, before, after, cause))

    async def ready(self) -> None:
        """Before a change that cannot be undone. Raises: Unavailable: an earlier one is still not written."""
        while self._owed:
            async with self._in_turn():
                if self._owed:
                    owed = self._owed[0]
                    await self.write(
                        owed.who, owed.what, owed.target, owed.before, owed.after, owed.cause
                    )  # fmt: skip
                    del self._owed[0]

    async def write(
        self, who: str, what: str, target: str, before: object, after: object, cause: str = ""
    ) -> int:
        """As ``append``, for whoever holds the turn."""
        assert self.turn.locked() and self._fd >= 0
        head, line = spell(self._head, self._clock.wall_ms(), who, what, target, before, after, cause)
        contents = self._contents(head)
        await _to_its_end(lambda: self._commit(head, [line], contents))
        return head.n

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Unavailable("too many changes at once", fix="try again")
        self._waiting += 1
        try:
            async with self.turn:
                yield
        finally:
            self._waiting -= 1

    def _commit(self, head: Head, lines: list[bytes], contents: bytes) -> None:
        at, data = self._size, b"".join(lines)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], at + done)
            os.fsync(self._fd)
            self._save(contents)
        except (OSError, Unavailable) as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, at)
                os.fsync(self._fd)
            cause = error.cause if isinstance(error, Unavailable) else (error.strerror or str(error))
            raise Unavailable(
                f"the audit log cannot be written, so nothing was changed: {cause}",
                fix="free disk space, or check the owner of the home",
            ) from error
        for line in lines:
            self._mark(at)
            at += len(line)
        self._size = at
        self._head = head

    def _mark(self, at: int) -> None:
        if self._lines % _EVERY == 0:
            self._marks.append(at)
        self._lines += 1

    # ── reading: blocking, from any thread ────────────────────────────────────────────────────────

    def read(self, after: int, limit: int) -> list[Entry]:
        """Entries above number *after*, oldest first, at most *limit* (1 to 1000)."""
        if not 1 <= limit <= READ_MAX or after < 0:
            raise BadInput(f"limit is from 1 to {READ_MAX}, after from 0", fix="ask for fewer at once")
        found: list[Entry] = []
        marks, until = self._marks, self._size
        if not marks or not self.path.exists():
            return found
        with self.path.open("rb") as file:
            file.seek(marks[min(after // _EVERY, len(marks) - 1)])
            while len(found) < limit and file.tell() < until:
                entry = read(file.readline(LINE_BYTES_MAX).rstrip(b"\n"))
                if entry is not None and entry.n > after:
                    found.append(entry)
        return found

    def verify(self) -> Verdict:
        """Every entry, and that the last one written is there."""
        return verify_file(self.path, self._head)

    def _open(self, head: Head) -> Verdict:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
                raise BadInput(f"{self.path} is open to others", fix=f"chmod 600 {self.path}")
            check, last = Verification(head), head
            at = 0
            for line in _lines(self.path):
                if not line.endswith(b"\n"):
                    break
                check.take(line[:-1])
                self._mark(at)
                at += len(line)
                entry = read(line[:-1])
                if entry is not None and entry.n > last.n:
                    last = Head(entry.n, entry.hash)
            verdict = check.verdict()
            self._head, self._size = last, at
            if at < status.st_size:
                if verdict.broken_at is None:
                    os.ftruncate(self._fd, at)  # a write that a power cut interrupted; nobody was told of it
                    log.warning("an unfinished line was taken off the audit log")
                else:
                    os.pwrite(self._fd, b"\n", status.st_size)
                    self._size = status.st_size + 1
                os.fsync(self._fd)
        except OSError as error:
            raise Unavailable(
                f"{self.path} cannot be opened: {error.strerror or error}", fix="check its owner and the disk"
            ) from error
        return verdict


def verify_file(path: Path, head: Head | None) -> Verdict:
    """Check a log, also beside a running daemon: read *head* first, the log grows meanwhile.

    Args: head: what it must reach; None: not known, so a cut at the end of a line cannot be seen.
    Raises: BadInput: there is no such file, or it cannot be read.
    """
    check = Verification(head)
    try:
        for line in _lines(path):
            whole = line.endswith(b"\n")
            if not whole and head is not None and check.verdict().broken_at is None:
                break  # being written, beyond the head
            check.take(line[:-1] if whole else line + b" ")
            if check.broken_at is not None:
                break  # nothing behind it changes the verdict, and what is no log may have no end
    except FileNotFoundError:
        if head is None:
            raise BadInput(f"there is no {path}", fix="check the name") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="check the name and its owner") from None
    if head is None and check.broken_at is None and check.head.n == 0:
        raise BadInput(f"there is no entry in {path}", fix="every log begins with one: check the name")
    return check.verdict()


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX):
            yield line


async def _to_its_end(work: Callable[[], None]) -> None:
    """In a thread; who is cancelled meanwhile goes when it is known how it ended."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:  # perhaps not for the last time
            cancelled = True
    future.result()
    if cancelled:
        raise asyncio.CancelledError
