"""Attempts to log in: how many, from where, and how long to wait.

    ask ─► pair (name, address) locked? ─► bucket of its kind empty? ─► counted as failed, may go on
    succeeded ─► the pair is forgotten, and known from now on

An attempt counts as failed from the moment it may go on, so that a hundred at once are not a hundred guesses.
Whoever guesses locks out the pair of that name and their own address (an IPv6 network of /64 is one address),
never the name: an administrator at another address does not notice. Many addresses together meet the bucket
of strangers, which also bounds what hashing costs the processor; loopback, and pairs that logged in before,
have buckets of their own, so that a flood of strangers does not shut them out. An attempt during a lock is
not counted: locks end by themselves. Who shares the address of an attacker can still be hindered; the control
socket is not limited, and a password set there forgets the locks of its name.

Rejected: a lock of the name alone (any stranger shuts the administrator out for ever); no lock but a rate
(five guesses a minute for each of 65 536 addresses).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000
FREE: Final = 5  # attempts before the first lock: people mistype
LOCK_NS: Final = 30 * SECOND  # doubles with each further failure
LOCK_NS_MAX: Final = 15 * 60 * SECOND  # 96 guesses a day and address
FORGET_NS: Final = 60 * 60 * SECOND  # from the end of its last lock
PAIRS_MAX: Final = 4096  # an attacker with many addresses must not eat our memory; the oldest goes
KNOWN_MAX: Final = 1024


@dataclass(slots=True)
class _Bucket:
    """At most *burst* at once and one each *interval_ns* (GCRA: one integer)."""

    interval_ns: int
    burst: int
    full_at_ns: int = 0  # when every token is back

    def wait_ns(self, now_ns: int) -> int:
        return max(
            0, max(self.full_at_ns, now_ns) + self.interval_ns - now_ns - self.burst * self.interval_ns
        )

    def take(self, now_ns: int) -> None:
        self.full_at_ns = max(self.full_at_ns, now_ns) + self.interval_ns


@dataclass(slots=True)
class _Pair:
    failures: int = 0
    until_ns: int = 0


class Attempts:
    """A core: decides whether an attempt to log in may go on. Names come in their one spelling."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str], _Pair] = {}  # in the order of their last attempt
        self._known: dict[tuple[str, str], int] = {}
        # A hash takes 0.1 s here and 0.5 s on a small board: strangers together get a quarter of its core.
        self._strangers = _Bucket(2 * SECOND, 20)
        self._familiar = _Bucket(SECOND, 20)
        self._loopback = _Bucket(SECOND, 20)

    def ask(self, now_ns: int, name: str, address: str) -> int:
        """Nanoseconds to wait before this may be tried; 0: now, and it counts as failed until it succeeds."""
        place = place_of(address)
        key = name, place
        pair = self._pairs.get(key)
        if pair is not None and now_ns < pair.until_ns:
            return pair.until_ns - now_ns
        bucket = self._bucket(key, place)
        wait_ns = bucket.wait_ns(now_ns)
        if wait_ns:
            return wait_ns
        bucket.take(now_ns)
        self._pairs.pop(key, None)
        if pair is None or now_ns > pair.until_ns + FORGET_NS:
            pair = _Pair(until_ns=now_ns)
            while len(self._pairs) >= PAIRS_MAX:
                del self._pairs[next(iter(self._pairs))]
        self._pairs[key] = pair
        pair.failures += 1
        pair.until_ns = now_ns
        if pair.failures >= FREE:
            pair.until_ns += min(LOCK_NS << min(pair.failures - FREE, 10), LOCK_NS_MAX)
        return 0

    def succeeded(self, now_ns: int, name: str, address: str) -> None:
        """The attempt that was let through was right."""
        key = name, place_of(address)
        self._pairs.pop(key, None)
        self._known.pop(key, None)
        while len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[key] = now_ns

    def forget(self, name: str) -> None:
        """No lock of *name* holds any more, and nowhere is it known: its password is another one."""
        for held in (self._pairs, self._known):
            for key in [key for key in held if key[0] == name]:
                del held[key]

    def locked(self, now_ns: int, name: str, address: str) -> bool:
        pair = self._pairs.get((name, place_of(address)))
        return pair is not None and now_ns < pair.until_ns

    def _bucket(self, key: tuple[str, str], place: str) -> _Bucket:
        if place == LOOPBACK:
            return self._loopback
        return self._familiar if key in self._known else self._strangers

    def check(self) -> None:
        assert len(self._pairs) <= PAIRS_MAX and len(self._known) <= KNOWN_MAX
        assert all(pair.failures > 0 for pair in self._pairs.values())


LOOPBACK: Final = "loopback"


def place_of(address: str) -> str:
    """What counts as one address: of IPv4 each, of IPv6 a network of /64; this machine; else the text."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif not ip.is_loopback:
            return str(ipaddress.ip_network((ip, 64), strict=False))
    return LOOPBACK if ip.is_loopback else str(ip)
