"""Names that travel: node ids, mesh ids, task ids.

A node id is ``[a-z0-9-]{1,32}``; it is a topic level, a certificate name and a DNS label, so nothing
else is ever allowed. A task id sorts by the time of its acceptance and carries 64 random bits.
"""

from __future__ import annotations

import re

from security.errors import BadInput
from security.identity import GATEWAY, RESERVED, is_mesh_id, is_node_id

__all__ = ["GATEWAY", "RESERVED", "checked_node_id", "is_mesh_id", "is_node_id", "is_task_id", "task_id"]

_TASK_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{23}\Z")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def is_task_id(text: str) -> bool:
    return _TASK_ID.match(text) is not None


def checked_node_id(text: str) -> str:
    """A name that a new node may bear.

    Raises: BadInput: not a DNS label of at most 32 characters, or reserved.
    """
    if not is_node_id(text):
        raise BadInput(
            f"node name {text!r} is not allowed",
            fix="use 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-'",
        )
    if text in RESERVED:
        raise BadInput(f"node name {text!r} is reserved", fix="choose another name with --name")
    return text


def task_id(wall_ms: int, entropy: bytes) -> str:
    """23 Crockford base32 characters: 48 bits of wall time (ms), then 64 random bits, then 3 zero bits.

    Args: wall_ms: milliseconds since 1970; entropy: 8 bytes.
    """
    assert len(entropy) == 8, "a task id takes 8 bytes of entropy"
    number = ((wall_ms & (2**48 - 1)) << 67) | (int.from_bytes(entropy, "big") << 3)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(110, -5, -5))
