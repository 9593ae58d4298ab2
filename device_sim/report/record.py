"""The record of a run: everything that its report shows, as plain data; ``record.json`` is this.

Filled by ``device-sim run`` (virtual time) and ``device-sim fleet`` (real daemons) alike, so one report draws
both, and two runs can be compared. Times are seconds after the begin of the run unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to do it again."""

    kind: Literal["run", "fleet"]
    scenario: str
    seed: int
    commit: str
    """Of the source tree, with "+" when it was changed; empty outside one."""
    versions: dict[str, str]
    machine: str
    command: str
    duration_s: float
    """Of the fleet's time."""
    wall_s: float
    """Of ours."""
    trace_hash: str = ""
    format: int = FORMAT


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Load over time. `shares[n][k]`: of node n's workers busy in interval k, 0 to 1; -1: it was away."""

    interval_s: float
    nodes: list[str]
    shares: list[list[float]]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks over time: so many were accepted, so many told done, in each interval."""

    interval_s: float = 1.0
    accepted: list[int] = []
    completed: list[int] = []


class Messages(msgspec.Struct, frozen=True, kw_only=True):
    """What crossed the broker, by kind: direct, presence, roster, handshake, …"""

    kind: str
    count: int
    bytes: int


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """A fault."""

    at_s: float
    do: str
    node: str = ""
    until_s: float | None = None
    """None: it is a moment, or lasted to the end."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the mesh."""

    id: str
    cls: str
    """Its class in the scenario."""
    up: bool
    ran: int
    accepted: int


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """So many tasks of `owner` ran at `place`."""

    owner: str
    place: str
    tasks: int


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A checker's word, or an assertion's."""

    name: str
    promise: str
    word: Literal["passed", "failed", "not applicable"]
    detail: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    manifest: Manifest
    figures: dict[str, float]
    """Everything that `--assert` may name; by ``glossary.FIGURES``. What was not measured is not there."""
    latencies_ms: dict[str, list[tuple[float, int]]]
    """By function: (upper bound of a bin in milliseconds, how many), ascending; bins grow by 10 %."""
    load: Load
    messages: list[Messages]
    faults: list[Struck]
    nodes: list[Node]
    edges: list[Edge]
    checks: list[Check]
    rates: Rates = Rates()
    notes: list[str] = []
    """What this kind of run could not do, in sentences."""
    extra: dict[str, Any] = {}
