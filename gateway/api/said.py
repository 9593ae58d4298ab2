"""Said: events as they are streamed, put into words once however many follow.

    id: 1042-5f3a2b1c
    event: task
    data: {"cursor": "1042-5f3a2b1c", …}

Fifty readers are told the same events within the same moment. A cursor names an entry of the chronicle and
what is in it (number and checksum), so what was said of it once holds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec

SAID_MAX: Final = 512
"""Two pages and more, some 400 bytes each: who keeps up reads among the newest."""


class Said:
    """Of one gateway's chronicle."""

    def __init__(self) -> None:
        self._said: OrderedDict[str, bytes] = OrderedDict()  # the oldest first

    def __call__(self, event: dict[str, Any]) -> bytes:
        """Args: event: as the method ``events`` tells it."""
        cursor = event["cursor"]
        said = self._said.get(cursor)
        if said is None:
            said = b"id: %b\nevent: %b\ndata: %b\n\n" % (
                cursor.encode(),
                _word(event["subject"]),
                msgspec.json.encode(event),
            )
            self._said[cursor] = said
            if len(self._said) > SAID_MAX:
                self._said.popitem(last=False)
        return said

    def __len__(self) -> int:
        return len(self._said)


def _word(text: str) -> bytes:
    """A peer's subject is a text of its choice, and a line ends at a line's end."""
    return "".join(each for each in text if each.isalnum()).encode() or b"other"
