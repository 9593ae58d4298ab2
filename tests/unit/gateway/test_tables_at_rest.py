"""Tables of a home whose daemon is down: read from a copy, nothing in the home is touched."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time

import pytest

from edge_node.clock import SystemClock
from edge_node.home import Home
from edge_node.store import at_rest
from edge_node.store.authorship import Authorship
from edge_node.store.opened import OpenedState
from edge_node.store.storage.cell_file import CellFile, state_key
from gateway.house import open_trust
from security.errors import BadInput, Refused, Unavailable
from security.identity import mesh_id_of
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft


@pytest.fixture
def home(tmp_path):
    """A gateway's, with one room in its tables, closed in order."""
    home = Home(tmp_path / "gateway")
    home.create()
    store = KeyStore(home.keys)
    trust = open_trust(store, SystemClock())
    keys = trust.identity.keys
    now_s = int(time.time())
    member = Member("gateway", (MemberKey(keys.spki_sha256, keys.x25519_public, now_s),), ("gateway",))
    store.save_roster(trust.authority.sign_roster(RosterDraft(1, bytes(32), now_s, (), (), (member,))))
    mesh = mesh_id_of(store.root_spki_sha256())
    cells = CellFile(home.state, mesh, "gateway", state_key(home.state, store))
    author = Authorship(mesh, keys.signing, {keys.spki_sha256: "gateway"}.get)
    with OpenedState("gateway", cells, author) as state:
        state.call("state.declare", {"table": "rooms", "key": "id"})
        state.call("state.insert", {"table": "rooms", "documents": [[None, '{"id":"r1","setpoint_c":21}']]})
        state.call("state.counter", {"name": "doors", "add": 2})
    return home


def everything(home):
    files = sorted(each for each in home.path.rglob("*") if each.is_file())
    return {
        str(each): (each.stat().st_mtime_ns, hashlib.sha256(each.read_bytes()).digest()) for each in files
    }


def ask(calls, method, **params):
    return asyncio.run(calls.call(method, params))


def test_what_lies_there_is_told_and_the_home_is_as_it_was(home):
    before = everything(home)

    calls = at_rest.tables(home)

    assert ask(calls, "state.find", table="rooms")["documents"][0][1] == '{"id":"r1","setpoint_c":21}'
    assert ask(calls, "state.counter", name="doors") == {"value": 2}
    assert [row["name"] for row in ask(calls, "state.tables")["tables"]] == ["doors", "rooms"]
    assert ask(calls, "status")["node"] == "gateway" and calls.losses == ""
    assert everything(home) == before


@pytest.mark.parametrize("method", ["state.upsert", "state.watch", "state.fresh", "state.declare"])
def test_what_takes_a_daemon_says_so(home, method):
    with pytest.raises(Unavailable, match="takes a running daemon"):
        ask(at_rest.tables(home), method, table="rooms")


@pytest.mark.parametrize("method", ["state.set", "state.counter"])
def test_a_write_in_the_guise_of_a_question_is_refused(home, method):
    add = 1 if method == "state.counter" else ["x"]

    with pytest.raises(Refused):
        ask(at_rest.tables(home), method, name="doors", add=add)


def test_damage_is_told_and_stays_for_the_daemon_to_mend(home):
    data = bytearray(home.state.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    home.state.write_bytes(data)
    before = everything(home)

    calls = at_rest.tables(home)

    assert calls.losses
    assert everything(home) == before


def test_without_key_or_file_it_is_said_what_is_missing(home):
    (home.keys / "state.key").unlink()
    with pytest.raises(BadInput, match=r"the key of .*state\.db is gone"):
        at_rest.tables(home)
    home.state.unlink()
    with pytest.raises(Unavailable, match="no tables lie in"):
        at_rest.tables(home)
    assert not (home.keys / "state.key").exists()
