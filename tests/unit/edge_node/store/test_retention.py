"""What is old, by clocks that jump."""

from edge_node.clock import ManualClock
from edge_node.store.retention import Retention
from edge_node.tasks.task import KNOWN_MS

DAY_MS = 86_400_000
DAY_NS = DAY_MS * 1_000_000
NOW_MS = KNOWN_MS + 400 * DAY_MS


class Jumping(ManualClock):
    def set(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms - self.now_ns() // 1_000_000


def test_what_was_settled_a_day_ago_is_old():
    clock = Jumping(wall_ms=NOW_MS)
    retention = Retention(clock, 86_400)
    clock.advance(2 * DAY_NS)

    assert retention.before_ms() == NOW_MS + DAY_MS


def test_a_clock_that_is_set_forward_ages_nothing():
    clock = Jumping(wall_ms=NOW_MS)
    retention = Retention(clock, 86_400)
    for ahead_ms in (3_600_000, 700 * DAY_MS, 40 * 365 * DAY_MS):
        clock.set(NOW_MS + ahead_ms)

        assert retention.before_ms() <= NOW_MS - DAY_MS


def test_a_board_that_hears_the_time_after_its_start_forgets_nothing():
    clock = Jumping(wall_ms=12_000)
    retention = Retention(clock, 86_400)
    clock.set(NOW_MS)

    assert retention.before_ms() < KNOWN_MS


def test_one_that_starts_years_ahead_of_everything_known_forgets_nothing():
    clock = Jumping(wall_ms=KNOWN_MS + 10 * 365 * DAY_MS)

    assert Retention(clock, 86_400).before_ms() < KNOWN_MS


def test_a_clock_that_is_set_back_ages_by_what_it_says():
    clock = Jumping(wall_ms=NOW_MS)
    retention = Retention(clock, 86_400)
    clock.set(NOW_MS - 300_000)

    assert retention.before_ms() == NOW_MS - 300_000 - DAY_MS
