"""Whatever members write, what a table keeps is what its cells say, and who watches knows the same."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.store.batch import VERSION, Batch, Put, encoded
from edge_node.store.hlc import stamp_of
from edge_node.store.queries import Incomparable
from edge_node.store.replica import Arrived
from security.errors import BadInput
from tests.support.opened_states import Unsigned, found, opened

TABLE = "t"
SEARCHES = [["==", ["a"], 1], ["<", ["a"], 2], ["one_of", ["b"], [1, "x", None]], ["==", ["id"], "r1"]]
cell_keys = st.sampled_from(["sr1", "sr2", "i1", "#1", "#2", "x", ""])
fields = st.sampled_from(["a", "b", "id", ""])
raw = st.sampled_from(
    [None, None, b"1", b"2", b"1.0", b"true", b'"x"', b"null", b"null ", b"[1]", b"{", b"1,2"]
)
puts = st.builds(lambda key, field, value: Put(TABLE, key, field, value), cell_keys, fields, raw)
keys_said = st.sampled_from([b'"id"', b"null", b'"a"', b"5", None])
declarations = st.builds(lambda value: Put(".keys", TABLE, "key", value), keys_said)
documents = st.dictionaries(fields, st.sampled_from([1, 2, "x", "r1", None, [1]]), max_size=3)
steps = st.one_of(
    st.tuples(st.just("heard"), st.sampled_from(["pi-2", "pi-3"]), st.lists(puts, min_size=1, max_size=4)),
    st.tuples(st.just("heard"), st.just("pi-2"), st.lists(declarations, min_size=1, max_size=1)),
    st.tuples(st.just("state.insert"), documents),
    st.tuples(st.just("state.update"), documents),
    st.tuples(st.just("state.remove"), st.sampled_from(SEARCHES)),
    st.tuples(st.just("looked"), st.booleans()),
    st.tuples(st.just("anew")),
)


class Follower:
    """A client that read the table once and believes the feed since."""

    def __init__(self, state):
        self.state = state
        self.cursor = state.call("state.watch", {"table": TABLE})["cursor"]
        self.documents = found(state, TABLE)

    def look(self):
        answer = self.state.call("state.watch", {"table": TABLE, "after": self.cursor})
        assert not answer["missed"]
        self.cursor = answer["cursor"]
        for change in answer["changes"]:
            before, after = (
                None if each is None else json.loads(each) for each in (change["before"], change["after"])
            )
            assert self.documents.get(change["id"]) == before
            self.documents.pop(change["id"], None)
            if after is not None:
                self.documents[change["id"]] = after
        assert self.documents == found(self.state, TABLE)


def perform(state, step, heard):
    match step:
        case "heard", node, changes:
            first = heard.get(node, 0) + 1
            heard[node] = first + len(changes) - 1
            stamp = stamp_of(30 * 86_400_000, first)
            batch = Batch(VERSION, node, 1, first, stamp, tuple(changes))
            state.handle(Arrived(Unsigned(node).sign(encoded(batch))))
        case "state.insert" as method, document:
            state.call(method, {"table": TABLE, "documents": [(None, json.dumps(document))]})
        case "state.update" as method, document:
            state.call(method, {"table": TABLE, "set": json.dumps(document)})
        case "state.remove" as method, where:
            state.call(method, {"table": TABLE, "where": where})


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=15))
def test_a_table_and_who_watches_it_follow_every_change(script):
    with opened() as state:
        state.call("state.declare", {"table": TABLE, "indexes": ["a", "b", "id"]})
        follower, heard = Follower(state), {}
        for step in script:
            with contextlib.suppress(BadInput):  # a key that would change: nothing is written
                perform(state, step, heard)
            if step[0] == "anew":
                state.replica = state._loaded(state._store.load())
                state.requests.reset()
            if step == ("looked", True):
                follower.look()
                for where in SEARCHES:  # so that indexes are there, and in use
                    with contextlib.suppress(Incomparable):
                        state.call("state.find", {"table": TABLE, "where": where})
        follower.look()
        state.requests.check()
        state.replica.check()
