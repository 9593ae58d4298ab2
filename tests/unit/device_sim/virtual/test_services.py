"""Service models: their distributions are what they say, and outputs depend on function and input alone."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest

from device_sim.virtual import services
from device_sim.virtual.services import Constant, Exponential, LogNormal, Outputs, Recorded, Service
from device_sim.virtual.world import MS
from edge_node.functions import values
from security.errors import BadInput, ProtocolViolation

N = 20_000


def drawn(times, seed=7):
    rng = Random(seed)
    return [times.draw_ns(rng) for _ in range(N)]


@pytest.mark.parametrize(
    ("times", "mean_ms", "cv"),
    [
        (Constant(12.5), 12.5, 0.0),
        (Exponential(40), 40, 1.0),
        (LogNormal(40, 0.5), 40, 0.5),
        (LogNormal(3, 1.5), 3, 1.5),
        (Recorded([1, 2, 3, 6]), 3, math.sqrt(3.5) / 3),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float | int) else str(value),
)
def test_times_have_the_mean_and_spread_they_were_asked_for(times, mean_ms, cv):
    """Tolerance: five standard errors of a mean of 20 000; the spread of a heavy tail is known less well."""
    found = drawn(times)

    assert all(type(each) is int and each >= 0 for each in found)
    mean_ns = statistics.fmean(found)
    assert mean_ns == pytest.approx(mean_ms * MS, rel=5 * cv / math.sqrt(N) + 1e-9)
    assert statistics.pstdev(found) / mean_ns == pytest.approx(cv, rel=0.1, abs=1e-9)


def test_the_same_stream_draws_the_same_times():
    assert drawn(LogNormal(5, 1)) == drawn(LogNormal(5, 1))
    assert drawn(Exponential(5), seed=1) != drawn(Exponential(5), seed=2)


def test_recorded_times_are_drawn_as_they_were_measured():
    assert set(drawn(Recorded([0.5, 17, 4.25]))) == {500_000, 17 * MS, 4_250_000}


def test_bytes_cost_what_a_byte_costs():
    service = Service(Constant(2), byte_ns=12.5)

    assert service.work_ns(Random(1), 0) == 2 * MS
    assert service.work_ns(Random(1), 1000) == 2 * MS + 12_500


@pytest.mark.parametrize("length", [6, 16, 300, 70_000])
def test_a_modelled_output_depends_on_function_and_input_alone_and_has_its_size(length):
    service = Service(Constant(1), output_bytes=length)
    here, there = Outputs(), Outputs()

    first = here.of(service, "f.a", b"input")

    assert first == there.of(service, "f.a", b"input")
    assert first != here.of(service, "f.b", b"input")
    assert first != here.of(service, "f.a", b"inpuT")
    assert length - 3 <= len(first) <= length
    assert isinstance(values.decode(first), bytes)


def test_an_output_of_no_bytes_is_none():
    assert values.decode(Outputs().of(Service(Constant(1), output_bytes=0), "f.a", b"")) is None


def test_a_real_function_is_called_once_for_each_input():
    called = []

    def double(x):
        called.append(x)
        return [x, x]

    service, outputs = Service(Constant(1), real=double), Outputs()
    found = [outputs.of(service, "f.double", values.encode_call((x,), {})) for x in (1, 2, 1, 1)]

    assert [values.decode(each) for each in found] == [[1, 1], [2, 2], [1, 1], [1, 1]]
    assert called == [1, 2]


def test_what_a_real_function_raises_is_raised_each_time_and_gathers_no_frames():
    service, outputs = Service(Constant(1), real=lambda x: 1 // x), Outputs()
    seen = []

    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            outputs.of(service, "f.inverse", values.encode_call((0,), {}))
        seen.append(len(caught.traceback))
    with pytest.raises(ProtocolViolation):
        outputs.of(service, "f.inverse", b"\xc1")
    with pytest.raises(BadInput):
        outputs.of(Service(Constant(1), real=lambda: object()), "f.thing", values.encode_call((), {}))

    assert seen[0] == seen[1] == seen[2]


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(services, "OUTPUT_BYTES_KEPT_MAX", 10_000)
    called = []

    def large(x):
        called.append(x)
        return b"x" * 4000

    service, outputs = Service(Constant(1), real=large), Outputs()
    for x in (1, 2, 3, 3, 1):
        outputs.of(service, "f.large", values.encode_call((x,), {}))

    assert called == [1, 2, 3, 1]
