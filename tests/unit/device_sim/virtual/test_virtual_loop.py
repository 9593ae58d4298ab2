"""asyncio on the world's agenda: its primitives work, time is the world's, and no error is swallowed."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import socket

import pytest

from device_sim.virtual.guard import LeakedOutside
from device_sim.virtual.loop import GRACE_NS, Stuck, VirtualLoop
from device_sim.virtual.world import MS, SECOND, World


def made(seed: int = 1, **how) -> tuple[World, VirtualLoop]:
    world = World(seed)
    return world, VirtualLoop(world, **how)


def ran(main, seed: int = 1):
    """Returns: what ``main()`` returned, and the world after it."""
    world, loop = made(seed)
    return loop.run_until_complete(main()), world


class Broke(Exception):
    pass


async def breaks(after_s: float = 0.0) -> None:
    await asyncio.sleep(after_s)
    raise Broke("it")


# ── time ──


def test_a_sleep_takes_exactly_its_virtual_time():
    async def main():
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        await asyncio.sleep(86_400.25)
        return loop.time() - before_s

    slept_s, world = ran(main)

    assert slept_s == 86_400.25
    assert world.now_ns == 86_400_250_000_000


def test_sleepers_wake_in_the_order_of_their_moments_and_equal_ones_in_that_of_asking():
    woken = []

    async def sleeper(name, delay_s):
        await asyncio.sleep(delay_s)
        woken.append(name)

    async def main():
        await asyncio.gather(*(sleeper(*each) for each in [("c", 3), ("a1", 1), ("b", 2), ("a2", 1)]))

    ran(main)

    assert woken == ["a1", "a2", "b", "c"]


def test_a_timer_is_never_called_before_its_time_says_so():
    """A deadline that is compared in seconds must not spin at the nanosecond before it."""
    world, loop = made()
    rng = random.Random(3)
    late = []

    def due(when):
        late.append(loop.time() - when)

    for _ in range(3000):
        when = rng.random() * 10 ** rng.randint(0, 6)
        loop.call_at(when, due, when)
    world.run_until(10**6 * SECOND + SECOND)

    assert len(late) == 3000
    assert min(late) >= 0.0
    assert max(late) < 1e-8


def test_a_wait_shorter_than_a_nanosecond_moves_time():
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(5):
            fired = loop.create_future()
            loop.call_later(1e-12, fired.set_result, None)
            await fired

    _, world = ran(main)

    assert world.now_ns == 5


def test_coroutines_and_callbacks_of_the_agenda_share_one_order():
    world, loop = made()
    seen = []

    async def walker():
        for step in range(3):
            seen.append(("walker", step, world.now_ns))
            await asyncio.sleep(0.01)

    world.at(5 * MS, lambda: seen.append(("agenda", 0, world.now_ns)))
    world.at(10 * MS, lambda: seen.append(("agenda", 1, world.now_ns)))
    loop.create_task(walker())
    world.run_until(SECOND)

    assert seen == [
        ("walker", 0, 0),
        ("agenda", 0, 5 * MS),
        ("agenda", 1, 10 * MS),
        ("walker", 1, 10 * MS),
        ("walker", 2, 20 * MS),
    ]


def test_whoever_steps_the_world_finds_this_loop_running_in_callbacks_only():
    world, loop = made()
    found = []

    async def look():
        found.append(asyncio.get_running_loop())

    loop.create_task(look())
    world.soon(lambda: found.append(asyncio._get_running_loop()))
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    world.run_until(1)
    with loop.running():
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()

    assert found == [loop, None]
    assert not loop.is_running()


async def test_a_world_can_be_stepped_inside_a_real_loop():
    """A progress screen runs on the machine's loop and steps the world between its frames."""
    real = asyncio.get_running_loop()
    world, loop = made()
    found = []

    async def look():
        found.append(asyncio.get_running_loop())
        await asyncio.sleep(1000)
        found.append(asyncio.get_running_loop())

    loop.create_task(look())
    world.run_until(2000 * SECOND)

    assert found == [loop, loop]
    assert asyncio.get_running_loop() is real


def test_cancelled_timers_do_not_fire():
    world, loop = made()
    fired = []
    kept = loop.call_later(1, fired.append, "kept")
    dropped = loop.call_later(1, fired.append, "dropped")
    soon = loop.call_soon(fired.append, "soon")

    dropped.cancel()
    soon.cancel()
    dropped.cancel()
    world.run_until(2 * SECOND)
    kept.cancel()

    assert fired == ["kept"]
    assert dropped.cancelled() and soon.cancelled()
    assert kept.when() == 1.0


