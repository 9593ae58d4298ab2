"""One face is TinyDB's, the other is awaited: the same operations, and nothing of TinyDB's is missing."""

from __future__ import annotations

import asyncio
import inspect

import pytest
import tinydb.table
from tinydb import where

from edge_node.state.collected import AwaitedCounter, AwaitedSet, Counter, Set
from edge_node.state.freshness import Freshness
from edge_node.state.spelling import NotPlain
from edge_node.state.state import State
from edge_node.state.table import AwaitedTable, Table
from edge_node.state.twin import AwaitedTwin, Twin, same
from security.errors import BadInput, Unavailable
from tests.support.opened_states import opened
from tests.support.state_backend import exchanged
from tests.support.state_backend import opened as real


class Daemon:
    """Both ways to one member's tables."""

    def __init__(self):
        self.state = opened()
        self.fresh = {"reached": ["gateway"], "missing": []}
        self.state.requests.add("state.fresh", lambda now_ns, params, answer: answer(self.fresh))
        self.door = State(self.state.call, self.awaited)

    async def awaited(self, method, params):
        await asyncio.sleep(0)
        return self.state.call(method, params)


@pytest.fixture
def daemon():
    return Daemon()


@pytest.fixture
def state(daemon):
    return daemon.door


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_nothing_of_tinydbs_table_is_missing():
    inherited = {
        name
        for name, value in vars(tinydb.table.Table).items()
        if inspect.isfunction(value) and name not in vars(Table) and not name.startswith("_")
    }

    assert inherited == set()
    assert public(tinydb.table.Table) <= public(Table)


@pytest.mark.parametrize(
    ("blocking", "awaited", "without"),
    [
        (Table, AwaitedTable, {"aio", "clear_cache", "storage", "wait_fresh"}),
        (Counter, AwaitedCounter, {"aio"}),
        (Set, AwaitedSet, {"aio"}),
        (Twin, AwaitedTwin, {"aio"}),
    ],
)
def test_every_call_has_one_to_await(blocking, awaited, without):
    settings = {name for name in public(blocking) if not callable(getattr(blocking, name))} - {"name", "node"}
    calls = {name for name in public(blocking) - without if callable(getattr(blocking, name))}
    calls -= {"document_class", "document_id_class", "query_cache_class"}

    assert calls <= public(awaited), calls - public(awaited)
    for name in calls & public(awaited):
        one, other = inspect.signature(getattr(blocking, name)), inspect.signature(getattr(awaited, name))
        assert list(one.parameters.values()) == list(other.parameters.values()), name
    assert settings <= {"default_query_cache_capacity", "desired", "reported", "storage"}


async def test_what_one_face_writes_the_other_reads(state):
    rooms = state.table("rooms", key="id")

    rooms.upsert({"id": "r1", "setpoint_c": 21.5})
    await rooms.aio.upsert({"id": "r2", "setpoint_c": 19})
    assert await rooms.aio.search(where("setpoint_c") > 20) == [{"id": "r1", "setpoint_c": 21.5}]
    assert rooms.get(where("id") == "r2") == await rooms.aio.get(where("id") == "r2")
    assert [each async for each in rooms.aio] == list(rooms) == await rooms.aio.all()
    assert await rooms.aio.count() == len(rooms) == 2
    assert await rooms.aio.contains(where("id") == "r2")
    assert len(await rooms.aio.update({"x": 1})) == 2
    assert len(await rooms.aio.update_multiple([({"x": 2}, where("id") == "r1")])) == 1
    (doc_id,) = await rooms.aio.insert_multiple([{"id": "r3"}])
    assert await rooms.aio.remove(doc_ids=[doc_id]) == [doc_id]
    assert await rooms.aio.insert({"id": "r3"}) == doc_id
    await rooms.aio.truncate()
    assert len(rooms) == 0


def test_documents_and_ids_are_of_the_classes_that_are_set(state):
    class Room(tinydb.table.Document):
        pass

    class Rooms(Table):
        document_class = Room

    class House(State):
        table_class = Rooms

    rooms = House(state._links._call).table("rooms")
    rooms.insert({"a": 1})
    (found,) = rooms.search(where("a") == 1)
    assert type(found) is Room and rooms.get(doc_id=found.doc_id).doc_id == found.doc_id
    with pytest.raises(BadInput, match="has the document"):
        rooms.insert(found)


