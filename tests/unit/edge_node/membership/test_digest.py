"""What the gateway tells of its fleet: a kilobyte, changes first."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from edge_node.membership.digest import DIGEST_NS, REFRESH_NS, SECOND, Digest, has_moved
from edge_node.wire.codec import encode_message
from edge_node.wire.messages import DIGEST_BYTES_MAX, DIGEST_ENTRIES_MAX, DigestEntry, Load

IDLE, BUSY = Load(2, 0), Load(2, 4000)


def fleet(*, size: int, load: Load = IDLE) -> Digest:
    digest = Digest(rng=Random(1))
    for n in range(size):
        digest.noted(0, f"n{n:04}", load)
    return digest


def test_nothing_is_told_of_a_fleet_of_one():
    digest = fleet(size=1)

    assert digest.deadline_ns() is None
    assert digest.tick(100 * SECOND) is None


def test_who_came_is_told_and_then_only_now_and_then():
    digest = fleet(size=3)

    assert [entry.id for entry in digest.tick(0).entries] == ["n0000", "n0001", "n0002"]
    assert digest.deadline_ns() == REFRESH_NS
    assert digest.tick(REFRESH_NS - 1) is None
    assert {entry.id for entry in digest.tick(REFRESH_NS).entries} == {"n0000", "n0001", "n0002"}


def test_changes_come_first_and_at_most_once_a_second():
    digest = fleet(size=100)
    while len(digest._told) < 100:
        digest.tick(digest.deadline_ns())
    at_ns = digest._sent_ns
    digest.noted(at_ns, "n0050", BUSY)
    digest.left(at_ns, "n0051")

    assert digest.deadline_ns() == at_ns + DIGEST_NS
    entries = digest.tick(at_ns + DIGEST_NS).entries
    assert entries[0] == DigestEntry("n0050", 2000, 2, 1.0, False)
    assert entries[1] == DigestEntry("n0051", 0, 0, 1.0, True)


def test_a_small_move_is_no_news():
    told = DigestEntry("a", 1000, 2, 1.0)

    assert not has_moved(told, DigestEntry("a", 1200, 2, 1.0))
    assert has_moved(told, DigestEntry("a", 1400, 2, 1.0))
    assert not has_moved(DigestEntry("a", 0, 2, 1.0), DigestEntry("a", 40, 2, 1.0))
    assert has_moved(told, DigestEntry("a", 1000, 2, 1.0, True))


def test_who_drains_takes_nothing_and_is_told_as_down():
    digest = fleet(size=2)
    digest.noted(0, "n0000", Load(2, 0, draining=True))

    assert digest.tick(0).entries[0].down


def test_every_newcomer_of_a_large_fleet_is_told_in_turn():
    digest = fleet(size=300, load=BUSY)
    told: set[str] = set()
    now_ns = 0
    for _ in range(20):
        told |= {entry.id for entry in digest.tick(now_ns).entries}
        now_ns += DIGEST_NS
        if len(told) == 300:
            break

    assert len(told) == 300


@given(
    st.lists(
        st.tuples(
            st.text("abcdefghij0123456789-", min_size=1, max_size=32),
            st.integers(0, 64),
            st.integers(0, 2**62),
            st.floats(0.001, 1e6),
            st.booleans(),
        ),
        max_size=120,
    )
)
def test_a_digest_is_never_larger_than_a_kilobyte(news):
    digest = Digest(rng=Random(2))
    now_ns = 0
    for peer, workers, backlog_ms, speed, stays in news:
        now_ns += SECOND // 3
        digest.noted(now_ns, peer, Load(workers, backlog_ms, 0, speed))
        if not stays:
            digest.left(now_ns, peer)
        told = digest.tick(now_ns)
        digest.check()
        if told is not None:
            assert len(encode_message(told)) <= DIGEST_BYTES_MAX
            assert len(told.entries) <= DIGEST_ENTRIES_MAX
            assert len({entry.id for entry in told.entries}) == len(told.entries)


def test_a_speed_that_is_no_number_is_told_once_and_as_that_of_the_reference_board():
    digest = Digest(rng=Random(1))
    for second in range(1, 4):
        digest.noted(second * SECOND, "a", Load(1, 0, 0, float("nan")))
        digest.noted(second * SECOND, "b", Load(1, 0, 0, float("inf")))
        told = digest.tick(second * SECOND)
        if second == 1:
            assert told is not None and [entry.speed for entry in told.entries] == [1.0, 1.0]
        else:
            assert told is None, "nothing has changed"
