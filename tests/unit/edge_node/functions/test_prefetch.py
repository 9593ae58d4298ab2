"""The catalogue's code is fetched before it is wanted: one at a time, when nothing waits, within a bound."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from edge_node.functions.prefetch import (
    FIRST_NS,
    MISSED_NS_MAX,
    SECOND,
    SPREAD_NS,
    Came,
    Missed,
    Prefetch,
    Reachable,
    Wanted,
)
from edge_node.functions.provision import Want

A, B, C = (name * 32 for name in (b"a", b"b", b"c"))


class Node:
    """One member in virtual time; ``size`` bytes a bundle."""

    def __init__(self, *, bytes_max: int = 1000, size: int = 100, seed: int = 1) -> None:
        self.kept: set[bytes] = set()
        self.size = size
        self.is_idle = True
        self.near = ["gateway"]
        self.now_ns = 0
        self.core = Prefetch(
            has_bundle=self.kept.__contains__,
            kept_bytes=lambda: self.size * len(self.kept),
            idle=lambda: self.is_idle,
            holders=lambda: list(self.near),
            rng=Random(seed),
            bytes_max=bytes_max,
        )

    def run(self, seconds: float, *, gives: bool = True) -> list[tuple[float, bytes]]:
        """(when, what) was asked for; it comes, or not, a tenth of a second later."""
        asked = []
        until_ns = self.now_ns + int(seconds * SECOND)
        while (due := self.core.deadline_ns()) is not None and due <= until_ns:
            self.now_ns = max(self.now_ns, due)
            for want in self.core.tick(self.now_ns):
                asked.append((self.now_ns / SECOND, want.digest))
                assert self.core.deadline_ns() is None, "one at a time"
                self.now_ns += SECOND // 10
                if gives:
                    self.kept.add(want.digest)
                self.core.handle(self.now_ns, Came(want.digest) if gives else Missed(want.digest))
            self.core.check()
            after = self.core.deadline_ns()
            assert after is None or after > self.now_ns, "it would be asked without end"
        self.now_ns = until_ns
        return asked


def test_everything_named_comes_one_after_the_other():
    node = Node()
    node.core.handle(0, Wanted((A, B, A, C)))

    assert [digest for _, digest in node.run(10)] == [A, B, C]
    assert node.core.deadline_ns() is None


def test_what_is_here_is_not_asked_for():
    node = Node()
    node.kept.add(A)
    node.core.handle(0, Wanted((A, B)))

    assert [digest for _, digest in node.run(10)] == [B]


def test_a_fleet_asks_over_a_while_and_no_member_at_once():
    first = []
    for seed in range(200):
        node = Node(seed=seed)
        node.core.handle(0, Wanted((A,), members=1000))
        first.append(node.run(100)[0][0])

    spread_s = (FIRST_NS + 1000 * SPREAD_NS) / SECOND
    assert min(first) >= FIRST_NS / SECOND and max(first) <= 1 + spread_s
    each_second = [sum(int(at) == second for at in first) for second in range(60)]
    assert max(each_second) < 20


def test_work_that_waits_goes_first():
    node = Node()
    node.is_idle = False
    node.core.handle(0, Wanted((A,)))
    assert node.run(60) == []

    node.is_idle = True
    assert [digest for _, digest in node.run(1)] == [A]


def test_above_the_bound_nothing_more_is_fetched():
    node = Node(bytes_max=150)
    node.core.handle(0, Wanted((A, B, C)))

    assert [digest for _, digest in node.run(60)] == [A, B]
    assert node.core.deadline_ns() is None


def test_a_bound_of_nothing_switches_it_off():
    node = Node(bytes_max=0)
    node.core.handle(0, Wanted((A,)))

    assert node.core.deadline_ns() is None


def test_what_nobody_holds_is_asked_for_ever_more_seldom_and_the_others_have_their_turn():
    node = Node()
    node.core.handle(0, Wanted((A, B)))
    asked = node.run(2 * 3600, gives=False)

    assert {digest for _, digest in asked[:2]} == {A, B}
    assert 8 < len(asked) < 30
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(asked[10:])]
    assert min(gaps) >= MISSED_NS_MAX / SECOND / 2

    node.core.handle(node.now_ns, Reachable())
    assert len(node.run(3)) == 2, "the gateway came back: no need to wait ten minutes"


def test_alone_nobody_is_asked():
    node = Node()
    node.near = []
    node.core.handle(0, Wanted((A,)))
    assert node.run(60) == []

    node.near = ["pi-2"]
    node.core.handle(node.now_ns, Reachable())
    assert node.core.tick(node.now_ns + 2 * FIRST_NS) == [Want(A, ("pi-2",))]


def test_what_comes_for_others_changes_nothing():
    node = Node()
    node.core.handle(0, Wanted((A, B)))
    node.core.tick(10 * SECOND)
    node.core.handle(10 * SECOND, Missed(B))
    node.core.handle(10 * SECOND, Came(B))

    assert node.core.deadline_ns() is None, "A is still under way"


def test_a_mesh_that_deploys_all_the_time_puts_no_fetch_off_for_ever():
    for seed in range(30):
        node, asked = Node(seed=seed), []
        for n in range(20):
            node.core.handle(node.now_ns, Wanted((A, bytes([n]) * 32), members=1000))
            asked += node.run(5)

        assert asked and asked[0][0] <= 1 + (FIRST_NS + 1000 * SPREAD_NS) / SECOND
