"""What the graph of the mesh is told: everything once, then what moved; and the lines of its nodes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.console.frames import CELLS, TOTALS, Frames, coarse
from gateway.console.trails import EVERY_NS, PAUSE_NS, SAMPLES, Trails

SECOND = 1_000_000_000


def node(name, **given):
    return {
        "id": name, "status": "active", "up": True, "work": "work", "load_s": 0.0, "workers": 2, "running": 0,
        "rtt_ms": None, "roles": ["node"], "labels": {}, "restarts": 0, **given,
    }  # fmt: skip


def link(name, **given):
    return {"a": "gateway", "b": name, "up": True, "rtt_ms": 3.2, "in_bytes_s": 0, "out_bytes_s": 0, **given}


def picture(version, nodes, links=(), pending=(), **totals):
    return {
        "version": version, "since": 0, "nodes": list(nodes), "links": list(links), "pending": list(pending),
        "totals": {
            "members": len(nodes), "up": 0, "workers": 0, "load_s": 0.0, "open": 0, "running": 0,
            "accepted": 0, "settled": 0, "away": 0, "in_bytes_s": 0, "out_bytes_s": 0, "connected": True,
            **totals,
        },
    }  # fmt: skip


class Page:
    """What a browser makes of frames (`static/mesh_graph.js`, ``told``)."""

    def __init__(self):
        self.version, self.rows, self.pending = 0, [], []

    def hear(self, frames):
        frame = frames.since(self.version)
        if frame is None:
            return None
        if not frame["s"]:
            self.rows = [list(each) for each in frame["n"]]
        else:
            assert frame["s"] == self.version
            for number, *cells in frame["n"]:
                assert number <= len(self.rows)
                self.rows[number : number + 1] = [cells]
            for number, load, running, rtt, come, went in frame["d"]:
                self.rows[number][3:6] = [load, running, rtt]
                self.rows[number][7:9] = [come, went]
        self.pending = frame.get("p", self.pending)
        self.version = frame["v"]
        return frame


def test_the_first_frame_is_everything_and_the_next_one_only_what_moved():
    frames, page = Frames(), Page()
    a, b = node("a"), node("b")
    frames.tell(0, picture(1, [a, b], [link("a")]))
    first = page.hear(frames)

    busy = node("b", load_s=1.234, running=1)
    frames.tell(SECOND, picture(2, [a, busy], [link("a")]))
    second = page.hear(frames)

    assert (first["s"], len(first["n"]), first["p"]) == (0, 2, [])
    assert (second["s"], second["n"], second["d"]) == (1, [], [[1, 1.2, 1, None, 0, 0]])
    assert "p" not in second and len(second["t"]) == len(TOTALS)
    assert frames.since(2) is None


def test_what_no_eye_can_tell_apart_is_not_told():
    frames, page = Frames(), Page()
    frames.tell(0, picture(1, [node("a", load_s=12.31)]))
    page.hear(frames)
    frames.tell(SECOND, picture(2, [node("a", load_s=12.34)]))

    told = page.hear(frames)

    assert told["n"] == told["d"] == []


def test_who_missed_a_frame_is_told_everything():
    frames, late = Frames(), Page()
    frames.tell(0, picture(1, [node("a")]))
    late.hear(frames)
    for version in (2, 3):
        frames.tell(version * SECOND, picture(version, [node("a", load_s=version)]))

    told = late.hear(frames)

    assert told["s"] == 0 and late.rows[0][CELLS.index("load_s")] == 3


def test_a_revoked_member_is_out_of_the_picture():
    frames, page = Frames(), Page()
    frames.tell(0, picture(1, [node("a"), node("b")]))
    page.hear(frames)

    frames.tell(SECOND, picture(2, [node("a", status="revoked", up=False), node("b")]))

    assert page.hear(frames)["s"] == 0
    assert [row[0] for row in page.rows] == ["b"]


def test_states_links_and_rests_are_numbers():
    frames, page = Frames(), Page()
    nodes = [
        node("away", up=False, seen_at_ms=5, reason="silent"), node("never", up=False),
        node("calm", work="drain"),
    ]  # fmt: skip
    frames.tell(0, picture(1, nodes, [link("away", up=False), link("calm", in_bytes_s=1234)]))
    page.hear(frames)

    rows = {row[0]: dict(zip(CELLS, row, strict=True)) for row in page.rows}

    assert [(rows[each]["state"], rows[each]["work"], rows[each]["link"]) for each in rows] == [
        (1, 0, 2), (2, 0, 0), (0, 2, 1),
    ]  # fmt: skip
    assert (rows["away"]["reason"], rows["away"]["seen_at_ms"]) == ("silent", 5)
    assert rows["calm"]["in_bytes_s"] == 1200


def test_rates_are_over_five_seconds_and_begin_anew_with_the_gateway():
    frames = Frames()

    def rates(second, accepted, settled):
        frames.tell(second * SECOND, picture(second + 1, [], accepted=accepted, settled=settled))
        totals = dict(zip(TOTALS, frames.since(0)["t"], strict=True))
        return totals["accepted_s"], totals["done_s"]

    assert rates(0, 100, 90) == (0, 0)
    assert rates(1, 110, 94) == (10, 4)
    assert rates(2, 110, 98) == (5, 4)
    assert rates(8, 120, 98) == (0, 0), "what is older than five seconds does not count"
    assert rates(9, 3, 3) == (0, 0), "it was started anew"


def test_who_waits_is_told_when_that_moves():
    frames, page = Frames(), Page()
    frames.tell(0, picture(1, []))
    page.hear(frames)
    frames.tell(SECOND, picture(2, [], pending=[{"id": "pi-7", "address": "192.0.2.7", "asked_at_ms": 9}]))

    assert page.hear(frames)["p"] == [["pi-7", "192.0.2.7", 9]]


@pytest.mark.parametrize(
    ("figure", "told"),
    [(0, 0), (0.004, 0), (0.0349, 0.03), (0.128, 0.13), (3.14159, 3.1), (1234, 1200), (99.6, 100)],
)
def test_figures_have_two_digits_that_count(figure, told):
    assert coarse(figure) == told


members = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.booleans(), st.floats(0, 20), st.booleans(), st.sampled_from(["", "x"])),
    max_size=6,
)


@pytest.mark.slow
@given(st.lists(st.tuples(members, st.booleans()), max_size=12))
def test_a_page_that_hears_some_frames_has_what_one_has_that_came_last(script):
    """Whatever comes, goes and moves, and whichever frames a page was told."""
    frames, page, versions = Frames(), Page(), itertools.count(1)
    for second, (mesh, looks) in enumerate(script):
        nodes = [
            node(name, up=up, load_s=load, labels={"site": site} if site else {})
            for name, (up, load, _, site) in mesh.items()
        ]
        links = [link(name, in_bytes_s=load * 1000) for name, (_, load, tied, _) in mesh.items() if tied]
        frames.tell(second * SECOND, picture(next(versions), nodes, links))
        frames.check()
        if looks:
            page.hear(frames)
    page.hear(frames)
    fresh = Page()
    if frames.version:
        fresh.hear(frames)

    assert sorted(page.rows) == sorted(fresh.rows)
    assert page.pending == fresh.pending


def test_a_trail_has_a_sample_of_everybody_every_two_seconds():
    trails = Trails()
    for second in range(10):
        trails.tell(second * SECOND, second * 1000, picture(second, [node("a", load_s=second)]))
    trails.check()

    assert trails.of("a") == [(at * 1000, float(at)) for at in (0, 2, 4, 6, 8)]
    assert trails.of("b") == []


def test_a_trail_shows_when_its_node_was_away_and_not_there_yet():
    trails = Trails()
    trails.tell(0, 0, picture(1, [node("a", load_s=1)]))
    trails.tell(EVERY_NS, 2000, picture(2, [node("a", up=False), node("b", load_s=2)]))

    assert trails.of("a") == [(0, 1.0), (2000, None)]
    assert trails.of("b") == [(0, None), (2000, 2.0)]


def test_a_trail_is_bounded_and_begins_anew_after_a_pause():
    trails = Trails()
    for turn in range(SAMPLES + 5):
        trails.tell(turn * EVERY_NS, turn, picture(turn, [node("a")]))
        trails.check()
    long = len(trails.of("a"))
    trails.tell((SAMPLES + 5) * EVERY_NS + PAUSE_NS, 9999, picture(0, [node("a")]))

    assert long == SAMPLES
    assert trails.of("a") == [(9999, 0.0)]
