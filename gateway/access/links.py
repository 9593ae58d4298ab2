"""Log-in links: a secret that begins one session of one user, once, within ten minutes.

For who sits at the gateway and has no password at hand. They are kept in memory only: a restart voids them.
"""

from __future__ import annotations

from dataclasses import dataclass

LIFE_MS = 10 * 60_000
LINKS_MAX = 16
"""Open at once; the oldest goes: whoever makes more of them lost the others."""


@dataclass(frozen=True, slots=True)
class Link:
    user: str
    until_ms: int


class Links:
    """A core. Keys are the SHA-256 of the secrets, hexadecimal; times are wall-clock milliseconds."""

    def __init__(self) -> None:
        self._open: dict[str, Link] = {}  # in the order in which they were made

    def add(self, now_ms: int, key: str, user: str) -> Link:
        while len(self._open) >= LINKS_MAX:
            del self._open[next(iter(self._open))]
        self._open[key] = link = Link(user, now_ms + LIFE_MS)
        return link

    def use(self, now_ms: int, key: str) -> str | None:
        """Whose it was; it is void now. None: there is none, or its time is over."""
        link = self._open.pop(key, None)
        if link is None or not link.until_ms - LIFE_MS <= now_ms < link.until_ms:
            return None
        return link.user

    def end_all_of(self, user: str) -> None:
        """The user is gone, or has another password."""
        self._open = {key: link for key, link in self._open.items() if link.user != user}
