"""The roster keeper: signed, persisted, then published; never the same number twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest

from edge_node.clock import ManualClock
from gateway.roster_keeper import BURST, RosterKeeper
from security.authority import Authority
from security.errors import BadInput, ProtocolViolation, Refused, Unavailable
from security.roster import RESIGN_S, Member, MemberKey, RosterDraft, open_roster

NOW_S = 1_800_000_000
AUTHORITY = Authority.create(now_s=NOW_S, entropy=os.urandom)


def key(n):
    return MemberKey(bytes([n]) * 32, bytes([n + 100]) * 32, NOW_S)


def member(node_id, n, **labels):
    return Member(node_id, (key(n),), (), labels)


class Disk:
    """A store in memory that can be full, and remembers the order of things."""

    def __init__(self, story):
        self.signed, self.full, self.story = None, False, story

    def roster(self):
        return self.signed

    def save_roster(self, signed):
        if self.full:
            raise Unavailable("disk is full")
        self.signed = signed
        self.story.append("saved")


async def inline(func, *args):
    return func(*args)


class House:
    def __init__(self, disk=None):
        self.story = []
        self.published = []
        self.clock = ManualClock(wall_ms=NOW_S * 1000)
        self.disk = disk or Disk(self.story)
        self.keeper = RosterKeeper(
            AUTHORITY, self.disk, on_changed=self.publish, clock=self.clock, runner=inline
        )

    def publish(self, signed):
        assert self.disk.signed == signed, "published before it was on disk"
        self.published.append(open_roster(signed, root_spki_sha256=AUTHORITY.root_spki_sha256))


@contextlib.asynccontextmanager
async def kept(house, **options):
    await house.keeper.open(members=[member("gateway", 1)], brokers=["10.0.0.1:8883"], **options)
    task = asyncio.create_task(house.keeper.run())
    try:
        yield house.keeper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_first_roster_lists_the_gateway_and_the_broker():
    house = House()
    async with kept(house) as keeper:
        assert (keeper.current.version, keeper.current.brokers) == (1, ("10.0.0.1:8883",))
        assert keeper.current.member("gateway") is not None
        assert [r.version for r in house.published] == [1]


async def test_a_member_is_published_in_the_next_version_that_names_the_one_before():
    house = House()
    async with kept(house) as keeper:
        first = keeper.current
        signed = await keeper.add(member("pi-1", 2, site="a"))

    roster = open_roster(signed, root_spki_sha256=AUTHORITY.root_spki_sha256)
    assert (roster.version, roster.prev_digest) == (2, first.digest)
    assert roster.member("pi-1").labels == {"site": "a"}
    assert [r.version for r in house.published] == [1, 2]


async def test_the_same_member_again_changes_nothing_and_a_taken_name_is_refused():
    house = House()
    async with kept(house) as keeper:
        first = await keeper.add(member("pi-1", 2))

        assert await keeper.add(member("pi-1", 2)) == first
        with pytest.raises(Refused, match="taken"):
            await keeper.add(member("pi-1", 3))
        assert keeper.current.version == 2


async def test_changes_that_wait_together_share_a_version():
    house = House()
    async with kept(house) as keeper:
        signed = await asyncio.gather(*(keeper.add(member(f"pi-{n}", n + 10)) for n in range(20)))

        assert len(set(signed)) == 1
        assert (keeper.current.version, len(keeper.current.members)) == (2, 21)


async def test_versions_beyond_the_burst_are_paced(monkeypatch):
    house, slept = House(), []
    sleep = asyncio.sleep

    async def count(seconds):
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("gateway.roster_keeper.asyncio.sleep", count)
    async with kept(house) as keeper:
        for n in range(BURST + 3):
            await keeper.add(member(f"pi-{n}", n + 10))

    assert [s for s in slept if s > 0] == [1.0, 2.0, 3.0]  # the clock of this test stands still


async def test_one_impossible_member_does_not_take_the_others_down():
    house = House()
    async with kept(house) as keeper:
        bad = Member("pi-9", (key(9),), (), {f"l{n}": "x" for n in range(9)})
        good, refused = await asyncio.gather(
            keeper.add(member("pi-1", 2)), keeper.add(bad), return_exceptions=True
        )

        assert isinstance(good, bytes)
        assert isinstance(refused, ProtocolViolation)
        assert keeper.current.member("pi-1") is not None
        assert keeper.current.listed("pi-9") is None


async def test_a_full_disk_publishes_nothing_and_recovers():
    house = House()
    async with kept(house) as keeper:
        house.disk.full = True
        with pytest.raises(Unavailable, match="full"):
            await keeper.add(member("pi-1", 2))
        assert (keeper.current.version, len(house.published)) == (1, 1)

        house.disk.full = False
        await keeper.add(member("pi-1", 2))
        assert keeper.current.version == 2


async def test_a_restarted_gateway_goes_on_where_it_was():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))

    again = House(house.disk)
    async with kept(again) as keeper:
        assert keeper.current.version == 2
        await keeper.add(member("pi-2", 3))
        assert keeper.current.version == 3
    assert [r.version for r in again.published] == [2, 3]


async def test_a_moved_broker_is_a_new_version_at_the_next_start():
    house = House()
    async with kept(house):
        pass
    again = House(house.disk)
    await again.keeper.open(members=[member("gateway", 1)], brokers=["10.0.0.2:8883"])

    assert (again.keeper.current.version, again.keeper.current.brokers) == (2, ("10.0.0.2:8883",))


async def test_the_roster_is_signed_again_after_a_day():
    house = House()
    async with kept(house):
        pass
    again = House(house.disk)
    again.clock.advance((RESIGN_S + 1) * 1_000_000_000)
    await again.keeper.open()

    assert again.keeper.current.version == 2
    assert again.keeper.current.members == house.keeper.current.members
    assert again.keeper.current.valid_until_s > house.keeper.current.valid_until_s


async def test_a_running_keeper_signs_again_by_itself():
    house = House()
    await house.keeper.open(members=[member("gateway", 1)])
    house.clock.advance((RESIGN_S + 1) * 1_000_000_000)
    published = asyncio.Event()
    house.keeper._on_changed = lambda signed: published.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(house.keeper.run())
        await published.wait()
        task.cancel()

    assert house.keeper.current.version == 2


async def test_a_change_does_not_wait_for_a_re_signing_that_failed():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        house.clock.advance(RESIGN_S * 1_000_000_000)
        house.disk.full = True
        with pytest.raises(Unavailable, match="disk is full"):
            await keeper.mark("pi-1", "revoked", by="ann")
        for _ in range(9):  # by itself it has tried again, in vain
            await asyncio.sleep(0)
        house.disk.full = False
        async with asyncio.timeout(60):
            await keeper.mark("pi-1", "revoked", by="ann")

        assert keeper.current.listed("pi-1").status == "revoked"


async def test_who_left_may_come_back_who_was_revoked_may_not():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        await keeper.mark("pi-1", "left")
        assert keeper.current.member("pi-1") is None
        await keeper.add(member("pi-1", 3))
        assert keeper.current.member("pi-1").keys == (key(3),)

        await keeper.mark("pi-1", "revoked")
        await keeper.mark("pi-1", "left")
        assert keeper.current.listed("pi-1").status == "revoked"
        with pytest.raises(Refused, match="the name pi-1 is taken"):
            await keeper.add(member("pi-1", 4))
        with pytest.raises(BadInput, match="no member"):
            await keeper.mark("pi-7", "left")


async def test_a_member_is_told_out_once_with_its_time_and_word():
    """The first word stays; whoever reads the roster can say who it was, and the texts fit it."""
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        await keeper.mark("pi-1", "revoked", by="ann", reason="stolen from the shed")
        version = keeper.current.version
        await keeper.mark("pi-1", "revoked", by="bob", reason="again")

        listed = keeper.current.listed("pi-1")
        assert (listed.by, listed.reason) == ("ann", "stolen from the shed")
        assert listed.since_s == keeper.current.issued_s
        assert keeper.current.version == version + 1 or keeper.current.version == version
        for by, reason in (("x" * 33, ""), ("ann", "x" * 81), ("ann", "two\nlines")):
            with pytest.raises(BadInput, match="too long or not one line"):
                await keeper.mark("pi-1", "revoked", by=by, reason=reason)
        with pytest.raises(BadInput, match="a gateway cannot be taken out"):
            await keeper.mark("gateway", "revoked", by="ann")


async def test_a_replaced_board_keeps_name_labels_and_roles_and_nothing_of_its_keys():
    house = House()
    async with kept(house) as keeper:
        first = replace(member("pi-1", 2), labels={"site": "b"}, roles=("deployer",))
        await keeper.add(first)
        await keeper.mark("pi-1", "revoked", by="ann", reason="lost")
        held = keeper.current.listed("pi-1")
        with pytest.raises(Refused, match="changed at the same time"):
            await keeper.replace("pi-1", key(3), instead_of=first)
        await keeper.replace("pi-1", key(3), instead_of=held)

        assert keeper.current.member("pi-1") == replace(first, keys=(key(3),))
        assert keeper.current.owner_of_key(key(2).spki_sha256) is None
        for name in ("pi-7", "gateway"):
            with pytest.raises(Refused, match="can be replaced"):
                await keeper.replace(name, key(9), instead_of=keeper.current.listed(name))


async def test_a_renewal_lists_both_keys_until_the_old_one_is_retired():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        await keeper.add_key("pi-1", key(3))
        assert keeper.current.member("pi-1").keys == (key(3), key(2))
        await keeper.add_key("pi-1", key(3))
        await keeper.retire_key("pi-1", key(2).spki_sha256)
        assert keeper.current.member("pi-1").keys == (key(3),)
        await keeper.retire_key("pi-1", key(3).spki_sha256)
        assert keeper.current.member("pi-1").keys == (key(3),)
        with pytest.raises(Refused, match="not an active member"):
            await keeper.add_key("pi-2", key(4))


async def test_what_a_board_asked_for_is_not_done_to_the_one_that_replaces_it_meanwhile():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        lost = keeper.current.listed("pi-1")
        answers = await asyncio.gather(  # one version: the lost board's wishes were good when they came in
            keeper.replace("pi-1", key(3), instead_of=lost),
            keeper.add_key("pi-1", key(4), beside=key(2).spki_sha256),
            keeper.mark("pi-1", "left", by="pi-1", seen=lost),
            return_exceptions=True,
        )

        assert [type(answer) for answer in answers] == [bytes, Refused, Refused]
        assert keeper.current.member("pi-1").keys == (key(3),)
        await keeper.mark("pi-1", "left", by="pi-1", seen=keeper.current.listed("pi-1"))
        assert keeper.current.member("pi-1") is None


async def test_who_renews_while_it_leaves_is_still_the_one_that_leaves():
    house = House()
    async with kept(house) as keeper:
        await keeper.add(member("pi-1", 2))
        seen = keeper.current.listed("pi-1")
        await keeper.add_key("pi-1", key(3), beside=key(2).spki_sha256)
        await keeper.mark("pi-1", "left", by="pi-1", seen=seen)

        assert keeper.current.listed("pi-1").status == "left"


async def test_a_home_restored_from_an_old_copy_adopts_what_members_show():
    house = House()
    async with kept(house) as keeper:
        old = house.disk.signed
        newest = await keeper.add(member("pi-1", 2))

    restored = House()
    restored.disk.signed = old
    async with kept(restored) as keeper:
        keeper.view.adopt(newest)  # as the agent does, whose view this is
        assert keeper.current.version == 2
        keeper.view.adopt(old)
        await keeper.add(member("pi-2", 3))
        assert keeper.current.version == 3
        assert {m.id for m in keeper.current.members} == {"gateway", "pi-1", "pi-2"}
        assert restored.disk.signed == keeper.signed


async def test_another_authoritys_roster_is_not_ours():
    stranger = Authority.create(now_s=NOW_S, entropy=os.urandom)
    forged = stranger.sign_roster(RosterDraft(9, bytes(32), NOW_S, (), (), ()))
    swapped = House()
    swapped.disk.signed = forged
    with pytest.raises(BadInput, match="does not verify"):
        await swapped.keeper.open()


async def test_a_stopping_keeper_answers_who_waits(monkeypatch):
    house = House()
    await house.keeper.open(members=[member("gateway", 1)])
    waiting = asyncio.create_task(house.keeper.add(member("pi-1", 2)))
    run = asyncio.create_task(house.keeper.run())
    monkeypatch.setattr(house.keeper, "_pause_s", lambda: 3600.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    run.cancel()

    with pytest.raises(Unavailable, match="stopping"):
        await waiting


@pytest.mark.parametrize("ahead", [1, 5], ids=["the same version", "higher"])
async def test_a_newer_roster_that_comes_while_we_sign_is_built_upon(ahead):
    house = House()
    async with kept(house) as keeper:
        held = keeper.current
        shown = AUTHORITY.sign_roster(
            RosterDraft(
                held.version + ahead, held.digest, held.issued_s, held.brokers, held.deployers,
                (*held.members, member("pi-9", 9)),
            )
        )  # fmt: skip
        signing = keeper._sign_and_save

        def overtaken(draft):
            signed = signing(draft)
            keeper.view.adopt(shown)  # as the agent does when a member shows it
            return signed

        keeper._sign_and_save = lambda draft: (
            overtaken(draft) if draft.version == held.version + 1 else signing(draft)
        )
        await asyncio.wait_for(keeper.add(member("pi-1", 2)), 5)

        assert keeper.current.version == held.version + ahead + 1
        assert {m.id for m in keeper.current.members} == {"gateway", "pi-1", "pi-9"}
        assert house.disk.signed == keeper.signed


async def restored(versions_since: int):
    """A house whose disk is that of version 1, and the roster that members hold by now."""
    lost = House()
    async with kept(lost) as keeper:
        backup = lost.disk.signed
        for n in range(versions_since):
            newest = await keeper.add(member(f"pi-{n}", n + 10))
    disk = Disk([])
    disk.signed = backup
    return House(disk), newest


async def test_a_restored_keeper_signs_nothing_and_says_why():
    house, _ = await restored(1)
    async with kept(house, hold=True) as keeper:
        house.clock.advance(3 * RESIGN_S * 1_000_000_000)
        with pytest.raises(Unavailable, match="restored from a backup and signs nothing"):
            await keeper.add(member("pi-9", 9))
        await asyncio.sleep(0)

        assert keeper.holds and keeper.current.version == 1
        assert house.disk.signed == keeper.signed


async def test_a_released_keeper_goes_on_above_every_number_that_was_used():
    """What a member showed is kept, what this start wants is in it, and no number comes twice."""
    house, newest = await restored(3)
    async with kept(house, hold=True) as keeper:
        keeper.view.adopt(newest)
        signed = await keeper.release(step=1 << 20)
        after = await keeper.add(member("pi-9", 9))

    first = open_roster(signed, root_spki_sha256=AUTHORITY.root_spki_sha256)
    assert first.version == 4 + (1 << 20)
    assert [m.id for m in first.members] == ["gateway", "pi-0", "pi-1", "pi-2"]
    assert first.prev_digest == open_roster(newest, root_spki_sha256=AUTHORITY.root_spki_sha256).digest
    assert open_roster(after, root_spki_sha256=AUTHORITY.root_spki_sha256).version == first.version + 1


async def test_a_disk_that_refuses_the_release_leaves_it_holding():
    house, _ = await restored(1)
    async with kept(house, hold=True) as keeper:
        house.disk.full = True
        with pytest.raises(Unavailable, match="disk is full"):
            await keeper.release(step=100)
        assert keeper.holds
        house.disk.full = False
        await keeper.release(step=100)

        assert (keeper.holds, keeper.current.version) == (False, 101)
