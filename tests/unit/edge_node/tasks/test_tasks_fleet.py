"""Real desks against each other in virtual time: makespans, herds, messages, and peers that go.

Deterministic: every figure asserted on is the same in every run and on every machine.
"""

from __future__ import annotations

import pytest

from edge_node.tasks.desk import Desk, PeerDown, PeerUp
from edge_node.wire.messages import Offer
from tests.support.virtual_desks import RandomDesk, TwoByHeartbeatDesk, VirtualFleet

SECOND = 1_000_000_000
HERD = (1, 1, 1, 2, 2, 2, 4, 4)
pytestmark = pytest.mark.slow  # seconds of virtual time are some tenths of real ones


def boards(*speeds, workers=1):
    return {f"pi-{n}": (float(speed), workers) for n, speed in enumerate(speeds)}


class TestBursts:
    """1 000 tasks submitted at once, their function never seen before, round trips of 2 to 5 ms."""

    def test_four_equal_nodes_reach_nine_tenths_of_the_ideal_speed_up(self):
        alone = VirtualFleet(boards(1)).burst("pi-0", 1000, 0.02)
        together = VirtualFleet(boards(1, 1, 1, 1)).burst("pi-0", 1000, 0.02)

        assert alone / together >= 0.9 * 4

    @pytest.mark.parametrize("work_s", [0.002, 0.02, 0.1])
    @pytest.mark.parametrize("speeds", [(1, 2, 4), (4, 2, 1)])
    def test_unequal_nodes_come_close_to_the_ideal_makespan(self, speeds, work_s):
        fleet = VirtualFleet(boards(*speeds))

        took_s = fleet.burst("pi-0", 1000, work_s)

        ideal_s = 1000 * work_s / sum(speeds)
        assert took_s <= 1.15 * ideal_s
        assert max(max(board.ran.values()) for board in fleet.boards.values()) == 1, "nothing ran twice"

    def test_it_does_not_matter_that_nobody_was_heard_before(self):
        """No beat, no load: the first answers to looks and offers are all there is to go by."""
        fleet = VirtualFleet(boards(1, 2, 4), beats=False)

        assert fleet.burst("pi-0", 1000, 0.02) <= 1.15 * 1000 * 0.02 / 7

    def test_several_workers_a_node_are_used(self):
        fleet = VirtualFleet(boards(1, 1, 1, workers=4))

        assert fleet.burst("pi-0", 1000, 0.02) <= 1.15 * 1000 * 0.02 / 12

    def test_tasks_a_thousand_times_longer_than_expected(self):
        """The guess for an unknown function is 20 ms; what was sent ahead on it must stay little."""
        fleet = VirtualFleet(boards(1, 2, 4))

        assert fleet.burst("pi-0", 70, 20.0) <= 1.35 * 70 * 20 / 7, "ten each: one task is a tenth of it"


class TestHerd:
    """Eight owners, speeds 1/2/4, 90 % load, exponential work of 100 ms (speed 1), round trips 2-50 ms."""

    def fleet(self, desk, seed, load=0.9, seconds=12):
        fleet = VirtualFleet(boards(*HERD), seed=seed, rtt_ms=(2, 50), desk=desk)
        fleet.load_up(load=load, work_s=0.1, seconds=seconds)
        return fleet

    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_pool_beats_two_by_heartbeat_and_that_beats_chance(self, seed):
        pool, two, chance = (
            self.fleet(desk, seed).mean_response_s(skip_s=3)
            for desk in (Desk, TwoByHeartbeatDesk, RandomDesk)
        )

        assert pool < 0.35 * two
        assert two < 0.8 * chance
        assert pool < 0.3, "three times the 85 ms that a board of average speed takes with nobody waiting"

    @pytest.mark.parametrize("load", [0.6, 0.9])
    def test_at_most_three_control_messages_a_task(self, load):
        fleet = self.fleet(Desk, 4, load)

        assert fleet.told["Probe"] > 0
        assert fleet.control_messages_per_task() <= 3.0

    def test_the_same_seed_is_the_same_run(self):
        one, two = self.fleet(Desk, 5, seconds=4), self.fleet(Desk, 5, seconds=4)

        assert one.response_s == two.response_s and one.told == two.told

    def test_a_fleet_that_needs_nobody_sends_no_message(self):
        fleet = VirtualFleet(boards(4, 4, 4), beats=False)
        for n in range(200):
            fleet.submit(f"pi-{n % 3}", 0.02)
            fleet.run_for(0.05)

        assert len(fleet.outcomes) == 200
        assert not fleet.told


