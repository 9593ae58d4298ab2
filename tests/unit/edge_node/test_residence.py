"""Only code that is a copy of its file is given back, and what was given back still runs."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node.residence import code_mapped, code_of_files

ROOT = Path(__file__).resolve().parents[3]

SMAPS = """\
7f0000000000-7f0000004000 r--p 00000000 08:01 11 /usr/lib/libone.so
Rss:                  16 kB
Anonymous:             0 kB
7f0000004000-7f0000010000 r-xp 00004000 08:01 11 /usr/lib/libone.so
Size:                 48 kB
Rss:                  40 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000010000-7f0000012000 rw-p 00010000 08:01 11 /usr/lib/libone.so
Anonymous:             8 kB
7f0000020000-7f0000021000 r-xp 00000000 08:01 12 /opt/with a space/libtwo.so
Anonymous:             0 kB
7f0000030000-7f0000031000 r-xp 00000000 08:01 13 /usr/lib/written.so
Anonymous:             4 kB
7f0000040000-7f0000041000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
"""


def test_only_unwritten_code_of_files_counts():
    assert list(code_of_files(SMAPS.splitlines(keepends=True))) == [
        (0x7F0000004000, 0xC000, "/usr/lib/libone.so"),
        (0x7F0000020000, 0x1000, "/opt/with a space/libtwo.so"),
    ]


@pytest.mark.skipif(not code_mapped(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_what_was_given_back_is_gone_and_still_runs():
    """In a process of its own: keys, TLS and SQLite work on after their code was dropped."""
    code = """if True:
        import sqlite3, ssl
        from pathlib import Path
        from edge_node.residence import code_mapped, give_back_code
        from security.identity import NodeKeys

        def resident_kb():
            return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0])

        def work():
            ssl.create_default_context()
            return NodeKeys.generate().spki_sha256, sqlite3.connect(":memory:").execute("select 1").fetchone()

        work()
        before, mapped = resident_kb(), code_mapped()
        assert give_back_code(frozenset()) == 0
        offered = give_back_code(mapped)
        after = resident_kb()
        assert offered > 1_000_000 and after < before - 2_000, (offered, before, after)
        assert work()[1] == (1,)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc_trim")
@pytest.mark.slow
def test_what_lies_free_in_the_heap_goes_back_to_the_system():
    code = """if True:
        import edge_node.daemon
        from pathlib import Path
        from edge_node.residence import give_back_heap

        def own_kb():
            return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

        blocks = [bytearray(60_000) for _ in range(800)]  # below what malloc takes from the system alone
        kept = blocks[::8]
        del blocks
        before = own_kb()
        assert give_back_heap()
        after = own_kb()
        assert after < before - 20_000, (before, after)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr


HEAPS = """if True:
    import ctypes, sys, threading
    from pathlib import Path
    from edge_node.residence import bound_heap

    def own_kb():
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

    if sys.argv[1] == "bounded":
        assert bound_heap()

    ready, stay = threading.Barrier(5), threading.Event()

    def work():
        piece = bytearray(50_000)
        ready.wait(30)
        stay.wait(30)

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    ready.wait(30)
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.fclose.argtypes = (ctypes.c_void_p,)
    told = libc.fopen(sys.argv[2].encode(), b"w")
    libc.malloc_info(0, told)
    libc.fclose(told)
    stay.set()

    first = bytearray(2_000_000)
    del first  # from here on malloc, left alone, keeps pieces of this size in the heap
    large, small = [], []
    for _ in range(40):
        large.append(bytearray(b"x") * 1_000_000)
        small.append(bytearray(2_000))  # behind it
    held = own_kb()
    del large
    print(Path(sys.argv[2]).read_text().count("<heap "), held - own_kb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
@pytest.mark.slow
def test_a_bounded_heap_is_one_and_gives_large_pieces_back(tmp_path: Path):
    """What malloc does when left alone stands beside it: a heap a thread, and large pieces kept."""

    def told(kind: str) -> tuple[int, int]:
        command = [sys.executable, "-c", HEAPS, kind, str(tmp_path / "told")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        heaps, given_back_kb = map(int, done.stdout.split())
        return heaps, given_back_kb

    heaps, given_back_kb = told("bounded")
    assert heaps == 1 and given_back_kb > 35_000
    heaps, given_back_kb = told("left alone")
    assert heaps > 1 and given_back_kb < 5_000


@pytest.mark.slow
def test_what_is_kept_for_good_is_passed_over_and_what_comes_later_is_collected():
    code = """if True:
        import gc, weakref
        import gateway.daemon
        from edge_node.residence import keep_for_good

        class Ring:
            def __init__(self):
                self.me = self

        def lost():
            return weakref.ref(Ring())

        gc.disable()  # until we ask
        before = lost()
        seen = len(gc.get_objects())
        keep_for_good()
        assert before() is None, "what was garbage is not kept"
        assert seen > 50_000 and len(gc.get_objects()) < 1_000, (seen, len(gc.get_objects()))
        after = lost()
        assert after() is not None
        gc.collect()
        assert after() is None
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
