"""Server and client over a real Unix socket, with a backend in memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edge_node.client import (
    BadInput,
    DeadlineExceeded,
    Mesh,
    MeshUnavailable,
    Refused,
    StillRunning,
    TaskCancelled,
    TaskFailed,
)
from edge_node.control import protocol
from edge_node.control.protocol import Call, Cancel, Failure, FrameReader, Outcome, Result, Run, Submit
from edge_node.control.server import ControlServer, answers
from edge_node.functions import values
from security.errors import Unavailable
from tests.support.echo_backend import EchoBackend


@pytest.fixture
def backend():
    return EchoBackend()


@pytest.fixture
async def server(tmp_path, backend):
    async with ControlServer(tmp_path / "control.sock", backend) as server:
        yield server


@pytest.fixture
async def mesh(tmp_path, server):
    async with Mesh.open(tmp_path) as mesh:
        yield mesh


async def until(condition):
    """Turn the loop until *condition* holds; the test's timeout is the bound."""
    while not condition():
        await asyncio.sleep(0)


def raw(path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(str(path))
    opened.setblocking(False)
    return opened


async def read_all(opened) -> list:
    """Every response until the server hangs up."""
    loop, reader, out = asyncio.get_running_loop(), FrameReader(), []
    with contextlib.suppress(ConnectionResetError):
        while data := await loop.sock_recv(opened, 65536):
            out += [protocol.decode_response(body) for body in reader.feed(data)]
    return out


# -- values and errors ---------------------------------------------------------------------------------


async def test_a_value_comes_back(mesh):
    rows = [{"t": 1, "x": 0.5, "note": None, "raw": b"\x00"}]

    assert await mesh.run("test.echo", rows) == rows


async def test_named_arguments_travel(mesh):
    assert await mesh.run("test.echo", kwargs={"threshold": 3}) == {"threshold": 3}


async def test_options_reach_the_daemon_in_milliseconds(mesh, backend):
    await mesh.run("test.echo", 1, deadline_s=2.0, where="gateway", ttl_s=60, priority=5)
    await mesh.submit("test.echo", 1, where="local")

    run, submit = backend.seen
    assert run == Run(run.id, "test.echo", values.encode_call([1], {}), "gateway", 2000, 60_000, 5)
    assert submit == Submit(submit.id, "test.echo", values.encode_call([1], {}), "local", None, None, 0)


async def test_an_outcome_tells_place_attempts_and_prints(mesh):
    outcome = await mesh.outcome("test.echo", 1)

    assert (outcome.status, outcome.place, outcome.log) == ("done", "n1", b"said\n")
    assert [(each.node, each.pid) for each in outcome.attempts] == [("n1", 42)]


async def test_a_function_that_raises_brings_its_traceback(mesh):
    with pytest.raises(TaskFailed) as caught:
        await mesh.run("test.fail", [])

    error = caught.value
    assert (error.kind, error.type_name, str(error)) == ("raised", "ValueError", "ValueError: no rows")
    assert error.remote_traceback.startswith("Traceback")
    assert error.log == "printed\n"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("test.refused", Refused, "outbox full"),
        ("test.down", MeshUnavailable, "the gateway is down"),
        ("test.bug", MeshUnavailable, "made a mistake"),
        ("test.expire", DeadlineExceeded, "missed its deadline"),
        ("test.poison", TaskFailed, "quarantined"),
        ("tst.echo", BadInput, "did you mean 'test.echo'"),
    ],
)
async def test_every_end_has_its_error(mesh, name, kind, words):
    with pytest.raises(kind, match=words):
        await mesh.run(name, 1)


async def test_refused_says_its_reason_and_unavailable_when_to_retry(mesh):
    with pytest.raises(Refused) as refused:
        await mesh.run("test.refused")
    with pytest.raises(MeshUnavailable) as down:
        await mesh.run("test.down")

    assert refused.value.reason == "outbox full"
    assert (down.value.retry_after_s, down.value.fix) == (2.5, "start it")


async def test_an_output_that_does_not_decode_is_a_failed_task(mesh, backend):
    handle = await mesh.submit("test.hold")
    backend.settle(Outcome(0, handle.id, "done", b"\xc1"))

    with pytest.raises(TaskFailed, match="does not decode"):
        await handle.result()


