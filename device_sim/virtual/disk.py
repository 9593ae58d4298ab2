"""The disk: files whose bytes are safe once they are fsynced, and may be lost, torn or mixed before.

    write, truncate ─► the file as everybody reads it, and a list of what is not safe yet
    fsync           ─► nothing of that file is unsafe        fsync_dir ─► no name of that directory is
    power_cut       ─► of the unsafe an arbitrary part is left, block by block; the last may be torn

A process that dies loses nothing here: what it wrote lies in the kernel's cache. A power cut loses what the
kernel had not written yet: for each file either everything after some point or arbitrary blocks of 4 KiB,
the last of them cut anywhere, holes and a length without its bytes read as zeros. Names (creations, renames,
removals) come undone from the newest on, as a journalling file system does it, whatever the bytes do: so an
empty file may bear a name, and whoever wants both fsyncs both.

An fsync that fails (`fail_fsync`) throws the unsafe bytes away, as Linux does: the next one succeeds and
they are still gone. Nothing here takes time: ``fsync_ns`` says what a device would take, the caller waits.
Not here: files as their users want them (`ledger_log`, `key_files`).

Source of the failure model: Pillai et al., "All file systems are not created equal", OSDI 2014;
Rebello et al., "Can applications recover from fsync failures?", ATC 2020.
"""

from __future__ import annotations

import errno
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