def test_a_table_has_no_storage(state):
    table = state.table("t")

    assert not hasattr(table, "storage")
    table.clear_cache()
    assert repr(table) == "<Table name='t'>" and table.name == "t"


def test_counters_add_up_and_sets_hold_what_was_added(state):
    doors, tags = state.counter("doors"), state.set("tags")

    assert [doors.add(), doors.add(4), doors.add(-2), doors.value()] == [1, 5, 3, 3]
    tags.add("pump-3", "fan", "pump-3")
    tags.discard("fan", "not there")
    tags.add()
    assert "pump-3" in tags and "fan" not in tags and 3 not in tags
    assert (list(tags), len(tags), tags.elements()) == (["pump-3"], 1, frozenset({"pump-3"}))


async def test_counters_and_sets_are_awaited_alike(state):
    doors, tags = state.counter("doors").aio, state.set("tags").aio

    assert (await doors.add(2), await doors.value()) == (2, 2)
    await tags.add("b", "a")
    await tags.discard("b")
    assert await tags.contains("a") and not await tags.contains("b")
    assert [each async for each in tags] == ["a"] and await tags.elements() == {"a"}


@pytest.mark.slow
def test_a_large_set_comes_in_pages(state):
    elements = [f"{n:05}" + "x" * 250 for n in range(17_000)]
    for first in range(0, len(elements), 4000):
        state.set("large").add(*elements[first : first + 4000])

    assert list(state.set("large")) == elements


@pytest.mark.parametrize(
    "call",
    [
        lambda state: state.counter("c").add(1.5),
        lambda state: state.counter("c").add(True),
        lambda state: state.counter("c").add(2**60),
        lambda state: state.set("s").add(3),
        lambda state: state.set("s").add("x", ""),
        lambda state: state.set("s").add("x" * 257),
    ],
)
def test_what_no_counter_or_set_takes_changes_nothing(state, call):
    with pytest.raises(BadInput):
        call(state)
    assert state.tables() == []


def test_tables_and_conflicts_are_listed(daemon, state):
    state.table("rooms", key="id").insert({"id": 1})
    state.counter("c").add()

    assert [(each.name, each.kind, each.count, each.key) for each in state.tables()] == [
        ("c", "counter", 1, None),
        ("rooms", "documents", 1, "id"),
    ]
    assert state.conflicts() == state.conflicts("rooms", limit=3) == []


@pytest.fixture
def disagreeing():
    """n1's tables, where n2 wrote at the same time: two fields differ, one of them n2 has deleted."""
    one, other = real("n1"), real("n2")
    State(one.call).table("rooms", key="id").insert({"id": "r1", "t": 1, "fan": "low"})
    exchanged(one, other)
    State(other.call).table("rooms").update(lambda room: [room.update(t=24), room.pop("fan")])
    State(one.call).table("rooms").update({"t": 18, "fan": "high"})
    exchanged(one, other)
    return State(one.call)


def test_who_wrote_what_is_told_and_decided(disagreeing):
    fan, t = disagreeing.conflicts()
    assert {(each.value, each.deleted, each.node) for each in fan.values} == {
        ("high", False, "n1"),
        (None, True, "n2"),
    }
    assert {(each.value, each.deleted, each.node) for each in t.values} == {
        (18, False, "n1"),
        (24, False, "n2"),
    }
    assert [each.wins for each in t.values] == [True, False] and t.values[0].at_ms > 0
    rooms = disagreeing.table("rooms")
    winner = rooms.all()[0]["t"]
    assert (t.table, t.id, t.key, t.field) == ("rooms", rooms.all()[0].doc_id, "r1", "t")

    disagreeing.resolve(t)
    disagreeing.resolve(fan, {"low": True})
    assert disagreeing.conflicts() == []
    assert rooms.all() == [{"id": "r1", "t": winner, "fan": {"low": True}}]
    with pytest.raises(BadInput, match="nothing is in conflict at 't'"):
        disagreeing.resolve(t, 5)
    with pytest.raises(NotPlain, match="t is set"):
        disagreeing.resolve(t, {5})
    with pytest.raises(BadInput, match="2 values for one field"):
        disagreeing.resolve(t, 5, 6)


