"""The timeline of a story: lanes, marks, what ran, ways, what is missing, and waits drawn short."""

from __future__ import annotations

from edge_node.chronicle.entry import Entry, Subject, What
from gateway.console.timeline import MARKS_MAX, parts, timeline

WALL = 1_790_000_000_000
TASK = "06h0g9w2z3yg0naak193w1g"


def entry(what, at=0, *, node="gateway", place="", attempt=0, id=TASK, subject="task", cause=TASK, number=1,
          **details):  # fmt: skip
    return {
        "number": number, "at_ms": WALL + at, "node": node, "subject": subject, "id": id, "what": what.value,
        "cause": cause, "place": place, "attempt": attempt, "details": details,
    }  # fmt: skip


def answer(*entries, sides=(), missing=(), about=TASK, at=20_000):
    nodes = dict.fromkeys(each["node"] for each in entries)
    plain = [{"node": name, "complete": True, "since_ms": 0, "skew_ms": 0} for name in nodes]
    known = {each["node"] for each in sides}
    return {
        "about": about, "asked_by": "gateway", "at_ms": WALL + at, "entries": list(entries),
        "sides": [*sides, *(each for each in plain if each["node"] not in known)],
        "missing": list(missing), "others_asked": True,
    }  # fmt: skip


ACCEPTED = entry(What.ACCEPTED, function="toys.nap", number=0)


def ran(at, place, attempt=1, *, began, ended="done"):
    return entry(What.ATTEMPTED, at, place=place, attempt=attempt, number=0, started_at_ms=WALL + began,
                 **{"as": ended})  # fmt: skip


def settled(at, place, attempt=1, status="done"):
    return entry(What.SETTLED, at, place=place, attempt=attempt, number=0, status=status)


def lane_of(told, name):
    return next(index for index, lane in enumerate(told["lanes"]) if lane["node"] == name)


def kinds(told):
    return [(each["kind"], told["lanes"][each["lane"]]["node"], each["t"] - WALL) for each in told["marks"]]


def test_work_done_elsewhere_has_a_lane_there_a_run_and_ways_both_ways():
    told = timeline(answer(ACCEPTED, ran(60, "pi-1", began=10), settled(70, "pi-1")))

    assert [(lane["node"], lane["owner"]) for lane in told["lanes"]] == [("gateway", True), ("pi-1", False)]
    assert kinds(told) == [("accepted", "gateway", 0), ("ran", "pi-1", 60), ("result", "gateway", 70)]
    (run,) = (each for each in told["spans"] if each["kind"] == "run")
    assert (run["lane"], run["from"] - WALL, run["to"] - WALL) == (1, 10, 60)
    assert [(w["kind"], w["lane"], w["from"] - WALL, w["to_lane"], w["to"] - WALL) for w in told["ways"]] == [
        ("offer", 0, 0, 1, 10),
        ("result", 1, 60, 0, 70),
    ]


def test_work_done_by_its_owner_has_one_lane_and_no_way():
    told = timeline(answer(ACCEPTED, ran(60, "gateway", began=10), settled(61, "gateway")))

    assert [lane["node"] for lane in told["lanes"]] == ["gateway"]
    assert told["ways"] == []
    assert [each["kind"] for each in told["spans"]] == ["kept", "run"]


def test_a_lease_that_lapsed_is_a_lost_way_and_its_place_is_shown_as_missing():
    told = timeline(
        answer(
            ACCEPTED,
            entry(What.PLACED, 2, place="pi-3", attempt=1, rule="soonest", figures="pi-3: soonest"),
            entry(What.LAPSED, 4_000, place="pi-3", attempt=1, reason="lease lapsed", silent_ms=3_000),
            ran(4_100, "pi-1", 2, began=4_010),
            settled(4_110, "pi-1", 2),
            missing=[{"node": "pi-3", "reason": "could not be asked: it is away", "since_ms": WALL + 900}],
        )
    )

    lane = told["lanes"][lane_of(told, "pi-3")]
    assert (lane["missing"], lane["missing_since"]) == ("could not be asked: it is away", WALL + 900)
    assert [(each["kind"], each["to_lane"]) for each in told["ways"]] == [
        ("lost", lane_of(told, "pi-3")),
        ("offer", lane_of(told, "pi-1")),
        ("result", lane_of(told, "gateway")),
    ]
    assert told["ways"][1]["from"] == WALL + 4_000  # given out again once it was given up
    assert any("pi-3 could not be asked" in str(each[0]) for each in told["remarks"])


