"""Fault 9: stores that were flipped, zeroed, truncated or torn, and what their next opening says of it.

    violations = run(seed, count, scratch)      # empty: all was detected, and nothing was invented

Each case is a copy of a real ledger (or of the notes' documents), as a clean end or a kill left it, with one
drawn damage in one drawn file. A case violates promise P6 when something differs that nothing names, when
something is read that was never written, or when opening it ends otherwise than with a typed error.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_node.store.documents import Documents
from edge_node.store.recovery import ENDED_UNREADABLY
from edge_node.tasks.journal import Journal, Stored, open_journal
from edge_node.tasks.rows import Row, row_of
from edge_node.tasks.task import KNOWN_MS, Accepted, Attempt, Closed, Fenced, Noted, Outcome, Record, Task
from security.errors import EdgeweaveError

MESH, NODE = "0123456789abcdef", "pi-1"
TASKS = 120
PARTS = ("", "-wal", "-shm", "-mark")
NOW_MS = KNOWN_MS + 10**9
DOCUMENTS_SHARE = 0.2


@dataclass
class Original:
    """What was promised, and the files that a kill and a clean end left of it."""

    directory: Path
    tasks: dict[str, Stored] = field(default_factory=dict)
    documents: dict[str, dict[str, object]] = field(default_factory=dict)


def run(seed: int, count: int, scratch: Path) -> list[str]:
    """Damage `count` copies. Returns: violations, each with what repeats it; empty: none.

    Args: scratch: an empty or missing directory; what violated stays in it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    original = _made(random.Random(f"{seed}/original"), scratch / "original")
    violations = []
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        case = scratch / f"case-{number}"
        shutil.rmtree(case, ignore_errors=True)
        judge = _documents_case if rng.random() < DOCUMENTS_SHARE else _ledger_case
        what, wrong = judge(rng, original, case)
        if wrong:
            violations += [f"seed {seed}, case {number}, {what}: {each}" for each in wrong]
        else:
            shutil.rmtree(case)
    return violations


# ── what is damaged ───────────────────────────────────────────────────────────────────────────────────


