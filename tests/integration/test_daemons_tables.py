"""Replicated tables of whole daemons: a disk that is full, and members that come when all is forgotten."""

from __future__ import annotations

import json
import random

import pytest

from security.errors import Refused
from tests.support.daemons import Bed, until
from tests.support.full_disk import NoDisk, fill, own_disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TABLE = "rooms"
LARGE_BYTES = 60_000


def declare(daemon):
    daemon.ask(lambda mesh: mesh.call("state.declare", {"table": TABLE, "key": "id"}))


def put(daemon, *keys, text="x"):
    """One after another, so that the last may be refused."""

    async def each(mesh):
        for key in keys:
            document = json.dumps({"id": key, "text": text})
            await mesh.call("state.upsert", {"table": TABLE, "document": document})

    daemon.ask(each)


def keys_at(daemon):
    async def all_of_them(mesh):
        found, after = [], {}
        while True:
            told = await mesh.call("state.find", {"table": TABLE} | after)
            found += [json.loads(text)["id"] for _, text in told["documents"]]
            if not told["more"]:
                return found
            after = {"after": told["documents"][-1][0]}

    return set(daemon.ask(all_of_them))


def state_of(daemon):
    return daemon.ask(lambda mesh: mesh.status())["state"]


def test_tables_on_a_full_disk_refuse_with_the_cause_and_go_on_by_themselves_when_it_is_freed(tmp_path):
    try:
        with own_disk(tmp_path / "pi-1"), Bed(tmp_path) as bed:
            gateway, node = bed.pair()
            declare(node)
            put(node, "before")
            acknowledged = {"before"}
            ballast = fill(node.home.path)

            with pytest.raises(Refused, match="full") as caught:  # what its log has room for is still taken
                for number in range(2000):
                    put(node, f"full-{number}", text="x" * LARGE_BYTES)
                    acknowledged.add(f"full-{number}")
            assert "the tables take writes again by themselves" in caught.value.fix
            told = bed.cli(node, "state", "set", TABLE, "refused", f"text={'x' * LARGE_BYTES}")
            assert told.code == 4, told
            assert (
                told.line.startswith("edge-node: the tables' disk failed: ") and "disk is full" in told.line
            )
            put(gateway, "meanwhile")
            ballast.unlink()

            def written():
                try:
                    put(node, "after", text="x" * LARGE_BYTES)
                except Refused:
                    return False
                return True

            until("it takes writes again", written)
            acknowledged |= {"meanwhile", "after"}
            for daemon in (node, gateway):
                until("all that was acknowledged is there", lambda d=daemon: keys_at(d) == acknowledged)
            pid = node.pid
            node.kill()
            node.start()
            assert node.pid != pid and keys_at(node) == acknowledged
            assert bed.cli(node, "store", "verify").code == 0
    except NoDisk as error:
        pytest.skip(str(error))


def test_who_joins_when_every_batch_is_collected_gets_all_of_it_by_a_snapshot(tmp_path):
    """Two joiners: 8 MiB, which is what one writer may hold, and 12 MiB, in pieces of 4 MiB."""
    rng = random.Random(12)
    text = rng.randbytes(LARGE_BYTES // 2).hex()
    ours, theirs = {f"g{number}" for number in range(130)}, {f"n{number}" for number in range(82)}

    def collected(*daemons):
        until(
            "nothing but the documents is kept",
            lambda: all(state_of(daemon)["log_batches"] == 0 for daemon in daemons),
        )

    with Bed(tmp_path) as bed:
        gateway = bed.gateway().start()
        declare(gateway)
        put(gateway, *sorted(ours), text=text)
        collected(gateway)
        first = bed.join("pi-1").start()
        until("pi-1 has all", lambda: keys_at(first) == ours)
        put(first, *sorted(theirs), text=text)
        until("the gateway has all", lambda: keys_at(gateway) == ours | theirs)
        collected(gateway, first)
        assert state_of(gateway)["bytes"] > 12 * 2**20

        second = bed.join("pi-2").start()
        until("pi-2 has all", lambda: keys_at(second) == ours | theirs)

        for joiner in (first, second):
            assert state_of(joiner)["counts"]["snapshot taken"] == 1
        put(second, "p")
        for daemon in (gateway, first):
            until("the newcomer is heard", lambda d=daemon: "p" in keys_at(d))
        second.kill()
        assert keys_at(second.start()) == ours | theirs | {"p"}, "it was on the disk"
