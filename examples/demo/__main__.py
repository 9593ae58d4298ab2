"""`make demo`: five boards on real sensor data; one is killed in the middle of work, one is revoked.

    python -m examples.demo [--seconds 24] [--seed 1] [--keep] [--stay]

Plays ``examples/scenarios/demo.toml`` and compares what the mesh found in the room's series with what people
marked. Exit 0: everything accepted was kept, everything expected was seen, and nothing stayed behind.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from device_sim.cli import balance
from device_sim.fleet.play import Interrupted, Run, play
from device_sim.fleet.preparation import prepare
from device_sim.report.folder import make_folder
from device_sim.report.tables import tables
from device_sim.screen import Screen
from examples.demo import changes
from security.errors import EdgeweaveError

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SCENARIO: Final = ROOT / "examples" / "scenarios" / "demo.toml"
OUT: Final = ROOT / "out" / "demo"
GATEWAY: Final = "gateway"


def conclude(run: Run, screen: Screen, out: Path) -> None:
    """Write the report, show everything."""
    points = changes.change_points(changes.told_by_mesh(run.tasks))
    run.facts["change_points"] = points
    run.write(out)
    for heads, rows, left in tables(run.facts, run.tasks):
        screen.table(heads, rows, left=left)
    screen.table(*changes.table(points))
    screen.line("")
    for line in balance(run):
        screen.line(line)
    screen.line(
        f"details: {_short(out / 'report.html')}, report.json and tasks.jsonl; "
        f"it took {run.facts['wall_s']:.0f} s"
    )


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _program() -> str:
    beside = Path(sys.executable).parent / "edge-gateway"
    return _short(beside) if beside.exists() else "edge-gateway"


def _seconds(text: str) -> float:
    value = float(text)
    if not 6 <= value <= 3600:
        raise argparse.ArgumentTypeError("choose 6 to 3600 seconds")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo ARGS=…", description="A whole mesh on real sensor data.")
    parser.add_argument("--seconds", type=_seconds, help="how long the series are replayed (24)")
    parser.add_argument("--seed", type=int, help="of the jitter between tasks (1)")
    parser.add_argument("--keep", action="store_true", help="keep the homes of gateway and boards")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where the two files go")
    parser.add_argument(
        "--stay", action="store_true", help="then keep the mesh at work, with its console open"
    )
    options = parser.parse_args(argv)
    screen = Screen()
    try:
        make_folder(options.out)
        prepared = prepare(SCENARIO, seed=options.seed, duration_s=options.seconds)
        told = functools.partial(conclude, screen=screen, out=options.out)
        stay = told if options.stay else None
        run, folder = asyncio.run(play(prepared, screen, keep=options.keep, stay=stay))
        if stay is None:
            told(run)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:  # before anything had begun
        return 128 + signal.SIGINT
    except EdgeweaveError as error:
        screen.close()
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:
        screen.close()
    if options.keep:
        screen.line(f"next: {_program()} up --home {folder / GATEWAY} --listen 127.0.0.1 --mdns lo")
    else:
        screen.line(f"next: {_program()} up       a gateway of your own; then README.md, five commands")
    return 0 if run.held else 1


if __name__ == "__main__":
    sys.exit(main())
