"""Fault 11: a client that does not read for ten seconds, and a node that stands still for a minute.

The client asks its daemon for more than 200 MB of results in one go and reads nothing; then it reads on, and
each answer must come, once. The node is stopped (SIGSTOP, its workers too) while everybody gives it work with
12 KiB of arguments each; then it goes on, and all of it must be done. Meanwhile the resident memory of every
daemon and of the broker is sampled against what it was before, after the same traffic.
"""

from __future__ import annotations

import asyncio
import socket
import time

from edge_node.control import protocol
from edge_node.control.protocol import FrameReader, Result
from edge_node.home import Home
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.fleet import Fleet, Member, resources, stopped

FAULT = Fault(
    number=11,
    name="slow-consumer",
    title="slow consumer 10 s, SIGSTOP 60 s",
    brokers=BOTH,
    full=10,
    small=2,
    unit="pauses",
    round_max=2,
    round_s=80,
    bounds={"grown MiB daemon": 64.0, "grown MiB broker": 64.0},
)
LARGE_BYTES, LARGE_TASKS, ASKED_TIMES = 1_000_000, 24, 10
FILLER_BYTES = 12 * 1024  # rides along with an offer, so that it is in every queue on the way
EVERY_S = 0.1
TTL_S = 180.0


async def run(context: Context) -> Outcome:
    rng = context.rng
    unread_s, stopped_s = (2.0, 5.0) if context.brief else (10.0, 60.0)
    context.drawn |= {"unread_s": unread_s, "stopped_s": stopped_s}
    stop = asyncio.Event()
    async with Fleet(context, nodes=3, ttl_s=TTL_S) as fleet:
        victim = fleet.members[rng.choice(("n1", "n2", "n3"))]
        owners = [member for member in fleet.members.values() if member is not victim]
        drivers = [fleet.driver(owner) for owner in owners]
        reader = fleet.driver(rng.choice(owners))
        for _ in range(LARGE_TASKS):
            await reader.submit(LARGE_BYTES, function="load.large", where="local")
        for driver in drivers:  # everything that is loaded or sized on first use
            await asyncio.gather(
                *(driver.work(0.0, where=victim.name, filler="x" * FILLER_BYTES) for _ in range(20))
            )
        for driver in (reader, *drivers):
            await driver.settled(60)
        scale = Scale(fleet)
        driving = [
            asyncio.create_task(
                driver.steadily(
                    EVERY_S, lambda: 0.0, stop, where=(victim.name, "any"), filler="x" * FILLER_BYTES
                )
            )
            for driver in drivers
        ]
        weighing = asyncio.create_task(scale.weigh())
        try:
            begun = time.monotonic()
            with stopped(victim):
                await _unread(fleet, reader.member, list(reader.waiting), unread_s)
                await asyncio.sleep(max(0.0, stopped_s - (time.monotonic() - begun)))
        finally:
            stop.set()
            await asyncio.gather(*driving)
        await fleet.settled()
        weighing.cancel()
        grown = scale.grown()
    return fleet.outcome(2, grown)


class Scale:
    """Resident memory of everybody, against what it was when this was made."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._before: dict[str, float] = {}
        self._most: dict[str, float] = {}
        self._before = dict(self._now())

    async def weigh(self, every_s: float = 0.1) -> None:
        while True:
            for name, mib in self._now():
                self._most[name] = max(mib, self._most.get(name, 0.0))
            await asyncio.sleep(every_s)

    def grown(self) -> dict[str, float | int | str]:
        """MiB, the largest of its kind."""
        by_kind: dict[str, float] = {}
        for name, mib in self._most.items():
            kind = "broker" if name == "broker" else "daemon"
            by_kind[kind] = max(by_kind.get(kind, 0.0), mib - self._before[name])
        return {f"grown MiB {kind}": round(mib, 1) for kind, mib in by_kind.items()}

    def _now(self) -> list[tuple[str, float]]:
        pids = {member.name: member.pid for member in self._fleet.members.values() if member.alive}
        record = self._fleet.broker_record()
        if record is not None:
            pids["broker"] = record.pid
        found = []
        for name, pid in pids.items():
            here = resources(pid)
            if here is not None:
                found.append((name, here[0] / 2**20))
        return found


async def _unread(fleet: Fleet, member: Member, tasks: list[str], seconds: float) -> None:
    """Ask for each of *tasks* many times over, read nothing for that long, then read every answer."""
    asked = dict(enumerate(tasks * ASKED_TIMES, 1))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        with Home(member.home).socket_address() as address:
            opened.connect(address)
        opened.setblocking(False)
        for at, task in asked.items():
            await loop.sock_sendall(opened, protocol.encode(Result(at, task, 0)))
        await asyncio.sleep(seconds)
        frames, answered = FrameReader(), []
        while len(answered) < len(asked):
            try:
                async with asyncio.timeout(30):
                    data = await loop.sock_recv(opened, 1 << 20)
            except TimeoutError:
                data = b""
            if not data:
                break
            answered += [protocol.decode_response(body) for body in frames.feed(data)]
    wrong = [a for a in answered if not isinstance(a, protocol.Outcome) or a.task != asked[a.id]]
    once = len({answer.id for answer in answered})
    if wrong or once != len(answered) or once != len(asked):
        fleet.violations.append(
            f"P1: a client of {member.name} that had not read for {seconds:g} s got {once} of {len(asked)} "
            f"answers, {len(answered) - once} twice, {len(wrong)} wrong ({wrong[:1]})"
        )
