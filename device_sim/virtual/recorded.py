"""A recorded seed: a failing run as a file that plays it again, event for event.

    out/seed-29.json: the scenario itself, its faults, what was broken, the hash of its trace, what is enough

The scenario is in the file as it was drawn, so it still plays when ``drawing`` has changed and the seed alone
means another run. The hash belongs to the code of its commit: other code does other things at other moments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from device_sim.faults import Fault
from device_sim.fleet.preparation import Prepared
from device_sim.scenario.reading import Document
from device_sim.scenario.tables import Scenario
from device_sim.virtual.attempt import Broken
from device_sim.virtual.shorten import Shortened
from security.errors import BadInput

FORMAT: Final = "edgeweave seed 1"
BYTES_MAX: Final = 16 * 1024 * 1024
"""Of a file: 200 nodes with all their faults need a tenth of it."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One failing seed."""

    format: str
    drawing: int
    """``drawing.VERSION`` then: of what the seed means by itself."""
    version: str
    commit: str
    """Of the source tree, with "+" when it was changed."""
    seed: int
    nodes: int
    drawn: list[str]
    """The scenario as people read it (``particulars``)."""
    scenario: Scenario
    faults: tuple[Fault, ...]
    """All that befell it, the listed ones and those of the rates; scenario time."""
    trace_hash: str
    steps: int
    ended_ns: int
    broken: tuple[Broken, ...]
    shortened: Shortened | None = None
    focus: str = ""
    """Of its drawing (``focus.FOCUSES``); empty: everything mixed."""

    @property
    def prepared(self) -> Prepared:
        return prepared(self.scenario, self.seed)


def prepared(scenario: Scenario, seed: int) -> Prepared:
    """A scenario that names no files, ready for the world."""
    return Prepared(Document(scenario.fleet.name, scenario, {}), scenario, seed, [], {}, {})


def write(path: Path, recorded: Recorded) -> None:
    """Whole or not at all. Raises: BadInput: it cannot be written."""
    data = msgspec.json.format(msgspec.json.encode(recorded), indent=1)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data + b"\n")
        beside.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}", fix="name another --out directory") from None


def read(path: Path) -> Recorded:
    """Raises: BadInput: not there, not such a file, or of a form that this version does not know."""
    fix = "name a seed, or a file that `device-sim swarm` has written"
    try:
        if path.stat().st_size > BYTES_MAX:
            raise BadInput(f"{path} is larger than {BYTES_MAX >> 20} MiB: not a recorded seed", fix=fix)
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix=fix) from None
    try:
        form = msgspec.json.decode(data, type=_Form).format
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not a recorded seed: {error}", fix=fix) from None
    if form != FORMAT:
        raise BadInput(f'{path} has the form "{form}", this version reads "{FORMAT}"', fix=fix)
    try:
        return msgspec.json.decode(data, type=Recorded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = "play its seed instead, or the commit that wrote it"
        raise BadInput(f"{path} holds what this version does not know: {error}", fix=told) from None


class _Form(msgspec.Struct):
    format: str
