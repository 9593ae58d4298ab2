"""The desk among peers: whom it looks at, what binds, what it gives ahead, whom it rests."""

from __future__ import annotations

import random

import pytest

from edge_node.tasks.desk import (
    AHEAD_TASKS,
    BREAKER_AFTER,
    Append,
    Closed,
    Desk,
    DeskSettings,
    DigestHeard,
    Drain,
    Drained,
    Heard,
    Look,
    MemberInfo,
    Members,
    OwnAbilities,
    PeerDown,
    PeerUp,
    Persisted,
    Refusal,
    Reply,
    Run,
    Submitted,
    Task,
    Tell,
    WorkDone,
    WorkStarted,
)
from edge_node.wire.messages import About, Accept, Beat, DigestEntry, Load, Offer, Pong, Refuse, Result

MS = 1_000_000
SECOND = 1_000_000_000
WALL = 1_700_000_000_000
EVERYBODY = ("gateway", "pi-1", "pi-2", "pi-3", "pi-4")


class Node:
    """pi-1 among the members, and the time at which it is spoken to; its journal answers at once."""

    def __init__(self, *, up=(), **settings):
        settings.setdefault("workers", 1)
        self.desk = Desk("pi-1", settings=DeskSettings(**settings), rng=random.Random(1))
        self.now_ns = SECOND
        self.say(Members(tuple(MemberInfo(name, LABELS.get(name, {})) for name in EVERYBODY)))
        for peer in up:
            self.say(PeerUp(peer, 2 * MS))

    def say(self, event):
        return self.carried(self.desk.handle(self.now_ns, WALL, event))

    def hear(self, peer, message):
        return self.say(Heard(peer, message))

    def wait(self, ns):
        self.now_ns += ns
        return self.carried(self.desk.tick(self.now_ns, WALL))

    def carried(self, effects):
        self.desk.check()
        for effect in [effect for effect in effects if isinstance(effect, Append)]:
            effects = effects + self.say(Persisted(effect.serial))
        return effects

    def submit(self, task_id, **fields):
        return self.say(Submitted(1, a_task(task_id, **fields)))


LABELS = {"pi-2": {"zone": "hall"}, "pi-3": {"zone": "roof"}}


def a_task(task_id, **fields):
    return Task(task_id, "room.changes", b"d" * 32, b"in", b"s" * 32, "pi-1", **fields)


def an_offer(task="x1", **fields):
    fields = {"lease_ms": 3000, "input": b"in", **fields}
    return Offer(task, fields.pop("attempt", 1), "room.changes", b"d" * 32, **fields)


def done(task, owner="pi-1", **fields):
    return WorkDone(
        owner, task, 1, "done", **{"output": b"out", "started_at_ms": 5, "run_us": 50_000, **fields}
    )


