"""Leases: which peer holds which of our tasks, and until when we believe it.

A lease is renewed by progress, never by a fixed visibility timeout. When it lapses before a result came,
the task is ours again and goes out with attempt + 1. The newest holder stays known after the lapse: as
long as no newer attempt has gone out, its late result is still the first valid one.

In: grant, renew, release, holder_down, holder_up. Out: `lapsed(now_ns)`. Not here: choosing the peer
(`scheduling.placement`), what to do with a task that came back (`desk`).
"""

from __future__ import annotations

from edge_node.tasks.agenda import Agenda

SECOND = 1_000_000_000
LEASE_NS_MIN = SECOND
LEASE_NS_MAX = 3600 * SECOND
ANSWER_S_MAX = 15.0
"""What is slower is no way to lease over: a lease grows to a minute by it, not more."""
GRACE_NS = SECOND
"""How long a holder that was declared down may still answer: detectors err, and blips of a link are short."""


def lease_ns(completion_s: float, sigma_s: float, answer_s: float = 0.0) -> int:
    """max(1 s, 2·(C + 3σ), 4·A), at most an hour (progress renews it).

    Args: answer_s: how long an answer may take on the way there and back. Progress comes three times a lease,
        and none of it may be too late because one of them was.
    """
    wanted_ns = int(1e9 * max(2.0 * (completion_s + 3.0 * sigma_s), 4.0 * min(answer_s, ANSWER_S_MAX)))
    return max(LEASE_NS_MIN, min(LEASE_NS_MAX, wanted_ns))


class Lease:
    __slots__ = ("attempt", "expected_s", "granted_ns", "holder", "length_ns", "renewed_ns")

    def __init__(self, holder: str, attempt: int, length_ns: int, granted_ns: int, expected_s: float) -> None:
        self.holder = holder
        self.attempt = attempt
        self.length_ns = length_ns
        self.granted_ns = granted_ns
        self.renewed_ns = granted_ns  # the last word of its holder, or the grant
        self.expected_s = expected_s


class Leases:
    def __init__(self) -> None:
        self._held: dict[str, Lease] = {}
        self._by_holder: dict[str, dict[str, None]] = {}
        self._until = Agenda()

    def __len__(self) -> int:
        return len(self._held)

    def of(self, task: str) -> Lease | None:
        return self._held.get(task)

    def held_by(self, holder: str) -> list[str]:
        """Task ids in the order they were granted."""
        return list(self._by_holder.get(holder, ()))

    def count(self, holder: str) -> int:
        held = self._by_holder.get(holder)
        return len(held) if held else 0

    def grant(
        self, now_ns: int, task: str, holder: str, attempt: int, length_ns: int, expected_s: float = 0.0
    ) -> None:
        assert task not in self._held, "one lease a task"
        self._held[task] = Lease(holder, attempt, length_ns, now_ns, expected_s)
        held = self._by_holder.get(holder)
        if held is None:
            held = self._by_holder[holder] = {}
        held[task] = None
        self._until.set(task, now_ns + length_ns)

    def renew(self, now_ns: int, task: str, holder: str, attempt: int) -> bool:
        """The holder got somewhere. False: it holds no such lease."""
        lease = self._held.get(task)
        if lease is None or lease.holder != holder or lease.attempt != attempt:
            return False
        lease.renewed_ns = now_ns
        self._until.set(task, now_ns + lease.length_ns)
        return True

    def release(self, task: str) -> Lease | None:
        lease = self._held.pop(task, None)
        if lease is not None:
            held = self._by_holder[lease.holder]
            del held[task]
            if not held:
                del self._by_holder[lease.holder]
            self._until.drop(task)
        return lease

    def holder_down(self, now_ns: int, holder: str) -> None:
        """What it holds lapses after the grace, unless it is heard of before."""
        for task in self._by_holder.get(holder, ()):
            self._until.set(task, min(now_ns + GRACE_NS, now_ns + self._held[task].length_ns))

    def holder_up(self, now_ns: int, holder: str) -> None:
        for task in self._by_holder.get(holder, ()):
            self._until.set(task, now_ns + self._held[task].length_ns)

    def lapsed(self, now_ns: int) -> list[str]:
        """Tasks whose lease has run out, each told once; the caller releases them."""
        return self._until.due(now_ns)

    def deadline_ns(self) -> int | None:
        return self._until.next_ns()

    def check(self) -> None:
        assert sum(map(len, self._by_holder.values())) == len(self._held)
        for task, lease in self._held.items():
            assert task in self._by_holder[lease.holder]
        self._until.check()