async def test_lists_are_awaited_alike(state):
    state.table("rooms").insert({"a": 1})

    assert await state.aio.tables() == state.tables()
    assert await state.aio.conflicts() == []


# ── twins ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_twin_tells_what_still_differs(state):
    twin = state.twin("pi-3")
    assert (twin.desired, twin.reported, twin.delta()) == ({}, {}, {})

    twin.desire(setpoint_c=21, fan="low", mode={"eco": True})
    twin.report(setpoint_c=21.0, fan="high")
    assert twin.delta() == {"fan": "low", "mode": {"eco": True}}
    twin.report(fan="low", mode={"eco": True})
    assert twin.delta() == {}
    assert twin.reported == {"setpoint_c": 21.0, "fan": "low", "mode": {"eco": True}}


def test_a_field_is_desired_no_more(state):
    twin = state.twin("pi-3")
    twin.desire(a=1, b=2)

    twin.withdraw("a", "never desired", "node")
    assert twin.desired == twin.delta() == {"b": 2}
    state.twin("pi-4").withdraw("a")
    assert state.twin("pi-4").desired == {}


def test_twins_are_apart(state):
    state.twin("pi-3").desire(a=1)
    state.twin("pi-4").desire(a=2)

    assert (state.twin("pi-3").desired, state.twin("pi-4").desired) == ({"a": 1}, {"a": 2})


def test_a_twins_name_is_no_setting(state):
    with pytest.raises(BadInput, match="'node' is the twin's name"):
        state.twin("pi-3").desire(node="pi-4")
    with pytest.raises(NotPlain):
        state.twin("pi-3").report(a={1})
    assert state.tables() == []


async def test_twins_are_awaited_alike(state):
    twin = state.twin("pi-3").aio
    await twin.desire(a=1, b=2)
    await twin.report(a=1)
    await twin.withdraw("nothing")

    assert await twin.delta() == {"b": 2}
    assert (await twin.desired(), await twin.reported(), twin.node) == ({"a": 1, "b": 2}, {"a": 1}, "pi-3")


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        (None, False, False),
        ([1, {"a": 2}], [1.0, {"a": 2.0}], True),
        ([1], [True], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ("1", 1, False),
    ],
)
def test_values_are_the_same_as_json_has_it(one, other, equal):
    assert same(one, other) is same(other, one) is equal


# ── freshness ─────────────────────────────────────────────────────────────────────────────────────────


async def test_who_was_not_reached_is_told_and_raised_only_if_asked(daemon, state):
    rooms = state.table("rooms")
    assert await rooms.fresh() == Freshness(("gateway",), (), 1.0) and await rooms.aio.fresh()

    daemon.fresh = {"reached": ["gateway"], "missing": ["pi-1", "pi-2"]}
    found = await rooms.fresh(max_age_s=2)
    assert not found and found.missing == ("pi-1", "pi-2") and found.max_age_s == 2
    assert rooms.wait_fresh() == await rooms.fresh()
    with pytest.raises(Unavailable, match="not heard of within 1 s: pi-1, pi-2"):
        await rooms.fresh(strict=True)


@pytest.mark.parametrize(("max_age_s", "wait_s"), [(61, 1), (-1, 1), (float("nan"), 1), (1, -1), (1, 1000)])
def test_ages_and_waits_have_bounds(state, max_age_s, wait_s):
    with pytest.raises(BadInput):
        state.table("t").wait_fresh(max_age_s, wait_s=wait_s)


# ── one way only ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_program_without_a_loop_has_nothing_to_await(daemon):
    with pytest.raises(BadInput, match="nothing here can be awaited"):
        await State(daemon.state.call).table("t").aio.count()
    with pytest.raises(BadInput, match="nothing here blocks"):
        State(None, daemon.awaited).table("t").count()
