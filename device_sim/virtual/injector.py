"""The injector: does to the world what the timeline says, ends it in time, and makes everything good.

Timeline ─► Inject(fault) ─► machines, network, broker, disks, clocks, processors ─► Happened
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from device_sim.chances import outages
from device_sim.faults import BROKER, SECOND, Begun, Done, Fault, Inject, Promised, Timeline
from device_sim.virtual.cell_log import LOG as CELLS
from device_sim.virtual.cell_log import MARK as CELLS_MARK
from device_sim.virtual.evidence import ENDED, HEAL, Event, Happened, Restored, Revoked
from device_sim.virtual.ledger_log import LOG
from device_sim.virtual.network import LinkModel, Partition
from device_sim.virtual.sites import Site
from device_sim.virtual.traps import Traps
from device_sim.virtual.world import Entry, World
from edge_node.wire.ids import GATEWAY

if TYPE_CHECKING:
    from device_sim.scenario.tables import LinkTable
    from device_sim.virtual.machine import Machine

NOTHING_MORE: Final = 0
"""Bytes that a full disk still takes."""
CRASHED_NS: Final = SECOND
"""From a crash in the middle of a disk operation until it is started again."""
COPIES_MAX: Final = 4
"""Of one machine's tables."""
_OPERATIONS: Final = {"disk-full": "before write", "disk-error": "before fsync"}


class _Copy(NamedTuple):
    at_ns: int
    data: bytes


