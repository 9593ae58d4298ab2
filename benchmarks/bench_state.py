"""What replicated tables cost at the store, beside TinyDB and plain SQLite, and what makes them cost more.

    python -m benchmarks.bench_state [--documents 10000] [--rounds 7] [--chart out/state.jsonl] [DIRECTORY]

    upsert    one document by its key, each answered after its fsync;  wanted >= 100 x TinyDB's JSONStorage,
              ours is also signed, logged and sealed                          <= 3 x SQLite, WAL and FULL
    get       one by its key, decoded                                  wanted <= 3 x SQLite
    search    ten documents by an indexed field                        wanted <= 1/20 of MemoryStorage's scan

In one process, without daemon or socket (`OpenedState`). Those measured take turns, round by round; medians
are told. TinyDB asks its cache when a query comes again, so each is another one here. SQLite holds JSON in
one table by key.

    --chart   JSON lines {"cost", "by", "at", "us"}: upsert, get and search by number of documents, by nodes
              in the vector and by upserts made before; drawn beside it, if matplotlib is installed
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from tinydb import TinyDB, where
from tinydb.storages import JSONStorage, MemoryStorage
from tinydb.table import Table

from edge_node.store.authorship import Authorship
from edge_node.store.batch import VERSION, Batch, Put, encoded
from edge_node.store.hlc import stamp_of
from edge_node.store.identity import doc_id_for
from edge_node.store.opened import OpenedState
from edge_node.store.replica import Arrived, Members
from edge_node.store.storage.cells import SqliteCellStore
from security.identity import spki_der

MESH, NODE, TABLE = "0123456789abcdef", "pi-1", "rooms"
HITS = 10
Name = TypeVar("Name", bound=Hashable)
KEYS = {
    name: ec.derive_private_key(number, ec.SECP256R1())
    for number, name in enumerate([NODE, *(f"n{i}" for i in range(256))], 1000)
}
OWNERS = {hashlib.sha256(spki_der(key.public_key())).digest(): name for name, key in KEYS.items()}


def author_of(node: str) -> Authorship:
    return Authorship(MESH, KEYS[node], OWNERS.get)


def key_of(number: int) -> str:
    return f"room-{number:06}"


def document(number: int, documents: int, setpoint_c: float) -> dict[str, Any]:
    """Five fields, some hundred bytes; ten documents share a zone."""
    return {
        "id": key_of(number),
        "zone": number % (documents // HITS),
        "setpoint_c": setpoint_c,
        "mode": "heat",
        "note": "on the left behind the stairs",
    }


class Ours:
    """A store of so many documents on a disk."""

    def __init__(self, directory: Path, documents: int, *, nodes: int = 1, before: int = 0) -> None:
        self.documents = documents
        self.rng = random.Random(1)
        store = SqliteCellStore(directory / "state.db", MESH, NODE, b"k" * 32)
        self.state = OpenedState(NODE, store, author_of(NODE))
        self.state.handle(Members(frozenset({"gateway", NODE})))
        self.state.call("state.declare", {"table": TABLE, "key": "id", "indexes": ["zone"]})
        for first in range(0, documents, 500):
            numbers = range(first, min(first + 500, documents))
            texts = [(None, json.dumps(document(number, documents, 21.5))) for number in numbers]
            self.state.call("state.insert", {"table": TABLE, "documents": texts})
        for number in range(nodes - 1):
            self._hear(f"n{number}")
        for _ in range(before):
            self.upsert()
        self.search()

    def _hear(self, node: str) -> None:
        """A batch of another member: one more writer in the vector."""
        change = Put("others", f"s{node}", "id", json.dumps(node).encode())
        batch = Batch(VERSION, node, 1, 1, stamp_of(time.time_ns() // 1_000_000), (change,))
        self.state.handle(Arrived(author_of(node).sign(encoded(batch))))

    def upsert(self) -> None:
        text = json.dumps(document(self.rng.randrange(self.documents), self.documents, self.rng.random()))
        self.state.call("state.upsert", {"table": TABLE, "document": text})

    def get(self) -> None:
        doc_id = doc_id_for(TABLE, key_of(self.rng.randrange(self.documents)))
        ((_, text),) = self.state.call("state.find", {"table": TABLE, "ids": [doc_id]})["documents"]
        assert json.loads(text)["mode"] == "heat"

    def search(self) -> None:
        query = ["==", ["zone"], self.rng.randrange(self.documents // HITS)]
        found = self.state.call("state.find", {"table": TABLE, "where": query})["documents"]
        assert len([json.loads(text) for _, text in found]) == HITS


class Plain:
    """JSON documents by key in SQLite, WAL and FULL: what the same durability costs without anything else."""

    def __init__(self, directory: Path, documents: int) -> None:
        self.documents = documents
        self.rng = random.Random(1)
        self.db = sqlite3.connect(directory / "plain.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE documents(id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID")
        self.db.execute("BEGIN")
        for number in range(documents):
            self._put(document(number, documents, 21.5))
        self.db.execute("COMMIT")

    def _put(self, body: dict[str, Any]) -> None:
        self.db.execute(
            "INSERT INTO documents VALUES (?, ?) ON CONFLICT(id) DO UPDATE SET body = excluded.body",
            (body["id"], json.dumps(body)),
        )

    def upsert(self) -> None:
        self._put(document(self.rng.randrange(self.documents), self.documents, self.rng.random()))

    def get(self) -> None:
        key = key_of(self.rng.randrange(self.documents))
        (text,) = self.db.execute("SELECT body FROM documents WHERE id = ?", (key,)).fetchone()
        assert json.loads(text)["mode"] == "heat"


class Tiny:
    """TinyDB as it comes."""

    def __init__(self, table: Table, documents: int) -> None:
        self.documents = documents
        self.rng = random.Random(1)
        self.table = table
        self.table.insert_multiple(document(number, documents, 21.5) for number in range(documents))

    def upsert(self) -> None:
        body = document(self.rng.randrange(self.documents), self.documents, self.rng.random())
        self.table.upsert(body, where("id") == body["id"])

    def search(self) -> None:
        self.table.clear_cache()
        zone = self.rng.randrange(self.documents // HITS)
        assert len(self.table.search(where("zone") == zone)) == HITS


def each_us(what: Callable[[], None], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        what()
    return (time.perf_counter() - begin) / times * 1e6


def in_turns(rounds: int, turns: dict[Name, tuple[Callable[[], None], int]]) -> dict[Name, float]:
    """Microseconds an operation: medians over rounds in which each has its turn."""
    taken: dict[Name, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, (what, times) in turns.items():
            taken[name].append(each_us(what, times))
    return {name: statistics.median(each) for name, each in taken.items()}


def beside_others(directory: Path, documents: int, rounds: int) -> None:
    ours, plain = Ours(directory, documents), Plain(directory, documents)
    memory = Tiny(TinyDB(storage=MemoryStorage).table(TABLE), documents)
    tiny = Tiny(TinyDB(directory / "tiny.json", storage=JSONStorage).table(TABLE), documents)
    took = in_turns(
        rounds,
        {
            "upsert": (ours.upsert, 200),
            "upsert, SQLite": (plain.upsert, 200),
            "upsert, JSONStorage": (tiny.upsert, 2),
            "get": (ours.get, 2000),
            "get, SQLite": (plain.get, 2000),
            "search": (ours.search, 200),
            "search, MemoryStorage": (memory.search, 5),
        },
    )
    print(f"{documents:,} documents, {rounds} rounds in turns, medians; {os.cpu_count()} cores")
    for name, us in took.items():
        print(f"{name:24}{us:>12,.1f} us")
    for name, other, ratio, wanted in (
        ("upsert", "JSONStorage", took["upsert, JSONStorage"] / took["upsert"], ">= 100"),
        ("upsert", "SQLite", took["upsert"] / took["upsert, SQLite"], "<= 3"),
        ("get", "SQLite", took["get"] / took["get, SQLite"], "<= 3"),
        ("search", "MemoryStorage", took["search"] / took["search, MemoryStorage"], "<= 0.05"),
    ):
        print(f"{name} to {other:20}{ratio:>10.3f}   wanted {wanted}")
    ours.state.close()


def costs(rounds: int, directory: Path) -> Iterator[dict[str, Any]]:
    """Points of the chart; those of one curve take turns too."""
    for by, stores in (
        ("documents", {at: {"documents": at} for at in (100, 1_000, 10_000, 30_000)}),
        ("nodes", {at: {"documents": 1_000, "nodes": at} for at in (1, 16, 64, 256)}),
        ("upserts before", {at: {"documents": 1_000, "before": at} for at in (0, 1_000, 4_000, 16_000)}),
    ):
        with contextlib.ExitStack() as stack:
            turns: dict[tuple[str, int], tuple[Callable[[], None], int]] = {}
            for at, options in stores.items():
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=directory))
                ours = Ours(Path(folder), **options)
                stack.callback(ours.state.close)
                turns["upsert", at] = ours.upsert, 100
                turns["get", at] = ours.get, 500
                turns["search", at] = ours.search, 100
            for (cost, at), us in in_turns(rounds, turns).items():
                yield {"cost": cost, "by": by, "at": at, "us": round(us, 2)}


def draw(points: list[dict[str, Any]], path: Path) -> bool:
    """False: matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    colours = {"upsert": "#0072B2", "get": "#009E73", "search": "#E69F00"}
    kinds = list(dict.fromkeys(point["by"] for point in points))
    axes = list(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0])
    for axis, by in zip(axes, kinds, strict=True):
        for cost, colour in colours.items():
            line = [(each["at"], each["us"]) for each in points if (each["by"], each["cost"]) == (by, cost)]
            axis.plot(*zip(*line, strict=True), "o-", color=colour, label=cost)
        axis.set_xscale("symlog" if by == "upserts before" else "log")
        axis.set_yscale("log")
        axis.set_xlabel(by)
    axes[0].set_ylabel("µs an operation")
    axes[0].legend()
    canvas.print_png(str(path))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chart", type=Path, help="write points there, and a picture beside them")
    parser.add_argument("directory", nargs="?", type=Path)
    options = parser.parse_args()
    if options.chart is None:
        with tempfile.TemporaryDirectory(dir=options.directory) as name:
            beside_others(Path(name), options.documents, options.rounds)
        return
    options.chart.parent.mkdir(parents=True, exist_ok=True)
    points = []
    with options.chart.open("w") as lines:
        for point in costs(options.rounds, options.directory):
            points.append(point)
            lines.write(json.dumps(point) + "\n")
            print(f"{point['cost']:8}{point['at']:>8,} {point['by']:16}{point['us']:>10.1f} us", flush=True)
    picture = options.chart.with_suffix(".png")
    print(f"({options.chart}{f', {picture}' if draw(points, picture) else ''})")


if __name__ == "__main__":
    main()
