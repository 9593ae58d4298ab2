"""A record as files: ``record.json``, ``report.html``, and the pictures beside it.

The pictures need matplotlib, the extra ``report``; without it the other two are written all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from device_sim.report.captions import Picture
from device_sim.report.page import page
from device_sim.report.record import Record
from security.errors import Unavailable

NO_PICTURES: Final = "no pictures: matplotlib is not installed: pip install 'edgeweave[report]'"


def write(record: Record, folder: Path) -> str:
    """Write them. Returns: a line about what is missing; empty if nothing is. Raises: Unavailable."""
    pictures = drawn(record)
    make_folder(folder)
    with writing(folder):
        (folder / "record.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
        )
        (folder / "report.html").write_text(page(record, pictures), encoding="utf-8")
        for picture in pictures or ():
            file = folder / f"{picture.caption.name}.png"
            file.write_bytes(picture.png) if picture.png else file.unlink(missing_ok=True)  # of a run before
    return NO_PICTURES if pictures is None else ""


def read(file: Path) -> Record:
    """A record from its file. Raises: OSError, msgspec.MsgspecError."""
    return msgspec.json.decode(file.read_bytes(), type=Record)


def drawn(record: Record) -> Sequence[Picture] | None:
    """None: matplotlib is missing."""
    try:
        from device_sim.report import charts
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("matplotlib", "numpy"):
            raise
        return None
    return charts.draw(record)


def make_folder(folder: Path) -> None:
    """Where a report will lie. Raises: Unavailable: it cannot be made."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises: Unavailable: something cannot be written there."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"cannot write to {folder}: {error.strerror}", fix="remove it, or make it yours: chown -R"
        ) from None
