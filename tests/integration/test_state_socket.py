"""Tables over a control socket: blocking from threads and within loops, awaited, through restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading

import pytest
from tinydb import where
from tinydb.operations import increment

from edge_node.client import Mesh, MeshUnavailable
from edge_node.control.server import ControlServer
from edge_node.home import Home
from edge_node.state.blocking import BlockingConnection
from edge_node.state.state import State
from security.errors import BadInput, Refused
from tests.support.daemon_thread import serving
from tests.support.state_backend import StateBackend


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.create()
    return home


@pytest.fixture
def backend():
    return StateBackend()


def test_a_program_without_a_loop_has_a_table(home, backend):
    with serving(home, backend), State.open(home) as state:
        rooms = state.table("rooms", key="id")
        rooms.upsert({"id": "r1", "setpoint_c": 21.5})

        assert rooms.update(increment("setpoint_c"), where("id") == "r1") == [rooms.all()[0].doc_id]
        assert rooms.search(where("setpoint_c") > 22) == [{"id": "r1", "setpoint_c": 22.5}]


def test_errors_are_of_the_kind_that_the_daemon_meant(home, backend):
    with serving(home, backend), State.open(home) as state:
        state.table("rooms", key="id").insert({"id": 1})

        with pytest.raises(BadInput, match="was declared with the key 'id', not the key 'name'"):
            State.open(home).table("rooms", key="name").count()
        with pytest.raises(Refused, match="n1 is no writer of table"):
            state.table("theirs", writers=["n2"]).count()


def test_threads_share_one_connection(home, backend):
    """Nothing is lost and nobody gets another's answer."""
    with serving(home, backend), State.open(home) as state:
        counter, table = state.counter("c"), state.table("t")
        wrong = []

        def work(number):
            for step in range(20):
                doc_id = table.insert({"number": number, "step": step})
                if table.get(doc_id=doc_id) != {"number": number, "step": step}:
                    wrong.append((number, step))
                counter.add()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (wrong, counter.value(), len(table)) == ([], 80, 80)


def test_increments_of_several_programs_are_all_counted(home, backend):
    """`update(increment(…))` reads here and writes there: who was overtaken reads again."""
    with serving(home, backend):
        with State.open(home) as state:
            state.table("t", key="id").insert({"id": 1, "n": 0})

        def work():
            with State.open(home) as state:
                for _ in range(15):
                    state.table("t").update(increment("n"))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with State.open(home) as state:
            assert state.table("t").all() == [{"id": 1, "n": 45}]


async def test_blocking_calls_work_within_a_running_loop(home, backend):
    with serving(home, backend):
        async with Mesh.open(home) as mesh:
            rooms = mesh.state.table("rooms", key="id")
            rooms.upsert({"id": "r1"})
            await rooms.aio.upsert({"id": "r2"})

            assert mesh.state is mesh.state and mesh.state.table("rooms") is rooms
            assert rooms.all() == await rooms.aio.all() == [{"id": "r1"}, {"id": "r2"}]
            mesh.twin("pi-3").desire(a=1)
            assert await mesh.twin("pi-3").aio.delta() == {"a": 1}


async def test_what_is_awaited_goes_over_the_meshs_own_connection(home, backend):
    async with ControlServer(home.socket, backend), Mesh.open(home) as mesh:
        table = mesh.state.table("t")

        ids = await asyncio.gather(*(table.aio.insert({"n": n}) for n in range(50)))

        assert len({*ids}) == 50 and await table.aio.count() == 50


def test_a_daemon_that_restarted_is_connected_to_again(home, backend):
    with State.open(home) as state:
        table = state.table("t")
        with pytest.raises(MeshUnavailable, match="no daemon answers"):
            table.insert({"n": 0})
        for n in (1, 2):
            with serving(home, backend):
                table.insert({"n": n})
        with pytest.raises(MeshUnavailable, match="no daemon answers"):
            table.all()
        with serving(home, backend):
            assert sorted(each["n"] for each in table) == [1, 2]


def test_a_closed_state_connects_again_when_it_is_asked(home, backend):
    with serving(home, backend):
        state = State.open(home)
        state.counter("c").add()
        state.close()
        state.close()

        assert state.counter("c").value() == 1
        state.close()


@contextlib.contextmanager
def daemon_that(home, *answers):
    """Accepts connections in turn; with each answer: reads one request, sends those bytes, closes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home.socket))
        listening.listen()

        def serve():
            for answer in answers:
                accepted, _ = listening.accept()
                with accepted:
                    accepted.recv(65536)
                    if answer is None:
                        silent.wait(10)
                    else:
                        accepted.sendall(answer)

        silent = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            silent.set()
            thread.join(10)
            home.socket.unlink()


def test_an_answer_that_got_lost_is_told_and_nothing_else_comes_in_its_place(home, backend):
    with State.open(home) as state:
        with daemon_that(home, b"", struct.pack(">I", 100) + b"half"):
            for _ in range(2):
                with pytest.raises(MeshUnavailable, match="was lost: whether the last call was carried out"):
                    state.counter("c").add()
        with serving(home, backend):
            assert state.counter("c").add() == 1


@pytest.mark.parametrize(
    "answer",
    [struct.pack(">I", 3) + b"\xc1\xc1\xc1", b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"\x93\x0f\x07"],
)
def test_another_language_is_told(home, answer):
    speaks = pytest.raises(MeshUnavailable, match="speaks another language")
    with daemon_that(home, answer), State.open(home) as state, speaks:
        state.counter("c").value()


def test_a_daemon_that_hangs_is_given_up(home):
    hangs = pytest.raises(MeshUnavailable, match=r"did not answer within 0\.05 s")
    with daemon_that(home, None), BlockingConnection(home, answer_s_max=0.05) as connection, hangs:
        connection.call("state.tables", {})


def test_a_forked_program_makes_a_connection_of_its_own(home, backend):
    with serving(home, backend), State.open(home) as state:
        counter = state.counter("c")
        counter.add()
        child = os.fork()
        if child == 0:
            try:
                os._exit(max(0 if counter.add() else 1 for _ in range(50)))
            finally:
                os._exit(2)
        for _ in range(50):
            counter.add()
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0
        assert counter.value() == 101


async def test_a_watch_outlives_the_daemon(home, backend):
    """What happens meanwhile comes as a snapshot, if the feed is gone, else as the change it is."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(contextlib.AsyncExitStack())
        await server.enter_async_context(ControlServer(home.socket, backend))
        mesh = await stack.enter_async_context(Mesh.open(home))
        table = mesh.state.table("t", key="id")
        seen: asyncio.Queue = asyncio.Queue()

        async def follow():
            async for change in table.watch(where("n") > 0):
                seen.put_nowait(change)

        following = asyncio.create_task(follow(), name="follow")
        while sum(method == "state.watch" for method, _ in backend.calls) < 2:
            await asyncio.sleep(0)
        await table.aio.insert({"id": 1, "n": 1})
        assert (await seen.get()).after == {"id": 1, "n": 1}
        await server.aclose()
        other = StateBackend()
        other.state.call("state.declare", {"table": "t", "key": "id"})
        other.state.call("state.insert", {"table": "t", "documents": [[None, '{"id":2,"n":2}']]})
        async with ControlServer(home.socket, other):
            snapshot = await seen.get()
            assert (snapshot.kind, list(snapshot.documents)) == ("snapshot", [{"id": 2, "n": 2}])
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
