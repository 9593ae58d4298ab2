"""A site: one mesh in the world, with its broker, its machines and its gateway.

The gateway is the production node with the production duties; what of them is a coroutine runs on the world's
own event loop. Its broker runs on the same host, outlives a killed gateway, and is started again by one that
is up, as the supervisor does it.

A mesh has at most 1 024 members. A larger fleet is several sites, which do not know of each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from device_sim.virtual.broker import VirtualBroker
from device_sim.virtual.evidence import Crashed, Event, Framed, Reached, Started
from device_sim.virtual.key_files import DiskKeyStore
from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.machine import Board, Machine
from device_sim.virtual.network import Network
from device_sim.virtual.readings import Readings
from device_sim.virtual.services import Outputs, Service
from device_sim.virtual.trust import BROKER_ADDRESS, Trust
from device_sim.virtual.world import SECOND, Dark, World
from edge_node.clock import AHEAD_S_MAX, FlooredClock
from edge_node.functions.bundle import Bundle
from edge_node.settings import BoardSettings, NodeSettings
from edge_node.wire.ids import GATEWAY
from gateway.broker.access import Access
from gateway.broker.door_list import DoorList
from gateway.duties import Duties
from security.certificates import floor_s
from security.errors import EdgeweaveError
from security.identity import spki_der
from security.roster import MEMBERS_MAX, Deployer, Roster, open_roster

NODES_MAX: Final = MEMBERS_MAX - 1
"""Of one mesh, beside its gateway."""
BROKER_BACK_NS: Final = SECOND
"""From a broker's end until the gateway's supervisor has it running again."""
RESTART_NS: Final = 5 * SECOND
"""From a daemon that could not start until its supervisor tries again."""
BROKER_HOST: Final = GATEWAY


class Site:
    """Args:
    boards: node id -> its machine.   gateway: the gateway's.
    bundles: code that is deployed at the gateway before the world begins; nodes fetch it.
    saw: told of every event of evidence.
    settings: of every node; the board's own are put in.
    """

    def __init__(
        self,
        world: World,
        loop: VirtualLoop,
        name: str,
        boards: Mapping[str, Board],
        gateway: Board,
        *,
        bundles: Iterable[Bundle],
        services: Mapping[str, Service],
        outputs: Outputs,
        pool: dict[bytes, bytes],
        saw: Callable[[Event], None],
        settings: NodeSettings | None = None,
        prefix: str = "",
    ) -> None:
        assert len(boards) <= NODES_MAX, "a larger fleet is several sites"
        self.world = world
        self.name = name
        self.services = services
        self.outputs = outputs
        self.pool = pool
        self.saw = saw
        self.settings = settings or NodeSettings()
        self.prefix = prefix
        self.trust = Trust(world, name, {node: board.labels for node, board in boards.items()})
        self.pin = self.trust.authority.root_spki_sha256
        self.network = Network(world)
        self.broker = VirtualBroker(
            world,
            self.network,
            Access(self.trust.mesh_id),
            [self.trust.bearer(node) for node in (GATEWAY, *boards)],
        )
        self.broker_host = BROKER_HOST
        self._loop = loop
        self._opened: dict[bytes, Roster] = {}
        self.readings = Readings()
        self.machines = {GATEWAY: Machine(world, self, self.shown(GATEWAY), GATEWAY, gateway)}
        for node, board in boards.items():
            self.machines[node] = Machine(world, self, self.shown(node), node, board)
        for machine in self.machines.values():
            DiskKeyStore(machine.disk).save_roster(self.trust.signed)
        first = self.machines[GATEWAY]
        for bundle in bundles:
            data, entries = self.trust.deployed(bundle)
            first.bundles.put(data)
            table = first.documents.table("catalogue", key="id")
            for entry in entries:
                table.upsert(entry.document)
        self.duties: Duties | None = None
        self.on_started: Callable[[Machine], None] | None = None
        """Told of each machine whose daemon runs (again)."""
        self._house: asyncio.Task[None] | None = None

    def shown(self, node: str) -> str:
        """Its name in the world: every site has a node named gateway."""
        return self.prefix + node if node == GATEWAY else node

    def open_roster(self, data: bytes, *, root_spki_sha256: bytes | str) -> Roster:
        """Each version once: a roster's bytes decide what it says, and thousands of members ask."""
        found = self._opened.get(data)
        if found is None:
            found = open_roster(data, root_spki_sha256=root_spki_sha256)
            while len(self._opened) >= 8:
                del self._opened[next(iter(self._opened))]
            self._opened[data] = found
        return found

    def settings_of(self, board: Board) -> NodeSettings:
        return NodeSettings(
            board=BoardSettings(slowdown=1.0 / board.speed),
            link=self.settings.link,
            tasks=self.settings.tasks,
            functions=self.settings.functions,
            trust=self.settings.trust,
        )

    def watch_wires(self) -> None:
        """Have `saw` told of every payload; costs, so only if somebody looks."""
        world, saw = self.world, self.saw
        self.broker.on_framed = lambda sender, topic, payload: saw(
            Framed(world.now_ns, self.shown(sender), topic, payload)
        )
        self.broker.on_reached = lambda reader, topic, payload: saw(
            Reached(world.now_ns, self.shown(reader), topic, payload)
        )

    # ── lives ─────────────────────────────────────────────────────────────────────────────────────

    def start(self, node: str) -> None:
        """Its daemon. Nothing happens where one runs."""
        machine = self.machines[node]
        if machine.up or (node == GATEWAY and self._house is not None):
            return
        if node == GATEWAY:
            if not self.broker.running:
                self.broker.start()
            self._house = self._loop.create_task(self._gateway(machine), name=f"{machine.name} house")
            return
        try:
            machine.start()
        except Dark:
            return  # in the middle of its start; whoever did that starts it again
        except EdgeweaveError as error:  # it says why and ends; whoever supervises it starts it again
            self.world.note(machine.name, "cannot start", str(error))
            self.world.after(RESTART_NS, self.start, node)
            return
        self._started(machine)

    def end(self, node: str, how: str) -> None:
        """`how`: kill or power."""
        machine = self.machines[node]
        if node == GATEWAY:
            if self._house is not None:
                self._house.cancel()
            self._house = self.duties = None
            if how == "power" and self.broker.running:
                self.broker.stop("power")
        elif not machine.up:
            return
        machine.end(how)
        self.world.note(machine.name, "ended", how)
        self.saw(Crashed(self.world.now_ns, machine.name, how))

    def crash(self, node: str, how: str) -> None:
        """As `end`, also of one that is just being started, and from within its own code."""
        if node == GATEWAY or self.machines[node].up:
            self.end(node, how)
            return
        machine = self.machines[node]
        machine.end(how)
        self.world.note(machine.name, "ended", how)
        self.saw(Crashed(self.world.now_ns, machine.name, how))

    def end_broker(self, *, wipe: bool, back: Callable[[], None]) -> None:
        """Kill -9; the gateway's supervisor starts it again, if the gateway is up then. *back*: it runs."""
        if self.broker.running:
            self.broker.stop("kill")
        self.world.after(BROKER_BACK_NS, self._broker_back, wipe, back)

    def _broker_back(self, wipe: bool, back: Callable[[], None]) -> None:
        if self.broker.running:
            back()
            return
        if self._house is None:  # nobody is there to start it; the gateway will, when it comes
            self.world.after(BROKER_BACK_NS, self._broker_back, wipe, back)
            return
        self.broker.start(database=not wipe)
        if self.duties is not None and self.duties.door_list is not None:
            self.duties.door_list.moved()
        back()

    async def _gateway(self, machine: Machine) -> None:
        try:
            duties = await self._open_house(machine)
        except EdgeweaveError as error:  # it says why and ends; whoever supervises it starts it again
            self.world.note(machine.name, "cannot start", str(error))
            self._house = self.duties = None
            self.world.after(RESTART_NS, self.start, GATEWAY)
            return
        self._started(machine)
        await duties.run()

    async def _open_house(self, machine: Machine) -> Duties:
        keystore = DiskKeyStore(machine.disk)
        signed = keystore.roster()
        assert signed is not None, "the world begins with one"
        issued_s = self.open_roster(signed, root_spki_sha256=self.pin).issued_s
        floor_ms = floor_s(keystore.floor_s(), issued_s) * 1000
        duties = Duties(
            authority=self.trust.authority,
            keystore=keystore,
            deployer=self.trust.deployer,
            clock=FlooredClock(machine.clock, floor_ms, ahead_ms_max=AHEAD_S_MAX * 1000),
            entropy=self.world.entropy(machine.name, "duties", str(machine.lives)),
        )
        await duties.keeper.open(
            members=[self.trust.gateway_member()],
            brokers=[BROKER_ADDRESS],
            deployers=[Deployer(GATEWAY, spki_der(self.trust.deployer.public_key()))],
        )
        duties.door_list = DoorList(self.broker, lambda: duties.keeper.current)
        self.duties = duties
        machine.start(duties)
        return duties

    def _started(self, machine: Machine) -> None:
        self.world.note(machine.name, "started", str(machine.lives))
        self.saw(Started(self.world.now_ns, machine.name))
        if self.on_started is not None:
            self.on_started(machine)

    def revoke(self, node: str, told: Callable[[], None]) -> None:
        """As the operator's `edge-gateway revoke`; *told* when it says that the broker took it."""
        duties = self.duties
        if duties is None:
            self.world.after(SECOND, self.revoke, node, told)  # the operator tries again
            return

        async def revoking() -> None:
            try:
                await duties.revoke(node, by="operator", reason="simulated", withdraw=_nothing_open)
            except EdgeweaveError:
                self.world.after(SECOND, self.revoke, node, told)
                return
            told()

        self._loop.create_task(revoking(), name=f"revoke {node}")

    def members(self) -> Sequence[Machine]:
        return list(self.machines.values())


async def _nothing_open(node: str) -> None:
    """The joining desk has nothing of anybody: everybody joined before the world began."""
