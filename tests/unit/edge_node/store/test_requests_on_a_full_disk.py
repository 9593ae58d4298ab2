"""Requests that the disk did not take: refused if it was full, and nobody knows if it failed otherwise."""

from __future__ import annotations

import json

import pytest

from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.replica import Replica
from edge_node.store.requests import DISK, Requests
from edge_node.store.tables import Tables
from security.errors import Refused, Unavailable
from tests.support.opened_states import NODE, Unsigned


class Anybody:
    def may_write(self, node, table):
        return True

    def believed(self, node):
        return True


@pytest.mark.parametrize(
    ("why", "error", "fix"),
    [
        ("cannot use state.db: database or disk is full", Refused, "free disk space"),
        ("[Errno 28] No space left on device", Refused, "free disk space"),
        ("disk I/O error", Unavailable, "check that disk"),
    ],
)
def test_a_full_disk_refuses_and_a_broken_one_does_not_know(why, error, fix):
    """So does what changed nothing because of a write that the disk then did not take."""
    replica = Replica(NODE, Unsigned(), Anybody(), MemoryCellStore().load(), lambda n: b"\1" * n)
    dones, answers = [], []
    requests = Requests(Tables(lambda: replica.cells, bytes), lambda changes, done: dones.append(done))
    params = {"table": "t", "document": json.dumps({"v": 1}), "id": 7}
    requests.call(0, "state.upsert", params, answers.append)
    requests.call(0, "state.update", {"table": "t", "set": "{}", "ids": []}, answers.append)

    dones[0](f"{DISK}: {why}")

    assert [type(answer) for answer in answers] == [error, error]
    assert all(answer.fix.startswith(fix) and why in answer.cause for answer in answers)
