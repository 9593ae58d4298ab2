"""Merging commutes, associates and is idempotent, over states that writers can really reach."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.store import batch as batches
from edge_node.store.batch import Batch, Count, Put, Tag
from edge_node.store.crdt import counter
from edge_node.store.crdt.counter import EMPTY
from edge_node.store.crdt.dots import Vector
from edge_node.store.crdt.register import Rival, Version, joined
from edge_node.store.hlc import HybridClock, ms_of, stamp_of
from edge_node.wire.messages import VectorRow
from security.errors import ProtocolViolation

WRITERS = ("a", "b", "c")


class Site:
    """One replica of one register, and what it knows."""

    def __init__(self, name):
        self.name, self.register, self.known, self.stamp = name, (), Vector(), 0

    def write(self, value, stamp):
        seq = self.known.seq(self.name, 1) + 1
        new = (Version(stamp, self.name, 1, seq, value),)
        knew = self.known.copy()
        self.register = joined(self.register, self.known, new, knew)
        self.known.seqs[self.name, 1] = seq

    def merge(self, other):
        self.register = joined(self.register, self.known, other.register, other.known)
        for writer, seq in other.known.seqs.items():
            self.known.seqs[writer] = max(seq, self.known.seqs.get(writer, 0))

    def copy(self):
        other = Site(self.name)
        other.register, other.known = self.register, self.known.copy()
        return other


steps = st.lists(
    st.tuples(st.sampled_from(WRITERS), st.sampled_from(["write", *WRITERS]), st.integers(0, 3)), max_size=25
)


def reached(script):
    sites = {name: Site(name) for name in WRITERS}
    for number, (name, what, stamp) in enumerate(script):
        if what == "write":
            sites[name].write(None if number % 4 == 0 else b"%d" % number, stamp)
        elif what != name:
            sites[name].merge(sites[what])
    return [sites[name] for name in WRITERS]


def merged(*sites):
    first = sites[0].copy()
    for other in sites[1:]:
        first.merge(other)
    return first.register, first.known.seqs


@pytest.mark.slow
@given(steps)
@settings(max_examples=300)
def test_registers_merge_in_any_order_and_any_number_of_times(script):
    a, b, c = reached(script)

    assert merged(a, b) == merged(b, a)
    bc, ab = b.copy(), a.copy()
    bc.merge(c)
    ab.merge(b)
    assert merged(a, bc) == merged(ab, c)
    assert merged(a, b, b, a) == merged(a, b)
    assert merged(a, a) == (a.register, a.known.seqs)


@given(st.lists(st.tuples(st.sampled_from(WRITERS), st.integers(1, 2), st.integers(-5, 5)), max_size=12))
def test_tallies_merge_in_any_order_and_any_number_of_times(adds):
    tallies = dict.fromkeys(WRITERS, EMPTY)
    for number, (name, epoch, amount) in enumerate(adds, 1):
        tallies[name] = counter.added(tallies[name], name, epoch, number, amount)
    a, b, c = tallies.values()
    join = counter.joined

    assert join(a, b) == join(b, a) and join(a, join(b, c)) == join(join(a, b), c) and join(a, a) == a
    assert join(join(a, b), c).value == sum(amount for _, _, amount in adds)


@given(st.lists(st.tuples(st.integers(-(10**6), 2**47), st.integers(0, 2**62)), min_size=1, max_size=30))
def test_a_stamp_is_above_everything_made_or_heard(moments):
    clock, seen = HybridClock(), 0
    for wall_ms, heard in moments:
        clock.heard(heard)
        stamp = clock.stamp(wall_ms)
        assert stamp > max(seen, heard)
        assert stamp == max(stamp_of(max(wall_ms, 0)), max(seen, heard) + 1)
        seen = stamp


def test_a_stamp_is_the_wall_clocks_while_that_moves():
    clock = HybridClock()

    assert [ms_of(clock.stamp(ms)) for ms in (1, 2, 2, 1, 3)] == [1, 2, 2, 2, 3]


names, texts = st.text(min_size=1, max_size=9), st.text(max_size=9)
rivals = st.builds(Rival, st.integers(0, 9), texts, st.binary(max_size=3))
changes = st.one_of(
    st.builds(
        Put, names, texts, texts, st.none() | st.binary(max_size=9), st.lists(rivals, max_size=2).map(tuple),
    ),
    st.builds(Tag, names, texts, st.booleans()),
    st.builds(Count, names, st.integers(-9, 9)),
)  # fmt: skip
drawn = st.builds(
    Batch, st.just(1), texts, st.integers(1, 2**62), st.integers(1, 2**40), st.integers(0, 2**62),
    st.lists(changes, min_size=1, max_size=4).map(tuple), st.just((VectorRow("n", ((1, 2),), 3, b"d"),)),
)  # fmt: skip


@given(drawn, st.binary(max_size=3), st.integers(0, 10**6))
def test_a_batch_survives_its_bytes_and_nothing_else_does_anything_worse(batch, noise, at):
    data = batches.encoded(batch)
    assert batches.decoded(data) == batch

    at %= len(data)
    try:
        batches.decoded(data[:at] + noise + data[at + 1 :])
    except ProtocolViolation:
        pass


@pytest.mark.parametrize(
    "change",
    [
        Put("t", "k", "f", b"v" * (64 * 1024 + 1)),
        Put("t", "k" * 257, "f", b""),
        Put("t", "ä" * 129, "f", b""),
        Put("", "k", "f", b""),
        Put("t" * 129, "k", "f", b""),
        Tag("t", "k" * 257, True),
        Count("c", 2**53 + 1),
    ],
)
def test_what_is_one_byte_too_large_is_refused_on_both_sides(change):
    assert batches.trouble_with(change)
    with pytest.raises(ProtocolViolation):
        batches.decoded(batches.encoded(Batch(1, "n", 1, 1, 1, (change,))))
