"""Real agents that place work among each other, also while the gateway is away."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.client import Mesh
from edge_node.settings import FunctionSettings, NodeSettings
from tests.support.little_mesh import FUNCTIONS, LittleMesh

pytestmark = pytest.mark.slow


async def deploy(mesh: Mesh) -> None:
    await mesh.call("deploy", {"source": FUNCTIONS.encode(), "stem": "toy", "only_if_new": True})


async def known(agent, name: str) -> None:
    async with asyncio.timeout(10):
        while name not in agent.catalogue.names():
            await asyncio.sleep(0.01)


async def up(agent, peer: str) -> None:
    async with asyncio.timeout(10):
        while peer not in agent.peers_up():
            await asyncio.sleep(0.01)


async def test_a_busy_node_shares_its_burst_with_peers_and_gateway(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        await known(little.agents["pi-1"], "toy.nap")
        async with Mesh.open(tmp_path / "pi-1") as mesh:
            await up(little.agents["pi-1"], "pi-2")  # by its beats: they have no session yet
            tasks = [await mesh.submit("toy.nap", 0.1) for _ in range(40)]
            places = [(await task.outcome()).place for task in tasks]

    assert set(places) == {"local", "gateway", "pi-2"}


async def test_code_and_large_inputs_come_from_a_peer_while_the_gateway_is_away(tmp_path):
    only_when_it_runs = NodeSettings(functions=FunctionSettings(prefetch=False))
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"], settings=only_when_it_runs) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        await known(little.agents["pi-1"], "toy.blob")
        async with Mesh.open(tmp_path / "pi-1") as mesh:
            assert await mesh.run("toy.blob", b"", 3, where="local") == b"xxx"  # pi-1 holds the bundle now
            digest = little.agents["pi-1"].catalogue.current("toy.blob").digest
            await little.stop("gateway")
            assert not little.agents["pi-2"].bundles.has(digest), "else nothing would be fetched"

            assert await mesh.run("toy.blob", bytes(300_000), 5, where="pi-2", deadline_s=20) == b"x" * 5

        assert little.agents["pi-2"].bundles.has(digest)


async def test_a_node_that_is_cut_off_runs_what_it_never_ran_before(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        await known(little.agents["pi-1"], "toy.add")
        digest = little.agents["pi-1"].catalogue.current("toy.add").digest
        async with asyncio.timeout(10):
            while not little.agents["pi-1"].bundles.has(digest):
                await asyncio.sleep(0.01)
        await little.stop("gateway")

        async with Mesh.open(tmp_path / "pi-1") as mesh:
            assert await mesh.run("toy.add", 2, 3, deadline_s=5) == 5
