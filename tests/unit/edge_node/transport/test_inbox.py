"""The inbox: bounded for the world, open for ourselves, a batch a wake-up."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.transport import inbox as inboxes
from edge_node.transport.inbox import Inbox


async def test_all_that_waits_comes_at_once_and_in_order():
    inbox = Inbox()
    inbox.put_nowait(1)
    inbox.put_local(2)
    inbox.put_nowait(3)

    assert await inbox.take() == [1, 2, 3]
    assert await inbox.take(0) == []


async def test_a_sleeper_is_woken():
    inbox = Inbox()
    asyncio.get_running_loop().call_soon(inbox.put_local, "event")

    assert await inbox.take() == ["event"]


async def test_a_timeout_gives_an_empty_batch():
    assert await Inbox().take(0.001) == []


async def test_only_deliveries_count_against_the_bound():
    inbox = Inbox(2)
    for n in range(10):
        inbox.put_local(n)
    inbox.put_nowait("a")
    inbox.put_nowait("b")
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait("c")
    inbox.put_local("mine")

    assert len(await inbox.take()) == 13
    assert inbox.room == 2


async def test_full_pauses_once_and_take_resumes():
    inbox, calls = Inbox(2), []
    inbox.watch(lambda: calls.append("pause"), lambda: calls.append("resume"))
    inbox.put_nowait(1)
    assert calls == []
    inbox.put_nowait(2)
    with pytest.raises(asyncio.QueueFull):
        inbox.put_nowait(3)
    assert calls == ["pause"]

    await inbox.take()
    assert calls == ["pause", "resume"]
    await inbox.take(0)
    assert calls == ["pause", "resume"]


async def test_what_resume_puts_in_waits_for_the_next_take():
    inbox, kept = Inbox(1), [2, 3]
    inbox.watch(lambda: None, lambda: inbox.put_nowait(kept.pop(0)) if kept else None)
    inbox.put_nowait(1)

    assert [await inbox.take(0) for _ in range(4)] == [[1], [2], [3], []]


async def test_a_consumer_that_feeds_itself_does_not_starve_the_loop():
    inbox, turns = Inbox(), []
    asyncio.get_running_loop().call_soon(turns.append, "the loop turned")
    for _ in range(3):
        inbox.put_local("again")
        await inbox.take()

    assert turns


async def test_a_cancelled_take_loses_nothing():
    inbox = Inbox()
    taker = asyncio.create_task(inbox.take(), name="taker")
    await asyncio.sleep(0)
    taker.cancel()
    inbox.put_local("kept")
    await asyncio.wait([taker])

    assert await inbox.take() == ["kept"]


async def test_a_patient_delivery_waits_for_company_and_comes_without_any_in_the_end():
    inbox = Inbox()
    taking = asyncio.ensure_future(inbox.take())
    await asyncio.sleep(0)
    inbox.put_patient(1)
    inbox.put_patient(2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not taking.done()

    assert await taking == [1, 2]


async def test_what_is_urgent_takes_the_patient_along_at_once_and_in_order(monkeypatch):
    monkeypatch.setattr(inboxes, "PATIENCE_S", 3600.0)
    inbox = Inbox()
    for put in (inbox.put_nowait, inbox.put_local):
        taking = asyncio.ensure_future(inbox.take())
        await asyncio.sleep(0)
        inbox.put_patient("beat")
        put("work")
        assert await taking == ["beat", "work"]


async def test_an_inbox_that_is_full_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(inboxes, "PATIENCE_S", 3600.0)
    inbox = Inbox(2)
    taking = asyncio.ensure_future(inbox.take())
    await asyncio.sleep(0)
    inbox.put_patient(1)
    inbox.put_patient(2)
    with pytest.raises(asyncio.QueueFull):
        inbox.put_patient(3)

    assert await taking == [1, 2]
