"""Stores opened in memory, for tests that ask them what a client would."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from tinydb.queries import QueryLike

from edge_node.store.cell_store import MemoryCellStore
from edge_node.store.opened import OpenedState
from edge_node.store.queries import encoded

NODE = "pi-1"


class Unsigned:
    """An author whose word is its name: signatures are tested elsewhere, and cost more than all the rest."""

    def __init__(self, node: str = NODE) -> None:
        self._name = node.encode()

    def sign(self, payload: bytes) -> bytes:
        return self._name + b"\0" + payload

    def open(self, data: bytes) -> tuple[str, bytes]:
        name, _, payload = data.partition(b"\0")
        return name.decode(), payload

    def read(self, data: bytes) -> bytes:
        return data.partition(b"\0")[2]


def opened(node: str = NODE, store: MemoryCellStore | None = None) -> OpenedState:
    """Random ids count from 1000, time stands at the 31st day of 1970."""
    drawn = count(1000)
    return OpenedState(
        node,
        store or MemoryCellStore(),
        Unsigned(node),
        entropy=lambda n: (next(drawn) << 1).to_bytes(8, "big") if n == 8 else b"\1" * n,
        wall_ms=lambda: 30 * 86_400_000,
        now_ns=lambda: 0,
    )


def found(state: OpenedState, table: str, where: QueryLike | None = None, **params: Any) -> dict[int, Any]:
    """Id -> document, of all pages."""
    documents: dict[int, Any] = {}
    if where is not None:
        params["where"] = data = encoded(where)
        assert data is not None, "the query travels"
    while True:
        page = state.call("state.find", {"table": table, **params})
        documents.update((doc_id, json.loads(text)) for doc_id, text in page["documents"])
        if not page["more"]:
            return documents
        params["after"] = page["documents"][-1][0]
