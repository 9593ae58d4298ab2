"""The holder: what a queue is worth once more is known, and results that do not arrive at once."""

from __future__ import annotations

from edge_node.scheduling.estimates import Estimates
from edge_node.tasks.events import Effect, Run, Tell, WorkDone
from edge_node.tasks.holder import LARGE_BYTES, Holder
from edge_node.wire.messages import Accept, Offer, Progress, Refuse, Result

MS = 1_000_000
SECOND = 1_000_000_000
LEASE_MS = 3000


class Counted(Estimates):
    asked = 0

    def service(self, function: str, place: str, speed: float, kind: str = "") -> tuple[float, float]:
        self.asked += 1
        return super().service(function, place, speed, kind)


class Bench:
    """A holder with one worker, the time, and how much its owners have not taken."""

    def __init__(self, queue_s_max: float = 30.0) -> None:
        self.estimates = Counted()
        self.untaken: dict[str, int] = {}
        self.holder = Holder(
            "gateway", self.estimates, workers=1, speed=1.0, queue_tasks_max=4096, queue_s_max=queue_s_max,
            untaken=lambda owner: self.untaken.get(owner, 0),
        )  # fmt: skip
        self.now_ns = SECOND

    def offer(self, task: str, attempt: int = 1, peer: str = "pi-1", digest: bytes = b"d" * 32, **more):
        out: list[Effect] = []
        offer = Offer(task, attempt, more.pop("function", "f.slow"), digest, LEASE_MS, None, b"in", **more)
        self.holder.offer(self.now_ns, peer, offer, out)
        self.holder.release(self.now_ns, out)
        self.holder.check()
        return out

    def done(self, task: str, attempt: int = 1, **more):
        out: list[Effect] = []
        more = {"status": "done", "output": b"out", "started_at_ms": 1, **more}
        self.holder.done(self.now_ns, WorkDone("", task, attempt, **more), out)
        self.holder.release(self.now_ns, out)
        self.holder.check()
        return out

    def wait(self, ns: int):
        self.now_ns += ns
        out: list[Effect] = []
        self.holder.tick(self.now_ns, out)
        self.holder.check()
        return out


def told(effects, kind):
    return [(e.peer, e.message) for e in effects if isinstance(e, Tell) and isinstance(e.message, kind)]


class TestWhatTheQueueIsWorth:
    def test_the_first_run_of_an_unknown_function_corrects_the_whole_queue(self):
        bench = Bench()
        for n in range(51):
            bench.offer(f"x{n}")
        assert round(bench.holder.backlog_s(bench.now_ns), 3) == 51 * 0.02

        bench.now_ns += 2 * SECOND
        bench.done("x0", run_us=2_000_000)

        assert round(bench.holder.backlog_s(bench.now_ns), 3) == 50 * 2.0
        assert bench.holder.load(bench.now_ns).backlog_ms == 100_000
        ((_, refuse),) = told(bench.offer("x99"), Refuse)
        assert refuse.reason == "queue full", "thirty seconds are the longest wait that is promised"

    def test_what_peers_measured_corrects_it_too(self):
        bench = Bench()
        for n in range(11):
            bench.offer(f"x{n}")

        bench.estimates.observe("f.slow", "pi-3", 2.0, 1.0, 3)
        bench.holder.learned("f.slow")

        queued_s = bench.holder.backlog_s(bench.now_ns) - 0.02  # the one that runs is believed as it began
        assert round(queued_s, 3) == 10 * 2.0
        assert round(bench.holder.wait_s(bench.now_ns), 1) == 20.0
        bench.holder.check()

    def test_what_was_counted_at_one_price_leaves_the_queue_at_another(self):
        bench = Bench()
        for n in range(4):
            bench.offer(f"x{n}", function=f"f.{n % 2}")
        bench.done("x0", run_us=3_000_000)
        out: list[Effect] = []
        for n in range(1, 4):
            bench.holder.cancel("pi-1", f"x{n}", 1, out)
        bench.done("x1")

        assert bench.holder.idle
        assert bench.holder.backlog_s(bench.now_ns) == 0.0

    def test_what_one_run_teaches_costs_the_same_for_a_long_queue(self):
        asked = []
        for queued in (10, 2000):
            bench = Bench(queue_s_max=1e6)
            for n in range(queued):
                bench.offer(f"x{n}")
            bench.estimates.asked = 0
            bench.done("x0", run_us=700_000)
            asked.append(bench.estimates.asked)

        assert asked[0] == asked[1] <= 4

    def test_a_function_that_turned_out_tiny_is_handed_over_by_the_handful(self):
        """It was unknown when it was queued; a worker must not wait a turn for each."""
        bench = Bench()
        for n in range(20):
            bench.offer(f"x{n}")

        effects = bench.done("x0", run_us=100)

        assert len([e for e in effects if isinstance(e, Run)]) > 1


