"""Conflicts are listed alike by every member, whatever its process makes of the order of a set."""

from __future__ import annotations

import json

from edge_node.store.batch import Put
from edge_node.store.crdt.register import Rival
from edge_node.store.tables import Tables
from tests.support.replicas import ReplicaMesh


def test_rivals_of_one_writer_and_one_stamp_are_listed_by_value_and_a_removal_last():
    """Such come of a writer that had to say again what several had written."""
    mesh = ReplicaMesh(1, names=("n1",))
    values = [None, *(json.dumps(f"v{number}").encode() for number in range(7))]
    rivals = tuple(Rival(5, "n2", value) for value in values)
    mesh.write("n1", Put("t", "sroom", "f", b'"won"', rivals))
    tables = Tables(lambda: mesh.peers["n1"].replica.cells, bytes)

    (conflict,), total = tables.conflicts("t", 10)

    told = [each["value"] for each in conflict["values"]]
    assert total == 1
    assert told == ['"won"', *(json.dumps(f"v{number}") for number in reversed(range(7))), None]
