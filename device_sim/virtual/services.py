"""Service models: how long a function takes on a board of speed 1, and what it returns.

    draw ─► Times (constant, exponential, lognormal, recorded) + bytes × cost ─► nanoseconds at speed 1
    input ─► the real function, or bytes made of (function, input) ─► output

Two runs of a function on the same input agree in their output, wherever they run. Running the real function
gives its *output* only: what it takes here is not repeatable, so its time comes from ``times`` too, best a
``Recorded`` table that was measured before. Not here: the board's speed, queues, limits (``processor``).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from device_sim.virtual.world import MS
from edge_node.functions import values

if TYPE_CHECKING:
    from random import Random

OUTPUTS_KEPT_MAX: Final = 4096
OUTPUT_BYTES_KEPT_MAX: Final = 32 * 1024 * 1024
"""Outputs of real functions that are remembered: a fleet's inputs repeat, and memory is short."""


class Times(Protocol):
    """A distribution of service times."""

    def draw_ns(self, rng: Random) -> int:
        """Nanoseconds on a board of speed 1."""


class Constant:
    __slots__ = ("_ns",)

    def __init__(self, ms: float) -> None:
        assert ms >= 0, "a time"
        self._ns = round(ms * MS)

    def draw_ns(self, rng: Random) -> int:
        return self._ns


class Exponential:
    __slots__ = ("_rate",)

    def __init__(self, ms: float) -> None:
        assert ms > 0, "a mean above 0"
        self._rate = 1 / (ms * MS)

    def draw_ns(self, rng: Random) -> int:
        return round(rng.expovariate(self._rate))


class LogNormal:
    """Of this mean and coefficient of variation (deviation / mean): what measured run times look like.

    Source: X = exp(N(mu, sigma²)) has mean exp(mu + sigma²/2) and cv² = exp(sigma²) - 1.
    """

    __slots__ = ("_mu", "_sigma")

    def __init__(self, ms: float, cv: float) -> None:
        assert ms > 0 and cv >= 0, "a mean above 0, and a spread"
        self._sigma = math.sqrt(math.log1p(cv * cv))
        self._mu = math.log(ms * MS) - self._sigma**2 / 2

    def draw_ns(self, rng: Random) -> int:
        return round(rng.lognormvariate(self._mu, self._sigma))


class Recorded:
    """Times that were measured, drawn with replacement."""

    __slots__ = ("_ns",)

    def __init__(self, ms: Sequence[float]) -> None:
        assert ms and min(ms) >= 0, "at least one measured time"
        self._ns = [round(each * MS) for each in ms]

    def draw_ns(self, rng: Random) -> int:
        return self._ns[int(rng.random() * len(self._ns))]


@dataclass(frozen=True, slots=True)
class Service:
    """One function."""

    times: Times
    byte_ns: float = 0.0
    """For each byte of input, at speed 1."""
    output_bytes: int = 16
    """About how long the encoded output is; not used with ``real``."""
    real: Callable[..., Any] | None = None
    """Called for its output, once for each distinct input; must be a pure function of it."""
    import_ms: float = 0.0
    """First use of its bundle on a worker, at speed 1."""
    poison: bool = False
    """Its runs end their worker with a segmentation fault."""

    def work_ns(self, rng: Random, input_bytes: int) -> int:
        """Nanoseconds of a run at speed 1."""
        ns = self.times.draw_ns(rng)
        return ns + round(self.byte_ns * input_bytes) if self.byte_ns else ns


class Outputs:
    """What functions return; one for all boards of a world, since a run's output does not depend on where."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, bytes], bytes | Exception] = OrderedDict()
        self._bytes = 0

    def of(self, service: Service, function: str, input_: bytes) -> bytes:
        """The encoded output.

        Args: input_: as ``values.encode_call`` made it.
        Raises: whatever the real function raised on it; ProtocolViolation: the input does not decode;
        BadInput: what it returned cannot travel.
        """
        if service.real is None:
            if service.output_bytes == 0:
                return _NOTHING
            # 5: MessagePack's longest head of a byte string, so that about so many leave
            length = max(1, service.output_bytes - 5)
            mark = hashlib.shake_128(function.encode() + b"\0" + hashlib.sha256(input_).digest())
            return values.encode(mark.digest(length))
        key = function, hashlib.sha256(input_).digest()
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = _call(service.real, input_)
            self._bytes += _size(found)
            while len(self._kept) > OUTPUTS_KEPT_MAX or self._bytes > OUTPUT_BYTES_KEPT_MAX:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        if isinstance(found, Exception):
            raise found.with_traceback(None)  # raised many times: it would gather frames
        return found


def _call(real: Callable[..., Any], input_: bytes) -> bytes | Exception:
    try:
        args, kwargs = values.decode_call(input_)
        return values.encode(real(*args, **kwargs))
    except Exception as error:  # a door: a user's function may raise anything, and does so each time
        return error


def _size(found: bytes | Exception) -> int:
    return len(found) if isinstance(found, bytes) else 0


_NOTHING = values.encode(None)
