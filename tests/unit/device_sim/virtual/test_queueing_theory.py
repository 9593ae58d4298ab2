"""The virtual world against queueing theory, in the size of a unit test: a wrong agenda, stream of chance or
processor shows as a wrong mean. The full one is `python -m benchmarks.bench_queueing`.

The seed is fixed, so these pass or fail for good. Tolerance: three half-widths of the run's own 95 %
interval, plus the distance of so few queues from the limit, which falls as 1/n (at n = 100 and load 0.9, 10^6
arrivals gave +2.3 %, give or take 1.2). Broken on purpose they are far outside it: the last test.
"""

from __future__ import annotations

import pytest

from benchmarks.bench_queueing import Shop, erlang, measured, supermarket


@pytest.mark.parametrize(
    ("d", "load", "wanted"),
    [
        *((2, 0.5, 1.2657), (2, 0.7, 1.6145), (2, 0.8, 1.9474), (2, 0.9, 2.6141), (2, 0.95, 3.3830)),
        *((2, 0.99, 5.4320), (3, 0.9, 2.0279), (5, 0.9, 1.6329), (1, 0.9, 10.0)),
    ],
)
def test_the_formula_gives_the_published_values(d, load, wanted):
    assert supermarket(d, load) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(
    ("n", "load", "wanted"),
    [(100, 0.9, 1.0217), (100, 0.95, 1.1013), (100, 0.99, 1.8828), (1, 0.5, 2.0), (2, 0.5, 4 / 3)],
)
def test_erlang_s_formula_gives_known_values(n, load, wanted):
    assert erlang(n, load) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "load", "arrivals"), [(2, 0.5, 10_000), (2, 0.9, 30_000), (5, 0.9, 10_000), (1, 0.5, 10_000)]
)
def test_the_shortest_of_d_queues_is_as_short_as_theory_says(choices, load, arrivals):
    exact = supermarket(choices, load)

    found = measured(3, queues=100, workers=1, choices=choices, load=load, arrivals=arrivals)

    assert found.arrivals == arrivals
    assert found.half_width < 0.06 * exact, "too few arrivals to say anything"
    assert found.mean == pytest.approx(exact, abs=3 * found.half_width + 0.03 * exact)


@pytest.mark.slow
def test_a_shared_queue_is_as_long_as_erlang_says():
    exact = erlang(10, 0.8)

    found = measured(3, queues=1, workers=10, choices=1, load=0.8, arrivals=30_000)

    assert found.half_width < 0.05 * exact
    assert found.mean == pytest.approx(exact, abs=3 * found.half_width)


@pytest.mark.slow
def test_blind_choice_is_told_from_a_choice_of_two():
    """The comparison can fail: one queue instead of two, at the same load, is far outside the tolerance."""
    blind = Shop(3, queues=100, workers=1, choices=1, load=0.7, warm_up_s=50, arrivals=10_000).run()

    assert abs(blind.mean - supermarket(2, 0.7)) > 3 * blind.half_width + 0.03 * supermarket(2, 0.7)