class TestPeersThatGo:
    def test_a_silent_holder_costs_its_lease_and_a_second(self):
        """It neither answers nor goes down: the lease is all that tells."""
        fleet = VirtualFleet(boards(1, 1, 1), beats=False)
        fleet.silent.add("pi-1")
        for _ in range(30):
            fleet.submit("pi-0", 0.3)
        leases = {}
        desk = fleet.desks["pi-0"]
        for task in desk._leases.held_by("pi-1"):
            leases[task] = desk._leases.of(task).length_ns / 1e9
        assert leases

        fleet.run(lambda: len(fleet.outcomes) == 30, seconds=60)

        for task, lease_s in leases.items():
            lost, again, *_ = fleet.outcomes[task].attempts
            assert (lost.node, lost.ended_as) == ("pi-1", "lapsed")
            assert again.number == 2 and again.node != "pi-1"
            given_up_s = (lost.ended_at_ms - fleet.wall_of(task)) / 1e3
            assert given_up_s <= lease_s + 1.0
        assert all(outcome.status == "done" for outcome in fleet.outcomes.values())

    def test_a_holder_that_goes_down_gives_its_work_to_other_peers(self):
        fleet = VirtualFleet(boards(1, 4, 4))
        for _ in range(60):
            fleet.submit("pi-0", 0.2)
        fleet.run_for(0.5)
        fleet.cut("pi-1")

        fleet.run(lambda: len(fleet.outcomes) == 60, seconds=30)

        assert {outcome.status for outcome in fleet.outcomes.values()} == {"done"}
        moved = [o for o in fleet.outcomes.values() if o.attempts[0].node == "pi-1" and len(o.attempts) > 1]
        assert moved and any(outcome.place == "pi-2" for outcome in moved)

    def test_work_goes_on_between_nodes_while_the_gateway_is_away(self):
        fleet = VirtualFleet({"gateway": (4.0, 2), **boards(1, 1, 1)})
        fleet.cut("gateway")
        for n in range(100):
            fleet.submit("pi-0", 0.05)
            if n == 50:
                fleet.submit("pi-0", 0.05, where="gateway")
        fleet.run(lambda: len(fleet.outcomes) == 100, seconds=5)

        assert {outcome.place for outcome in fleet.outcomes.values()} == {"local", "pi-1", "pi-2"}
        fleet.run_for(5)
        assert len(fleet.outcomes) == 100, "what only the gateway may run waits"
        fleet.silent.clear()
        fleet.say("pi-0", PeerUp("gateway", 3_000_000))
        fleet.run(lambda: len(fleet.outcomes) == 101, seconds=5)

    def test_without_a_broker_local_work_goes_on_and_leases_are_waited_for(self):
        fleet = VirtualFleet(boards(1, 1, 1), beats=False)
        for _ in range(40):
            fleet.submit("pi-0", 0.1)
        fleet.run_for(0.3)
        held = {
            task for task in fleet.born_ns if (fleet.desks["pi-0"].state(task) or "..")[1] in ("pi-1", "pi-2")
        }
        assert held
        fleet.silent.update(boards(1, 1, 1))
        for peer in ("pi-1", "pi-2"):
            fleet.say("pi-0", PeerDown(peer, quiet=True))
        ticks = fleet.ticks["pi-0"]

        fleet.run(lambda: len(fleet.outcomes) == 40, seconds=30)

        assert {outcome.status for outcome in fleet.outcomes.values()} == {"done"}
        assert all(fleet.outcomes[task].attempts[0].ended_as == "lapsed" for task in held)
        assert fleet.ticks["pi-0"] - ticks < 100, "no busy loop"

    def test_an_offer_that_is_lost_is_made_again_elsewhere(self):
        fleet = VirtualFleet(boards(1, 2, 4), seed=3)
        fleet.lose = lambda me, peer, message: isinstance(message, Offer) and fleet.rng.random() < 0.3
        for _ in range(200):
            fleet.submit("pi-0", 0.02)

        fleet.run(lambda: len(fleet.outcomes) == 200, seconds=60)

        assert {outcome.status for outcome in fleet.outcomes.values()} == {"done"}
