"""Fault 8: a node's disk is full to the last page, while it works and while it is killed.

A real daemon on a small file system of its own (root). Each write of a ledger failing in turn, and EIO of an
fsync, are played in virtual time (`make swarm-faults`).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.faults.fault import Context, Fault, Lacking, Outcome
from tests.faults.trials import Figures, tried
from tests.support.daemons import Bed
from tests.support.full_disk import NoDisk, fill, own_disk, until_refused

FAULT = Fault(
    number=8,
    name="full-disk",
    title="a disk full to the last page: refused at the door, killed, freed",
    brokers=(),
    full=40,
    small=1,
    unit="fillings",
    round_max=4,
    round_s=60,
)


def filled(scratch: Path, seed: int, count: int) -> Figures:
    rng = random.Random(seed)
    accepted: list[str] = []
    killed = 0
    try:
        with own_disk(scratch / "pi-1") as disk, Bed(scratch) as bed:
            bed.pair()
            node = bed.daemons["pi-1"]

            async def some(mesh: Any) -> None:
                for _ in range(20):
                    accepted.append((await mesh.submit("toys.add", rng.randrange(100), where="local")).id)

            for _ in range(count):
                node.ask(some)
                ballast = fill(disk)
                node.ask(lambda mesh: until_refused(mesh, accepted))
                # Larger than what the log may have given back meanwhile.
                large = json.dumps("x" * 3_000_000).encode()
                words = ("submit", "toys.size", "--where", "local", "--input", "-", "--format", "json")
                told = bed.cli(node, *words, stdin=large)
                assert told.code == 4, told
                assert told.line.startswith("edge-node: store full: "), told.line
                if rng.random() < 0.5:
                    node.kill()
                    killed += 1
                    ballast.unlink()
                    node.start().connected()
                else:
                    ballast.unlink()

                async def ended(mesh: Any) -> list[str]:
                    return [(await mesh.outcome_of(task, wait_s=60)).status for task in accepted]

                states = node.ask(ended)
                assert set(states) == {"done"}, states
                verified = bed.cli(node, "store", "verify")
                assert verified.code == 0, verified.out
    except NoDisk as error:
        raise Lacking(str(error)) from None
    return {"accepted": len(accepted), "killed while full": killed}


async def run(context: Context) -> Outcome:
    return await tried(context, {filled: 1})
