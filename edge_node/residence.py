"""What a start leaves behind: pages that only it needed go back, objects that stay are not looked at again.

Half of a node's resident memory is mapped from files, most of it code of shared libraries: libcrypto and
the cryptography package, libpython, SQLite, zeroconf. Starting runs through much of that once (registering
types and algorithms, parsing certificates, a TLS handshake), and the kernel maps sixteen pages round each
that is touched, so that much of what counts as resident was never read. What an idle node runs comes back at
the next call, out of the page cache.

    kB resident from files, x86_64:    24 700 before · 10 400 after · 20 300 a minute later, and after five

Importing reads every module as a whole and keeps part of it: a tenth of the heap is holes, which malloc
holds on to. It is told to give back whole free pages, once.

    kB of its own after the imports:    24 300 before · 21 600 after, where Python compiles as it imports;
                                        with the bytecode on the disk already there is little to give back

What is dropped of code must be nothing but a copy of its file: executable, private, never written, and no
library that a thread is loading at this moment, whose pages may become its data. So only mappings count that
are the same as some seconds before. Breakpoints that a debugger writes into code make it written, and it
stays.

A gateway answers with large pieces: pages of tasks, the roster, a picture of the mesh. Left alone, malloc
makes a heap for each thread that touches it, and after the first large piece is freed it keeps such pieces in
the heap, where a small one behind it holds the whole. So it gets one heap, large pieces are mapped and
unmapped by themselves (``bound_heap``), and once a minute what lies free goes back (``keep_heap_small``).

Objects that imports and the start made live as long as the process: modules, classes, routes, schemas. Each
full collection of Python's collector reads them all again, and everything waits meanwhile. They are put out
of its sight (``keep_for_good``; ``benchmarks/bench_idle.py --collector`` tells the pause with and without).

Rejected: mappings that are read-only but not executable, among which are the relocated pointers of loaded
libraries; dropping code again and again, which would only move the cost into the node's work.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

SETTLED_S: Final = 15.0
"""After the start: by then there are sessions, announcements and the functions' files."""
TRIM_S: Final = 60.0
"""Between two looks for what lies free."""
LARGE_BYTES: Final = 128 * 1024
"""What is mapped by itself from here on; malloc's own first choice, which it would raise up to 32 MiB."""
_M_ARENA_MAX: Final = -8
_M_MMAP_THRESHOLD: Final = -3
_MADV_DONTNEED: Final = 4  # of Linux on every architecture that CPython is built for

Mapping = tuple[int, int, str]  # address, bytes, file


def keep_for_good() -> None:
    """Full collections pass over what is alive now. To be called when much was loaded that stays."""
    gc.collect()
    gc.freeze()


def give_back(before: Set[Mapping]) -> None:
    """What the start needed and nothing after it. Args: before: of ``code_mapped``, some seconds ago."""
    give_back_heap()
    give_back_code(before)


def code_of_files(smaps: Iterable[str]) -> Iterator[Mapping]:
    """The mappings of code that is as it stands in its file. Args: smaps: lines of /proc/self/smaps."""
    mapping: Mapping | None = None
    for line in smaps:
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):  # from-to rwxp offset device inode path
            mapping = None
            if len(fields) == 6 and fields[1] == "r-xp" and fields[5].startswith("/"):
                begin, end = (int(each, 16) for each in fields[0].split("-"))
                mapping = (begin, end - begin, fields[5].rstrip())
        elif mapping is not None and fields[0] == "Anonymous:":  # what was written since it was mapped
            if fields[1] == "0":
                yield mapping
            mapping = None


def code_mapped() -> frozenset[Mapping]:
    """What may be given back some seconds later; nothing where there is no /proc."""
    try:
        with Path("/proc/self/smaps").open() as smaps:
            return frozenset(code_of_files(smaps))
    except OSError:
        return frozenset()


def give_back_code(before: Set[Mapping]) -> int:
    """Drop the code that was mapped *before* and still is; returns the bytes offered.

    It takes a few milliseconds, and a microsecond for every page that is wanted again.
    """
    try:
        madvise = ctypes.PyDLL(None).madvise  # holding the interpreter: nobody imports a library meanwhile
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    offered = 0
    for address, size, _ in sorted(before & code_mapped()):
        if madvise(address, size, _MADV_DONTNEED) == 0:  # a locked mapping refuses, and stays
            offered += size
    log.debug("code given back", extra={"bytes": offered})
    return offered


def give_back_heap() -> bool:
    """Free pages in the middle of malloc's heaps go back to the system; takes some milliseconds.

    False: there were none, or this C library does not offer it.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim  # of glibc
    except (OSError, AttributeError):
        return False
    trim.argtypes = (ctypes.c_size_t,)
    return bool(trim(0))


def bound_heap() -> bool:
    """One heap for all threads (they share an interpreter anyway), large pieces apart; before there are any.

    False: this C library does not offer it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt  # of glibc
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    return bool(mallopt(_M_ARENA_MAX, 1) and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))


async def keep_heap_small() -> None:
    """Give back what lies free once a minute, until cancelled."""
    while True:
        await asyncio.sleep(TRIM_S)
        await asyncio.to_thread(give_back_heap)
