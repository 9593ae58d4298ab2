"""Sessions of people who logged in: a secret in a cookie, of which only the SHA-256 is kept.

A session ends 8 h after it was last used, 7 d after it began, when its user goes or gets another password,
and at log-out. Each log-in makes a new one: a cookie that somebody planted before is worth nothing after it.

Restarts keep them. *When last used* is written with whatever else is written, so a session may end early at a
restart, never late. Times are wall-clock milliseconds: they have to hold over restarts.
"""

from __future__ import annotations

import msgspec

from security.errors import BadInput

HOUR_MS = 3_600_000
IDLE_MS = 8 * HOUR_MS
WHOLE_MS = 7 * 24 * HOUR_MS
PER_USER_MAX = 32  # browsers of one person; the one that was idle longest goes
SESSIONS_MAX = 2048  # every user of a full house with eight; one is 200 bytes


class Session(msgspec.Struct, frozen=True):
    key: str  # SHA-256 of the cookie, hexadecimal
    user: str
    began_at_ms: int
    seen_at_ms: int


class _Stored(msgspec.Struct, frozen=True):
    v: int
    sessions: list[Session]


class Sessions:
    """A core."""

    def __init__(self) -> None:
        self._held: dict[str, Session] = {}  # in the order of their last use

    def begin(self, now_ms: int, key: str, user: str) -> None:
        assert key not in self._held, "keys are random"
        if len(self._held) >= SESSIONS_MAX:
            self._prune(now_ms)
        own = [each.key for each in self._held.values() if each.user == user]
        for old in own[: len(own) - PER_USER_MAX + 1] if len(own) >= PER_USER_MAX else ():
            del self._held[old]
        while len(self._held) >= SESSIONS_MAX:
            del self._held[next(iter(self._held))]
        self._held[key] = Session(key, user, now_ms, now_ms)

    def used(self, now_ms: int, key: str) -> str | None:
        """Whose session it is; it counts as used now. None: there is none, or it has ended."""
        held = self._held.pop(key, None)
        if held is None or not _lives(held, now_ms):
            return None
        self._held[key] = msgspec.structs.replace(held, seen_at_ms=max(now_ms, held.seen_at_ms))
        return held.user

    def end(self, key: str) -> str | None:
        """Returns: whose it was."""
        held = self._held.pop(key, None)
        return None if held is None else held.user

    def end_all_of(self, user: str) -> int:
        own = [each.key for each in self._held.values() if each.user == user]
        for key in own:
            del self._held[key]
        return len(own)

    def count(self, user: str) -> int:
        return sum(each.user == user for each in self._held.values())

    def stored(self) -> bytes:
        return msgspec.json.encode(_Stored(1, list(self._held.values())))

    def restore(self, now_ms: int, data: bytes) -> None:
        """Raises: BadInput: these are no sessions."""
        try:
            stored = msgspec.json.decode(data, type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(
                f"the stored sessions cannot be read: {error}", fix="people log in again"
            ) from None
        if stored.v != 1:
            raise BadInput("the stored sessions are of another version", fix="people log in again")
        self._held = {each.key: each for each in stored.sessions[:SESSIONS_MAX]}
        self._prune(now_ms)

    def _prune(self, now_ms: int) -> None:
        self._held = {key: each for key, each in self._held.items() if _lives(each, now_ms)}

    def check(self) -> None:
        assert len(self._held) <= SESSIONS_MAX
        assert all(
            key == each.key and each.began_at_ms <= each.seen_at_ms for key, each in self._held.items()
        )


def _lives(session: Session, now_ms: int) -> bool:
    if session.began_at_ms > now_ms + IDLE_MS:
        return False  # begun while the clock was far ahead: its week would last until that time has come
    return now_ms < session.seen_at_ms + IDLE_MS and now_ms < session.began_at_ms + WHOLE_MS
