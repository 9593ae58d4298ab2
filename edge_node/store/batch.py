"""Batches: what one writer changed at one moment, signed; the unit in which tables travel.

    batch = version, writer, epoch, first, stamp, after, amends, changes
    change i has the dot (writer, epoch, first + i)

``after`` is what the writer had come to know since its batch before (of an epoch's first batch:
everything), so the writer's whole context at each batch is known to whoever has its earlier ones. It is
applied only where all of that is known: causes come before effects, everywhere.

``amends`` names changes of the writer's own earlier epochs that not everybody could take: (epoch, first,
last). Void ones count as known and need not be had; what was in them is said again in this batch and the
next ones. Others carried stamps of a clock that ran ahead: they are history, and are said again with true
ones.

In: a batch; out: bytes, and back. Bounds stand here, the same for the writer and for its readers. Not here:
signatures (a port of `replica`), who may write (`replica`).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from edge_node.store.crdt.dots import Vector
from edge_node.store.crdt.register import Rival
from edge_node.store.hlc import STAMP_MAX
from edge_node.wire.messages import VectorRow
from security.errors import BadInput, ProtocolViolation

VERSION: Final = 1
VALUE_BYTES_MAX: Final = 64 * 1024
KEY_BYTES_MAX: Final = 256
TABLE_BYTES_MAX: Final = 128
FIELD_BYTES_MAX: Final = 256
CHANGES_MAX: Final = 256
BATCH_BYTES_MAX: Final = 176 * 1024
"""One change of the largest value with a rival as large, or many small ones; below a parcel's 256 KiB."""
CHANGES_BYTES_MAX: Final = 96 * 1024
"""Where a writer begins another batch; leaves room for what it knows."""
RIVALS_MAX: Final = 64
AMENDS_MAX: Final = 256
AMOUNT_MAX: Final = 2**53

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Value = Annotated[bytes, msgspec.Meta(max_length=VALUE_BYTES_MAX)] | None
_Amount = Annotated[int, msgspec.Meta(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]


class Put(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """One field of one document. value: as it lies in the store; None: deleted."""

    table: str
    key: str
    field: str
    value: _Value
    rivals: Annotated[tuple[Rival, ...], msgspec.Meta(max_length=RIVALS_MAX)] = ()


class Tag(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One element of a set: added, or taken out."""

    table: str
    key: str
    present: bool


class Reset(msgspec.Struct, frozen=True, array_like=True):
    """The writer's entry of an amended epoch, as it counts from now on."""

    epoch: _Count
    seq: _Count
    up: _Count
    down: _Count


class Count(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """So much was added to a counter, or taken from it."""

    table: str
    amount: _Amount
    resets: Annotated[tuple[Reset, ...], msgspec.Meta(max_length=AMENDS_MAX)] = ()


Change = Put | Tag | Count


class Amend(msgspec.Struct, frozen=True, array_like=True):
    """void: they are not to be applied any more. Else: their stamps were wrong, and are no reason to wait."""

    epoch: _Count
    first: _Seq
    last: _Seq
    void: bool = True


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """stamp: of all its changes. after: see above, as rows of a vector."""

    version: int
    node: str
    epoch: _Seq
    first: _Seq
    stamp: Annotated[int, msgspec.Meta(ge=0, le=STAMP_MAX)]
    changes: Annotated[tuple[Change, ...], msgspec.Meta(min_length=1, max_length=CHANGES_MAX)]
    after: tuple[VectorRow, ...] = ()
    amends: Annotated[tuple[Amend, ...], msgspec.Meta(max_length=AMENDS_MAX)] = ()

    @property
    def last(self) -> int:
        return self.first + len(self.changes) - 1

    @property
    def knows(self) -> Vector:
        return Vector.of(self.after)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Batch)


def encoded(batch: Batch) -> bytes:
    return _encoder.encode(batch)


def decoded(payload: bytes) -> Batch:
    """Raises: ProtocolViolation: not a batch of a version that we read, or out of its bounds."""
    if len(payload) > BATCH_BYTES_MAX:
        raise ProtocolViolation(f"batch of {len(payload)} bytes is over {BATCH_BYTES_MAX}")
    try:
        batch = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation("not a batch of changes") from error
    if batch.version != VERSION:
        raise ProtocolViolation(f"batch of version {batch.version}, this one reads {VERSION}")
    for change in batch.changes:
        trouble = trouble_with(change)
        if trouble:
            raise ProtocolViolation(trouble)
    return batch


def size_of(change: Change) -> int:
    """Bytes, roughly, on the wire."""
    if type(change) is Put:
        rivals = sum(len(rival.value or b"") + 48 for rival in change.rivals)
        names = len(change.table) + len(change.key) + len(change.field)
        return 16 + names + len(change.value or b"") + rivals
    if type(change) is Tag:
        return 16 + len(change.table) + len(change.key)
    assert type(change) is Count
    return 24 + len(change.table) + 32 * len(change.resets)


def checked(change: Change) -> None:
    """Raises: BadInput: the change breaks a bound, named with its figures."""
    trouble = trouble_with(change)
    if trouble:
        raise BadInput(trouble, fix="keep large things as blobs and name them by digest")


def trouble_with(change: Change) -> str:
    if not change.table or _over(change.table, TABLE_BYTES_MAX):
        return f"a table's name has 1 to {TABLE_BYTES_MAX} bytes"
    if isinstance(change, Count):
        return (
            "" if abs(change.amount) <= AMOUNT_MAX else f"a counter moves by at most {AMOUNT_MAX} at a time"
        )
    if _over(change.key, KEY_BYTES_MAX):
        return f"key is over {KEY_BYTES_MAX} bytes"
    if type(change) is Put:
        if _over(change.field, FIELD_BYTES_MAX):
            return f"field name is over {FIELD_BYTES_MAX} bytes"
        values = (change.value, *(rival.value for rival in change.rivals))
        if any(value is not None and len(value) > VALUE_BYTES_MAX for value in values):
            return f"value is over {VALUE_BYTES_MAX} bytes"
    return ""


def _over(text: str, most: int) -> bool:
    """Also: no UTF-8 spelling, which no bound can hold."""
    try:
        return len(text.encode()) > most
    except UnicodeEncodeError:
        return True
