"""Sealed (wire.md sections 4 to 6): nothing readable on a link, and no (key, number) twice.

Every frame on a direct, group or presence topic must be an envelope by its bytes, or a control frame, and
must show nothing of what clients handed in: the marker of an input, a task's id, a function's name.

Cost. Nobody can look for ten thousand needles in a million frames. So: in each frame the needles of the
newest two tasks of the two nodes that its topic names, and up to sixteen function names; and each 32nd frame
is searched whole, at every offset, for all open tasks' needles: 7 us a frame in all. A leak that repeats is
found; one frame in which an old task's input shows once is found with 1 in 32.

Numbers. Of each key (topic and kid; for groups kid and kid context) a CRC-32 of the frame by number: the same
number with other bytes is a nonce used twice, the same bytes again are a doubling of the network. Memory:
4 bytes a frame; at most 65 536 numbers a key and 262 144 keys, the oldest go.

What it cannot see: two keys that are equal under different kids; a number used again after so many others
were, or by bytes of the same CRC-32 (one in 4 billion); markers shorter than 8 bytes.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from typing import Final

from device_sim.virtual.checkers.frames import DIRECT, GROUP, PRESENCE, head_of, kind_of, peers_of
from device_sim.virtual.checkers.violations import Violations
from device_sim.virtual.evidence import Asked, End, Event, Framed, Told, Verdict
from security.control import FIRST_BYTE, decode_control
from security.errors import ProtocolViolation

NEEDLE_BYTES_MIN: Final = 8
"""Shorter ones would be met in random bytes by chance."""
NEWEST: Final = 2
"""Tasks of each node: a needle costs 0.3 us a frame."""
NAMES_MAX: Final = 16
WHOLE_EACH: Final = 32
OPEN_MAX: Final = 65_536
NUMBERS_MAX: Final = 65_536
BEFORE: Final = 1024
"""Numbers below the first that was seen, which may still come."""
KEYS_MAX: Final = 262_144
_TAIL: Final = NEEDLE_BYTES_MIN


class _Numbers:
    """What was sealed under each number of one key: CRC-32, 0 for nothing yet."""

    __slots__ = ("base", "prints")

    def __init__(self, seq: int) -> None:
        self.base = max(1, seq - BEFORE)
        self.prints = array("I", bytes(4 * (seq - self.base)))

    def takes(self, seq: int, print_: int) -> bool | None:
        """False: other bytes had this number. None: too old to tell."""
        prints = self.prints
        at = seq - self.base
        if at == len(prints):
            prints.append(print_)
        elif at > len(prints):
            if at - len(prints) > NUMBERS_MAX:
                self.base = max(1, seq - BEFORE)
                self.prints = array("I", bytes(4 * (seq - self.base)))
                self.prints.append(print_)
                return True
            prints.frombytes(bytes(4 * (at - len(prints))))
            prints.append(print_)
        elif at < 0:
            return None
        elif prints[at] == 0:
            prints[at] = print_
        elif prints[at] != print_:
            return False
        if len(prints) > NUMBERS_MAX:
            del prints[: NUMBERS_MAX // 2]
            self.base += NUMBERS_MAX // 2
        return True


class Sealed:
    name = "sealed"
    promise = "wire 4-6"
    wants = (Asked, Told, Framed)

    def __init__(self) -> None:
        self._found = Violations()
        self._newest: dict[str, deque[tuple[bytes, str]]] = {}
        self._open: dict[str, tuple[bytes, ...]] = {}  # task -> its needles
        self._tails: dict[bytes, tuple[bytes, str]] = {}  # the last 8 bytes of each -> needle, task
        self._names: dict[bytes, None] = {}
        self._keys: dict[tuple[str, bytes], _Numbers] = {}
        self._frames = 0
        self._sealed = 0
        self._old = 0

    def saw(self, event: Event) -> None:
        kind = type(event)
        if kind is Framed:
            assert isinstance(event, Framed)
            self._framed(event)
        elif kind is Asked:
            assert isinstance(event, Asked)
            self._asked(event)
        elif kind is Told:
            assert isinstance(event, Told)
            self._forget(event.task)

    # ── needles ───────────────────────────────────────────────────────────────────────────────────

    def _asked(self, event: Asked) -> None:
        needles = tuple(each for each in (event.marker, event.task.encode()) if len(each) >= NEEDLE_BYTES_MIN)
        newest = self._newest.get(event.node)
        if newest is None:
            newest = self._newest[event.node] = deque(maxlen=2 * NEWEST)
        for needle in needles:
            newest.append((needle, event.task))
            self._tails[needle[-_TAIL:]] = (needle, event.task)
        self._open[event.task] = needles
        if len(self._open) > OPEN_MAX:
            self._forget(next(iter(self._open)))
        name = event.function.encode()
        if len(name) >= NEEDLE_BYTES_MIN and len(self._names) < NAMES_MAX:
            self._names[name] = None

    def _forget(self, task: str) -> None:
        for needle in self._open.pop(task, ()):
            self._tails.pop(needle[-_TAIL:], None)

    # ── frames ────────────────────────────────────────────────────────────────────────────────────

    def _framed(self, event: Framed) -> None:
        kind = kind_of(event.topic)
        payload = event.payload
        if kind not in (DIRECT, PRESENCE, GROUP) or (not payload and kind == PRESENCE):
            return  # public by design; a last will
        self._frames += 1
        self._shape(event, kind)
        to, of = peers_of(event.topic)
        for node in (of, to):
            for needle, task in self._newest.get(node, ()):
                if needle in payload:
                    self._found.add(event.at_ns, event.sender, f"readable on {event.topic}", task)
                    return
        for name in self._names:
            if name in payload:
                what = f"the function {name.decode()} is readable on {event.topic}"
                self._found.add(event.at_ns, event.sender, what)
                return
        if self._frames % WHOLE_EACH == 0 and self._tails:
            self._search(event)

    def _search(self, event: Framed) -> None:
        tails, payload = self._tails, event.payload
        for at in range(len(payload) - _TAIL + 1):
            met = tails.get(payload[at : at + _TAIL])
            if met is not None and payload.endswith(met[0], 0, at + _TAIL):
                self._found.add(event.at_ns, event.sender, f"readable on {event.topic}", met[1])
                return

    def _shape(self, event: Framed, kind: str) -> None:
        payload, topic = event.payload, event.topic
        if not payload and kind == DIRECT and len(set(peers_of(topic))) == 1:
            return  # a probe of the link, from a member to itself: it says nothing
        if kind == DIRECT and payload[:1] == bytes((FIRST_BYTE,)):
            try:
                decode_control(payload)
            except ProtocolViolation as violation:
                self._found.add(event.at_ns, event.sender, f"neither sealed nor control: {violation.cause}")
            return
        head = head_of(payload, group=kind != DIRECT)
        if head is None:
            self._found.add(event.at_ns, event.sender, f"{len(payload)} bytes on {topic} are not sealed")
            return
        self._sealed += 1
        key = (topic if kind == DIRECT else "", head.key)
        numbers = self._keys.get(key)
        if numbers is None:
            if len(self._keys) >= KEYS_MAX:
                del self._keys[next(iter(self._keys))]
            numbers = self._keys[key] = _Numbers(head.seq)
        fresh = numbers.takes(head.seq, zlib.crc32(payload) or 1)
        if fresh is None:
            self._old += 1
        elif not fresh:
            what = f"number {head.seq} of key {head.key[:8].hex()} sealed two frames"
            self._found.add(event.at_ns, event.sender, what)

    def verdict(self, end: End) -> Verdict:
        nothing = "" if self._sealed else "nothing was said under a seal"
        remark = f"{self._sealed} frames under {len(self._keys)} keys"
        if not self._newest:
            remark += "; no client handed in a marker"
        if self._old:
            remark += f"; {self._old} numbers too old to compare"
        return self._found.verdict(self.name, self.promise, nothing=nothing, remark=remark)