async def test_an_input_larger_than_a_frame_is_refused_here(mesh):
    with pytest.raises(BadInput, match="split the input"):
        await mesh.run("test.echo", bytes(protocol.FRAME_BYTES_MAX))
    assert await mesh.run("test.echo", 1) == 1


async def test_a_megabyte_both_ways(mesh):
    data = os.urandom(3_000_000)

    assert await asyncio.gather(*(mesh.run("test.echo", data) for _ in range(4))) == [data] * 4


async def test_what_cannot_travel_is_the_callers_fault(mesh):
    with pytest.raises(BadInput, match="cannot travel"):
        await mesh.run("test.echo", {1, 2})


# -- submit, result, cancel ----------------------------------------------------------------------------


async def test_a_submitted_task_is_asked_for_later(mesh, backend):
    handle = await mesh.submit("test.hold")
    with pytest.raises(StillRunning, match="running"):
        await handle.result(wait_s=0)
    waiting = asyncio.create_task(handle.result())
    await until(lambda: backend.waiters)

    backend.release()

    assert await waiting == "released"
    assert await mesh.result(handle.id) == "released"
    assert (await mesh.handle(handle.id).outcome()).status == "done"


async def test_a_cancelled_task_says_so(mesh):
    handle = await mesh.submit("test.hold")

    assert await handle.cancel() is True
    assert await handle.cancel() is False
    with pytest.raises(TaskCancelled):
        await handle.result()


async def test_an_unknown_task_is_bad_input(mesh):
    with pytest.raises(BadInput, match="no task t9"):
        await mesh.result("t9")


async def test_a_task_that_was_cancelled_elsewhere_ends_a_run(mesh, backend):
    running = asyncio.create_task(mesh.run("test.hold"))
    await until(lambda: backend.held)

    await mesh.cancel(next(iter(backend.held)))

    with pytest.raises(TaskCancelled):
        await running


# -- map -----------------------------------------------------------------------------------------------


async def test_map_yields_every_value_once(mesh):
    got = [value async for value in mesh.map("test.echo", range(200), window=16)]

    assert sorted(got) == list(range(200))


async def test_an_ordered_map_keeps_the_order_of_its_items(mesh, backend):
    """The first item settles last, and still comes first."""

    async def items():
        yield 0
        yield 1

    async def collect():
        return [value async for value in mesh.map("test.hold", items(), ordered=True, indexed=True)]

    collecting = asyncio.create_task(collect())
    await until(lambda: len(backend.held) == 2)
    first, second = backend.held
    backend.settle(Outcome(0, second, "done", values.encode("b")))
    backend.settle(Outcome(0, first, "done", values.encode("a")))

    assert await collecting == [(0, "a"), (1, "b")]


async def test_map_holds_no_more_than_its_window(mesh, backend):
    taken = 0

    def items():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    stream = mesh.map("test.hold", items(), window=5)
    first = asyncio.create_task(anext(stream))
    await until(lambda: len(backend.held) == 5)
    for _ in range(20):
        await asyncio.sleep(0)

    assert (taken, len(backend.held)) == (5, 5)
    backend.release()
    assert await first == "released"
    await stream.aclose()


async def test_map_raises_the_first_error_or_yields_it(mesh):
    with pytest.raises(TaskFailed):
        async for _ in mesh.map("test.fail", range(3)):
            pass

    got = [each async for each in mesh.map("test.fail", range(3), return_errors=True)]

    assert [type(each) for each in got] == [TaskFailed] * 3


async def test_a_map_over_nothing_ends_at_once(mesh):
    assert [each async for each in mesh.map("test.echo", [])] == []


def test_a_window_of_nothing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="window is 0"):
        Mesh.open(tmp_path).map("test.echo", [], window=0)


# -- administrative methods ----------------------------------------------------------------------------


async def test_methods_are_called_by_name(mesh, backend):
    assert (await mesh.status())["node"] == "n1"
    assert await mesh.functions() == []
    assert backend.calls == [("status", {}), ("functions", {})]


