"""One driver: a process that replays a recorded series as tasks, through the public client only.

    python -m examples.demo.driver gait-trunk --home HOME --seconds 24 --seed 1

A window is handed over when the replay has reached its last row; where it runs is the placement's
decision (``where="any"``). Wearables save their radio: gait windows come in bursts, which overload a board.
While the daemon is away, ``submit`` is repeated and windows wait, as in a sensor's own memory; what had been
accepted is waited for. On stdout, one JSON object a line: "accepted" when a task is promised, "settled" with
how it ended, "end" when every promise has been seen through.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_node.client import Mesh, MeshUnavailable, TaskHandle
from edge_node.functions import values
from security.errors import EdgeweaveError

DATA: Final = Path(__file__).resolve().parent.parent / "data"
IN_FLIGHT_MAX: Final = 64  # a slow machine is given less, instead of a queue that outlives the demo
RETRY_S: Final = 0.1
UNAVAILABLE_S_MAX: Final = 30.0  # how long a daemon may be away before the driver gives up
LATE_S_MAX: Final = 4.0  # a replay that is this late on a busy machine ends; what was left out is told
ROOM_WINDOW, ROOM_STEP = 96, 2
WATER_WINDOW, WATER_STEP = 336, 8
GAIT_WINDOW, GAIT_STEP = 1024, 16
GAIT_BURSTS: Final = 14  # in the whole replay
GAIT_AXES: Final = {"ankle": (1, 4), "leg": (4, 7), "trunk": (7, 10)}  # columns of the file
DRIVERS: Final = ("room", "water", *(f"gait-{sensor}" for sensor in GAIT_AXES))


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to come."""

    due: float  # share of the replay, 0 to 1
    function: str
    first: int  # rows of the series, last one excluded
    last: int
    argument: Any


def plan(driver: str) -> list[Planned]:
    """Everything that one driver will ask for, by when the replay has read the rows."""
    planned = sorted(_windows(driver), key=lambda each: each.due)
    if driver == "room":  # and at the end the whole series, to compare with people
        rows = read_rows("room_climate.csv")
        planned.append(Planned(1.0, "room.changes", 0, len(rows), rows))
    if driver == "water":
        rows = read_rows("water_flow.csv")
        planned += [Planned(1.0, f"water.{what}", 0, len(rows), rows) for what in ("losses", "peaks")]
    return planned


def _windows(driver: str) -> Iterator[Planned]:
    if driver == "room":
        rows = read_rows("room_climate.csv")
        for first, last in windows(len(rows), ROOM_WINDOW, ROOM_STEP):
            yield Planned(last / len(rows), "room.changes", first, last, rows[first:last])
    elif driver == "water":
        rows = read_rows("water_flow.csv")
        for first, last in windows(len(rows), WATER_WINDOW, WATER_STEP):
            for what in ("losses", "peaks"):
                yield Planned(last / len(rows), f"water.{what}", first, last, rows[first:last])
    else:
        import numpy as np

        begin, end = GAIT_AXES[driver.removeprefix("gait-")]
        with (DATA / "gait_accelerometer.csv").open(newline="") as file:
            read = [[int(cell) for cell in row[begin:end]] for row in list(csv.reader(file))[1:]]
        series = np.array(read, dtype=np.int16)
        for number, (first, last) in enumerate(windows(len(series), GAIT_WINDOW, GAIT_STEP)):
            window = series[first:last]
            due = min(1.0, math.ceil(last / len(series) * GAIT_BURSTS) / GAIT_BURSTS)
            yield Planned(due, "gait.matrix_profile", first, last, window)
            if number % 2 == 0:
                yield Planned(due, "gait.freeze_index", first, last, window)
            if number % 8 == 0:
                yield Planned(due, "gait.spectrum", first, last, window)


def windows(count: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    """Bounds of every full window of a series, in order."""
    for first in range(0, count - length + 1, step):
        yield first, first + length


def read_rows(name: str) -> list[dict[str, Any]]:
    """A CSV file as rows with numbers parsed; times stay text."""
    with (DATA / name).open(newline="") as file:
        return [
            {key: cell if key == "time" else float(cell) for key, cell in row.items()}
            for row in csv.DictReader(file)
        ]


class Driver:
    def __init__(self, name: str, mesh: Mesh) -> None:
        self.name = name
        self.mesh = mesh
        self.retries = 0
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def replay(self, planned: Sequence[Planned], *, seconds: float, rng: random.Random) -> int:
        """Hand everything over when it is due, wait until all of it has settled; how many were left out."""
        begun, left_out = time.monotonic(), 0
        begin = planned[0].due  # the first full window is there at once
        jitter_s = seconds / max(1, len(planned)) / 2
        async with asyncio.TaskGroup() as group:
            for each in planned:
                due_s = (each.due - begin) / (1 - begin) * seconds + rng.uniform(0, jitter_s)
                await asyncio.sleep(max(0.0, begun + due_s - time.monotonic()))
                await self._room.acquire()
                if time.monotonic() - begun > seconds + LATE_S_MAX and each.due < 1:
                    self._room.release()
                    left_out += 1
                    continue
                handle, asked = await self._submit(each)
                group.create_task(self._follow(handle, asked), name=f"follow.{handle.id}")
        return left_out

    async def _submit(self, each: Planned) -> tuple[TaskHandle, float]:
        unavailable_since: float | None = None
        while True:
            asked = time.monotonic()
            try:
                handle = await self.mesh.submit(each.function, each.argument)
            except MeshUnavailable:
                unavailable_since = unavailable_since or asked
                if asked - unavailable_since > UNAVAILABLE_S_MAX:
                    raise
                self.retries += 1
                await asyncio.sleep(RETRY_S)
                continue
            say(
                event="accepted",
                id=handle.id,
                function=each.function,
                rows=[each.first, each.last],
                input_sha256=hashlib.sha256(values.encode_call((each.argument,), {})).hexdigest(),
            )
            return handle, asked

    async def _follow(self, handle: TaskHandle, asked: float) -> None:
        try:
            outcome = await handle.outcome()
        finally:
            self._room.release()
        say(
            event="settled",
            id=handle.id,
            status=outcome.status,
            place=outcome.place,
            output_sha256=hashlib.sha256(outcome.output).hexdigest(),
            latency_ms=round(1000 * (time.monotonic() - asked), 3),
        )


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def drive(name: str, home: str, seconds: float, seed: int) -> None:
    planned = plan(name)
    async with Mesh.open(home) as mesh:
        driver = Driver(name, mesh)
        say(event="begin", planned=len(planned))
        left_out = await driver.replay(planned, seconds=seconds, rng=random.Random(f"{seed}/{name}"))
    say(event="end", left_out=left_out, retries=driver.retries)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.driver", description="Replay one series.")
    parser.add_argument("name", choices=DRIVERS)
    parser.add_argument("--home", required=True)
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    try:
        asyncio.run(drive(options.name, options.home, options.seconds, options.seed))
    except BaseExceptionGroup as group:
        known, _ = group.split(EdgeweaveError)
        if known is None:
            raise
        cause: BaseException = known
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        sys.stderr.write(f"error: {cause}\n")
        return 1
    except EdgeweaveError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
