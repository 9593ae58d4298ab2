"""Streams: numbering, coalescing, acknowledging and re-sending of messages to one peer."""

from __future__ import annotations

import pytest

from edge_node.transport.parcels import MS, SECOND, ParcelLimits, Stream
from edge_node.wire.codec import unpack
from edge_node.wire.messages import Ack, BlobMissing, CatalogueEntries, Ping
from security.errors import ProtocolViolation, Refused


def carry(now_ns: int, a: Stream, b: Stream) -> list[object]:
    """Move one parcel from a to b; what b hears."""
    plain = a.parcel(now_ns)
    assert plain is not None
    return b.arrived(now_ns, *unpack(plain))


def test_what_accumulates_in_a_turn_leaves_in_one_parcel():
    a, b = Stream(), Stream()
    for n in range(100):
        a.post(0, Ping(n))

    assert carry(0, a, b) == [Ping(n) for n in range(100)]
    assert a.parcel(0) is None


def test_an_ack_rides_on_traffic():
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    carry(0, a, b)
    b.post(1 * MS, Ping(2))

    assert carry(1 * MS, b, a) == [Ping(2)]
    assert a.backlog == 0 and a.rtt_ns == 1 * MS


def test_a_lone_ack_goes_after_20_ms():
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    carry(0, a, b)

    assert b.parcel(19 * MS) is None
    assert b.deadline_ns() == 20 * MS
    assert carry(20 * MS, b, a) == []
    assert a.idle and b.idle


def test_a_second_parcel_is_answered_at_once():
    """The sender's window is four parcels: waiting 20 ms each time would throttle it."""
    a, b = Stream(), Stream()
    for n in range(2):
        a.post(0, Ping(n))
        carry(0, a, b)

    carry(0, b, a)
    assert a.idle


def test_four_unacknowledged_parcels_close_the_window_and_the_rest_coalesces():
    a = Stream()
    for n in range(4):
        a.post(0, Ping(n))
        assert a.parcel(0) is not None
    for n in range(4, 50):
        a.post(0, Ping(n))
    assert a.parcel(0) is None

    a.acked(0, Ack(1))
    plain = a.parcel(0)
    assert plain is not None and len(unpack(plain)[1]) == 46


def test_a_lost_parcel_is_sent_again_with_the_same_numbers():
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    lost = a.parcel(0)
    a.tick(1 * SECOND)
    again = a.parcel(1 * SECOND)

    assert lost == again
    assert b.arrived(0, *unpack(again)) == [Ping(1)]
    assert b.arrived(0, *unpack(lost)) == []
    assert b.counters.duplicates == 1


def test_nothing_is_sent_again_before_its_answer_may_be_here():
    """A radio whose round trip takes 0.8 s, and longer with a little to carry: copies would fill it."""
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    b.arrived(0, *unpack(a.parcel(0)))
    carry(800 * MS, b, a)
    assert a.rtt_ns == 800 * MS
    a.post(1 * SECOND, Ping(2))
    assert a.parcel(1 * SECOND) is not None

    a.tick(3399 * MS)
    assert a.parcel(3399 * MS) is None
    assert a.deadline_ns() == 3400 * MS
    a.tick(3400 * MS)
    assert a.parcel(3400 * MS) is not None


def test_an_answer_that_lay_about_for_long_does_not_make_us_wait_for_ever():
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    b.arrived(0, *unpack(a.parcel(0)))
    carry(90 * SECOND, b, a)
    a.post(100 * SECOND, Ping(2))
    assert a.parcel(100 * SECOND) is not None
    again = 0
    for second in range(101, 210):
        a.tick(second * SECOND)
        again += a.parcel(second * SECOND) is not None
    assert again >= 5, "it is given up after 120 s, and had its chances before"


def test_nothing_is_sent_again_that_has_not_left_our_line():
    a = Stream()
    a.post(0, Ping(1))
    assert a.parcel(5 * MS) is not None
    for second in range(1, 60):
        a.tick(second * SECOND, untaken_since_ns=5 * MS)
        assert a.parcel(second * SECOND) is None, "a copy would queue behind the first"
    a.tick(60 * SECOND)
    assert a.parcel(60 * SECOND) is None, "it left a moment ago: its answer has time"
    a.tick(61 * SECOND)
    assert a.parcel(61 * SECOND) is not None
    a.check()


