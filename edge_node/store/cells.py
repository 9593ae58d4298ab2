"""Cells: all that the replicated tables hold here, and how one change moves it.

    cell = (kind, table, key, field) -> register (a field, a set's element) or tally (a counter)

A change is merged with what its writer knew; after that nothing is asked of it again. Beside the cells lie
the indices that make work proportional to change: tombstones, conflicts, bytes by writer, which buckets a
Merkle leaf has to be computed for anew.

Canonical form (the same bytes wherever the same writes are known, whatever was collected):

    MessagePack rows (table, key, field, kind, [[value, stamp, [node, epoch, seq], rivals]…] or total),
    sorted; a register that is nothing but a deletion is no row

Not here: order, context, durability (`replica`); what a value means (the table above).
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from edge_node.store.batch import Change, Count, Put, Tag
from edge_node.store.crdt import counter
from edge_node.store.crdt.counter import Entry, Tally
from edge_node.store.crdt.dots import Vector
from edge_node.store.crdt.register import Knows, Register, Rival, Version, in_conflict, joined

FIELD: Final = 0
ELEMENT: Final = 1
COUNTER: Final = 2
BUCKETS: Final = 256
LEAF_BYTES: Final = 8

_PRESENT: Final = b"\x01"
_VERSIONS = msgspec.msgpack.Decoder(tuple[Version, ...])
_TALLY = msgspec.msgpack.Decoder(tuple[list[tuple[str, int, int, int, int]], int])
_encode = msgspec.msgpack.Encoder().encode


class CellId(NamedTuple):
    kind: int
    table: str
    key: str
    field: str


DocId = tuple[int, str, str]
State = Register | Tally


class Cells:
    """Raises nothing: what comes in was checked by `batch` and admitted by `replica`."""

    def __init__(self) -> None:
        self._docs: dict[DocId, dict[str, State]] = {}
        self._tables: dict[tuple[int, str], dict[str, None]] = {}  # (kind, table) -> keys
        self.tombstones: dict[CellId, None] = {}
        self.conflicts: dict[CellId, None] = {}
        self.bytes_by: Counter[str] = Counter()
        self.bytes = 0
        self._leaves: dict[int, bytes] = {}  # those that are not empty
        self._by_bucket: dict[int, set[DocId]] = {}
        self._stale: set[int] = set()  # buckets whose leaf has to be computed anew
        self._live: Counter[DocId] = Counter()  # fields of a document that are not merely deleted

    # -- changing ---------------------------------------------------------------------------------------

    def apply(
        self, change: Change, version: tuple[int, str, int, int], knew: Knows, known: Vector
    ) -> CellId | None:
        """One change with its (stamp, node, epoch, seq). None: nothing is different now.

        Args: knew: what its writer knew; known: what is known here, without this change.
        """
        stamp, node, epoch, seq = version
        cell = cell_of(change)
        if type(change) is Put:
            new: Register = (Version(stamp, node, epoch, seq, change.value, change.rivals),)
        elif type(change) is Tag:
            new = (Version(stamp, node, epoch, seq, _PRESENT),) if change.present else ()
        else:
            assert type(change) is Count
            return self._count(cell, change, node, epoch, seq, known)
        old = self.register(cell)
        merged = joined(old, known, new, knew)
        if merged == old:
            return None
        self.place(cell, merged)
        return cell

    def _count(self, cell: CellId, change: Count, node: str, epoch: int, seq: int, known: Vector) -> CellId:
        old = self.tally(cell)
        tally = counter.added(old, node, epoch, seq, change.amount)
        for reset in change.resets:
            if reset.epoch > known.floor(node):
                said = Tally({(node, reset.epoch): Entry(reset.seq, reset.up, reset.down)})
                tally = counter.joined(tally, said)
        self.place(cell, tally)
        return cell

    def place(self, cell: CellId, state: State) -> None:
        """Put a cell as it is; nothing in it: it is gone."""
        doc = cell[:3]
        fields = self._docs.get(doc)
        old = None if fields is None else fields.get(cell.field)
        self._account(cell, old, -1)
        bucket = zlib.crc32(f"{cell.table}\0{cell.key}".encode()) % BUCKETS
        self._stale.add(bucket)
        if not state:
            if fields is not None and fields.pop(cell.field, None) is not None and not fields:
                del self._docs[doc]
                del self._tables[doc[:2]][cell.key]
                self._by_bucket[bucket].discard(doc)
        else:
            if fields is None:
                fields = self._docs[doc] = {}
                self._tables.setdefault(doc[:2], {})[cell.key] = None
                self._by_bucket.setdefault(bucket, set()).add(doc)
            fields[cell.field] = state
            self._account(cell, state, 1)

    def _account(self, cell: CellId, state: State | None, sign: int) -> None:
        if not state:
            return
        if isinstance(state, Tally):
            self._moved_live(cell[:3], sign)
            return
        for version in state:
            if version.value is not None:
                size = size_of(cell, version)
                self.bytes_by[version.node] += sign * size
                self.bytes += sign * size
        if len(state) == 1 and state[0].value is None:
            self._mark(self.tombstones, cell, sign)
        else:
            self._moved_live(cell[:3], sign)
        if cell.kind == FIELD and (len(state) > 1 or state[0].rivals) and in_conflict(state):
            self._mark(self.conflicts, cell, sign)

    def _moved_live(self, doc: DocId, sign: int) -> None:
        count = self._live[doc] + sign
        if count:
            self._live[doc] = count
        else:
            del self._live[doc]

    @staticmethod
    def _mark(index: dict[CellId, None], cell: CellId, sign: int) -> None:
        if sign > 0:
            index[cell] = None
        else:
            index.pop(cell, None)

    # -- reading ----------------------------------------------------------------------------------------

    def register(self, cell: CellId) -> Register:
        fields = self._docs.get(cell[:3])
        found = None if fields is None else fields.get(cell.field)
        return () if found is None or isinstance(found, Tally) else found

    def tally(self, cell: CellId) -> Tally:
        fields = self._docs.get(cell[:3])
        found = None if fields is None else fields.get("")
        return found if isinstance(found, Tally) else counter.EMPTY

    def state(self, cell: CellId) -> State | None:
        fields = self._docs.get(cell[:3])
        return None if fields is None else fields.get(cell.field)

    def document(self, table: str, key: str) -> dict[str, bytes]:
        """Field -> value of the winner; empty: there is no such document."""
        fields = self._docs.get((FIELD, table, key), {})
        found = {}
        for name, state in sorted(fields.items()):
            if not isinstance(state, Tally) and (value := state[-1].value) is not None:
                found[name] = value
        return found

    def keys(self, table: str) -> list[str]:
        """Documents of a table, in order."""
        return sorted(key for key in self._tables.get((FIELD, table), ()) if self.has_document(table, key))

    def has_document(self, table: str, key: str) -> bool:
        for state in self._docs.get((FIELD, table, key), {}).values():
            if not isinstance(state, Tally) and state[-1].value is not None:
                return True
        return False

    def tables(self) -> list[tuple[int, str]]:
        """(kind, name) of whatever has cells, be they deletions only."""
        return [each for each, keys in self._tables.items() if keys]

    def elements(self, table: str) -> list[str]:
        return sorted(self._tables.get((ELEMENT, table), ()))

    def counted(self, table: str) -> int:
        return self.tally(CellId(COUNTER, table, "", "")).value

    @property
    def live(self) -> int:
        """Documents, elements and counters that are there: what the bound on keys counts."""
        return len(self._live)

    def is_live(self, kind: int, table: str, key: str) -> bool:
        return (kind, table, key) in self._live

    @property
    def entries(self) -> int:
        """Versions and counter entries: what a member pays for, live or not."""
        return sum(
            len(state.entries) if isinstance(state, Tally) else len(state)
            for fields in self._docs.values()
            for state in fields.values()
        )

    def all(self) -> Iterator[tuple[CellId, State]]:
        for doc in list(self._docs):
            for field, state in list(self._docs[doc].items()):
                yield CellId(*doc, field), state

    # -- collecting -------------------------------------------------------------------------------------

    def collect(self, cut: dict[tuple[str, int], int], known: Vector) -> list[CellId]:
        """Drop deletions that every member knows of. cut: what everybody knows."""
        gone = []
        for cell in self.tombstones:
            version: Version = self.register(cell)[0]
            stable = cut.get((version.node, version.epoch))
            if stable is None:
                stable = version.seq if known.floor(version.node) >= version.epoch else 0
            if version.seq <= stable:
                gone.append(cell)
        for cell in gone:
            self.place(cell, ())
        return gone

    def fold(self, known: Vector) -> list[CellId]:
        """Counters' entries of closed epochs into their sums."""
        moved = []
        for doc in [doc for doc in self._docs if doc[0] == COUNTER]:
            cell = CellId(*doc, "")
            old = self.tally(cell)
            new = counter.folded(old, known)
            if new is not old:
                self.place(cell, new)
                moved.append(cell)
        return moved

    # -- canonical form and Merkle tree -----------------------------------------------------------------

    def canonical(self) -> bytes:
        return _encode([row for doc in sorted(self._docs, key=_order) for row in self._rows(doc)])

    def _rows(self, doc: DocId) -> Iterator[list[Any]]:
        kind, table, key = doc
        for field, state in sorted(self._docs[doc].items()):
            if isinstance(state, Tally):
                yield [table, key, field, kind, state.value]
            elif len(state) > 1 or state[0].value is not None:
                versions = [[v.value, v.stamp, [v.node, v.epoch, v.seq], v.rivals] for v in state]
                yield [table, key, field, kind, versions]

    def leaves(self) -> list[bytes]:
        """One digest for each of 256 buckets of documents; computed anew only where something changed."""
        for bucket in self._stale:
            docs = sorted(self._by_bucket.get(bucket, ()), key=_order)
            rows = [row for doc in docs for row in self._rows(doc)]
            if rows:
                self._leaves[bucket] = hashlib.blake2b(_encode(rows), digest_size=LEAF_BYTES).digest()
            else:
                self._leaves.pop(bucket, None)
        self._stale.clear()
        return [self._leaves.get(bucket, b"") for bucket in range(BUCKETS)]

    def root(self) -> bytes:
        return hashlib.blake2b(_encode(self.leaves()), digest_size=LEAF_BYTES).digest()

    # -- proof ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The indices are what a fresh count would give."""
        fresh = Cells()
        for cell, state in self.all():
            assert state, f"{cell} is kept and empty"
            fresh.place(cell, state)
            if not isinstance(state, Tally):
                assert list(state) == sorted(state), "a register is in order"
                assert len({v[:4] for v in state}) == len(state), "a dot is in a register once"
        assert fresh.tombstones.keys() == self.tombstones.keys()
        assert fresh.conflicts.keys() == self.conflicts.keys()
        assert +fresh.bytes_by == +self.bytes_by and fresh.bytes == self.bytes
        assert fresh._live == self._live


