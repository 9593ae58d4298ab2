"""Daemons on hosts of their own: each starts inside its namespace with default flags and real mDNS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from device_sim.fleet.processes import Processes, end
from edge_node.client import Mesh
from examples.hosts.network import Network
from security.enrolment import JoinCode
from security.errors import EdgeweaveError, Unavailable

GATEWAY: Final = "gateway"
READY_S_MAX: Final = 40.0


@dataclass(slots=True)
class Member:
    """One daemon; its host bears the same name."""

    name: str
    home: Path
    process: asyncio.subprocess.Process | None = None
    ready: dict[str, Any] = field(default_factory=dict)


class _OnHosts(Processes):
    """Each command runs on the host after which the home that it names is called."""

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder)
        self._network = network

    async def _spawn(self, command: list[str], errors: str | None) -> asyncio.subprocess.Process:
        host = Path(command[command.index("--home") + 1]).name
        return await super()._spawn([*self._network.prefix(host), *command], errors)


class HostsMesh:
    """A daemon on every host of *network*, the one named gateway among them. ``stop`` leaves no process."""

    def __init__(
        self, folder: Path, network: Network, tell: Callable[[str], None], *, broker: str = "auto"
    ) -> None:
        self.network = network
        self.tell = tell
        self.members = {name: Member(name, folder / name) for name in network.hosts}
        self._processes = _OnHosts(folder, network)
        self._broker = broker

    @property
    def nodes(self) -> list[Member]:
        return [member for member in self.members.values() if member.name != GATEWAY]

    async def start(self, source: Path) -> None:
        """Everything up, joined and deployed. Raises: EdgeweaveError: one line with its fix."""
        gateway = self.members[GATEWAY]
        await self.up(gateway)
        self.tell(f"gateway ({self.network.address(GATEWAY)}) is up with {gateway.ready['broker_kind']}")
        await self._processes.command("edge-gateway", "deploy", str(source), "--home", str(gateway.home))
        async with one_error(), asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(self._join_and_up(node, source.stem), name=f"join {node.name}")

    async def _join_and_up(self, node: Member, stem: str) -> None:
        await self.join(node, await self.invite(node.name))
        await self.up(node)
        self.tell(
            f"{node.name} ({self.network.address(node.name)}) sighted the gateway by mDNS, joined, is up"
        )
        try:
            async with asyncio.timeout(READY_S_MAX), Mesh.open(node.home) as mesh:
                while True:
                    if stem in {str(row["name"]).split(".")[0] for row in await mesh.functions()}:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise Unavailable(f"the functions did not reach {node.name}") from None

    async def invite(self, name: str) -> str:
        """A join code that names no address, so that only a sighting can help."""
        gateway = str(self.members[GATEWAY].home)
        code = await self._processes.command("edge-gateway", "invite", "--name", name, "--home", gateway)
        return dataclasses.replace(JoinCode.parse(code.strip()), addresses=()).text()

    async def join(self, node: Member, code: str) -> None:
        node.home.mkdir(mode=0o700, exist_ok=True)
        options = ("--name", node.name, "--home", str(node.home))
        await self._processes.command("edge-node", "join", code, *options)

    async def up(self, member: Member) -> None:
        """Start it; back when it has told that it is ready."""
        member.home.mkdir(mode=0o700, exist_ok=True)
        (member.home / "settings.toml").write_text("[worker]\ncount = 1\n")
        command = ["edge-node", "up"]
        if member.name == GATEWAY:
            command = ["edge-gateway", "up", "--broker", self._broker]
        process = await self._processes.spawn(
            [*command, "--json", "--home", str(member.home)], errors=member.name
        )
        member.process = process
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_S_MAX):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unavailable(
                f"{member.name} was not ready within {READY_S_MAX:g} s", fix="is this machine very busy?"
            ) from None
        with contextlib.suppress(ValueError):
            member.ready = json.loads(line)
        if member.ready.get("event") != "ready":
            told = member.ready.get("error", {}).get("message") or self._processes.last_words(member.name)
            raise Unavailable(f"{member.name} did not start: {told or 'it ended without a word'}")

    async def down(self, member: Member, wait_s: float) -> None:
        if member.process is not None:
            self._processes.remember()
            await end(member.process, signal.SIGTERM, wait_s)

    async def status(self, member: Member) -> dict[str, Any]:
        async with Mesh.open(member.home) as mesh:
            return await mesh.status()

    async def stop(self, *, term_s_max: float) -> list[int]:
        """End everything, nodes first; pids of processes that had to be killed although they should not."""
        await self._processes.started()
        self._processes.remember()
        record = self.members[GATEWAY].home / "broker" / "running.json"
        self._processes.remember_record(record)
        daemons = {member.process for member in self.members.values() if member.process is not None}
        await self._processes.end_others(daemons, term_s_max)
        await asyncio.gather(*(self.down(node, term_s_max) for node in self.nodes))
        await self.down(self.members[GATEWAY], term_s_max)
        self._processes.remember_record(record)
        return await self._processes.sweep()


@contextlib.asynccontextmanager
async def one_error() -> AsyncIterator[None]:
    """The first known cause out of a group of them."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, unknown = group.split(EdgeweaveError)
        if known is None or unknown is not None:
            raise
        cause: BaseException = known
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None
