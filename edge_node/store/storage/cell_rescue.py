"""Rescue: a damaged file of tables is set aside, and what can go on soundly goes on in a new one.

    the file without its log is whole     ─► that earlier state goes on, as a disk that was restored does
    anything else                         ─► the tables begin empty
    either way: each signed batch that can still be read ─► waits in the new file, and is applied in its turn

Cells that can be read beside others that cannot are not used: a table with holes, handed on as whole, would
take from the others what is missing here. They come back from the other members; who has none finds them in
the file that was set aside, under the same key. A batch is its author's signed word, whatever else is lost:
of this member's own, nobody else may have it yet.

The new file is made whole under another name first; a crash on the way is taken up at the next start. Nobody
may have the file open. Not here: pages (`store.pages`), rows (`cells`).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_node.store import whole_file
from edge_node.store.cell_store import Commit, Image, Logged, Waiting
from edge_node.store.cells import CellId
from edge_node.store.mark import SUFFIX as MARK_SUFFIX
from edge_node.store.mark import beside
from edge_node.store.pages import INTERIOR, LEAF, damaged_pages
from edge_node.store.recovery import PARTS, TOLD, Losses
from edge_node.store.storage.cell_file import READY
from edge_node.store.storage.cells import SqliteCellStore, decoded
from edge_node.store.storage.seal import BATCH, CELL, RESCUED, WAITING, Seal
from security.errors import BadInput, EdgeweaveError, Unavailable

LOOK = ".look"
BATCHES_BYTES_MAX = 64 * 2**20
"""As much as a member's log may hold; the oldest of others' go first."""


def rescue(path: Path, mesh_id: str, node_id: str, key: bytes, cause: str) -> str:
    """Set the file at *path* aside and begin a new one there. What befell it, in a sentence.

    Raises: BadInput: what can be read is another's. Unavailable: the disk refuses; what is there stays.
    """
    try:
        ready = beside(path, READY)
        if ready.exists():
            losses = told(path)[-1]  # it was written before this one was ready
            aside = path.with_name(losses.aside)
        else:
            aside = _free_name(path)
            losses = _prepared(path, mesh_id, node_id, key, aside, cause)
            whole_file.write(
                aside.with_name(aside.name + TOLD), msgspec.json.format(msgspec.json.encode(losses), indent=1)
            )
            beside(path, whole_file.DRAFT).replace(ready)
            whole_file.sync(path.parent)
        for part in ("-wal", "-shm", MARK_SUFFIX, ""):  # the file itself last: until then the name is free
            with contextlib.suppress(FileNotFoundError):
                beside(path, part).rename(beside(aside, part))
        if not aside.exists():  # so that the name is taken, and the damage told of
            aside.touch(mode=0o600)
        ready.replace(path)
        whole_file.sync(path.parent)
    except OSError as error:
        raise Unavailable(
            f"{path} is damaged and cannot be set aside: {error.strerror}", fix="free space, check the disk"
        ) from error
    return sentence(losses)


def told(path: Path) -> list[Losses]:
    """What earlier damages of this file took, oldest first."""
    found = []
    number = 1
    while (file := path.with_name(f"{path.name}.damaged-{number}{TOLD}")).exists():
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            found.append(msgspec.json.decode(file.read_bytes(), type=Losses))
        number += 1
    return found


def sentence(losses: Losses) -> str:
    more = f"; {len(losses.gaps)} places could not be read" if losses.gaps else ""
    return f"{losses.cause}; it was set aside as {losses.aside}, {'; '.join(losses.lost)}{more}"


class Salvage(NamedTuple):
    """What of a damaged file authenticates. cells: how many."""

    batches: list[Waiting]
    cells: int
    gaps: list[str]


def salvaged(path: Path, seal: Seal, node_id: str) -> Salvage:
    """Read page by page; this member's own batches first, in order."""
    pages, _ = damaged_pages(path)
    found: dict[tuple[str, int, int], tuple[int, bytes]] = {}
    cells: set[bytes] = set()
    gaps: list[str] = []
    try:
        kept = (
            record
            for number, kind in pages.trees()
            if kind not in (INTERIOR, LEAF)  # rows without numbers lie in an index
            for record in pages.records(number, kind)
        )
        for record in (*kept, *pages.doubtful_records()):
            match record.values:
                case (bytes(name), bytes(sealed)) if name[:1] in (CELL, BATCH, WAITING, RESCUED):
                    try:
                        what = decoded(name, seal.opened(name, sealed))
                    except ValueError:
                        gaps.append(f"page {record.page}: a row does not authenticate")
                        continue
                    if isinstance(what, Logged):
                        found[what[1:4]] = what.number, what.data
                    elif isinstance(what, Waiting):
                        found.setdefault(what[:3], (2**63, what.data))
                    else:
                        cells.add(name)
        gaps += pages.gaps
    finally:
        pages.close()
    batches = []
    size = 0
    for key, (_, data) in sorted(
        found.items(), key=lambda each: (each[0][0] != node_id, -each[0][1], each[1][0])
    ):
        size += len(data)
        if size > BATCHES_BYTES_MAX:
            gaps.append(f"the batches from {key} on are over {BATCHES_BYTES_MAX} bytes")
            break
        batches.append(Waiting(*key, data))
    return Salvage(batches, len(cells), gaps)


