"""MeshExecutor over a real control socket with a backend in memory: what `Executor` promises, and bounds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import importlib.util
import sys
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait

import pytest

from edge_node import executor as executor_module
from edge_node.client import (
    BadInput,
    DeadlineExceeded,
    Mesh,
    MeshExecutor,
    MeshUnavailable,
    Refused,
    TaskCancelled,
    TaskFailed,
)
from edge_node.control.protocol import Outcome
from edge_node.executor import NotOffered
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from edge_node.home import Home
from tests.support.daemon_thread import serving
from tests.support.echo_backend import EchoBackend

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NAMES = ("echo", "hold", "fail", "expire", "poison", "refused", "down", "bug")
SOURCE = """
import functools

from edge_node.functions import function


def logged(fn):
    @functools.wraps(fn)
    def inner(*args, **kwargs):
        return fn(*args, **kwargs)
    return inner


@function
def echo(value):
    return value


@function
def hold():
    return "released"


@function
@logged
def fail():
    raise ValueError("no rows")


def plain():
    pass


def make():
    @function
    def inner():
        pass
    return inner


class Device:
    @function
    def read(self):
        pass
"""
TOP = SOURCE.split("def make")[0]  # what may be deployed: nothing decorated is nested


class Backend(EchoBackend):
    """Released from the test's thread, and for good: what comes later is not held."""

    def __init__(self):
        super().__init__()
        self.loop, self.is_open = None, False

    def submit(self, request, reply):
        self.loop = asyncio.get_running_loop()
        super().submit(request, reply)
        if self.is_open:
            super().release()

    def release(self):
        self.is_open = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(super().release)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def backend(home):
    backend = Backend()
    digest = Bundle.of_source("test.py", TOP).digest.hex()
    backend.answers["functions"] = [{"name": f"test.{name}", "digest": digest} for name in NAMES]
    with serving(home, backend) as backend:
        yield backend


@pytest.fixture
def mesh(home, backend):
    with MeshExecutor(home=home) as mesh:
        yield mesh
        backend.release()


def imported(path, source, name="test"):
    """The module of a file called as the mesh knows it; not the standard library's `test`."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"deployed_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def code(tmp_path):
    module = imported(tmp_path / "test.py", TOP)
    yield module
    del sys.modules[module.__name__]


def until(holds):
    """Spin until *holds*; the suite's timeout is the bound."""
    while not (value := holds()):
        time.sleep(0.001)
    return value


def of(future):
    """The task at the daemon, once it has accepted it."""
    return until(lambda: future.task)


def cancel_elsewhere(mesh, task):
    async def cancel():
        async with Mesh.open(mesh._engine._mesh.home) as other:
            return await other.cancel(task)

    assert asyncio.run(cancel())


# -- results and errors --------------------------------------------------------------------------------


def test_a_deployed_function_is_submitted_as_itself_or_by_its_name(mesh, code):
    assert mesh.submit(code.echo, 7).result() == 7
    assert mesh.submit("test.echo", [1.5, None]).result() == [1.5, None]


def test_a_second_decorator_does_not_hide_the_function(mesh, code):
    with pytest.raises(TaskFailed, match="no rows"):
        mesh.submit(code.fail).result()


def test_the_workers_traceback_comes_with_the_error(mesh):
    error = mesh.submit("test.fail").exception()

    assert isinstance(error, TaskFailed) and error.type_name == "ValueError"
    assert error.remote_traceback.startswith("Traceback")
    assert "on the worker:\nTraceback" in error.__notes__[0]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("refused", Refused, "outbox full"),
        ("down", MeshUnavailable, "the gateway is down"),
        ("bug", MeshUnavailable, "made a mistake"),
        ("expire", DeadlineExceeded, "missed its deadline"),
        ("poison", TaskFailed, "quarantined"),
    ],
)
def test_a_future_fails_as_the_client_would(mesh, name, kind, words):
    with pytest.raises(kind, match=words):
        mesh.submit(f"test.{name}").result()
    assert mesh.submit("test.echo", 1).result() == 1