async def test_a_method_that_breaks_ends_neither_connection_nor_daemon(mesh):
    with pytest.raises(MeshUnavailable, match="made a mistake"):
        await mesh.call("boom")
    with pytest.raises(BadInput, match="no method nonsense"):
        await mesh.call("nonsense")
    assert await mesh.run("test.echo", 1) == 1


async def test_parameters_that_are_no_mapping_are_refused(tmp_path, server):
    with contextlib.closing(raw(tmp_path / "control.sock")) as opened:
        opened.send(protocol.encode(Call(1, "status", protocol.pack([1]))))
        data = await asyncio.get_running_loop().sock_recv(opened, 65536)

    (response,) = map(protocol.decode_response, FrameReader().feed(data))
    assert (response.id, response.code) == (1, "bad_input")


# -- the socket ----------------------------------------------------------------------------------------


async def test_the_socket_is_its_owners_alone(tmp_path, server):
    mode = (tmp_path / "control.sock").stat().st_mode

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["control.sock"]


async def test_a_closed_server_takes_its_socket_away(tmp_path, backend):
    async with ControlServer(tmp_path / "control.sock", backend):
        assert answers(tmp_path / "control.sock")

    assert not (tmp_path / "control.sock").exists()


async def test_a_second_daemon_is_refused(tmp_path, server, mesh):
    with pytest.raises(Unavailable, match="already answers"):
        await ControlServer(tmp_path / "control.sock", EchoBackend()).listen()
    assert await mesh.run("test.echo", 1) == 1


async def test_a_socket_that_nobody_answers_on_is_replaced(tmp_path, backend):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    assert not answers(tmp_path / "control.sock")

    async with ControlServer(tmp_path / "control.sock", backend), Mesh.open(tmp_path) as mesh:
        assert await mesh.run("test.echo", 1) == 1


async def test_what_is_not_a_socket_is_left_alone(tmp_path, backend):
    (tmp_path / "control.sock").write_text("mine")

    with pytest.raises(BadInput, match="not a socket"):
        await ControlServer(tmp_path / "control.sock", backend).listen()
    assert (tmp_path / "control.sock").read_text() == "mine"


async def test_a_home_with_a_long_path_works(tmp_path, backend):
    """The address of a Unix socket holds 107 bytes."""
    home = tmp_path / ("x" * 120) / ("y" * 120)
    home.mkdir(parents=True)

    async with ControlServer(home / "control.sock", backend), Mesh.open(home) as mesh:
        assert await mesh.run("test.echo", 1) == 1
        assert answers(home / "control.sock")
    assert not (home / "control.sock").exists()


async def test_nobody_there_names_cause_and_fix(tmp_path):
    with pytest.raises(MeshUnavailable, match=r"no daemon answers at .*start it with `edge-node up"):
        async with Mesh.open(tmp_path):
            pass


# -- lost connections ----------------------------------------------------------------------------------


async def test_a_run_whose_daemon_goes_away_is_told(tmp_path, backend):
    async with ControlServer(tmp_path / "control.sock", backend), Mesh.open(tmp_path) as mesh:
        running = asyncio.create_task(mesh.run("test.hold"))
        await until(lambda: backend.held)
        break_up = next(iter(mesh._connection._waiting.values()))
        assert not break_up.done()
        mesh._connection._transport.abort()

        with pytest.raises(MeshUnavailable, match="was lost"):
            await running
        assert await mesh.run("test.echo", 1) == 1, "the next request connects again"


async def test_what_a_lost_program_asked_for_goes_on(tmp_path, server, backend):
    with contextlib.closing(raw(tmp_path / "control.sock")) as opened:
        opened.send(protocol.encode(Run(1, "test.hold", values.encode_call([], {}))))
        await until(lambda: backend.held)
    await until(lambda: server.connections == 0)

    backend.release()

    assert [each.status for each in backend.outcomes.values()] == ["done"]


@pytest.mark.slow
async def test_a_result_is_waited_for_through_a_restart_of_the_daemon(tmp_path, backend):
    """What was accepted is kept: the handle outlives the daemon that gave it."""
    server = ControlServer(tmp_path / "control.sock", backend)
    async with server:
        mesh = await Mesh.open(tmp_path).__aenter__()
        handle = await mesh.submit("test.hold")
        waiting = asyncio.create_task(handle.result())
        await until(lambda: backend.waiters)
    backend.waiters.clear()
    await until(lambda: mesh._connection.lost)

    async with ControlServer(tmp_path / "control.sock", backend):
        await until(lambda: backend.waiters)
        backend.release()

        assert await waiting == "released"
        await mesh.__aexit__()


