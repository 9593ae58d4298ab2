"""The tables' disk beside a busy loop: a `CellPort` that commits in a thread of its own.

    append ─► gathers while a commit is under way ─► one transaction, one fsync ─► on_persisted(newest serial)
                                                  └─► failed: nothing more is taken until `reload`

All that has gathered shares one commit. What the member hears comes through its `post`, in order. Not here:
the file (`cells`), what to do about a failure (the member's replication).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING, Final

from security.errors import EdgeweaveError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.store.cell_store import CellStore, Commit, Image, Post

log = logging.getLogger(__name__)

QUEUE_BYTES_MAX: Final = 64 * 2**20
"""That wait for a disk which hangs: what a member may hold at all is 32 MiB, and a snapshot is all of it."""
_ROW_BYTES: Final = 64
"""What a row costs beside its bytes, roughly: a flood of empty ones is bounded too."""

_Reload = object()


class CellThread:
    """Args: store: used by the thread alone from `start` on."""

    def __init__(self, store: CellStore) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[tuple[object, object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._given = 0  # bytes; each counter has one writer
        self._taken = 0
        self._crowded = False  # and nothing more is taken until `reload`
        self._fail: Callable[[int], object] = lambda serial: None

    @property
    def losses(self) -> str:
        return self._store.losses

    @property
    def log_bytes(self) -> int:
        """Written to the write-ahead log since the start, for the wear figure."""
        return self._store.log_bytes

    def load(self) -> Image:
        """Before `start`. Raises: BadInput: another's, or another key's. Unavailable: it cannot be read."""
        assert self._thread is None, "loaded before it is started"
        return self._store.load()

    def start(
        self,
        post: Post,
        on_persisted: Callable[[int], None],
        on_failed: Callable[[int, str], None],
    ) -> None:
        assert self._thread is None, "started once"
        self._fail = lambda serial: post(on_failed, serial, "more waits for the disk than it takes")
        self._thread = threading.Thread(
            target=self._work, args=(post, on_persisted, on_failed), name="cells", daemon=True
        )
        self._thread.start()

    def append(self, serial: int, commit: Commit) -> None:
        assert not self._closed, "closed"
        if self._crowded:
            return
        if self._given - self._taken > QUEUE_BYTES_MAX:
            self._crowded = True
            self._fail(serial)
            return
        self._given += size_of(commit)
        self._queue.put((serial, commit))

    def reload(self, done: Callable[[Image | EdgeweaveError], None]) -> None:
        assert not self._closed, "closed"
        self._crowded = False
        self._queue.put((_Reload, done))

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._store.close()

    def _work(
        self,
        post: Post,
        on_persisted: Callable[[int], None],
        on_failed: Callable[[int, str], None],
    ) -> None:
        failing = False
        item: object = self._queue.get()
        while item is not None:
            serials: list[int] = []
            commits: list[Commit] = []
            while isinstance(item, tuple) and item[0] is not _Reload:
                serial, commit = item
                serials.append(serial)
                commits.append(commit)
                item = self._next()
            if commits and not failing:
                trouble = self._commit(commits)
                failing = bool(trouble)
                if failing:
                    _told(post, on_failed, serials[0], trouble)
                else:
                    _told(post, on_persisted, serials[-1])
            self._taken += sum(map(size_of, commits))
            if isinstance(item, tuple) and item[0] is _Reload:
                found = self._load()
                failing = isinstance(found, EdgeweaveError)
                _told(post, item[1], found)
                item = self._queue.get()
            elif item is _NOTHING:
                item = self._queue.get() if failing else self._idle()

    def _next(self) -> object:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return _NOTHING

    def _idle(self) -> object:
        """Space is given back in steps, while nobody waits; then: the next that comes."""
        more = True
        while more and self._queue.empty():
            try:
                more = self._store.tidy()
            except Exception as error:  # as below; it is not worth more than a word
                log.info("the tables' file could not be made smaller", extra={"cause": str(error)})
                more = False
        return self._queue.get()

    def _commit(self, commits: list[Commit]) -> str:
        """What went wrong; empty: they are durable."""
        try:
            self._store.commit(commits)
        except EdgeweaveError as error:
            return error.cause
        except Exception as error:  # a mistake of ours: without this thread nothing would be kept
            log.exception("the tables could not be written")
            return f"{type(error).__name__}: {error}"
        return ""

    def _load(self) -> Image | EdgeweaveError:
        try:
            return self._store.load()
        except EdgeweaveError as error:
            return error
        except Exception as error:  # as above
            log.exception("the tables could not be read")
            return Unavailable(f"the tables cannot be read: {type(error).__name__}: {error}")


_NOTHING = object()


def size_of(commit: Commit) -> int:
    """Bytes, roughly, that it holds in memory."""
    rows = len(commit.cells) + len(commit.logged) + len(commit.waiting)
    size = len(commit.head or b"") + rows * _ROW_BYTES
    size += sum(len(body) for body in commit.cells.values() if body is not None)
    size += sum(len(entry.data) for entry in commit.logged)
    return size + sum(len(each.data) for each in commit.waiting)


def _told(post: Post, callback: Callable[..., None], *said: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is everybody who would listen
        post(callback, *said)
