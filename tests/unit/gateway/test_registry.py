"""The registry: bounded by the roster, told by events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.wire.messages import Load
from gateway.fleet.registry import Among, Came, Heard, Listed, Registry, Restarted, Went, WentDown
from security.roster import Member

SECOND = 1_000_000_000


def member(node_id, status="active", **labels):
    return Member(node_id, (), ("node",), labels, status)


def registry(*ids):
    made = Registry()
    made.handle(0, Listed(tuple(member(i) for i in ids)))
    return made


def test_a_listed_node_is_unseen_until_it_is_heard():
    fleet = registry("pi-1", "pi-2")

    assert fleet.handle(5 * SECOND, Heard("pi-2", Load(2, 150, speed=0.5))) == [Came("pi-2")]
    assert fleet.handle(6 * SECOND, Heard("pi-2")) == []

    first, second = fleet.rows(8 * SECOND)
    assert (first.id, first.state, first.heard_ago_s) == ("pi-1", "unseen", None)
    assert (second.state, second.heard_ago_s, second.workers, second.backlog_ms) == ("up", 2.0, 2, 150)
    assert fleet.up() == ["pi-2"]


def test_down_says_why_and_a_sound_brings_it_back():
    fleet = registry("pi-1")
    fleet.handle(1, Heard("pi-1"))

    assert fleet.handle(2, WentDown("pi-1", "silent")) == [Went("pi-1", "silent")]
    assert fleet.handle(3, WentDown("pi-1", "silent")) == []
    assert (fleet.row(4, "pi-1").state, fleet.row(4, "pi-1").reason) == ("down", "silent")
    assert fleet.handle(5, Heard("pi-1")) == [Came("pi-1")]
    assert fleet.row(6, "pi-1").reason == ""


def test_another_boot_is_a_restart():
    fleet = registry("pi-1")

    assert fleet.handle(1, Heard("pi-1", boot_id=b"1" * 8)) == [Came("pi-1")]
    assert fleet.handle(2, Heard("pi-1", boot_id=b"1" * 8)) == []
    assert fleet.handle(3, Heard("pi-1", boot_id=b"2" * 8)) == [Restarted("pi-1")]
    assert fleet.row(4, "pi-1").restarts == 1


def test_strangers_leave_no_trace():
    fleet = registry("pi-1")

    assert fleet.handle(1, Heard("rogue", Load(64, 0))) == []
    assert fleet.handle(1, Heard("rogue", boot_id=b"1" * 8)) == []
    assert len(fleet) == 1


def test_a_roster_change_keeps_what_is_known_and_ends_who_went():
    fleet = registry("pi-1", "pi-2", "pi-3")
    for node in ("pi-1", "pi-2", "pi-3"):
        fleet.handle(1, Heard(node, Load(1, 10)))

    effects = fleet.handle(2, Listed((member("pi-1", site="a"), member("pi-2", "revoked"))))

    assert effects == [Went("pi-2", "it was revoked"), Went("pi-3", "it is no longer listed")]
    assert [(row.id, row.state) for row in fleet.rows(3)] == [("pi-1", "up"), ("pi-2", "revoked")]
    assert fleet.row(3, "pi-1").labels == {"site": "a"}
    assert fleet.row(3, "pi-1").backlog_ms == 10
    assert fleet.handle(4, Heard("pi-2")) == []


ids = st.sampled_from(["a", "b", "c", "x"])
events = st.one_of(
    st.builds(Heard, ids),
    st.builds(WentDown, ids, st.just("silent")),
    st.builds(Heard, ids, boot_id=st.sampled_from([b"1" * 8, b"2" * 8])),
    st.builds(
        lambda chosen: Listed(tuple(member(i, s) for i, s in sorted(chosen.items()))),
        st.dictionaries(st.sampled_from("abc"), st.sampled_from(["active", "revoked", "left"])),
    ),
)


@given(st.lists(events, max_size=60))
def test_coming_and_going_alternate_whatever_happens(script):
    fleet, there = Registry(), set()
    for now_ns, event in enumerate(script):
        for effect in fleet.handle(now_ns, event):
            match effect:
                case Came(node):
                    assert node not in there
                    there.add(node)
                case Went(node, _):
                    there.remove(node)
        fleet.check()
        assert fleet.up() == sorted(there)


def test_a_page_goes_on_above_a_name_and_makes_rows_of_what_it_tells():
    fleet = registry(*(f"pi-{n}" for n in range(9)))

    first = fleet.page(0, Among(), "", 4)
    rest = fleet.page(0, Among(), first[-1].id, 9)

    assert [row.id for row in first + rest] == [f"pi-{n}" for n in range(9)]
    assert fleet.page(0, Among(), "pi-8", 4) == [] and fleet.page(0, Among(), "pi-44", 1)[0].id == "pi-5"
    assert fleet.page(0, Among(), "", 9) == fleet.rows(0)


def test_a_page_is_of_those_that_were_asked_for():
    fleet = Registry()
    members = (
        member("gateway"), member("pi-1", site="a"), member("pi-2", site="b"),
        member("pi-3", "revoked", site="a"),
    )  # fmt: skip
    fleet.handle(0, Listed((*members, Member("pi-4", (), ("node", "deployer"), {}, "left"))))
    fleet.handle(0, Heard("pi-2"))

    def named(**asked):
        return [row.id for row in fleet.page(0, Among(always_up="gateway", **asked), "", 9)]

    assert named(status="active") == ["gateway", "pi-1", "pi-2"]
    assert named(status="pending") == []
    assert named(up=True) == ["gateway", "pi-2"] and named(up=False) == ["pi-1", "pi-3", "pi-4"]
    assert named(role="deployer") == ["pi-4"]
    assert named(label="site") == ["pi-1", "pi-2", "pi-3"] and named(label="site=a") == ["pi-1", "pi-3"]
    assert named(label="site=a", status="active", up=False) == ["pi-1"]
    assert named(label="site=") == [] and named(label="rack") == []