def test_an_offer_that_was_refused_is_a_way_to_the_moment_of_the_refusal():
    told = timeline(
        answer(
            ACCEPTED,
            entry(What.PLACED, 2, place="pi-2", attempt=1, rule="soonest", figures="pi-2: soonest"),
            entry(What.REFUSED, 7, node="pi-2", place="gateway", attempt=1, reason="queue full"),
            entry(What.TURNED_DOWN, 9, place="pi-2", attempt=1, reason="queue full"),
        )
    )

    assert told["ways"] == [
        {"lane": 0, "from": WALL + 2, "to_lane": 1, "to": WALL + 7, "kind": "refused"},
    ]


def test_a_place_that_tells_nothing_has_a_lane_all_the_same():
    told = timeline(
        answer(ACCEPTED, missing=[{"node": "pi-9", "reason": "did not answer within 2 s", "since_ms": 0}])
    )

    assert told["lanes"][1]["missing"] == "did not answer within 2 s"
    assert all(each["lane"] == 0 for each in told["marks"])


def test_a_side_that_has_forgotten_says_before_when():
    side = {"node": "pi-1", "complete": False, "since_ms": WALL + 30, "skew_ms": 0}
    told = timeline(answer(ACCEPTED, ran(60, "pi-1", began=10), settled(70, "pi-1"), sides=[side]))

    lane = told["lanes"][1]
    assert (lane["forgot_before"], lane["partly"]) == (WALL + 30, True)


def test_a_lease_that_its_holder_tells_of_waits_and_then_runs():
    told = timeline(
        answer(
            ACCEPTED,
            entry(What.TOOK, 5, node="pi-1", place="gateway", attempt=1),
            entry(What.RAN, 60, node="pi-1", place="gateway", attempt=1, status="done",
                  started_at_ms=WALL + 40),
            settled(70, "pi-1"),
        )
    )  # fmt: skip

    spans = [(s["kind"], s["from"] - WALL, s["to"] - WALL) for s in told["spans"] if s["lane"] == 1]
    assert spans == [("run", 40, 60), ("held", 5, 40)]
    assert told["ways"][0] == {"lane": 0, "from": WALL, "to_lane": 1, "to": WALL + 5, "kind": "offer"}


def test_what_is_still_open_lasts_until_now():
    told = timeline(
        answer(
            ACCEPTED,
            entry(What.TOOK, 5, node="pi-1", place="gateway", attempt=1),
            entry(What.NOW, 9_000, place="pi-1", number=0, state="placed"),
            at=9_000,
        )
    )

    assert told["to"] == WALL + 9_000
    assert {(s["kind"], s["to"] - WALL) for s in told["spans"]} == {("kept", 9_000), ("held", 9_000)}
    assert kinds(told)[-1][0] == "now"


def test_a_clock_that_is_far_off_is_taken_off_and_one_that_is_near_keeps_the_order():
    side = {"node": "pi-1", "complete": True, "since_ms": 0, "skew_ms": 60_000}
    far = timeline(
        answer(
            ACCEPTED,
            entry(What.TOOK, 60_005, node="pi-1", place="gateway", attempt=1),
            settled(70, "pi-1"),
            sides=[side],
        )
    )
    near = timeline(
        answer(ACCEPTED, entry(What.TOOK, -7, node="pi-1", place="gateway", attempt=1), settled(70, "pi-1"))
    )

    assert [each[2] for each in kinds(far)] == [0, 5, 70]
    assert [each[2] for each in kinds(near)] == [0, 0, 70]
    assert near["sentences"][1]["at"] == WALL - 7  # told as it was noted


def test_a_result_that_came_late_is_a_duplicate():
    late = entry(What.NOT_USED, 90, place="pi-1", attempt=1, status="done")
    told = timeline(answer(ACCEPTED, ran(60, "pi-2", 2, began=10), settled(70, "pi-2", 2), late))

    assert ("duplicate", "gateway", 90) in kinds(told)


