"""kill -9 in the middle of writing: every row whose persistence was told is there afterwards."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node.tasks.journal import Journal
from security.errors import BadInput, Unavailable

ROOT = Path(__file__).parents[2]
MESH = "0123456789abcdef"

WRITER = """
import asyncio, sys
from pathlib import Path
from edge_node.tasks.journal import Journal
from edge_node.tasks.task import Accepted, Closed, Outcome, Task

async def main(path, first):
    journal = Journal(Path(path), "0123456789abcdef", "pi-1")
    names = {}
    def told(serials):
        sys.stdout.write("".join(names.pop(serial) + "\\n" for serial in serials))
        sys.stdout.flush()
    def failed(serials, reason):
        raise SystemExit(reason)
    journal.start(asyncio.get_running_loop().call_soon_threadsafe, told, failed)
    serial = 0
    while True:
        for _ in range(20):
            serial += 1
            name = f"{first}-{serial}"
            names[serial] = "A " + name
            task = Task(name, "f.noop", b"d" * 32, b"x" * (serial % 3000), b"s" * 32, "pi-1")
            journal.append(serial, (Accepted(task),))
            if serial % 2:
                serial += 1
                names[serial] = "C " + name
                journal.append(serial, (Closed(name, Outcome("done", b"y" * 100)),))
        await asyncio.sleep(0.001)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def write_and_kill(path: Path, life: int, lines: int) -> tuple[set[str], set[str]]:
    """Let a writer tell `lines` lines, kill it; what it told as accepted and as closed."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), f"life{life}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        told = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
    finally:
        child.kill()
        child.wait(timeout=20)
        child.stdout.close()
    pairs = [line.split() for line in told if line.endswith("\n")]
    return {name for kind, name in pairs if kind == "A"}, {name for kind, name in pairs if kind == "C"}


@pytest.mark.slow
def test_what_was_told_as_persisted_survives_kill_9(tmp_path):
    path = tmp_path / "j.db"
    rng = random.Random(20)
    accepted: set[str] = set()
    closed: set[str] = set()
    for life in range(4):
        more, ended = write_and_kill(path, life, rng.randint(50, 1500))
        accepted |= more
        closed |= ended

        journal = Journal(path, MESH, "pi-1")

        open_now = {task.id for task, _ in journal.open_tasks()}
        for name in accepted:
            stored = journal.get(name)
            assert stored is not None, f"{name} was told and is lost"
            assert (name in open_now) == (stored.outcome is None)
        assert not closed & open_now, "what was told as ended is open again"
        assert journal.damaged == []
        assert journal.verify() == []
        journal.close()
    assert len(accepted) > 200


@pytest.mark.slow
def test_a_torn_file_is_seen_or_harmless(tmp_path):
    """Flip, cut and blank: reading either raises StoreDamaged, names the row, or loses only what it names."""
    path = tmp_path / "j.db"
    accepted, _ = write_and_kill(path, 0, 400)
    journal = Journal(path, MESH, "pi-1")
    before = {name: journal.get(name) for name in accepted}
    journal.close()
    whole = path.read_bytes()
    rng = random.Random(9)
    seen = 0
    for _ in range(40):
        torn = bytearray(whole)
        at = rng.randrange(len(torn))
        kind = rng.choice(("flip", "cut", "zero"))
        if kind == "flip":
            torn[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del torn[at:]
        else:
            torn[at : at + 4096] = bytes(len(torn[at : at + 4096]))
        for suffix in ("", "-wal", "-shm", "-mark"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(torn)

        gaps: list[str] = []
        try:
            journal = Journal(path, MESH, "pi-1")
        except (Unavailable, BadInput):
            seen += 1
            continue
        try:
            after = {name: journal.get(name) for name in accepted}
            gaps = journal.verify() + journal.damaged
        except Unavailable as error:
            gaps = [str(error)]
            after = {}
        finally:
            journal.close()
        if gaps:
            seen += 1
        for name, stored in after.items():
            if stored is not None and stored.task != before[name].task:
                pytest.fail(f"{kind} at {at} invented {name}")
            if stored != before[name]:
                assert gaps, f"{kind} at {at} changed {name} unseen"
    assert seen > 0
