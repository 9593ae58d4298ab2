"""A series, recorded in a CSV file or made by a modelled sensor, and the windows of it as an argument.

In: the file or the model, the columns, the form. Out: rows as dicts, or a numpy array of the least type that
holds them all, since a sensor's integers should not travel as eight bytes each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from device_sim.devices.models import MODELS, readings
from device_sim.scenario import Sensor, Trace
from edge_node.commands.inputs import read_input
from security.errors import BadInput


class NoSuchColumn(BadInput):
    """A trace names a column that its file lacks."""


READINGS_MAX: Final = 200_000
"""Of one modelled device, kept in memory: some hundred bytes each."""
ABOUT: Final = ("device", "seq", "at_ms")


@dataclass(frozen=True, slots=True)
class Series:
    """Readings in time order."""

    readings: Any  # a list of dicts, or an array of readings × columns

    @classmethod
    def read(cls, path: Path, trace: Trace) -> Series:
        """Raises: BadInput: the file cannot be read or holds something else; NoSuchColumn."""
        rows = read_input(str(path), "csv")
        known = list(rows[0]) if rows else []
        missing = [column for column in trace.columns if column not in known]
        if missing:
            raise NoSuchColumn(f"{path.name} has no column {missing[0]!r}; it has {', '.join(known)}")
        columns = list(trace.columns) or known
        if trace.form == "rows":
            return cls([{column: row[column] for column in columns} for row in rows])
        for number, row in enumerate(rows, 2):
            for column in columns:
                if isinstance(row[column], str) or row[column] is None:
                    raise BadInput(f"{path.name}:{number}: {column} is {row[column]!r}, not a number")
        return cls(_array([[row[column] for column in columns] for row in rows]))

    @classmethod
    def sensed(cls, sensor: Sensor, device: str, count: int, rng: random.Random) -> Series:
        """So many readings of a modelled sensor.

        Raises: BadInput: more than READINGS_MAX; NoSuchColumn.
        """
        if count > READINGS_MAX:
            raise BadInput(
                f"{count} readings of one device", fix=f"at most {READINGS_MAX}: sample slower or replay less"
            )
        measured = MODELS[sensor.kind].columns
        known = [*ABOUT, *measured] if sensor.form == "rows" else list(measured)
        missing = [column for column in sensor.columns if column not in known]
        if missing:
            raise NoSuchColumn(f"a {sensor.kind} has no column {missing[0]!r}; it has {', '.join(known)}")
        columns = list(sensor.columns) or known
        taken = [reading.row for reading in islice(readings(sensor, device, rng), count)]
        if sensor.form == "rows":
            return cls([{column: row[column] for column in columns} for row in taken])
        return cls(_array([[row[column] for column in columns] for row in taken]))

    def __len__(self) -> int:
        return len(self.readings)

    def window(self, first: int, last: int) -> Any:
        """Readings from *first*, without *last*."""
        return self.readings[first:last]


def _array(readings: list[list[float]]) -> Any:
    try:
        import numpy as np
    except ImportError:
        raise BadInput("numpy is not installed", fix="pip install 'edgeweave[sim]'") from None
    whole = all(isinstance(each, int) for row in readings for each in row)
    if not whole:
        return np.array(readings, dtype=np.float64)
    wide = np.array(readings, dtype=np.int64)
    for kind in (np.int16, np.int32):
        bounds = np.iinfo(kind)
        if wide.size and bounds.min <= wide.min() and wide.max() <= bounds.max:
            return wide.astype(kind)
    return wide
