"""`why` between agents: open tasks, functions, what nobody knows."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.chronicle.entry import What
from edge_node.client import Mesh
from security.errors import BadInput
from tests.support.little_mesh import FUNCTIONS, LittleMesh


def kinds(answer, node):
    return [each["what"] for each in answer["entries"] if each["node"] == node]


async def until(holds):
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.timeout(60)
async def test_a_story_is_told_by_whoever_is_asked(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as mesh:
        gateway, owner = mesh.agents["gateway"], mesh.agents["pi-1"]
        async with Mesh.open(mesh.home("gateway")) as client:
            await client.call("deploy", {"source": FUNCTIONS.encode(), "stem": "lab", "only_if_new": True})
        await until(lambda: "lab.nap" in owner.catalogue.names() and len(gateway.detector.up()) == 2)

        async with Mesh.open(mesh.home("pi-1")) as client:
            task = (await client.submit("lab.nap", 30.0, where="local")).id
            await until(lambda: owner.desk.state(task) == ("placed", "pi-1"))

            told = await gateway.why(task[:15])
            assert told["about"] == task and kinds(told, "pi-1") == [What.ACCEPTED, What.NOW]
            assert {side["node"] for side in told["sides"]} >= {"gateway", "pi-1"} and told["missing"] == []

            alone = await owner.why(task, alone=True)
            assert alone["others_asked"] is False and kinds(alone, "pi-1") == [What.ACCEPTED, What.NOW]
            await client.cancel(task)

        with pytest.raises(BadInput, match="nothing is known of 'nobody-of-that-name'"):
            await gateway.why("nobody-of-that-name")
        assert (await gateway.why("lab.add"))["about"] == "lab.add", "a function of which nothing was noted"