@pytest.mark.slow
async def test_a_daemon_killed_under_load_leaves_no_future_hanging(tmp_path):
    """kill -9 with a hundred runs in flight: each ends as MeshUnavailable, and the socket is replaceable."""
    code = (
        "import asyncio, sys; sys.path[:0] = sys.argv[2:]\n"
        "from echo_backend import EchoBackend\n"
        "from edge_node.control.server import ControlServer\n"
        "async def main():\n"
        "    async with ControlServer(sys.argv[1] + '/control.sock', EchoBackend()):\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    support = Path(__file__).parents[1] / "support"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(support), str(support.parents[1])],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        async with Mesh.open(tmp_path) as mesh:
            assert await mesh.run("test.echo", 1) == 1
            runs = [asyncio.create_task(mesh.run("test.hold")) for _ in range(100)]
            await mesh.status()
            process.send_signal(signal.SIGKILL)
            ends = await asyncio.gather(*runs, return_exceptions=True)
    finally:
        process.kill()
        process.wait()

    assert {isinstance(each, MeshUnavailable) for each in ends} == {True}
    assert not answers(tmp_path / "control.sock")
    async with ControlServer(tmp_path / "control.sock", EchoBackend()), Mesh.open(tmp_path) as mesh:
        assert await mesh.run("test.echo", 2) == 2


async def test_a_daemon_that_hangs_is_noticed_after_the_deadline(mesh, monkeypatch):
    monkeypatch.setattr("edge_node.client.DEADLINE_GRACE_S", 0.0)

    with pytest.raises(DeadlineExceeded, match="did not answer"):
        await mesh.run("test.hold", deadline_s=0.01)


# -- bad peers and pressure ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", protocol.FRAME_BYTES_MAX + 1),
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 2) + b"\x91\x63",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_stranger_is_told_once_and_cut_off(tmp_path, server, mesh, data):
    with contextlib.closing(raw(tmp_path / "control.sock")) as opened:
        opened.send(data)
        said = await read_all(opened)

    assert [(type(each), each.id, each.code) for each in said] == [(Failure, 0, "bad_input")]
    assert await mesh.run("test.echo", 1) == 1


async def test_a_program_that_asks_too_much_waits(tmp_path, backend):
    """At the bound the connection is not read; it goes on as soon as answers leave. Nothing is lost."""
    server = ControlServer(tmp_path / "control.sock", backend, outstanding_max=10)
    async with server, Mesh.open(tmp_path) as mesh:
        runs = [asyncio.create_task(mesh.run("test.hold")) for _ in range(35)]
        await until(lambda: len(backend.held) == 10)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(backend.held) == 10

        while not all(each.done() for each in runs):
            assert len(backend.held) <= 10
            backend.release()
            await asyncio.sleep(0)

        assert [each.result() for each in runs] == ["released"] * 35


async def test_large_inputs_pass_in_turns(tmp_path, backend, monkeypatch):
    monkeypatch.setattr("edge_node.control.server.INPUT_BYTES_MAX", 1_000_000)
    async with ControlServer(tmp_path / "control.sock", backend), Mesh.open(tmp_path) as mesh:
        runs = [asyncio.create_task(mesh.run("test.hold", bytes(600_000))) for _ in range(6)]
        await until(lambda: len(backend.held) == 2)
        for _ in range(200):
            await asyncio.sleep(0)
        while not all(each.done() for each in runs):
            assert len(backend.held) <= 2
            backend.release()
            await asyncio.sleep(0)

        assert [each.result() for each in runs] == ["released"] * 6


