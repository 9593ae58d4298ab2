"""Two real agents over a memory link: sealed work there and back, with real journals and workers."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.client import Mesh, TaskFailed
from edge_node.wire.messages import Offer
from security.errors import BadInput, Refused
from tests.support.little_mesh import FUNCTIONS, LittleMesh

pytestmark = pytest.mark.slow


async def deploy(mesh: Mesh) -> None:
    await mesh.call("deploy", {"source": FUNCTIONS.encode(), "stem": "toy", "only_if_new": True})


async def test_work_runs_on_the_other_node_and_its_result_comes_back(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)

        assert await mesh.run("toy.add", 2, 3, where="pi-1") == 5
        task = await mesh.submit("toy.add", 4, 5, where="pi-1")
        outcome = await task.outcome()
        assert (outcome.place, outcome.attempts[0].node, outcome.log) == ("pi-1", "pi-1", b"adding\n")
        assert little.agents["gateway"].channels.violations == {}


async def test_a_node_hands_work_to_the_gateway(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        await seen(little.agents["pi-1"], "toy.add")
        async with Mesh.open(tmp_path / "pi-1") as mesh:
            assert await mesh.run("toy.add", 2, 3, where="gateway") == 5
            assert await mesh.run("toy.add", 2, 3, where="local") == 5


async def test_large_inputs_and_outputs_travel_by_digest(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)

        assert await mesh.run("toy.blob", bytes(3_000_000), 2_000_000, where="pi-1") == b"x" * 2_000_000
        assert little.agents["gateway"].bodies.get(b"") is None


async def test_a_failure_reaches_the_caller_as_data(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]), Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)

        with pytest.raises(TaskFailed, match="on purpose") as caught:
            await mesh.run("toy.fail", where="pi-1")
        assert 'raise ValueError("on purpose")' in caught.value.remote_traceback


async def test_bad_work_is_refused_at_the_door(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]), Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)

        with pytest.raises(BadInput, match=r"did you mean 'toy\.add'"):
            await mesh.run("toy.ad", 1, 2)
        with pytest.raises(BadInput, match="expected int, got str"):
            await mesh.run("toy.add", 1, "2")
        with pytest.raises(BadInput, match="MB"):
            await mesh.run("toy.blob", bytes(9_000_000), 1)
        with pytest.raises(Refused, match="no such node"):
            await mesh.run("toy.add", 1, 2, where="pi-9")


async def test_a_node_without_the_role_may_not_deploy(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]), Mesh.open(tmp_path / "pi-1") as mesh:
        with pytest.raises(Refused, match="does not have the role deployer"):
            await deploy(mesh)


async def test_a_deployer_node_publishes_through_the_gateway(tmp_path):
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    little.roles["pi-1"] = ("deployer",)
    async with little:
        async with Mesh.open(tmp_path / "pi-1") as mesh:
            await deploy(mesh)
        await seen(little.agents["pi-2"], "toy.add")
        async with Mesh.open(tmp_path / "pi-2") as mesh:
            assert await mesh.run("toy.add", 20, 3) == 23


async def test_a_node_reaches_another_node_that_is_named(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        await seen(little.agents["pi-1"], "toy.add")
        async with Mesh.open(tmp_path / "pi-1") as mesh:
            task = await mesh.submit("toy.add", 2, 3, where="pi-2")
            outcome = await task.outcome()

    assert (outcome.status, outcome.place) == ("done", "pi-2")


async def test_accepted_work_resumes_after_a_crash_of_its_owner(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
            ids = [(await mesh.submit("toy.nap", 0.3, where="pi-1")).id for _ in range(4)]
        await little.stop("gateway")
        await little.start("gateway")
        async with Mesh.open(tmp_path / "gateway") as mesh:
            for task in ids:
                assert await mesh.result(task, wait_s=30) == 0.3


async def test_a_holder_that_dies_costs_a_lease_and_not_the_task(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        task = await mesh.submit("toy.nap", 1.0, where="pi-1")
        async with asyncio.timeout(60):
            while little.agents["gateway"].desk.state(task.id) != ("placed", "pi-1"):
                await asyncio.sleep(0.01)
        await little.stop("pi-1")
        await little.start("pi-1")

        outcome = await task.outcome()
        assert outcome.status == "done"
        assert len(outcome.attempts) >= 2


async def test_the_mesh_survives_a_broker_that_forgets_everything(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        tasks = [await mesh.submit("toy.add", n, 1, where="pi-1") for n in range(50)]
        little.broker.stop()
        await asyncio.sleep(0.2)
        little.broker.start()

        assert [await task.result() for task in tasks] == [n + 1 for n in range(50)]


async def test_nothing_readable_crosses_the_broker(tmp_path):
    seen_bytes = bytearray()
    little = LittleMesh(tmp_path, ["gateway", "pi-1"])
    little.broker.lose = lambda client, topic, payload: bool(seen_bytes.extend(payload)) or False
    async with little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        await mesh.run("toy.blob", b"a secret of the plant " * 100, 2000, where="pi-1")

    assert b"a secret of the plant" not in seen_bytes
    assert b"xxxxxxxx" not in seen_bytes
    assert b"toy.blob" not in seen_bytes


async def test_a_thirty_percent_lossy_broker_loses_no_task(tmp_path):
    import random

    rng = random.Random(7)
    little = LittleMesh(tmp_path, ["gateway", "pi-1"])
    async with little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        little.broker.lose = lambda client, topic, payload: "/d/" in topic and rng.random() < 0.3
        results = await asyncio.gather(*(mesh.run("toy.add", n, 1, where="pi-1") for n in range(100)))

    assert results == [n + 1 for n in range(100)]


async def seen(agent, name: str) -> None:
    async with asyncio.timeout(10):
        while name not in agent.catalogue.names():
            await asyncio.sleep(0.01)


def test_the_offer_of_a_small_task_stays_small():
    """What an offer costs on the wire decides the benchmark: no field may grow unnoticed."""
    from edge_node.wire.codec import encode_message

    assert len(encode_message(Offer("0" * 23, 1, "toy.nothing", bytes(32), 2000, input=b"\x92\x90\x80"))) < 90