def test_a_missed_deadline_is_a_timeout_to_who_knows_only_futures(mesh):
    with pytest.raises(concurrent.futures.TimeoutError):
        mesh.submit("test.expire").result()


def test_waiting_for_a_result_has_a_timeout_of_its_own(mesh):
    future = mesh.submit("test.hold")

    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    assert not future.done()


def test_an_iterator_that_is_given_up_before_it_began_cancels_too(mesh):
    results = mesh.map("test.hold", range(5))
    ahead = list(results._ahead.futures)
    del results

    assert len(ahead) == 5 and all(future.cancelled() for future in ahead)


def test_options_go_with_every_task(home, backend):
    options = {"where": "pi-2", "ttl_s": 60, "priority": 3, "labels": {"site": "a"}}
    options |= {"traceparent": PARENT, "tracestate": "rojo=1"}
    with MeshExecutor(home=home, deadline_s=9.0, **options) as mesh:
        mesh.submit("test.echo", 1, unit="C").result()

    (seen,) = backend.seen
    assert values.decode_call(seen.input) == ([1], {"unit": "C"})
    assert (seen.where, seen.ttl_ms, seen.priority, seen.labels) == ("pi-2", 60_000, 3, {"site": "a"})
    assert 0 < seen.deadline_ms <= 9000
    assert (seen.traceparent, seen.tracestate) == (PARENT, "rojo=1")
    with pytest.raises(BadInput, match="no traceparent"):
        MeshExecutor(home=home, traceparent=PARENT.upper())


def test_the_wait_in_the_programs_own_queue_counts_against_the_deadline(home, backend):
    with MeshExecutor(home=home, deadline_s=0.05, window=1) as mesh:
        first, second = mesh.submit("test.hold"), mesh.submit("test.echo", 1)
        of(first)
        time.sleep(0.06)
        backend.release()

        with pytest.raises(DeadlineExceeded, match="before its deadline"):
            second.result()


def test_nobody_at_home_is_one_error_of_the_constructor(tmp_path):
    with pytest.raises(MeshUnavailable, match="no daemon answers"):
        MeshExecutor(home=tmp_path)
    assert not [each for each in threading.enumerate() if each.name == "mesh-executor"]


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 2049}, {"deadline_s": 0.0}])
def test_options_that_do_not_fit_are_refused(tmp_path, options):
    with pytest.raises(BadInput):
        MeshExecutor(home=tmp_path, **options)


# -- what is not a function of the mesh ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda code: lambda: 1, "a lambda"),
        (lambda code: functools.partial(code.echo, 1), "a functools.partial"),
        (lambda code: len, "len, which is built in"),
        (lambda code: [].append, "which is built in"),
        (lambda code: dict, "dict, which is built in or a class"),
        (lambda code: code.plain, "plain, which is not marked"),
        (lambda code: functools.lru_cache(code.echo), "a callable of type _lru_cache_wrapper"),
        (lambda code: 7, "a callable of type int"),
    ],
)
def test_what_the_mesh_cannot_know_is_refused_with_the_way_to_deploy_it(mesh, code, make, words):
    with pytest.raises(TypeError, match=words) as caught:
        mesh.submit(make(code))

    assert isinstance(caught.value, BadInput)
    assert "edge-gateway deploy FILE" in caught.value.fix


def test_nested_functions_and_methods_are_refused(mesh, tmp_path):
    module = imported(tmp_path / "nested.py", SOURCE, "nested")

    for fn, words in ((module.make(), "top level"), (module.Device().read, "bound method")):
        with pytest.raises(NotOffered, match=words):
            mesh.submit(fn)
    with pytest.raises(NotOffered, match="top level"):
        mesh.submit(module.Device.read)
    del sys.modules[module.__name__]


