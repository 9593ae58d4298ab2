"""The desk, by tables of events and effects."""

from __future__ import annotations

import random

import msgspec
import pytest

from edge_node.backend import FIXES
from edge_node.chronicle.entry import What
from edge_node.tasks.desk import (
    DAY_MS,
    Accepted,
    Append,
    Attempt,
    CancelAsked,
    Closed,
    Desk,
    DeskSettings,
    Drain,
    Drained,
    Explain,
    Fenced,
    Heard,
    MemberInfo,
    Members,
    Noted,
    PeerDown,
    PeerUp,
    Persisted,
    PersistFailed,
    Refusal,
    Reply,
    Rested,
    Run,
    Settled,
    Stop,
    StoreFull,
    Submitted,
    Task,
    Tell,
    WorkDone,
    WorkRefused,
    WorkStarted,
)
from edge_node.tasks.ledger import RESERVED
from edge_node.tasks.rows import row_of
from edge_node.wire.messages import Accept, Beat, Cancel, Load, Offer, Progress, Refuse, Result

MS = 1_000_000
SECOND = 1_000_000_000
WALL = 1_800_000_000_000


class Driver:
    """A desk, and the time at which it is spoken to."""

    def __init__(self, me: str = "pi-1", **settings):
        settings.setdefault("workers", 2)
        self.desk = Desk(me, settings=DeskSettings(**settings), rng=random.Random(1), labels={"site": "a"})
        self.now_ns = SECOND
        self.serial = 0

    def say(self, event):
        effects = self.desk.handle(self.now_ns, WALL, event)
        self.desk.check()
        for effect in effects:
            if isinstance(effect, Append):
                self.serial = effect.serial
        return effects

    def hear(self, peer, message):
        return self.say(Heard(peer, message))

    def wait(self, ns):
        self.now_ns += ns
        effects = self.desk.tick(self.now_ns, WALL)
        self.desk.check()
        for effect in effects:
            if isinstance(effect, Append):
                self.serial = effect.serial
        return effects

    def persist(self):
        return self.say(Persisted(self.serial))

    def submitted(self, task):
        effects = self.say(Submitted(1, task))
        self.persist()
        return effects


def a_task(task_id="t1", **fields):
    fields.setdefault("ttl_ms", 3_600_000)
    return Task(task_id, "room.changes", b"d" * 32, fields.pop("input", b"in"), b"s" * 32, "pi-1", **fields)


def of_type(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def told(effects, kind):
    return [effect.message for effect in of_type(effects, Tell) if isinstance(effect.message, kind)]


def done(task="t1", attempt=1, owner="pi-1", **fields):
    fields = {"output": b"out", "pid": 7, "started_at_ms": 5, "ended_at_ms": 6, "run_us": 900, **fields}
    return WorkDone(owner, task, attempt, fields.pop("status", "done"), **fields)


@pytest.fixture
def desk():
    return Driver()


@pytest.fixture
def forced(desk):
    """Task t1 offered to the gateway and accepted by its owner's disk."""
    desk.say(PeerUp("gateway", 2 * MS))
    desk.submitted(a_task(where="gateway"))
    return desk


class TestAccepting:
    def test_the_work_starts_before_the_fsync_and_the_yes_comes_after_it(self, desk):
        task = a_task()

        effects = desk.say(Submitted(9, task))

        assert of_type(effects, Append) == [Append(1, (Accepted(task),))]
        assert [(run.owner, run.task, run.attempt, run.input) for run in of_type(effects, Run)] == [
            ("pi-1", "t1", 1, b"in")
        ]
        assert of_type(effects, Reply) == []
        assert desk.persist() == [Reply(9, True, "", "t1")]
        assert desk.desk.accepted == 1

    def test_a_result_is_told_once_its_record_is_on_the_disk(self, desk):
        desk.submitted(a_task())

        effects = desk.say(done())

        (append,) = effects
        (closed,) = append.records
        assert isinstance(closed, Closed)
        assert (closed.outcome.status, closed.outcome.output, closed.outcome.place) == (
            "done",
            b"out",
            "local",
        )
        assert closed.outcome.attempts == (Attempt(1, "pi-1", 7, 5, 6, "done"),)
        assert desk.persist() == [Settled("t1", closed.outcome)]
        assert desk.desk.open_tasks == 0
        assert desk.desk.by_place["local"] == 1

    def test_an_accept_that_cannot_be_written_is_taken_back_with_its_work(self, desk):
        desk.say(Submitted(9, a_task()))

        effects = desk.say(PersistFailed(1, "no space left"))

        assert effects == [Reply(9, False, Refusal.STORE_FULL, "t1", "no space left"), Stop("t1", 1)]
        assert desk.desk.open_tasks == 0
        assert desk.say(Submitted(10, a_task("t2")))[0].reason == Refusal.STORE_FULL
        desk.now_ns += 2 * SECOND
        assert of_type(desk.say(Submitted(11, a_task("t3"))), Append), "the door opens again to try"

    def test_an_offer_whose_accept_cannot_be_written_is_cancelled(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))
        desk.say(Submitted(9, a_task(where="gateway")))

        effects = desk.say(PersistFailed(1))

        assert of_type(effects, Tell) == [Tell("gateway", Cancel("t1", 1))]

    def test_a_terminal_record_that_cannot_be_written_is_written_later(self, desk):
        desk.submitted(a_task())
        desk.say(done())
        desk.say(PersistFailed(2))

        (append,) = desk.wait(SECOND)

        assert isinstance(append.records[0], Closed)
        assert len(of_type(desk.persist(), Settled)) == 1

    @pytest.mark.parametrize(
        ("task", "settings", "reason"),
        [
            (a_task(input=b"x" * (8 * 2**20 + 1)), {}, Refusal.TOO_LARGE),
            (a_task(ttl_ms=0), {}, Refusal.OVER_DEADLINE),
            (a_task(ttl_ms=DAY_MS + 1), {}, Refusal.TOO_LONG),
            (a_task(ttl_ms=5001), {"outbox_ms_max": 5000}, Refusal.TOO_LONG),
            (a_task(deadline_ms=-1), {}, Refusal.OVER_DEADLINE),
            (a_task(), {"outbox_tasks_max": 0}, Refusal.OUTBOX_FULL),
            (a_task(), {"outbox_bytes_max": 1}, Refusal.OUTBOX_FULL),
            (a_task(where="pi-9"), {}, Refusal.NO_SUCH_NODE),
            (a_task(labels={"site": "b"}), {}, Refusal.LABELS),
            (a_task(where="gateway", labels={"site": "a"}), {}, Refusal.LABELS),
        ],
    )
    def test_refused_at_the_door(self, task, settings, reason):
        desk = Driver(**settings)
        desk.say(Members((MemberInfo("gateway", {"site": "c"}), MemberInfo("pi-1", {"site": "a"}))))

        (reply,) = desk.say(Submitted(3, task))

        assert (reply.token, reply.accepted, reply.reason) == (3, False, reason)
        assert reply.detail
        assert reply.reason in FIXES
        assert desk.desk.refused == {reason: 1}

    def test_a_full_store_refuses_until_it_is_told_otherwise(self, desk):
        desk.say(StoreFull(True))

        assert desk.say(Submitted(1, a_task()))[0].reason == Refusal.STORE_FULL
        desk.say(StoreFull(False))
        assert of_type(desk.say(Submitted(2, a_task())), Append)

    def test_the_same_task_twice_is_accepted_once(self, desk):
        desk.say(Submitted(1, a_task()))

        assert desk.say(Submitted(2, a_task())) == []
        assert desk.persist() == [Reply(1, True, "", "t1"), Reply(2, True, "", "t1")]
        assert desk.say(Submitted(3, a_task())) == [Reply(3, True, "", "t1")]

    def test_another_task_under_a_known_id_is_refused(self, desk):
        desk.submitted(a_task())

        (reply,) = desk.say(Submitted(2, msgspec.structs.replace(a_task(), input_sha256=b"o" * 32)))

        assert (reply.accepted, reply.reason) == (False, Refusal.DUPLICATE_ID)