BLOCK: Final = 4096
UNSAFE_MAX: Final = 16
UNSAFE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one file: two commits of the largest size."""


class Speed(NamedTuple):
    """How long the device takes. The fsync is log-normal: most take the median, one in 2000 ten times it."""

    fsync_ns_median: int = 2_000_000
    fsync_sigma: float = 0.7
    bytes_per_s: int = 20_000_000


class _Change(NamedTuple):
    """What made a file unsafe. `new` None: it was truncated at `offset`."""

    offset: int
    old: bytes  # what lay there before, as far as the file went
    new: bytes | None


class _File:
    __slots__ = ("data", "unsafe", "unsafe_bytes")

    def __init__(self) -> None:
        # What it holds. A file written at once keeps the very bytes that it was given, which many disks of
        # a world may share (a roster is 90 KB); it gets its own when it changes, see `own`.
        self.data: bytes | bytearray = b""
        self.unsafe: list[_Change] = []
        self.unsafe_bytes = 0

    def remember(self, change: _Change, unsafe_max: int) -> None:
        self.unsafe.append(change)
        self.unsafe_bytes += len(change.new or b"")
        while len(self.unsafe) > unsafe_max or self.unsafe_bytes > UNSAFE_BYTES_MAX:
            self.unsafe_bytes -= len(self.unsafe.pop(0).new or b"")

    def safe(self) -> None:
        self.unsafe.clear()
        self.unsafe_bytes = 0

    def own(self) -> bytearray:
        """Its data, to be changed."""
        data = self.data
        if type(data) is not bytearray:
            data = self.data = bytearray(data)
        return data

    def undo(self) -> list[_Change]:
        """Back to what is safe. Returns: what was undone, oldest first."""
        data = self.own()
        for offset, old, new in reversed(self.unsafe):
            if new is None:
                data[offset:] = old
            elif len(old) == len(new):
                data[offset : offset + len(new)] = old
            else:  # it had grown by this
                data[offset:] = old
        undone = self.unsafe[:]
        self.safe()
        return undone


class Disk:
    """One device with one file system. A name may hold one ``/``: what is before it is its directory.

    Args: rng: draws latencies.   capacity_bytes: of all files together; it may be changed at any time.
        unsafe_max: changes of one file, or of the names, that the kernel keeps to itself before it writes the
        oldest of them back.
    Raises (whatever changes something): OSError: ENOSPC, EIO, ENOENT.
    """

    __slots__ = (
        "_fail_fsync",
        "_files",
        "_refuse",
        "_renamed",
        "_rng",
        "_unsafe_max",
        "_used",
        "capacity_bytes",
        "commits",
        "fsyncs",
        "speed",
        "watch",
        "writes",
    )

    def __init__(
        self,
        rng: random.Random,
        *,
        capacity_bytes: int = 1 << 40,
        speed: Speed | None = None,
        unsafe_max: int = UNSAFE_MAX,
    ) -> None:
        self._unsafe_max = unsafe_max
        self.capacity_bytes = capacity_bytes
        self.speed = speed or Speed()
        self.commits = array("q")
        """Of the ledger's log, for who judges a run and nobody in it: from, to, and when that was fsynced."""
        self.writes = 0
        self.fsyncs = 0
        self.watch: Callable[[str, str, str, int], None] | None = None
        """Told before and after each change: ("before" or "after", "write", "fsync" or "names", the file or
        the directory, bytes). What it raises goes to whoever changes something."""
        self._rng = rng
        self._files: dict[str, _File] = {}
        self._renamed: list[list[tuple[str, _File | None, _File | None]]] = []  # names: before, after
        self._used = 0
        self._refuse: range | None = None  # numbers of the writes that are refused
        self._fail_fsync: range | None = None

    # ── reading ───────────────────────────────────────────────────────────────────────────────────

    def exists(self, name: str) -> bool:
        return name in self._files

    def names(self, directory: str = "") -> list[str]:
        """Of the files in this directory, sorted, without the directory."""
        within = f"{directory}/" if directory else ""
        found = [name.removeprefix(within) for name in self._files if name.startswith(within)]
        return sorted(name for name in found if "/" not in name)

    def size(self, name: str) -> int:
        return len(self._file(name).data)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from there; fewer at the end of the file."""
        data = self._file(name).data
        return bytes(data[offset:] if length is None else data[offset : offset + length])

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def unsafe_bytes(self) -> int:
        """Written, and not on the medium for sure."""
        return sum(file.unsafe_bytes for file in self._files.values())

    # ── changing ──────────────────────────────────────────────────────────────────────────────────

    def create(self, name: str) -> None:
        """An empty file, if there is none."""
        assert name.count("/") <= 1, "one level of directories"
        if name not in self._files:
            self._names_change([(name, None, _File())])

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Overwrite or extend; the file is made if missing, a hole reads as zeros.

        Raises: OSError: ENOSPC: what fitted is written, as with write(2).
        """
        self._tell("before", "write", name, len(data))
        self._admit()
        self.create(name)
        file = self._files[name]
        self._extend(file, offset, data)
        self._tell("after", "write", name, len(data))

    def append(self, name: str, data: bytes) -> int:
        """Returns: where it begins."""
        offset = len(self._files[name].data) if name in self._files else 0
        self.write(name, offset, data)
        return offset

    def truncate(self, name: str, size: int) -> None:
        """Cut to, or extend with zeros to `size` bytes. Cutting needs no space, so a full disk permits it."""
        file = self._file(name)
        length = len(file.data)
        self._tell("before", "write", name, max(0, size - length))
        if size < length:
            file.remember(_Change(size, bytes(file.data[size:]), None), self._unsafe_max)
            del file.own()[size:]
            self._used -= length - size
        elif size > length:
            self._admit()
            self._extend(file, length, bytes(size - length))
        self._tell("after", "write", name, max(0, size - length))

    def rename(self, old: str, new: str) -> None:
        """Atomic; what bore the new name is gone."""
        assert old.rpartition("/")[0] == new.rpartition("/")[0], "within one directory"
        file = self._file(old)
        self._tell("before", "names", new)
        if old != new:
            self._names_change([(old, file, None), (new, self._files.get(new), file)])
        self._tell("after", "names", new)

    def remove(self, name: str) -> None:
        file = self._file(name)
        self._tell("before", "names", name)
        self._names_change([(name, file, None)])
        self._tell("after", "names", name)

    def fsync(self, name: str) -> None:
        """Raises: OSError: EIO: what was unsafe is lost, also to those who read."""
        file = self._file(name)
        self._tell("before", "fsync", name)
        self.fsyncs += 1
        if self._fail_fsync is not None and self.fsyncs in self._fail_fsync:
            before = len(file.data)
            file.undo()
            self._used += len(file.data) - before
            raise OSError(errno.EIO, "Input/output error", name)
        file.safe()
        self._tell("after", "fsync", name)

    def fsync_dir(self, directory: str = "") -> None:
        """Raises: OSError: EIO: the names are as before, and still not safe."""
        self._tell("before", "fsync", f"{directory}/")
        self.fsyncs += 1
        if self._fail_fsync is not None and self.fsyncs in self._fail_fsync:
            raise OSError(errno.EIO, "Input/output error", directory)
        self._renamed = [each for each in self._renamed if each[0][0].rpartition("/")[0] != directory]
        self._tell("after", "fsync", f"{directory}/")

    # ── time ──────────────────────────────────────────────────────────────────────────────────────

    def fsync_ns(self) -> int:
        """How long the next fsync takes; drawn anew each time."""
        drawn = self._rng.lognormvariate(0.0, self.speed.fsync_sigma)
        return round(self.speed.fsync_ns_median * min(drawn, 1000.0))

    def write_ns(self, length: int) -> int:
        """How long so many bytes take on their way to the medium."""
        return length * 1_000_000_000 // self.speed.bytes_per_s

    # ── faults ────────────────────────────────────────────────────────────────────────────────────

    def power_cut(self, rng: random.Random) -> None:
        """The machine is dark; what is here afterwards is what it finds when it comes up."""
        self._undo_names(rng)
        for name in sorted(self._files):
            file = self._files[name]
            if file.unsafe:
                _lose(file, rng)
        self._renamed.clear()
        self._used = sum(len(file.data) for file in self._files.values())

    def refuse(self, nth: int = 1, times: int = 1) -> None:
        """The nth write from now finds the disk full, and so do the next; ``times=0``: none is refused."""
        self._refuse = range(self.writes + nth, self.writes + nth + times) if times else None

    def fail_fsync(self, nth: int = 1, times: int = 1) -> None:
        """The nth fsync from now fails, and so do the next; ``times=0``: none fails."""
        self._fail_fsync = range(self.fsyncs + nth, self.fsyncs + nth + times) if times else None

    def flip(self, name: str, bit: int) -> None:
        """Bit rot: bit `bit` of the file, also of what is safe."""
        self._file(name).own()[bit >> 3] ^= 1 << (bit & 7)

    def blank(self, name: str, offset: int, length: int) -> None:
        """A region of the medium reads as zeros."""
        data = self._file(name).own()
        length = len(data[offset : offset + length])
        data[offset : offset + length] = bytes(length)

    def cut_off(self, name: str, size: int) -> None:
        """The medium lost the end of the file, whatever was fsynced."""
        file = self._file(name)
        file.safe()
        self._used -= len(file.data[size:])
        del file.own()[size:]

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, when: str, what: str, name: str, length: int = 0) -> None:
        if self.watch is not None:
            self.watch(when, what, name, length)

    def _file(self, name: str) -> _File:
        file = self._files.get(name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return file

    def _admit(self) -> None:
        self.writes += 1
        if self._refuse is not None and self.writes in self._refuse:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _extend(self, file: _File, offset: int, data: bytes) -> None:
        length = len(file.data)
        growth = offset + len(data) - length
        free = self.capacity_bytes - self._used
        full = growth > free and growth > 0
        if full:
            data = data[: max(0, length + free - offset)]
            growth = offset + len(data) - length
        if data:
            if not length and not offset:
                file.remember(_Change(0, b"", data), self._unsafe_max)
                file.data = bytes(data)
                self._used += growth
            elif growth > 0:
                gap = bytes(max(0, offset - length))
                start = min(offset, length)
                file.remember(_Change(start, bytes(file.data[start:]), gap + data), self._unsafe_max)
                file.own()[start:] = gap + data
                self._used += growth
            else:
                end = offset + len(data)
                file.remember(_Change(offset, bytes(file.data[offset:end]), bytes(data)), self._unsafe_max)
                file.own()[offset:end] = data
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _names_change(self, change: list[tuple[str, _File | None, _File | None]]) -> None:
        self._renamed.append(change)
        if len(self._renamed) > self._unsafe_max:
            self._renamed.pop(0)
        for name, before, after in change:
            if before is not None:
                self._used -= len(before.data)
            self._put(name, after)
            if after is not None:
                self._used += len(after.data)

    def _put(self, name: str, file: _File | None) -> None:
        if file is None:
            self._files.pop(name, None)
        else:
            self._files[name] = file

    def _undo_names(self, rng: random.Random) -> None:
        directories = sorted({change[0][0].rpartition("/")[0] for change in self._renamed})
        kept = {
            each: rng.randint(0, sum(change[0][0].rpartition("/")[0] == each for change in self._renamed))
            for each in directories
        }
        undone = []
        for change in self._renamed:
            directory = change[0][0].rpartition("/")[0]
            if kept[directory]:
                kept[directory] -= 1
            else:
                undone.append(change)
        for change in reversed(undone):
            for name, before, _ in reversed(change):
                self._put(name, before)


def _lose(file: _File, rng: random.Random) -> None:
    """Of what was unsafe, an arbitrary part is left."""
    length = len(file.data)
    pieces: list[tuple[int, bytes | None]] = []
    for offset, _, new in file.undo():
        if new is None:
            pieces.append((offset, None))
            continue
        at = 0
        while at < len(new):  # as far as the end of the block that it begins in
            step = min(len(new) - at, BLOCK - (offset + at) % BLOCK)
            pieces.append((offset + at, new[at : at + step]))
            at += step
    if rng.random() < 0.5:
        kept = pieces[: rng.randint(0, len(pieces))]
    else:
        kept = [piece for piece in pieces if rng.random() < 0.5]
    if kept and rng.random() < 0.5:
        offset, new = kept[-1]
        if new is not None:
            kept[-1] = (offset, new[: rng.randrange(len(new) + 1)])
    data = file.own()
    for offset, new in kept:
        if new is None:
            del data[offset:]
            continue
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        data[offset : offset + len(new)] = new
    if length > len(data) and rng.random() < 0.25:  # the length was safe before the bytes were
        data.extend(bytes(rng.randint(0, length - len(data))))
