"""Messages to the plaintext of a parcel and back; the context that binds a parcel to its place.

    plain   = MessagePack [1, low, [[n, message], ...]]
    context = CBOR [1, mesh_id, topic, src, dst or group, kid, role]

``n`` is the message's number in the stream from this sender to this receiver (0: unacknowledged);
every number below ``low`` is settled or given up. Decoding happens once, at the door: inside the
house nobody sees a dict. Sealing is ``security.envelope``; numbering is ``transport.parcels``.
"""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec

from edge_node.wire import messages
from edge_node.wire.topics import Direct, topic_for
from security.errors import ProtocolViolation

PARCEL_VERSION = 1
PLAIN_BYTES_MAX = 256 * 1024
"""A parcel is refused above this size before it is decoded (memory of a small board)."""


class Unsupported(msgspec.Struct, frozen=True):
    """A message with a tag that this version does not know: counted, not answered."""

    tag: int | None


Item = tuple[int, messages.Message | Unsupported]

_encoder = msgspec.msgpack.Encoder()
_fast = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, messages.ANY]]])
_slow = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, msgspec.Raw]]])
_one = msgspec.msgpack.Decoder(messages.ANY)
_tag = msgspec.msgpack.Decoder(list[msgspec.Raw])
_KNOWN = frozenset(range(1, 39))


def encode_message(message: messages.Message) -> bytes:
    return _encoder.encode(message)


def pack(low: int, items: list[tuple[int, bytes]]) -> bytes:
    """The plaintext of one parcel; each item is (number, encoded message)."""
    return _encoder.encode((PARCEL_VERSION, low, [(n, msgspec.Raw(raw)) for n, raw in items]))


def unpack(plain: bytes) -> tuple[int, list[Any]]:
    """``(low, [(n, message or Unsupported), ...])`` of one parcel.

    Raises: ProtocolViolation: not a parcel of this version; the cause names version or shape.
    """
    if len(plain) > PLAIN_BYTES_MAX:
        raise ProtocolViolation("parcel over 256 KiB")
    try:
        version, low, items = _fast.decode(plain)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        version, low, items = _unpack_one_by_one(plain)
    if version != PARCEL_VERSION:
        raise ProtocolViolation(f"parcel version {version}, this member speaks {PARCEL_VERSION}")
    if low < 1:
        raise ProtocolViolation("parcel with low < 1")
    return low, items


def _unpack_one_by_one(plain: bytes) -> tuple[int, int, list[Any]]:
    """One unknown tag must not cost the rest of the parcel: decode item by item."""
    try:
        version, low, raws = _slow.decode(plain)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolViolation("not a parcel") from error
    items: list[Any] = []
    for n, raw in raws:
        try:
            items.append((n, _one.decode(raw)))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            tag = _tag_of(raw)
            if tag is None or tag in _KNOWN:
                raise ProtocolViolation("malformed message") from error
            items.append((n, Unsupported(tag)))
    return version, low, items


def _tag_of(raw: msgspec.Raw) -> int | None:
    try:
        head = _tag.decode(raw)
        tag = msgspec.msgpack.decode(head[0]) if head else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return tag if isinstance(tag, int) else None


def direct_context(mesh_id: str) -> Any:
    """The context function that ``security.session`` takes: what a parcel is authenticated against."""

    def context(src: str, dst: str, kid: bytes, role: int) -> bytes:
        topic = topic_for(Direct(mesh_id, dst, src))
        return cbor2.dumps([1, mesh_id, topic, src, dst, kid, role], canonical=True)

    return context


def group_context(mesh_id: str) -> Any:
    """The same for the frames of groups, as ``security.group`` takes it; its role is 2."""

    def context(topic: str, src: str, group: str, kid: bytes) -> bytes:
        return cbor2.dumps([1, mesh_id, topic, src, group, kid, 2], canonical=True)

    return context
