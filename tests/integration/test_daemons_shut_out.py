"""Shut out, replaced, gone: real daemons, both brokers where it is theirs to refuse.

The thief is a client of ours with a member's own key and certificate, and none of its manners.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from threading import Thread

import pytest

from security.authority import Authority
from security.keystore import KeyStore
from security.roster import RosterDraft, RosterView
from tests.faults import f18_revoked
from tests.support.daemons import Bed, Daemon, until
from tests.support.links import BROKERS

pytestmark = pytest.mark.slow

NEW_CODE = "ask for a new code (`edge-gateway invite`)"


@pytest.mark.parametrize("broker", BROKERS)
def test_a_stolen_key_is_cut_at_the_operators_word_and_never_served_again(tmp_path, broker):
    f18_revoked.cut_and_shut_out(tmp_path, seed=18, count=1, broker=broker)


def row_of(gateway: Daemon, name: str) -> dict[str, object]:
    rows = gateway.ask(lambda mesh: mesh.call("nodes"))
    (row,) = [row for row in rows if row["id"] == name]
    return row


def test_an_honest_node_says_that_it_was_revoked_or_replaced_and_ends(tmp_path):
    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        one = bed.join("pi-1", "--label", "site=b", invite=["--role", "deployer"]).start().connected()
        two = bed.join("pi-2").start().connected()
        assert bed.cli(gateway, "revoke", "pi-2").line.endswith("this is no terminal: give --yes")
        assert bed.cli(gateway, "revoke", "pi-7", "--yes").line.startswith("edge-gateway: no member is named")
        assert two.running

        bed.cli(gateway, "revoke", "pi-2", "--yes", "--reason", "in the lake")
        ended = two.ended()
        assert ended.code == 4
        assert '"message": "pi-2 was revoked on 20' in ended.out and "in the lake" in ended.out
        for words in (["up"], ["status"], ["renew"]):
            line = bed.cli(two, *words).line
            assert line.startswith("edge-node: pi-2 was revoked on 20"), (words, line)
            assert line.endswith(f"in the lake: {NEW_CODE}")
        row = row_of(gateway, "pi-2")
        assert (row["status"], row["up"], row["reason"]) == ("revoked", False, "in the lake")
        assert row["by"] and abs(row["since_at_ms"] / 1000 - time.time()) < 600

        # The board of pi-1 dies; another one gets its name, with a code, and the old one wakes up again.
        one.term()
        again = bed.cli(gateway, "invite", "--name", "pi-1").line
        assert again.endswith("choose another --name, or `edge-gateway replace pi-1` for a dead board")
        code = bed.cli(gateway, "replace", "pi-1").text
        new = bed.node("pi-1-new")
        assert (
            "pi-1 keeps the labels" in bed.cli(new, "join", code, "--label", "site=c", "--mdns", "none").line
        )
        assert bed.cli(new, "join", code, "--mdns", "none").text.endswith("as pi-1")
        new.start().connected()
        row = row_of(gateway, "pi-1")
        assert (row["roles"], row["labels"]) == (["deployer"], {"site": "b"})
        one.launch()
        ended = one.ended()
        assert ended.code == 4
        assert "pi-1 was replaced: that name belongs to other keys now" in ended.out
        gateway.until("the new board is up", lambda s: "pi-1" in s["peers_up"])

        # pi-1 leaves while its daemon does not run: the door is told. pi-3 leaves with the gateway gone.
        new.term()
        assert bed.cli(new, "leave", "--json").value == {"left": True, "node": "pi-1", "gateway_told": True}
        row = row_of(gateway, "pi-1")
        assert (row["status"], row["by"]) == ("left", "pi-1")
        three = bed.join("pi-3")
        gateway.term()
        gone = bed.cli(three, "leave")
        assert gone.text.startswith("left the mesh")
        assert gone.err == "pi-3 forgot the mesh; tell the operator to `edge-gateway revoke pi-3`\n"
        assert not (three.home.keys / "identity.pem").exists()


def test_waiting_nodes_are_listed_and_turned_down(tmp_path):
    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        code = bed.cli(gateway, "invite", "--approval", "pending").text
        node, said = bed.node("pi-1"), []
        joins = Thread(
            target=lambda: said.append(bed.cli(node, "join", code, "--name", "pi-1", "--mdns", "none"))
        )
        joins.start()
        until("pi-1 waits", lambda: gateway.ask(lambda mesh: mesh.call("pending")))
        (row,) = bed.cli(gateway, "pending", "--json").value
        assert (row["id"], len(row["fingerprint"].split())) == ("pi-1", 6)
        assert row["expires_at_ms"] == row["asked_at_ms"] + 600_000 and row["age_s"] < 600
        assert bed.cli(gateway, "deny", "pi-1").text == "pi-1 is turned down"
        joins.join()
        assert said[0].code == 4
        assert row["fingerprint"] in said[0].err
        assert said[0].err.splitlines()[-1] == (
            "edge-node: the operator denied the request of pi-1: run `edge-node join` again with a new code"
        )
        assert gateway.ask(lambda mesh: mesh.call("pending")) == []
        assert "no node named 'pi-7' waits" in bed.cli(gateway, "deny", "pi-7").line


def test_an_older_roster_changes_nothing_and_a_fork_is_an_alarm(tmp_path):
    """What a thief of the gateway's key may publish, or an old backup: the node holds what it has."""
    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        node = bed.join("pi-1")
        old = KeyStore(node.home.keys).roster()
        bed.join("pi-2")
        gateway.ask(lambda mesh: mesh.call("revoke", {"node": "pi-2"}))
        node.start().connected()
        held = KeyStore(gateway.home.keys).roster()
        version = RosterView(
            root_spki_sha256=KeyStore(node.home.keys).root_spki_sha256(), signed=held
        ).version
        node.until("has the newest roster", lambda s: s["roster"]["version"] == version)
        thief = f18_revoked.Thief(gateway, gateway, tmp_path / "changed")
        gateway.kill()  # the broker goes on

        forked = _forked(KeyStore(gateway.home.keys), held)

        async def publish() -> None:
            async with thief.client(name="gateway") as client:
                for signed in (old, forked):
                    await client.publish(f"ew/1/{thief.mesh}/roster", signed, 1, retain=True)

        asyncio.run(publish())
        status = node.until("alarm", lambda s: s["stories"].get("roster fork"))
        assert status["roster"]["version"] == version
        assert KeyStore(node.home.keys).roster() == held


def _forked(store: KeyStore, signed: bytes) -> bytes:
    authority = store.authority(entropy=os.urandom)
    assert isinstance(authority, Authority)
    held = RosterView(root_spki_sha256=authority.root_spki_sha256, signed=signed).current
    assert held is not None
    members = tuple(replace(m, status="active", since_s=0, by="", reason="") for m in held.members)
    return authority.sign_roster(
        RosterDraft(held.version, held.prev_digest, held.issued_s, held.brokers, held.deployers, members)
    )
