"""At the gateway: whose former key may go, which certificates are due, and which time is believed."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from edge_node.clock import AHEAD_S_MAX, FlooredClock, ManualClock
from gateway.house import open_trust
from gateway.renewal import Renewals, doubt_of, gateway_clock, retirements
from gateway.roster_keeper import RosterKeeper
from security.authority import Authority
from security.certificates import DAY_S, HOUR_S, RELEASED_S, not_before_s
from security.errors import Unavailable
from security.keystore import KeyStore
from security.roster import Member, MemberKey, Roster, RosterDraft

NOW_S = int(time.time())
OLD, NEW = MemberKey(b"o" * 32, b"O" * 32, NOW_S), MemberKey(b"n" * 32, b"N" * 32, NOW_S)
END_S = NOW_S + HOUR_S + 30 * DAY_S


def roster(*members: Member) -> Roster:
    return Roster("ab" * 8, 1, bytes(32), NOW_S, NOW_S + DAY_S, (), (), members)


@pytest.mark.parametrize(
    ("in_use", "at_s", "gone"),
    [
        (
            NEW.x25519,
            NOW_S,
            [("pi-1", OLD.spki_sha256)],
        ),  # it is on the member's disk: the old one has served
        (OLD.x25519, NOW_S, []),
        (None, NOW_S, []),  # away: nobody knows which of the two it still has
        (None, END_S + 30 * DAY_S, []),  # it may still come back, with the key of a lost answer
        (None, END_S + 30 * DAY_S + 1, [("pi-1", OLD.spki_sha256)]),
        (OLD.x25519, END_S + 99 * DAY_S, []),  # a clock that runs ahead takes no key that is in use
        (b"x" * 32, NOW_S, []),  # a session by a key that is not listed any more
    ],
)
def test_a_former_key_goes_once_the_new_one_was_used_or_long_after_its_end(in_use, at_s, gone):
    listed = roster(Member("pi-1", (NEW, OLD)))

    assert retirements(listed, lambda _: in_use, now_s=at_s) == gone


@pytest.mark.parametrize("member", [Member("pi-1", (NEW,)), Member("pi-1", (NEW, OLD), status="revoked")])
def test_the_last_key_stays_and_who_is_no_member_is_left_alone(member):
    assert retirements(roster(member), lambda _: NEW.x25519, now_s=NOW_S + 999 * DAY_S) == []


# ── the clock ─────────────────────────────────────────────────────────────────────────────────────────────


def at(wall_s: float) -> ManualClock:
    return ManualClock(wall_ms=int(wall_s * 1000))


@pytest.mark.parametrize(
    ("told_s", "used_s", "verdict"),
    [
        (0, NOW_S, "behind"),
        (NOW_S - 1, NOW_S, "behind"),
        (NOW_S + 5, NOW_S + 5, "ok"),
        (NOW_S + 100, NOW_S + 100, "ok"),
        (NOW_S + 101, NOW_S, "ahead"),
    ],
)
def test_a_clock_that_is_certainly_wrong_is_not_believed(told_s, used_s, verdict):
    clock = FlooredClock(at(told_s), NOW_S * 1000, ahead_ms_max=100_000)

    assert (clock.wall_ms(), clock.verdict()) == (used_s * 1000, verdict)


def test_below_the_floor_time_runs_on_and_a_clock_that_is_set_counts_again():
    machine = at(0)
    clock = FlooredClock(machine, NOW_S * 1000)
    machine.advance(7 * 1_000_000_000)
    assert clock.wall_ms() == (NOW_S + 7) * 1000

    machine._wall_ms = (NOW_S + 50) * 1000
    assert (clock.wall_ms(), clock.verdict()) == ((NOW_S + 57) * 1000, "ok")


def trusted(path, clock):
    keystore = KeyStore(path)
    judged = gateway_clock(keystore, clock)
    trust = open_trust(keystore, judged)
    return keystore, judged, trust


@pytest.mark.parametrize("years", [-56, 10, 150])
def test_a_gateway_with_an_absurd_clock_makes_a_mesh_that_is_good_once_the_clock_is_set(tmp_path, years):
    """1970, +10 years, +150 years: everything is dated to what is known, so the set clock finds it valid."""
    _, judged, trust = trusted(tmp_path / "keys", at(NOW_S + years * 365 * DAY_S))

    assert RELEASED_S - HOUR_S <= not_before_s(trust.identity.leaf) <= NOW_S
    assert "set the clock" in doubt_of(judged)
    for certificate in (trust.authority.root, trust.authority.issuing, trust.identity.leaf):
        assert not_before_s(certificate) <= NOW_S


def test_after_a_roster_was_signed_nothing_is_dated_before_it(tmp_path):
    """The board's RTC lost its battery: it wakes in 1970, later than the release it has signed on."""
    keystore, _, trust = trusted(tmp_path / "keys", at(NOW_S))
    signed_s = NOW_S + 40 * DAY_S
    keystore.save_roster(sign(trust.authority, signed_s))
    _, judged, again = trusted(tmp_path / "keys", at(0))

    assert judged.wall_ms() // 1000 >= signed_s
    assert not_before_s(again.identity.leaf) >= signed_s - HOUR_S
    assert "1970-01-01" in doubt_of(judged)


def test_a_mesh_whose_gateway_jumps_ten_years_ahead_goes_on_at_the_time_it_knew(tmp_path):
    """Signed with that clock, its rosters would bind members to a time that comes in ten years."""
    keystore, _, trust = trusted(tmp_path / "keys", at(NOW_S))
    keystore.save_roster(sign(trust.authority, NOW_S))
    _, judged, again = trusted(tmp_path / "keys", at(NOW_S + 10 * 365 * DAY_S))

    assert NOW_S <= judged.wall_ms() // 1000 < NOW_S + DAY_S
    assert again.identity.leaf == trust.identity.leaf


