"""P7 from outside: who is missing, cut off, blind or stuck once everything is healed."""

from __future__ import annotations

import pytest

from device_sim.virtual.checkers.finishes import Finishes
from device_sim.virtual.evidence import Event, Sampled
from tests.support.virtual_stories import Story, name_of, ns


def verdict(story: Story):
    return story.judged_by(Finishes())


def the_violation(story: Story) -> str:
    found = verdict(story)
    assert (found.word, found.total) == ("failed", 1), found
    return found.violations[0]


@pytest.fixture
def story() -> Story:
    """Struck, healed at 100 s, idle and connected until 300 s."""
    told = Story().started("gateway", "pi-1", "pi-2")
    told.at_s = 300.0
    told.crashes(50.0, "pi-1")
    told.started("pi-1", at_s=60.0)
    told.happens(100.0, "heal")
    told.settled(120.0, told.accepted(110.0, "pi-1", 1))
    for at_s in range(105, 300, 10):
        for node in ("gateway", "pi-1", "pi-2"):
            told.shows(at_s, node, settled=1 if (node, at_s > 120) == ("pi-1", True) else 0)
    return told


def stuck(story: Story, node: str, begin_s: int, end_s: int, **status) -> None:
    """The samples of that time show open tasks and no movement."""

    def replaced(event: Event) -> bool:
        return type(event) is Sampled and event.node == node and ns(begin_s) <= event.at_ns <= ns(end_s)

    story.events = [event for event in story.events if not replaced(event)]
    for at_s in range(begin_s, end_s + 1, 10):
        story.shows(at_s, node, **({"open_tasks": 2, "settled": 1} | status))


def test_a_fleet_that_comes_to_rest_passes(story):
    assert (verdict(story).word, verdict(story).why) == ("passed", "")


def test_a_run_without_a_liveness_phase_promises_nothing(story):
    story.healed_s = None
    story.is_silent(299.0, "pi-1")

    assert (verdict(story).word, verdict(story).why) == ("not applicable", "the run had no liveness phase")


def test_without_a_status_after_the_heal_there_is_nothing_to_judge():
    story = Story().started("pi-1")
    story.shows(10.0, "pi-1")
    story.happens(50.0, "heal")

    assert verdict(story).word == "not applicable"
    assert verdict(story).why == "nobody was asked for its status after the heal"


def test_nodes_that_were_not_asked_are_counted(story):
    story.started("pi-3", at_s=1.0)

    assert verdict(story).why == "1 nodes were not asked for their status"


def test_a_node_that_is_down_is_told_unless_it_was_taken_away(story):
    story.crashes(200.0, "pi-1", "power")
    assert "300.000 s pi-1: down since a power, and nothing took it away for good" in the_violation(story)

    story.gone["pi-1"] = "power"
    assert verdict(story).word == "passed"


def test_a_node_that_does_not_answer_is_told(story):
    story.is_silent(299.0, "pi-1")

    assert the_violation(story) == "299.000 s pi-1: does not answer"


@pytest.mark.parametrize(
    ("status", "what"),
    [
        ({"connected": False}, "is not connected to the broker"),
        ({"connected": None}, "tells of no broker"),
        ({"member": False}, "is no member"),
        ({"member": None}, "does not tell whether it is a member"),
        ({"peers_up": ("pi-2",)}, "does not see the gateway up"),
    ],
)
def test_a_node_that_is_not_wholly_there_is_told(story, status, what):
    story.shows(298.0, "pi-1", settled=1, **status)
    assert the_violation(story) == f"298.000 s pi-1: {what}"

    story.shows(299.0, "pi-1", settled=1)  # the last look counts
    assert verdict(story).word == "passed"


def test_the_gateway_need_not_see_itself(story):
    story.shows(299.0, "gateway", peers_up=())

    assert verdict(story).word == "passed"


def test_a_task_open_long_after_its_time_is_told(story):
    task = story.accepted(150.0, "pi-1", 7, ttl_s=60.0)

    assert the_violation(story) == f"300.000 s pi-1 {task}: still open, long after its time to live"


def test_a_task_whose_time_was_over_before_the_heal_has_the_grace_from_then_on(story):
    story.accepted(70.0, "pi-1", 7, ttl_s=10.0)
    assert "still open" in the_violation(story)

    story.at_s = 109.0
    assert verdict(story).word == "passed"


def test_an_open_task_that_has_time_left_may_be_open(story):
    story.accepted(280.0, "pi-1", 7, ttl_s=60.0)
    story.shows(299.0, "pi-1", open_tasks=1, settled=1)

    assert verdict(story).word == "passed"


def test_a_stall_is_told(story):
    """Connected, open tasks, and for longer than a minute nothing moves."""
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0)
    stuck(story, "pi-1", 135, 295)

    assert (
        the_violation(story) == "195.000 s pi-1: stalled: 2 tasks open, connected, and nothing moved for 70 s"
    )


def test_a_stall_that_ended_was_one(story):
    stuck(story, "pi-1", 135, 215)

    assert "stalled" in the_violation(story)


def test_short_of_a_minute_is_no_stall(story):
    stuck(story, "pi-1", 135, 185)

    assert verdict(story).word == "passed"


