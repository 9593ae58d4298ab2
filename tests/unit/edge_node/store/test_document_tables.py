"""Documents over cells: identity, pages, what other members may have written, conflicts, the feed."""

from __future__ import annotations

import json
import os

import pytest
from tinydb import where

from edge_node.store.batch import VERSION, Batch, Put, encoded
from edge_node.store.cells import FIELD, CellId, Cells
from edge_node.store.crdt.register import Version
from edge_node.store.hlc import stamp_of
from edge_node.store.identity import doc_id_for
from edge_node.store.queries import encoded as as_data
from edge_node.store.replica import Arrived, Snapshot
from edge_node.store.tables import (
    FEED_MAX,
    INDEXED_FROM,
    INDEXES_MAX,
    PAGE_BYTES_MAX,
    READ_WHOLE_MAX,
    Tables,
)
from security.errors import BadInput
from tests.support.opened_states import NODE, Unsigned, found, opened

DAY_30_MS = 30 * 86_400_000
CELL = CellId(FIELD, "rooms", "sr1", "a")


@pytest.fixture
def state():
    with opened() as state:
        yield state
        state.requests.check()


def insert(state, *documents, table="rooms"):
    texts = [(None, json.dumps(each)) for each in documents]
    return state.call("state.insert", {"table": table, "documents": texts})["ids"]


def heard(state, *changes, node="pi-2", epoch=1, first=1, ms=DAY_30_MS):
    """Another member's batch, which knew of nothing here."""
    batch = Batch(VERSION, node, epoch, first, stamp_of(ms), changes)
    state.handle(Arrived(Unsigned(node).sign(encoded(batch))))


def declared(state, table="rooms", key="id", **more):
    return state.call("state.declare", {"table": table, "key": key, **more})


def conflicts(state, **params):
    return state.call("state.conflicts", params)["conflicts"]


# -- identity ----------------------------------------------------------------------------------------------


def test_a_document_is_one_cell_a_field_under_its_key(state):
    declared(state)
    insert(state, {"id": "r1", "setpoint_c": 21.5, "tags": ["a", {"b": None}]}, {"id": 7})

    cells = state.replica.cells
    assert cells.document("rooms", "sr1") == {
        "id": b'"r1"',
        "setpoint_c": b"21.5",
        "tags": b'["a",{"b":null}]',
    }
    assert cells.document("rooms", "i7") == {"id": b"7"}
    assert cells.document(".keys", "rooms") == {"key": b'"id"'}
    assert found(state, "rooms").keys() == {doc_id_for("rooms", "r1"), doc_id_for("rooms", 7)}


def test_a_document_without_a_key_lies_under_its_id(state):
    (doc_id,) = insert(state, {"a": 1})

    assert state.replica.cells.document("rooms", f"#{doc_id}") == {"a": b"1"}


@pytest.mark.parametrize("document", [{}, {"": None}, {"": 5}, {"": None, "a": None}, {'é"\\': "\u2028"}])
def test_every_document_comes_back_as_it_went(state, document):
    (doc_id,) = insert(state, document)
    assert found(state, "rooms") == {doc_id: document}

    state.call("state.put", {"table": "rooms", "documents": [(doc_id, "{}")]})
    assert found(state, "rooms") == {doc_id: {}}

    state.call("state.put", {"table": "rooms", "documents": [(doc_id, json.dumps(document))]})
    assert found(state, "rooms") == {doc_id: document}

    state.call("state.remove", {"table": "rooms", "ids": [doc_id]})
    assert found(state, "rooms") == {}


def test_a_write_touches_only_what_differs(state):
    declared(state)
    insert(state, {"id": "r1", "a": 1, "b": [1]})
    before = state.replica.cells.register(CELL)

    state.call("state.upsert", {"table": "rooms", "document": '{"id": "r1", "a": 1, "b": [ 2 ]}'})

    assert state.replica.cells.register(CELL) == before
    assert state.replica.cells.document("rooms", "sr1")["b"] == b"[2]"


def test_a_document_cannot_change_its_key(state):
    declared(state)
    (doc_id,) = insert(state, {"id": "r1"})
    calls = [
        ("state.update", {"table": "rooms", "set": '{"id":"r2"}', "ids": [doc_id]}),
        ("state.put", {"table": "rooms", "documents": [(doc_id, '{"id":"r2"}')]}),
        ("state.put", {"table": "rooms", "documents": [(doc_id, "{}")]}),
        ("state.upsert", {"table": "rooms", "document": '{"id":"r2"}', "where": ["==", ["id"], "r1"]}),
        ("state.upsert", {"table": "rooms", "document": '{"id":"r2"}', "id": doc_id}),
        ("state.insert", {"table": "rooms", "documents": [(doc_id, '{"id":"r2"}')]}),
    ]

    for method, params in calls:
        with pytest.raises(BadInput, match=r"cannot change its 'id'|does not follow from 'id'"):
            state.call(method, params)
    assert found(state, "rooms") == {doc_id: {"id": "r1"}}


