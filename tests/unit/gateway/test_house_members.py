"""The broker learns who may connect, however often it or the disk refuses at first."""

from __future__ import annotations

import asyncio
import contextlib
import errno

import pytest

from gateway import house as wiring
from gateway.broker import embedded
from gateway.broker.embedded import Embedded
from gateway.house import House
from security.errors import Unavailable


class Broker:
    def __init__(self):
        self.refusals, self.members = 3, None

    async def set_members(self, ids):
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("no space left on device")
        self.members = ids


async def test_members_that_the_broker_did_not_take_are_told_again(monkeypatch):
    monkeypatch.setattr(wiring, "TELL_AGAIN_S", 0)
    house = House.__new__(House)
    house.broker, house._members_moved = Broker(), asyncio.Event()
    house._active = lambda: ["pi-1"]
    house._members_moved.set()

    telling = asyncio.create_task(house._tell_broker())
    async with asyncio.timeout(5):
        while house.broker.members is None:
            await asyncio.sleep(0)
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling

    assert house.broker.members == ["pi-1"]


async def test_a_full_disk_under_the_embedded_broker_is_unavailable_and_not_the_end(monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "_write", full)
    broker = Embedded.__new__(Embedded)
    broker._folder, broker._signal_child = tmp_path, lambda number: None

    with pytest.raises(Unavailable, match="No space left"):
        await broker.set_members(["pi-1"])