def of_type(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def offers(effects):
    return [(e.peer, e.message) for e in of_type(effects, Tell) if isinstance(e.message, Offer)]


def told(effects, kind):
    return [effect.message for effect in of_type(effects, Tell) if isinstance(effect.message, kind)]


def answer(effects) -> Reply:
    (reply,) = of_type(effects, Reply)
    return reply


class TestLooking:
    def test_while_everything_runs_here_nobody_is_looked_at(self):
        node = Node(up=["pi-2", "pi-3", "pi-4"])
        for i in range(20):
            effects = node.submit(f"t{i}")
            effects += node.say(WorkStarted(f"t{i}", 1, 7)) + node.say(done(f"t{i}"))
            effects += node.wait(SECOND // 2)
            assert of_type(effects, Run) and not of_type(effects, Look)

    def test_a_task_that_leaves_asks_for_the_next_ones_sake(self):
        node = Node(up=["pi-2", "pi-3", "pi-4"])
        node.submit("t0")

        effects = node.submit("t1")

        assert len(offers(effects)) == 1
        looked = [look.peer for look in of_type(effects, Look)]
        assert 1 <= len(looked) <= 3 and len(set(looked)) == len(looked)
        assert set(looked) <= {"pi-2", "pi-3", "pi-4"}

    def test_the_answer_to_a_look_draws_what_waits_here(self):
        node = Node(up=["pi-2"])
        for i in range(12):
            node.submit(f"t{i}")
        assert node.desk.state("t11") == ("placed", "pi-1")
        node.now_ns += SECOND

        effects = node.hear("pi-2", Pong(1, Load(4, 0, 0, 4.0)))

        assert [peer for peer, _ in offers(effects)].count("pi-2") >= 2

    def test_a_member_announced_idle_is_looked_at_and_is_a_candidate_once_it_answered(self):
        node = Node()
        node.say(DigestHeard((DigestEntry("pi-3", 0, 2, 4.0), DigestEntry("pi-4", 900, 1, 1.0))))
        effects = node.submit("t0") + node.submit("t1") + node.submit("t2")
        assert offers(effects) == [] and of_type(effects, Look) == [Look("pi-3")]

        node.now_ns += 5 * MS
        effects = node.say(PeerUp("pi-3", 5 * MS))
        assert {peer for peer, _ in offers(effects)} == {"pi-3"}, "the digest's word is enough to begin with"

    def test_who_only_works_for_others_looks_at_nobody(self):
        node = Node(up=["pi-2", "pi-3"])
        effects = [e for i in range(9) for e in node.hear("pi-2", an_offer(f"x{i}", lease_ms=60_000))]
        effects += node.submit("t1", where="local")
        for _ in range(8):
            effects += node.wait(SECOND // 4)

        assert node.desk.status(node.now_ns)["queued_here"] == 9
        assert of_type(effects, Look) == []

    def test_a_digest_names_members_only_and_not_those_that_are_down(self):
        node = Node()
        node.say(DigestHeard((DigestEntry("pi-9", 0, 1, 1.0), DigestEntry("pi-4", 0, 1, 1.0, True))))
        effects = node.submit("t0") + node.submit("t1") + node.submit("t2")

        assert of_type(effects, Look) == []

    def test_an_idle_member_is_old_news_after_two_digests(self):
        node = Node()
        node.say(DigestHeard((DigestEntry("pi-3", 0, 2, 4.0),)))
        node.submit("t0")
        node.now_ns += 3 * SECOND

        assert of_type(node.submit("t1") + node.submit("t2"), Look) == []

    def test_who_may_reach_the_gateway_only_looks_at_nobody_else(self):
        node = Node(up=["gateway", "pi-2"], reach="gateway")
        node.say(DigestHeard((DigestEntry("pi-3", 0, 2, 4.0),)))
        effects = [effect for i in range(9) for effect in node.submit(f"t{i}")]

        assert {peer for peer, _ in offers(effects)} == {"gateway"}
        assert {look.peer for look in of_type(effects, Look)} <= {"gateway"}


class TestAhead:
    def test_a_peer_gets_little_ahead_and_the_rest_can_still_change_its_mind(self):
        node = Node(up=["pi-2"])
        effects = [effect for i in range(100) for effect in node.submit(f"t{i}")]

        assert len(offers(effects)) == AHEAD_TASKS
        assert node.desk.status(node.now_ns)["queued_here"] >= 90

    def test_every_result_makes_room_for_the_next(self):
        node = Node(up=["pi-2"])
        for i in range(100):
            node.submit(f"t{i}")
        (held, *_) = node.desk._leases.held_by("pi-2")
        node.now_ns += 20 * MS

        effects = node.hear("pi-2", Result(held, 1, "done", run_us=20_000, load=Load(1, 20)))

        assert len(offers(effects)) == 1

    def test_what_only_a_peer_may_run_is_not_held_back_by_the_window(self):
        node = Node(up=["pi-2", "pi-3"])
        effects = [effect for i in range(20) for effect in node.submit(f"t{i}", labels={"zone": "hall"})]

        assert [peer for peer, _ in offers(effects)] == ["pi-2"] * 20

    def test_what_was_sent_elsewhere_names_the_wait_it_reckons_with(self):
        node = Node(up=["pi-2"])
        node.hear("pi-2", Beat(1, Load(1, 300)))
        sent = offers(node.submit("t1", labels={"zone": "hall"}))
        forced = offers(node.submit("t2", where="pi-2"))

        assert sent[0][1].wait_ms == 301
        assert forced[0][1].wait_ms is None, "there is no other place to choose"

    def test_after_two_refusals_it_is_sent_without_a_promise(self):
        node = Node(up=["pi-2"])
        effects = node.submit("t1", labels={"zone": "hall"})
        for attempt in (1, 2):
            assert offers(effects)[0][1].wait_ms is not None
            node.hear("pi-2", Refuse("t1", attempt, "queue full", Load(1, 900)))
            effects = node.wait(SECOND)
        assert offers(effects)[0][1].wait_ms is None


class TestTaking:
    def test_a_wait_that_was_not_promised_is_refused_with_the_load(self):
        node = Node()
        for i in range(3):
            node.hear("pi-2", an_offer(f"x{i}"))

        (refuse,) = told(node.hear("pi-2", an_offer("x9", wait_ms=1)), Refuse)

        assert (refuse.reason, refuse.load.backlog_ms) == (Refusal.QUEUE_FULL, 60)
        assert told(node.hear("pi-2", an_offer("x10", wait_ms=60)), Refuse) == []

    def test_what_was_taken_and_has_not_arrived_is_counted_as_leased(self):
        node = Node()
        node.hear("pi-2", an_offer("x1", input=None, input_digest=b"i" * 32, input_bytes=100_000))
        node.hear("pi-2", an_offer("x2"))

        load = node.desk.load(node.now_ns)

        assert (load.backlog_ms, load.leased_ms) == (20, 20)
        node.say(WorkStarted("x1", 1, 7))
        assert node.desk.load(node.now_ns).leased_ms == 0

    def test_higher_priorities_run_first_and_within_one_the_earliest_deadline(self):
        node = Node()
        node.hear("pi-2", an_offer("first"))
        for name, more in {
            "low": {"priority": -1, "budget_ms": 1_000},
            "late": {"budget_ms": 60_000},
            "soon": {"budget_ms": 2_000},
            "high": {"priority": 1},
        }.items():
            node.hear("pi-2", an_offer(name, **more))

        order, running = [], "first"
        while running:
            runs = of_type(node.say(done(running, owner="pi-2")), Run)
            running = runs[0].task if runs else ""
            order.append(running)

        assert order == ["high", "soon", "late", "low", ""]

    def test_a_sure_miss_is_not_started_and_is_answered_at_once(self):
        node = Node()
        for _ in range(30):
            node.desk.estimates.observe("room.changes", "pi-1", 0.1, 1.0, 0)
        node.hear("pi-2", an_offer("x1"))
        node.hear("pi-2", an_offer("x2", budget_ms=250))
        node.now_ns += 200 * MS

        effects = node.say(done("x1", owner="pi-2", run_us=100_000))

        assert of_type(effects, Run) == []
        assert [(r.task, r.status) for r in told(effects, Result)] == [("x1", "done"), ("x2", "expired")]

    def test_an_own_sure_miss_is_not_started_and_expires_at_its_deadline_with_a_cause(self):
        node = Node()
        for _ in range(30):
            node.desk.estimates.observe("room.changes", "pi-1", 0.1, 1.0, 0)
        node.submit("t1")
        node.submit("t2", deadline_ms=250)
        node.now_ns += 200 * MS
        assert of_type(node.say(done("t1", run_us=100_000)), Run) == []
        assert node.desk.state("t2") == ("placed", "pi-1")

        closed = [a.records[0] for a in of_type(node.wait(50 * MS), Append)]

        assert closed[0].outcome.status == "expired"
        assert closed[0].outcome.cause == (
            "its deadline of 0.25 s passed; it could not have been met any more, so the task was not started"
        )

    def test_a_late_one_does_not_keep_a_drain_waiting(self):
        node = Node()
        for _ in range(30):
            node.desk.estimates.observe("room.changes", "pi-1", 0.1, 1.0, 0)
        node.submit("t1")
        node.submit("t2", deadline_ms=250)
        node.now_ns += 200 * MS
        node.say(done("t1", run_us=100_000))

        assert of_type(node.say(Drain()), Drained) == [Drained()]
        assert node.desk.state("t2") == ("waiting", "")

    def test_a_deadline_nobody_can_meet_still_goes_to_the_best(self):
        node = Node(up=["pi-2"])
        node.desk.estimates.observe("room.changes", "pi-2", 0.1, 4.0, 0)
        node.hear("pi-2", Beat(1, Load(1, 0, 0, 4.0)))

        assert [peer for peer, _ in offers(node.submit("t1", deadline_ms=20))] == ["pi-2"]

    def test_peers_that_ran_a_bundle_are_named_as_its_holders(self):
        node = Node(up=["pi-2", "pi-3"])
        for n, peer in enumerate(("pi-2", "pi-3", "pi-2")):
            node.submit(f"t{n}", where=peer)
            node.hear(peer, Result(f"t{n}", 1, "done", run_us=900))

        (run,) = of_type(node.hear("pi-4", an_offer()), Run)

        assert run.holders == ("pi-3", "pi-2")


class TestConstraints:
    def test_nobody_has_the_label(self):
        reply = answer(Node().submit("t1", labels={"zone": "cellar"}))

        assert (reply.accepted, reply.reason) == (False, Refusal.LABELS)
        assert reply.detail == "the nearest is gateway, which lacks zone=cellar"

    def test_nobody_has_the_module_and_the_nearest_is_named(self):
        node = Node(up=["pi-3"])
        node.say(OwnAbilities(("numpy", "scipy")))
        for peer in ("gateway", "pi-2", "pi-4"):
            node.hear(peer, About("1", "3.11", ["numpy", "scipy"]))
        node.hear("pi-3", About("1", "3.11", ["numpy"]))

        reply = answer(node.submit("t1", requires=("numpy", "scipy")))

        assert (reply.accepted, reply.reason) == (False, Refusal.REQUIREMENT)
        assert reply.detail == "the nearest is pi-3, which lacks numpy"

    def test_the_nearest_miss_of_both_kinds(self):
        node = Node()
        node.say(OwnAbilities(("numpy",)))
        for peer in ("gateway", "pi-2", "pi-3", "pi-4"):
            node.hear(peer, About("1", "3.11", ["numpy"]))

        assert answer(node.submit("t1", requires=("numpy",), labels={"zone": "hall"})).detail == (
            "the nearest is pi-2, which lacks numpy"
        )
        assert answer(node.submit("t2", requires=("numpy",), labels={"zone": "sky"})).detail == (
            "the nearest is gateway, which lacks numpy, zone=sky"
        )

    def test_a_place_named_by_hand_that_lacks_it_is_refused_at_the_door(self):
        node = Node()
        node.say(OwnAbilities(("numpy",)))
        node.hear("pi-2", About("1", "3.11", ["numpy"]))

        for where, name in (("local", "pi-1"), ("pi-2", "pi-2")):
            reply = answer(node.submit(f"to {where}", where=where, requires=("numpy",)))
            assert (reply.accepted, reply.detail) == (False, f"the nearest is {name}, which lacks numpy")

    def test_a_member_that_has_said_nothing_counts_as_perhaps_and_one_that_is_away_too(self):
        node = Node()
        node.say(OwnAbilities(("numpy",)))
        assert answer(node.submit("t1", requires=("numpy",))).accepted
        assert node.desk.state("t1") == ("waiting", "")

        assert [peer for peer, _ in offers(node.say(PeerUp("pi-4", 2 * MS)))] == ["pi-4"]

    def test_only_who_has_it_is_offered_it(self):
        node = Node(up=["pi-2", "pi-3", "pi-4"])
        node.say(OwnAbilities(("numpy",)))
        node.hear("pi-2", About("1", "3.11", ["numpy"]))
        node.hear("pi-4", About("1", "3.11", ["numpy"]))
        effects = [effect for i in range(10) for effect in node.submit(f"t{i}", requires=("numpy",))]

        assert {peer for peer, _ in offers(effects)} == {"pi-3"}

    def test_an_ability_that_came_back_counts_at_once(self):
        node = Node()
        node.say(OwnAbilities(("numpy",)))
        node.say(OwnAbilities())

        assert of_type(node.submit("t1", requires=("numpy",)), Run)


class TestPeersThatFail:
    def test_a_quiet_peer_is_no_candidate_and_its_leases_run_on(self):
        node = Node(up=["pi-2"])
        node.submit("t1", where="pi-2")
        node.hear("pi-2", Accept("t1", 1))
        node.say(PeerDown("pi-2", quiet=True))
        node.submit("t2")
        assert offers(node.submit("t3")) == []

        assert of_type(node.wait(SECOND * 9 // 10), Append) == []
        node.say(PeerDown("pi-2"))
        assert of_type(node.wait(SECOND * 9 // 10), Append) == [], "now the grace has begun"
        assert of_type(node.wait(SECOND // 5), Append) != []

    def test_the_verdict_said_twice_grants_no_second_grace(self):
        node = Node(up=["pi-2"])
        node.submit("t1", where="pi-2")
        node.hear("pi-2", Accept("t1", 1))
        node.say(PeerDown("pi-2"))
        node.wait(SECOND * 9 // 10)
        node.say(PeerDown("pi-2"))

        assert of_type(node.wait(SECOND // 5), Append) != []

    def test_a_member_that_was_taken_off_the_roster_loses_leases_and_offers_at_once(self):
        node = Node(up=["pi-2", "pi-3"])
        node.submit("mine", labels={"zone": "hall"})
        node.hear("pi-2", an_offer("theirs"))
        node.hear("pi-2", an_offer("queued"))

        node.say(Members(tuple(MemberInfo(name) for name in EVERYBODY if name != "pi-2")))

        assert node.desk.state("mine")[0] == "waiting"
        assert not node.desk._holder.has("theirs") and not node.desk._holder.has("queued")
        node.say(PeerUp("pi-2", 2 * MS))
        node.hear("pi-2", Beat(1, Load(8, 0)))
        assert "pi-2" not in node.desk._views

    def test_the_breaker_opens_after_refusals_in_a_row_and_one_task_tries_it_again(self):
        node = Node(up=["pi-2"])
        view = node.desk._views["pi-2"]
        for n in range(BREAKER_AFTER):
            node.now_ns += SECOND
            node.submit(f"t{n}", where="pi-2")
            node.hear("pi-2", Refuse(f"t{n}", 1, "queue full", Load(1, 0)))
        assert view.shy_until_ns == node.now_ns + SECOND
        assert offers(node.submit("a", labels={"zone": "hall"})) == []

        node.now_ns += SECOND
        assert len(offers(node.submit("b", labels={"zone": "hall"}))) == 1, "half open"
        assert offers(node.submit("c", labels={"zone": "hall"})) == []
        node.hear("pi-2", Accept("b", 1))
        assert len(offers(node.submit("d", labels={"zone": "hall"}))) == 1, "closed again"

    def test_deadlines_too_tight_for_a_peer_do_not_rest_it(self):
        node = Node(up=["pi-2"])
        for n in range(2 * BREAKER_AFTER):
            node.now_ns += SECOND
            node.submit(f"t{n}", where="pi-2", deadline_ms=5)
            node.hear("pi-2", Refuse(f"t{n}", 1, "over deadline", Load(1, 0)))

        assert node.desk._views["pi-2"].trips == 0
        assert node.desk._views["pi-2"].shy_until_ns == node.now_ns + SECOND // 10

    def test_many_leases_that_lapse_at_once_are_one_failure(self):
        node = Node(up=["pi-2"])
        for n in range(10):
            node.submit(f"t{n}", labels={"zone": "hall"})
        node.wait(2 * SECOND)

        view = node.desk._views["pi-2"]
        assert (view.trips, view.shy_until_ns) == (1, node.now_ns + SECOND)

    def test_a_restart_wipes_the_slate(self):
        node = Node(up=["pi-2"])
        for n in range(10):
            node.submit(f"t{n}", labels={"zone": "hall"})
        effects = node.say(PeerUp("pi-2", 2 * MS, restarted=True))

        assert len(offers(effects)) == 10, "what it held is lost, and it may have it again at once"

    def test_the_longer_it_fails_the_longer_it_rests(self):
        node = Node(up=["pi-2"])
        rests = []
        for n in range(14):
            node.submit(f"t{n}", labels={"zone": "hall"})
            node.hear("pi-2", Refuse(f"t{n}", 1, "queue full"))
            view = node.desk._views["pi-2"]
            rests.append((view.shy_until_ns - node.now_ns) / SECOND)
            node.now_ns = view.shy_until_ns

        assert rests == [0.1] * 3 + [1, 2, 4, 8, 16] + [30] * 6

    def test_the_gateway_goes_and_the_mesh_goes_on(self):
        node = Node(up=["gateway", "pi-2"])
        node.say(PeerDown("gateway"))
        node.submit("t0")
        effects = node.submit("t1") + node.submit("for it", where="gateway")

        assert [peer for peer, _ in offers(effects)] == ["pi-2"]
        assert node.desk.state("for it") == ("waiting", "")
        assert [o.task for _, o in offers(node.say(PeerUp("gateway", MS)))] == ["for it"]

    def test_what_names_a_place_that_left_while_we_were_away_ends(self):
        node = Node()
        (fence,) = node.desk.restore(
            node.now_ns, WALL, [(a_task("t1", where="pi-9", accepted_at_ms=WALL), [])]
        )

        (append,) = of_type(node.say(Persisted(fence.serial)), Append)

        assert isinstance(append.records[0], Closed)
        assert append.records[0].outcome.cause.startswith("pi-9 is no member any more")


def test_estimates_of_a_peer_are_kept_by_its_class_too():
    node = Node(up=["pi-2", "pi-3"])
    for peer, label in (("pi-2", "zero"), ("pi-3", "zero")):
        node.say(PeerUp(peer, 2 * MS, {"class": label}))
    for n in range(20):
        node.submit(f"t{n}", where="pi-2")
        node.hear("pi-2", Result(f"t{n}", 1, "done", run_us=400_000, load=Load(1, 0)))
    node.desk.estimates.observe("room.changes", "pi-1", 0.1, 1.0, 0)

    zero = node.desk._candidate(node.now_ns, a_task("x"), node.desk._views["pi-3"])

    assert zero.service_s == pytest.approx(0.4, rel=0.2)


@pytest.mark.parametrize("how", [{"labels": {"zone": "here"}}, {"where": "local"}])
@pytest.mark.parametrize("by", ["its beat", "time"])
def test_work_that_must_stay_here_does_not_keep_the_rest_here(monkeypatch, how, by):
    """Many newer tasks for this place alone: those for any place still leave."""
    monkeypatch.setitem(LABELS, "pi-1", {"zone": "here"})
    node = Node()
    node.desk.estimates.observe("room.changes", "pi-1", 0.5, 1.0, 10)
    for n in range(10):
        node.submit(f"t{n}")
    for n in range(200):
        node.submit(f"here{n}", **how)
    node.say(PeerUp("pi-2", 2 * MS))
    if by == "time":
        monkeypatch.setattr(Desk, "_feed", lambda *told: None)
    effects = node.hear("pi-2", Load(1, 0)) + node.wait(SECOND // 4) + node.wait(SECOND // 4)

    assert {offer.task for _, offer in offers(effects)} <= {f"t{n}" for n in range(10)}
    assert len(offers(effects)) == AHEAD_TASKS


class TestStranded:
    """What no member that is up can take: it waits, and costs little while it does."""

    COUNT = 400

    def stranded(self, monkeypatch):
        node = Node(up=["pi-3", "pi-4"], offers_max=64)
        for n in range(self.COUNT):
            assert node.submit(f"t{n}", labels={"zone": "hall"}) and node.desk._live[0].name != "pi-2"
        tries: list[str] = []
        peers_for = Desk._peers_for
        monkeypatch.setattr(
            Desk,
            "_peers_for",
            lambda desk, now, entry, *more: tries.append(entry.task.id) or peers_for(desk, now, entry, *more),
        )
        return node, tries

    def test_a_thousand_of_them_are_tried_a_few_at_a_time_and_each_in_its_turn(self, monkeypatch):
        node, tries = self.stranded(monkeypatch)
        most = 0
        for _ in range(4 * 20):
            before = len(tries)
            node.now_ns += SECOND // 4
            node.desk.tick(node.now_ns, WALL)
            most = max(most, len(tries) - before)

        assert most <= 64 and len(set(tries)) == self.COUNT

    def test_news_of_others_costs_them_no_try(self, monkeypatch):
        node, tries = self.stranded(monkeypatch)
        for peer in ("pi-3", "pi-4") * 10:
            node.now_ns += 10 * MS
            node.desk.handle(node.now_ns, WALL, Heard(peer, Load(1, 0)))

        assert tries == []

    def test_all_of_them_go_to_the_one_that_fits_as_fast_as_it_takes_them(self, monkeypatch):
        node, _ = self.stranded(monkeypatch)
        desk, done_by = node.desk, 0
        effects = desk.handle(node.now_ns, WALL, PeerUp("pi-2", MS))
        while todo := [message.task for _, message in offers(effects)]:
            effects = []
            for task in todo:
                node.now_ns += MS
                effects += desk.handle(
                    node.now_ns, WALL, Heard("pi-2", Result(task, 1, "done", run_us=1000, load=Load(1, 0)))
                )
                done_by += 1
            for append in of_type(effects, Append):
                effects += desk.handle(node.now_ns, WALL, Persisted(append.serial))

        assert done_by == self.COUNT, "no tick was needed"
        desk.check()


@pytest.mark.parametrize("speed", [5e-324, float("inf"), float("nan"), -1.0])
def test_whatever_speed_a_peer_tells_of_itself_it_can_be_reckoned_with(speed):
    node = Node(up=["pi-2"])
    node.desk.estimates.observe("room.changes", "pi-3", 0.5, 1.0, 0)
    node.hear("pi-2", Load(1, 0, 0, speed))

    assert [peer for peer, _ in offers(node.submit("t1", where="pi-2"))] == ["pi-2"]
