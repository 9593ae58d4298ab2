"""The picture of the mesh: every row once, then only what changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.wire.messages import Load
from gateway.fleet.picture import Picture, Surroundings, Way
from gateway.fleet.registry import Heard, Listed, Registry, WentDown
from security.roster import Member

SECOND = 1_000_000_000


class Mesh:
    """A registry with what surrounds it, and a picture of both."""

    def __init__(self, *ids):
        self.registry, self.picture = Registry(), Picture(begin=1_000_000)
        self.now_ns, self.asked = 0, 0
        self.ways, self.modes, self.lent, self.pending, self.done = {}, {}, {}, [], 0
        self.list("gateway", *ids)

    def list(self, *ids, revoked=()):
        members = [Member(i, (), ("node",), {}, "revoked" if i in revoked else "active") for i in ids]
        self.handle(Listed(tuple(members)))

    def handle(self, event):
        self.registry.handle(self.now_ns, event)
        self.registry.check()

    def around(self):
        self.asked += 1
        return Surroundings(
            us="gateway",
            ways=dict(self.ways),
            resting=lambda node: self.modes.get(node, "work"),
            lent=lambda node: self.lent.get(node, 0),
            own={"load_s": 0.5, "workers": 2, "running": 1},
            pending=list(self.pending),
            totals={"open": 7},
            done=self.done,
        )

    def look(self, after=0, later_s=1.0):
        self.now_ns += int(later_s * SECOND)
        wall_ms = 1_700_000_000_000 + self.now_ns // 1_000_000
        told = self.picture.look(self.now_ns, wall_ms, self.registry, self.around, after)
        self.picture.check()
        return told


def names(told):
    return sorted(row["id"] for row in told["nodes"])


@pytest.fixture
def mesh():
    return Mesh("pi-1", "pi-2", "pi-3")


def test_the_first_picture_is_of_everybody(mesh):
    mesh.handle(Heard("pi-1", Load(4, 2500)))

    told = mesh.look()

    rows = {row["id"]: row for row in told["nodes"]}
    assert told["since"] == 0 and sorted(rows) == ["gateway", "pi-1", "pi-2", "pi-3"]
    assert rows["pi-1"] == {
        "id": "pi-1", "status": "active", "up": True, "work": "work", "load_s": 2.5, "workers": 4,
        "running": 0, "rtt_ms": None, "roles": ["node"], "labels": {}, "restarts": 0,
    }  # fmt: skip
    assert (rows["gateway"]["up"], rows["gateway"]["workers"], rows["gateway"]["running"]) == (True, 2, 1)
    assert not rows["pi-2"]["up"] and "cut" not in rows["pi-2"], "it was never here"
    totals = told["totals"]
    assert (totals["members"], totals["up"], totals["workers"], totals["open"]) == (4, 2, 6, 7)
    assert totals["load_s"] == 3.0


def test_then_only_what_changed_is_told(mesh):
    mesh.handle(Heard("pi-1", Load(4, 0)))
    first = mesh.look()

    mesh.handle(Heard("pi-1", Load(4, 0)))
    same = mesh.look(first["version"])
    mesh.handle(Heard("pi-1", Load(4, 900)))
    mesh.modes["pi-2"], mesh.lent["pi-3"] = "pause", 2
    news = mesh.look(same["version"])

    assert (same["since"], same["nodes"], same["links"]) == (first["version"], [], [])
    assert names(news) == ["pi-1", "pi-2", "pi-3"]
    assert names(mesh.look(first["version"])) == ["pi-1", "pi-2", "pi-3"], "an older reader has the same news"
    assert names(mesh.look()) == ["gateway", "pi-1", "pi-2", "pi-3"]


def test_who_went_is_cut_and_says_why_and_since_when(mesh):
    mesh.handle(Heard("pi-1", Load(4, 0)))
    first = mesh.look()
    mesh.handle(WentDown("pi-1", "silent"))

    (row,) = mesh.look(first["version"])["nodes"]

    assert (row["up"], row["cut"], row["reason"]) == (False, True, "silent")
    assert row["seen_at_ms"] == 1_700_000_000_000
    assert mesh.look(mesh.picture.version)["nodes"] == [], "how long ago is no change"
    mesh.handle(Heard("pi-1"))
    (back,) = mesh.look(mesh.picture.version)["nodes"]
    assert back["up"] and "cut" not in back and "seen_at_ms" not in back


def test_the_revoked_stay_and_the_unlisted_are_told_by_telling_everything(mesh):
    first = mesh.look()
    mesh.list("gateway", "pi-1", "pi-2", "pi-3", revoked=("pi-3",))
    second = mesh.look(first["version"])
    mesh.list("gateway", "pi-1", "pi-2")
    third = mesh.look(second["version"])

    assert [row["status"] for row in second["nodes"]] == ["revoked"]
    assert third["since"] == 0 and names(third) == ["gateway", "pi-1", "pi-2"]
    assert mesh.look(third["version"])["since"] == third["version"]


def test_links_tell_round_trips_and_bytes_a_second(mesh):
    mesh.ways["pi-1"] = Way(2_340_000, 1000, 0)
    first = mesh.look()
    mesh.ways["pi-1"] = Way(2_340_000, 3000, 500)
    second = mesh.look(first["version"], later_s=2)
    del mesh.ways["pi-1"]
    third = mesh.look(second["version"])
    mesh.ways["pi-1"] = Way(None, 40, 0)
    mesh.look()
    mesh.ways["pi-1"] = Way(None, 10, 0)
    anew = mesh.look(third["version"])

    link = {"a": "gateway", "b": "pi-1", "up": True, "rtt_ms": 2.3}
    assert first["links"] == [link | {"in_bytes_s": 0, "out_bytes_s": 0}]
    assert second["links"] == [link | {"in_bytes_s": 1000, "out_bytes_s": 250}]
    assert second["totals"]["in_bytes_s"] == 1000
    assert third["links"] == [link | {"up": False, "in_bytes_s": 0, "out_bytes_s": 0}]
    assert anew["links"] == [link | {"rtt_ms": None, "in_bytes_s": 10, "out_bytes_s": 0}], "counted from 0"


def test_a_fresh_picture_is_not_made_again(mesh):
    first = mesh.look()
    mesh.handle(Heard("pi-1", Load(4, 0)))

    assert mesh.look(later_s=0.1)["version"] == first["version"] and mesh.asked == 1
    assert mesh.look(later_s=0.2)["version"] > first["version"] and mesh.asked == 2


def test_a_version_of_an_earlier_life_or_of_none_is_answered_with_everything(mesh):
    mesh.look()

    for unknown in (0, 5, 999_999, mesh.picture.version + 100):
        told = mesh.look(unknown)
        assert told["since"] == 0 and len(told["nodes"]) == 4


def test_tasks_that_end_are_told_a_second(mesh):
    mesh.look()
    mesh.done = 300

    assert mesh.look(later_s=2)["totals"]["done_s"] == 150.0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("heard"), st.integers(1, 4), st.integers(0, 2)),
        st.tuples(st.just("down"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("list"), st.integers(1, 4), st.integers(0, 4)),
        st.tuples(st.just("way"), st.integers(1, 4), st.integers(0, 2)),
        st.tuples(st.just("look"), st.integers(0, 1), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_who_applies_the_news_has_what_a_newcomer_is_told(script):
    mesh = Mesh("pi-1", "pi-2", "pi-3", "pi-4")
    readers = [[0, {}, {}], [0, {}, {}]]
    for what, which, value in script:
        node = f"pi-{which}"
        match what:
            case "heard":
                mesh.handle(Heard(node, Load(1, 100 * value)))
            case "down":
                mesh.handle(WentDown(node, "silent"))
            case "list":
                mesh.list("gateway", *(f"pi-{n}" for n in range(1, 5) if n not in (which, value)))
            case "way" if value:
                mesh.ways[node] = Way(value * 1_000_000, 0, 0)
            case "way":
                mesh.ways.pop(node, None)
            case "look":
                follow(mesh, readers[which])
    for reader in readers:
        follow(mesh, reader)

        whole = mesh.look(later_s=0)
        assert reader[1] == {row["id"]: row for row in whole["nodes"]}
        assert reader[2] == {(row["a"], row["b"]): row for row in whole["links"]}


def follow(mesh, reader):
    told = mesh.look(reader[0])
    if not told["since"]:
        reader[1], reader[2] = {}, {}
    reader[0] = told["version"]
    reader[1] |= {row["id"]: row for row in told["nodes"]}
    reader[2] |= {(row["a"], row["b"]): row for row in told["links"]}