def cell_of(change: Change) -> CellId:
    if type(change) is Put:
        return CellId(FIELD, change.table, change.key, change.field)
    if type(change) is Tag:
        return CellId(ELEMENT, change.table, change.key, "")
    return CellId(COUNTER, change.table, "", "")


def size_of(cell: CellId, version: Version) -> int:
    """What a version counts against its writer's quota; a deletion counts nothing."""
    if version.value is None:
        return 0
    size = len(cell.table) + len(cell.key) + len(cell.field) + len(version.value)
    for rival in version.rivals:
        size += len(rival.value or b"") + 32
    return size


def _order(doc: DocId) -> tuple[str, str, int]:
    return doc[1], doc[2], doc[0]


def pack(state: State) -> bytes:
    """As a cell lies in a store and in a snapshot."""
    if isinstance(state, Tally):
        entries = [(*writer, *entry) for writer, entry in sorted(state.entries.items())]
        return _encode((entries, state.folded))
    return _encode(state)


def unpack(kind: int, data: bytes) -> State:
    """Raises: ValueError (msgspec.DecodeError): not a cell."""
    if kind == COUNTER:
        entries, folded = _TALLY.decode(data)
        return Tally({(node, epoch): Entry(seq, up, down) for node, epoch, seq, up, down in entries}, folded)
    return _VERSIONS.decode(data)


__all__ = [
    "BUCKETS", "COUNTER", "ELEMENT", "FIELD", "CellId", "Cells", "Rival", "State", "pack", "unpack",
]  # fmt: skip
