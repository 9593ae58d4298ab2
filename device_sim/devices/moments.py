"""Recorded columns: the moments of an arrival trace, and the milliseconds that a function took.

CSV or Parquet. Moments are seconds (from anywhere) or ISO 8601 stamps (without an offset: UTC), ascending.
In: a file and a column. Out: integer nanoseconds after the first moment; milliseconds. A column that is not
there or a cell that does not fit is told with file, line and column.
"""

from __future__ import annotations

import difflib
import math
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from device_sim.devices import parquet
from device_sim.devices.series import NoSuchColumn
from edge_node.commands.inputs import read_input
from security.errors import BadInput

MOMENTS_MAX: Final = 5_000_000
"""Of one trace: 40 MB in memory, shared by all nodes that replay it."""
SECOND: Final = 1_000_000_000
SECONDS_MAX: Final = 1e15
"""Thirty million years: beyond it a float of seconds has no milliseconds, and no use."""


def read_moments(path: Path, column: str) -> Sequence[int]:
    """Nanoseconds after the first moment. Args: column: empty: the only one of the file.

    Raises: BadInput: the file cannot be read, a cell is no moment or earlier than the one before it;
        NoSuchColumn.
    """
    name, cells, first_row, unit = _column(path, column)
    found = array("q")
    begun = 0
    stamps: bool | None = None
    for number, cell in enumerate(cells, first_row):
        at_ns = _moment_ns(cell)
        if at_ns is None or (stamps is not None and stamps is isinstance(cell, int | float)):
            wanted = "seconds or an ISO stamp" if stamps is None else "an ISO stamp" if stamps else "seconds"
            raise BadInput(f"{path.name}, {unit} {number}: {name} is {cell!r}, not {wanted}")
        if stamps is None:
            begun, stamps = at_ns, not isinstance(cell, int | float)
        if found and at_ns - begun < found[-1]:
            raise BadInput(
                f"{path.name}, {unit} {number}: {name} goes back in time to {cell}", fix="sort the file by it"
            )
        if at_ns - begun > 2**62:
            raise BadInput(f"{path.name}, {unit} {number}: {name} is {cell!r}, centuries after the first")
        found.append(at_ns - begun)
    if not found:
        raise BadInput(f"{path.name} has no rows", fix="one moment at least")
    return found


def read_milliseconds(path: Path, column: str) -> list[float]:
    """Recorded times, each >= 0. Raises: BadInput, NoSuchColumn: as ``read_moments``."""
    name, cells, first_row, unit = _column(path, column)
    for number, cell in enumerate(cells, first_row):
        if isinstance(cell, bool) or not isinstance(cell, int | float) or not 0 <= cell < math.inf:
            raise BadInput(f"{path.name}, {unit} {number}: {name} is {cell!r}, not milliseconds >= 0")
    if not cells:
        raise BadInput(f"{path.name} has no rows", fix="one time at least")
    return [float(cell) for cell in cells]


def _column(path: Path, column: str) -> tuple[str, list[Any], int, str]:
    """(name, cells, number of the first one's line or row, what these are called)."""
    if path.suffix == ".parquet":
        name = _chosen(path, column, parquet.names(path))
        cells, first_row, unit = parquet.column(path, name), 1, "row"
    else:
        rows = read_input(str(path), "csv")
        name = _chosen(path, column, list(rows[0]) if rows else [])
        cells, first_row, unit = [row[name] for row in rows] if rows else [], 2, "line"
    if len(cells) > MOMENTS_MAX:
        raise BadInput(f"{path.name} has {len(cells)} rows", fix=f"at most {MOMENTS_MAX} are replayed")
    return name, cells, first_row, unit


def _chosen(path: Path, column: str, known: list[str]) -> str:
    if column in known:
        return column
    if not column and len(known) <= 1:
        return known[0] if known else ""
    there = f"{path.name} has the columns {', '.join(known)}" if known else f"{path.name} has no rows"
    if not column:
        raise NoSuchColumn(f"{there}: choose one")
    close = difflib.get_close_matches(column, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise NoSuchColumn(f"{there}, and none is {column!r}{hint}")


def _moment_ns(cell: Any) -> int | None:
    """None: it is no moment."""
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int):
        return cell * SECOND
    if isinstance(cell, float):
        return round(cell * SECOND) if abs(cell) < SECONDS_MAX else None
    if isinstance(cell, str):
        try:
            cell = datetime.fromisoformat(cell.strip())
        except ValueError:
            return None
    if not isinstance(cell, datetime):
        return None
    if cell.tzinfo is None:
        cell = cell.replace(tzinfo=UTC)
    since: timedelta = cell - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1) * 1000
