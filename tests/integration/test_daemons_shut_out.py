"""Shut out, replaced, gone: real daemons, both brokers where it is theirs to refuse.

The thief is a client of ours with a member's own key and certificate, and none of its manners.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import aiomqtt
import pytest

from edge_node import joining
from security.authority import Authority
from security.errors import Refused
from security.keystore import KeyStore
from security.roster import RosterDraft, RosterView
from security.tls import node_context
from tests.support.certs_for_tests import Leaf, malleated
from tests.support.daemons import Bed, Daemon, until
from tests.support.links import BROKERS

pytestmark = pytest.mark.slow

CUT_S = 5.0
"""A promise: from the operator's word to the end of the connection."""
NEW_CODE = "ask for a new code (`edge-gateway invite`)"


class Thief:
    """Connects with the keys of a member's home."""

    def __init__(self, member: Daemon, gateway: Daemon, folder: Path) -> None:
        self.name = member.name
        self.store = KeyStore(member.home.keys)
        self.root = self.store.root()
        self.port = int(gateway.ready["broker_address"].rpartition(":")[2])
        self.mesh = gateway.ready["mesh"]
        own = Leaf(self.store.identity_path, self.store.identity_path, "")
        self.changed = malleated(own, folder)

    def client(self, *, changed: bool = False, name: str | None = None, **more: object) -> aiomqtt.Client:
        context = node_context(self.store.identity_path, self.root)
        context.check_hostname = False
        if changed:
            context.load_cert_chain(self.changed.cert_file, self.changed.key_file)
        return aiomqtt.Client(
            "127.0.0.1", self.port, identifier=name or self.name, tls_context=context, tls_insecure=True,
            timeout=5, **more,
        )  # fmt: skip

    async def gets_in(self, **how: bool) -> bool:
        """Whether the broker serves it: it hears itself on its own topic."""
        own = f"ew/1/{self.mesh}/d/{self.name}/{self.name}"
        with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(5), self.client(**how) as client:
                granted = await client.subscribe(f"ew/1/{self.mesh}/d/{self.name}/+", 1)
                if any(getattr(code, "value", code) >= 0x80 for code in granted):
                    return False
                await client.publish(own, b"here I am", 1)
                return (await anext(client.messages)).payload == b"here I am"
        return False

    async def cut_after_s(self, done: Thread) -> float:
        """Seconds from the start of *done* until the broker ended a connection that was served."""
        ended = asyncio.get_running_loop().create_future()
        with contextlib.suppress(aiomqtt.MqttError):
            async with self.client() as client:
                await client.subscribe(f"ew/1/{self.mesh}/d/{self.name}/+", 1)
                done.start()
                began = time.monotonic()
                with contextlib.suppress(aiomqtt.MqttError):
                    async with asyncio.timeout(30):
                        async for _ in client.messages:
                            pass
                ended.set_result(time.monotonic() - began)
        return await ended


@pytest.mark.parametrize("broker", BROKERS)
def test_a_stolen_key_is_cut_at_the_operators_word_and_never_served_again(tmp_path, broker):
    with Bed(tmp_path, broker=broker) as bed:
        gateway = bed.gateway().start()
        thief = Thief(bed.join("pi-2"), gateway, tmp_path / "changed")
        assert asyncio.run(thief.gets_in()), bed.story()
        assert asyncio.run(thief.gets_in(changed=True)), "TLS has nothing against the other signature"

        told: list[object] = []
        word = Thread(
            target=lambda: told.append(bed.cli(gateway, "revoke", "pi-2", "--reason", "lost", "--yes"))
        )
        took_s = asyncio.run(thief.cut_after_s(word))
        word.join()
        assert told[0].text == "pi-2 is revoked"
        assert took_s < CUT_S, bed.story()
        assert bed.cli(gateway, "revoke", "pi-2", "--yes").err == "pi-2 had been revoked before\n"

        def shut_out() -> None:
            assert not asyncio.run(thief.gets_in())
            assert not asyncio.run(thief.gets_in(changed=True))
            with pytest.raises(Refused, match=r"pi-2 was revoked on \d{4}-.* UTC by \S+: lost"):
                asyncio.run(joining.renew(thief.store, timeout_s=20))

        shut_out()
        gateway.kill()
        broker_pid = bed.broker_pid()
        assert not asyncio.run(thief.gets_in()), "the broker does not need the gateway to know it"
        gateway.start("--port", str(_port_of(thief.store)))
        assert bed.broker_pid() == broker_pid
        shut_out()
        gateway.term()
        gateway.start("--port", str(_port_of(thief.store)))  # and a broker that was started anew
        thief.port = int(gateway.ready["broker_address"].rpartition(":")[2])
        shut_out()


def row_of(gateway: Daemon, name: str) -> dict[str, object]:
    rows = gateway.ask(lambda mesh: mesh.call("nodes"))
    (row,) = [row for row in rows if row["id"] == name]
    return row


def _port_of(store: KeyStore) -> int:
    return joining.known_gateways(store)[0][1]


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
        thief = Thief(gateway, gateway, tmp_path / "changed")
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
