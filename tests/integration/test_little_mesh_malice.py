"""What a member may say without ending, filling or stalling another: real agents over a memory link."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.client import Mesh, TaskFailed
from edge_node.functions.bundle import Bundle
from edge_node.functions.values import encode_call
from edge_node.transport.link import Delivery
from edge_node.wire import messages
from edge_node.wire.ids import task_id
from security.errors import Unavailable
from security.signing import EntryDraft, sign_entry
from tests.support.little_mesh import FUNCTIONS, LittleMesh

pytestmark = pytest.mark.slow

TASK = task_id(1, bytes(8))


async def deploy(mesh: Mesh) -> None:
    await mesh.call("deploy", {"source": FUNCTIONS.encode(), "stem": "toy", "only_if_new": True})


async def said(little: LittleMesh, *spoken: messages.Message, by: str = "pi-1", to: str = "gateway") -> None:
    """*by* says these, and *to* has them behind it: a probe sent after them is answered."""
    agent = little.agents[by]

    def say(now_ns: int, wall_ms: int) -> None:
        for message in spoken:
            agent.tell(now_ns, to, message)

    agent.soon(say)
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0)
            if agent.channels.backlog(to) == 0:
                break
            await asyncio.sleep(0.01)
    await agent.round_trip_s(to)


async def refused_at_the_door(little: LittleMesh, message: messages.Message) -> None:
    """The gateway drops the parcel and goes on."""
    agent, gateway = little.agents["pi-1"], little.agents["gateway"]
    agent.soon(lambda now_ns, _: agent.channels.send_loose("gateway", message))
    async with asyncio.timeout(60):
        while gateway.channels.violations["malformed message"] == 0:
            await asyncio.sleep(0.01)
    await agent.round_trip_s("gateway")


@pytest.mark.parametrize("digest", [b"", b"x", bytes(33), bytes(200_000)], ids=len)
async def test_a_digest_of_another_length_is_malformed(tmp_path, digest):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        await refused_at_the_door(little, messages.BlobWanted(digest, 0, 1))


async def test_names_that_nobody_bears_are_malformed(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        await refused_at_the_door(little, messages.Cancel("x" * 100_000, 1))


async def test_an_offer_without_input_is_refused(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
        entry = little.agents["gateway"].catalogue.current("toy.nothing")

        await said(little, messages.Offer(TASK, 1, entry.name, entry.digest, 10_000))

        assert little.agents["gateway"].desk.status(0)["refused_peers"] == {"input missing": 1}


async def test_a_catalogue_larger_than_a_parcel_reaches_a_new_peer(tmp_path):
    many = "from edge_node.functions import function\n" + "".join(
        f'\n@function(labels={{"where": "{"x" * 800}"}})\ndef number_{n}() -> int:\n    return {n}\n'
        for n in range(350)
    )
    little = LittleMesh(tmp_path, ["gateway", "pi-1"])
    async with little:
        await little.stop("pi-1")
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await mesh.call("deploy", {"source": many.encode(), "stem": "many", "only_if_new": True})

        pi = await little.start("pi-1")

        async with asyncio.timeout(60):
            while len(pi.catalogue.names()) < 350:
                await asyncio.sleep(0.02)
        await pi.round_trip_s("gateway")


async def test_an_entry_whose_manifest_is_nonsense_is_not_taken(tmp_path):
    """A deployer may be malicious too, and a kept entry would end the daemon at every start of its work."""
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway = little.agents["gateway"]
        other = Bundle.of_source("toy.py", FUNCTIONS.encode()).manifests()[0].to_bytes()
        entries = [
            sign_entry(EntryDraft(little.mesh_id, "toy.evil", 1, bytes(32), manifest, 1), little.deployer)
            for manifest in (b"", b"\x93nonsense", other)
        ]

        await said(
            little,
            messages.CatalogueEntries(entries),
            messages.Offer(TASK, 1, "toy.evil", bytes(32), 10_000, input=b"x"),
        )

        assert gateway.catalogue.names() == []


async def test_a_full_disk_under_the_catalogue_ends_nobody(tmp_path, monkeypatch):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        pi = little.agents["pi-1"]

        def full(*_: object) -> None:
            raise Unavailable("no space left on device", fix="free space on its disk")

        monkeypatch.setattr(pi.documents.table("catalogue", key="id"), "upsert", full)
        monkeypatch.setattr(pi.bundles, "put", full)
        async with Mesh.open(tmp_path / "gateway") as mesh:
            await deploy(mesh)
            async with asyncio.timeout(60):
                while "toy.add" not in pi.catalogue.names():
                    await asyncio.sleep(0.01)

            task = await mesh.submit("toy.add", 1, 2, where="pi-1")  # its bundle cannot be kept there
            with pytest.raises(TaskFailed, match="unknown function"):
                async with asyncio.timeout(60):
                    await task.result()
        bundle = little.agents["gateway"].bundles
        sent = pi.channels.bytes_in
        assert sent < 40 * len(bundle.get(bundle.digests()[0]))
        await pi.round_trip_s("gateway")


async def test_results_that_nobody_waits_for_are_not_fetched(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway = little.agents["gateway"]

        await said(
            little,
            *(
                messages.Result(TASK, 1, "done", output_digest=n.to_bytes(32, "big"), output_bytes=1_000_000)
                for n in range(200)
            ),
        )

        assert gateway.desk.strays == 200
        assert not gateway.outputs and not gateway.blobs._pulls and not gateway.blobs._queue


async def test_a_lease_fetches_one_output_at_a_time(tmp_path, monkeypatch):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        gateway = little.agents["gateway"]
        monkeypatch.setattr(little.agents["pi-1"].blobs, "_serve", lambda peer, wanted: [])
        task = await mesh.submit("toy.nap", 3.0, where="pi-1")
        async with asyncio.timeout(60):
            while gateway.desk.state(task.id) != ("placed", "pi-1"):
                await asyncio.sleep(0.01)

        await said(
            little,
            *(
                messages.Result(task.id, 1, "done", output_digest=n.to_bytes(32, "big"), output_bytes=1)
                for n in range(1, 50)
            ),
        )

        assert len(gateway.outputs) + len(gateway.blobs._pulls) + len(gateway.blobs._queue) <= 2
        await task.cancel()


async def test_causes_that_quote_the_sender_are_counted_in_a_bounded_table(tmp_path):
    async with LittleMesh(tmp_path, ["gateway"]) as little:
        gateway = little.agents["gateway"]
        gateway.soon(
            lambda now_ns, wall_ms: [
                gateway._delivered(now_ns, wall_ms, Delivery(f"ew/v{n}/a/b", b"", retained=False))
                for n in range(2000)
            ]
        )
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while gateway.channels.violations.total() < 2000:
                await asyncio.sleep(0.01)

        assert len(gateway.channels.violations) <= 257


async def test_a_probe_without_answer_leaves_nothing_behind(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway = little.agents["gateway"]

        with pytest.raises(TimeoutError):
            await gateway.round_trip_s("pi-7", timeout_s=0.05)

        assert not gateway._ping_waiters


async def test_a_broker_that_is_no_address_is_left_out(tmp_path):
    little = LittleMesh(tmp_path, ["gateway"])
    little.brokers = ("nonsense", "127.0.0.1:1883", "host:99999")
    async with little:
        assert little.agents["gateway"].broker_addresses() == [("127.0.0.1", 1883)]


async def test_who_asks_for_much_and_takes_nothing_gets_a_bounded_answer(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway, pi = little.agents["gateway"], little.agents["pi-1"]
        digest = gateway.bodies.keep(bytes(4_000_000))
        most = 0

        def flood(now_ns: int, wall_ms: int) -> None:
            nonlocal most
            for _ in range(400):
                gateway._heard(now_ns, wall_ms, "pi-1", messages.BlobWanted(digest, 0, 8))
                gateway._heard(now_ns, wall_ms, "pi-1", messages.CatalogueWanted([]))
            most = gateway.channels.backlog_bytes("pi-1")

        gateway.soon(flood)
        async with asyncio.timeout(60):
            while not most:
                await asyncio.sleep(0.01)
            await pi.round_trip_s("gateway")

        assert 0 < most < 9_000_000
        assert gateway.channels.violations["asked for more than it takes"] > 300


BIG = 2**64 - 1


async def test_numbers_and_names_beyond_reason_end_nobody(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little, Mesh.open(tmp_path / "gateway") as mesh:
        await deploy(mesh)
        gateway = little.agents["gateway"]
        entry = gateway.catalogue.current("toy.nothing")
        call = encode_call([], {})
        load = messages.Load(BIG, -(2**63), BIG, float("nan"), draining=True)
        task = await mesh.submit("toy.nap", 0.2, where="pi-1")
        offers = [
            messages.Offer(name, attempt, entry.name, entry.digest, lease, budget, call, None, BIG, priority)
            for name, attempt, lease, budget, priority in (
                ("a", BIG, BIG, BIG, BIG),
                ("\0\ud7ff/../", 0, 0, None, -(2**63)),
                ("b", -(2**63), -(2**63), -(2**63), 0),
                ("", 1, 1, 1, 1),
                (task.id, 1, 1000, None, 0),
            )
        ]

        await said(
            little,
            *offers,
            messages.Offer("c", 1, entry.name, entry.digest, 1000, input=b"\xc1 no call"),
            messages.Beat(BIG, load, BIG),
            messages.Pong(BIG, load),
            messages.Accept(task.id, 1, BIG, load),
            messages.Refuse("x", BIG, "no reason", load),
            messages.Progress("x", BIG, True, -(2**63)),
            messages.Cancel("a", BIG),
            messages.BlobWanted(bundle_digest(gateway), -(2**63), BIG),
            messages.BlobWanted(bundle_digest(gateway), BIG, -1),
            messages.BlobChunk(bytes(32), -1, -1, -1, b""),
            messages.CatalogueWanted([("", -(2**63)), ("toy.add", BIG)]),
            messages.Publish(b"", []),
            messages.Published(b"x" * 64, "no"),
            messages.Result(
                task.id, 1, "no status", b"", b"no error", b"", BIG, BIG, BIG, BIG, BIG, load, None, BIG
            ),
        )

        await task.result()
        assert gateway.channels.violations == {}, "everything was heard"
        assert await mesh.run("toy.add", 1, 2) == 3
        await little.agents["pi-1"].round_trip_s("gateway")


def bundle_digest(agent) -> bytes:
    return agent.bundles.digests()[0]


CHEAT = """
from edge_node.functions import function

