"""Watching: what has changed and by whom, a snapshot where nobody can tell any more, through restarts too."""

from __future__ import annotations

import asyncio

import pytest
from tinydb import where

from edge_node.state import links
from edge_node.state.changes import Change, Feed
from edge_node.state.exchange import carried_out
from edge_node.state.questions import Condition
from edge_node.state.state import State
from edge_node.store.opened import OpenedState
from security.errors import BadInput, Unavailable
from tests.support.opened_states import NODE, Unsigned, opened


class Daemon:
    """One member's tables; it can be away, and can forget its feed as a restarted one has."""

    def __init__(self):
        self.state = opened()
        self.away = 0
        self.asked = []
        self.polls = asyncio.Event()

    def call(self, method, params):
        self.asked.append((method, params))
        if self.away:
            self.away -= 1
            raise Unavailable("no daemon answers")
        return self.state.call(method, params)

    async def awaited(self, method, params):
        answer = self.call(method, params)
        if method == "state.watch" and not answer["changes"] and params["wait_ms"]:
            self.polls.set()
            await asyncio.sleep(0)
        return answer

    def restart(self):
        self.state = OpenedState(NODE, self.state._store, Unsigned())


@pytest.fixture
def daemon():
    return Daemon()


@pytest.fixture
def table(daemon):
    return State(daemon.call, daemon.awaited).table("rooms", key="id")


def feed(table, cond=None):
    return Feed(table._questions, None if cond is None else Condition(cond))


def step(daemon, feed):
    return carried_out(feed.step(), daemon.call)


def test_changes_say_what_was_and_what_is(daemon, table):
    watched = feed(table)
    assert step(daemon, watched) == []
    doc_id = table.insert({"id": "r1", "t": 1})
    table.update({"t": 2})
    table.truncate()

    changes = step(daemon, watched)
    assert [(each.kind, each.before, each.after) for each in changes] == [
        ("added", None, {"id": "r1", "t": 1}),
        ("changed", {"id": "r1", "t": 1}, {"id": "r1", "t": 2}),
        ("removed", {"id": "r1", "t": 2}, None),
    ]
    assert {(each.table, each.id, each.node, each.at_ms > 0) for each in changes} == {
        ("rooms", doc_id, NODE, True)
    }
    assert step(daemon, watched) == []


@pytest.mark.parametrize("cond", [where("t") > 5, where("t").test(lambda t: t > 5)])
def test_who_watches_for_some_hears_when_they_come_and_go(daemon, table, cond):
    watched = feed(table, cond)
    step(daemon, watched)
    for t in (1, 6, 7, 2, 3):
        table.upsert({"id": "r1", "t": t})

    changes = step(daemon, watched)

    assert [(each.before["t"], each.after["t"]) for each in changes] == [(1, 6), (6, 7), (7, 2)]


def test_what_is_missed_is_told_once_by_a_snapshot(daemon, table):
    watched = feed(table, where("t") > 5)
    step(daemon, watched)
    table.insert_multiple([{"id": "r1", "t": 1}, {"id": "r2", "t": 9}])
    daemon.restart()

    (snapshot,) = step(daemon, watched)
    assert (snapshot.kind, snapshot.table, list(snapshot.documents)) == (
        "snapshot",
        "rooms",
        [{"id": "r2", "t": 9}],
    )
    table.upsert({"id": "r2", "t": 8})
    (change,) = step(daemon, watched)
    assert (change.kind, change.after) == ("changed", {"id": "r2", "t": 8})


def test_a_snapshot_that_failed_is_not_forgotten(daemon, table):
    watched = feed(table)
    step(daemon, watched)
    table.insert({"id": "r1"})
    daemon.restart()
    fail = daemon.state.requests._methods["state.find"]
    daemon.state.requests.add("state.find", lambda *_: (_ for _ in ()).throw(Unavailable("busy")))

    with pytest.raises(Unavailable):
        step(daemon, watched)
    daemon.state.requests.add("state.find", fail)
    (snapshot,) = step(daemon, watched)
    assert snapshot.kind == "snapshot" and list(snapshot.documents) == [{"id": "r1"}]


def test_a_watch_takes_up_position_without_waiting(daemon, table):
    watched = feed(table)
    step(daemon, watched)
    step(daemon, watched)

    waits = [params["wait_ms"] for method, params in daemon.asked if method == "state.watch"]
    assert waits == [0, 20_000]


async def test_a_watch_goes_on_when_the_daemon_is_back(daemon, table):
    seen = asyncio.Queue()

    async def follow():
        async for change in table.watch():
            seen.put_nowait(change)

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(), name="follow")
        await daemon.polls.wait()
        await table.aio.insert({"id": "r1"})
        assert (await seen.get()).kind == "added"
        daemon.restart()
        daemon.away = 3
        snapshot = await seen.get()
        assert (snapshot.kind, list(snapshot.documents)) == ("snapshot", [{"id": "r1"}])
        following.cancel()


async def test_a_watch_gives_up_on_a_daemon_that_stays_away(daemon, table, monkeypatch):
    monkeypatch.setattr(links, "ABSENT_S_MAX", 0.1)
    daemon.away = 10**6

    with pytest.raises(Unavailable, match="no daemon answers"):
        async for _ in table.watch():
            raise AssertionError("there is nothing to see")


async def test_what_is_asked_wrongly_is_told_at_once(daemon):
    with pytest.raises(BadInput, match="edgeweave's own"):
        async for _ in State(daemon.call, daemon.awaited).table(".keys", key="id").watch():
            raise AssertionError("there is nothing to see")


async def test_a_twin_is_watched_on_both_sides(daemon):
    state = State(daemon.call, daemon.awaited)
    twin, other = state.twin("pi-3"), state.twin("pi-4")
    twin.desire(a=0)
    seen: list[Change] = []

    async def follow():
        async for change in twin.watch():
            seen.append(change)
            if len(seen) == 3:
                return

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(), name="follow")
        while sum(params.get("wait_ms", 0) > 0 for method, params in daemon.asked) < 2:
            await asyncio.sleep(0)
        other.desire(a=5)
        twin.desire(a=1)
        twin.report(a=0)
        twin.report(a=1)

    assert sorted((each.table, each.after["a"]) for each in seen) == [
        ("twins.desired", 1),
        ("twins.reported", 0),
        ("twins.reported", 1),
    ]