def _made(rng: random.Random, directory: Path) -> Original:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    original = Original(directory)
    ledger = directory / "ledger.db"
    journal = Journal(ledger, MESH, NODE)
    _fill(journal, rng, 0, TASKS // 2)
    journal.prune(count_max=TASKS // 5, bytes_max=2**30, before_ms=0)
    journal.close()
    _copied(ledger, directory / "ended")
    journal = Journal(ledger, MESH, NODE)
    _fill(journal, rng, TASKS // 2, TASKS)
    _copied(ledger, directory / "killed")
    for summary in journal.list(10 * TASKS):
        stored = journal.get(summary.id)
        assert stored is not None
        original.tasks[summary.id] = stored
    journal.close()
    documents = Documents(directory / "documents.db")
    table = documents.table("results", key="id")
    for number in range(60):
        row = {"id": f"r{number}", "text": rng.randbytes(rng.randrange(600)).hex()}
        table.upsert(row)
        original.documents[row["id"]] = row
    _copied(directory / "documents.db", directory / "killed")
    documents.close()
    _copied(directory / "documents.db", directory / "ended")
    return original


def _fill(journal: Journal, rng: random.Random, first: int, end: int) -> None:
    for number in range(first, end):
        name = f"task-{number:04}"
        size = rng.choice((0, 50, 300, 3000, 9000))
        task = Task(name, "lab.warmest", b"d" * 32, rng.randbytes(size), b"s" * 32, NODE,
                    accepted_at_ms=KNOWN_MS + number)  # fmt: skip
        records: list[Record] = [Accepted(task)]
        attempts: tuple[Attempt, ...] = ()
        for attempt in range(2, 2 + rng.choice((0, 0, 0, 1, 3))):
            attempts = (*attempts[:-1], Attempt(attempt - 1, "pi-2", ended_as="lapsed"), Attempt(attempt, ""))
            records.append(Fenced(name, attempts))
        if rng.random() < 0.3:
            records.append(Noted(name, KNOWN_MS, f"a late result, {number}"))
        if rng.random() < 0.6:
            outcome = Outcome("done", rng.randbytes(rng.choice((10, 500, 6000))),
                              settled_at_ms=KNOWN_MS + number, attempts=attempts, place="pi-2")  # fmt: skip
            records.append(Closed(name, outcome))
        for record in records:
            journal._store.insert([row_of(record)])


def _copied(path: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for part in PARTS:
        source = path.with_name(path.name + part)
        if source.exists():
            shutil.copyfile(source, target / source.name)


def _hurt(rng: random.Random, path: Path) -> str:
    """One drawn damage. Returns: it, in words."""
    data = bytearray(path.read_bytes())
    size = len(data)
    draws: list[Callable[[], str]] = [
        lambda: _flip(rng, data),
        lambda: _flip(rng, data),
        lambda: _zero(rng, data, 1, 4096),
        lambda: _zero(rng, data, 4096, 4 * 4096),
        lambda: _cut(rng, data),
        lambda: _tear(rng, data),
        lambda: _zero(rng, data, size, size) if rng.random() < 0.2 else _flip(rng, data),
    ]
    what = rng.choice(draws)() if data else "nothing (empty)"
    path.write_bytes(data)
    return f"{path.name} of {size} bytes: {what}"


def _flip(rng: random.Random, data: bytearray) -> str:
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    return f"a bit flipped at {at}"


def _zero(rng: random.Random, data: bytearray, least: int, most: int) -> str:
    length = min(len(data), rng.randint(least, most))
    at = rng.randrange(len(data) - length + 1)
    data[at : at + length] = bytes(length)
    return f"{length} bytes zeroed at {at}"


def _cut(rng: random.Random, data: bytearray) -> str:
    at = rng.choice((0, rng.randrange(len(data)), rng.randrange(len(data)) // 4096 * 4096))
    del data[at:]
    return f"cut to {at} bytes"


def _tear(rng: random.Random, data: bytearray) -> str:
    at = rng.randrange(len(data)) // 512 * 512
    end = min(len(data), at + 512 * rng.randint(1, 8))
    data[at:end] = rng.randbytes(end - at)
    return f"{end - at} bytes torn at {at}"


# ── the ledger ────────────────────────────────────────────────────────────────────────────────────────


def _ledger_case(rng: random.Random, original: Original, case: Path) -> tuple[str, list[str]]:
    state = rng.choice(("ended", "killed", "killed"))
    shutil.copytree(original.directory / state, case)
    path = case / "ledger.db"
    part = rng.choice([part for part in (*PARTS, "", "-wal") if (case / f"ledger.db{part}").exists()])
    what = f"{state}: {_hurt(rng, case / f'ledger.db{part}')}"
    expected = original.tasks
    if state == "ended":
        earlier = {name for name in expected if name < f"task-{TASKS // 2:04}"}
        expected = {name: expected[name] for name in earlier}
    try:
        journal = open_journal(path, MESH, NODE, now_ms=NOW_MS)
    except EdgeweaveError:
        return what, []  # told in one line, nothing emptied: the file is as it was
    except Exception as error:
        return what, [f"opening it raised {type(error).__name__}: {error}"]
    try:
        return what, judged(journal, expected)
    except Exception as error:
        return what, [f"reading it raised {type(error).__name__}: {error}"]
    finally:
        journal.close()


def judged(journal: Journal, expected: dict[str, Stored]) -> list[str]:
    """What of a reopened journal violates P6."""
    wrong = []
    opened = {task.id for task, _ in journal.open_tasks()}
    found = {name: journal.get(name) for name in expected}
    listed = {summary.id for summary in journal.list(100 * TASKS)} | opened
    named = "\n".join([*journal.damaged, *journal.verify()])
    unnamed = any(losses.unnamed for losses in journal.losses)
    wrong += [f"{name} was never there" for name in sorted(listed - expected.keys())]
    for name, before in expected.items():
        after = found[name]
        if _same(after, before):
            if (before.outcome is None) != (name in opened):
                wrong.append(f"{name} is open, or not, against its records")
            continue
        if name not in named and not unnamed:
            wrong.append(f"{name} differs and nothing names it")
        if after is None:
            continue
        if after.task != before.task:
            wrong.append(f"{name}: another task")
        if after.outcome not in (None, before.outcome) and after.outcome.cause != ENDED_UNREADABLY:
            wrong.append(f"{name}: an outcome that never was")
        numbers = {attempt.number for attempt in before.attempts} | {1}
        if not {attempt.number for attempt in after.attempts} <= numbers:
            wrong.append(f"{name}: an attempt that never was")
        if not {note.text for note in after.notes} <= {note.text for note in before.notes}:
            wrong.append(f"{name}: a note that never was")
    return wrong


def _same(after: Stored | None, before: Stored) -> bool:
    """But for when a note was made, which its checksum does not cover and nothing decides by."""
    return after is not None and (after.task, after.outcome, after.attempts) == (
        before.task,
        before.outcome,
        before.attempts,
    ) and [note.text for note in after.notes] == [note.text for note in before.notes]  # fmt: skip


# ── the notes' documents ──────────────────────────────────────────────────────────────────────────────


def _documents_case(rng: random.Random, original: Original, case: Path) -> tuple[str, list[str]]:
    state = rng.choice(("ended", "killed"))
    shutil.copytree(original.directory / state, case)
    path = case / "documents.db"
    part = rng.choice([part for part in ("", "", "-wal") if (case / f"documents.db{part}").exists()])
    what = f"{state}: {_hurt(rng, case / f'documents.db{part}')}"
    try:
        documents = Documents(path)
    except EdgeweaveError:
        return what, []
    except Exception as error:
        return what, [f"opening it raised {type(error).__name__}: {error}"]
    try:
        table = documents.table("results", key="id")
        kept = {row["id"]: dict(row) for row in table}
        told = documents.set_aside is not None or documents.verify()
    except EdgeweaveError:
        return what, []
    except Exception as error:
        return what, [f"reading it raised {type(error).__name__}: {error}"]
    finally:
        documents.close()
    lost = sorted(original.documents.keys() - kept.keys())
    wrong = [f"{len(lost)} documents are gone and nothing says so"] if lost and not told else []
    wrong += [
        f"{name} is not what was written" for name in kept if kept[name] != original.documents.get(name)
    ]
    return what, wrong


__all__ = ["Row", "judged", "run"]
