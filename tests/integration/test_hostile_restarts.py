"""A nonce is never used twice, however often a member is killed: read off the wire by the broker.

Real node daemons, each forked from a server that has loaded the code, killed with SIGKILL in the middle of
work, again and again in the same home. The broker notes (topic, key id, number) of every sealed frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

import cbor2
import pytest

from security.envelope import is_parcel
from security.errors import Unavailable
from tests.support.hostile_mesh import HostileMesh
from tests.support.hostile_proxy import Frame
from tests.support.links import free_port
from tests.support.scale import CAMPAIGN, scaled, tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if CAMPAIGN else 120)]

NODES = [f"pi-{n}" for n in range(1, 6)]
FRAMES_A_LIFE = 12
"""Sealed frames after which a life may end: the handshake's proof, beats, acknowledgements, results."""


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


async def test_no_nonce_is_used_twice_over_restarts_by_kill(tmp_path):
    lives = scaled(5, campaign=200)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["edge_node.daemon", "edge_node.agent"])
    mesh = HostileMesh(tmp_path, ["gateway"])
    mesh.hostile.port = free_port()
    mesh.brokers = (f"127.0.0.1:{mesh.hostile.port}",)
    mesh.enrol(*NODES)

    sealed: Counter[str] = Counter()

    def counted(frame: Frame) -> tuple[Frame]:
        sealed[frame.by] += is_parcel(frame.payload)
        return (frame,)

    mesh.rules = [counted]

    async def live_and_die(name: str) -> int:
        for life in range(lives):
            before = sealed[name]
            process = forks.Process(target=daemon, args=(str(mesh.home(name).path),), name=name)
            process.start()
            try:
                async with asyncio.timeout(60):
                    while sealed[name] < before + FRAMES_A_LIFE + life % 7:
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
                            await client.submit("plant.stamp", str(tmp_path / "ran"), 1, where=name)
                    await asyncio.sleep(0.1)

            working = asyncio.create_task(work())
            try:
                restarts = sum(await asyncio.gather(*map(live_and_die, NODES)))
            finally:
                working.cancel()
                await asyncio.wait([working])
        seals: Counter[tuple[str, bytes, bytes]] = Counter()
        keys: Counter[str] = Counter()
        for frame in mesh.hostile.taken:
            if is_parcel(frame.payload):
                _, head, _ = cbor2.loads(frame.payload).value  # an independent reading of the head
                seals[frame.topic, head[4], head[6]] += 1
                keys[frame.by] += head[6] == b"\x01"

    assert all(keys[name] >= lives for name in NODES), "every life had keys of its own"
    assert len(seals) >= restarts * FRAMES_A_LIFE
    tell(16, "restarts by kill -9", restarts, violations=sum(n > 1 for n in seals.values()), seals=len(seals))
