"""A real joining server on loopback, with a mesh of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from edge_node.clock import SystemClock
from gateway.joining import Enroller, JoiningServer, ServerIdentity
from gateway.roster_keeper import RosterKeeper
from security.authority import Authority
from security.certificates import der_of, leaf_sha256, read_pem
from security.enrolment import JoinDesk, JoinLimits
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey
from security.tls import server_context


class ShiftedClock(SystemClock):
    """The machine's clock, some seconds ahead on the wall."""

    ahead_s = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_s * 1000


class GatewayHouse:
    def __init__(self, directory: Path, *, limits: JoinLimits | None = None) -> None:
        now_s = int(time.time())
        self.clock = ShiftedClock()
        self.authority = Authority.create(now_s=now_s, entropy=os.urandom)
        self.keys = NodeKeys.generate()
        self.store = KeyStore(directory)
        self.leaf_pem = self.authority.issue(self.keys.public, "gateway", now_s=now_s)
        self.store.save_authority(self.authority)
        self.store.save_identity(self.keys, leaf_pem=self.leaf_pem, issuing_pem=self.authority.issuing_pem)
        leaf = leaf_sha256(der_of(read_pem(self.leaf_pem)[0]))
        self.identity = ServerIdentity(
            server_context(self.store.identity_path, self.authority.root, client_certificates=False),
            lambda: leaf,
            self.authority.chain_pem,
            self.authority.mesh_id,
        )
        self.keeper = RosterKeeper(self.authority, self.store, on_changed=self._changed, clock=self.clock)
        self.core = JoinDesk(
            root_spki_sha256=self.authority.root_spki_sha256,
            taken=self.is_taken,
            limits=limits or JoinLimits(),
        )
        self.snapshots: list[bytes] = []
        self.issued: list[str] = []
        self.rosters: list[bytes] = []
        self.hold_issuing: asyncio.Event | None = None
        self.disk_full = False

    def _changed(self, signed: bytes) -> None:
        self.rosters.append(signed)

    def is_taken(self, name: str) -> bool:
        return self.keeper.current.listed(name) is not None

    async def persist(self, data: bytes) -> None:
        if self.disk_full:
            raise OSError("no space left on device")
        await asyncio.to_thread(self.store.write, "invitations", data)
        self.snapshots.append(data)

    async def on_joined(self, issue):
        if self.hold_issuing is not None:
            await self.hold_issuing.wait()
        answer = await self.enroller.join(issue)
        self.issued.append(issue.node_id)
        return answer

    @contextlib.asynccontextmanager
    async def open(self):
        key = MemberKey(self.keys.spki_sha256, self.keys.x25519_public, 0)
        await self.keeper.open(members=[Member("gateway", (key,), ("gateway",))], brokers=["127.0.0.1:1883"])
        self.enroller = Enroller(self.authority, self.keeper, clock=self.clock)
        self._running = asyncio.create_task(self.keeper.run())
        try:
            async with JoiningServer(
                "127.0.0.1",
                0,
                self.identity,
                self.core,
                self.persist,
                self.on_joined,
                on_renewal=self.enroller.renew,
                clock=self.clock,
            ) as self.server:
                yield self
        finally:
            await self._stop_keeper()

    async def _stop_keeper(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def reopened(self) -> None:
        """As after a crash: what the keeper had in memory is gone, its disk is read again."""
        await self._stop_keeper()
        self.keeper = RosterKeeper(self.authority, self.store, on_changed=self._changed, clock=self.clock)
        await self.keeper.open()
        self.enroller._keeper = self.keeper
        self._running = asyncio.create_task(self.keeper.run())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    async def invite(self, **options) -> str:
        options.setdefault("addresses", (self.address,))
        return (await self.server.desk.invite(**options)).text()