def test_code_that_differs_from_what_is_deployed_is_refused(mesh, code, tmp_path):
    (tmp_path / "test.py").write_text(TOP.replace("return value", "return [value]"))

    with pytest.raises(BadInput, match=r"deploy it again with `edge-gateway deploy .*/test\.py`"):
        mesh.submit(code.echo, 1)
    with pytest.raises(BadInput, match="deploy it again"):
        mesh.map(code.echo, [1])


def test_what_is_not_deployed_is_refused_and_asked_for_anew_each_time(mesh, backend, tmp_path):
    module = imported(tmp_path / "fresh.py", TOP, "fresh")

    with pytest.raises(BadInput, match=r"fresh\.echo is not deployed: deploy it with"):
        mesh.submit(module.echo, 1)
    with pytest.raises(BadInput, match=r"no function 'test\.none' is deployed"):
        mesh.submit("test.none")
    digest = Bundle.of_source("fresh.py", TOP).digest.hex()
    backend.answers["functions"].append({"name": "fresh.echo", "digest": digest})
    with pytest.raises(BadInput, match="did you mean"):  # the backend's word: it was handed over
        mesh.submit(module.echo, 1).result()
    del sys.modules[module.__name__]


def test_the_list_of_functions_is_not_asked_for_with_every_task(mesh, backend):
    for number in range(50):
        mesh.submit("test.echo", number).result()

    assert [method for method, _ in backend.calls] == ["functions"]


def test_arguments_that_cannot_travel_raise_in_submit(mesh):
    with pytest.raises(BadInput, match="cannot travel"):
        mesh.submit("test.echo", {1, 2})


def test_later_changes_to_an_argument_do_not_count(home, backend):
    with MeshExecutor(home=home, window=1) as mesh:
        holding, rows = mesh.submit("test.hold"), [1]
        future = mesh.submit("test.echo", rows)
        rows.append(2)
        of(holding)
        backend.release()

        assert future.result() == [1]


# -- cancelling ----------------------------------------------------------------------------------------


def test_cancelling_a_task_at_the_daemon_ends_it_there(mesh, backend):
    future = mesh.submit("test.hold")
    task = of(future)

    assert future.cancel() and future.cancelled() and not future.running()
    assert until(lambda: backend.outcomes.get(task)).status == "cancelled"
    assert future.cancel(), "as often as one likes"
    with pytest.raises(CancelledError):
        future.result()


def test_cancelling_before_the_daemon_answered_ends_the_task_once_it_did(home, backend):
    with MeshExecutor(home=home) as mesh:
        futures = [mesh.submit("test.hold") for _ in range(20)]
        for future in futures:
            future.cancel()

    assert not backend.held, "the executor went without withdrawing what it had handed over"
    assert {each.status for each in backend.outcomes.values()} <= {"cancelled"}


def test_what_is_cancelled_in_the_queue_is_never_handed_over(home, backend):
    with MeshExecutor(home=home, window=1) as mesh:
        holding, waiting = mesh.submit("test.hold"), mesh.submit("test.echo", 1)
        of(holding)
        assert waiting.cancel()
        backend.release()

    assert [each.function for each in backend.seen] == ["test.hold"]


def test_a_settled_future_cannot_be_cancelled(mesh):
    future = mesh.submit("test.echo", 1)
    future.result()

    assert not future.cancel()


def test_a_task_cancelled_by_somebody_else_is_an_error(mesh, backend):
    future = mesh.submit("test.hold")
    task = of(future)
    until(lambda: backend.waiters)
    cancel_elsewhere(mesh, task)

    with pytest.raises(TaskCancelled):
        future.result()


def test_waiters_hear_of_cancellations(mesh):
    held, done = mesh.submit("test.hold"), mesh.submit("test.echo", 1)
    threading.Timer(0.01, held.cancel).start()

    finished, waiting = wait([held, done], timeout=30)

    assert finished == {held, done} and not waiting
    assert set(as_completed([held, done], timeout=30)) == {held, done}