def test_callbacks_run_in_the_context_they_were_asked_for_in():
    world, loop = made()
    mark = contextvars.ContextVar("mark", default="outer")
    seen = []
    context = contextvars.copy_context()
    context.run(mark.set, "given")

    loop.call_soon(lambda: seen.append(mark.get()), context=context)
    loop.call_soon(lambda: (mark.set("inner"), seen.append(mark.get())))
    loop.call_soon(lambda: seen.append(mark.get()))
    world.run_until(0)

    assert seen == ["given", "inner", "outer"]


# ── asyncio's primitives ──


def test_a_timeout_ends_what_takes_too_long_at_its_moment():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await asyncio.sleep(3)
        assert loop.time() == 2.5
        async with asyncio.timeout(2.5):
            await asyncio.sleep(1)
        async with asyncio.timeout(None):
            await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 1)
        assert await asyncio.wait_for(asyncio.sleep(1, "done"), 2) == "done"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(0)
        return loop.time()

    assert ran(main)[0] == 6.5


def test_events_queues_and_locks_hand_over_in_virtual_time():
    async def main():
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        go, lock, taken = asyncio.Event(), asyncio.Lock(), []

        async def producer():
            await go.wait()
            for number in range(5):
                await queue.put(number)

        async def consumer():
            for _ in range(5):
                async with lock:
                    taken.append((await queue.get(), loop.time()))
                    await asyncio.sleep(1)
                    queue.task_done()

        async with asyncio.TaskGroup() as group:
            group.create_task(producer())
            group.create_task(consumer())
            loop.call_later(10, go.set)
        await queue.join()
        return taken

    assert ran(main)[0] == [(0, 10.0), (1, 11.0), (2, 12.0), (3, 13.0), (4, 14.0)]


def test_a_group_cancels_the_others_when_one_fails():
    ended = []

    async def waits():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.append(asyncio.get_running_loop().time())
            raise

    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(waits())
                group.create_task(breaks(3))
                group.create_task(waits())
        return [type(each) for each in caught.value.exceptions]

    assert ran(main)[0] == [Broke]
    assert ended == [3.0, 3.0]


def test_waiting_for_the_first_of_several_tells_which():
    async def main():
        slow, fast = asyncio.create_task(asyncio.sleep(9, "slow")), asyncio.create_task(asyncio.sleep(1, "f"))
        done, pending = await asyncio.wait({slow, fast}, return_when=asyncio.FIRST_COMPLETED)
        slow.cancel()
        return done == {fast}, pending == {slow}

    assert ran(main)[0] == (True, True)


def test_the_runner_of_the_standard_library_can_drive_it():
    world = World(1)

    async def main():
        await asyncio.sleep(5)
        await asyncio.to_thread(len, "")
        return "done"

    with asyncio.Runner(loop_factory=functools.partial(VirtualLoop, world)) as runner:
        assert runner.run(main()) == "done"
        loop = runner.get_loop()

    assert world.now_ns == 5 * SECOND
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)


def test_generators_that_nobody_read_to_the_end_are_closed():
    closed = []

    async def numbers(name):
        try:
            while True:
                yield name
        finally:
            closed.append(name)

    async def main():
        kept = [numbers("a"), numbers("b")]
        for each in kept:
            await anext(each)
        lost = numbers("lost")
        await anext(lost)
        del lost
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert closed == ["lost"]
        await asyncio.get_running_loop().shutdown_asyncgens()

    ran(main)

    assert closed == ["lost", "a", "b"]


# ── what would be a thread ──


def test_a_thread_is_a_call_in_virtual_time_on_the_same_thread():
    import threading

    world, loop = made(executor_ns=lambda: 7 * MS)

    def work(number, *, plus):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return number + plus, threading.get_ident(), world.now_ns

    async def main():
        return await asyncio.to_thread(work, 40, plus=2)

    assert loop.run_until_complete(main()) == (42, threading.get_ident(), 7 * MS)


def test_what_a_function_raises_in_an_executor_reaches_who_waits():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await loop.run_in_executor(None, next, iter(()))

    ran(main)


def test_giving_up_on_a_thread_does_not_stop_it():
    _, loop = made(executor_ns=lambda: SECOND)
    called = []

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.to_thread(called.append, "written")
        await asyncio.sleep(1)

    loop.run_until_complete(main())

    assert called == ["written"]


# ── errors ──


def test_a_task_that_nobody_asks_about_ends_the_world_with_its_exception():
    world, loop = made()
    task = loop.create_task(breaks(2), name="lonely")

    with pytest.raises(Broke) as caught:
        world.run_until(100 * SECOND)

    assert world.now_ns == 2 * SECOND + GRACE_NS
    assert caught.value.__notes__ == ["nobody asked how lonely ended"]
    assert task.done()


