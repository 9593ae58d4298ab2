"""The same operations through a program's table and on a plain TinyDB give the same answers and documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinydb import TinyDB
from tinydb.storages import MemoryStorage

from edge_node.state.state import State
from tests.property.test_documents_like_tinydb import operations, perform
from tests.support.opened_states import opened


def sorted_answer(answer, step):
    """Our documents come by ascending id as text, TinyDB's by insertion: both by id."""
    match step[0], answer:
        case "ask", (found, ids, count, contained, _, several, *rest):
            by_id = sorted(zip(ids, found, strict=True), key=lambda pair: pair[0])
            return by_id, count, contained, sorted(json.dumps(each, sort_keys=True) for each in several), rest
        case (("upsert" | "update" | "update_all" | "operate" | "update_multiple" | "remove"), list()):
            return sorted(answer)
    return answer


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(operations, max_size=20))
def test_a_programs_table_answers_as_tinydbs_does(script):
    plain = TinyDB(storage=MemoryStorage).table("t")
    ours = State(opened().call).table("t")
    for step in script:
        if step[0] in ("update_ids", "remove_ids"):  # TinyDB does twice what is named twice, or raises
            step = (*step[:-1], list(dict.fromkeys(step[-1])))
        if step[0] == "insert_multiple":  # TinyDB's memory keeps half of a failed batch; ours keeps none
            new = [doc_id for _, doc_id in step[1]]
            if {d.doc_id for d in plain} & {*new} or len({*new}) != len(new):
                continue
        assert sorted_answer(perform(ours, step), step) == sorted_answer(perform(plain, step), step), step
        assert {d.doc_id: dict(d) for d in ours} == {d.doc_id: dict(d) for d in plain}