def test_an_attempt_that_was_taken_back_was_stopped_and_one_that_ended_badly_was_lost():
    taken_back = timeline(answer(ACCEPTED, ran(5, "pi-1", began=0, ended="cancelled")))
    expired = timeline(answer(ACCEPTED, ran(5, "pi-1", began=0, ended="lost in a restart")))
    failed = timeline(answer(ACCEPTED, ran(5, "pi-1", began=1, ended="failed")))

    told = [(t["marks"][-1]["kind"], t["marks"][-1]["tone"]) for t in (taken_back, expired, failed)]
    assert told == [("stopped", "quiet"), ("lost", "bad"), ("ran", "bad")]


def test_how_it_ended_colours_the_mark():
    tones = {}
    for status in ("done", "failed", "expired", "cancelled", "quarantined"):
        told = timeline(answer(ACCEPTED, settled(10, "", status=status)))
        tones[status] = told["marks"][-1]["tone"]

    assert tones == {
        "done": "good", "failed": "bad", "expired": "quiet", "cancelled": "quiet", "quarantined": "bad",
    }  # fmt: skip


def test_a_long_wait_is_drawn_short_and_a_long_run_is_not():
    hours = 3 * 3_600_000
    waited = timeline(answer(ACCEPTED, ran(hours + 60, "pi-1", began=hours), settled(hours + 70, "pi-1")))
    lasted = timeline(answer(ACCEPTED, ran(hours, "pi-1", began=10), settled(hours + 5, "pi-1")))

    assert waited["breaks"] == [[WALL, WALL + hours]]
    assert lasted["breaks"] == []


def test_a_wait_beside_a_single_step_is_drawn_as_long_as_it_was():
    told = timeline(answer(ACCEPTED, ran(297, "gateway", began=297), settled(298, "gateway")))

    assert told["breaks"] == []


def test_two_long_waits_are_both_drawn_short():
    told = timeline(
        answer(
            ACCEPTED,
            entry(What.LAPSED, 100_000, place="pi-3", attempt=1, reason="x"),
            ran(200_020, "pi-1", 2, began=200_010),
            settled(200_030, "pi-1", 2),
        )
    )

    assert told["breaks"] == [[WALL, WALL + 100_000], [WALL + 100_000, WALL + 200_010]]


def test_every_sentence_is_told_and_the_newest_are_drawn():
    count = MARKS_MAX + 25
    flaps = [
        entry(
            What.LOST if n % 2 else What.BACK,
            n * 1000,
            id="pi-1",
            subject="node",
            cause=f"n-{n}",
            number=n + 1,
        )
        for n in range(count)
    ]
    told = timeline(answer(*flaps, about="pi-1"))

    assert len(told["sentences"]) == count
    assert [each["n"] for each in told["marks"]] == list(range(26, count + 1))
    assert told["from"] == WALL + 25_000


def test_moments_in_sentences_are_left_to_the_browser():
    told = timeline(answer(ACCEPTED, ran(60, "pi-1", began=10), settled(70, "pi-1")))

    assert {"at": WALL + 10} in told["sentences"][1]["parts"]
    assert not any("\ue000" in str(each["parts"]) for each in told["sentences"])


def test_a_members_text_cannot_pass_for_a_moment_that_is_none():
    assert parts("a\ue000x\ue001b\ue0005\ue001c") == ["axb", {"at": 5}, "c"]


def test_what_else_can_be_asked_about_is_named_and_the_story_itself_is_not():
    lost = entry(What.LOST, 10, id="pi-3", subject="node", cause="n-7", number=2)
    told = timeline(answer(ACCEPTED, lost, settled(70, "pi-1")))

    assert [each["whys"] for each in told["sentences"]] == [[], ["n-7", "pi-3"], []]


def test_a_story_of_nothing_has_no_marks():
    told = timeline(answer(about="pi-1"))

    assert (told["marks"], told["sentences"], told["lanes"]) == ([], [], [])


def test_a_kind_of_a_later_version_is_a_plain_mark():
    odd = entry(What.ACCEPTED, 5) | {"what": "beamed up", "subject": Subject.NODE.value, "id": "pi-1"}
    told = timeline(answer(odd, about="pi-1"))

    assert (told["marks"][0]["kind"], told["marks"][0]["tone"]) == ("remark", "quiet")
    assert Entry(**odd).what in str(told["sentences"][0]["parts"])