def test_large_messages_leave_a_parcel_to_small_ones():
    a = Stream()
    for n in range(8):
        a.post(0, Ping(n), bulk=True)
        assert (a.parcel(0) is not None) == (n < 3)
    a.post(0, Ping(99))
    assert a.parcel(0) is not None
    a.check()


def test_a_large_message_does_not_hold_up_a_small_one():
    a, b = Stream(), Stream()
    a.post(0, CatalogueEntries([bytes(30_000)]))
    a.post(0, Ping(1))
    small = a.parcel(0, bulk=False)
    assert small is not None and b.arrived(0, *unpack(small)) == [Ping(1)]
    (came,) = carry(0, a, b)
    assert came == CatalogueEntries([bytes(30_000)])


def test_a_parcel_fits_the_room_on_the_line():
    a = Stream()
    for n in range(100):
        a.post(0, Ping(n))
    assert a.parcel(0, room=0) is None and a.sendable(0)
    first = a.parcel(0, room=50)
    assert first is not None and len(first) < 100
    a.check()


def test_a_gap_is_told_in_the_bitmap_and_only_the_gap_is_sent_again():
    a, b = Stream(), Stream()
    plains = []
    for n in range(3):
        a.post(0, Ping(n))
        plains.append(a.parcel(0))
    b.arrived(0, *unpack(plains[1]))
    b.arrived(0, *unpack(plains[2]))

    carry(0, b, a)
    assert a.backlog == 1
    a.tick(1 * SECOND)
    assert carry(1 * SECOND, a, b) == [Ping(0)]


def test_what_is_too_old_is_given_up_and_the_receiver_is_told_by_low():
    a, b = Stream(), Stream()
    a.post(0, Ping(1))
    a.parcel(0)
    for second in range(1, 130):
        a.tick(second * SECOND)
        a.parcel(second * SECOND)
    a.post(130 * SECOND, Ping(2))

    assert carry(130 * SECOND, a, b) == [Ping(2)]
    assert a.counters.given_up == 1
    carry(130 * SECOND + 20 * MS, b, a)
    assert a.idle


def test_a_restarted_peer_gets_everything_that_was_unacknowledged():
    a, b = Stream(), Stream()
    for n in range(3):
        a.post(0, Ping(n))
    a.parcel(0)
    fresh = Stream()
    a.peer_restarted()
    a.resend_all()

    assert carry(0, a, fresh) == [Ping(n) for n in range(3)]
    assert b.idle


def test_a_full_stream_refuses_at_the_door():
    a = Stream(ParcelLimits(messages_max=2))
    a.post(0, Ping(1))
    a.post(0, Ping(2))

    with pytest.raises(Refused, match="outbox full"):
        a.post(0, Ping(3))
    assert a.backlog == 2


def test_live_goes_before_bulk():
    a, b = Stream(), Stream()
    a.post(0, BlobMissing(b"b" * 32), bulk=True)
    a.post(0, Ping(1))

    assert carry(0, a, b) == [Ping(1), BlobMissing(b"b" * 32)]


def test_unacknowledged_messages_keep_the_newest():
    a, b = Stream(), Stream()
    for n in range(70):
        a.post_loose(Ping(n))

    assert carry(0, a, b) == [Ping(n) for n in range(6, 70)]
    assert a.idle


def test_impossible_acknowledgements_and_numbers_are_violations():
    a = Stream()
    with pytest.raises(ProtocolViolation):
        a.acked(0, Ack(5))
    with pytest.raises(ProtocolViolation):
        a.arrived(0, 1, [(10**9, Ping(1))])


def test_a_parcel_respects_its_bounds_but_one_large_message_still_goes():
    a = Stream(ParcelLimits(parcel_bytes=100))
    a.post(0, CatalogueEntries([bytes(150)]))
    a.post(0, CatalogueEntries([bytes(60)]))
    a.post(0, CatalogueEntries([bytes(60)]))

    sizes = []
    while (plain := a.parcel(0)) is not None:
        sizes.append(len(unpack(plain)[1]))
    assert sizes == [1, 1, 1]


def test_a_message_that_fits_no_parcel_is_refused_before_it_is_queued():
    a = Stream()

    with pytest.raises(Refused, match="too large"):
        a.post(0, CatalogueEntries([bytes(256 * 1024)]))

    assert a.idle
    a.check()
