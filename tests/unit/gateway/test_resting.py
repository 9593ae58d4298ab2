"""Who was told to rest: on a real disk, and told again to whoever may have missed it."""

from __future__ import annotations

import pytest

from edge_node.wire.messages import Rest
from gateway.resting import Resting
from security.keystore import KeyStore

MEMBERS = {"pi-1", "pi-2"}


class Told(list):
    def __call__(self, node, wish):
        self.append((node, wish.mode))


@pytest.fixture
def keystore(tmp_path):
    return KeyStore(tmp_path)


async def test_a_rest_holds_over_a_restart_and_is_told_to_whoever_comes(keystore):
    told = Told()
    resting = Resting(keystore, told)
    assert await resting.ask("pi-1", "pause", MEMBERS) == "work"
    assert await resting.ask("pi-1", "drain", MEMBERS) == "pause"
    assert told == [("pi-1", "pause"), ("pi-1", "drain")]

    told = Told()
    again = Resting(keystore, told)
    for node in ("pi-1", "pi-2"):
        again.met(node)

    assert told == [("pi-1", "drain")]
    assert (again.mode_of("pi-1"), again.mode_of("pi-2")) == ("drain", "work")


async def test_who_was_away_when_it_ended_is_told_so(keystore):
    await Resting(keystore, Told()).ask("pi-1", "pause", MEMBERS)
    await Resting(keystore, Told()).ask("pi-1", "work", MEMBERS)

    told = Told()
    Resting(keystore, told).met("pi-1")

    assert told == [("pi-1", "work")]


async def test_members_that_are_none_any_more_are_forgotten(keystore):
    resting = Resting(keystore, Told())
    await resting.ask("pi-1", "pause", MEMBERS)
    await resting.ask("pi-2", "pause", {"pi-2"})

    assert (Resting(keystore, Told()).mode_of("pi-1"), resting.mode_of("pi-2")) == ("work", "pause")


async def test_who_asked_and_why_is_told_along_also_after_a_restart(keystore):
    wishes = []
    resting = Resting(keystore, lambda node, wish: wishes.append(wish))
    await resting.ask("pi-1", "drain", MEMBERS, by="alice", reason="new disk", at_ms=7)
    Resting(keystore, lambda node, wish: wishes.append(wish)).met("pi-1")

    assert wishes == [Rest("drain", "alice", "new disk", 7)] * 2


async def test_a_list_of_the_version_before_is_read(keystore):
    keystore.write("resting", b'{"pi-1": "pause"}')

    assert Resting(keystore, Told()).mode_of("pi-1") == "pause"


async def test_a_damaged_list_is_nobody(keystore, caplog):
    keystore.write("resting", b"{")

    assert Resting(keystore, Told()).mode_of("pi-1") == "work"
    assert "forgotten who was told to rest" in caplog.text