def test_a_gateway_that_was_off_for_years_is_believed(tmp_path):
    keystore, _, trust = trusted(tmp_path / "keys", at(NOW_S))
    keystore.save_roster(sign(trust.authority, NOW_S))
    _, judged, _ = trusted(tmp_path / "keys", at(NOW_S + AHEAD_S_MAX))

    assert (judged.verdict(), doubt_of(judged)) == ("ok", "")


def test_a_stored_roster_that_is_damaged_says_nothing_about_the_time(tmp_path):
    keystore, _, _ = trusted(tmp_path / "keys", at(NOW_S))
    keystore.save_roster(b"damaged")

    assert gateway_clock(keystore, at(NOW_S)).verdict() == "ok"


def sign(authority: Authority, issued_s: int) -> bytes:
    return authority.sign_roster(RosterDraft(1, bytes(32), issued_s, (), (), ()))


# ── the shell ─────────────────────────────────────────────────────────────────────────────────────────────


class House:
    """A real key store, authority and keeper; only the clock is by hand."""

    def __init__(self, path):
        self.clock = at(NOW_S)
        self.keystore, _, self.trust = trusted(path, self.clock)
        self.keeper = RosterKeeper(
            self.trust.authority, self.keystore, on_changed=lambda signed: None, clock=self.clock
        )
        self.shown: list[str] = []
        self.in_use: dict[str, bytes] = {}
        self.renewals = Renewals(
            self.keystore,
            self.trust.authority,
            self.keeper,
            self.clock,
            used=self.in_use.get,
            on_own=lambda identity: self.shown.append(f"own {not_before_s(identity.leaf)}"),
            on_broker=lambda: self.shown.append("broker"),
        )

    @contextlib.asynccontextmanager
    async def running(self):
        await self.keeper.open(members=[Member("gateway", (key_of("g"),), ("gateway",))])
        task = asyncio.create_task(self.keeper.run())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def key_of(letter: str) -> MemberKey:
    return MemberKey(letter.encode() * 32, letter.upper().encode() * 32, NOW_S)


async def test_both_certificates_are_renewed_when_due_and_what_stands_is_only_told(tmp_path):
    async with House(tmp_path / "keys").running() as house:
        await house.renewals.certify()
        assert house.shown == []
        house.clock.advance(11 * DAY_S * 1_000_000_000)
        await house.renewals.certify()
        assert house.shown == [f"own {NOW_S + 11 * DAY_S - HOUR_S}"], "the broker's lasts for 90 days"
        house.clock.advance(20 * DAY_S * 1_000_000_000)
        await house.renewals.certify()

        assert house.shown[1:] == [f"own {NOW_S + 31 * DAY_S - HOUR_S}", "broker"]
        assert house.keystore.identity().keys.spki_sha256 == house.trust.identity.keys.spki_sha256


async def test_a_fleet_that_renewed_together_leaves_room_for_other_changes(tmp_path, caplog):
    fleet = [f"pi-{n}" for n in range(300)]
    async with House(tmp_path / "keys").running() as house:

        def listed(draft):
            draft.members.update((name, Member(name, (fresh(name, 1), fresh(name, 2)))) for name in fleet)

        await house.keeper.change(listed)
        house.in_use.update((name, fresh(name, 1).x25519) for name in fleet)
        retiring = asyncio.create_task(house.renewals.retire())
        await asyncio.sleep(0)
        await house.keeper.mark("pi-7", "revoked", by="ann")
        await retiring
        for _ in fleet:
            await house.renewals.retire()

        assert "stays for now" not in caplog.text
        active = [m for m in house.keeper.current.members if m.id in fleet and m.status == "active"]
        assert len(active) == 299 and all(len(m.keys) == 1 for m in active)


def fresh(name: str, n: int) -> MemberKey:
    return MemberKey(f"{name}/{n}".encode().ljust(32), bytes([n]) * 32, NOW_S)


async def test_a_full_disk_at_renewal_is_said_and_tried_again(tmp_path, monkeypatch, caplog):
    async with House(tmp_path / "keys").running() as house:
        house.clock.advance(31 * DAY_S * 1_000_000_000)
        with monkeypatch.context() as patch:
            patch.setattr(house.keystore, "write", full)
            await house.renewals.certify()
        assert house.shown == [] and "due and was not renewed" in caplog.text
        await house.renewals.certify()

        assert len(house.shown) == 2


def full(name: str, data: bytes) -> None:
    raise Unavailable("no space left on device")


async def test_former_keys_that_were_replaced_together_go_in_one_version(tmp_path):
    async with House(tmp_path / "keys").running() as house:
        for n, (old, new) in enumerate(("ab", "cd", "ef")):
            await house.keeper.add(Member(f"pi-{n}", (key_of(old),)))
            await house.keeper.add_key(f"pi-{n}", key_of(new))
        house.in_use.update(
            {"pi-0": key_of("b").x25519, "pi-1": key_of("d").x25519, "pi-2": key_of("e").x25519}
        )
        before = house.keeper.current.version
        await house.renewals.retire()

        assert house.keeper.current.version == before + 1
        assert [house.keeper.current.member(f"pi-{n}").keys for n in range(3)] == [
            (key_of("b"),), (key_of("d"),), (key_of("f"), key_of("e")),
        ]  # fmt: skip
        await house.renewals.retire()
        assert house.keeper.current.version == before + 1, "nothing to do, nothing signed"
