"""When the group gets a new secret, and who is handed it."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.transport.groupcast import Adopted, Groupcast, Keep, Tell
from edge_node.wire.messages import GroupKeys
from gateway.epochs import (
    ROTATE_NS,
    EpochKeeper,
    Kept,
    MemberLost,
    MemberMet,
    NewEpoch,
    RosterChanged,
    Settled,
    Shown,
    Started,
)
from security.authority import Authority
from security.group import Epoch, open_grant
from security.roster import Member, MemberKey, Roster, in_order

NOW_S = 1_795_000_000
SECOND = 1_000_000_000
DAY_S = 24 * 3600
MESH = Authority.create(now_s=NOW_S, entropy=os.urandom)


def sign(epoch: int, secret: bytes, issued_s: int) -> bytes:
    return MESH.sign_grant(group="mesh", epoch=epoch, secret=secret, issued_s=issued_s)


def keys(*generations: int, of: str) -> tuple[MemberKey, ...]:
    return tuple(MemberKey(f"{of}/{g}".ljust(32).encode(), bytes(32), NOW_S) for g in generations)


def listing(version: int, *ids: str, **changed: Member) -> Roster:
    members = [Member(one, keys(1, of=one)) for one in ("gateway", *ids)]
    members = [changed.pop(one.id, one) for one in members] + list(changed.values())
    return Roster(
        MESH.mesh_id, version, bytes(32), NOW_S, NOW_S + 7 * DAY_S, (), (), in_order(members)
    )  # fmt: skip


def keeper(seed: int = 0) -> EpochKeeper:
    return EpochKeeper(sign=sign, entropy=random.Random(seed).randbytes)


def epoch_of(new: NewEpoch) -> Epoch:
    return open_grant(new.keys.grant, new.keys.secret, group="mesh", root_spki_sha256=MESH.mesh_id)


def begun(*ids: str) -> tuple[EpochKeeper, NewEpoch]:
    """Running with epoch 1, kept and settled at version 1."""
    one = keeper()
    (first,) = one.handle(0, Started(NOW_S, None, 0, listing(1, *ids)))
    assert isinstance(first, NewEpoch)
    assert one.handle(0, Kept(1)) == [Settled(1)]
    return one, first


def test_the_first_start_makes_the_first_epoch():
    one = keeper()
    (new,) = one.handle(0, Started(NOW_S, None, 0, listing(1, "pi-1")))

    assert isinstance(new, NewEpoch)
    assert (new.epoch, new.reason) == (1, "the first")
    assert (epoch_of(new).number, epoch_of(new).issued_s) == (1, NOW_S)
    assert one.deadline_ns() == ROTATE_NS
    one.check()


def test_members_get_the_epoch_when_it_is_kept_and_when_they_are_met():
    one, first = begun("pi-1", "pi-2")

    assert one.handle(1, MemberMet("pi-2")) == [Tell("pi-2", first.keys)]
    assert one.handle(1, MemberMet("pi-1")) == [Tell("pi-1", first.keys)]
    assert one.handle(1, MemberMet("pi-9")) == []
    assert one.handle(1, MemberMet("gateway")) == []
    (new,) = one.tick(ROTATE_NS)
    assert isinstance(new, NewEpoch) and new.epoch == 2
    assert new.keys.secret != first.keys.secret
    assert one.handle(ROTATE_NS, MemberMet("pi-1")) == [], "its Kept will tell it"
    assert one.handle(ROTATE_NS, Kept(2)) == [Tell("pi-1", new.keys), Tell("pi-2", new.keys)]
    assert one.handle(ROTATE_NS, Kept(2)) == []
    one.check()


def test_the_wall_clock_of_a_grant_runs_on_with_the_monotonic_one():
    one, _ = begun()
    (new,) = one.tick(ROTATE_NS + 5 * SECOND)
    assert isinstance(new, NewEpoch)
    assert epoch_of(new).issued_s == NOW_S + DAY_S + 5


PI_1 = Member("pi-1", keys(1, of="pi-1"))


@pytest.mark.parametrize(
    ("after", "rotates"),
    [
        (replace(PI_1, status="revoked"), True),
        (replace(PI_1, status="left"), True),
        (None, True),
        (replace(PI_1, keys=keys(2, of="pi-1")), True),
        (replace(PI_1, keys=keys(2, 1, of="pi-1")), False),
        (replace(PI_1, labels={"room": "x"}), False),
        (replace(PI_1, roles=("deployer",)), False),
    ],
    ids=["revoked", "left", "struck off", "replaced", "renewing", "labels", "roles"],
)
def test_a_removal_rotates_at_once_and_nothing_else_does(after, rotates):
    one, _ = begun("pi-1", "pi-2")
    one.handle(0, MemberMet("pi-1"))
    one.handle(0, MemberMet("pi-2"))
    ids = ("pi-2",) if after is None else ("pi-1", "pi-2")

    effects = one.handle(SECOND, RosterChanged(listing(2, *ids, **({"pi-1": after} if after else {}))))

    if not rotates:
        assert effects == [Settled(2)]
        return
    (new,) = effects
    assert isinstance(new, NewEpoch)
    assert (new.epoch, new.reason) == (2, "pi-1 left the roster")
    assert one.handle(SECOND, Kept(2)) == [Tell("pi-2", new.keys), Settled(2)], "the one removed is not told"
    assert one.handle(SECOND, MemberLost("pi-1")) == []
    one.check()


def test_a_renewal_that_retires_the_old_key_does_not_rotate():
    one, _ = begun("pi-1")
    for version, generations in ((2, (2, 1)), (3, (2,)), (4, (3, 2)), (5, (3,))):
        now = listing(version, "pi-1", **{"pi-1": replace(PI_1, keys=keys(*generations, of="pi-1"))})
        assert one.handle(0, RosterChanged(now)) == [Settled(version)]


def test_a_replaced_board_is_handed_the_new_epoch_once_it_is_met():
    one, _ = begun("pi-1")
    one.handle(0, MemberMet("pi-1"))
    replaced = listing(2, "pi-1", **{"pi-1": replace(PI_1, keys=keys(7, of="pi-1"))})
    (new,) = one.handle(0, RosterChanged(replaced))
    assert isinstance(new, NewEpoch)

    assert one.handle(0, Kept(2)) == [Settled(2)], "the session of the old board is not told"
    assert one.handle(0, MemberMet("pi-1")) == [Tell("pi-1", new.keys)]


def test_joins_and_older_rosters_change_nothing():
    one, _ = begun("pi-1")
    assert one.handle(0, RosterChanged(listing(2, "pi-1", "pi-2"))) == [Settled(2)]
    assert one.handle(0, RosterChanged(listing(1, "pi-1"))) == []


def test_two_removals_in_a_row_are_settled_by_the_last_epoch():
    one, _ = begun("pi-1", "pi-2", "pi-3")
    one.handle(0, MemberMet("pi-3"))
    one.handle(0, RosterChanged(listing(2, "pi-2", "pi-3")))
    (new,) = one.handle(0, RosterChanged(listing(3, "pi-3")))
    assert isinstance(new, NewEpoch) and new.epoch == 3

    assert one.handle(0, Kept(2)) == [], "overtaken"
    assert one.handle(0, Kept(3)) == [Tell("pi-3", new.keys), Settled(3)]


def test_nothing_is_settled_while_an_epoch_is_on_its_way_to_the_disk():
    """A crash right here must find the removal unanswered."""
    one, _ = begun("pi-1", "pi-2")
    (new,) = one.handle(0, RosterChanged(listing(2, "pi-2")))
    assert isinstance(new, NewEpoch)

    assert one.handle(0, RosterChanged(listing(3, "pi-2", "pi-3"))) == []
    assert one.handle(0, Kept(2)) == [Settled(3)]


def test_an_epoch_that_the_disk_refused_is_told_but_settles_nothing():
    """Its start after a crash would find the old one on disk, which the removed member has."""
    one, first = begun("pi-1", "pi-2")
    one.handle(0, MemberMet("pi-2"))
    (new,) = one.handle(0, RosterChanged(listing(2, "pi-2")))
    assert isinstance(new, NewEpoch)

    assert one.handle(0, Kept(2, durable=False)) == [Tell("pi-2", new.keys)]
    assert one.handle(0, RosterChanged(listing(3, "pi-2", "pi-3"))) == []
    (again,) = keeper(1).handle(0, Started(NOW_S, epoch_of(first), 1, listing(3, "pi-2", "pi-3")))
    assert isinstance(again, NewEpoch)
    one.tick(ROTATE_NS)
    assert one.handle(ROTATE_NS, Kept(3))[-1] == Settled(3), "the next one that is kept answers for all"


def test_a_restart_goes_on_with_the_stored_epoch_and_its_day():
    _, first = begun("pi-1")
    again = keeper(1)

    assert again.handle(7, Started(NOW_S + 3600, epoch_of(first), 1, listing(1, "pi-1"))) == []
    assert again.handle(7, MemberMet("pi-1")) == [Tell("pi-1", first.keys)]
    assert again.deadline_ns() == 7 + ROTATE_NS - 3600 * SECOND
    again.check()


@pytest.mark.parametrize(("wall_s", "due_ns"), [(NOW_S + 9 * DAY_S, 0), (NOW_S - 9 * DAY_S, ROTATE_NS)])
def test_a_clock_far_off_neither_stops_nor_stalls_the_rotation(wall_s, due_ns):
    _, first = begun()
    again = keeper(1)
    again.handle(0, Started(wall_s, epoch_of(first), 1, listing(1)))
    assert again.deadline_ns() == due_ns


def test_a_crash_between_a_removal_and_its_epoch_is_made_good_at_the_start():
    """The roster is on disk, the epoch is not: the removed member still has the current one."""
    one, first = begun("pi-1")
    one.handle(0, RosterChanged(listing(2)))

    again = keeper(1)
    (new,) = again.handle(0, Started(NOW_S, epoch_of(first), 1, listing(2)))
    assert isinstance(new, NewEpoch) and new.epoch == 2
    assert again.handle(0, Kept(2)) == [Settled(2)]


def gateway_group(held: GroupKeys | None = None) -> Groupcast:
    one = Groupcast(
        me="gateway", mesh_id=MESH.mesh_id, root_spki_sha256=MESH.root_spki_sha256,
        is_member=lambda src: src in {"gateway", "pi-1"}, entropy=os.urandom,
    )  # fmt: skip
    if held is not None:
        one.came(0, "gateway", held)
    return one


@pytest.mark.parametrize("ahead", [2, 3, 40], ids=["the same number", "the next", "far ahead"])
def test_a_gateway_restored_from_an_old_backup_goes_on_above_what_members_hold(ahead):
    """Two real groupcasts: what the gateway hands out is answered with what the member holds."""
    _, first = begun("pi-1")
    node = Groupcast(
        me="pi-1", mesh_id=MESH.mesh_id, root_spki_sha256=MESH.root_spki_sha256,
        is_member=lambda src: True, entropy=os.urandom,
    )  # fmt: skip
    lost = bytes([ahead]) * 32
    node.came(0, "gateway", GroupKeys(sign(ahead, lost, NOW_S + DAY_S), lost))
    gateway = gateway_group(first.keys)
    restored = keeper(1)
    (second,) = restored.handle(0, Started(NOW_S, epoch_of(first), 0, listing(9, "pi-1")))
    assert isinstance(second, NewEpoch) and second.epoch == 2
    gateway.came(0, "gateway", second.keys)
    assert restored.handle(0, Kept(2)) == [Settled(9)]

    (handed,) = restored.handle(0, MemberMet("pi-1"))
    assert isinstance(handed, Tell) and isinstance(handed.message, GroupKeys)
    (shown,) = node.came(0, "gateway", handed.message)
    assert isinstance(shown, Tell) and isinstance(shown.message, GroupKeys)
    keep, adopted = gateway.came(0, "pi-1", shown.message)
    assert isinstance(keep, Keep) and adopted == Adopted(ahead, "pi-1")
    assert gateway.current is not None
    (new,) = restored.handle(0, Shown(gateway.current))
    assert isinstance(new, NewEpoch) and new.epoch == ahead + 1
    assert Adopted(ahead + 1, "gateway") in gateway.came(0, "gateway", new.keys)
    assert restored.handle(0, Kept(ahead + 1)) == [Tell("pi-1", new.keys)]
    assert Adopted(ahead + 1, "gateway") in node.came(0, "gateway", new.keys)
    assert node.current == gateway.current
    restored.check()


def test_an_epoch_shown_late_changes_nothing():
    one, first = begun("pi-1")
    one.tick(ROTATE_NS)
    assert one.handle(ROTATE_NS, Shown(epoch_of(first))) == []


ids = st.sampled_from(["pi-1", "pi-2", "pi-3"])
events = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["met", "lost", "remove", "join", "show"]), ids),
        st.tuples(st.sampled_from(["kept", "crash", "day"]), st.just("")),
    ),
    max_size=30,
)


@settings(max_examples=50)
@given(events, st.integers(0, 2**32))
def test_nobody_who_was_removed_is_ever_handed_a_later_epoch(script, seed):
    """Over crashes at any moment too; once all is kept, no stranger was ever told the current epoch."""
    listed, version, now_ns = {"pi-1", "pi-2", "pi-3"}, 1, 0
    told: dict[bytes, set[str]] = {}
    stored: Epoch | None = None
    settled, pending, newest = 0, None, 0
    one = keeper(seed)

    def take(effects) -> None:
        nonlocal pending, settled, newest
        one.check()
        for effect in effects:
            match effect:
                case NewEpoch(number):
                    assert number > newest, "numbers only grow"
                    pending, newest = effect, number
                case Settled(at):
                    settled = at
                case Tell(peer, message):
                    assert peer in listed
                    told.setdefault(message.secret, set()).add(peer)

    def keep() -> None:
        nonlocal stored, pending
        if pending is not None:
            stored, pending = epoch_of(pending), None
            take(one.handle(now_ns, Kept(stored.number)))

    take(one.handle(0, Started(NOW_S, None, 0, listing(1, *sorted(listed)))))
    for what, who in script:
        now_ns += SECOND
        match what:
            case "met":
                take(one.handle(now_ns, MemberMet(who)))
            case "lost":
                take(one.handle(now_ns, MemberLost(who)))
            case "remove" | "join":
                (listed.discard if what == "remove" else listed.add)(who)
                version += 1
                take(one.handle(now_ns, RosterChanged(listing(version, *sorted(listed)))))
            case "show" if stored is not None:
                take(one.handle(now_ns, Shown(stored)))
            case "kept":
                keep()
            case "day":
                now_ns += ROTATE_NS
                take(one.tick(now_ns))
            case "crash":
                pending, newest = None, stored.number if stored else 0
                one = keeper(seed + now_ns)
                take(one.handle(now_ns, Started(NOW_S, stored, settled, listing(version, *sorted(listed)))))
        if what == "crash":
            keep()
    keep()
    assert stored is not None
    assert told.get(stored.secret, set()) <= listed
