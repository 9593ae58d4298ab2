"""A machine's processor in virtual time: who runs when, how runs end, what the event loop takes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.virtual.clocks import VirtualClock
from device_sim.virtual.evidence import Ran
from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.processor import Costs, Processor
from device_sim.virtual.services import Constant, Exponential, Outputs, Service
from device_sim.virtual.world import MS, SECOND, WALL_MS, World
from edge_node.functions import values
from edge_node.functions.invocation import Completion, Invocation, TaskError
from security.errors import BadInput

FREE = Costs(dispatch_ns=0, spawn_ns=0, kill_ns=0, turn_ns=0, event_ns=0, scheduling_ns_max=0)
DIGEST = hashlib.sha256(b"bundle").digest()
SERVICES = {
    "f.ten": Service(Constant(10)),
    "f.hundred": Service(Constant(100)),
    "f.hour": Service(Constant(3_600_000)),
    "f.imports": Service(Constant(10), import_ms=500),
    "f.imports_long": Service(Constant(10), import_ms=40_000),
    "f.by_size": Service(Constant(0), byte_ns=1000.0),
    "f.poison": Service(Constant(10), poison=True),
    "f.add": Service(Constant(10), real=lambda a, b=1: a + b),
    "f.large": Service(Constant(10), output_bytes=100_000),
    "f.random": Service(Exponential(20)),
}


class Machine:
    """A processor, and everything it said with its moment in milliseconds."""

    def __init__(self, *, seed=1, workers=2, cores=2, speed=1.0, costs=FREE, life=0):
        self.world = World(seed)
        self.said: list[tuple[float, str, str]] = []
        self.done: dict[tuple[str, int], Completion] = {}
        self.ran: list[Ran] = []
        self.processor = Processor(
            self.world,
            "pi-1",
            speed=speed,
            workers=workers,
            cores=cores,
            clock=VirtualClock(self.world),
            services=SERVICES,
            outputs=Outputs(),
            on_done=self.on_done,
            on_started=lambda task, attempt, pid: self.say("started", task),
            ran=self.ran.append,
            costs=costs,
            life=life,
        )

    def say(self, what, task):
        self.said.append((self.world.now_ns / MS, what, task))

    def on_done(self, done):
        assert (done.task, done.attempt) not in self.done, "one completion for each"
        self.done[done.task, done.attempt] = done
        self.say(done.status, done.task)

    def start(self, task, function, *args, attempt=1, **more):
        input_ = values.encode_call(args, {})
        self.processor.start(Invocation(task, attempt, f"f.{function}", DIGEST, "", input_, **more))

    def run(self, seconds=100):
        self.world.run_until(self.world.now_ns + round(seconds * SECOND))
        return self


def test_runs_begin_first_in_first_out_as_workers_become_free():
    machine = Machine()

    for task in "abcd":
        machine.start(task, "ten")
    machine.run()

    assert machine.said == [
        (0, "started", "a"),
        (0, "started", "b"),
        (10, "done", "a"),
        (10, "done", "b"),
        (10, "started", "c"),
        (10, "started", "d"),
        (20, "done", "c"),
        (20, "done", "d"),
    ]


def test_nothing_starts_before_the_caller_s_turn_ends_or_a_worker_is_there():
    machine = Machine(costs=Costs(dispatch_ns=0, spawn_ns=150 * MS))

    machine.start("a", "ten")
    machine.processor.flush()
    assert machine.said == []
    machine.run(1)
    machine.start("b", "ten")
    assert machine.said == [(150, "started", "a"), (160, "done", "a")]
    machine.processor.flush()
    assert machine.said[2:] == [(1000, "started", "b")]
    machine.run(1)

    assert machine.said[3:] == [(1010, "done", "b")]


def test_a_completion_says_what_the_pool_s_would():
    machine = Machine(speed=0.25)

    machine.start("a", "add", 40, 2, attempt=3)
    machine.run()

    assert machine.done["a", 3] == Completion(
        "a", 3, "done", values.encode(42), None, b"", 1001, WALL_MS, WALL_MS + 40, 40_000, 40_000
    )
    assert machine.ran == [Ran(0, 40 * MS, "pi-1", "a", 3, "done")]


def test_a_slow_board_takes_longer_over_everything():
    machine = Machine(speed=0.5, costs=Costs(dispatch_ns=MS, spawn_ns=100 * MS))

    machine.start("a", "by_size", b"x" * 9989)
    machine.start("b", "imports")
    machine.run()

    size = len(values.encode_call((b"x" * 9989,), {}))
    assert machine.said == [
        (200, "started", "a"),
        (200, "started", "b"),
        (202 + size * 0.002, "done", "a"),
        (202 + 1000 + 20, "done", "b"),
    ]


def test_code_is_imported_once_on_each_worker():
    machine = Machine(workers=1, cores=1)

    machine.start("a", "imports")
    machine.start("b", "imports")
    machine.run()

    assert [moment for moment, what, _ in machine.said if what == "done"] == [510, 520]
    assert machine.done["a", 1].run_us == 10_000  # importing is not running


def test_a_run_that_takes_too_long_ends_as_in_the_real_pool_and_its_worker_is_replaced():
    machine = Machine(workers=1, costs=Costs(dispatch_ns=0, spawn_ns=200 * MS))

    machine.start("a", "hour", timeout_s=1.5)
    machine.start("b", "ten")
    machine.run()

    done = machine.done["a", 1]
    assert done.status == "failed"
    assert done.error == TaskError("timeout", "TimeoutError", "took longer than 1.5 s")
    assert done.run_us == 1_525_000 and done.cpu_us == 0 and not done.worker_died
    assert machine.said == [
        (200, "started", "a"),
        (1725, "failed", "a"),
        (1925, "started", "b"),
        (1935, "done", "b"),
    ]
    assert machine.done["b", 1].pid != done.pid


def test_a_run_that_ends_before_the_pool_looks_has_ended():
    machine = Machine()

    machine.start("a", "hundred", timeout_s=0.09)
    machine.start("b", "hundred", timeout_s=0.07)
    machine.run()

    assert machine.done["a", 1].status == "done"
    assert machine.done["b", 1].error.kind == "timeout"


def test_an_import_without_end_is_not_a_run_that_took_too_long():
    machine = Machine()

    machine.start("a", "imports_long", timeout_s=1)
    machine.run()

    assert machine.done["a", 1].error == TaskError(
        "import", "TimeoutError", "its import took longer than 30 s"
    )
    assert machine.said[-1] == (30_025, "failed", "a")


def test_what_waits_is_cancelled_at_once_and_what_runs_with_its_worker():
    machine = Machine(workers=1, costs=Costs(dispatch_ns=0, spawn_ns=100 * MS, kill_ns=2 * MS))
    machine.run(1)
    machine.start("runs", "hour")
    machine.start("waits", "ten")
    machine.start("stays", "ten")
    machine.run(1)

    machine.processor.cancel("waits", 1)
    machine.processor.cancel("runs", 1)
    machine.processor.cancel("runs", 1)
    machine.processor.cancel("runs", 2)
    machine.processor.cancel("unknown", 1)
    machine.run()

    assert machine.said[1:] == [
        (2000, "cancelled", "waits"),
        (2002, "cancelled", "runs"),
        (2102, "started", "stays"),
        (2112, "done", "stays"),
    ]
    assert machine.done["waits", 1].pid == 0
    assert machine.done["runs", 1].error is None and not machine.done["runs", 1].worker_died


def test_a_poisoned_function_costs_its_worker_and_only_its_own_run_is_blamed():
    machine = Machine(workers=2)

    machine.start("bad", "poison")
    machine.start("good", "hundred")
    machine.start("next", "ten")
    machine.run()

    assert machine.done["bad", 1].error == TaskError(
        "exit", "SIGSEGV", "its worker process was ended by SIGSEGV"
    )
    assert machine.done["bad", 1].worker_died
    assert machine.done["good", 1].status == machine.done["next", 1].status == "done"


def test_a_worker_that_the_kernel_ends_takes_its_run_along():
    machine = Machine(workers=2, costs=Costs(dispatch_ns=0, spawn_ns=100 * MS, kill_ns=0))
    assert not machine.processor.kill_worker()
    machine.run(1)
    machine.start("a", "hour")
    machine.run(1)

    assert machine.processor.kill_worker()
    assert machine.processor.kill_worker(0)
    assert not machine.processor.kill_worker(7)
    machine.run(0.05)
    assert machine.processor.ready < 2
    machine.run(1)

    assert machine.done["a", 1].error.type == "SIGKILL"
    assert machine.done["a", 1].worker_died
    assert machine.processor.ready == 2
    machine.start("b", "ten")
    machine.start("c", "ten")
    machine.run()
    assert machine.done["b", 1].ended_at_ms == machine.done["c", 1].ended_at_ms


def test_what_a_dying_worker_had_not_begun_is_run_by_the_next_one():
    """As in the real pool: it lay in the pipe of a worker that was dead already."""
    machine = Machine(workers=1, costs=Costs(dispatch_ns=MS, spawn_ns=100 * MS, kill_ns=2 * MS))
    machine.run(1)
    for task in "ab":
        machine.start(task, "ten")
    machine.processor.flush()

    assert machine.processor.kill_worker()
    assert not machine.processor.kill_worker()
    machine.run()

    assert machine.said == [
        (1000, "started", "a"),
        (1102, "started", "a"),
        (1113, "done", "a"),
        (1113, "started", "b"),
        (1124, "done", "b"),
    ]
    assert [ran.task for ran in machine.ran] == ["a", "b"]


def test_cancelling_what_a_dying_worker_ran_cancels_it():
    machine = Machine(workers=1, costs=Costs(dispatch_ns=MS, kill_ns=2 * MS))
    machine.run(1)
    machine.start("a", "hour")
    machine.processor.flush()

    machine.processor.kill_worker()
    machine.processor.cancel("a", 1)
    machine.run()

    assert machine.said == [(1000, "started", "a"), (1002, "cancelled", "a")]


def test_a_crash_leaves_no_completion_and_says_what_was_killed():
    machine = Machine()
    for task in "abc":
        machine.start(task, "hour")
    machine.run(1)

    machine.processor.crash()
    machine.processor.crash()
    machine.run()

    assert machine.done == {}
    assert machine.ran == [Ran(0, SECOND, "pi-1", task, 1, "killed") for task in "ab"]
    assert machine.world.next_ns is None, "nothing of it is left on the agenda"
    with pytest.raises(AssertionError):
        machine.start("d", "ten")


def test_the_port_s_run_ends_it_when_cancelled():
    machine = Machine()
    loop = VirtualLoop(machine.world)
    task = loop.create_task(machine.processor.run())
    machine.start("a", "hour")
    machine.run(1)

    task.cancel()
    machine.run()

    assert task.cancelled()
    assert [ran.status for ran in machine.ran] == ["killed"]


def test_what_a_real_function_raises_becomes_data():
    machine = Machine()

    machine.start("a", "add", 1, "x")
    machine.start("b", "add", 1, "x")
    machine.processor.start(Invocation("c", 1, "f.add", DIGEST, "", b"\xc1"))
    machine.run()

    assert machine.done["a", 1].error.kind == "raised"
    assert machine.done["a", 1].error.type == "TypeError"
    assert machine.done["a", 1].error == machine.done["b", 1].error
    assert machine.done["c", 1].error.kind == "arguments"


def test_an_output_beyond_its_limit_is_refused():
    machine = Machine()

    machine.start("a", "large", output_bytes_max=99_000)
    machine.start("b", "large")
    machine.run()

    assert machine.done["a", 1].error == TaskError("output", "", "returned 100 kB, limit 99 kB")
    assert 99_990 <= len(machine.done["b", 1].output) <= 100_000


def test_a_function_without_a_model_is_the_scenario_s_mistake():
    machine = Machine()

    machine.start("a", "unheard_of")

    with pytest.raises(BadInput, match=r"no service model for 'f.unheard_of': known: f.add, f.by_size"):
        machine.run()


def test_more_workers_than_cores_share_them():
    machine = Machine(workers=4, cores=2)

    for task in "abcd":
        machine.start(task, "hundred")
    machine.run()

    assert sum(ran.at_ns - ran.started_ns for ran in machine.ran) == 100 * MS * (1 + 1 + 1.5 + 2)


# ── the event loop ──


def test_a_turn_waits_for_the_one_before_it():
    machine = Machine(costs=Costs(turn_ns=MS, event_ns=MS, scheduling_ns_max=0), speed=0.5)
    processor = machine.processor

    assert processor.turn_at_ns() == 0
    assert processor.spend_turn(4) == 10 * MS
    assert processor.turn_at_ns() == 10 * MS
    assert processor.turn_delay_ns(1) == 14 * MS
    machine.run(1)
    assert processor.turn_delay_ns(0) == 2 * MS
    assert processor.turns_ns == 16 * MS


def test_events_that_join_a_turn_make_it_longer_and_are_no_turns_of_their_own():
    machine = Machine(costs=Costs(turn_ns=MS, event_ns=MS, scheduling_ns_max=0), speed=0.5)
    processor = machine.processor

    assert processor.turn_delay_ns(1) == 4 * MS
    processor.spend_events(3)

    assert processor.turns_ns == processor.turn_at_ns() == 10 * MS


def test_a_node_whose_cores_all_work_is_late_with_its_turns():
    machine = Machine(workers=2, cores=2, costs=Costs(dispatch_ns=0, spawn_ns=0))
    idle = [machine.processor.turn_at_ns() - machine.world.now_ns for _ in range(100)]
    machine.start("a", "hour", timeout_s=3600)
    machine.run(1)
    half = [machine.processor.turn_at_ns() - machine.world.now_ns for _ in range(100)]
    machine.start("b", "hour", timeout_s=3600)
    machine.run(1)
    full = [machine.processor.turn_at_ns() - machine.world.now_ns for _ in range(1000)]

    assert set(idle) == set(half) == {0}
    assert 0 <= min(full) < max(full) < 4 * MS
    assert 1.8 * MS < sum(full) / 1000 < 2.2 * MS


# ── everything ──

_SCRIPT = st.lists(
    st.one_of(
        st.tuples(
            st.just("start"),
            st.sampled_from(["ten", "hundred", "hour", "poison", "add", "random", "imports"]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("kill"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.integers(0, 300)),
    ),
    max_size=40,
)


def played(script, costs):
    machine = Machine(costs=costs, workers=2)
    started = 0
    for what, how in script:
        if what == "start":
            machine.start(f"t{started}", how, 1, timeout_s=5)
            started += 1
        elif what == "cancel":
            machine.processor.cancel(f"t{how}", 1)
        elif what == "kill":
            machine.processor.kill_worker(how)
        else:
            machine.run(how / 1000)
    machine.run(1000)
    return machine, started


@given(_SCRIPT, st.sampled_from([FREE, Costs()]))
def test_every_invocation_has_one_completion_whatever_happens(script, costs):
    machine, started = played(script, costs)

    assert sorted(machine.done) == sorted((f"t{number}", 1) for number in range(started))
    assert machine.processor.running == machine.processor.queued == 0
    assert machine.processor.ready == 2
    assert played(script, costs)[0].said == machine.said
