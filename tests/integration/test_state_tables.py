"""Programs with tables of real daemons: TinyDB's face here, seen there, watched through a kill."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import psutil
import pytest
from tinydb import where
from tinydb.operations import increment

from edge_node.client import Mesh, MeshUnavailable, Refused
from edge_node.state.state import State
from security.errors import Unavailable
from tests.support.daemons import WAIT_S_MAX, Bed, until
from tests.support.tinydb_suite import CountedTable, TinyDB, names, suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OVER_THE_SOCKET = [("test_operations", test) for test in names("test_operations")] + [
    ("test_tables", "test_one_table"),
    ("test_tables", "test_table_is_iterable"),
    ("test_tinydb", "test_upsert_by_id"),
    ("test_tinydb", "test_update_multiple_operation"),
    ("test_tinydb", "test_remove_ids_mixed"),
    ("test_tinydb", "test_insert_with_duplicate_doc_id"),
    ("test_tinydb", "test_get_ids"),
]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("tables"), broker="embedded") as bed:
        gateway = bed.gateway().start()
        bed.join("pi-1").start().connected()
        gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])
        yield bed


@pytest.fixture
def gateway(bed):
    with State.open(bed.daemons["gateway"].home) as state:
        yield state


@pytest.fixture
def pi(bed):
    with State.open(bed.daemons["pi-1"].home) as state:
        yield state


def test_a_document_that_is_written_here_is_there(gateway, pi):
    rooms, there = gateway.table("rooms", key="id"), pi.table("rooms")
    rooms.insert_multiple({"id": f"r{n}", "setpoint_c": 18 + n / 2, "visits": 0} for n in range(20))
    assert there.wait_fresh(0, wait_s=WAIT_S_MAX, strict=True).reached == ("gateway",)
    assert len(there) == 20

    there.update(increment("visits"), where("setpoint_c").test(lambda t: t > 25))
    there.upsert({"id": "r1", "setpoint_c": 30})
    assert rooms.wait_fresh(0, wait_s=WAIT_S_MAX, strict=True).reached == ("pi-1",)
    assert rooms.search(where("setpoint_c") == 30) == [{"id": "r1", "setpoint_c": 30, "visits": 0}]
    assert [each["id"] for each in rooms.search(where("visits") == 1)] == ["r15", "r16", "r17", "r18", "r19"]
    assert rooms.get(where("id") == "r1").doc_id == there.get(where("id") == "r1").doc_id


def test_counters_sets_and_twins_are_everybodys(gateway, pi):
    gateway.counter("doors").add(2)
    pi.counter("doors").add(3)
    gateway.set("maintenance").add("pump-3", "fan")
    pi.set("maintenance").add("fan", "lamp")
    gateway.twin("pi-1").desire(setpoint_c=21, fan="low")
    pi.twin("pi-1").report(setpoint_c=21.0, fan="high")

    for state in (gateway, pi):
        assert state.table("rooms").wait_fresh(0, wait_s=WAIT_S_MAX, strict=True)
        assert state.counter("doors").value() == 5
        assert list(state.set("maintenance")) == ["fan", "lamp", "pump-3"]
        assert state.twin("pi-1").delta() == {"fan": "low"}


def test_a_table_that_names_its_writers_refuses_others(gateway, pi):
    gateway.table("limits", key="id", writers=["gateway"]).insert({"id": "t", "max_c": 30})
    assert pi.table("limits").wait_fresh(0, wait_s=WAIT_S_MAX, strict=True)

    with pytest.raises(Refused, match="pi-1 is no writer of table 'limits'"):
        pi.table("limits").update({"max_c": 99})
    assert pi.table("limits").all() == [{"id": "t", "max_c": 30}]


class Apart(State):
    """A state whose tables have a name of their own: a test of the suite leaves nothing to the next."""

    table_class = CountedTable
    prefix = ""

    def table(self, name, **options):
        return super().table(self.prefix + name, **options)

    def tables(self):
        return [
            replace(each, name=each.name.removeprefix(self.prefix))
            for each in super().tables()
            if each.name.startswith(self.prefix)
        ]


@pytest.mark.parametrize(("name", "test"), OVER_THE_SOCKET)
def test_of_tinydbs_suite_passes_over_the_socket(bed, name, test):
    with Apart.open(bed.daemons["pi-1"].home) as state:
        state.prefix = f"{test}."
        db = TinyDB(state)
        db.insert_multiple({"int": 1, "char": char} for char in "abc")
        getattr(suite(name, TinyDB), test)(db)


def test_who_does_not_answer_is_named(bed, gateway):
    """A member that stands still is live until that is noticed: what it wrote last may not be here."""
    rooms, node = gateway.table("rooms"), bed.daemons["pi-1"]
    os.kill(node.pid, signal.SIGSTOP)
    try:
        until("it stands still", lambda: psutil.Process(node.pid).status() == psutil.STATUS_STOPPED)
        # What it had said before may still be on its way, and counts when it comes: it says no more after it.
        until("it is missed", lambda: rooms.wait_fresh(0, wait_s=0.3).missing == ("pi-1",))
        with pytest.raises(Unavailable, match=r"not heard of within 0 s: pi-1"):
            rooms.wait_fresh(0, wait_s=0.1, strict=True)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert rooms.wait_fresh(0, wait_s=WAIT_S_MAX, strict=True).reached == ("pi-1",)


def test_a_watch_and_a_program_go_on_after_a_kill(bed):
    """What was acknowledged is there; what happened while nobody could tell comes as a snapshot."""
    node, gateway = bed.daemons["pi-1"], bed.daemons["gateway"]

    async def programs():
        async with Mesh.open(node.home) as mesh, Mesh.open(gateway.home) as other:
            alarms, there = mesh.state.table("alarms", key="id"), other.state.table("alarms")
            seen: asyncio.Queue = asyncio.Queue()

            async def follow():
                async for change in alarms.watch(where("level") > 2):
                    seen.put_nowait(change)

            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(follow(), name="follow")
                await alarms.aio.insert({"id": "a", "level": 1})
                while seen.empty():  # until the watch has taken up position
                    await alarms.aio.upsert({"id": "a", "level": 3})
                    await alarms.aio.upsert({"id": "a", "level": 1})
                assert (await seen.get()).node == "pi-1"
                await asyncio.to_thread(node.kill)
                with pytest.raises(MeshUnavailable):
                    alarms.count()
                await there.aio.upsert({"id": "b", "level": 5})
                await asyncio.to_thread(node.start)
                assert alarms.get(where("id") == "a") == {"id": "a", "level": 1}
                async with asyncio.timeout(60):
                    while (change := await seen.get()).kind != "snapshot":
                        pass
                    told = [dict(each) for each in change.documents]
                    while told != [{"id": "b", "level": 5}]:
                        told = [(await seen.get()).after]
                following.cancel()

    asyncio.run(programs())
    until("both know the same", lambda: node.ask(count) == gateway.ask(count) == 2)


async def count(mesh):
    return await mesh.state.table("alarms").aio.count()
