"""What a delay box does with frames: later, never earlier, and no more of them than a queue holds."""

from __future__ import annotations

import random

import pytest

from examples.hosts.delay import FRAMES_MAX, Line

MS = 1_000_000


def test_a_frame_comes_out_when_its_delay_is_over_and_in_its_turn():
    line = Line(20 * MS, 0, random.Random(1))
    for n in range(3):
        assert line.put(n * MS, b"%d" % n)

    assert (line.take(20 * MS - 1), line.deadline_ns()) == ([], 20 * MS)
    assert line.take(21 * MS) == [b"0", b"1"]
    assert (line.take(22 * MS), line.deadline_ns(), len(line)) == ([b"2"], None, 0)


def test_frames_of_one_moment_keep_their_order():
    line = Line(0, 0, random.Random(1))
    frames = [b"%d" % n for n in range(50)]
    for frame in frames:
        line.put(7, frame)

    assert line.take(7) == frames


@pytest.mark.parametrize(("delay_ms", "jitter_ms"), [(20, 5), (2, 50)])
def test_jitter_stays_within_its_bounds_and_makes_nothing_early(delay_ms, jitter_ms):
    line = Line(delay_ms * MS, jitter_ms * MS, random.Random(3))
    times = []
    for _ in range(300):
        line.put(0, b"x")
        times.append(line.deadline_ns())
        line.take(10**12)

    bound = min(delay_ms, jitter_ms)
    assert (delay_ms - bound) * MS <= min(times) < max(times) <= (delay_ms + bound) * MS
    assert len(set(times)) > 100


def test_a_full_queue_drops_as_a_real_one_does_and_takes_again_once_there_is_room():
    line = Line(20 * MS, 0, random.Random(1))
    taken = [line.put(0, b"x") for _ in range(FRAMES_MAX + 5)]

    assert (taken.count(False), line.dropped, len(line)) == (5, 5, FRAMES_MAX)
    assert len(line.take(20 * MS)) == FRAMES_MAX
    assert line.put(20 * MS, b"y")
