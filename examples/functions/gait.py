"""Gait: spectra, the freeze index and the matrix profile of accelerometer windows. Heavy work, numpy.

    edge-gateway run examples/functions/gait.py:spectrum --input examples/data/gait_accelerometer.csv

A window is a list or array of numbers (one axis), a two-dimensional one (readings × axes), or rows as they
come from the CSV (every column whose name ends in ``_mg``). Results are plain lists: who asks needs no numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_node.functions import function

RATE_HZ = 64.0
LOCOMOTION_HZ = (0.5, 3.0)
FREEZE_HZ = (3.0, 8.0)


@function(timeout_s=10, memory_mb=256, requires=["numpy"])
def spectrum(window: list | np.ndarray, rate_hz: float = RATE_HZ, segment: int = 256) -> dict:
    """Power spectral density, averaged over overlapping segments and summed over the axes.

    Args:
        window: accelerations, at least 8 readings.   rate_hz: readings a second; > 0.
        segment: readings a segment, shortened to the window's length; half of each overlaps the next.
    Returns: {frequency_hz, power_per_hz (unit² / Hz), peak_hz: where it is highest above 0 Hz}.
    Raises: ValueError: the window is too short or holds something else than finite numbers.
    Source: P. D. Welch, "The Use of Fast Fourier Transform for the Estimation of Power Spectra", IEEE Trans.
        Audio Electroacoustics 15(2), 1967; Hann window, one-sided density.
    """
    frequency_hz, power = _welch(_signal(window), rate_hz, segment)
    return {
        "frequency_hz": frequency_hz.tolist(),
        "power_per_hz": power.tolist(),
        "peak_hz": float(frequency_hz[1 + int(np.argmax(power[1:]))]),
    }


@function(timeout_s=10, memory_mb=256, requires=["numpy"])
def freeze_index(window: list | np.ndarray, rate_hz: float = RATE_HZ) -> float:
    """How much a leg trembles instead of walking: power at 3-8 Hz over power at 0.5-3 Hz.

    Args: as for ``spectrum``; about 6 s of the leg's vertical axis are usual.
    Returns: >= 0; above about 2 means freezing for many patients, each has a threshold of their own.
    Raises: ValueError: as for ``spectrum``, or nothing moves at all.
    Source: S. T. Moore, H. G. MacDougall, W. G. Ondo, "Ambulatory monitoring of freezing of gait in
        Parkinson's disease", Journal of Neuroscience Methods 167(2), 2008.
    """
    frequency_hz, power = _welch(_signal(window), rate_hz, segment=384)
    walking = power[(frequency_hz >= LOCOMOTION_HZ[0]) & (frequency_hz < LOCOMOTION_HZ[1])].sum()
    freezing = power[(frequency_hz >= FREEZE_HZ[0]) & (frequency_hz <= FREEZE_HZ[1])].sum()
    if walking <= 0:
        raise ValueError("nothing moves in this window")
    return float(freezing / walking)


@function(timeout_s=30, memory_mb=256, requires=["numpy"])
def matrix_profile(window: list | np.ndarray, length: int = 128) -> dict:
    """How far each stretch's nearest neighbour elsewhere is: motifs are low, discords high.

    Args:
        window: accelerations; of several axes the magnitude is taken.
        length: readings a stretch; >= 4, and the window has at least 2·length of them.
    Returns: {profile (z-normalised Euclidean distances), discord: start of the strangest stretch,
        motif: starts of the two most alike}.
    Raises: ValueError: window too short or not finite numbers.
    Source: STOMP: Y. Zhu et al., "Matrix Profile II: Exploiting a Novel Algorithm and GPUs to Break
        the One Hundred Million Barrier for Time Series Motifs and Joins", ICDM 2016; exclusion zone length/2.
        O(n²): 4 000 readings take about 0.1 s on a desktop core, 7 000 about 0.25 s.
    """
    signal = _signal(window)
    series = signal[:, 0] if signal.shape[1] == 1 else np.sqrt((signal**2).sum(axis=1))
    series = series - series.mean()  # distances do not change; the sums below stay small
    count = len(series) - length + 1
    if length < 4 or len(series) < 2 * length:
        raise ValueError(f"a window of {len(series)} readings is too short for stretches of {length}")
    mean, deviation = _moving(series, length)
    still = deviation < 1e-8
    inverse = np.where(still, 0.0, 1.0 / np.where(still, 1.0, deviation))
    first = np.correlate(series, series[:length], "valid")  # dot products of stretch 0 with all others
    products = first.copy()
    zone = max(1, length // 2)
    nearest = np.full(count, -np.inf)
    partner = np.zeros(count, np.int64)
    for i in range(count):
        if i > 0:
            products[1:] = (
                products[:-1] - series[i - 1] * series[: count - 1] + series[i + length - 1] * series[length:]
            )
            products[0] = first[i]
        correlation = (products / length - mean[i] * mean) * (inverse[i] * inverse)
        correlation[max(0, i - zone) : i + zone + 1] = -np.inf
        best = int(np.argmax(correlation))
        nearest[i], partner[i] = correlation[best], best
    profile = np.sqrt(np.maximum(0.0, 2 * length * (1 - np.minimum(nearest, 1.0))))
    low = int(np.argmin(profile))
    return {
        "profile": profile.tolist(),
        "discord": int(np.argmax(profile)),
        "motif": sorted([low, int(partner[low])]),
    }


def _signal(window: Any) -> np.ndarray:
    """Readings × axes, as float64."""
    if isinstance(window, list) and window and isinstance(window[0], dict):
        columns = [name for name in window[0] if name.endswith("_mg")]
        if not columns:
            raise ValueError("rows have no column whose name ends in _mg")
        window = [[row.get(name) for name in columns] for row in window]
    try:
        signal = np.asarray(window, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("a window holds numbers, or rows of equally many numbers") from None
    if signal.ndim == 1:
        signal = signal[:, np.newaxis]
    if signal.ndim != 2 or len(signal) < 8 or not np.isfinite(signal).all():
        raise ValueError("a window holds at least 8 readings, all finite numbers")
    return signal


def _welch(signal: np.ndarray, rate_hz: float, segment: int) -> tuple[np.ndarray, np.ndarray]:
    segment = max(8, min(segment, len(signal)))
    taper = np.hanning(segment + 1)[:-1]  # periodic
    starts = range(0, len(signal) - segment + 1, max(1, segment // 2))
    parts = np.stack([signal[start : start + segment] for start in starts])  # segments × readings × axes
    parts = (parts - parts.mean(axis=1, keepdims=True)) * taper[:, np.newaxis]
    power = (np.abs(np.fft.rfft(parts, axis=1)) ** 2).mean(axis=0).sum(axis=1)
    power /= rate_hz * (taper**2).sum()
    power[1 : None if segment % 2 else -1] *= 2  # one-sided: negative frequencies folded in
    return np.fft.rfftfreq(segment, 1 / rate_hz), power


def _moving(series: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every stretch."""
    sums = np.concatenate([[0.0], np.cumsum(series)])
    squares = np.concatenate([[0.0], np.cumsum(series**2)])
    mean = (sums[length:] - sums[:-length]) / length
    variance = (squares[length:] - squares[:-length]) / length - mean**2
    return mean, np.sqrt(np.maximum(variance, 0.0))
