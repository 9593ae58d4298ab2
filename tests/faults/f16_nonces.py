"""Fault 16: a nonce is never used twice, however often a member is killed: read off the wire by the broker.

Real node daemons, each forked from a server that has loaded the code, killed with SIGKILL in the middle of
work, again and again in the same home. The broker notes (topic, key id, number) of every sealed frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import cbor2

from edge_node.wire import messages
from security.envelope import is_parcel
from security.errors import Unavailable
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.hostile_mesh import HostileMesh
from tests.support.hostile_proxy import Frame
from tests.support.links import free_port

FAULT = Fault(
    number=16,
    name="nonces",
    title="nonces over restarts by kill -9",
    brokers=(),
    full=1_000,
    small=50,
    unit="restarts",
    round_max=50,
    round_s=55,
)
NODES = [f"pi-{n}" for n in range(1, 6)]
FRAMES_A_LIFE = 12
"""Sealed frames after which a life may end: the handshake's proof, beats, acknowledgements, results."""
FRAMES_A_LIFE_MANY = 250
"""In a campaign; and as many of its peer, so that a thousand restarts make half a million seals."""


def daemon(home: str) -> None:
    """In the forked process: what `edge-node up` becomes."""
    from edge_node.daemon import main

    threading.Thread(target=end_with_the_test, name="end", daemon=True).start()
    with Path(f"{home}.out").open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ["EDGEWEAVE_WORKER_COUNT"] = "1"
    sys.exit(main(["--home", home, "--mdns", "none", "--json"]))


def end_with_the_test() -> None:
    """A killed test must not leave daemons behind."""
    tester = multiprocessing.parent_process()
    assert tester is not None
    tester.join()
    os.kill(os.getpid(), signal.SIGKILL)


async def killed_and_sealing_on(
    scratch: Path, seed: int, count: int, *, frames_a_life: int = FRAMES_A_LIFE
) -> Figures:
    """*count* restarts by SIGKILL of five members together; every frame that crossed the broker is noted."""
    lives, rng = max(1, count // len(NODES)), random.Random(seed)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["edge_node.daemon", "edge_node.agent"])
    mesh = HostileMesh(scratch, ["gateway"])
    mesh.hostile.port = free_port()
    mesh.brokers = (f"127.0.0.1:{mesh.hostile.port}",)
    mesh.enrol(*NODES)

    sealed: Counter[str] = Counter()

    def counted(frame: Frame) -> tuple[Frame]:
        sealed[frame.by] += is_parcel(frame.payload)
        return (frame,)

    mesh.rules = [counted]

    async def live_and_die(name: str) -> int:
        for _ in range(lives):
            before = sealed[name]
            process = forks.Process(target=daemon, args=(str(mesh.home(name).path),), name=name)
            process.start()
            try:
                async with asyncio.timeout(60):
                    while sealed[name] < before + frames_a_life + rng.randrange(7):
                        assert process.is_alive(), (mesh.path / f"{name}.out").read_text()
                        await asyncio.sleep(0.02)
            finally:
                process.kill()
                await asyncio.to_thread(process.join, 30)
        return lives

    async with mesh:
        await mesh.deploy()
        async with mesh.asking() as client:

            async def work() -> None:
                while True:
                    with contextlib.suppress(Unavailable):
                        for name in NODES:
                            await client.submit("plant.stamp", str(scratch / "ran"), 1, where=name)
                    await asyncio.sleep(0.1)

            async def ping() -> None:
                """Probes as fast as they are answered: each way a parcel of its own."""
                gateway, number = mesh.agents["gateway"], 0

                def probe(now_ns: int, wall_ms: int) -> None:
                    for name in NODES:
                        if gateway.channels.has(name):
                            gateway.channels.send_loose(name, messages.Ping(number))

                while frames_a_life > FRAMES_A_LIFE:
                    number += 1
                    gateway.soon(probe)
                    await asyncio.sleep(0.002)

            others = [asyncio.create_task(work()), asyncio.create_task(ping())]
            try:
                restarts = sum(await asyncio.gather(*map(live_and_die, NODES)))
            finally:
                for task in others:
                    task.cancel()
                await asyncio.wait(others)
        seals, keys = noted(mesh.hostile.taken)

    assert all(keys[name] >= lives for name in NODES), "every life had keys of its own"
    assert len(seals) >= restarts * frames_a_life
    assert [how for how, times in seals.items() if times > 1] == [], "a nonce was used twice"
    return {"restarts": restarts, "seals": len(seals)}


def noted(taken: list[Frame]) -> tuple[Counter[tuple[str, bytes, bytes]], Counter[str]]:
    """(topic, key id, number) of each sealed frame, by an independent decoder; keys by who began them."""
    seals: Counter[tuple[str, bytes, bytes]] = Counter()
    keys: Counter[str] = Counter()
    for frame in taken:
        if is_parcel(frame.payload):
            _, head, _ = cbor2.loads(frame.payload).value
            seals[frame.topic, head[4], head[6]] += 1
            keys[frame.by] += head[6] == b"\x01"
    return seals, keys


async def run(context: Context) -> Outcome:
    many = functools.partial(killed_and_sealing_on, frames_a_life=FRAMES_A_LIFE_MANY)
    return await tried(context, {many: 1})
