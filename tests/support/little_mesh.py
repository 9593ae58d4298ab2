"""A mesh in one process: real agents, sessions, journals and workers over a MemoryBroker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from edge_node.agent import Agent
from edge_node.backend import AgentBackend
from edge_node.control.server import ControlServer
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.home import Home
from edge_node.settings import NodeSettings
from edge_node.tasks.journal import Journal
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Link
from edge_node.transport.memory import MemoryBroker, MemoryLink
from edge_node.wire.topics import Presence, RosterTopic, topic_for
from gateway.groups import Groups
from security.authority import Authority
from security.identity import NodeKeys, spki_der
from security.keystore import KeyStore
from security.roster import Deployer, Member, MemberKey, RosterDraft, RosterView

FUNCTIONS = '''
import time
from edge_node.functions import function

@function(timeout_s=5)
def add(a: int, b: int) -> int:
    """The sum."""
    print("adding")
    return a + b

@function(timeout_s=5)
def nothing() -> None:
    """Nothing at all."""

@function(timeout_s=5)
def blob(data: bytes, size: int) -> bytes:
    """So many bytes."""
    return b"x" * size

@function(timeout_s=30)
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@function()
def fail() -> None:
    raise ValueError("on purpose")
'''


class GatewayDuties:
    """The least that an agent named gateway needs; the real duties are `gateway.house`."""

    def __init__(self, mesh: LittleMesh) -> None:
        self.mesh = mesh
        self.agent: Agent | None = None
        self.groups = Groups(mesh.authority)

    def attach(self, agent: Agent) -> None:
        self.agent = agent

    def roster_changed(self, roster, signed) -> None: ...

    def roster_shown(self, peer, signed) -> None: ...

    def link_up(self) -> None:
        assert self.agent is not None
        self.agent.link.send(0, topic_for(RosterTopic(self.mesh.mesh_id)), self.mesh.signed, retain=True)

    def peer_changed(self, peer, up, reason) -> None: ...

    def heard(self, peer, message) -> None: ...

    def deployer_key(self):
        return self.mesh.deployer


class LittleMesh:
    """``async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as mesh``"""

    def __init__(
        self, path: Path, names: list[str], *, settings: NodeSettings | None = None, workers: int = 1
    ) -> None:
        self.path = path
        self.names = names
        self.settings = settings or NodeSettings()
        self.workers = workers
        self.authority = Authority.create(now_s=int(time.time()), entropy=os.urandom)
        self.mesh_id = self.authority.mesh_id
        self.deployer = ec.generate_private_key(ec.SECP256R1())
        self.keys = {name: NodeKeys.generate() for name in names}
        self.roles: dict[str, tuple[str, ...]] = {"gateway": ("gateway",)}
        self.brokers: tuple[str, ...] = ("127.0.0.1:1",)
        self.broker = MemoryBroker()
        self.agents: dict[str, Agent] = {}
        self.version = 0
        self.signed = b""
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}

    def sign(self, members: list[str] | None = None) -> bytes:
        self.version += 1
        now_s = int(time.time())
        self.signed = self.authority.sign_roster(
            RosterDraft(
                version=self.version,
                prev_digest=bytes(32),
                issued_s=now_s,
                brokers=self.brokers,
                deployers=(Deployer("gateway", spki_der(self.deployer.public_key())),),
                members=tuple(
                    Member(
                        name,
                        (MemberKey(self.keys[name].spki_sha256, self.keys[name].x25519_public, now_s),),
                        self.roles.get(name, ()),
                    )
                    for name in (self.names if members is None else members)
                ),
            )
        )
        return self.signed

    async def __aenter__(self) -> LittleMesh:
        self.sign()
        for name in self.names:
            await self.start(name)
        async with asyncio.timeout(60):  # only a hang takes it
            while any(len(a.detector.up()) < 1 for a in self.agents.values()) and len(self.names) > 1:
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in list(self.agents):
            await self.stop(name)

    def home(self, name: str) -> Home:
        home = Home(self.path / name)
        home.create()
        return home

    def link_of(self, name: str, keystore: KeyStore, inbox: Inbox) -> Link:
        return MemoryLink(self.broker, name, inbox, will=topic_for(Presence(self.mesh_id, name)))

    async def start(self, name: str) -> Agent:
        home = self.home(name)
        keystore = KeyStore(home.keys)
        inbox = Inbox(1024)
        agent = Agent(
            node_id=name,
            home=home,
            settings=self.settings,
            keys=self.keys[name],
            keystore=keystore,
            roster=RosterView(root_spki_sha256=self.authority.root_spki_sha256, signed=self.signed),
            inbox=inbox,
            link=self.link_of(name, keystore, inbox),
            runtime=lambda done, started: WorkerPool(self.workers, on_done=done, on_started=started),
            journal=Journal(home.ledger, self.mesh_id, name),
            extension=GatewayDuties(self) if name == "gateway" else None,
            mdns="none",
        )
        stack = contextlib.AsyncExitStack()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        running = group.create_task(agent.run(), name=f"agent-{name}")
        stack.callback(running.cancel)
        await agent.ready()
        control = ControlServer(home.socket, AgentBackend(agent))
        await control.listen()
        agent.at_turn_end.append(control.flush)
        serving = group.create_task(control.run(), name=f"control-{name}")
        stack.callback(serving.cancel)
        self.agents[name] = agent
        self._stacks[name] = stack
        return agent

    async def stop(self, name: str) -> None:
        """As a crash of the process: nothing is handed back."""
        del self.agents[name]
        await self._stacks.pop(name).aclose()
