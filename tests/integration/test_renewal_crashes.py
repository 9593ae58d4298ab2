"""Renewal with a crash between every two steps, on either side: one of the two keys always works.

Real TLS and HTTP on 127.0.0.1; a crash is a step that raises before or after it was done, and a key store and
an agent's memory that are read again from disk.
"""

from __future__ import annotations

import pytest

from edge_node import joining
from edge_node.joining import join, renew
from gateway.renewal import retirements
from gateway.roster_keeper import RosterKeeper
from security.certificates import DAY_S
from security.errors import EdgeweaveError, Refused, Unavailable
from security.keystore import KeyStore
from tests.support.joined_gateway import GatewayHouse

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """kill -9: nothing of ours catches it."""


class Steps:
    """Counts the steps that touch the disk; dies at one of them."""

    def __init__(self, at: int | None = None, *, done: bool = False) -> None:
        self.at, self.done, self.count = at, done, 0

    def around(self, step):
        def stepped(store, *args):
            here, self.count = self.count, self.count + 1
            if here == self.at and not self.done:
                raise Killed
            answer = step(store, *args)
            if here == self.at:
                raise Killed
            return answer

        return stepped


@pytest.fixture
async def gateway(tmp_path):
    async with GatewayHouse(tmp_path / "gateway").open() as opened:
        yield opened


async def joined(gateway, path) -> KeyStore:
    await join(await gateway.invite(), path, name="pi-1", mdns="none")
    return KeyStore(path / "keys")


def works(gateway, store: KeyStore) -> bool:
    """What a restarted node has on disk, the roster of the gateway lists: broker and sessions let it in."""
    identity = store.identity()
    listed = {(key.spki_sha256, key.x25519) for key in gateway.keeper.current.member("pi-1").keys}
    return (identity.keys.spki_sha256, identity.keys.x25519_public) in listed


async def retire(gateway, store: KeyStore) -> None:
    """The gateway takes off what it may, after a session with the keys that this node has on disk."""
    used = store.identity().keys.x25519_public
    for member, spki in retirements(gateway.keeper.current, lambda _: used, now_s=0):
        await gateway.keeper.retire_key(member, spki)


async def survives(gateway, store: KeyStore) -> None:
    """After the crash: it works, it still does when old keys were retired, and it renews to the end."""
    assert works(gateway, store)
    await retire(gateway, store)
    assert works(gateway, store)
    before = store.identity().keys.spki_sha256
    await renew(store)
    assert works(gateway, store) and store.identity().keys.spki_sha256 != before
    assert store.joining() is None
    await retire(gateway, store)
    assert works(gateway, store) and len(gateway.keeper.current.member("pi-1").keys) == 1


async def test_a_node_killed_between_any_two_steps_is_never_locked_out(gateway, tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.roster_keeper.PACE_S", 1e-6)  # fifty versions in a row, not one a second
    monkeypatch.setattr("gateway.joining.RENEWALS_EACH", 100)
    write, remove = KeyStore.write, KeyStore.remove
    store = await joined(gateway, tmp_path / "pi")
    mine = store.directory

    def watched(steps):
        for name, step in (("write", write), ("remove", remove)):
            stepped = steps.around(step)
            monkeypatch.setattr(
                KeyStore,
                name,
                lambda self, *args, step=step, stepped=stepped: (
                    stepped(self, *args) if self.directory == mine else step(self, *args)
                ),
            )

    watched(whole := Steps())
    await renew(store)
    assert whole.count >= 7, "keys, root, roster, floor, hint, previous and new identity, and what is removed"
    for at in range(whole.count):
        for done in (False, True):
            watched(steps := Steps(at, done=done))
            try:
                await renew(KeyStore(mine))
            except Killed:
                pass
            else:  # the floor is written when its second has passed: in the first renewal, not in this one
                assert (at, steps.count) == (whole.count - 1, at), "it was not killed"
            watched(Steps())
            await survives(gateway, KeyStore(mine))


@pytest.mark.parametrize("again", [1, 2, 3])
async def test_an_answer_that_is_lost_on_the_way_is_asked_for_again_with_the_same_keys(
    gateway, tmp_path, monkeypatch, again
):
    """The gateway has listed the new key; the node does not know it."""
    store = await joined(gateway, tmp_path / "pi")
    exchange = joining._Line.exchange

    async def lost(self, method, path, *args, **options):
        answer = await exchange(self, method, path, *args, **options)
        if path == "/join/renew":
            raise Killed
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(joining._Line, "exchange", lost)
        for _ in range(again):
            with pytest.raises((Killed, EdgeweaveError)):
                await renew(KeyStore(store.directory))
    assert len(gateway.keeper.current.member("pi-1").keys) == 2
    await survives(gateway, KeyStore(store.directory))


@pytest.mark.parametrize("where", ["before it signs", "after it signed", "after it published"])
async def test_a_gateway_that_dies_while_it_renews_a_member_locks_nobody_out(
    gateway, tmp_path, monkeypatch, where
):
    store = await joined(gateway, tmp_path / "pi")
    sign = RosterKeeper._sign_and_save

    def dies(*args):
        if where == "after it signed":
            sign(*args)
        raise Unavailable("the gateway was killed here")

    with monkeypatch.context() as patch:
        if where == "after it published":
            patch.setattr(gateway.enroller, "_answer", dies)
        else:
            patch.setattr(RosterKeeper, "_sign_and_save", dies)
        with pytest.raises(Unavailable, match="killed here"):
            await renew(KeyStore(store.directory), timeout_s=0.5)
    # The gateway comes back with what is on its disk.
    await gateway.reopened()
    await survives(gateway, KeyStore(store.directory))


# ── long away ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("days", [11, 31, 59.9])
async def test_a_node_that_was_away_comes_back_up_to_thirty_days_after_its_certificate_ended(
    gateway, tmp_path, days
):
    store = await joined(gateway, tmp_path / "pi")
    gateway.clock.ahead_s = int(days * DAY_S)

    await survives(gateway, store)


async def test_after_longer_it_is_told_what_to_ask_for(gateway, tmp_path):
    store = await joined(gateway, tmp_path / "pi")
    gateway.clock.ahead_s = 61 * DAY_S

    with pytest.raises(Refused, match=r"expired more than 30 days ago: ask for `edge-gateway replace pi-1`"):
        await renew(store)
    assert works(gateway, store), "it stays listed: replacing it is the operator's word"


async def test_a_lost_answer_and_a_month_away_do_not_lock_out_either(gateway, tmp_path, monkeypatch):
    """Two keys are listed and the node has the older one: the clock alone must not take it off."""
    store = await joined(gateway, tmp_path / "pi")
    with monkeypatch.context() as patch:
        patch.setattr(joining, "_keep", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            await renew(store)
    gateway.clock.ahead_s = 45 * DAY_S
    away = retirements(gateway.keeper.current, lambda _: None, now_s=gateway.clock.wall_ms() // 1000)

    assert away == []
    await survives(gateway, store)
