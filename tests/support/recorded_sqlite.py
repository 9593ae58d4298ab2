"""SQLite through a VFS that notes what reaches the file system, and the disks that a power cut leaves of it.

    recorded = Recording(directory)           # every write, truncation, sync and removal, in order
    Journal(path, mesh, node, open_store=recorded.open_store)     # the production code, on apsw's SQLite
    for point, disk in recorded.replayed(): …  # the modelled disk after each operation

Below the production statements lies the SQLite that `apsw` brings (newer than the interpreter's:
the file format and the order of writes and syncs are what is recorded); above the VFS everything is real.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path

import apsw

from device_sim.virtual.disk import Disk
from edge_node.store.ledger import PRAGMAS, SqliteLedger


class Recording:
    """Args: directory: of the files.   checkpoint_pages: of the WAL, before it is copied into the file."""

    def __init__(self, directory: Path, *, checkpoint_pages: int) -> None:
        self.directory = directory
        self.operations: list[tuple] = []
        self.checkpoint_pages = checkpoint_pages
        self._kill_at_sync: int | None = None
        self._fail_at_sync = 0
        self._next_directory = directory
        self._dead: set[Path] = set()
        self._name = f"recorded-{id(self)}"
        self._vfs = _Vfs(self, self._name)

    def note(self, directory: Path, *operation: object) -> None:
        if directory not in self._dead:
            self.operations.append(operation)

    def open_store(self, path: Path, mesh_id: str, node_id: str) -> SqliteLedger:
        return SqliteLedger(path, mesh_id, node_id, connect=self._connect)

    def _connect(self, path: Path) -> _Connection:
        connection = apsw.Connection(str(path), vfs=self._name)
        connection.set_busy_timeout(10_000)
        for pragma in (*PRAGMAS, f"PRAGMA wal_autocheckpoint = {self.checkpoint_pages}"):
            with _as_sqlite3():
                connection.execute(pragma).fetchall()
        return _Connection(connection)

    def kill_at_sync(self, directory: Path, number: int) -> None:
        """At the beginning of the sync with this number from now the process dies: its files, as the kernel
        has them, are found in `directory`; what it still does is not seen."""
        self._kill_at_sync, self._next_directory = number, directory

    def fail_sync(self, number: int) -> None:
        """The sync with this number from now fails, and what was unsafe of its file is lost."""
        self._fail_at_sync = number

    def fails(self) -> bool:
        if self._fail_at_sync:
            self._fail_at_sync -= 1
            return self._fail_at_sync == 0
        return False

    def about_to_sync(self, directory: Path) -> None:
        if self._kill_at_sync is None or directory in self._dead:
            return
        self._kill_at_sync -= 1
        if not self._kill_at_sync:
            self._kill_at_sync = None
            self._next_directory.mkdir()
            for path in sorted(directory.iterdir()):
                if not path.name.endswith("-shm"):
                    shutil.copyfile(path, self._next_directory / path.name)
            self._dead.add(directory)

    def replayed(self):
        """(number of the operation, operation, the disk after it); what was noted by others does nothing."""
        disk = Disk(random.Random(1), unsafe_max=10**6)
        for number, (what, *how) in enumerate(self.operations):
            if what == "create":
                disk.create(how[0])
            elif what == "write":
                disk.write(*how)
            elif what == "truncate":
                disk.truncate(*how)
            elif what == "sync":
                disk.fsync(how[0])
            elif what == "sync failed":
                disk.fail_fsync()
                with contextlib.suppress(OSError):
                    disk.fsync(how[0])
            elif what == "sync names":
                disk.fsync_dir()
            elif what == "remove":
                disk.remove(how[0])
            yield number, (what, *how), disk


class _Cursor(apsw.Cursor):
    @property
    def lastrowid(self) -> int:
        return self.connection.last_insert_rowid()


class _Connection:
    """What the production store asks of a `sqlite3.Connection`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        connection.cursor_factory = _Cursor
        self.close = connection.close

    def execute(self, statement, values=()):
        with _as_sqlite3():
            return self._connection.execute(statement, values)

    def executemany(self, statement, values):
        with _as_sqlite3():
            for _ in self._connection.executemany(statement, values):
                pass

    def executescript(self, script):
        with _as_sqlite3():
            for _ in self._connection.execute(script):
                pass


@contextlib.contextmanager
def _as_sqlite3():
    try:
        yield
    except (apsw.IOError, apsw.SQLError) as error:
        raise sqlite3.OperationalError(str(error)) from error


class _Vfs(apsw.VFS):
    def __init__(self, recording: Recording, name: str) -> None:
        self.recording = recording
        super().__init__(name, "unix")

    def xOpen(self, name, flags):
        return _File(self.recording, name, flags)

    def xDelete(self, name, sync_names):
        super().xDelete(name, sync_names)
        path = Path(name)
        self.recording.note(path.parent, "remove", path.name)
        if sync_names:
            self.recording.note(path.parent, "sync names")


class _File(apsw.VFSFile):
    def __init__(self, recording: Recording, name, flags) -> None:
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        assert filename, "no temporary file is expected"
        self.recording, self.path = recording, Path(filename)
        fresh = not self.path.exists()
        super().__init__("unix", name, flags)
        # SQLite's unix VFS syncs the directory along with the first sync of a journal or WAL that it made.
        self.names_unsafe = fresh and self.path.name.endswith(("-journal", "-wal"))
        if fresh:
            recording.note(self.path.parent, "create", self.path.name)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.recording.note(self.path.parent, "write", self.path.name, offset, bytes(data))

    def xTruncate(self, size):
        super().xTruncate(size)
        self.recording.note(self.path.parent, "truncate", self.path.name, size)

    def xSync(self, flags):
        self.recording.about_to_sync(self.path.parent)
        if self.recording.fails():
            self.recording.note(self.path.parent, "sync failed", self.path.name)
            raise apsw.IOError("disk I/O error")
        super().xSync(flags)
        self.recording.note(self.path.parent, "sync", self.path.name)
        if self.names_unsafe:
            self.names_unsafe = False
            self.recording.note(self.path.parent, "sync names")
