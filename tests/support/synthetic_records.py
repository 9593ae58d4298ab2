"""Records as runs of some size would leave them, drawn from a seed: for whoever tests what reports show."""

from __future__ import annotations

import random

from device_sim.report.collect import ENDED, Collector
from device_sim.report.record import Check, Manifest, Record
from device_sim.virtual.evidence import (
    Answered,
    Asked,
    Crashed,
    End,
    Framed,
    Happened,
    Ran,
    Reached,
    Started,
    Told,
)

SECOND = 1_000_000_000
MS = 1_000_000
FUNCTIONS = ("room.changes", "vibration.spectrum", "power.balance")
MESH = "a" * 16


def record(
    *, nodes: int = 12, tasks: int = 3000, duration_s: int = 600, faults: int = 6, seed: int = 1,
    checks: list[Check] | None = None, name: str = "synthetic",
) -> Record:  # fmt: skip
    """Tasks are asked at random moments; a slow class, a fast class, a gateway; nodes die and come back."""
    draw, end_ns = random.Random(seed), duration_s * SECOND
    classes = {f"pi-{number}": "pi" for number in range(1, nodes * 2 // 3 + 1)}
    classes |= {f"board-{number}": "board" for number in range(1, nodes - len(classes) + 1)}
    names = list(classes)
    classes["gateway"] = "gateway"
    collector = Collector(classes, dict.fromkeys(names, 1) | {"gateway": 4}, end_ns)
    events = []
    for number in range(tasks):
        owner, at_ns = draw.choice(names), draw.randrange(end_ns * 9 // 10)
        luck = draw.random()
        place = "local" if luck < 0.55 else "gateway" if luck < 0.8 else draw.choice(names)
        ran_at = owner if place == "local" else place
        run_ns = round(draw.lognormvariate(19.5 + (classes[ran_at] == "board"), 0.5))
        took_ns = run_ns + round(draw.lognormvariate(17, 1.0))
        task, status = f"t{number}", "done" if draw.random() < 0.99 else "failed"
        function = FUNCTIONS[draw.randrange(len(FUNCTIONS))]
        to = f"ew/1/{MESH}/d/{ran_at}/{owner}"
        events += [
            Asked(at_ns, owner, task, function, 60 * SECOND),
            Answered(at_ns + MS, owner, task, accepted=True),
            Framed(at_ns + MS, owner, to, bytes(1 + draw.randrange(900))),
            Reached(at_ns + 2 * MS, ran_at, to, bytes(500)),
            Ran(at_ns + took_ns - run_ns, at_ns + took_ns, ran_at, task, 1, status),
            Told(at_ns + took_ns, owner, task, status, place),
        ]
    for node in names:
        for at_s in range(0, duration_s, 10):
            events.append(Framed(at_s * SECOND, node, f"ew/1/{MESH}/p/{node}", bytes(80)))
    events.append(Framed(0, "gateway", f"ew/1/{MESH}/roster", bytes(4000)))
    for _ in range(faults):
        node, at_ns = draw.choice(names), draw.randrange(end_ns * 8 // 10)
        back_ns = at_ns + draw.randrange(5, 60) * SECOND
        match draw.randrange(4):
            case 0:
                events += [
                    Happened(at_ns, "kill", node), Crashed(at_ns, node, "kill"),
                    Happened(back_ns, "restart", node), Started(back_ns, node),
                ]  # fmt: skip
            case 1:
                events += [Happened(at_ns, "partition", node), Happened(back_ns, "partition", node, ENDED)]
            case 2:
                events += [Happened(at_ns, "pause", node), Happened(back_ns, "resume", node)]
            case _:
                events.append(Happened(at_ns, "clock-step", node))
    for event in sorted(events, key=lambda each: each.at_ns):
        collector.saw(event)
    end = End(at_ns=end_ns, healed_ns=None, ledgers={}, damaged={}, gone={})
    parts = collector.finish(end_ns, end)
    if checks is None:
        checks = [
            Check(name="conservation", promise="every accepted task ends exactly once", word="passed"),
            Check(
                name="secrecy", promise="no payload shows an input", word="passed", detail="3 000 payloads"
            ),
            Check(
                name="revocation", promise="a revoked node is out", word="not applicable", detail="nobody was"
            ),
        ]
    return Record(
        manifest=Manifest(
            kind="run", scenario=name, seed=seed, commit="0123456789ab+", versions={"python": "3.11.2"},
            machine="2 cores, 8 GB", command=f"device-sim run synthetic.toml --seed {seed}",
            duration_s=duration_s, wall_s=duration_s / 20, trace_hash="5f" * 16,
        ),
        figures=parts.figures | {"violations": sum(check.word == "failed" for check in checks)},
        latencies_ms=parts.latencies_ms, load=parts.load, rates=parts.rates, messages=parts.messages,
        faults=parts.faults, nodes=parts.nodes, edges=parts.edges, checks=checks, notes=parts.notes,
    )  # fmt: skip