class Injector:
    """Args:
    sites: all; a fault of the gateway or the broker befalls each of them.
    links: by name, for `degrade`.
    begin_ns: of the world, when the timeline's time is 0.
    """

    def __init__(
        self,
        world: World,
        sites: Sequence[Site],
        faults: Iterable[Fault],
        links: Mapping[str, LinkModel],
        *,
        saw: Callable[[Event], None],
        begin_ns: int,
    ) -> None:
        self.world = world
        self.sites = sites
        self.injected: Counter[str] = Counter()
        """What took effect: by verb, and where in a disk operation. A kill of who is dead already is none."""
        self.gone: dict[str, str] = {}
        """Machines that are not there any more, for good, and why."""
        self._links = links
        self._saw = saw
        self._timeline = Timeline(list(faults))
        self._where = {node: site for site in sites for node in site.machines if node != GATEWAY}
        self._cuts: dict[str, Partition] = {}
        self._spans: dict[tuple[str, str], Entry] = {}
        self._room: dict[str, int] = {}
        self._traps: dict[str, Traps] = {}
        self._copies: dict[str, list[_Copy]] = {}
        for fault in self._timeline.waiting:
            if fault.do == "restore-tables":
                at_ns = begin_ns + round((fault.at_s - (fault.back_s or 0.0)) * SECOND)
                world.at(max(0, at_ns), self._copy, fault.member)
        self._due: Entry | None = None
        self._healed = False
        world.at(begin_ns, self._begin)

    @property
    def cut(self) -> Mapping[str, Partition]:
        """Machines behind a partition of the timeline."""
        return self._cuts

    # ── the timeline ──────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        self._inject(self._timeline.handle(self.world.now_ns, Begun()))

    def promised(self, node: str, count: int) -> None:
        """So many promises are open at it; told within its own turn, so what that sets off comes after."""
        self.world.soon(self._promised, node, count)

    def _promised(self, node: str, count: int) -> None:
        if not self._healed:
            self._inject(self._timeline.handle(self.world.now_ns, Promised(node, count)))

    def _tick(self) -> None:
        self._due = None
        self._inject(self._timeline.tick(self.world.now_ns))

    def _inject(self, effects: list[Inject]) -> None:
        while effects:
            effect = effects.pop(0)
            if not self._healed:
                self._do(effect.fault)
            effects += self._timeline.handle(self.world.now_ns, Done(effect.index))
        due_ns = self._timeline.deadline_ns()
        self.world.cancel(self._due)
        self._due = None if due_ns is None or self._healed else self.world.at(due_ns, self._tick)

    def outages_of(self, node: str, link: LinkTable, duration_ns: int, begin_ns: int) -> None:
        """An intermittent link: away and back, by its own stream."""
        spans = outages(link, self.world.rng(node, "outages"), duration_ns)
        network = self._where[node].network

        def next_span() -> None:
            span = next(spans, None)
            if span is not None:
                self.world.at(begin_ns + span[0], away, span[1])

        def away(until_ns: int) -> None:
            if self._healed:
                return
            cut = network.partition([node])
            self._happened("outage", node)
            self.world.at(begin_ns + until_ns, back, cut)

        def back(cut: Partition) -> None:
            network.heal(cut)
            self._happened("outage", node, ENDED)
            next_span()

        next_span()

    # ── what is done ──────────────────────────────────────────────────────────────────────────────

    def _happened(self, do: str, node: str = "", detail: str = "") -> None:
        self.world.note(node, "fault", f"{do} {detail}")
        self._saw(Happened(self.world.now_ns, do, node, detail))

    def _ended(self, do: str, node: str) -> None:
        """One that ends by itself; what is told after the end of all has ended with them."""
        if not self._healed:
            self._happened(do, node, ENDED)

    def _machines(self, node: str) -> list[tuple[Site, str]]:
        if node in (GATEWAY, BROKER):
            return [(site, GATEWAY) for site in self.sites]
        return [(self._where[node], node)]

    def _do(self, fault: Fault) -> None:
        for site, node in self._machines(fault.member):
            self._do_to(site, node, fault)

    def _do_to(self, site: Site, node: str, fault: Fault) -> None:
        machine = site.machines[node]
        shown = "" if fault.member == BROKER else machine.name
        if fault.nth:
            self._arm(site, machine, fault)
            return
        self._happened(fault.do, shown)
        if self._takes_effect(site, machine, fault):
            self.injected[fault.do] += 1
        match fault.do:
            case "kill" | "kill-gateway":
                site.end(node, "kill")
            case "power-cut" | "power-cut-gateway":
                site.end(node, "power")
            case "restart" | "restart-gateway":
                self._back(site, machine)
            case "kill-broker" | "wipe-broker":
                site.end_broker(wipe=fault.do == "wipe-broker", back=lambda: self._ended(fault.do, shown))
            case "pause":
                machine.pause()
            case "resume":
                machine.resume()
            case "revoke":
                self.gone[machine.name] = "revoke"
                site.revoke(node, lambda: self._saw(Revoked(self.world.now_ns, machine.name)))
            case "partition":
                if machine.name not in self._cuts:
                    direction = fault.direction or "both"
                    up, down = direction != "to", direction != "from"
                    if node == site.broker_host:  # it is the broker's host that nobody reaches, nor it them
                        self._cuts[machine.name] = site.network.isolate_host(up=down, down=up)
                    else:
                        self._cuts[machine.name] = site.network.partition([node], up=up, down=down)
            case "heal-partition":
                held = self._cuts.pop(machine.name, None)
                if held is not None:
                    site.network.heal(held)
            case "degrade":
                site.network.attach(node, self._links[fault.link], local=node == site.broker_host)
            case "clock-step":
                machine.clock.step(round((fault.by_s or 0.0) * 1000))
            case "disk-full":
                self._room.setdefault(machine.name, machine.disk.capacity_bytes)
                machine.disk.capacity_bytes = machine.disk.used_bytes + NOTHING_MORE
            case "disk-free":
                self._traps_of(machine).disarm("disk-full")
                machine.disk.capacity_bytes = self._room.pop(machine.name, machine.disk.capacity_bytes)
            case "disk-error":
                machine.disk.fail_fsync()
            case "disk-flip":
                self._flip(machine)
            case "restore-tables":
                self._restore(site, machine, round((fault.back_s or 0.0) * SECOND))
            case "slow":
                machine.slow(fault.factor or 1.0)
            case "kill-worker":
                if machine.process is not None and machine.process.processor.kill_worker():
                    self.injected[fault.do] += 1
        if fault.until_s is not None:
            self._until(site, machine, fault)

    def _until(self, site: Site, machine: Machine, fault: Fault) -> None:
        assert fault.until_s is not None
        lasts_ns = round((fault.until_s - fault.at_s) * SECOND)
        if fault.do not in ("degrade", "slow"):
            return  # what ends the others is a fault of its own

        def over() -> None:
            if not self._healed:
                if fault.do == "slow":
                    machine.slow(1.0)
                else:
                    node, local = machine.node_id, machine.node_id == site.broker_host
                    site.network.attach(node, machine.board.link, local=local)
                self._happened(fault.do, machine.name, ENDED)

        self.world.after(lasts_ns, over)

    @staticmethod
    def _takes_effect(site: Site, machine: Machine, fault: Fault) -> bool:
        match fault.do:
            case "kill" | "power-cut" | "kill-gateway" | "power-cut-gateway" | "pause":
                return machine.up
            case "kill-broker" | "wipe-broker":
                return site.broker.running
            case "kill-worker":
                return False  # it says so itself
            case _:
                return True

    # ── in the middle of an operation of a disk ───────────────────────────────────────────────────

    def _traps_of(self, machine: Machine) -> Traps:
        traps = self._traps.get(machine.name)
        if traps is None:
            traps = self._traps[machine.name] = Traps(self.world, machine.disk)
        return traps

    def _arm(self, site: Site, machine: Machine, fault: Fault) -> None:
        traps, disk = self._traps_of(machine), machine.disk

        def spring(label: str, length: int) -> None:
            if machine.name in self.gone:
                return
            self.injected[fault.do] += 1
            self._happened(fault.do, machine.name, label)
            match fault.do:
                case "disk-full":  # in the middle of this write
                    self._room.setdefault(machine.name, disk.capacity_bytes)
                    rng = self.world.rng(machine.name, "full", str(self.world.now_ns))
                    disk.capacity_bytes = disk.used_bytes + rng.randrange(length + 1)
                case "disk-error":
                    disk.fail_fsync()
                case _:
                    how = "power" if fault.power else "kill"
                    self.injected[f"{how} {label}"] += 1
                    site.crash(machine.node_id, how)
                    self.world.after(CRASHED_NS, self._supervised, site, machine)
                    traps.dark()

        traps.arm(fault.do, fault.point or _OPERATIONS[fault.do], fault.nth, spring)

    def _supervised(self, site: Site, machine: Machine) -> None:
        if not machine.up:
            self._back(site, machine)

    def _flip(self, machine: Machine) -> None:
        """A bit of one of its stores."""
        rng = self.world.rng(machine.name, "flip", str(self.world.now_ns))
        sizes = [(name, machine.disk.size(name)) for name in (LOG, CELLS) if machine.disk.exists(name)]
        stores = [each for each in sizes if each[1]]
        if stores:
            bit = rng.randrange(8 * stores[0][1])  # drawn first: a world without tables stays the same run
            name, size = rng.choice(stores) if len(stores) > 1 else stores[0]
            machine.disk.flip(name, bit if name == stores[0][0] else rng.randrange(8 * size))

    # ── an old copy of the tables ─────────────────────────────────────────────────────────────────

    def _copy(self, member: str) -> None:
        """As somebody's backup: what is safe, and what the kernel has not written yet."""
        for site, node in self._machines(member):
            machine = site.machines[node]
            if machine.disk.exists(CELLS):
                kept = self._copies.setdefault(machine.name, [])
                kept.append(_Copy(self.world.now_ns, machine.disk.read(CELLS)))
                del kept[:-COPIES_MAX]

    def _restore(self, site: Site, machine: Machine, back_ns: int) -> None:
        """The machine is switched off, its tables are replaced, and it is started again."""
        before_ns = self.world.now_ns - back_ns
        copies = [each for each in self._copies.get(machine.name, ()) if each.at_ns <= before_ns]
        if not copies:
            return
        copied_ns, disk = copies[-1].at_ns, machine.disk
        if machine.up:
            site.end(machine.node_id, "kill")
            self.world.after(CRASHED_NS, self._supervised, site, machine)
        for name in (CELLS, CELLS_MARK):
            if disk.exists(name):
                disk.remove(name)
        try:
            disk.write(CELLS, 0, copies[-1].data)
            disk.fsync(CELLS)
            disk.fsync_dir()
        except OSError:  # it is full, or refuses: what is half there is not left
            copied_ns = 0
            if disk.exists(CELLS):
                disk.remove(CELLS)
        self.injected["restore-tables"] += 1
        self._saw(Restored(self.world.now_ns, machine.name, copied_ns))

    def _back(self, site: Site, machine: Machine) -> None:
        if self.gone.get(machine.name, "revoke") != "revoke":
            return  # without power nobody can start it
        if machine.up:  # in order, as for an update
            site.end(machine.node_id, "kill")
        site.start(machine.node_id)

    # ── the end of all faults ─────────────────────────────────────────────────────────────────────

    def heal(self) -> None:
        """Everything is made good: whoever is not revoked runs, hears and writes."""
        self._healed = True
        self.world.cancel(self._due)
        for traps in self._traps.values():
            traps.disarm()
        self._happened(HEAL)
        for site in self.sites:
            site.network.heal_all()
            if not site.broker.running:
                site.broker.start()
            for node, machine in site.machines.items():
                machine.disk.capacity_bytes = self._room.pop(machine.name, machine.disk.capacity_bytes)
                machine.disk.fail_fsync(times=0)
                machine.slow(1.0)
                site.network.attach(node, machine.board.link, local=node == site.broker_host)
                if machine.paused:
                    machine.resume()
                if machine.name in self.gone:
                    continue
                if not machine.up:
                    self._back(site, machine)
        self._cuts.clear()
