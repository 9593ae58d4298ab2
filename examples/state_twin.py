"""A ventilator and its twin: it is set from afar, also while it is cut off, and says what it does.

    python examples/state_twin.py device pi-1 [--home DIR]                        # beside pi-1's daemon
    python examples/state_twin.py operator pi-1 --vent-above 800 [--home DIR]     # beside any other's

The device plays a recorded office room (CO2 every 16 minutes, here every `--every` seconds) and ventilates
while the air is worse than desired. What it is asked for reaches it as a change of its twin; if it was away,
as soon as it is back. Both sides write fields of their own and read the other's; what differs is the delta.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import sys
import time
from pathlib import Path

from edge_node.client import Mesh
from edge_node.commands.exits import as_line, code_of
from edge_node.state.state import State
from edge_node.state.twin import Twin
from security.errors import EdgeweaveError

CLIMATE = Path(__file__).parent / "data" / "room_climate.csv"
FACTORY = {"vent_above_ppm": 1000}


def readings(rows: int | None) -> list[tuple[str, float]]:
    """(time, CO2 in ppm), the first *rows*."""
    with CLIMATE.open(newline="") as opened:
        return [(row["time"], float(row["co2_ppm"])) for row in csv.DictReader(opened)][:rows]


class Ventilator:
    """The device's own program: it runs whatever the mesh does."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.settings = dict(FACTORY)
        self.on = False
        self.switched = 0

    async def adopt(self) -> None:
        """Take what is desired and differs, of what this device knows; say so."""
        delta = await self.twin.aio.delta()
        wanted = {name: value for name, value in delta.items() if self.settings.get(name, value) != value}
        if wanted:
            self.settings |= wanted
            await self.twin.aio.report(**self.settings)
            print(f"set to {self.settings}", flush=True)

    async def feel(self, at: str, co2_ppm: float) -> bool:
        """One reading; True: it was switched by it."""
        on = co2_ppm > self.settings["vent_above_ppm"]
        if on == self.on:
            return False
        self.on = on
        self.switched += 1
        await self.twin.aio.report(ventilating=on, co2_ppm=co2_ppm, since=at)
        return True


async def device(name: str, home: str | None, rows: int | None, every_s: float) -> None:
    async with Mesh.open(home) as mesh:
        ventilator = Ventilator(mesh.twin(name))
        switched = mesh.state.counter("ventilator.switched")
        await ventilator.twin.aio.report(**FACTORY, ventilating=False)

        async def listen() -> None:
            async for _ in ventilator.twin.watch():
                await ventilator.adopt()

        listening = asyncio.create_task(listen(), name="twin")
        try:
            for at, co2_ppm in readings(rows):
                await ventilator.adopt()
                if await ventilator.feel(at, co2_ppm):
                    await switched.aio.add(1)
                await asyncio.sleep(every_s)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        print(f"switched {ventilator.switched} times; here and elsewhere {await switched.aio.value()}")


def operator(name: str, home: str | None, vent_above_ppm: int, patience_s: float) -> None:
    with State.open(home) as state:
        twin = state.twin(name)
        twin.desire(vent_above_ppm=vent_above_ppm)
        end_s = time.monotonic() + patience_s
        while (delta := twin.delta()) and time.monotonic() < end_s:
            time.sleep(0.2)
        if delta:
            print(f"{name} has not taken over {delta}: it does when it is back")
        else:
            print(f"{name} is {twin.reported}")


def main() -> int:
    parser = argparse.ArgumentParser(description="A ventilator that is set through its twin.")
    parser.add_argument("role", choices=("device", "operator"))
    parser.add_argument("name", help="the device's node")
    parser.add_argument("--home", help="the daemon's home; default: EDGEWEAVE_HOME, else this user's node")
    parser.add_argument("--rows", type=int, help="device: so many readings; default: all 509")
    parser.add_argument("--every", type=float, default=0.2, help="device: seconds between readings")
    parser.add_argument("--vent-above", type=int, default=800, help="operator: CO2 in ppm")
    parser.add_argument("--patience", type=float, default=30, help="operator: seconds to wait for the device")
    given = parser.parse_args()
    try:
        if given.role == "device":
            asyncio.run(device(given.name, given.home, given.rows, given.every))
        else:
            operator(given.name, given.home, given.vent_above, given.patience)
    except EdgeweaveError as error:
        print(as_line(error, "state_twin"), file=sys.stderr)
        return code_of(error)[0]
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
