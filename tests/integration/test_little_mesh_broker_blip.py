"""A broker that is away for a moment: members are there for each other again as soon as it is back."""

from __future__ import annotations

import asyncio

import pytest

from edge_node import node as room
from tests.support.little_mesh import LittleMesh

pytestmark = pytest.mark.slow


async def test_peers_are_up_again_without_waiting_for_a_beat_that_is_due(tmp_path, monkeypatch):
    """While its load does not change a member beats every 5 s only; here: not at all."""
    monkeypatch.setattr(room, "BEAT_NS_MAX", 3600 * room.SECOND)
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway, pi = little.agents["gateway"], little.agents["pi-1"]
        await asyncio.sleep(0.1)

        little.broker.stop()
        async with asyncio.timeout(60):
            while gateway.detector.up() or pi.detector.up():
                await asyncio.sleep(0.01)
        little.broker.start()

        async with asyncio.timeout(60):
            while gateway.detector.up() != ["pi-1"] or pi.detector.up() != ["gateway"]:
                await asyncio.sleep(0.01)