def test_a_failure_that_is_asked_for_in_time_is_no_ones_business_else():
    async def main():
        task = asyncio.create_task(breaks())
        await asyncio.sleep(GRACE_NS / SECOND / 2)
        with pytest.raises(Broke):
            await task
        await asyncio.sleep(10)

    assert ran(main)[0] is None


def test_a_failure_just_before_the_end_is_not_lost():
    async def main():
        asyncio.get_running_loop().create_task(breaks())
        await asyncio.sleep(0.01)

    with pytest.raises(Broke):
        ran(main)


def test_what_a_callback_raises_comes_out_of_the_step():
    world, loop = made()
    loop.call_later(1, lambda: 1 // 0)
    loop.call_later(2, world.note, "still", "here")

    with pytest.raises(ZeroDivisionError):
        world.run_until(5 * SECOND)
    world.run_until(5 * SECOND)

    assert world.notes == 1


def test_what_is_reported_to_the_loop_comes_out_of_the_next_step():
    world, loop = made()
    loop.call_exception_handler({"message": "somebody's story", "exception": Broke("it")})
    loop.call_exception_handler({"message": "no exception"})

    with pytest.raises(Broke) as caught:
        world.step()
    with pytest.raises(RuntimeError, match="no exception"):
        world.step()

    assert caught.value.__notes__ == ["somebody's story"]


def test_a_future_whose_exception_was_never_looked_at_is_told():
    world, loop = made()
    future = loop.create_future()
    future.set_exception(Broke("it"))

    del future

    with pytest.raises(Broke):
        world.step()


def test_a_handler_of_ones_own_takes_the_reports():
    world, loop = made()
    told = []
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))

    loop.call_exception_handler({"message": "seen"})

    assert told == ["seen"]
    assert not world.step()


def test_waiting_for_what_can_never_come_is_an_error_that_names_who_waits():
    _, loop = made()

    async def waits():
        await asyncio.Event().wait()

    loop.create_task(waits(), name="b-forever")
    task = loop.create_task(waits(), name="a-forever")

    with pytest.raises(
        Stuck, match="nothing is left to happen and a-forever is not done: waiting: a-forever"
    ):
        loop.run_until_complete(task)
    loop.close()


def test_a_run_that_is_not_over_by_its_end_is_an_error():
    world, loop = made()

    async def ticks():
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Stuck, match="task-1 is not done at 10500000000 ns"):
        loop.run_until_complete(ticks(), until_ns=10_500 * MS)
    assert world.now_ns == 10 * SECOND
    loop.close()


def test_a_loop_that_never_lets_time_pass_is_an_error(monkeypatch):
    monkeypatch.setattr("device_sim.virtual.loop.STEPS_A_MOMENT_MAX", 1000)
    _, loop = made()

    async def spins():
        await asyncio.sleep(1)
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="time stands still at 1000000000 ns: waiting: task-1"):
        loop.run_until_complete(spins())
    loop.close()


def test_it_cannot_be_run_from_inside_itself():
    async def main():
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError, match="running"):
            asyncio.get_running_loop().run_until_complete(future)

    ran(main)


@pytest.mark.parametrize(
    "reach",
    [
        lambda loop: loop.create_connection(asyncio.Protocol, "127.0.0.1", 1883),
        lambda loop: loop.create_datagram_endpoint(asyncio.DatagramProtocol),
        lambda loop: loop.getaddrinfo("localhost", 1),
        lambda loop: loop.add_reader(0, print),
        lambda loop: loop.sock_connect(socket.socket, ("127.0.0.1", 1)),
        lambda loop: loop.subprocess_exec(asyncio.SubprocessProtocol, "true"),
        lambda loop: loop.add_signal_handler(15, print),
        lambda loop: loop.set_default_executor(None),
    ],
)
def test_there_is_no_outside(reach):
    _, loop = made()

    with pytest.raises(LeakedOutside, match="virtual world was left"):
        reach(loop)


def test_every_method_of_asyncios_loop_is_either_here_or_refused():
    """A new Python's new method must not fall through to NotImplementedError."""
    ours = {name for kind in VirtualLoop.__mro__[:-2] for name in vars(kind)}
    theirs = {name for name in vars(asyncio.AbstractEventLoop) if not name.startswith("_")}

    assert VirtualLoop.__mro__[1] is asyncio.AbstractEventLoop
    assert theirs - set(vars(VirtualLoop)) == set()
    assert ours >= theirs


def test_two_runs_of_one_seed_leave_the_same_trace():
    def once() -> str:
        world, loop = made(seed=9)

        async def member(name):
            rng = world.rng(name)
            task = asyncio.current_task()
            for _ in range(50):
                await asyncio.sleep(rng.expovariate(1.0))
                world.note(name, "beat", task.get_name())

        async def main():
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(member(f"n{number}"))

        loop.run_until_complete(main())
        return world.trace_hash()

    assert once() == once()