class TestOwner:
    def test_an_offer_carries_a_small_input_and_names_a_large_one(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))

        small = told(desk.say(Submitted(1, a_task("t1", where="gateway", deadline_ms=5000))), Offer)[0]
        large = told(desk.say(Submitted(2, a_task("t2", where="gateway", input=b"x" * 16385))), Offer)[0]

        assert (small.input, small.input_digest, small.budget_ms) == (b"in", None, 5000)
        assert (large.input, large.input_digest, large.input_bytes) == (None, b"s" * 32, 16385)
        assert small.lease_ms >= 1000

    def test_the_result_of_the_holder_settles(self, forced):
        (append,) = forced.hear("gateway", Result("t1", 1, "done", b"out", pid=3, started_at_ms=1, run_us=5))

        outcome = append.records[0].outcome
        assert (outcome.status, outcome.place) == ("done", "gateway")
        assert forced.persist() == [Settled("t1", outcome)]
        assert forced.desk.by_place["gateway"] == 1

    def test_a_stranger_cannot_settle(self, forced):
        effects = forced.hear("pi-7", Result("t1", 1, "done", b"forged"))

        assert [type(effect) for effect in effects] == [Explain, Append]
        assert isinstance(effects[1].records[0], Noted)
        assert forced.desk.duplicates == 1
        assert forced.desk.state("t1") == ("placed", "gateway")

    def test_a_second_result_is_a_duplicate_and_is_not_delivered(self, forced):
        forced.hear("gateway", Result("t1", 1, "done", b"out"))
        assert of_type(forced.hear("gateway", Result("t1", 1, "done", b"two")), Settled) == []
        forced.say(Persisted(2))

        effects = forced.hear("gateway", Result("t1", 1, "done", b"three"))

        assert of_type(effects, Settled) == []
        assert forced.desk.duplicates == 2
        assert forced.desk.settled["done"] == 1

    def test_a_raised_exception_fails_at_once(self, forced):
        (append,) = forced.hear("gateway", Result("t1", 1, "failed", error=b"e"))

        assert (append.records[0].outcome.status, append.records[0].outcome.error) == ("failed", b"e")

    def test_a_lapsed_lease_goes_out_again_under_a_number_that_is_on_the_disk(self, forced):
        effects = forced.wait(2 * SECOND)

        (append,) = of_type(effects, Append)
        assert append.records == (
            Fenced("t1", (Attempt(1, "gateway", 0, 0, WALL, "lapsed"), Attempt(2, ""))),
        )
        assert told(effects, Offer) == []
        assert [offer.attempt for offer in told(forced.persist(), Offer)] == [2]
        assert forced.desk.redispatched == 1

    def test_progress_and_accept_renew_the_lease(self, forced):
        for message in (Accept("t1", 1), Progress("t1", 1, True), Progress("t1", 1, True)):
            assert forced.wait(SECOND * 9 // 10) == []
            forced.hear("gateway", message)

        assert forced.wait(SECOND * 9 // 10) == []
        assert of_type(forced.wait(SECOND), Append)

    def test_a_late_result_counts_while_no_newer_attempt_has_gone_out(self, forced):
        forced.wait(2 * SECOND)

        effects = forced.hear("gateway", Result("t1", 1, "done", b"out"))

        outcome = of_type(effects, Append)[0].records[0].outcome
        assert [(attempt.number, attempt.ended_as) for attempt in outcome.attempts] == [(1, "done")]
        assert "lapsed" in outcome.cause

    def test_a_late_result_is_a_duplicate_once_the_next_attempt_is_out(self, forced):
        forced.wait(2 * SECOND)
        forced.persist()

        forced.hear("gateway", Result("t1", 1, "done", b"old"))

        assert forced.desk.duplicates == 1
        assert forced.desk.state("t1") == ("placed", "gateway")

    def test_who_works_in_vain_is_told_so(self, forced):
        assert forced.hear("pi-7", Progress("t1", 1, True)) == [Tell("pi-7", Cancel("t1", 1))]
        assert forced.hear("gateway", Progress("t9", 1, True)) == [Tell("gateway", Cancel("t9", 1))]

    def test_three_worker_deaths_quarantine(self, forced):
        forced.hear("gateway", Result("t1", 1, "died", started_at_ms=1))
        forced.persist()
        forced.hear("gateway", Result("t1", 2, "died", started_at_ms=1))
        forced.persist()

        (append,) = of_type(
            forced.hear("gateway", Result("t1", 3, "died", error=b"e", started_at_ms=1)), Append
        )

        outcome = append.records[0].outcome
        assert (outcome.status, outcome.error) == ("quarantined", b"e")
        assert "gateway, gateway, gateway" in outcome.cause
        assert [attempt.ended_as for attempt in outcome.attempts] == ["worker died"] * 3

    def test_a_task_that_took_a_worker_down_goes_elsewhere_if_it_can(self, desk):
        for peer in ("gateway", "pi-2"):
            desk.say(PeerUp(peer, 2 * MS))
        desk.submitted(a_task())
        places = ["pi-1"]
        desk.say(done(status="failed", worker_died=True))
        effects = desk.persist()
        while offers := of_type(effects, Tell):
            ((peer, offer),) = [(tell.peer, tell.message) for tell in offers]
            places.append(peer)
            desk.hear(peer, Result("t1", offer.attempt, "died", started_at_ms=1))
            effects = desk.persist()

        assert sorted(places) == ["gateway", "pi-1", "pi-2"]
        (settled,) = of_type(effects, Settled)
        assert settled.outcome.status == "quarantined"

    def test_where_there_is_no_other_place_it_is_tried_on_the_same(self, desk):
        desk.submitted(a_task())
        for attempt in (1, 2, 3):
            desk.say(done(attempt=attempt, status="failed", worker_died=True))
            effects = desk.persist()

        assert of_type(effects, Settled)[0].outcome.status == "quarantined"

    def test_a_death_that_is_told_after_its_lease_lapsed_counts(self, forced):
        forced.wait(1000 * SECOND)
        assert [offer.attempt for offer in told(forced.persist(), Offer)] == [2]

        effects = forced.hear("gateway", Result("t1", 1, "died", pid=7, started_at_ms=5, ended_at_ms=6))

        (fence, *_) = [a.records[0] for a in of_type(effects, Append) if isinstance(a.records[0], Fenced)]
        assert fence.attempts[0] == Attempt(1, "gateway", 7, 5, 6, "worker died")
        assert forced.desk.worker_deaths == 1
        assert forced.desk.state("t1") == ("placed", "gateway")
        assert told(forced.hear("gateway", Result("t1", 1, "died", started_at_ms=5)), Cancel) == []
        assert forced.desk.worker_deaths == 1, "once"
        forced.hear("gateway", Result("t1", 2, "died", started_at_ms=5))
        (offer,) = told(forced.persist(), Offer)
        closed = forced.hear("gateway", Result("t1", offer.attempt, "died", started_at_ms=5))
        assert of_type(closed, Append)[0].records[0].outcome.status == "quarantined"

    def test_the_third_death_counts_late_and_recalls_who_has_the_task_now(self, desk):
        for peer in ("gateway", "pi-2"):
            desk.say(PeerUp(peer, 2 * MS))
        kept = [Attempt(n, "pi-9", ended_as="worker died") for n in (1, 2)] + [Attempt(3, "")]
        desk.serial = desk.desk.restore(
            desk.now_ns, WALL, [(a_task(where="gateway", accepted_at_ms=WALL), kept)]
        )[-1].serial
        (first,) = told(desk.persist(), Offer)
        desk.wait(1000 * SECOND)
        (second,) = told(desk.persist(), Offer)

        effects = desk.hear("gateway", Result("t1", first.attempt, "died", started_at_ms=5))

        assert told(effects, Cancel) == [Cancel("t1", second.attempt)]
        closed = [a.records[0] for a in of_type(effects, Append) if isinstance(a.records[0], Closed)]
        assert closed[0].outcome.status == "quarantined"

    def test_a_stranger_cannot_report_a_death(self, forced):
        forced.wait(1000 * SECOND)
        forced.persist()

        forced.hear("pi-7", Result("t1", 1, "died", started_at_ms=5))

        assert forced.desk.worker_deaths == 0

    def test_deaths_outlive_any_number_of_refusals(self, forced):
        forced.hear("gateway", Result("t1", 1, "died", started_at_ms=1))
        (offer,) = told(forced.persist(), Offer)
        fences = []
        for _ in range(120):
            effects = forced.hear("gateway", Refuse("t1", offer.attempt, "queue full", Load(2, 5000)))
            fences += [a.records[0] for a in of_type(effects, Append) if isinstance(a.records[0], Fenced)]
            effects += forced.persist()
            effects += forced.wait(6 * SECOND)
            (offer,) = told(effects, Offer)

        assert len(fences[-1].attempts) <= 34
        assert [a.number for a in fences[-1].attempts if a.ended_as == "worker died"] == [1]

    def test_the_death_of_a_worker_here_is_retried(self, desk):
        desk.submitted(a_task(where="local"))
        desk.say(done(status="failed", worker_died=True))

        runs = of_type(desk.persist(), Run)

        assert [run.attempt for run in runs] == [2]
        assert of_type(desk.say(done(attempt=2)), Append)[0].records[0].outcome.status == "done"

    def test_a_place_that_is_away_is_waited_for(self, desk):
        assert told(desk.submitted(a_task(where="gateway")), Offer) == []
        assert desk.desk.state("t1") == ("waiting", "")

        assert [offer.attempt for offer in told(desk.say(PeerUp("gateway", MS)), Offer)] == [1]

    def test_a_deadline_passes_while_its_place_is_away(self, desk):
        desk.submitted(a_task(where="gateway", deadline_ms=500))

        (append,) = desk.wait(SECOND)

        outcome = append.records[0].outcome
        assert outcome.status == "expired"
        assert outcome.cause == "its deadline of 0.5 s passed while gateway was away"

    def test_a_deadline_that_passes_stops_the_work(self, desk):
        desk.submitted(a_task(where="local", deadline_ms=500))

        effects = desk.wait(SECOND)

        assert of_type(effects, Stop) == [Stop("t1", 1)]
        assert desk.say(done()) == [], "what comes after the end changes nothing"

    def test_a_busy_peer_is_asked_again_later(self, forced):
        forced.hear("gateway", Refuse("t1", 1, "queue full", Load(2, 5000)))
        assert forced.persist() == []

        effects = forced.wait(2 * SECOND)

        assert [offer.attempt for offer in told(effects, Offer)] == [2]
        assert forced.desk.refused_by_peers == {"queue full": 1}

    def test_a_refusal_goes_on_to_the_next_place_without_a_write(self, forced):
        effects = forced.hear("gateway", Refuse("t1", 1, "queue full", Load(2, 5000)))

        assert of_type(effects, Append) == []
        assert [offer.attempt for offer in told(forced.wait(SECOND), Offer)] == [2]

    def test_every_sixteenth_number_is_reserved_by_a_write_before_it_goes_out(self, forced):
        numbers, written = [1], []
        for _ in range(2 * RESERVED):
            effects = forced.hear("gateway", Refuse("t1", numbers[-1], "queue full", Load(2, 5000)))
            fences = [a.records[0].attempts[-1].number for a in of_type(effects, Append)]
            written += fences
            effects = forced.wait(30 * SECOND)
            if fences:
                assert told(effects, Offer) == [], "not before it is on the disk"
                effects = forced.persist()
            numbers += [offer.attempt for offer in told(effects, Offer)]

        assert numbers == list(range(1, 2 * RESERVED + 2))
        assert written == [1 + RESERVED, 1 + 2 * RESERVED]

    def test_what_may_run_at_one_full_place_alone_does_not_ask_it_all_the_time(self, desk):
        """A hundred tasks, a minute: once each, then one after another, ever more seldom."""
        desk.say(PeerUp("gateway", 2 * MS))
        effects = [e for i in range(100) for e in desk.submitted(a_task(f"t{i}", where="gateway"))]
        asked = fences = 0
        end_ns = desk.now_ns + 60 * SECOND
        full = Load(2, 60_000)
        while desk.now_ns < end_ns:
            offers = told(effects, Offer)
            asked += len(offers)
            fences += sum(isinstance(a.records[0], Fenced) for a in of_type(effects, Append))
            effects = [
                e
                for offer in offers
                for e in desk.hear("gateway", Refuse(offer.task, offer.attempt, "queue full", full))
            ]
            effects += desk.wait(max(MS, (desk.desk.deadline_ns() or 0) - desk.now_ns))

        assert 100 + 12 <= asked <= 100 + 50
        assert fences == 0

    def test_a_place_that_is_there_and_never_answers_is_asked_ever_more_seldom(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))
        effects = [e for i in range(100) for e in desk.submitted(a_task(f"t{i}", where="gateway"))]
        asked = fences = 0
        end_ns = desk.now_ns + 60 * SECOND
        while desk.now_ns < end_ns:
            asked += len(told(effects, Offer))
            written = of_type(effects, Append)
            fences += len(written)
            effects = [e for append in written for e in desk.say(Persisted(append.serial))]
            effects += desk.wait(max(MS, (desk.desk.deadline_ns() or 0) - desk.now_ns))

        assert 100 + 5 <= asked <= 200, "all of them once, then one after another"
        assert fences == 100 + asked, "an accept each, and one for every lapse"

    def test_news_of_room_at_the_only_place_lets_its_tasks_through(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))
        for i in range(20):
            desk.submitted(a_task(f"t{i}", where="gateway"))
        for i in range(20):
            assert told(desk.hear("gateway", Refuse(f"t{i}", 1, "queue full", Load(2, 60_000))), Offer) == []
        full = desk.hear("gateway", Beat(1, Load(2, 59_000)))
        assert (told(full, Offer), told(desk.wait(0), Offer)) == ([], [])

        desk.hear("gateway", Beat(2, Load(2, 1_000)))
        (first,) = told(desk.wait(0), Offer)
        desk.hear("gateway", Accept(first.task, first.attempt))
        second = told(desk.wait(0), Offer)

        assert len(second) == 1, "two may be there now"
        for offer in second:
            desk.hear("gateway", Result(offer.task, offer.attempt, "done"))
        assert len(told(desk.wait(0), Offer)) <= 2, "what it takes says how much more it gets"

    def test_a_place_that_shuts_down_is_asked_again_when_it_is_back(self, forced):
        forced.hear("gateway", Refuse("t1", 1, "draining", Load(2, 0, draining=True)))
        forced.hear("gateway", Beat(2, Load(2, 0, draining=True)))
        assert told(forced.wait(0), Offer) == []

        assert [o.attempt for o in told(forced.say(PeerUp("gateway", MS, restarted=True)), Offer)] == [2]

    def test_a_refusal_for_good_by_the_only_place_ends_the_task(self, forced):
        effects = forced.hear("gateway", Refuse("t1", 1, "requirement missing"))

        outcome = of_type(effects, Append)[0].records[0].outcome
        assert outcome.status == "failed"
        assert outcome.cause == "no place can run it (gateway: requirement missing)"

    def test_an_unknown_function_is_believed_at_the_third_time(self, desk):
        desk.submitted(a_task(where="local"))
        for attempt in (1, 2, 3):
            effects = desk.say(WorkRefused("pi-1", "t1", attempt, "unknown function"))
            if attempt < 3:
                desk.persist()
                assert of_type(desk.wait(SECOND), Run)

        assert of_type(effects, Append)[0].records[0].outcome.status == "failed"

    def test_an_unknown_reason_of_a_newer_peer_is_a_busy_peer(self, forced):
        forced.hear("gateway", Refuse("t1", 1, "mercury retrograde"))
        forced.persist()

        assert told(forced.wait(2 * SECOND), Offer)

    def test_a_down_holder_has_a_grace_and_a_restarted_one_has_none(self, forced):
        forced.hear("gateway", Accept("t1", 1))
        forced.say(PeerDown("gateway"))
        assert of_type(forced.wait(SECOND * 9 // 10), Append) == []
        forced.say(PeerUp("gateway", MS))
        assert of_type(forced.wait(SECOND * 9 // 10), Append) == []

        effects = forced.say(PeerUp("gateway", MS, restarted=True))

        assert isinstance(of_type(effects, Append)[0].records[0], Fenced)
        assert [offer.attempt for offer in told(forced.persist(), Offer)] == [2]

    def test_no_more_than_the_window_is_offered_to_one_peer(self):
        desk = Driver(offers_max=2)
        desk.say(PeerUp("gateway", MS))
        offers = [told(desk.say(Submitted(i, a_task(f"t{i}", where="gateway"))), Offer) for i in range(4)]
        assert [len(found) for found in offers] == [1, 1, 0, 0]

        effects = desk.hear("gateway", Result("t0", 1, "done"))

        assert [offer.task for offer in told(effects, Offer)] == ["t2"]

    def test_a_member_that_is_gone_fails_what_only_it_may_run(self, forced):
        effects = forced.say(Members((MemberInfo("pi-1"),)))

        closed = [a.records[0] for a in of_type(effects, Append) if isinstance(a.records[0], Closed)]
        assert closed[0].outcome.status == "failed"
        assert closed[0].outcome.cause == "gateway is no member any more"


class TestCancelling:
    def test_a_cancel_stops_the_work_and_is_answered_from_the_disk(self, desk):
        desk.submitted(a_task(where="local"))

        effects = desk.say(CancelAsked(5, "t1"))

        assert of_type(effects, Stop) == [Stop("t1", 1)]
        assert of_type(effects, Reply) == []
        settled, reply = desk.persist()
        assert settled.outcome.status == "cancelled"
        assert reply == Reply(5, True, "", "t1")
        assert desk.say(CancelAsked(6, "t1")) == [Reply(6, True, "", "t1")]

    def test_a_cancel_reaches_the_holder(self, forced):
        assert told(forced.say(CancelAsked(5, "t1")), Cancel) == [Cancel("t1", 1)]

    def test_a_cancel_after_the_end_says_so(self, forced):
        forced.hear("gateway", Result("t1", 1, "done"))
        forced.persist()

        assert forced.say(CancelAsked(5, "t1")) == [Reply(5, False, Refusal.ALREADY_SETTLED, "t1")]
        assert forced.say(CancelAsked(6, "t9")) == [Reply(6, False, Refusal.UNKNOWN_TASK, "t9")]


class TestPlacing:
    def test_local_first_when_nothing_waits_here(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))

        effects = desk.submitted(a_task())

        assert len(of_type(effects, Run)) == 1

    def test_an_overloaded_node_offloads(self, desk):
        desk.say(PeerUp("gateway", 2 * MS))
        desk.hear("gateway", Beat(1, Load(8, 0)))

        places = set()
        for i in range(8):
            effects = desk.say(Submitted(i, a_task(f"t{i}")))
            places |= {"here"} if of_type(effects, Run) else set()
            places |= {"gateway"} if told(effects, Offer) else set()

        assert places == {"here", "gateway"}
        why = desk.desk.why("t7")
        assert {candidate.place for candidate in why.candidates} == {"pi-1", "gateway"}
        assert "ms" in why.text()

    def test_a_burst_of_an_unknown_function_moves_once_it_is_known_to_be_slow(self, desk):
        for i in range(8):
            desk.submitted(a_task(f"t{i}"))
        desk.say(PeerUp("gateway", 2 * MS))
        desk.hear("gateway", Beat(1, Load(8, 0, 0, 4.0)))
        desk.now_ns += SECOND // 2
        desk.say(done("t0", run_us=2_000_000))

        effects = desk.wait(SECOND // 4)

        moved = told(effects, Offer)
        assert moved and all(offer.attempt == 1 for offer in moved)

    def test_labels_bind(self, desk):
        desk.say(Members((MemberInfo("gateway", {"site": "b"}), MemberInfo("pi-1", {"site": "a"}))))
        desk.say(PeerUp("gateway", 2 * MS))

        assert told(desk.submitted(a_task(labels={"site": "b"})), Offer)

    def test_what_fits_nobody_who_is_up_waits_for_one_who_is(self, desk):
        desk.say(Members((MemberInfo("gateway", {"site": "b"}), MemberInfo("pi-1", {"site": "a"}))))
        desk.submitted(a_task(labels={"site": "b"}))
        assert desk.desk.state("t1") == ("waiting", "")

        assert told(desk.say(PeerUp("gateway", 2 * MS)), Offer)

    def test_what_nobody_takes_now_is_tried_again_by_itself(self, desk):
        desk.say(Members((MemberInfo("gateway", {"site": "b"}), MemberInfo("pi-1", {"site": "a"}))))
        desk.say(PeerUp("gateway", 2 * MS))
        desk.submitted(a_task(labels={"site": "b"}))
        assert told(desk.hear("gateway", Refuse("t1", 1, "queue full")), Offer) == []
        assert desk.desk.deadline_ns() <= desk.now_ns + SECOND // 2

        assert [offer.attempt for offer in told(desk.wait(SECOND // 2), Offer)] == [2]

    def test_what_ended_while_it_waited_is_not_kept(self, desk):
        for i in range(500):
            desk.submitted(a_task(f"t{i}", where="gateway"))
            desk.say(CancelAsked(1, f"t{i}"))
            desk.persist()

        assert len(desk.desk._views["gateway"].outbox) < 100

    def test_every_member_is_in_reach_unless_settings_say_otherwise(self):
        for me, reach, offered in (("pi-1", "all", 1), ("gateway", "all", 1), ("pi-1", "gateway", 0)):
            desk = Driver(me, workers=1, reach=reach)
            desk.say(PeerUp("pi-2", 2 * MS))
            desk.hear("pi-2", Load(8, 0))
            offers = [told(desk.say(Submitted(i, a_task(f"t{i}"))), Offer) for i in range(6)]
            assert (sum(map(len, offers)) > 0) == bool(offered)


class TestRestart:
    def test_what_was_accepted_is_taken_up_behind_a_fence(self, desk):
        effects = desk.desk.restore(desk.now_ns, WALL, [(a_task(where="local", accepted_at_ms=WALL), [])])

        (append,) = effects
        assert [(a.number, a.ended_as) for a in append.records[0].attempts] == [
            (1, "lost in a restart"),
            (1 + RESERVED, ""),
        ]
        desk.serial = append.serial
        assert [run.attempt for run in of_type(desk.persist(), Run)] == [1 + RESERVED]

    def test_the_next_life_goes_on_counting_above_all_that_was_reserved(self, desk):
        kept = [Attempt(1, "gateway", ended_as="lapsed"), Attempt(2, "")]

        (append,) = desk.desk.restore(desk.now_ns, WALL, [(a_task(accepted_at_ms=WALL), kept)])

        assert append.records[0].attempts[-1].number == 2 + RESERVED

    def test_time_goes_on_while_nobody_is_there(self, desk):
        task = a_task(accepted_at_ms=WALL - 10_000, deadline_ms=5_000)
        desk.serial = desk.desk.restore(desk.now_ns, WALL, [(task, [])])[0].serial

        effects = desk.wait(0)

        assert of_type(effects, Append)[0].records[0].outcome.status == "expired"

    def test_a_clock_before_the_accept_gives_no_extra_time(self, desk):
        task = a_task(where="gateway", accepted_at_ms=WALL + 10**9, deadline_ms=5_000)
        desk.desk.restore(desk.now_ns, WALL, [(task, [])])
        desk.say(Persisted(1))

        assert of_type(desk.wait(6 * SECOND), Append)[0].records[0].outcome.status == "expired"

    def test_deaths_are_remembered(self, desk):
        kept = [Attempt(n, "pi-1", ended_as="worker died") for n in (1, 2, 3)] + [Attempt(4, "")]

        (append,) = desk.desk.restore(desk.now_ns, WALL, [(a_task(accepted_at_ms=WALL), kept)])

        assert append.records[0].outcome.status == "quarantined"


def an_offer(task="x1", attempt=1, **fields):
    fields.setdefault("input", b"in")
    return Offer(task, attempt, "room.changes", b"d" * 32, fields.pop("lease_ms", 3000), **fields)


class TestHolder:
    def test_a_quick_result_is_its_own_acceptance(self, desk):
        (run,) = desk.hear("pi-2", an_offer())
        assert (run.owner, run.timeout_s, run.memory_mb, run.input) == ("pi-2", None, None, b"in")

        (tell,) = desk.say(done("x1", owner="pi-2"))

        assert (tell.peer, tell.message.status, tell.message.output) == ("pi-2", "done", b"out")
        assert tell.message.load.workers == 2
        assert desk.wait(SECOND) == []

    def test_a_slow_one_is_accepted_and_reported(self, desk):
        desk.hear("pi-2", an_offer())

        (accept,) = told(desk.wait(20 * MS), Accept)
        desk.say(WorkStarted("x1", 1, 7))
        (progress,) = told(desk.wait(SECOND), Progress)

        assert (accept.task, accept.attempt) == ("x1", 1)
        assert (progress.running, progress.elapsed_ms) == (True, 1020)
        assert len(told(desk.wait(SECOND), Progress)) == 1

    def test_an_offer_again_is_answered_and_not_run_again(self, desk):
        desk.hear("pi-2", an_offer())
        assert [type(e.message) for e in of_type(desk.hear("pi-2", an_offer()), Tell)] == [Accept]
        first = of_type(desk.say(done("x1", owner="pi-2")), Tell)

        assert desk.hear("pi-2", an_offer()) == first

    def test_a_newer_attempt_takes_over_the_running_one(self, desk):
        desk.hear("pi-2", an_offer())
        assert of_type(desk.hear("pi-2", an_offer(attempt=2)), Run) == []

        (tell,) = of_type(desk.say(done("x1", attempt=1, owner="pi-2")), Tell)

        assert tell.message.attempt == 2

    def test_cancel_before_offer(self, desk):
        assert desk.hear("pi-2", Cancel("x1", 1)) == []

        assert told(desk.hear("pi-2", an_offer()), Refuse)[0].reason == Refusal.CANCELLED
        assert of_type(desk.hear("pi-2", an_offer(attempt=2)), Run)

    def test_a_cancel_of_another_owner_does_nothing(self, desk):
        desk.hear("pi-2", an_offer())

        assert desk.hear("pi-3", Cancel("x1", 1)) == []

    def test_a_cancelled_run_is_stopped_and_its_end_is_not_told(self, desk):
        desk.hear("pi-2", an_offer())

        stop, story = desk.hear("pi-2", Cancel("x1", 1))
        assert stop == Stop("x1", 1)
        assert (type(story), story.what, story.place) == (Explain, What.STOPPED, "pi-2")
        assert desk.hear("pi-2", Cancel("x1", 1)) == []
        assert desk.say(done("x1", owner="pi-2", status="cancelled")) == []

    def test_too_little_time_is_refused(self, desk):
        (refuse,) = told(desk.hear("pi-2", an_offer(budget_ms=1)), Refuse)

        assert refuse.reason == Refusal.OVER_DEADLINE
        assert refuse.load is not None

    def test_the_queue_is_bounded(self):
        desk = Driver(workers=1, queue_tasks_max=2)
        for i in range(3):
            assert told(desk.hear("pi-2", an_offer(f"x{i}")), Refuse) == []

        assert told(desk.hear("pi-2", an_offer("x9")), Refuse)[0].reason == Refusal.QUEUE_FULL

    def test_the_queue_is_bounded_in_time(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("w"))
        desk.say(done("w", owner="pi-2", run_us=40_000_000))
        assert told(desk.hear("pi-2", an_offer("x1")), Refuse) == []

        assert told(desk.hear("pi-2", an_offer("x9")), Refuse)[0].reason == Refusal.QUEUE_FULL

    def test_the_earliest_deadline_runs_first(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("x0"))
        desk.hear("pi-2", an_offer("late", budget_ms=60_000))
        desk.hear("pi-2", an_offer("soon", budget_ms=2_000))

        runs = [run.task for run in of_type(desk.say(done("x0", owner="pi-2", run_us=50_000)), Run)]

        assert runs == ["soon"]

    def test_what_expired_in_the_queue_is_not_started(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("x0"))
        desk.hear("pi-2", an_offer("x1", budget_ms=2_000))
        desk.now_ns += 3 * SECOND

        effects = desk.say(done("x0", owner="pi-2"))

        assert of_type(effects, Run) == []
        assert [result.status for result in told(effects, Result)] == ["done", "expired"]

    def test_tiny_calls_stream_and_long_ones_do_not(self):
        desk = Driver(workers=1)
        for run_us, streamed in ((50, 32), (50_000_000, 1)):
            desk.hear("pi-2", an_offer(f"w{run_us}"))
            desk.say(done(f"w{run_us}", owner="pi-2", run_us=run_us))
            for _ in range(0 if run_us == 50 else 40):
                desk.desk.estimates.observe("room.changes", "pi-1", run_us / 1e6, 1.0, 0)
            runs = []
            for i in range(40):
                runs += of_type(desk.hear("pi-2", an_offer(f"{run_us}-{i}", lease_ms=10**6)), Run)
            assert len(runs) == streamed
            for run in runs:
                desk.hear("pi-2", Cancel(run.task, 1))
                for more in of_type(desk.say(done(run.task, owner="pi-2", status="cancelled")), Run):
                    runs.append(more)

    def test_a_call_that_died_of_its_neighbour_runs_again_here(self, desk):
        desk.hear("pi-2", an_offer())

        effects = desk.say(done("x1", owner="pi-2", status="failed", worker_died=True, started_at_ms=0))

        assert [run.task for run in of_type(effects, Run)] == ["x1"]

    def test_what_cannot_start_here_is_refused(self, desk):
        desk.hear("pi-2", an_offer())

        (refuse,) = told(desk.say(WorkRefused("pi-2", "x1", 1, "requirement missing")), Refuse)

        assert refuse.reason == Refusal.REQUIREMENT

    def test_another_owner_cannot_have_the_same_id(self, desk):
        desk.hear("pi-2", an_offer())

        assert told(desk.hear("pi-3", an_offer()), Refuse)[0].reason == Refusal.DUPLICATE_ID


class TestResting:
    def test_work_of_others_is_not_taken_and_ours_goes_on(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("x1"))
        desk.hear("pi-2", an_offer("x2"))

        assert told(desk.say(Rested(True)), Refuse) == [], "what waits may stay"
        assert told(desk.hear("pi-2", an_offer("x3")), Refuse)[0].reason == Refusal.DRAINING
        assert desk.desk.load(desk.now_ns).draining
        desk.submitted(a_task("t1", where="local"))
        assert desk.desk.state("t1")[0] == "placed"

    def test_a_drain_hands_back_what_waits_of_others_alone(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("x1"))
        desk.hear("pi-2", an_offer("x2"))
        desk.submitted(a_task("t1", where="local"))

        effects = desk.say(Rested(True, True))

        assert [(refuse.task, refuse.reason) for refuse in told(effects, Refuse)] == [("x2", "draining")]
        assert of_type(effects, Drained) == [], "it does not end"
        assert desk.desk.state("t1")[0] == "placed"

    def test_it_takes_work_again_when_told(self):
        desk = Driver(workers=1)
        desk.say(Rested(True, True))
        desk.say(Rested(False))

        assert not desk.desk.load(desk.now_ns).draining
        assert told(desk.hear("pi-2", an_offer("x1")), Refuse) == []


class TestDraining:
    def test_what_waits_is_handed_back_and_what_runs_may_finish(self):
        desk = Driver(workers=1)
        desk.hear("pi-2", an_offer("x1"))
        desk.hear("pi-2", an_offer("x2"))
        desk.submitted(a_task("t1", where="local"))

        effects = desk.say(Drain())

        assert [(refuse.task, refuse.reason) for refuse in told(effects, Refuse)] == [("x2", "draining")]
        assert of_type(effects, Drained) == []
        assert desk.say(Submitted(1, a_task("t2")))[0].reason == Refusal.DRAINING
        assert told(desk.hear("pi-2", an_offer("x3")), Refuse)[0].reason == Refusal.DRAINING
        assert desk.desk.load(desk.now_ns).draining
        assert of_type(desk.say(done("x1", owner="pi-2")), Drained) == [Drained()]
        assert desk.desk.state("t1") == ("waiting", ""), "the next life takes it up"

    def test_an_idle_desk_is_drained_at_once(self, desk):
        assert desk.say(Drain()) == [Drained()]
        assert desk.say(Drain()) == []

    def test_own_work_that_waits_goes_to_who_can_have_it(self):
        desk = Driver(workers=1)
        desk.submitted(a_task("t1"))
        desk.submitted(a_task("t2"))
        desk.say(PeerUp("gateway", MS))

        effects = desk.say(Drain())

        assert [offer.task for offer in told(effects, Offer)] == ["t2"]


class TestTraced:
    TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 rojo=1"

    def test_the_trace_goes_along_with_every_offer_also_after_a_restart(self, desk):
        desk.say(PeerUp("pi-2", 2 * MS))
        effects = desk.submitted(a_task(where="pi-2", trace=self.TRACE))
        (first,), (append,) = told(effects, Offer), of_type(effects, Append)
        kept = row_of(append.records[0]).body

        life = Driver()
        task = msgspec.msgpack.decode(kept, type=Task)
        for effect in life.desk.restore(life.now_ns, WALL, [(task, [Attempt(1, "")])]):
            life.say(Persisted(effect.serial))
        (again,) = told(life.say(PeerUp("pi-2", 2 * MS)), Offer)

        assert first.trace == again.trace == self.TRACE and again.attempt > first.attempt

    def test_own_work_and_work_of_others_runs_with_it(self, desk):
        (own,) = of_type(desk.submitted(a_task(trace=self.TRACE)), Run)
        offer = Offer("t9", 1, "room.changes", b"d" * 32, 5000, input=b"in", trace=self.TRACE)
        (other,) = of_type(desk.hear("pi-2", offer), Run)

        assert own.trace == other.trace == self.TRACE

    def test_when_an_attempt_was_given_to_its_place_is_kept_of_traced_tasks_alone(self, desk):
        """Eight bytes in every record would be a price that all pay."""
        for task, trace in (("t1", self.TRACE), ("t2", "")):
            desk.submitted(a_task(task, trace=trace))
            (closed,) = [e.records[0] for e in of_type(desk.say(done(task)), Append)]
            assert closed.outcome.attempts[0].granted_at_ms == (WALL if trace else 0)