@pytest.mark.parametrize("key", [None, 1.5, True, ["r1"], "k" * 256])
def test_a_key_is_a_short_text_or_an_integer(state, key):
    declared(state)

    with pytest.raises(BadInput, match=r"has no 'id'|over 255 bytes"):
        insert(state, {"id": key})
    with pytest.raises(BadInput, match="has no 'id'"):
        insert(state, {"a": 1})


def test_a_text_and_a_number_are_two_keys_and_true_is_one(state):
    """As in Python, 1 == 1.0 == True: a query finds what TinyDB would."""
    declared(state)
    text, number = insert(state, {"id": "1"}, {"id": 1})

    for value, doc_id in (("1", text), (1, number), (1.0, number), (True, number)):
        assert list(found(state, "rooms", where("id") == value)) == [doc_id]


@pytest.mark.parametrize(
    "text",
    ["[]", "1", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\ud800": 1}', "[" * 100_000],
)
def test_what_is_no_document_is_refused(state, text):
    with pytest.raises(BadInput):
        state.call("state.insert", {"table": "rooms", "documents": [(None, text)]})
    assert found(state, "rooms") == {}


# -- declarations ------------------------------------------------------------------------------------------


def test_a_table_is_declared_alike_by_everybody(state):
    assert declared(state) == {"key": "id", "writers": None}
    assert declared(state) == {"key": "id", "writers": None}

    with pytest.raises(BadInput, match="declared with the key 'id', not the key 'name'"):
        declared(state, key="name")
    with pytest.raises(BadInput, match="not no key"):
        declared(state, key=None)


def test_a_table_with_documents_gets_no_key_afterwards(state):
    insert(state, {"id": "r1"})

    with pytest.raises(BadInput, match="documents without a key"):
        declared(state)
    assert declared(state, key=None) == {"key": None, "writers": None}


def test_only_the_gateway_names_writers():
    with opened("gateway") as gateway, opened() as node:
        assert declared(gateway, writers=["pi-2", "pi-1"])["writers"] == ["pi-1", "pi-2"]
        assert declared(gateway, writers=["pi-1", "pi-2"])["writers"] == ["pi-1", "pi-2"]
        with pytest.raises(BadInput, match="declared with the writers pi-1, pi-2"):
            declared(gateway, writers=["pi-1"])
        with pytest.raises(Exception, match=r"no writer of table '\.writers'"):
            declared(node, writers=["pi-1"])
        assert node.call("state.tables", {}) == {"tables": []}


def test_our_own_tables_are_read_and_not_written(state):
    declared(state)

    assert list(found(state, ".keys").values()) == [{"key": "id"}]
    for method, params in (
        ("state.insert", {"table": ".keys", "documents": [(None, "{}")]}),
        ("state.truncate", {"table": ".keys"}),
        ("state.counter", {"name": ".keys", "add": 1}),
        ("state.set", {"name": ".keys", "add": ["a"]}),
        ("state.declare", {"table": ".keys", "key": None}),
    ):
        with pytest.raises(BadInput, match="edgeweave's own"):
            state.call(method, params)


def test_documents_of_before_their_tables_key_was_heard_of_stay_visible(state):
    (doc_id,) = insert(state, {"id": "r1", "a": 1})
    heard(state, Put(".keys", "rooms", "key", b'"id"'), Put("rooms", "sr2", "a", b"1"))

    assert found(state, "rooms") == {
        doc_id: {"id": "r1", "a": 1},
        doc_id_for("rooms", "r2"): {"id": "r2", "a": 1},
    }
    assert found(state, "rooms", where("id") == "r1").keys() == {doc_id}
    assert state.call("state.remove", {"table": "rooms", "where": as_data(where("id") == "r1")})["ids"] == [
        doc_id
    ]


def test_an_index_of_the_key_knows_documents_whose_key_is_only_in_their_cell_key(state):
    heard(state, Put("rooms", "#1", "id", b'"r1"'))
    heard(state, Put(".keys", "rooms", "key", b'"id"'), node="pi-3")
    state.call("state.declare", {"table": "rooms", "indexes": ["id"]})
    assert list(found(state, "rooms", where("id") == "r1")) == [1]

    heard(state, Put("rooms", "sr2", "a", b"1"), first=2)
    assert list(found(state, "rooms", where("id") == "r2")) == [doc_id_for("rooms", "r2")]


# -- what other members may have written -------------------------------------------------------------------


def test_a_removal_that_met_an_update_leaves_a_document_with_its_key(state):
    declared(state)
    heard(state, Put("rooms", "sr1", "a", b"1"))

    assert found(state, "rooms") == {doc_id_for("rooms", "r1"): {"id": "r1", "a": 1}}


def test_no_member_can_give_a_document_another_identity(state):
    declared(state)
    heard(state, Put("rooms", "sr1", "id", b'"r2"'), Put("rooms", "sr1", "a", b"1"))

    assert found(state, "rooms", where("id") == "r2") == {}
    assert found(state, "rooms", where("id") == "r1") == {doc_id_for("rooms", "r1"): {"id": "r1", "a": 1}}


@pytest.mark.parametrize(
    "key",
    ["", "x", "#", "#x", "#01", "#" + "9" * 30, "i", "i01", "i1e5", "i-", "i--1", "#²", "i²", "rooms", "\0"],
)
def test_a_cell_key_that_none_of_us_would_write_is_a_document_nevertheless(state, key):
    declared(state)
    heard(state, Put("rooms", key, "a", b"1"), Put("rooms", "s" + key, "a", b"2"))

    documents = found(state, "rooms")
    assert sorted(document["a"] for document in documents.values()) == [1, 2]
    for doc_id in documents:
        assert -(2**63) <= doc_id < 2**63
        assert found(state, "rooms", ids=[doc_id]) == {doc_id: documents[doc_id]}
    assert sorted(state.call("state.remove", {"table": "rooms", "ids": list(documents)})["ids"]) == sorted(
        documents
    )
    assert found(state, "rooms") == {}


def test_a_value_writes_no_other_field(state):
    """Put side by side these would be the JSON of a document that nobody wrote."""
    declared(state)
    heard(state, Put("rooms", "sr1", "a", b'1,"id":"r2","b":[2'), Put("rooms", "sr1", "b", b"3]"))

    assert found(state, "rooms") == {doc_id_for("rooms", "r1"): {"id": "r1", "a": None, "b": None}}


@pytest.mark.parametrize(
    "value", [b"", b"{", b"\xff", b"NaN", b"1,2", b"[" * 60_000, b'"\x01"', b"9" * 5000, b" 1", b"1 2"]
)
def test_a_value_that_is_no_json_reads_as_null(state, value):
    heard(state, Put("rooms", "#5", "a", value), Put("rooms", "#5", "b", b"1"))

    assert found(state, "rooms") == {5: {"a": None, "b": 1}}


# -- pages and indexes -------------------------------------------------------------------------------------


def test_pages_follow_each_other_in_the_order_of_keys(state):
    declared(state)
    numbers = list(range(20))
    insert(state, *({"id": f"r{number:02}"} for number in numbers))
    pages, after = [], None
    while True:
        page = state.call("state.find", {"table": "rooms", "limit": 7, "after": after})
        pages.append([json.loads(text)["id"] for _, text in page["documents"]])
        if not page["more"]:
            break
        after = page["documents"][-1][0]

    assert [len(page) for page in pages] == [7, 7, 6]
    assert [key for page in pages for key in page] == [f"r{number:02}" for number in numbers]


def test_a_page_goes_on_from_a_document_that_was_removed(state):
    declared(state)
    ids = insert(state, *({"id": f"r{number}"} for number in range(4)))
    state.call("state.remove", {"table": "rooms", "ids": [ids[1]]})

    assert list(found(state, "rooms", after=ids[1])) == ids[2:]
    with pytest.raises(BadInput, match="begin from the start"):
        state.call("state.find", {"table": "rooms", "after": 12345})


def test_a_page_is_bounded_by_its_bytes(state):
    ids = []
    for _ in range(4):
        ids += insert(state, *({f"f{n}": "x" * 60_000 for n in range(8)} for _ in range(3)))
    page = state.call("state.find", {"table": "rooms"})

    assert page["more"] and sum(len(text) for _, text in page["documents"]) <= PAGE_BYTES_MAX
    assert sorted(found(state, "rooms")) == sorted(ids)


def test_a_large_table_is_indexed_by_what_it_is_searched_for(state):
    """The same documents as by looking at all, in the order of keys, page by page."""
    insert(state, *({"n": number % 100, "t": str(number)} for number in range(INDEXED_FROM)))
    queries = {
        where("n") == 3: 3,
        where("n") < 5: 15,
        where("n") <= 5: 18,
        where("n") > 97: 4,
        where("n") >= 97: 6,
        where("n").one_of([99, 1]): 5,
        where("t") >= "9": 11,
        where("n") == "3": 0,
    }

    for query, count in queries.items():
        assert len(found(state, "rooms", query, limit=2)) == count
    for doc_id in list(found(state, "rooms", where("n") < 50))[:20]:
        state.call("state.update", {"table": "rooms", "set": '{"n": 60}', "ids": [doc_id]})
    documents = found(state, "rooms")
    for query in queries:
        expected = [doc_id for doc_id, document in documents.items() if query(document)]
        assert list(found(state, "rooms", query)) == list(found(state, "rooms", query, limit=3)) == expected


def test_an_ordering_over_what_has_none_is_an_error_with_an_index_too(state):
    insert(state, *({"n": number} for number in range(INDEXED_FROM)))
    assert len(found(state, "rooms", where("n") < 5)) == 5
    (stray,) = insert(state, {"n": "text"})

    with pytest.raises(BadInput, match="not supported between"):
        found(state, "rooms", where("n") < 5)
    with pytest.raises(BadInput, match="not supported between"):
        found(state, "rooms", (where("n") < 5) & (where("m") == 1))
    assert found(state, "rooms", (where("m") == 1) & (where("n") < 5)) == {}
    state.call("state.remove", {"table": "rooms", "ids": [stray]})
    assert len(found(state, "rooms", where("n") < 5)) == 5


@pytest.mark.slow
def test_in_a_huge_table_only_what_is_asked_about_is_read():
    """The same answers, and none of its documents but those found is kept decoded."""
    cells = Cells()
    for number in range(READ_WHOLE_MAX + 1):
        for field, value in (("n", b"%d" % number), ("note", b'"%d"' % (number % 7))):
            cells.place(CellId(FIELD, "t", f"#{number}", field), (Version(1, NODE, 1, number + 1, value),))
    tables = Tables(lambda: cells, bytes)
    query = where("note").matches("^3$") & ~(where("n") >= 30)  # nothing to look up
    page, more = tables.find("t", as_data(query))

    assert not more
    assert {doc_id: json.loads(text) for doc_id, text in page} == {
        number: {"n": number, "note": "3"} for number in (3, 10, 17, 24)
    }
    assert len(tables._rows) == 4
    with pytest.raises(BadInput, match="not supported between"):
        tables.count("t", as_data(where("note") > 3))
    tables.check()


def test_a_table_keeps_few_indexes(state):
    fields = [f"f{number}" for number in range(INDEXES_MAX + 3)]
    insert(state, *(dict.fromkeys(fields, number) for number in range(INDEXED_FROM)))

    for _ in range(2):
        for field in fields:
            assert len(found(state, "rooms", where(field) == 7)) == 1
    assert list(state.tables._tables["rooms"].indexes) == fields[3:]
    with pytest.raises(BadInput, match="at most 8 indexes"):
        declared(state, key=None, indexes=fields)


# -- conflicts ---------------------------------------------------------------------------------------------


def rival(state):
    """Two wrote the field without knowing of each other; the other's stamp is the newer."""
    declared(state)
    (doc_id,) = insert(state, {"id": "r1", "a": 1})
    heard(state, Put("rooms", "sr1", "a", b"2"), ms=DAY_30_MS + 1000)
    return doc_id


def test_a_conflict_names_both_values_and_who_wrote_them(state):
    doc_id = rival(state)

    assert conflicts(state) == [
        {
            "table": "rooms",
            "id": doc_id,
            "key": "r1",
            "field": "a",
            "values": [
                {"value": "2", "node": "pi-2", "at_ms": DAY_30_MS + 1000, "wins": True},
                {"value": "1", "node": NODE, "at_ms": DAY_30_MS, "wins": False},
            ],
        }
    ]
    assert conflicts(state, table="others") == []
    assert state.call("state.conflicts", {"limit": 0}) == {"conflicts": [], "total": 1}
    assert state.call("state.tables", {})["tables"][0]["conflicts"] == 1


@pytest.mark.parametrize(("value", "expected"), [({}, 2), ({"value": "1"}, 1), ({"value": "[3]"}, [3])])
def test_a_conflict_is_resolved_by_hand(state, value, expected):
    doc_id = rival(state)
    state.call("state.resolve", {"table": "rooms", "id": doc_id, "field": "a", **value})

    assert conflicts(state) == []
    assert found(state, "rooms") == {doc_id: {"id": "r1", "a": expected}}
    with pytest.raises(BadInput, match="nothing is in conflict"):
        state.call("state.resolve", {"table": "rooms", "id": doc_id, "field": "a"})


def test_a_deletion_that_won_is_a_conflict_too(state):
    declared(state)
    heard(state, Put("rooms", "sr1", "a", b"1"))
    heard(state, Put("rooms", "sr1", "a", None), node="pi-3", ms=DAY_30_MS + 1)
    (one,) = conflicts(state)

    assert [each["value"] for each in one["values"]] == [None, "1"]
    assert found(state, "rooms") == {}
    state.call("state.resolve", {"table": "rooms", "id": one["id"], "field": "a", "value": "1"})
    assert found(state, "rooms") == {one["id"]: {"id": "r1", "a": 1}}


# -- the feed ----------------------------------------------------------------------------------------------


def watch(state, after=None, **params):
    return state.call("state.watch", {"table": "rooms", "after": after, **params})


def seen(answer):
    return [(each["before"], each["after"], each["node"]) for each in answer["changes"]]


def test_whoever_watches_hears_of_every_change_with_what_was_before(state):
    declared(state)
    (doc_id,) = insert(state, {"id": "r1"})
    begin = watch(state)
    state.call("state.update", {"table": "rooms", "set": '{"a":1}', "ids": [doc_id]})
    heard(state, Put("rooms", "sr1", "b", b"2"), ms=DAY_30_MS + 5)
    state.call("state.remove", {"table": "rooms", "ids": [doc_id]})
    answer = watch(state, begin["cursor"])

    assert begin["changes"] == [] and not begin["missed"]
    assert seen(answer) == [
        ('{"id":"r1"}', '{"a":1,"id":"r1"}', NODE),
        ('{"a":1,"id":"r1"}', '{"a":1,"b":2,"id":"r1"}', "pi-2"),
        ('{"a":1,"b":2,"id":"r1"}', None, NODE),
    ]
    assert answer["changes"][1]["at_ms"] == DAY_30_MS + 5
    assert {each["id"] for each in answer["changes"]} == {doc_id}
    assert watch(state, answer["cursor"])["changes"] == []


def test_a_watch_with_a_query_hears_of_what_comes_in_and_what_goes_out_of_it(state):
    declared(state)
    cursor = watch(state)["cursor"]
    for value in (1, 30, 31, 2, "text", 3):
        state.call("state.upsert", {"table": "rooms", "document": json.dumps({"id": "r1", "c": value})})
    told = watch(state, cursor, where=as_data(where("c") > 25))

    assert [json.loads(each["after"])["c"] for each in told["changes"]] == [30, 31, 2]


@pytest.mark.slow
def test_whoever_watches_too_seldom_is_told_that_it_missed_something(state):
    declared(state)
    cursor = watch(state)["cursor"]
    insert(state, {"id": "r1"})
    for number in range(FEED_MAX):
        state.call("state.upsert", {"table": "rooms", "document": json.dumps({"id": "r1", "n": number})})
    answer = watch(state, cursor)

    assert (answer["missed"], answer["changes"]) == (True, [])
    assert watch(state, answer["cursor"]) == {"changes": [], "cursor": answer["cursor"], "missed": False}


def test_a_cursor_of_another_life_has_missed_everything(state):
    assert watch(state, "00aa-3")["missed"]
    for cursor in ("", "x", "1-", "1--2", "1-²"):
        with pytest.raises(BadInput, match="is no cursor"):
            watch(state, cursor)


def test_other_cells_are_told_as_the_difference_to_those_before():
    """A replica that was made anew, and a snapshot, replace all of them; what is gone goes without a word."""
    with opened("gateway") as gateway, opened() as state:
        declared(state)
        insert(state, {"id": "r1"}, {"id": "r2", "a": 1})
        declared(gateway)
        insert(gateway, {"id": "r2", "a": 2}, {"id": "r3"})
        cursor = watch(state)["cursor"]
        state.replica = opened().replica  # of an empty disk
        state.requests.reset()
        anew = watch(state, cursor)
        state.handle(Snapshot(gateway.replica.snapshot(b"wish"), b"wish"))

        assert seen(anew) == [('{"id":"r1"}', None, ""), ('{"a":1,"id":"r2"}', None, "")]
        assert seen(watch(state, anew["cursor"])) == [
            (None, '{"a":2,"id":"r2"}', "gateway"),
            (None, '{"id":"r3"}', "gateway"),
        ]
        state.requests.check()


def test_ids_without_a_key_are_random_and_of_63_bits():
    with opened() as state:
        state.tables._entropy = os.urandom
        ids = insert(state, *({} for _ in range(200)))

    assert len(set(ids)) == 200 and all(0 < each < 2**63 for each in ids)
