"""Whom a node follows: everybody in a small mesh, sixteen in a large one, and never who is gone."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from edge_node.membership.following import (
    CAPACITIES_MAX,
    FOLLOWED_MAX,
    LAN_MAX,
    SECOND,
    Came,
    Capacity,
    Follow,
    Following,
    Members,
    Sighted,
    Unfollow,
    Went,
)
from edge_node.wire.messages import DigestEntry

MANY = [f"n{n:04}" for n in range(1000)]


def node(*, seed: int = 1) -> Following:
    return Following(me="me", always="gateway", rng=Random(seed))


def members(*ids: str) -> Members:
    return Members(frozenset({"me", "gateway", *ids}))


def test_a_small_mesh_is_followed_whole():
    following = node()

    assert following.handle(0, members("a", "b")) == [Follow(each) for each in following._followed]
    assert following.followed == ["a", "b"]
    assert following.follows("gateway")
    assert following.deadline_ns() is None, "there is nobody to change places with"


def test_of_a_thousand_sixteen_are_followed():
    following = node()

    effects = following.handle(0, members(*MANY))

    assert len(effects) == FOLLOWED_MAX == len(following.followed)
    following.check()


def test_every_minute_one_is_replaced():
    following = node()
    following.handle(0, members(*MANY))
    before = set(following.followed)

    assert following.tick(59 * SECOND) == []
    gone, new = following.tick(60 * SECOND)

    assert isinstance(gone, Unfollow) and isinstance(new, Follow)
    assert set(following.followed) == before - {gone.peer} | {new.peer}
    assert following.deadline_ns() == 120 * SECOND


def test_who_went_down_gives_its_place_to_another():
    following = node()
    following.handle(0, members(*MANY))
    victim = following.followed[0]

    gone, new = following.handle(0, Went(victim))

    assert gone == Unfollow(victim) and new.peer not in (victim, "me", "gateway")


def test_who_went_down_in_a_small_mesh_is_followed_on():
    """Nobody else wants the place, and its return must be heard."""
    following = node()
    following.handle(0, members("a", "b"))

    assert following.handle(0, Went("a")) == []
    assert following.followed == ["a", "b"]


def test_who_left_the_roster_is_followed_no_more():
    following = node()
    following.handle(0, members("a", "b"))

    assert following.handle(0, members("b")) == [Unfollow("a")]
    following.check()


def test_neighbours_get_six_places_and_no_more():
    """A sighting is a hint that anybody on the network can forge."""
    following = node()
    following.handle(0, members(*MANY))
    near = MANY[500:600]
    for peer in near:
        following.handle(0, Sighted(peer))

    assert sum(peer in near for peer in following.followed) >= LAN_MAX
    changes = sum(bool(following.handle(0, Sighted(peer))) for peer in MANY[600:700])
    assert changes == 0
    assert following.handle(0, Sighted("stranger")) == []
    following.check()


def test_capacity_draws_followers():
    following = node()
    following.handle(0, members(*MANY))
    strong = MANY[100:110]
    for peer in strong:
        following.handle(0, Capacity(peer, 1000.0))
    before = sum(peer in strong for peer in following.followed)
    for minute in range(1, 200):
        following.tick(minute * 60 * SECOND)

    assert sum(peer in strong for peer in following.followed) > before + 2


steps = st.one_of(
    st.sets(st.sampled_from(MANY[:40])).map(lambda ids: members(*ids)),
    st.sampled_from(MANY[:40]).flatmap(
        lambda peer: st.sampled_from([Sighted(peer), Went(peer), Came(peer), Capacity(peer, 3.0)])
    ),
    st.just(None),
)


@given(st.integers(0, 2**16), st.lists(steps, max_size=60))
def test_subscriptions_are_always_those_of_the_followed(seed, script):
    """Whatever happens: each Follow and Unfollow is told once, and at most sixteen stand."""
    following = node(seed=seed)
    standing: set[str] = set()
    now_ns = 0
    for step in script:
        now_ns += 7 * SECOND
        effects = following.tick(now_ns) if step is None else following.handle(now_ns, step)
        for effect in effects:
            if isinstance(effect, Follow):
                assert effect.peer not in standing
                standing.add(effect.peer)
            else:
                standing.remove(effect.peer)
        following.check()
        assert sorted(standing) == following.followed and len(standing) <= FOLLOWED_MAX


def test_what_a_peer_says_of_its_capacity_never_ends_the_choice():
    """One member with a board of infinite speed must not end everybody's daemon."""
    following = node()
    following.handle(0, members(*MANY[:40]))
    for each, amount in zip(MANY[:40], [float("inf"), float("nan"), -1.0, 1e308] * 10, strict=True):
        following.handle(0, Capacity(each, amount))

    for minute in range(1, 100):
        following.tick(minute * 60 * SECOND)
        following.check()
    assert len(following.followed) == FOLLOWED_MAX


def test_of_a_thousand_capacities_those_told_last_are_kept():
    following = node()
    following.handle(0, members(*MANY))

    for name in MANY:
        following.handle(0, Capacity(name, 1.0))
        following.check()

    assert list(following._capacity) == MANY[-CAPACITIES_MAX:]


def test_a_digest_says_of_many_what_is_else_said_one_by_one():
    amounts = [float("inf"), float("nan"), -1.0, 2.0, 1e308]
    entries = [DigestEntry(each, 0, 1, amounts[n % 5]) for n, each in enumerate(MANY[:300])]
    entries += [DigestEntry(each, 0, 4, 1.0, down=True) for each in MANY[:5]]
    entries += [DigestEntry(each, 0, 4, 1.0) for each in ("stranger", "me", "gateway", MANY[299])]
    one_by_one, at_once = node(), node()
    for following in (one_by_one, at_once):
        following.handle(0, members(*MANY))
        for each in (*MANY[:20], MANY[900]):
            following.handle(0, Went(each))

    at_once.told_of(entries)
    for entry in entries:
        if not entry.down:
            one_by_one.told(entry.id, entry.workers * entry.speed)
            one_by_one.handle(0, Came(entry.id))

    at_once.check()
    assert len(at_once._capacity) == CAPACITIES_MAX and list(at_once._down) == [MANY[900]]
    assert list(at_once._capacity.items()) == list(one_by_one._capacity.items())
    assert at_once._down == one_by_one._down


def test_the_last_free_one_is_found_among_many_that_are_down():
    following = node()
    following.handle(0, members(*MANY))
    left = [name for name in MANY if name not in following.followed]

    for name in left[1:]:
        following.handle(0, Went(name))
    following.check()
    gone, new = following.handle(0, Went(following.followed[0]))

    assert isinstance(gone, Unfollow) and new == Follow(left[0])


def test_names_that_are_given_in_order_are_kept_and_not_copied():
    following, other = node(), node()
    names = ("gateway", "me", *MANY)

    effects = following.handle(0, Members(frozenset(names), names))

    assert following._names is names
    assert effects == other.handle(0, members(*MANY)), "the choice is the same"
