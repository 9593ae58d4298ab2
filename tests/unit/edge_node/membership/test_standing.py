"""A member that is none any more learns it, and its daemon ends with the word of who did it."""

from __future__ import annotations

import asyncio
import os

import pytest

from edge_node import client
from edge_node.client import Mesh, MeshUnavailable
from edge_node.home import Home
from edge_node.membership import standing
from edge_node.membership.standing import Standing, check_home
from security.authority import Authority
from security.errors import Refused, Unavailable
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft, RosterView

NOW_S = 1_795_356_180  # 2026-11-22 14:03 UTC
AUTHORITY = Authority.create(now_s=NOW_S, entropy=os.urandom)
OLD, NEW, OTHER = NodeKeys.generate(), NodeKeys.generate(), NodeKeys.generate()


def listing(version: int, *keys: NodeKeys, **end: object) -> bytes:
    listed = tuple(MemberKey(k.spki_sha256, k.x25519_public, NOW_S) for k in keys)
    members = (Member("pi-2", listed, **end),)
    return AUTHORITY.sign_roster(RosterDraft(version, bytes(32), NOW_S, (), (), members))


REVOKED = {"status": "revoked", "since_s": NOW_S, "by": "ann", "reason": "lost on the train"}
SAID = "pi-2 was revoked on 2026-11-22 14:03 UTC by ann: lost on the train"


class Node:
    """What a daemon gives to its standing."""

    def __init__(self, signed: bytes, *, linked: bool = True) -> None:
        self.view = RosterView(root_spki_sha256=AUTHORITY.root_spki_sha256, signed=signed)
        self.keys, self.linked, self.asked = OLD, linked, 0
        self.answers: list[bytes | Exception] = []
        self.standing = Standing(
            "pi-2",
            self.view,
            keys=lambda: self.keys.spki_sha256,
            previous=None,
            linked=lambda: self.linked,
            ask=self.ask,
            adopt=self.adopt,
        )
        self.standing.look()

    def adopt(self, signed: bytes) -> None:
        self.view.adopt(signed)
        self.standing.look()

    async def ask(self) -> bytes:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_who_is_revoked_ends_with_the_operators_word():
    node = Node(listing(1, OLD))
    running = asyncio.create_task(node.standing.run())
    await asyncio.sleep(0)
    assert not running.done()
    node.adopt(listing(2, OLD, **REVOKED))

    with pytest.raises(Refused) as told:
        await asyncio.wait_for(running, 5)
    assert str(told.value) == f"{SAID}: ask for a new code (`edge-gateway invite`)"
    assert node.asked == 0


async def test_who_left_ends_without_an_error():
    node = Node(listing(1, OLD))
    node.adopt(listing(2, OLD, status="left", since_s=NOW_S, by="pi-2"))
    await asyncio.wait_for(node.standing.run(), 5)


async def test_keys_that_were_renewed_are_ours_and_those_of_another_board_are_not():
    """While it renews, the roster may list the new key before we use it, and drop the old one after."""
    node = Node(listing(1, OLD))
    node.adopt(listing(2, NEW, OLD))
    node.keys = NEW
    node.adopt(listing(3, NEW))
    node.adopt(listing(4, OTHER, NEW))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(node.standing.run(), 0.05)

    node.adopt(listing(5, OTHER))
    with pytest.raises(Refused, match="pi-2 was replaced: that name belongs to other keys now"):
        await asyncio.wait_for(node.standing.run(), 5)


async def test_who_is_not_let_in_asks_the_joining_port_until_it_answers(monkeypatch):
    """A gateway that is away, and a roster that still lists us, change nothing."""
    monkeypatch.setattr(standing, "LOOK_S", 0.001)
    monkeypatch.setattr(standing, "LOOK_S_MAX", 0.002)
    node = Node(listing(1, OLD), linked=False)
    node.answers = [
        Unavailable("no gateway answered"), OSError("no route"), listing(1, OLD), listing(2, OLD, **REVOKED)
    ]  # fmt: skip

    with pytest.raises(Refused, match="lost on the train"):
        await asyncio.wait_for(node.standing.run(), 5)
    assert (node.asked, node.answers) == (4, [])


async def test_a_program_without_a_daemon_is_told_of_the_revocation_and_not_to_start_it(tmp_path):
    """Also in the moment between the end of the daemon's socket and that of its process."""
    home = Home(tmp_path / "h")
    home.create()
    store = KeyStore(home.keys)
    store.save_root(AUTHORITY.root_pem)
    leaf = AUTHORITY.issue(OLD.public, "pi-2", now_s=NOW_S)
    store.save_identity(OLD, leaf_pem=leaf, issuing_pem=AUTHORITY.issuing_pem)
    store.save_roster(listing(1, OLD))
    mesh = Mesh(home)
    with pytest.raises(MeshUnavailable, match="start it with"):
        await mesh.status()

    store.save_roster(listing(2, OLD, **REVOKED))
    with pytest.raises(client.Refused, match=SAID) as told:
        await mesh.result("a task that it had accepted")

    assert told.value.reason == "no member" and "edge-node up" not in told.value.fix


def test_a_command_without_a_daemon_says_that_there_cannot_be_one(tmp_path):
    home = Home(tmp_path / "h")
    check_home(home)  # nobody joined here
    home.create()
    store = KeyStore(home.keys)
    leaf = AUTHORITY.issue(OLD.public, "pi-2", now_s=NOW_S)
    store.save_root(AUTHORITY.root_pem)
    store.save_identity(OLD, leaf_pem=leaf, issuing_pem=AUTHORITY.issuing_pem)
    store.save_roster(listing(1, OLD))
    check_home(home)

    store.save_roster(listing(2, OLD, **REVOKED))
    with pytest.raises(Refused, match=SAID):
        check_home(home)
    store.save_roster(b"damaged")
    check_home(home)  # `up` and `doctor` have the word on that
