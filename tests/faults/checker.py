"""What a run has left behind, judged by somebody who was not there.

Reads ledgers (SQLite files, read-only, after their processes are gone) and the driver's own notes; shares no
code with the daemons, and knows a row only by its shape. In the notes, one JSON a line:

    {"asked": n, "at": owner, "t": s}             before a task was handed over; n is its first argument
    {"accepted": n, "id": task}                   the daemon said yes: from here on it is a promise
    {"told": id, "status": …, "value": …}         the end of it, as the waiting client heard it
    {"again": id, "status": …, "value": …}        the same, asked for once more afterwards

Held are P1 (every accepted task one terminal record, none invented), P2 (one end, told once, never
differently), P3 (what was acknowledged is on the disk), P8 (a second attempt has a reason in its rows).
Not here: how long anything took.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

ACCEPTED, CLOSED, RESERVED = 0, 1, 100  # kinds of row; below 0: a note
VIOLATIONS_MAX = 50


@dataclass
class Kept:
    """What one ledger says of one task."""

    owner: str
    accepts: list[list[Any]] = field(default_factory=list)
    ends: list[list[Any]] = field(default_factory=list)
    attempts: list[list[Any]] = field(default_factory=list)  # of the last reservation
    notes: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    accepted: int
    violations: list[str]
    statuses: Counter[str]
    figures: dict[str, float | int | str]


def read_ledger(path: Path, owner: str) -> dict[str, Kept]:
    """Raises: sqlite3.Error: it cannot be read, which the caller calls a loss."""
    kept: dict[str, Kept] = {}
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT id, kind, body FROM records ORDER BY seq").fetchall()
    finally:
        connection.close()
    for task, kind, body in rows:
        each = kept.setdefault(task, Kept(owner))
        if kind == ACCEPTED:
            each.accepts.append(msgspec.msgpack.decode(body))
        elif kind == CLOSED:
            each.ends.append(msgspec.msgpack.decode(body))
        elif kind >= RESERVED:
            each.attempts = msgspec.msgpack.decode(body)
        else:
            each.notes.append(body.decode("utf-8", "replace"))
    return kept


def read_notes(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def judge(ledgers: dict[str, Path], notes: Iterable[Path]) -> Verdict:
    """Args: ledgers: owner -> its file.   notes: of every driver."""
    violations: list[str] = []
    kept: dict[str, Kept] = {}
    for owner, path in sorted(ledgers.items()):
        try:
            found = read_ledger(path, owner)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            violations.append(f"P6: the ledger of {owner} cannot be read: {error}")
            continue
        for task in found.keys() & kept.keys():
            violations.append(f"P1: task {task} is in the ledgers of {kept[task].owner} and {owner}")
        kept |= found
    said = [note for path in notes for note in read_notes(path)]
    asked = {note["asked"]: note["at"] for note in said if "asked" in note}
    accepted = {note["id"]: note["accepted"] for note in said if "accepted" in note}
    violations += _promises(kept, accepted)
    violations += _nothing_invented(kept, asked, accepted)
    violations += _told_once(kept, said)
    explained, unexplained = _reasons(kept)
    violations += unexplained
    statuses = Counter(each.ends[0][0] for each in kept.values() if each.ends)
    figures: dict[str, float | int | str] = {
        "tasks with a second attempt": explained + len(unexplained),
        "asked, answer lost, kept all the same": len(kept.keys() - accepted.keys()),
        "not done": sum(count for status, count in statuses.items() if status != "done"),
    }
    return Verdict(len(accepted), violations[:VIOLATIONS_MAX], statuses, figures)


def _promises(kept: dict[str, Kept], accepted: dict[str, int]) -> list[str]:
    found = []
    for task, number in accepted.items():
        each = kept.get(task)
        if each is None or not each.accepts:
            found.append(f"P3: task {task} (asked as {number}) was acknowledged and is in no ledger")
        elif not each.ends:
            found.append(f"P1: task {task} (asked as {number}) has no terminal record at {each.owner}")
    return found


def _nothing_invented(kept: dict[str, Kept], asked: dict[int, str], accepted: dict[str, int]) -> list[str]:
    found = []
    tasks_of: dict[int, str] = {}
    for task, each in kept.items():
        if len(each.accepts) > 1:
            found.append(f"P1: task {task} has {len(each.accepts)} accepts")
        if len(each.ends) > 1:
            found.append(f"P1: task {task} has {len(each.ends)} terminal records")
        if not each.accepts:
            found.append(f"P1: task {task} at {each.owner} ended without an accept")
            continue
        number = _number_of(each.accepts[0])
        if number not in asked:
            found.append(f"P1: task {task} at {each.owner} was never asked for (number {number})")
        elif asked[number] != each.owner:
            found.append(f"P1: task {task} was asked of {asked[number]} and is at {each.owner}")
        elif number in tasks_of:
            found.append(f"P1: number {number} became two tasks, {tasks_of[number]} and {task}")
        elif accepted.get(task, number) != number:
            found.append(f"P1: task {task} was accepted as {accepted[task]} and kept as {number}")
        else:
            tasks_of[number] = task
    return found


def _number_of(task: list[Any]) -> Any:
    """The first argument. A task's row is [id, function, digest, input, …], its input [args, kwargs]."""
    try:
        return msgspec.msgpack.decode(task[3])[0][0]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return None


def _told_once(kept: dict[str, Kept], said: list[dict[str, Any]]) -> list[str]:
    found = []
    first: dict[str, dict[str, Any]] = {}
    for note in said:
        task = note.get("told") or note.get("again")
        if not task:
            continue
        if "told" in note and task in first:
            found.append(f"P2: the end of task {task} was told twice")
        before = first.setdefault(task, note)
        if (note["status"], note["value"]) != (before["status"], before["value"]):
            found.append(
                f"P2: task {task} was told as {before['status']} {before['value']!r}, "
                f"then as {note['status']} {note['value']!r}"
            )
    for task, note in first.items():
        each = kept.get(task)
        if each is None or not each.ends:
            found.append(f"P3: the end of task {task} was told and is on no disk")
        elif each.ends[0][0] != note["status"]:
            found.append(f"P2: task {task} was told as {note['status']}, kept as {each.ends[0][0]}")
        elif note["status"] == "done" and each.accepts and note["value"] != _number_of(each.accepts[0]):
            found.append(f"P2: task {task} was told with the value {note['value']!r} of another")
    return found


def _reasons(kept: dict[str, Kept]) -> tuple[int, list[str]]:
    """(tasks whose further attempts have a reason, violations). An attempt is [number, node, pid, …, how]."""
    explained, found = 0, []
    for task, each in kept.items():
        attempts = [*each.attempts, *(each.ends[0][5] if each.ends else [])]
        newest = max((attempt[0] for attempt in attempts), default=1)
        if newest < 2:
            continue
        reasons = {attempt[0] for attempt in attempts if attempt[5] and attempt[5] != "done"}
        if each.notes or reasons:
            explained += 1
        else:
            found.append(f"P8: task {task} had {newest} attempts, and no row says why")
    return explained, found
