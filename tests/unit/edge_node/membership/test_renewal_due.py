"""When a node asks for new keys, and what it does when nobody answers."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from edge_node.clock import ManualClock
from edge_node.membership import renewal
from security.authority import Authority
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import RosterDraft

DAY_S = 86400


@pytest.fixture
def keystore(tmp_path):
    now_s = int(time.time())
    authority = Authority.create(now_s=now_s, entropy=os.urandom)
    keys = NodeKeys.generate()
    store = KeyStore(tmp_path / "keys")
    leaf = authority.issue(keys.signing.public_key(), "pi-1", now_s=now_s)
    store.save_identity(keys, leaf_pem=leaf, issuing_pem=authority.issuing_pem)
    store.save_root(authority.root_pem)
    store.authority_of_the_mesh = authority
    return store


def node(keystore, days: float, renewed: list) -> renewal.Renewal:
    clock = ManualClock(wall_ms=int((time.time() + days * DAY_S) * 1000))
    return renewal.Renewal(
        keystore, clock, gateways=list, mdns="none", on_renewed=lambda *what: renewed.append(what)
    )


@pytest.mark.parametrize(("days", "due"), [(0, False), (9, False), (11, True), (29, True)])
def test_a_certificate_of_30_days_is_due_after_10(keystore, days, due):
    assert node(keystore, days, [])._is_due() is due


def roster_of_today(keystore, days: float) -> None:
    """What the gateway signs anew every day."""
    now_s = int(time.time() + days * DAY_S)
    keystore.save_roster(
        keystore.authority_of_the_mesh.sign_roster(RosterDraft(2, bytes(32), now_s, (), (), ()))
    )


@pytest.mark.parametrize(("days", "due"), [(0, False), (9, False), (11, True), (45, True)])
def test_a_board_that_woke_up_in_1970_goes_by_the_newest_roster(keystore, days, due):
    """Without it nothing would ever be due there, and its certificate would end unnoticed."""
    roster_of_today(keystore, days)

    assert node(keystore, -time.time() / DAY_S, [])._is_due() is due


def test_a_clock_ten_years_ahead_renews_early_and_never_too_late(keystore):
    roster_of_today(keystore, 0)

    assert node(keystore, 3650, [])._is_due() is True


async def test_without_a_gateway_it_goes_on_with_what_it_has_and_tries_again(keystore, monkeypatch, caplog):
    tries = []

    async def nobody(store, **options):
        tries.append(options)
        raise renewal.EdgeweaveError("no gateway answered")

    monkeypatch.setattr("edge_node.joining.renew", nobody)
    monkeypatch.setattr(renewal, "FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(renewal, "RETRY_S", 0.0)
    renewed = []
    task = asyncio.create_task(node(keystore, 11, renewed).run())
    async with asyncio.timeout(10):
        while len(tries) < 3:
            await asyncio.sleep(0)
    task.cancel()

    assert renewed == []
    assert "due and was not renewed" in caplog.text
