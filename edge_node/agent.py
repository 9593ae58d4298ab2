"""The agent: a node on an event loop, beside its real devices.

    link · worker pool · journal's thread · mDNS ──► inbox ──► Node.turn, a whole batch a wake-up

It opens what lies in the home, starts the devices, feeds the turns and ends everything with itself. What a
turn does is the node's (``node``); the simulator runs that same turn in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_node.clock import Clock, SystemClock
from edge_node.discovery.neighbours import Neighbours
from edge_node.extension import Extension
from edge_node.functions.bundle import BundleStore
from edge_node.home import Home
from edge_node.membership.renewal import Renewal
from edge_node.node import Node, RuntimeFactory
from edge_node.settings import NodeSettings
from edge_node.store.archive import Archive
from edge_node.store.documents import Documents
from edge_node.store.experience import Experience
from edge_node.store.notes import Notes
from edge_node.store.storage.cell_file import CellFile, state_key
from edge_node.store.storage.cell_thread import CellThread
from edge_node.store.wear import Wear
from edge_node.tasks.journal import JournalPort
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Link
from edge_node.wire.ids import GATEWAY
from security.errors import EdgeweaveError
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import RosterView

if TYPE_CHECKING:
    from edge_node.store.events_feed import EventsFeed
    from edge_node.telemetry.otlp import Exporter

log = logging.getLogger(__name__)


class Agent(Node):
    """One member of a mesh, running."""

    def __init__(
        self,
        *,
        node_id: str,
        home: Home,
        settings: NodeSettings,
        keys: NodeKeys,
        keystore: KeyStore,
        roster: RosterView,
        inbox: Inbox,
        link: Link,
        runtime: RuntimeFactory,
        journal: JournalPort,
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        extension: Extension | None = None,
        mdns: str | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.home = home
        self.notebook = Documents(home.documents)
        self._looks_due = asyncio.Event()
        self._drained = asyncio.Event()
        self._ready = asyncio.Event()
        assert roster.current is not None, "a member has a roster"
        sealed_by = state_key(home.state, keystore, entropy)
        self._cells = CellThread(CellFile(home.state, roster.current.mesh_id, node_id, sealed_by))
        self._archive = Archive(home.chronicle, node_id, journal, clock.wall_ms)
        self._noted = Notes(
            documents=self.notebook,
            ledger=journal,
            clock=clock,
            kept=settings.tasks,
        )
        super().__init__(
            node_id=node_id,
            settings=settings,
            keys=keys,
            keystore=keystore,
            roster=roster,
            inbox=inbox,
            link=link,
            runtime=runtime,
            journal=journal,
            documents=self.notebook,
            bundles=BundleStore(home.bundles),
            notes=self._noted,
            archive=self._archive,
            neighbours=Neighbours(
                me=node_id,
                roster=roster,
                interface=mdns,
                on_event=lambda event: self.soon(lambda now_ns, wall_ms: self._seen(now_ns, wall_ms, event)),
            ),
            cells=self._cells,
            clock=clock,
            entropy=entropy,
            extension=extension,
        )
        self.renewal = Renewal(
            keystore,
            self.clock,
            gateways=self.neighbours.gateways,
            mdns="none",  # what the neighbours say is all that mDNS has seen
            on_renewed=lambda identity, signed: self.renewed(identity.keys, signed),
        )
        self._exporter = self._told_to(settings.telemetry.otlp_endpoint)
        self.experience = Experience(home.estimates, self.desk.estimates)
        self.wear = Wear(
            clock, lambda: getattr(journal, "log_bytes", 0), tables=lambda: self._cells.log_bytes
        )

    def _told_to(self, endpoint: str) -> Exporter | None:
        """Who tells a collector of traces. Raises: BadInput."""
        if not endpoint:
            return None
        from edge_node.telemetry.otlp import Exporter  # an extra: most nodes have none

        exporter = Exporter(endpoint, node=self.node_id, mesh=self.mesh_id)
        self.traced = exporter.settled
        return exporter

    # ── life ──────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until cancelled. ``ready`` is set once work is accepted."""
        self.prepare()
        self._looks_due.set()
        self._archive.start(asyncio.get_running_loop().call_soon_threadsafe)
        self.journal.start(
            asyncio.get_running_loop().call_soon_threadsafe, self.on_persisted, self.on_persist_failed
        )
        self.replication.start(asyncio.get_running_loop().call_soon_threadsafe)
        open_tasks = await asyncio.to_thread(self.journal.open_tasks)
        async with contextlib.AsyncExitStack() as stack:
            house = await stack.enter_async_context(asyncio.TaskGroup())
            devices = [
                house.create_task(self.runtime.run(), name="runtime"),
                house.create_task(self.link.run(), name="link"),
                house.create_task(self._noted.run(), name="notes"),
                house.create_task(self.experience.run(), name="experience"),
                house.create_task(self._look_at_ourselves(), name="abilities"),
            ]
            if self._exporter is not None:
                devices.append(house.create_task(self._exporter.run(), name="telemetry"))
            if self.node_id != GATEWAY:  # which is its own authority
                devices.append(house.create_task(self.renewal.run(), name="renewal"))
            try:
                async with self.neighbours.listening():
                    self.experience.load()
                    self.begin(open_tasks)
                    self._ready.set()
                    await self._loop()
            finally:
                for device in devices:
                    device.cancel()
                self.archive.append(self.chronicle.take())
                self._archive.close()  # first: it reads the journal
                self.journal.close()
                self.replication.close()
                self.notebook.close()

    async def _loop(self) -> None:
        inbox, clock = self.inbox, self.clock
        while True:
            wait_s = max(0.0, (self.deadline_ns() - clock.now_ns()) / 1e9)
            self.turn(await inbox.take(wait_s))

    async def ready(self) -> None:
        await self._ready.wait()

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, hand back what waits, finish what runs, at most for *grace_s* seconds."""
        self.begin_drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        await asyncio.sleep(0.05)  # the last parcels leave
        self.soon(self.say_goodbye)
        await asyncio.sleep(0.02)

    def drained(self) -> None:
        self._drained.set()

    # ── what needs a thread or a wait ─────────────────────────────────────────────────────────────

    def requirements_changed(self) -> None:
        self._looks_due.set()

    async def _look_at_ourselves(self) -> None:
        """What the catalogue's functions require and we lack: looked for in a thread when it has changed."""
        while True:
            await self._looks_due.wait()
            self._looks_due.clear()
            about = await asyncio.to_thread(self.abilities.look, self.publisher.requirements())
            if about is not None:
                self.abilities.own = about
                self.soon(self.tell_about_us)

    async def round_trip_s(self, peer: str, *, timeout_s: float = 3.0) -> float:
        """Ask *peer* for a sign of life. Raises: TimeoutError."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answered(rtt_ns: int) -> None:
            if not answer.done():
                answer.set_result(rtt_ns)

        self.soon(lambda now_ns, _: self.ping_for(now_ns, peer, answered))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer / 1e9
        finally:
            self.forget_ping(answered)

    async def why(self, about: str, *, alone: bool = False) -> dict[str, Any]:
        """The story of an id, with what others know of it. Raises: BadInput: nobody knows it. Unavailable."""
        return await _answered(lambda answer: self.correspondence.why(about, answer, alone=alone))

    @functools.cached_property
    def feed(self) -> EventsFeed:
        """What this member notes, for whoever follows it."""
        from edge_node.store.events_feed import EventsFeed  # most members are never followed

        return EventsFeed(self._archive)

    async def state(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A method of the replicated tables (`store.requests`). Raises: EdgeweaveError: as it says."""
        return await _answered(lambda answer: self.replication.call(method, params, answer))

    def status(self) -> dict[str, Any]:
        told = {} if self._exporter is None else {"telemetry": self._exporter.status()}
        return {**super().status(), "pid": os.getpid(), "store": self._store_status(), **told}

    def _store_status(self) -> dict[str, Any]:
        """Whether accepts can be written, and what the disk has had to bear."""
        cause = self.desk.read_only
        return {
            "mode": f"read-only: {cause}; free space and it goes on by itself" if cause else "writing",
            **self.wear.figures(),
        }


async def _answered(
    ask: Callable[[Callable[[dict[str, Any] | EdgeweaveError], None]], None],
) -> dict[str, Any]:
    """What a core answers later, in a turn of its own. Raises: EdgeweaveError: it answered that."""
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def answer(found: dict[str, Any] | EdgeweaveError) -> None:
        if told.done():
            return
        if isinstance(found, EdgeweaveError):
            told.set_exception(found)
        else:
            told.set_result(found)

    ask(answer)
    return await told
