"""Replicated tables between real agents: said to all, caught up, handed over, guarded by their writers."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from edge_node.store import replication
from edge_node.store.cells import FIELD, CellId
from edge_node.store.hlc import ms_of
from edge_node.store.replication import OFFER_NS
from security.errors import BadInput, Refused, Unavailable
from security.identity import NodeKeys
from tests.support.little_mesh import LittleMesh

pytestmark = pytest.mark.slow
WAIT_S_MAX = 60.0
"""Only a hang takes it."""


async def until(holds):
    async with asyncio.timeout(WAIT_S_MAX):
        while not await holds():
            await asyncio.sleep(0.02)


async def documents(agent, table="rooms"):
    found = await agent.state("state.find", {"table": table})
    return {doc_id: json.loads(text) for doc_id, text in found["documents"]}


async def put(agent, table="rooms", **document):
    """Its id, once it is safe there."""
    await agent.state("state.declare", {"table": table, "key": "id"})
    found = await agent.state("state.upsert", {"table": table, "document": json.dumps(document)})
    return found["ids"][0]


async def alike(*agents, table="rooms"):
    first, *rest = [await documents(agent, table) for agent in agents]
    return all(each == first for each in rest) and first


async def whole(little):
    async def everybody():
        return all(len(agent.detector.up()) == len(little.agents) - 1 for agent in little.agents.values())

    await until(everybody)


async def test_a_write_is_everywhere_at_once_and_no_broker_can_read_it(tmp_path):
    said: list[bytes] = []
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    little.broker.lose = lambda client, topic, payload: (
        bool(said.append(payload)) if "/g/mesh/" in topic else False
    )
    async with little:
        await whole(little)
        rows = {}
        for name, agent in little.agents.items():
            rows[await put(agent, id=name, secret_word="xylophone")] = {
                "id": name,
                "secret_word": "xylophone",
            }

        async def everywhere():
            return all([await documents(agent) == rows for agent in little.agents.values()])

        await until(everywhere)
        assert said and not any(b"xylophone" in payload for payload in said)
        assert await little.agents["pi-1"].state("state.fresh", {"max_age_s": 0.0, "wait_s": 10.0}) == {
            "reached": ["gateway", "pi-2"],
            "missing": [],
        }


async def test_what_a_broadcast_missed_comes_by_asking_and_a_late_member_gets_a_snapshot(
    tmp_path, monkeypatch
):
    """Pieces are of 4 MiB elsewhere; `test_daemons_tables` has such."""
    monkeypatch.setattr(replication, "PIECE_BYTES", 100_000)
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    little.broker.lose = lambda client, topic, payload: "/g/mesh/" in topic
    async with little:
        await whole(little)
        gateway, pi_1, pi_2 = little.agents.values()
        filler = "x" * 60_000
        for number in range(3):  # a snapshot of two pieces
            await put(pi_1, id=number, filler=filler)
        await settled_everywhere(little)
        assert await alike(gateway, pi_1, pi_2)
        little.keys["pi-3"] = NodeKeys.generate()
        little.names.append("pi-3")
        signed = little.sign()
        for agent in list(little.agents.values()):
            agent.soon(lambda now_ns, wall_ms, agent=agent: agent.adopt_roster(now_ns, wall_ms, signed))
        late = await little.start("pi-3")
        await until(lambda: alike(gateway, late))

        assert late.status()["state"]["counts"]["snapshot taken"] == 1
        assert len(gateway.replication._offered) == 2
        assert gateway.replication.replica.cells.canonical() == late.replication.replica.cells.canonical()


async def test_a_gateway_that_lost_its_store_gets_everything_from_any_member(tmp_path):
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    async with little:
        await whole(little)
        for number in range(5):
            await put(little.agents["pi-1"], id=number)
        await settled_everywhere(little)
        await little.stop("gateway")
        for path in little.home("gateway").path.glob("state.db*"):
            path.unlink()
        gateway = await little.start("gateway")
        await until(lambda: alike(little.agents["pi-1"], gateway))
        assert gateway.status()["state"]["counts"]["snapshot taken"] == 1


async def test_a_snapshot_is_kept_for_whom_it_was_made_as_long_as_it_is_fetched(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await whole(little)
        gateway = little.agents["gateway"]
        offers, clock = gateway.replication, gateway.clock
        first, second = b"made for pi-1", b"made for pi-2"
        now_ns = clock.now_ns()
        offers._offer(now_ns, "pi-1", first, bytes(8))
        offers._offer(now_ns + OFFER_NS - 1, "pi-2", second, bytes(8))
        asked_ns = clock.now_ns()
        assert offers.lookup(digest_of(first)) == first and offers.lookup(digest_of(second)) is None

        offers._offer(asked_ns + OFFER_NS - 1, "pi-2", second, bytes(8))
        assert offers.lookup(digest_of(first)) == first, "it was asked for a moment ago"
        offers._offer(clock.now_ns() + OFFER_NS, "pi-2", second, bytes(8))
        assert offers.lookup(digest_of(second)) == second
        assert offers.counts["snapshots put off"] == 2


async def test_a_snapshot_whose_reader_knows_the_same_by_now_puts_nobody_off(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await whole(little)
        gateway = little.agents["gateway"]
        offers, first, second = gateway.replication, b"made for pi-1", b"made for pi-2"
        offers._offer(gateway.clock.now_ns(), "pi-1", first, bytes(8))
        assert (await gateway.state("state.fresh", {"max_age_s": 0.0, "wait_s": WAIT_S_MAX}))["missing"] == []

        offers._offer(gateway.clock.now_ns(), "pi-2", second, bytes(8))

        assert offers.lookup(digest_of(second)) == second
        assert "snapshots put off" not in offers.counts


def digest_of(body):
    return hashlib.sha256(body).digest()


async def settled_everywhere(little):
    """Everybody knows that everybody has everything: nothing is kept in the logs any more."""

    async def forgotten():
        for agent in little.agents.values():  # asks all at once, and so tells what is known by all
            await agent.state("state.fresh", {"max_age_s": 0.0, "wait_s": 5.0})
        return not any(agent.status()["state"]["log_batches"] for agent in little.agents.values())

    await until(forgotten)


async def test_only_the_listed_write_a_table_and_only_the_gateway_lists_them(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"]) as little:
        await whole(little)
        gateway, pi_1, pi_2 = little.agents.values()
        declared = {"table": "limits", "key": "id", "writers": ["pi-1"]}
        with pytest.raises(Refused, match=r"pi-2 is no writer of table '\.writers'"):
            await pi_2.state("state.declare", declared)
        assert (await gateway.state("state.declare", declared))["writers"] == ["pi-1"]
        await until(lambda: known(pi_1))
        await until(lambda: known(pi_2))

        await put(pi_1, "limits", id="pump", bar=4)
        with pytest.raises(Refused, match="pi-2 is no writer of table 'limits'"):
            await pi_2.state("state.upsert", {"table": "limits", "document": '{"id":"pump","bar":9}'})
        with pytest.raises(BadInput, match="limits"):
            await pi_1.state("state.declare", {"table": "limits", "key": "other"})


async def known(agent):
    return (await agent.state("state.declare", {"table": "limits", "key": "id"}))["writers"] == ["pi-1"]


async def test_a_member_that_renews_and_restarts_before_anybody_heard_it_is_still_believed(tmp_path):
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    async with little:
        await whole(little)
        pi_1 = little.agents["pi-1"]
        little.broker.lose = lambda client, topic, payload: client == "pi-1"
        row = await put(pi_1, id="alone", value=1)
        little.keys["pi-1"] = NodeKeys.generate()
        signed = little.sign()  # the former key is no longer listed
        pi_1.renewed(little.keys["pi-1"], signed)
        await put(pi_1, id="later", value=2)  # what was signed anew is on the disk before
        await little.stop("pi-1")
        little.broker.lose = lambda client, topic, payload: False
        for agent in little.agents.values():
            agent.soon(lambda now_ns, wall_ms, agent=agent: agent.adopt_roster(now_ns, wall_ms, signed))
        back = await little.start("pi-1")
        assert (await documents(back))[row] == {"id": "alone", "value": 1}

        async def heard():
            return all([row in await documents(agent) for agent in little.agents.values()])

        await until(heard)


async def test_a_store_that_fails_takes_nothing_until_it_was_read_again(tmp_path):
    async with LittleMesh(tmp_path, ["gateway", "pi-1"]) as little:
        await whole(little)
        gateway, pi_1 = little.agents.values()
        row = await put(pi_1, id="a", value=1)
        store = pi_1._cells._store
        commit, store.commit = store.commit, failing
        with pytest.raises(Refused, match="the tables' disk failed"):
            await put(pi_1, id="a", value=2)

        store.commit = commit

        async def written():
            try:
                return await put(pi_1, id="b", value=3)
            except (Refused, Unavailable):
                return None

        await until(written)
        assert (await documents(pi_1))[row] == {"id": "a", "value": 1}
        await until(lambda: alike(gateway, pi_1))
        assert pi_1.status()["state"]["counts"]["tables not written"] == 1


def failing(commits):
    raise Unavailable("cannot use state.db: the disk is full")


async def test_the_session_with_the_gateway_tells_its_clock_and_ours_is_judged_at_once(tmp_path):
    """Nothing that is said to everybody comes through."""
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    async with little:
        await little.stop("pi-2")
        little.broker.lose = lambda client, topic, payload: client == "pi-2" or "/d/pi-2/" in topic
        late = await little.start("pi-2")
        assert (await late.state("state.clock", {}))["trusted"] == "none"
        late.replication._clock_ns += 3600 * 10**9  # not by its usual look
        real = late.clock.wall_ms
        late.clock.wall_ms = lambda: real() + 3_600_000
        await put(late, id="future", value=1)

        little.broker.lose = lambda client, topic, payload: "/p/" in topic or "/g/" in topic

        async def judged():
            return late.status()["state"]["counts"].get("own clock ran ahead") == 1

        await until(judged)
        assert (await late.state("state.clock", {}))["trusted"] == "gateway"


async def test_what_was_written_by_a_clock_that_ran_ahead_is_stamped_again_once_the_gateway_is_heard(
    tmp_path,
):
    little = LittleMesh(tmp_path, ["gateway", "pi-1", "pi-2"])
    async with little:
        await whole(little)
        await little.stop("pi-2")
        little.broker.lose = lambda client, topic, payload: client == "pi-2" or "/d/pi-2/" in topic
        alone = await little.start("pi-2")
        real = alone.clock.wall_ms
        alone.clock.wall_ms = lambda: real() + 3_600_000
        alone.replication.clock.forget(lambda peer: False)  # of a beat that came before
        assert (await alone.state("state.clock", {}))["trusted"] == "none"
        await put(alone, id="future", value=1)

        little.broker.lose = lambda client, topic, payload: False
        await until(lambda: alike(*little.agents.values()))

        clock = await alone.state("state.clock", {})
        assert clock["trusted"] == "gateway" and 3_590_000 < clock["skew_ms"] < 3_610_000
        assert alone.status()["state"]["counts"]["own clock ran ahead"] == 1
        register = little.agents["pi-1"].replication.replica.cells.register(
            CellId(FIELD, "rooms", "sfuture", "value")
        )
        assert abs(ms_of(register[-1].stamp) - real()) < 60_000
