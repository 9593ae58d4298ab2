"""Frames, as somebody at the broker can read them: whose topic, and the head of the envelope.

Taken apart here once more, from the bytes alone (docs/protocol.md), so that an envelope that is not one
cannot be believed because the code that made it would also open it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from edge_node.wire.ids import GATEWAY

_OF_A_SITE: Final = f"/{GATEWAY}"
_MESH_END: Final = 21  # "ew/1/" and 16 hex digits
_REST: Final = 24
DIRECT: Final = "/d/"
PRESENCE: Final = "/p/"
GROUP: Final = "/g/"
PARCEL_HEAD: Final = bytes.fromhex("d083 44a1011818 a20448")
GROUP_HEAD: Final = bytes.fromhex("d083 44a1011818 a30448")
_KID_END: Final = 18
_CONTEXT_BYTES: Final = 14
TAG_BYTES: Final = 16


def is_gateway(node: str) -> bool:
    """Of any site: where there are several meshes in one world, theirs are ``site-0/gateway`` and so on."""
    return node == GATEWAY or node.endswith(_OF_A_SITE)


def kind_of(topic: str) -> str:
    """DIRECT, PRESENCE, GROUP, or something else (the roster, which everybody may read)."""
    return topic[_MESH_END:_REST]


def mesh_of(topic: str) -> str:
    return topic[5:_MESH_END]


def source_of(topic: str) -> str:
    """Whose topic it is to write on: the last level."""
    return topic[topic.rfind("/") + 1 :]


def peers_of(topic: str) -> tuple[str, str]:
    """(destination or group, source); of a presence topic ("", source)."""
    first, _, second = topic[_REST:].partition("/")
    return (first, second) if second else ("", first)


class Head(NamedTuple):
    """The head of a sealed frame. `key`: kid, and the kid context of a group frame: what names the key."""

    key: bytes
    seq: int
    body: int
    """Where the sealed bytes begin."""


def head_of(payload: bytes, *, group: bool) -> Head | None:
    """None: it is not a sealed frame of that shape, down to the length of what is sealed."""
    if not payload.startswith(GROUP_HEAD if group else PARCEL_HEAD) or len(payload) < _KID_END + 4:
        return None
    n = payload[_KID_END + 1] - 0x40
    at = _KID_END + 2 + n
    if payload[_KID_END] != 0x06 or not 1 <= n <= 3:
        return None
    seq = int.from_bytes(payload[_KID_END + 2 : at], "big")
    key = payload[10:_KID_END]
    if group:
        context = payload[at : at + _CONTEXT_BYTES]
        if len(context) < _CONTEXT_BYTES or not context.startswith(b"\x0a\x4c"):
            return None
        key += context
        at += _CONTEXT_BYTES
    body, size = _bstr(payload, at)
    if seq < 1 or size < TAG_BYTES or body + size != len(payload):
        return None
    return Head(key, seq, body)


def _bstr(payload: bytes, at: int) -> tuple[int, int]:
    """(where the bytes begin, how many they claim to be; -1: no byte string begins here)."""
    head = payload[at] if at < len(payload) else 0
    if 0x40 <= head < 0x58:
        return at + 1, head - 0x40
    more = {0x58: 1, 0x59: 2, 0x5A: 4}.get(head, 0)
    if not more:
        return at, -1
    return at + 1 + more, int.from_bytes(payload[at + 1 : at + 1 + more], "big")