# -- map -----------------------------------------------------------------------------------------------


def test_map_keeps_the_order_of_its_items(mesh, backend):
    assert list(mesh.map("test.echo", range(600))) == list(range(600))
    assert list(mesh.map("test.echo", [])) == []


def test_map_takes_many_iterables_and_stops_with_the_shortest(mesh, backend):
    assert list(mesh.map("test.echo", [1, 2, 3], "ab")) == [1, 2]
    assert values.decode_call(backend.seen[-1].input) == ([2, "b"], {})


def test_map_starts_at_once_and_takes_no_more_than_its_window(home, backend):
    taken = []

    def items():
        for number in range(1_000_000):
            taken.append(number)
            yield number

    with MeshExecutor(home=home, window=8) as mesh:
        results = mesh.map("test.echo", items())
        assert len(taken) == 8
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(taken) <= 8 + 5
        results.close()


def test_an_error_of_map_is_told_in_its_place(mesh):
    def items():
        yield 1
        yield 2
        raise KeyError("the third")

    results = mesh.map("test.echo", items())
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(KeyError, match="the third"):
        next(results)

    results = mesh.map("test.echo", [1, {2}, 3])
    assert next(results) == 1
    with pytest.raises(BadInput, match="cannot travel"):
        next(results)


def test_a_map_that_fails_or_is_left_cancels_what_is_in_flight(mesh, backend):
    results = mesh.map("test.hold", range(3))
    until(lambda: len(backend.held) == 3)
    cancel_elsewhere(mesh, next(iter(backend.held)))

    with pytest.raises(TaskCancelled):
        next(results)
    until(lambda: not backend.held)


def test_map_gives_up_after_its_timeout(mesh, backend):
    results = mesh.map("test.hold", [1, 2], timeout=0.01)

    with pytest.raises(TimeoutError):
        next(results)
    until(lambda: len(backend.seen) == 2 and not backend.held)


def test_a_chunk_has_at_least_one_item(mesh):
    with pytest.raises(ValueError, match="chunksize"):
        mesh.map("test.echo", [1], chunksize=0)


# -- shutting down -------------------------------------------------------------------------------------


def test_nothing_is_taken_after_shutdown(home, backend):
    mesh = MeshExecutor(home=home)
    mesh.shutdown()
    mesh.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        mesh.submit("test.echo", 1)


def test_shutdown_waits_for_what_was_submitted_and_ends_the_thread(home, backend):
    with MeshExecutor(home=home, window=4) as mesh:
        futures = [mesh.submit("test.echo", number) for number in range(100)]

    assert [future.result(timeout=0) for future in futures] == list(range(100))
    assert not mesh._engine._thread.is_alive()


def test_shutdown_without_waiting_lets_work_end_behind_it(home, backend):
    mesh = MeshExecutor(home=home)
    future = mesh.submit("test.hold")
    of(future)

    mesh.shutdown(wait=False)
    assert not future.done()
    backend.release()

    assert future.result(timeout=30) == "released"
    mesh._engine._thread.join(30)
    assert not mesh._engine._thread.is_alive()


