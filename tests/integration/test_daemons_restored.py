"""A gateway lost and restored from an old backup: revoked stays revoked, nothing forks, work goes on."""

from __future__ import annotations

import json
import os
import signal

import pytest

from edge_node.home import Home
from security.keystore import KeyStore
from security.roster import open_roster
from tests.support.daemons import Bed, until
from tests.support.links import free_port

pytestmark = pytest.mark.slow

WORDS = b"four words of dice\n"
STEP = 1 << 20


@pytest.fixture
def bed(tmp_path):
    with Bed(tmp_path) as bed:
        yield bed


def roster_of(daemon) -> dict:
    roster = daemon.ask(lambda mesh: mesh.call("roster"))
    return roster | {"status": {m["id"]: m["status"] for m in roster["members"]}}


def held_by(daemon) -> int:
    keystore = KeyStore(daemon.home.keys)
    return open_roster(keystore.roster(), root_spki_sha256=keystore.root_spki_sha256()).version


def restored(bed, file) -> None:
    """The gateway's home is gone; another takes its place, on the same port."""
    gateway = bed.daemons["gateway"]
    gateway.home.path.rename(bed.path / f"lost-{gateway.starts}")
    gateway.home = Home(bed.path / f"found-{gateway.starts}")
    told = bed.cli(gateway, "restore", str(file), stdin=WORDS)
    assert told.code == 0, told


def log_of(daemon) -> str:
    return (daemon.home.logs / "daemon.log").read_text()


def pair(bed):
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


def test_what_happened_after_the_backup_is_learned_from_members_before_anything_is_signed(bed):
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


def test_until_a_member_was_heard_it_signs_nothing_and_says_what_to_do(bed):
    gateway, node = bed.pair()
    file = bed.path / "mesh.backup"
    assert bed.cli(gateway, "backup", str(file), stdin=WORDS).code == 0
    node.term()
    gateway.term()
    restored(bed, file)
    gateway.start()
    before = roster_of(gateway)["version"]

    other = bed.path / "other.py"
    other.write_text(
        "from edge_node.functions import function\n\n\n@function\ndef one() -> int:\n    return 1\n"
    )
    for words in (["invite"], ["revoke", "pi-1", "--yes"], ["deploy", str(other)]):
        told = bed.cli(gateway, *words)
        assert told.code == 3 and "restored from a backup and signs nothing" in told.line, told
    assert roster_of(gateway)["version"] == before
    assert gateway.ask(lambda mesh: mesh.call("status"))["restored"]["not_heard"] == ["pi-1"]

    told = bed.cli(gateway, "settle")
    assert told.code == 0 and str(before + STEP) in told.text
    assert bed.cli(gateway, "settle").code == 2
    assert bed.cli(gateway, "invite").code == 0
    gateway.term()
    gateway.start()
    assert roster_of(gateway)["version"] < before + 2 * STEP, "it is settled for good"
    node.start().connected()
    until("the node follows", lambda: held_by(node) >= before + STEP)