def _prepared(path: Path, mesh_id: str, node_id: str, key: bytes, aside: Path, cause: str) -> Losses:
    """The new file under its draft's name, closed; what is to be told of it."""
    draft = beside(path, whole_file.DRAFT)
    _discard(draft)
    saved = salvaged(path, Seal(key, f"{mesh_id}/{node_id}"), node_id)
    image = _earlier(path, mesh_id, node_id, key)
    store = SqliteCellStore(draft, mesh_id, node_id, key)
    try:
        if image is not None:
            cells: dict[CellId, bytes | None] = dict(image.cells)
            store.commit([Commit(cells, image.logged, waiting=image.waiting, head=image.head)])
            there = {entry[1:4] for entry in image.logged} | {each[:3] for each in image.waiting}
            kept = [each for each in saved.batches if each[:3] not in there]
            what: tuple[str, ...] = ("an earlier state goes on", f"{len(kept)} later batches were saved")
        else:
            kept = saved.batches
            what = (
                "the tables begin empty and come back from the other members",
                f"{saved.cells} cells are readable there",
                f"{len(kept)} signed batches were saved",
            )
        store.rescue(kept)
    finally:
        store.close()
    _discard(draft, but="")
    gaps = tuple(dict.fromkeys(saved.gaps))[:1000]
    now_ms = time.time_ns() // 1_000_000
    cause = cause.removeprefix(f"{path} is ")
    return Losses(
        f"{path.name} is {cause}" if cause else path.name, aside.name, now_ms, len(kept), gaps, what
    )


def _earlier(path: Path, mesh_id: str, node_id: str, key: bytes) -> Image | None:
    """What the file says without its log, if all of it authenticates: the state at its last checkpoint.

    Not with the log: frames before the first bad one would lie over pages that are newer. A kill in the
    midst of a checkpoint together with a log that is lost would mix two states; the comparison of trees with
    other members finds that. On a copy: looking would change the evidence. Raises: BadInput: it is another's.
    """
    look = beside(path, LOOK)
    _discard(look)
    try:
        if not path.exists() or not path.stat().st_size:
            return None
        shutil.copyfile(path, look)
        store = SqliteCellStore(look, mesh_id, node_id, key)
        try:
            image = store.load()
        finally:
            store.close()
    except BadInput:
        raise
    except EdgeweaveError:
        return None
    finally:
        _discard(look)
    return image if image.head is not None or image.logged else None


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _discard(path: Path, but: str | None = None) -> None:
    for part in PARTS:
        if part != but:
            beside(path, part).unlink(missing_ok=True)
