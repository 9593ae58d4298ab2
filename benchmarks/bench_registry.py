"""What a thousand members that beat every second cost a gateway: its share of one core.

A real agent with the registry and the group's keeper, real journal and worker pool; at its link, where MQTT
would be, really sealed beats are put into the inbox at an even pace. Sealing is done before. Printed: the
share of a core in all, of it what the pacing itself costs (measured without an agent), and digests told.
`python benchmarks/bench_registry.py [members] [seconds] [--profile]`
"""

from __future__ import annotations

import asyncio
import cProfile
import os
import pstats
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from edge_node.agent import Agent
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.home import Home
from edge_node.membership.heartbeat import Heartbeat
from edge_node.settings import NodeSettings
from edge_node.tasks.journal import Journal
from edge_node.transport.groupcast import Groupcast
from edge_node.transport.inbox import Inbox
from edge_node.transport.link import Delivery, LinkUp
from edge_node.wire.messages import About, Beat, GroupKeys, Load
from gateway.fleet import registry as fleet
from gateway.groups import Groups
from security.authority import Authority
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft, RosterView

PACE_S = 0.01
TARGET = 0.30


class Wire:
    """A link with nobody at its other end: counts what is sent."""

    up = True

    def __init__(self) -> None:
        self.sent = 0

    def send(self, token: int, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        self.sent += 1

    def flush(self) -> None: ...
    def subscribe(self, topics: list[str]) -> None: ...
    def unsubscribe(self, topics: list[str]) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()


class Duties:
    """The registry's half of `gateway.house`, and the group's keeper."""

    def __init__(self, authority: Authority, members: tuple[Member, ...]) -> None:
        self.groups = Groups(authority)
        self.registry = fleet.Registry()
        self.registry.handle(0, fleet.Listed(members))

    def attach(self, agent: Agent) -> None: ...
    def roster_changed(self, roster, signed) -> None: ...
    def roster_shown(self, peer, signed) -> None: ...
    def link_up(self) -> None: ...
    def deployer_key(self): ...

    def peer_changed(self, peer: str, up: bool, reason: str) -> None:
        now_ns = time.monotonic_ns()
        self.registry.handle(now_ns, fleet.Heard(peer) if up else fleet.WentDown(peer, reason))

    def heard(self, peer: str, message) -> None:
        match message:
            case Beat(load=load, boot_id=boot_id):
                self.registry.handle(time.monotonic_ns(), fleet.Heard(peer, load, boot_id=boot_id))
            case About(version=version):
                self.registry.handle(time.monotonic_ns(), fleet.Heard(peer, None, version))


def cpu_s() -> float:
    return time.process_time()


async def pace(frames: list[list[Delivery]], inbox: Inbox | None, seconds: int) -> None:
    """The frames of each second, evenly spread over it."""
    began = time.monotonic()
    for second in range(seconds):
        batch, told = frames[second], 0
        while told < len(batch):
            await asyncio.sleep(PACE_S)
            until = min(len(batch), int((time.monotonic() - began - second) * len(batch)))
            for delivery in batch[told : max(told, until)]:
                if inbox is not None:
                    inbox.put_nowait(delivery)
            told = max(told, until)


async def measure(members: int, seconds: int, profile: bool) -> float:
    authority = Authority.create(now_s=int(time.time()), entropy=os.urandom)
    names = [f"node-{n:04}" for n in range(members - 1)]
    own = NodeKeys.generate()
    spare = MemberKey(os.urandom(32), own.x25519_public, 0)  # listed members that never shake hands here
    listed = (
        Member("gateway", (MemberKey(own.spki_sha256, own.x25519_public, 0),), ("gateway",)),
        *(Member(name, (MemberKey(os.urandom(32), spare.x25519, 0),)) for name in names),
    )
    signed = authority.sign_roster(RosterDraft(1, bytes(32), int(time.time()), ("127.0.0.1:1",), (), listed))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.create()
        inbox, link = Inbox(4096), Wire()
        duties = Duties(authority, listed)
        agent = Agent(
            node_id="gateway",
            home=home,
            settings=NodeSettings(),
            keys=own,
            keystore=KeyStore(home.keys),
            roster=RosterView(root_spki_sha256=authority.root_spki_sha256, signed=signed),
            inbox=inbox,
            link=link,  # type: ignore[arg-type]
            runtime=lambda done, started: WorkerPool(1, on_done=done, on_started=started),
            journal=Journal(home.ledger, authority.mesh_id, "gateway"),
            extension=duties,
            mdns="none",
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(agent.run())
            await agent.ready()
            epoch = agent.presence.groupcast.current
            assert epoch is not None
            frames = sealed(authority, names, GroupKeys(epoch.grant, epoch.secret), seconds + 1)
            inbox.put_local(LinkUp(1))
            await pace(frames[:1], inbox, 1)  # everybody comes up: openers are derived, once
            if profile:
                profiler = cProfile.Profile()
                profiler.enable()
            began, sent = cpu_s(), link.sent
            await pace(frames[1:], inbox, seconds)
            share = (cpu_s() - began) / seconds
            if profile:
                profiler.disable()
                pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
            up, told = len(agent.detector.up()), link.sent - sent
            assert up == len(names) and agent.presence.groupcast.violations.total() == 0
            assert len(duties.registry.up()) == len(names)
            running.cancel()
    began = cpu_s()
    await pace(frames[1:], None, seconds)
    pacing = (cpu_s() - began) / seconds
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{members} members at 1 beat/s: {share:.1%} of a core (of it {pacing:.1%} for the pacing), "
        f"{told / seconds:.1f} frames/s out, {rss_mb:.0f} MB with the frames; target {TARGET:.0%}: "
        f"{'met' if share <= TARGET else 'MISSED'}"
    )
    return share


def sealed(authority: Authority, names: list[str], keys: GroupKeys, seconds: int) -> list[list[Delivery]]:
    """One beat a member and second, in another order each second; loads move by themselves."""
    rng = random.Random(1)
    frames: list[list[Delivery]] = [[] for _ in range(seconds)]
    for name in names:
        cast = Groupcast(
            me=name,
            mesh_id=authority.mesh_id,
            root_spki_sha256=authority.root_spki_sha256,
            is_member=lambda peer: True,
            entropy=os.urandom,
        )
        cast.came(0, "gateway", keys)
        heart = Heartbeat(incarnation=1, boot_id=os.urandom(8))
        for second in range(seconds):
            load = Load(4, rng.choice((0, 0, 40, 900, 4000)), 0, 1.0)
            payload = cast.seal(0, [heart.direct(0, load)])
            assert payload is not None
            frames[second].append(Delivery(cast.topic, payload))
    for batch in frames:
        rng.shuffle(batch)
    return frames


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    members, seconds = (numbers + [1000, 10][len(numbers) :])[:2]
    asyncio.run(measure(members, seconds, "--profile" in sys.argv))


if __name__ == "__main__":
    main()
