"""The audit log's chain: one JSON line an entry, each with the hash of the one before and of itself.

    {"n":2,"at_ms":…,"who":"ann","what":"node.revoke",…,"prev":"<of entry 1>","hash":"<of all before it>"}

The hash covers every byte of the line before ``,"hash":``, so a line is right as it stands or it is not. An
entry that was changed does not fit its own hash; one that was removed, moved or put in does not fit its
neighbours; a cut end does not reach the head that is kept beside the log. Whoever can write both can make a
whole new chain: only a head that was noted elsewhere (``verify --expect``) shows that.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

FIRST_PREV: Final = "0" * 64
VALUE_BYTES_MAX: Final = 4096  # of before and of after: a whole document is not copied into the log
LINE_BYTES_MAX: Final = 16 * 1024
WHO_MAX, WHAT_MAX, TARGET_MAX, CAUSE_MAX = 100, 64, 200, 400

_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}\Z')


class Entry(msgspec.Struct, frozen=True):
    """One change: who did what to which thing, and how that was before and after."""

    n: int
    at_ms: int
    who: str
    what: str
    target: str
    before: Any
    after: Any
    cause: str
    prev: str
    hash: str = ""


class Head(msgspec.Struct, frozen=True):
    """The last entry: its number (0: none) and hash."""

    n: int = 0
    hash: str = FIRST_PREV


@dataclass(frozen=True, slots=True)
class Verdict:
    """``entries`` that hold, from the first; ``broken_at``: the first that does not, and why."""

    entries: int
    broken_at: int | None
    reason: str
    head: Head


_decoder = msgspec.json.Decoder(Entry, strict=True)


def spell(
    head: Head, at_ms: int, who: str, what: str, target: str, before: object, after: object, cause: str
) -> tuple[Head, bytes]:
    """The entry after *head*. Returns: the new head, and its line with the newline."""
    entry = Entry(
        head.n + 1, at_ms, _text(who, WHO_MAX), _text(what, WHAT_MAX), _text(target, TARGET_MAX),
        _bounded(before), _bounded(after), _text(cause, CAUSE_MAX), head.hash,
    )  # fmt: skip
    whole = msgspec.json.encode(entry)
    body = whole.removesuffix(b',"hash":""}')
    digest = hashlib.sha256(body).hexdigest()
    line = body + b',"hash":"' + digest.encode() + b'"}\n'
    assert len(line) <= LINE_BYTES_MAX
    return Head(entry.n, digest), line


def read(line: bytes) -> Entry | None:
    """An entry as it is written, right or not; None: no entry."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None


class Verification:
    """Takes the lines one after the other, without their newlines.

    Args: head: what the log must reach and contain, if that is known.
    """

    def __init__(self, head: Head | None = None) -> None:
        self._wanted = head
        self._met = head is None or head.n == 0
        self.head = Head()
        self.broken_at: int | None = None
        self.reason = ""

    def take(self, line: bytes) -> None:
        if self.broken_at is not None:
            return
        number = self.head.n + 1
        reason = self._fault(line, number)
        if reason:
            self._break(number, reason)
            return
        digest = line[-66:-2].decode()
        self.head = Head(number, digest)
        if self._wanted is not None and number == self._wanted.n:
            self._met = digest == self._wanted.hash
            if not self._met:
                self._break(number, f"entry {number} is not the one that was noted: the log was written anew")

    def _fault(self, line: bytes, number: int) -> str:
        entry, end = read(line), _END.search(line)
        if entry is None or end is None:
            return f"line {number} is no entry"
        if hashlib.sha256(line[: end.start()]).hexdigest() != entry.hash:
            return f"entry {number} was changed: it does not fit its hash"
        if entry.n > number:
            what = f"entry {number} is" if entry.n == number + 1 else f"entries {number} to {entry.n - 1} are"
            return f"{what} missing"
        if entry.n < number:
            return f"entry {entry.n} stands where entry {number} belongs"
        if entry.prev != self.head.hash:
            return f"entry {number} follows another entry {number - 1} than the one before it"
        return ""

    def _break(self, number: int, reason: str) -> None:
        self.broken_at, self.reason = number, reason

    def verdict(self) -> Verdict:
        """After the last line."""
        if self.broken_at is None and not self._met:
            assert self._wanted is not None
            missing = self._wanted.n - self.head.n
            what = "the last entry is" if missing == 1 else f"the last {missing} entries are"
            self._break(self.head.n + 1, f"{what} missing: there were {self._wanted.n}")
        entries = self.head.n if self.broken_at is None else self.broken_at - 1
        return Verdict(entries, self.broken_at, self.reason, self.head)


def _text(text: str, most: int) -> str:
    return text[:most].encode("utf-8", "replace").decode()


def _bounded(value: object) -> object:
    """*value* as plain JSON, or what it would have been."""
    try:
        spelled = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return {"unspeakable": type(error).__name__}
    if len(spelled) > VALUE_BYTES_MAX:
        return {"omitted_bytes": len(spelled), "sha256": hashlib.sha256(spelled).hexdigest()}
    return msgspec.Raw(spelled)
