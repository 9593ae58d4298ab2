"""Pacing: the window follows what the line carries."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.transport.pacing import (
    MESSAGE_BYTES,
    MS,
    QUEUE_NS,
    SECOND,
    WINDOW_FIRST,
    WINDOW_MAX,
    WINDOW_MIN,
    Pacing,
)


class Line:
    """A line of so many bytes a second and so long a way; the broker answers when the last byte is there."""

    def __init__(self, bytes_s: float, way_ns: int = 10 * MS) -> None:
        self.pacing = Pacing()
        self.bytes_s = bytes_s
        self.way_ns = way_ns
        self.now_ns = 0
        self.free_ns = 0
        self.number = 0
        self.answers: list[tuple[int, int]] = []
        self.longest_ns = 0

    def send(self, size: int) -> bool:
        if not self.pacing.room:
            return False
        watched = self.pacing.watches(size)
        self.number += 1
        self.pacing.handed(self.now_ns, self.number, size, watched=watched)
        self.free_ns = max(self.now_ns, self.free_ns) + int((size + MESSAGE_BYTES) * SECOND / self.bytes_s)
        self.longest_ns = max(self.longest_ns, self.free_ns - self.now_ns)
        self.answers.append((self.free_ns + self.way_ns, self.number))
        self.pacing.check()
        return True

    def step(self) -> None:
        self.now_ns, number = self.answers.pop(0)
        self.pacing.taken(self.now_ns, number)
        self.pacing.check()

    def saturate(self, seconds: float, size: int = 1024) -> float:
        """Always something to send. Returns: bytes a second that were taken."""
        begun_ns, before = self.now_ns, self.number - len(self.answers)
        while self.now_ns < begun_ns + seconds * SECOND:
            while self.send(size):
                pass
            self.step()
        taken = self.number - len(self.answers) - before
        return taken * (size + MESSAGE_BYTES) * SECOND / (self.now_ns - begun_ns)


def test_a_slow_line_is_filled_without_a_queue_before_it():
    line = Line(5_000)  # 40 kbit/s
    line.saturate(60)
    line.longest_ns = 0

    assert line.saturate(60) > 0.9 * 5_000
    assert line.longest_ns < 2 * QUEUE_NS + (2 * WINDOW_MIN + 1024) * SECOND // 5_000


def test_a_quick_line_gets_the_whole_window():
    line = Line(100e6, way_ns=MS)
    assert line.saturate(2, size=64 * 1024) > 0.9 * 100e6
    assert line.pacing.window == WINDOW_MAX
    assert line.pacing.bytes_s is None, "it was never the line that kept anything waiting"


def test_what_a_line_carries_is_known_once_it_was_full():
    line = Line(50_000)
    assert line.pacing.bytes_s is None
    line.saturate(20)
    assert line.pacing.bytes_s is not None and 0.5 < line.pacing.bytes_s / 50_000 < 1.5


def test_a_line_that_gets_better_is_found_out():
    line = Line(5_000)
    line.saturate(60)
    line.bytes_s = 200e3
    line.saturate(120)
    assert line.saturate(10) > 100e3


def test_a_message_larger_than_the_room_goes_and_nothing_after_it():
    pacing = Pacing()
    pacing.handed(0, 1, 2 * WINDOW_FIRST, watched=True)
    assert pacing.room == 0 and pacing.untaken_since_ns == 0
    pacing.taken(5, 1)
    assert pacing.room > 0 and pacing.untaken_since_ns is None


def test_an_answer_that_nobody_noticed_at_once_teaches_nothing():
    pacing = Pacing()
    for number in range(1, 4):
        pacing.handed(number * MS, number, 100, watched=False)
    pacing.taken(900 * SECOND, 3)
    assert (pacing.window, pacing.bytes_s, pacing.on_line) == (WINDOW_FIRST, None, 0)


def test_a_new_connection_is_another_line():
    line = Line(5_000)
    line.saturate(30)
    line.pacing.restarted()
    assert (line.pacing.window, line.pacing.on_line, line.pacing.bytes_s) == (WINDOW_FIRST, 0, None)
    line.pacing.check()


@settings(max_examples=100, deadline=None)
@given(
    bytes_s=st.floats(1_000, 1e8),
    way_ms=st.integers(0, 800),
    sizes=st.lists(st.integers(1, 260_000), min_size=1, max_size=60),
)
def test_whatever_is_sent_over_whatever_line_all_of_it_gets_through(bytes_s, way_ms, sizes):
    line = Line(bytes_s, way_ms * MS)
    for size in sizes:
        while not line.send(size):
            line.step()
    while line.answers:
        line.step()
    assert line.pacing.on_line == 0 and line.pacing.room >= WINDOW_MIN