@pytest.mark.parametrize("how", ["told", "own work elsewhere", "work of others here", "settled", "start"])
def test_whatever_moves_is_no_stall(story, how):
    task = story.accepted(125.0, "pi-1", 7, ttl_s=3600.0)
    stuck(story, "pi-1", 135, 245)
    if how == "told":
        story.settled(190.0, task)
    elif how == "own work elsewhere":
        story.runs(190.0, "pi-2", task)
    elif how == "work of others here":
        story.runs(190.0, "pi-1", story.accepted(180.0, "pi-2", 8, ttl_s=3600.0))
    elif how == "settled":
        stuck(story, "pi-1", 185, 245, settled=2)
    else:
        story.started("pi-1", at_s=190.0)
    story.shows(251.0, "pi-1", settled=9)

    assert [line for line in verdict(story).violations if "stalled" in line] == []


def test_work_of_another_owner_elsewhere_moves_nothing_here(story):
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0)
    stuck(story, "pi-1", 135, 245)
    story.runs(190.0, "gateway", story.accepted(180.0, "pi-2", 8, ttl_s=3600.0))

    assert "pi-1: stalled" in the_violation(story)


def refused(story: Story, node: str, *, until_s: int = 295, works_until_s: int = 300) -> None:
    """From 135 s on its offers find the gateway's queue full, which works on for pi-2 until then."""
    stuck(story, node, 135, 295)
    for number, at_s in enumerate(range(135, 296, 10)):
        asked = number if at_s <= until_s else (until_s - 135) // 10
        stuck(story, node, at_s, at_s, refused_by_peers={"queue full": asked})
        if at_s <= works_until_s:
            story.runs(at_s - 1, "gateway", name_of(50 + number))


def test_who_is_for_one_full_place_alone_waits_for_its_turn(story):
    """A gateway with one worker and a hundred tasks of 1.5 s turns newcomers away for two minutes."""
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0, where="gateway")
    refused(story, "pi-1")
    assert verdict(story).word == "passed"

    story.accepted(126.0, "pi-1", 8, ttl_s=3600.0)  # this one could have run at home
    assert "pi-1: stalled" in the_violation(story)


@pytest.mark.parametrize("where", ["any", "local", "pi-1"])
def test_who_may_work_itself_has_no_turn_to_wait_for(story, where):
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0, where=where)
    refused(story, "pi-1")
    story.runs(190.0, "pi-1", name_of(40))  # work of others: what it ends itself is no turn of its own

    assert "255.000 s pi-1: stalled" in the_violation(story)


def test_who_has_ceased_to_ask_is_stalled(story):
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0, where="gateway")
    refused(story, "pi-1", until_s=195)

    assert "265.000 s pi-1: stalled" in the_violation(story)


def test_a_full_place_that_does_not_work_gives_nobody_a_turn(story):
    """The last attempt there ends at 144 s: it is believed for a time limit, and a minute later told."""
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0, where="gateway")
    refused(story, "pi-1", works_until_s=145)

    assert "265.000 s pi-1: stalled" in the_violation(story)


def test_a_task_that_has_ended_is_no_reason_to_have_worked(story):
    """It may have run anywhere, but it is over: what is left is for the gateway alone."""
    story.accepted(125.0, "pi-1", 7, ttl_s=3600.0, where="gateway")
    story.settled(128.0, story.accepted(126.0, "pi-1", 8, ttl_s=3600.0))
    refused(story, "pi-1")

    assert verdict(story).word == "passed"


@pytest.mark.parametrize("busy", ["running_here", "leases"])
def test_an_attempt_under_way_may_take_its_time_limit_more(story, busy):
    stuck(story, "pi-1", 125, 245, **{busy: 1})
    assert verdict(story).word == "passed"

    stuck(story, "pi-1", 125, 265, **{busy: 1})
    assert "nothing moved for 130 s" in the_violation(story)


def test_a_node_that_is_cut_off_is_not_stalled_but_told_for_that(story):
    stuck(story, "pi-1", 135, 295, connected=False)

    assert "is not connected to the broker" in the_violation(story)


def test_before_the_heal_nobody_stalls(story):
    story.accepted(61.0, "pi-2", 7, ttl_s=3600.0)
    story.events = [event for event in story.events if event.at_ns != ns(100.0)]
    stuck(story, "pi-2", 65, 155, settled=0)
    story.happens(100.0, "heal")

    assert verdict(story).word == "passed"


@pytest.mark.parametrize(
    "pinned", [{"where": "pi-9"}, {"labels": {"room": "cold"}}, {"requires": ("numpy",)}]
)
def test_tasks_that_may_run_nowhere_wait_rightly(story, pinned):
    story.started("pi-9")
    story.gone["pi-9"] = "kill"
    task = story.asks(125.0, "pi-1", 7, ttl_s=3600.0)
    story.keeps_accept(125.0, task, **pinned)
    story.answers(125.1, task)
    stuck(story, "pi-1", 135, 295)
    assert verdict(story).word == "passed"

    story.accepted(126.0, "pi-1", 8, ttl_s=3600.0)
    assert "stalled" in the_violation(story)
