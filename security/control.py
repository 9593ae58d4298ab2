"""Control frames: what members say outside a sealed parcel, while they have no session or doubt it.

    86 CBOR [kind, attempt(8), roster_version, h(own x25519)[:8], h(peer x25519)[:8], body]

    1 m1    body: Noise message        3 unknown-kid    body: the kid
    2 m2    body: Noise message        4 roster-wanted  body: empty      5 roster   body: the signed roster

In: bytes; out: a ``Control``, or ``ProtocolViolation`` for any byte that is not in its one allowed form.
m1 and m2 are authenticated by what they carry; 3 to 5 are hints that anyone on the path may forge, so that
the worst a hint may do is cost a little work. Not here: what to do about them (``session``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from security.errors import BadInput, ProtocolViolation

M1: Final = 1
M2: Final = 2
UNKNOWN_KID: Final = 3
ROSTER_WANTED: Final = 4
ROSTER: Final = 5

FIRST_BYTE: Final = 0x86
FRAME_BYTES_MAX: Final = 256
ROSTER_FRAME_BYTES_MAX: Final = 256 * 1024
ATTEMPT_BYTES: Final = 8
HASH_BYTES: Final = 8
NO_HASH: Final = bytes(HASH_BYTES)  # in a hint to a member whose key we do not know


class Control(msgspec.Struct, frozen=True):
    kind: int
    attempt: bytes  # 8, names one handshake; zero in hints
    roster_version: int  # of the sender
    sender_hash: bytes  # first 8 bytes of SHA-256 of the sender's X25519 key
    receiver_hash: bytes  # the same of the receiver's
    body: bytes

    def encode(self) -> bytes:
        """Raises: BadInput: the frame would be longer than its kind may be."""
        frame = b"".join(
            (
                b"\x86",
                _head(0x00, self.kind),
                _bstr(self.attempt),
                _head(0x00, self.roster_version),
                _bstr(self.sender_hash),
                _bstr(self.receiver_hash),
                _bstr(self.body),
            )
        )
        if len(frame) > _bytes_max(self.kind):
            raise BadInput(f"control frame of kind {self.kind} has {len(frame)} bytes")
        return frame


def decode_control(frame: bytes) -> Control:
    """Raises: ProtocolViolation: too long, an unknown kind, or not exactly the shape above."""
    if not frame or frame[0] != FIRST_BYTE:
        raise ProtocolViolation("not a control frame")
    if len(frame) > ROSTER_FRAME_BYTES_MAX:
        raise ProtocolViolation("control frame is too large")
    reader = Reader(frame, 1)
    kind = reader.uint()
    if not M1 <= kind <= ROSTER:
        raise ProtocolViolation(f"control frame of kind {kind}, this member knows {M1} to {ROSTER}")
    if len(frame) > _bytes_max(kind):
        raise ProtocolViolation("control frame is too large")
    attempt = reader.bstr(ATTEMPT_BYTES)
    version = reader.uint()
    sender, receiver = reader.bstr(HASH_BYTES), reader.bstr(HASH_BYTES)
    body = reader.bstr()
    reader.end()
    return Control(kind, attempt, version, sender, receiver, body)


def encode_payload(boot_id: bytes, wall_ms: int, kid: bytes) -> bytes:
    """The payload of m1 and m2: CBOR [boot_id(8), ts_ms, kid(8)]."""
    return b"\x83" + _bstr(boot_id) + _head(0x00, max(0, wall_ms)) + _bstr(kid)


def decode_payload(data: bytes) -> tuple[bytes, int, bytes]:
    """(boot id, wall ms of the sender, kid that the sender receives under). Raises: ProtocolViolation."""
    if not data or data[0] != 0x83:
        raise ProtocolViolation("handshake payload has a wrong shape")
    reader = Reader(data, 1)
    found = reader.bstr(8), reader.uint(), reader.bstr(8)
    reader.end()
    return found


class Reader:
    """Unsigned integers and byte strings of CBOR, shortest form only, from a position on."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def uint(self) -> int:
        return self._number(0)

    def bstr(self, size: int | None = None) -> bytes:
        length = self._number(2)
        if size is not None and length != size:
            raise ProtocolViolation("control frame has a field of the wrong length")
        return self._take(length)

    def end(self) -> None:
        if self._at != len(self._data):
            raise ProtocolViolation("control frame has bytes left over")

    def _number(self, major: int) -> int:
        first = self._take(1)[0]
        if first >> 5 != major:
            raise ProtocolViolation("control frame has a field of the wrong type")
        low = first & 31
        if low < 24:
            return low
        if low > 27:
            raise ProtocolViolation("control frame has a field in a forbidden form")
        number = int.from_bytes(self._take(1 << low - 24), "big")
        if number < (24, 1 << 8, 1 << 16, 1 << 32)[low - 24]:
            raise ProtocolViolation("control frame has a number not in its shortest form")
        return number

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ProtocolViolation("control frame is cut short")
        piece = bytes(self._data[self._at : end])
        self._at = end
        return piece


def _bytes_max(kind: int) -> int:
    return ROSTER_FRAME_BYTES_MAX if kind == ROSTER else FRAME_BYTES_MAX


def _bstr(data: bytes) -> bytes:
    return _head(0x40, len(data)) + data


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major | number,))
    for low, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes((major | low,)) + number.to_bytes(size, "big")
    raise BadInput(f"{number} does not fit 64 bits")
