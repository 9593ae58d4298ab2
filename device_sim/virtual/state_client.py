"""The user of a node's replicated tables: writes at random moments, and remembers what was acknowledged.

    moment ─► find, conflicts (what is replaced) ─► upsert, remove, counter, set ─► Wrote … Kept

Everything goes through the requests that the control socket offers. What a change replaces is asked for in
the turn of the change itself, so nothing can come between. Each value and each element is used once in a run;
by it a checker knows whose it was. What is due while the daemon is away is left out and counted. Not here:
what must hold (`checkers.tables`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from device_sim.virtual.evidence import Event, Kept, Wrote
from edge_node.store.identity import doc_id_for
from security.errors import EdgeweaveError

if TYPE_CHECKING:
    from random import Random

    from device_sim.scenario.tables import StateTable
    from device_sim.virtual.machine import Machine, Process
    from device_sim.virtual.world import World

Answer = dict[str, Any] | EdgeweaveError
SECOND: Final = 1_000_000_000
OWN: Final = "own"
COUNTERS: Final = ("visits", "alarms")
SETS: Final = ("marked",)
KEY: Final = "id"
FIELDS: Final = ("x", "y")
OWN_FIELDS: Final = ("n",)
AMOUNTS: Final = (1, 2, 3, 5, 8, -1, -4)
DISCARDED: Final = 0.35
"""Of changes of a set, that take out something that is in it."""


class StateClient:
    """Args: table: what is written, and how often.   begin_ns, end_ns: of the world, when."""

    def __init__(
        self,
        world: World,
        machine: Machine,
        table: StateTable,
        saw: Callable[[Event], None],
        *,
        begin_ns: int,
        end_ns: int,
    ) -> None:
        self.world = world
        self.machine = machine
        self.left_out: Counter[str] = Counter()
        self._table = table
        self._saw = saw
        self._end_ns = end_ns
        self._rng: Random = world.rng(machine.name, "state")
        self._number = 0
        self._declared: dict[str, int] = {}  # table -> in which life of the daemon
        self._at(begin_ns)

    def _at(self, from_ns: int) -> None:
        due_ns = from_ns + max(1, round(self._rng.expovariate(self._table.rate_hz) * SECOND))
        if due_ns < self._end_ns:
            self.world.at(due_ns, self._due)

    def _due(self) -> None:
        self._at(self.world.now_ns)
        rng, table = self._rng, self._table
        part, choice = rng.random(), rng.random()
        process = self.machine.process
        if process is None or self.machine.paused:
            self.left_out["its node was away"] += 1
            return
        self._number += 1
        change = f"{self.machine.node_id}.{self._number}."  # none begins like another
        act: Callable[[Process, str, float], None]
        if part < table.own:
            act = self._own
        elif part < table.own + table.removals:
            act = self._remove
        elif part < table.own + table.removals + table.counters:
            act = self._count
        elif part < table.own + table.removals + table.counters + table.sets:
            act = self._tag
        else:
            act = self._put
        process.node.soon(lambda now_ns, wall_ms: act(process, change, choice))

    # ── changes ───────────────────────────────────────────────────────────────────────────────────

    def _own(self, process: Process, change: str, choice: float) -> None:
        self._upsert(process, change, OWN, self.machine.node_id, OWN_FIELDS[0])

    def _put(self, process: Process, change: str, choice: float) -> None:
        table, key = self._document(choice)
        self._upsert(process, change, table, key, self._rng.choice(FIELDS))

    def _upsert(self, process: Process, change: str, table: str, key: str, field: str) -> None:
        self._declare(process, table)
        live, rivals = self._there(process, table, key)
        over = (*live.get(field, ()), *rivals.get(field, ()))
        value = change.ljust(self._table.value_bytes)
        params = {"table": table, "document": _json({KEY: key, field: value}), "id": doc_id_for(table, key)}
        self._write(
            process, Wrote(self.world.now_ns, self._name, change, "put", table, key, field, over=over),
            "state.upsert", params,
        )  # fmt: skip

    def _remove(self, process: Process, change: str, choice: float) -> None:
        table, key = self._document(choice)
        self._declare(process, table)
        live, rivals = self._there(process, table, key)
        over = tuple(each for field in live for each in (*live[field], *rivals.get(field, ())))
        params = {"table": table, "ids": [doc_id_for(table, key)]}
        if live:
            wrote = Wrote(self.world.now_ns, self._name, change, "remove", table, key, over=over)
            self._write(process, wrote, "state.remove", params)

    def _count(self, process: Process, change: str, choice: float) -> None:
        name, amount = COUNTERS[int(choice * len(COUNTERS))], self._rng.choice(AMOUNTS)
        wrote = Wrote(self.world.now_ns, self._name, change, "count", name, amount=amount)
        self._write(process, wrote, "state.counter", {"name": name, "add": amount})

    def _tag(self, process: Process, change: str, choice: float) -> None:
        name = SETS[0]
        taken = self._rng.random()
        if choice < DISCARDED:
            there = self._asked(process, "state.set", {"name": name})["elements"]
            if not there:
                return
            element = there[int(taken * len(there))]
            wrote = Wrote(self.world.now_ns, self._name, change, "discard", name, element, over=(element,))
            self._write(process, wrote, "state.set", {"name": name, "discard": [element]})
        else:
            wrote = Wrote(self.world.now_ns, self._name, change, "add", name, change)
            self._write(process, wrote, "state.set", {"name": name, "add": [change]})

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def _name(self) -> str:
        return self.machine.name

    def _document(self, choice: float) -> tuple[str, str]:
        number = int(choice * self._table.tables * self._table.keys)
        return f"t{number % self._table.tables}", f"k{number // self._table.tables}"

    def _declare(self, process: Process, table: str) -> None:
        life = self.machine.lives

        def declared(answer: Answer) -> None:
            if not isinstance(answer, EdgeweaveError):
                self._declared[table] = life

        if self._declared.get(table) != life:
            _call(process, "state.declare", {"table": table, "key": KEY}, declared)

    def _there(
        self, process: Process, table: str, key: str
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
        """(field -> the change that is read there, field -> those that lost against it unknown)."""
        doc_id = doc_id_for(table, key)
        found = self._asked(process, "state.find", {"table": table, "ids": [doc_id]})["documents"]
        live: dict[str, tuple[str, ...]] = {
            field: (change_of(value),)
            for _, text in found
            for field, value in msgspec.json.decode(text).items()
            if field != KEY
        }
        listed = self._asked(process, "state.conflicts", {"table": table, "limit": 1000})["conflicts"]
        rivals = {
            each["field"]: tuple(
                change_of(msgspec.json.decode(one["value"]))
                for one in each["values"]
                if one["value"] is not None
            )
            for each in listed
            if each["id"] == doc_id and each["field"] != KEY
        }
        return live, rivals

    def _asked(self, process: Process, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Questions are answered at once."""
        said: list[Answer] = []
        _call(process, method, params, said.append)
        (answer,) = said
        assert not isinstance(answer, EdgeweaveError), f"{method}: {answer}"
        return answer

    def _write(self, process: Process, wrote: Wrote, method: str, params: dict[str, Any]) -> None:
        self._saw(wrote)
        _call(process, method, params, lambda answer: self._answered(process, wrote, answer))

    def _answered(self, process: Process, wrote: Wrote, answer: Answer) -> None:
        reason = str(answer) if isinstance(answer, EdgeweaveError) else ""
        self.world.note(self._name, "refused" if reason else "kept", f"{wrote.change} {wrote.what}")
        safe = bool(reason) or wrote.what not in ("put", "add") or process.cells.safe(wrote.change.encode())
        self._saw(Kept(self.world.now_ns, self._name, wrote.change, reason, safe))


def _call(process: Process, method: str, params: dict[str, Any], answer: Callable[[Answer], None]) -> None:
    node = process.node
    node.replication.requests.call(node.clock.now_ns(), method, params, answer)


def change_of(value: Any) -> str:
    """Whose value that is."""
    return str(value).strip()


def _json(document: dict[str, Any]) -> str:
    return msgspec.json.encode(document).decode()
