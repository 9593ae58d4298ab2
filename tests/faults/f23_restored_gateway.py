"""Fault 23: a gateway is lost and restored from an old backup: detected, and nothing forks.

Real daemons. What happened after the backup is learned from members before anything is signed.
"""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

from edge_node.home import Home
from security.keystore import KeyStore
from security.roster import open_roster
from tests.faults.fault import BOTH, Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.daemons import Bed, Daemon, until
from tests.support.links import free_port

FAULT = Fault(
    number=23,
    name="restored-gateway",
    title="a gateway restored from an old backup: detected",
    brokers=BOTH,
    full=10,
    small=2,
    unit="restores",
    round_max=2,
    round_s=70,
)
WORDS = b"four words of dice\n"
STEP = 1 << 20


def roster_of(daemon: Daemon) -> dict[str, Any]:
    roster = daemon.ask(lambda mesh: mesh.call("roster"))
    return roster | {"status": {m["id"]: m["status"] for m in roster["members"]}}


def held_by(daemon: Daemon) -> int:
    keystore = KeyStore(daemon.home.keys)
    return open_roster(keystore.roster(), root_spki_sha256=keystore.root_spki_sha256()).version


def restored(bed: Bed, file: Path) -> None:
    """The gateway's home is gone; another takes its place, on the same port."""
    gateway = bed.daemons["gateway"]
    gateway.home.path.rename(bed.path / f"lost-{gateway.starts}")
    gateway.home = Home(bed.path / f"found-{gateway.starts}")
    told = bed.cli(gateway, "restore", str(file), stdin=WORDS)
    assert told.code == 0, told


def log_of(daemon: Daemon) -> str:
    return (daemon.home.logs / "daemon.log").read_text()


def pair(bed: Bed) -> tuple[Daemon, Daemon]:
    """As ``bed.pair``, with a joining port that outlives the gateway."""
    gateway = bed.gateway(
        "--listen", "127.0.0.1", "--port", str(free_port()), "--broker-port", "0", "--broker", bed.broker,
        "--mdns", bed.mdns,
    ).start()  # fmt: skip
    node = bed.join("pi-1").start()
    assert bed.cli(gateway, "deploy", str(bed.toys)).code == 0
    node.connected().knows("toys.add")
    gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])
    return gateway, node


def learned_from_members(scratch: Path, seed: int, count: int, *, broker: str) -> Figures:
    """After the backup one was revoked, one enrolled, one got new keys; then the whole machine is lost."""
    for n in range(count):
        (scratch / str(n)).mkdir()
        with Bed(scratch / str(n), broker=broker) as bed:
            _restored_and_told(bed)
    return {}


def _restored_and_told(bed: Bed) -> None:
    gateway, node = pair(bed)
    bad = bed.join("pi-2")
    file = bed.path / "mesh.backup"
    assert bed.cli(gateway, "backup", str(file), stdin=WORDS).code == 0
    backup = roster_of(gateway)["version"]

    # After the backup: one is revoked, another enrolled, and the first node has seen both. It has new keys,
    # too: the broker of the restored gateway knows nobody but pi-2, and only the joining port is open.
    assert bed.cli(gateway, "revoke", "pi-2", "--yes").code == 0
    assert bed.cli(node, "renew").code == 0
    until("the old key is gone", lambda: all(len(m["keys"]) == 1 for m in roster_of(gateway)["members"]))
    late = bed.join("pi-3").start().connected()
    newest = roster_of(gateway)
    assert newest["status"] == {"gateway": "active", "pi-1": "active", "pi-2": "revoked", "pi-3": "active"}
    until("pi-1 has the newest roster", lambda: held_by(node) == newest["version"])
    gateway.kill()
    broker = bed.broker_pid()
    assert broker
    os.kill(broker, signal.SIGKILL)  # the whole machine is gone

    restored(bed, file)
    gateway.start()
    settled = gateway.until("it has heard its members", lambda s: s["restored"]["settled"])["restored"]
    assert (settled["backup_roster"], settled["learned_roster"]) == (backup, newest["version"])
    after = roster_of(gateway)
    assert after["status"] == newest["status"]
    assert after["version"] >= newest["version"] + STEP
    node.connected()
    late.connected()
    until("both have the next version", lambda: held_by(node) == held_by(late) == after["version"])
    for where in ("pi-1", "gateway"):
        told = bed.cli(gateway, "run", "toys.add", "--arg", "a=2", "--arg", "b=3", "--where", where)
        assert (told.code, told.text) == (0, "5"), told
    told = bad.launch().ended()
    assert told.code == 4 and "pi-2 was revoked" in told.err + told.out, told
    assert f"roster {backup} -> {newest['version']} taken from pi-" in log_of(gateway)
    for daemon in (gateway, node, late):
        assert "two rosters of one version" not in log_of(daemon)
    assert json.loads(bed.cli(gateway, "status", "--json").out)["restored"]["settled"] is True


async def run(context: Context) -> Outcome:
    return await tried(context, {functools.partial(learned_from_members, broker=context.broker): 1})
