"""Keeping: oldest first, whole blocks, within rows and bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.chronicle.keeping import BLOCK, Keeping


def test_nothing_goes_while_there_is_room():
    keeping = Keeping(rows_max=3 * BLOCK)
    for number in range(1, 3 * BLOCK + 1):
        keeping.added(number, 100)

    assert keeping.forgotten_below() == 0


def test_the_oldest_block_goes_at_once():
    keeping = Keeping(rows_max=2 * BLOCK)
    for number in range(3 * BLOCK):
        keeping.added(number, 100)

    assert keeping.forgotten_below() == BLOCK
    assert (keeping.rows, keeping.bytes) == (2 * BLOCK, 200 * BLOCK)


def test_what_lay_there_before_counts():
    keeping = Keeping([(0, 10, 900), (4, 20, 200)], bytes_max=1000)

    assert keeping.forgotten_below() == BLOCK
    assert keeping.rows == 20


def test_one_block_stays_whatever_its_size():
    keeping = Keeping(bytes_max=10)
    keeping.added(1, 1000)

    assert keeping.forgotten_below() == 0 and keeping.rows == 1


@given(st.lists(st.integers(1, 3000), max_size=2000))
def test_a_store_never_holds_more_than_its_bounds_and_a_block(sizes):
    keeping, kept = Keeping(rows_max=300, bytes_max=100_000), {}
    for number, size in enumerate(sizes, 1):
        kept[number] = size
        keeping.added(number, size)
        below = keeping.forgotten_below()
        kept = {n: s for n, s in kept.items() if n >= below}
        keeping.check()

        assert (keeping.rows, keeping.bytes) == (len(kept), sum(kept.values()))
        assert number in kept and len(kept) <= 300 + BLOCK