def test_shutdown_may_cancel_all_that_has_not_ended(home, backend):
    mesh = MeshExecutor(home=home, window=2)
    futures = [mesh.submit("test.hold") for _ in range(6)]
    until(lambda: len(backend.held) == 2)

    mesh.shutdown(cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    assert (len(backend.seen), backend.held) == (2, {})


def test_a_map_that_outlives_its_executor_gives_what_was_in_flight(home, backend):
    with MeshExecutor(home=home, window=3) as mesh:
        results = mesh.map("test.echo", range(10))

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(results)


def test_a_forgotten_executor_ends_its_thread(home, backend):
    mesh = MeshExecutor(home=home)
    thread, future = mesh._engine._thread, mesh.submit("test.echo", 1)
    del mesh
    gc.collect()

    assert future.result() == 1
    thread.join(30)
    assert not thread.is_alive()


def test_a_callback_may_submit_more_and_shut_down(home, backend):
    mesh, seen = MeshExecutor(home=home), threading.Event()
    more = []

    def on_done(future):
        more.append(mesh.submit("test.echo", 2))
        mesh.shutdown()
        seen.set()

    mesh.submit("test.echo", 1).add_done_callback(on_done)

    assert seen.wait(30) and more[0].result() == 2


def test_more_than_may_wait_is_refused(home, backend, monkeypatch):
    monkeypatch.setattr(executor_module, "WAITING_MAX", 3)
    with MeshExecutor(home=home, window=1) as mesh:
        of(mesh.submit("test.hold"))
        futures = [mesh.submit("test.echo", number) for number in range(3)]
        with pytest.raises(Refused, match="use map"):
            mesh.submit("test.echo", 4)
        backend.release()
        assert [future.result() for future in futures] == [0, 1, 2]


# -- with asyncio, and without a daemon ----------------------------------------------------------------


async def test_an_event_loop_runs_functions_in_it(mesh, code, backend):
    loop = asyncio.get_running_loop()

    assert await loop.run_in_executor(mesh, code.echo, 3) == 3
    waiting = loop.run_in_executor(mesh, code.hold)
    while not backend.held:
        await asyncio.sleep(0.001)
    waiting.cancel()
    while backend.held:
        await asyncio.sleep(0.001)
    assert [each.status for each in backend.outcomes.values()] == ["done", "cancelled"]


def test_a_daemon_that_restarts_costs_time_not_what_it_had_accepted(home, backend, tmp_path):
    """Accepted by the first daemon, held; the second, which knows it, settles it."""
    second = Backend()
    second.answers = backend.answers
    first_home = Home(tmp_path / "other")
    first_home.create()
    first = Backend()
    first.answers = backend.answers
    with MeshExecutorAfter(first_home, first) as (mesh, stop):
        future = mesh.submit("test.hold")
        task = of(future)
        stop()
        second.outcomes[task] = Outcome(0, task, "done", values.encode("kept"))
        with serving(first_home, second):
            assert future.result(timeout=30) == "kept"
            assert mesh.submit("test.echo", 5).result(timeout=30) == 5


def test_what_the_daemon_had_not_accepted_fails_when_it_is_gone(tmp_path, backend):
    home = Home(tmp_path / "other")
    home.create()
    first = Backend()
    first.answers = backend.answers
    with MeshExecutorAfter(home, first) as (mesh, stop):
        assert mesh.submit("test.echo", 1).result() == 1
        stop()
        until(lambda: mesh._engine._mesh._connection.lost)

        error = mesh.submit("test.echo", 2).exception()
        assert type(error) is MeshUnavailable and "no daemon answers" in str(error)


class MeshExecutorAfter:
    """An executor and the way to take its daemon away."""

    def __init__(self, home, backend):
        self.daemon = serving(home, backend)
        self.home = home

    def __enter__(self):
        self.daemon.__enter__()
        self.mesh = MeshExecutor(home=self.home)
        return self.mesh, lambda: self.daemon.__exit__(None, None, None)

    def __exit__(self, *exc):
        self.mesh.shutdown()


def test_a_program_that_ends_without_shutdown_ends_its_work_first(home, backend):
    """As with a pool of threads: the interpreter waits."""
    import subprocess

    program = (
        "import sys\n"
        "from edge_node.client import MeshExecutor\n"
        f"mesh = MeshExecutor(home={str(home.path)!r}, window=1)\n"
        "for number in range(20):\n"
        "    mesh.submit('test.echo', number).add_done_callback(lambda f: print(f.result(), flush=True))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number) for number in range(20)]