@pytest.mark.slow
async def test_a_program_that_does_not_read_is_not_read_from(tmp_path, server, backend):
    """Its answers are bounded by what was asked before; others are served meanwhile."""
    with contextlib.closing(raw(tmp_path / "control.sock")) as deaf:
        frame = protocol.encode(Run(1, "test.echo", values.encode_call([bytes(1_000_000)], {})))
        loop, sent = asyncio.get_running_loop(), 0

        async def flood():
            nonlocal sent
            for _ in range(100):
                await loop.sock_sendall(deaf, frame)
                sent += 1

        flooding = asyncio.create_task(flood())
        await until(lambda: len(backend.seen) >= 4)
        async with Mesh.open(tmp_path) as mesh:
            for _ in range(20):
                assert await mesh.run("test.echo", 1) == 1
        flooding.cancel()

    assert sent < 30
    assert len([each for each in backend.seen if len(each.input) > 1000]) < 30


@pytest.mark.slow
async def test_results_that_a_program_does_not_read_are_not_held_for_it(tmp_path, server, backend):
    """It asks for 200 MB in one go; the daemon holds a few, and each comes, once, when it is read."""
    backend.outcomes["t1"] = Outcome(0, "t1", "done", bytes(1_000_000))
    backend.outcomes["t2"] = Outcome(0, "t2", "done", b"small")
    loop, asked = asyncio.get_running_loop(), {at: "t1" if at % 2 else "t2" for at in range(1, 401)}
    with contextlib.closing(raw(tmp_path / "control.sock")) as deaf:
        await loop.sock_sendall(
            deaf, b"".join(protocol.encode(Result(at, task)) for at, task in asked.items())
        )
        async with Mesh.open(tmp_path) as mesh:
            for _ in range(20):
                assert await mesh.run("test.echo", 1) == 1
        (connection,) = (each for each in server._connections if each._later)
        held = connection._transport.get_write_buffer_size()
        reader, answers = FrameReader(), []
        while len(answers) < len(asked):
            answers += map(protocol.decode_response, reader.feed(await loop.sock_recv(deaf, 1 << 20)))

    assert held < 16 * 1024 * 1024
    assert sorted(answer.id for answer in answers) == sorted(asked)
    assert all(answer.task == asked[answer.id] and answer.status == "done" for answer in answers)
    assert connection._outstanding == 0 and connection._fetching == 0


async def test_too_many_programs_are_turned_away(tmp_path, backend, monkeypatch):
    monkeypatch.setattr("edge_node.control.server.CONNECTIONS_MAX", 2)
    async with ControlServer(tmp_path / "control.sock", backend) as server:
        async with Mesh.open(tmp_path) as first, Mesh.open(tmp_path) as second:
            await first.status()
            await second.status()
            with pytest.raises(MeshUnavailable, match="too many programs"):
                async with Mesh.open(tmp_path) as third:
                    await third.status()
            assert server.connections == 2
        await until(lambda: server.connections == 0)
        async with Mesh.open(tmp_path) as mesh:
            await mesh.status()


async def test_requests_of_one_turn_leave_in_one_write(mesh, monkeypatch):
    writes = []
    transport = mesh._connection._transport
    monkeypatch.setattr(mesh._connection, "_transport", _Recording(transport, writes))

    await asyncio.gather(*(mesh.run("test.echo", number) for number in range(50)))

    assert len(writes) == 1
    assert len(FrameReader().feed(writes[0])) == 50


async def test_a_cancelled_wait_does_not_disturb_the_rest(mesh, backend):
    running = asyncio.create_task(mesh.run("test.hold"))
    await until(lambda: backend.held)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    backend.release()

    assert await mesh.run("test.echo", 1) == 1


async def test_cancel_frames_are_answered_in_any_order(tmp_path, server, backend):
    """A pipelined cancel overtakes the run that it is about."""
    with contextlib.closing(raw(tmp_path / "control.sock")) as opened:
        run = protocol.encode(Run(1, "test.hold", values.encode_call([], {})))
        opened.send(run + protocol.encode(Cancel(2, "t000001")))
        loop, reader, said = asyncio.get_running_loop(), FrameReader(), []
        while len(said) < 2:
            said += map(protocol.decode_response, reader.feed(await loop.sock_recv(opened, 65536)))

    assert {each.id: type(each).__name__ for each in said} == {1: "Outcome", 2: "Cancelled"}


class _Recording:
    def __init__(self, transport, writes):
        self._transport, self._writes = transport, writes

    def write(self, data):
        self._writes.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name):
        return getattr(self._transport, name)
