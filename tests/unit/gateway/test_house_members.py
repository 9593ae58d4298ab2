"""The broker learns who may connect, however often it or the disk refuses at first."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

import pytest

from gateway.broker import door_list, embedded, supervisor
from gateway.broker.access import name_of
from gateway.broker.broker import Broker as RealBroker
from gateway.broker.embedded import Embedded
from gateway.broker.process import Process
from security.errors import Unavailable
from security.roster import Member, MemberKey, Roster


def roster_of(*names: str, version: int = 1, revoked: str = "") -> Roster:
    members = [Member(n, (MemberKey(n.encode().ljust(32), bytes(32), 1),)) for n in names]
    if revoked:
        key = MemberKey(revoked.encode().ljust(32), bytes(32), 1)
        members.append(Member(revoked, (key,), status="revoked", since_s=1))
    return Roster("0" * 16, version, bytes(32), 1, 2, (), (), tuple(members))


def names(broker) -> list[str]:
    return [name_of(one) for one in broker.members]


class Broker:
    def __init__(self):
        self.refusals, self.members = 3, None

    async def set_members(self, ids):
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("no space left on device")
        self.members = ids


async def test_members_that_the_broker_did_not_take_are_told_again(monkeypatch):
    monkeypatch.setattr(door_list, "TELL_AGAIN_S", 0)
    broker, roster = Broker(), roster_of("gateway", "pi-1")
    listed = door_list.DoorList(broker, lambda: roster)
    listed.moved()

    telling = asyncio.create_task(listed.run())
    async with asyncio.timeout(60):
        await listed.told()
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling

    assert names(broker) == ["gateway", "pi-1"]


async def test_a_broker_that_comes_up_and_does_not_take_its_members_says_so(monkeypatch, tmp_path):
    """One that outlived its gateway may still let in who was revoked in that moment."""
    real = RealBroker(
        home=tmp_path, mesh_id="0" * 16, host="127.0.0.1", port=1, ca_file=tmp_path, cert_file=tmp_path,
        key_file=tmp_path, on_untold=lambda: listed.moved(),
    )  # fmt: skip
    broker, roster = Broker(), roster_of("gateway")
    broker.refusals = 1
    listed = door_list.DoorList(broker, lambda: roster)
    monkeypatch.setattr(real, "_program", broker)
    await real._tell_members()

    telling = asyncio.create_task(listed.run())
    async with asyncio.timeout(60):
        await listed.told()
    telling.cancel()
    await asyncio.wait([telling])
    assert names(broker) == ["gateway"]


async def test_a_disk_that_refuses_the_brokers_record_does_not_end_the_gateway(monkeypatch, tmp_path, caplog):
    def full(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    real = RealBroker(
        home=tmp_path, mesh_id="0" * 16, host="127.0.0.1", port=1, ca_file=tmp_path, cert_file=tmp_path,
        key_file=tmp_path,
    )  # fmt: skip
    monkeypatch.setattr(real, "_program", Embedded(real._listener, lambda number: None))
    monkeypatch.setattr(real, "_process", Process(os.getpid(), 1))
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_text", full)
        await real._carry_out(supervisor.Remember(1, "digest"))
    await real._carry_out(supervisor.Forget())

    assert "record cannot be written: No space left" in caplog.text


async def test_who_was_removed_is_not_told_to_the_broker_again(monkeypatch):
    """Nobody waits longer than for the broker's answer to the newest roster."""
    monkeypatch.setattr(door_list, "FAREWELL_S", 0)
    broker = Broker()
    broker.refusals = 0
    rosters = [roster_of("gateway", "pi-1", "pi-2"), roster_of("gateway", "pi-1", version=2, revoked="pi-2")]
    listed = door_list.DoorList(broker, lambda: rosters[0])
    await listed.tell()
    assert names(broker) == ["gateway", "pi-1", "pi-2"]

    rosters.pop(0)
    telling = asyncio.create_task(listed.run())
    listed.moved()
    async with asyncio.timeout(60):
        await listed.told()
    telling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await telling

    assert names(broker) == ["gateway", "pi-1"]


async def test_a_full_disk_under_the_embedded_broker_is_unavailable_and_not_the_end(monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "_write", full)
    broker = Embedded.__new__(Embedded)
    broker._folder, broker._signal_child = tmp_path, lambda number: None

    with pytest.raises(Unavailable, match="No space left"):
        await broker.set_members(["pi-1"])
