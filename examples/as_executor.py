"""A program written for an executor, on the mesh: when did the room's state change, four windows at once?

    edge-gateway deploy examples/functions/room.py          # once
    python examples/as_executor.py [--home DIR]

Nothing in `report` knows the mesh: with a `ProcessPoolExecutor` in its place it prints the same. The function
is imported as any other; what the daemons run is the deployed copy of the same file.
"""

from __future__ import annotations

import argparse
import csv
import sys
from concurrent.futures import Executor
from pathlib import Path

from functions.room import changes

from edge_node.client import MeshExecutor
from edge_node.commands.exits import as_line, code_of
from security.errors import EdgeweaveError

CLIMATE = Path(__file__).parent / "data" / "room_climate.csv"
WINDOW_ROWS = 128


def windows_of(file: Path) -> list[list[dict]]:
    """The series in windows of 128 rows, numbers as numbers."""
    with file.open(newline="") as opened:
        rows = [
            {name: text if name == "time" else float(text) for name, text in row.items()}
            for row in csv.DictReader(opened)
        ]
    return [rows[start : start + WINDOW_ROWS] for start in range(0, len(rows), WINDOW_ROWS)]


def report(executor: Executor, windows: list[list[dict]]) -> None:
    for window, found in zip(windows, executor.map(changes, windows), strict=True):
        print(f"{window[0]['time']}: changes at {', '.join(window[row]['time'][11:16] for row in found)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Change points of a room, window by window, on the mesh.")
    parser.add_argument("--home", help="the daemon's home; default: EDGEWEAVE_HOME, else this user's node")
    try:
        with MeshExecutor(home=parser.parse_args().home, deadline_s=30) as mesh:
            report(mesh, windows_of(CLIMATE))
    except EdgeweaveError as error:
        print(as_line(error, "as_executor"), file=sys.stderr)
        return code_of(error)[0]
    return 0


if __name__ == "__main__":
    sys.exit(main())
