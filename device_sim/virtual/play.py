"""A play: a scenario in the world, from its first boot to the reading of the disks.

    boot ── begin ──────── faults, work ────────► heal ──► end of the replay ── liveness ──► verdicts
           (time 0 of the scenario)

Safety is judged over all of it; that everything comes to rest, after everything was made good. In: a prepared
scenario, a seed. Out: an ``Outcome``, the same for the same seed. Not here: reports, files, the terminal.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from device_sim.arrivals import asks
from device_sim.chances import drawn
from device_sim.devices.battery import Battery
from device_sim.faults import SECOND, Fault
from device_sim.fleet.preparation import Prepared
from device_sim.report.collect import Collector, Parts
from device_sim.scenario.tables import DevicesTable, LinkTable
from device_sim.virtual.cell_disk import opened_cells
from device_sim.virtual.checkers.panel import Panel, checkers
from device_sim.virtual.client import Client
from device_sim.virtual.deployed import Inputs, bundles, services
from device_sim.virtual.evidence import (
    Answered,
    End,
    Event,
    Framed,
    Happened,
    Reached,
    Row,
    Sampled,
    Tables,
    Told,
    Verdict,
)
from device_sim.virtual.injector import Injector
from device_sim.virtual.key_files import DiskKeyStore
from device_sim.virtual.ledger_journal import VirtualJournal, open_journal
from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.machine import Board, Machine
from device_sim.virtual.network import LinkModel
from device_sim.virtual.services import Outputs
from device_sim.virtual.sites import NODES_MAX, Site
from device_sim.virtual.state_client import StateClient
from device_sim.virtual.world import World, collected_seldom
from edge_node.settings import NodeSettings
from edge_node.store.cells import Cells, unpack
from edge_node.wire.ids import GATEWAY
from security.errors import EdgeweaveError

BOOT_NS: Final = 2 * SECOND
"""Within which every machine is switched on."""
BEGIN_NS: Final = 10 * SECOND
"""When the scenario's time is 0: everybody has met by then, unless a fleet is very large."""
REST_NS: Final = 15 * SECOND
"""At least so long after the end: beats, digests and retries of the last moments are seen to stop."""
SAMPLE_NS: Final = 10 * SECOND
STRIDE_NS: Final = SECOND // 2
BATTERY_NS: Final = 5 * SECOND
GATEWAY_CORES: Final = 4
GATEWAY_DELAY_MS: Final = 0.05
"""To the broker on its own host."""

Progress = Callable[["Play"], None]


@dataclass(slots=True)
class Outcome:
    """What a play has shown."""

    seed: int
    parts: Parts
    verdicts: list[Verdict]
    trace_hash: str
    steps: int
    ended_ns: int
    replay_ns: tuple[int, int]
    """Begin and end of the replay, in the world's time."""
    faults: tuple[Fault, ...]
    left_out: Counter[str]
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.word == "failed"]