@function(timeout_s=5)
def shout(length: int) -> None:
    from edge_node.functions.runtimes import worker
    worker.MESSAGE_CHARS_MAX = length
    raise ValueError("x" * length)
"""


async def test_an_error_larger_than_a_parcel_still_reaches_the_caller(tmp_path):
    """The worker bounds what it says, but a function lives in the worker."""
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]), Mesh.open(tmp_path / "gateway") as mesh:
        await mesh.call("deploy", {"source": CHEAT.encode(), "stem": "cheat", "only_if_new": True})

        with pytest.raises(TaskFailed, match="unreadable"):
            async with asyncio.timeout(60):
                await mesh.run("cheat.shout", 1_000_000, where="pi-1")


async def test_publications_that_wait_for_one_bundle_are_bounded(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        gateway, pi = little.agents["gateway"], little.agents["pi-1"]
        pi.blobs._serve = lambda peer, wanted: []  # it promises a bundle and never sends it
        manifest = Bundle.of_source("toy.py", FUNCTIONS.encode()).manifests()[0]
        entry = sign_entry(
            EntryDraft(little.mesh_id, manifest.name, 1, bytes(32), manifest.to_bytes(), 1), little.deployer
        )

        await said(little, *(messages.Publish(n.to_bytes(8, "big"), [entry]) for n in range(200)))

        assert sum(map(len, gateway.publisher._waiting.values())) == 64