class TestResultsUnderWay:
    def test_the_lease_is_renewed_until_a_large_result_has_been_taken(self):
        bench = Bench()
        bench.offer("x1")
        bench.untaken["pi-1"] = 60_000
        assert told(bench.done("x1", output=bytes(LARGE_BYTES + 1)), Result)

        for _ in range(5):
            ((owner, progress),) = told(bench.wait(LEASE_MS * MS // 3), Progress)
            assert (owner, progress.task, progress.attempt, progress.running) == ("pi-1", "x1", 1, True)
        bench.untaken["pi-1"] = 0

        assert bench.wait(LEASE_MS * MS // 3) == []
        assert bench.holder.deadline_ns() is None

    def test_it_is_not_renewed_for_ever(self):
        bench = Bench()
        bench.offer("x1")
        bench.untaken["pi-1"] = 60_000
        bench.done("x1", log=bytes(LARGE_BYTES + 1))

        beats = [told(bench.wait(SECOND), Progress) for _ in range(200)]

        assert len([one for one in beats if one]) == 119
        assert bench.holder.deadline_ns() is None

    def test_a_small_result_travels_as_fast_as_its_renewal_would(self):
        bench = Bench()
        bench.offer("x1")
        bench.untaken["pi-1"] = 60_000
        bench.done("x1")

        assert bench.holder.deadline_ns() is None

    def test_an_owner_that_has_it_says_so_by_a_cancel(self):
        bench = Bench()
        bench.offer("x1")
        bench.untaken["pi-1"] = 60_000
        bench.done("x1", output=bytes(LARGE_BYTES + 1))

        bench.holder.cancel("pi-2", "x1", 1, [])
        assert told(bench.wait(SECOND), Progress)
        bench.holder.cancel("pi-1", "x1", 1, [])

        assert bench.wait(10 * SECOND) == []


class TestResultsKept:
    def test_an_owner_that_restarted_gets_the_result_and_not_the_work(self):
        bench = Bench()
        bench.offer("x1", 1)
        bench.done("x1")

        ((owner, result),) = told(bench.offer("x1", 17), Result)

        assert (owner, result.attempt, result.status, result.output) == ("pi-1", 17, "done", b"out")

    def test_what_was_of_one_attempt_alone_is_done_again(self):
        for status, died in (("failed", True), ("cancelled", False)):
            bench = Bench()
            bench.offer("x1", 1)
            bench.done("x1", status=status, worker_died=died)
            assert [e.attempt for e in bench.offer("x1", 2) if isinstance(e, Run)] == [2]

    def test_a_result_is_told_to_its_owner_alone(self):
        bench = Bench()
        bench.offer("x1", 1)
        bench.done("x1")

        assert told(bench.offer("x1", 1, peer="pi-2"), Result) == []

    def test_other_code_under_the_same_id_is_other_work(self):
        bench = Bench()
        bench.offer("x1", 1)
        bench.done("x1")

        assert told(bench.offer("x1", 2, digest=b"e" * 32), Result) == []

    def test_an_older_attempt_is_not_answered_with_a_newer_result(self):
        bench = Bench()
        bench.offer("x1", 3)
        bench.done("x1", 3)

        assert told(bench.offer("x1", 2), Result) == []

    def test_a_cancel_that_came_first_keeps_its_offer_from_running(self):
        bench = Bench()
        out: list[Effect] = []
        bench.holder.cancel("pi-1", "x1", 2, out)
        assert out == []

        assert [m.reason for _, m in told(bench.offer("x1", 2), Refuse)] == ["cancelled"]
        assert told(bench.offer("x1", 3), Refuse) == []
        assert [m.attempt for _, m in told(bench.wait(SECOND), Accept)] == [3]


def test_an_owner_that_lost_its_records_hears_the_trace_of_its_task():
    bench = Bench()
    bench.offer("t1", trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")

    (held,) = bench.holder.held_of(bench.now_ns, "pi-1", "").jobs
    assert held.trace == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