class Play:
    """Args:
    prepared: for the world.   seed: instead of the prepared one.
    faults: instead of those that the scenario lists and its rates draw.
    keep: told of every note of the trace.   also: told of every event of evidence.
    panel: who judges; None: all checkers.
    until_ns: of the scenario's time: nothing is asked for and nothing breaks after it.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        seed: int | None = None,
        faults: tuple[Fault, ...] | None = None,
        keep: Callable[[int, str, str, str], None] | None = None,
        also: Callable[[Event], None] | None = None,
        panel: Panel | None = None,
        until_ns: int | None = None,
        settings: NodeSettings | None = None,
    ) -> None:
        scenario = prepared.scenario
        self.prepared = prepared
        self.scenario = scenario
        self.seed = prepared.seed if seed is None else seed
        self.world = World(self.seed, keep=keep)
        self.loop = VirtualLoop(self.world)
        self.panel = panel or Panel(checkers())
        self.also = also
        self.duration_ns = round(scenario.fleet.duration_s * SECOND)
        if until_ns is not None:
            self.duration_ns = min(self.duration_ns, until_ns)
        self.heal_ns = min(BEGIN_NS + round(scenario.healed_s * SECOND), BEGIN_NS + self.duration_ns)
        self.end_ns = BEGIN_NS + self.duration_ns
        self.settings = settings or NodeSettings()
        self.links = {name: link_model(table) for name, table in scenario.links.items()}
        found = bundles(prepared)
        made, self.notes = services(prepared, found)
        outputs, pool = Outputs(), dict[bytes, bytes]()
        self.boards = {name: self._board(name, table) for name, table in scenario.nodes.items()}
        names = list(self.boards)
        count = max(1, -(-len(names) // NODES_MAX))
        if count > 1:
            self.notes.append(
                f"a mesh has at most {NODES_MAX} nodes: this fleet is {count} meshes, each on its own"
            )
        workers = scenario.gateway.workers or GATEWAY_CORES
        gateway = Board(
            GATEWAY, workers=workers, cores=max(workers, 2), link=LinkModel(delay_ms=GATEWAY_DELAY_MS)
        )
        self.sites = [
            Site(
                self.world,
                self.loop,
                f"site-{number}",
                {name: self.boards[name] for name in names[number::count]},
                gateway,
                bundles=found,
                services=made,
                outputs=outputs,
                pool=pool,
                saw=self.saw,
                settings=self.settings,
                prefix=f"site-{number}/" if count > 1 else "",
            )
            for number in range(count)
        ]
        self.machines: dict[str, Machine] = {
            machine.name: machine for site in self.sites for machine in site.members()
        }
        self.collector = Collector(
            {name: machine.board.cls for name, machine in self.machines.items()},
            {name: machine.board.workers for name, machine in self.machines.items()},
            self.duration_ns,
            begin_ns=BEGIN_NS,
        )
        for site in self.sites:
            site.watch_wires()
        if faults is None:
            faults = tuple(scenario.timeline()) + drawn(scenario, self.world.rng("chances"))
        self.faults = tuple(each for each in faults if each.at_s * SECOND <= self.duration_ns)
        self.injector = Injector(
            self.world,
            self.sites,
            self.faults,
            self.links,
            saw=self.saw,
            begin_ns=BEGIN_NS,
        )
        self.clients: dict[str, Client] = {}
        self.state_clients: list[StateClient] = []
        self._waits = any(fault.open_min for fault in self.faults)
        self._kinds_of_events()
        self._people()
        self.world.at(self.heal_ns, self.injector.heal)
        self.world.at(BEGIN_NS + SAMPLE_NS // 2, self._sample)

    # ── building ──────────────────────────────────────────────────────────────────────────────────

    def _board(self, name: str, table: DevicesTable) -> Board:
        drift = table.clock_drift_ppm
        return Board(
            table.cls,
            speed=table.pace,
            workers=table.workers,
            cores=table.cores or table.workers,
            link=self.links[table.link] if table.link else LinkModel(),
            drift_ppm=self.world.rng(name, "drift").uniform(-drift, drift) if drift else 0.0,
            rtc=table.rtc,
            labels=dict(table.labels),
        )

    def _people(self) -> None:
        """Switch every machine on, and give each its client."""
        scenario, prepared, world = self.scenario, self.prepared, self.world
        synthetic = frozenset(scenario.synthetic)
        kept: dict[str, OrderedDict[Any, bytes]] = {}
        for site in self.sites:
            site.on_started = self._restarted
            site.start(GATEWAY)
            if scenario.gateway.arrivals:
                self._gateway_client(site)
            for node, machine in site.machines.items():
                if node == GATEWAY:
                    continue
                world.at(round(world.rng(node, "boot").random() * BOOT_NS), site.start, node)
                table = scenario.nodes[node]
                series = prepared.series.get(node)
                asked = asks(
                    table,
                    node,
                    world.rng(node, "asks"),
                    self.duration_ns / SECOND,
                    rows=len(series) if series is not None else 0,
                    moments=prepared.moments,
                )
                self.clients[machine.name] = Client(
                    world,
                    machine,
                    asked,
                    Inputs(
                        series,
                        synthetic,
                        world.rng(node, "inputs"),
                        kept.setdefault(table.cls, OrderedDict()),
                    ),
                    self.saw,
                    begin_ns=BEGIN_NS,
                    moved=self.injector.promised if self._waits else None,
                )
                link = scenario.links.get(table.link, LinkTable())
                if link.up_s:
                    last_ns = self.heal_ns - BEGIN_NS
                    self.injector.outages_of(node, link, last_ns, BEGIN_NS)
                if table.battery_wh is not None:
                    battery = Battery(
                        table.battery_wh, idle_w=table.idle_w, busy_w=table.busy_w, cores=machine.board.cores
                    )
                    world.at(BATTERY_NS, self._drain, site, machine, battery)

        self._writers()

    def _writers(self) -> None:
        """Who writes replicated tables."""
        scenario = self.scenario
        for site in self.sites:
            for node in scenario.writers:
                if node in site.machines:
                    self.state_clients.append(
                        StateClient(
                            self.world,
                            site.machines[node],
                            scenario.state,
                            self.saw,
                            begin_ns=BEGIN_NS,
                            end_ns=self.end_ns,
                        )
                    )

    def _gateway_client(self, site: Site) -> None:
        machine, world = site.machines[GATEWAY], self.world
        table = DevicesTable(id=GATEWAY, arrivals=self.scenario.gateway.arrivals)
        self.clients[machine.name] = Client(
            world,
            machine,
            asks(table, GATEWAY, world.rng(machine.name, "asks"), self.duration_ns / SECOND),
            Inputs(
                None, frozenset(self.scenario.synthetic), world.rng(machine.name, "inputs"), OrderedDict()
            ),
            self.saw,
            begin_ns=BEGIN_NS,
            moved=self.injector.promised if self._waits else None,
        )

    def _drain(self, site: Site, machine: Machine, battery: Battery) -> None:
        """Looked at every few seconds: shorter spans of work are charged at what runs at that moment."""
        process = machine.process
        if battery.tick(self.world.now_ns):
            self.injector.gone[machine.name] = "its battery is empty"
            self.saw(Happened(self.world.now_ns, "battery-empty", machine.name))
            site.end(machine.node_id, "power")
            return
        battery.busy(self.world.now_ns, process.processor.running if process is not None else 0)
        self.world.after(BATTERY_NS, self._drain, site, machine, battery)

    # ── evidence ──────────────────────────────────────────────────────────────────────────────────

    def _kinds_of_events(self) -> None:
        """Wires are watched only if somebody wants them: most events are theirs."""
        for site in self.sites:
            if self.also is None and not self.panel.wants(Framed):
                site.broker.on_framed = None
            if self.also is None and not self.panel.wants(Reached):
                site.broker.on_reached = None

    def saw(self, event: Event) -> None:
        self.panel.saw(event)
        self.collector.saw(event)
        if self.also is not None:
            self.also(event)

    def _sample(self) -> None:
        now_ns = self.world.now_ns
        for name, machine in self.machines.items():
            process = machine.process
            answers = process is not None and not machine.paused
            self.saw(
                Sampled(now_ns, name, process.node.status() if process is not None and answers else None)
            )
        self.world.after(SAMPLE_NS, self._sample)

    def _restarted(self, machine: Machine) -> None:
        client = self.clients.get(machine.name)
        if client is not None and machine.up:
            client.restarted()

    # ── running ───────────────────────────────────────────────────────────────────────────────────

    @property
    def open(self) -> int:
        """Promises that no client has heard the end of."""
        return sum(len(client.promised) for client in self.clients.values())

    def run(self, progress: Progress | None = None) -> Outcome:
        """To its end. Raises: whatever a defect raises out of a core."""
        with _quiet(), collected_seldom():
            world = self.world
            while world.now_ns < self.end_ns:
                world.run_until(min(self.end_ns, world.now_ns + STRIDE_NS))
                if progress is not None:
                    progress(self)
            latest_ns = world.now_ns + round(self.scenario.run.liveness_s * SECOND)
            rest_ns = world.now_ns + REST_NS
            while world.now_ns < rest_ns or (self._busy() and world.now_ns < latest_ns):
                world.run_until(world.now_ns + STRIDE_NS)
                if progress is not None:
                    progress(self)
            return self._ended()

    def advance(self, end_ns: int) -> None:
        """To this moment of the world and no further: for who wants to look around there."""
        with _quiet(), collected_seldom():
            self.world.run_until(end_ns)

    def _busy(self) -> bool:
        gone = self.injector.gone
        if any(client.promised for name, client in self.clients.items() if name not in gone):
            return True
        return bool(self.state_clients) and any(self._differ(site) for site in self.sites)

    def _differ(self, site: Site) -> bool:
        """Do its members still have something to tell each other of tables? Only to know when to stop."""
        first = None
        for machine in site.members():
            if machine.name in self.injector.gone:
                continue
            replica = None if machine.process is None else machine.process.node.replication.replica
            if replica is None or not replica.settled:
                return True
            first = first or replica
            if first.lacks(replica.durable) or replica.lacks(first.durable):
                return True
        return False

    def _ended(self) -> Outcome:
        at_ns = self.world.now_ns
        ledgers: dict[str, list[Row]] = {}
        damaged: dict[str, list[str]] = {}
        keys: dict[str, dict[str, bytes]] = {}
        for name, machine in self.machines.items():
            journal = machine.process.journal if machine.process is not None else self._opened(machine)
            if journal is not None:
                ledgers[name] = journal.rows()
                damaged[name] = [*machine.named, *journal.verify()]
            keys[name] = DiskKeyStore(machine.disk).all()
        tasks = self.settings.tasks
        end = End(
            at_ns=at_ns,
            healed_ns=self.heal_ns,
            ledgers=ledgers,
            damaged=damaged,
            gone=dict(self.injector.gone),
            keys=keys,
            chronicles={name: machine.archive.kept() for name, machine in self.machines.items()},
            tables=self._tables() if self.state_clients else {},
            outbox_tasks_max=tasks.outbox_tasks_max,
            outbox_bytes_max=tasks.outbox_bytes_max,
        )
        left_out: Counter[str] = Counter()
        for client in self.clients.values():
            left_out += client.left_out
        for writer in self.state_clients:
            left_out += writer.left_out
        return Outcome(
            seed=self.seed,
            parts=self.collector.finish(at_ns, end),
            verdicts=self.panel.verdicts(end),
            trace_hash=self.world.trace_hash(),
            steps=self.world.steps,
            ended_ns=at_ns,
            replay_ns=(BEGIN_NS, self.end_ns),
            faults=self.faults,
            left_out=left_out,
            notes=self.notes,
        )

    def _tables(self) -> dict[str, Tables]:
        """What lies on the disks, as the next lives would find it."""
        found = {}
        for name, machine in self.machines.items():
            mesh = machine.site.trust.mesh_id
            named = dict(machine.losses)
            if machine.process is not None and machine.process.cells.losses:
                named[machine.process.cells.losses] = None
            try:
                image, damaged = opened_cells(machine.disk, mesh, machine.node_id)
            except EdgeweaveError:
                continue
            cells = Cells()
            for cell, data in image.cells:
                cells.place(cell, unpack(cell.kind, data))
            fresh = [line for line in damaged if not line.endswith("was set aside")]
            found[name] = Tables(
                mesh, dict(cells.all()), cells.canonical(), (*named, *fresh), unread=bool(fresh)
            )
        return found

    def _opened(self, machine: Machine) -> VirtualJournal | None:
        """The ledger of a machine whose daemon is dead, as its next life would find it."""
        try:
            return open_journal(self.world, machine.disk, machine.site.trust.mesh_id, machine.node_id)
        except EdgeweaveError:
            return None


def link_model(table: LinkTable) -> LinkModel:
    """As the network knows it."""
    return LinkModel(**{name: getattr(table, name) for name in LinkModel.__struct_fields__})


@contextmanager
def _quiet() -> Iterator[None]:
    """Daemons' logs carry wall time, and there is none in here; what happened is in the trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


__all__ = ["Answered", "Outcome", "Play", "Told", "link_model"]
