"""A machine in the world, and the daemon that runs on it: the production node, turn by turn.

    Machine    what outlives a process: disk, shelf, clock, processor, place in the network
    Process    one life of the daemon: inbox ─► Node.turn ─► link, journal, processor; killed by forgetting it

A turn begins when the processor has time for the loop, takes what has come until then, and its effects leave
at its end: a busy machine is late with everything. Nothing of a dead process can act: every callback that it
left behind asks whether it is the one that lives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from device_sim.virtual.archive import MachineArchive
from device_sim.virtual.cell_disk import VirtualCells
from device_sim.virtual.clocks import VirtualClock
from device_sim.virtual.disk import Disk
from device_sim.virtual.evidence import NO_CLOCK, Happened
from device_sim.virtual.key_files import DiskKeyStore
from device_sim.virtual.ledger_journal import open_journal
from device_sim.virtual.link import VirtualLink
from device_sim.virtual.network import LinkModel
from device_sim.virtual.processor import Processor
from device_sim.virtual.shelf import Documents, NoNotes, VirtualBundles
from device_sim.virtual.world import SECOND, Entry, World
from edge_node.discovery.neighbours import Neighbours
from edge_node.functions.runtimes.runtime import OnDone, OnStarted
from edge_node.node import Node
from edge_node.store.notes import PRUNE_NS
from edge_node.store.retention import Retention
from edge_node.transport.inbox import Inbox
from edge_node.wire.topics import Presence, topic_for
from gateway.duties import Duties
from security.errors import EdgeweaveError
from security.identity import NodeKeys
from security.roster import RosterView

if TYPE_CHECKING:
    from device_sim.virtual.sites import Site

TIME_SERVER_S: Final = (5.0, 60.0)
"""From the start of a daemon on a machine without an RTC until a time server was heard."""


@dataclass(frozen=True, slots=True)
class Board:
    """What a machine is made of."""

    cls: str
    speed: float = 1.0
    workers: int = 1
    cores: int = 1
    link: LinkModel = field(default_factory=LinkModel)
    drift_ppm: float = 0.0
    rtc: bool = True
    labels: dict[str, str] = field(default_factory=dict)


class Box(Inbox):
    """An inbox whose owner is called instead of woken."""

    def __init__(self, capacity: int, happened: Callable[[], None]) -> None:
        super().__init__(capacity)
        self._happened = happened

    def put_nowait(self, event: Any) -> None:
        super().put_nowait(event)
        self._happened()

    def put_local(self, event: Any) -> None:
        super().put_local(event)
        self._happened()


class Machine:
    """Args: name: in the world.   node_id: in its mesh.   site: whose member it is."""

    def __init__(self, world: World, site: Site, name: str, node_id: str, board: Board) -> None:
        self.world = world
        self.site = site
        self.name = name
        self.node_id = node_id
        self.board = board
        self.disk = Disk(world.rng(name, "disk"))
        self.documents = Documents()
        self.archive = MachineArchive(node_id)
        self.bundles = VirtualBundles(site.pool)
        self.clock = VirtualClock(world, drift_ppm=board.drift_ppm)
        if not board.rtc:
            self.clock.no_rtc()
        self.slowdown = 1.0
        site.network.attach(node_id, board.link, local=node_id == site.broker_host)
        self.lives = 0
        self.process: Process | None = None
        self.paused = False
        self.named: dict[str, None] = {}
        """What earlier lives of its journal named as damaged: their logs tell it."""
        self.losses: dict[str, None] = {}
        """… and of its tables."""

    @property
    def up(self) -> bool:
        return self.process is not None

    def start(self, duties: Duties | None = None) -> Process:
        """A new life of its daemon. Raises: EdgeweaveError: what a daemon says that cannot start."""
        assert self.process is None, "one daemon a home"
        self.lives += 1
        self.process = process = Process(self, duties)
        try:
            process.begin()
        except EdgeweaveError:
            self.end("kill")
            raise
        if not self.clock.synchronised:
            self.site.saw(Happened(self.world.now_ns, NO_CLOCK, self.name))
            asleep_s = self.world.rng(self.name, "ntp", str(self.lives)).uniform(*TIME_SERVER_S)
            self.world.after(round(asleep_s * SECOND), self._synchronised, self.lives)
        return process

    def _synchronised(self, life: int) -> None:
        if life == self.lives:
            self.clock.synchronise()

    def pause(self) -> None:
        """As SIGSTOP of the daemon: it neither reads, pings nor writes; its workers and its kernel go on."""
        self.paused = True
        if self.process is not None:
            self.process.link.freeze()

    def resume(self) -> None:
        self.paused = False
        if self.process is not None:
            self.process.link.thaw()
            self.process.resume()

    def slow(self, factor: float) -> None:
        """It works so many times slower than its board says from now on, also after a restart."""
        self.slowdown = factor
        if self.process is not None:
            self.process.processor.pace(self.board.speed / factor)

    def end(self, how: str) -> None:
        """kill: the process is gone, the kernel keeps what it wrote. power: the machine is."""
        process, self.process = self.process, None
        self.paused = False
        if process is not None:
            process.die(power=how == "power")
        if how == "power":
            self.disk.power_cut(self.world.rng(self.name, "power", str(self.lives)))
            self.clock.boot()


class Process:
    """One life of a node."""

    def __init__(self, machine: Machine, duties: Duties | None) -> None:
        self.machine = machine
        self.world = machine.world
        self.alive = True
        site, name = machine.site, machine.name
        life = str(machine.lives)
        self.keystore = DiskKeyStore(machine.disk)
        if duties is not None:
            view = duties.keeper.view  # the one that its roster keeper builds on
        else:
            view = RosterView(
                root_spki_sha256=site.pin, signed=self.keystore.roster(), opened=site.open_roster
            )
        self.box = Box(site.settings.link.inbox_messages_max, self._happened)
        self.link = VirtualLink(
            self.world,
            site.network,
            site.broker,
            machine.node_id,
            site.trust.bearer(machine.node_id),
            self.box,
            will=topic_for(Presence(site.trust.mesh_id, machine.node_id)),
            keepalive_s=site.settings.link.keepalive_s,
        )
        self.journal = open_journal(self.world, machine.disk, site.trust.mesh_id, machine.node_id)
        keys: NodeKeys = site.trust.keys[machine.node_id]
        self.cells = VirtualCells(self.world, machine.disk, site.trust.mesh_id, machine.node_id)
        self.node = Node(
            node_id=machine.node_id,
            settings=site.settings_of(machine.board),
            keys=keys,
            keystore=self.keystore,
            roster=view,
            inbox=self.box,
            link=self.link,
            runtime=self._processor,
            journal=self.journal,
            documents=machine.documents,
            bundles=machine.bundles,
            notes=NoNotes(),
            archive=machine.archive,
            neighbours=Neighbours(me=machine.node_id, roster=view, interface="none", on_event=_never),
            cells=self.cells,
            clock=machine.clock if duties is None else duties.clock,
            entropy=self.world.entropy(name, "life", life),
            extension=duties,
            reading=site.readings.reading,
        )
        self.retention = Retention(self.node.clock, self.node.settings.tasks.results_kept_s)
        self._turn: Entry | None = None  # booked at the processor, for what lies in the inbox
        self._booked = 0  # events that it was booked for
        self._timer: Entry | None = None  # at `_due_ns`, or before: it is moved when it rings, not each turn
        self._due_ns = 0
        self._running = False

    def _processor(self, on_done: OnDone, on_started: OnStarted) -> Processor:
        machine, board = self.machine, self.machine.board
        self.processor = Processor(
            self.world,
            machine.name,
            speed=board.speed / machine.slowdown,
            workers=board.workers,
            cores=board.cores,
            clock=machine.clock,
            services=machine.site.services,
            outputs=machine.site.outputs,
            on_done=on_done,
            on_started=on_started,
            ran=machine.site.saw,
            life=machine.lives,
        )
        return self.processor

    def begin(self) -> None:
        self.machine.archive.begin(self.journal, self.node.clock.wall_ms)
        self.journal.start(self._post, self.node.on_persisted, self.node.on_persist_failed)
        self.node.replication.start(self._post)
        self.node.prepare()
        self.node.begin(self.journal.open_tasks())
        self.link.start()
        self._arm()
        self.world.after(PRUNE_NS, self._prune)

    def die(self, *, power: bool) -> None:
        self.alive = False
        self.world.cancel(self._turn)
        self.world.cancel(self._timer)
        self._turn = self._timer = None
        self.machine.named.update(dict.fromkeys(self.journal.damaged))
        self.journal.kill()
        if self.cells.losses:
            self.machine.losses[self.cells.losses] = None
        self.cells.kill()
        self.link.crash(power=power)
        self.processor.crash()

    # ── turns ─────────────────────────────────────────────────────────────────────────────────────

    def _happened(self) -> None:
        """Something came: a turn as soon as the processor has time; what comes until then joins it."""
        if self._turn is not None or self._running or not self.alive or self.machine.paused:
            return
        self._booked = len(self.box)
        world = self.world
        self._turn = world.at(world.now_ns + self.processor.turn_delay_ns(self._booked), self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if not self.alive or self.machine.paused:
            return
        events = self.box.drain()
        if len(events) > self._booked:
            self.processor.spend_events(len(events) - self._booked)
        self._running = True
        try:
            self.node.turn(events)
        finally:
            self._running = False
        self._arm()

    def _arm(self) -> None:
        """The next turn: for what this one put into its own inbox, or when something is due."""
        if len(self.box):
            self._happened()
        elif self.alive:
            self._due_ns = due_ns = max(
                self.machine.clock.true_ns(self.node.deadline_ns()), self.world.now_ns
            )
            timer = self._timer
            if timer is not None:
                if timer.at_ns <= due_ns:
                    return
                self.world.cancel(timer)
            self._timer = self.world.at(due_ns, self._rings)

    def _rings(self) -> None:
        """What the last turn left may be due; a turn that is booked already looks for itself."""
        self._timer = None
        if self._turn is not None or not self.alive or self.machine.paused:
            return
        if self.world.now_ns < self._due_ns:
            self._timer = self.world.at(self._due_ns, self._rings)
            return
        self.processor.turn_delay_ns(0)
        self._booked = 0
        self._take_turn()

    def resume(self) -> None:
        """The process was stopped (SIGSTOP) and goes on."""
        self._arm()

    def _post(self, callback: Callable[..., object], *args: Any) -> None:
        if self.alive:
            callback(*args)

    def _prune(self) -> None:
        if self.alive:
            self.world.after(PRUNE_NS, self._prune)
            self.journal.prune(
                count_max=self.node.settings.tasks.results_kept_max,
                bytes_max=self.node.settings.tasks.results_bytes_max,
                before_ms=self.retention.before_ms(),
            )


def _never(event: Any) -> None:
    raise AssertionError("no mDNS in the world")
