"""Modelled sensors: a thermometer, a vibration sensor, a camera, a meter, a GPS receiver.

Each gives readings (device, seq, at_ms, values) one after the other, with a stable id and an unbroken count,
so that what is lost, doubled or overtaken on its way can be told (``continuity``). On top of what it measures
each has *noise* (new with each reading), *drift* (a random walk: slow, and it does not come back) and
*outliers* (a spike, a slip), scaled by three numbers: 1, 1 and 0 are a usual, healthy sensor of its kind.

In: a generator of its own for each device. Out: ``Reading``. Not here: when a reading is handed over
(``plan``), recorded series (``series``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from random import Random

    from device_sim.scenario.tables import Sensor

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading."""

    device: str
    seq: int
    """From 0, without a gap."""
    at_ms: int
    """Of the device's own time: since its first reading."""
    values: dict[str, float | int]
    """By the column's name, which bears the unit."""

    @property
    def row(self) -> dict[str, Any]:
        """As a function gets it."""
        return {"device": self.device, "seq": self.seq, "at_ms": self.at_ms, **self.values}


class Model(Protocol):
    """What a sensor measures."""

    columns: tuple[str, ...]

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        """The values *at_s* seconds after the first reading, *step_s* after the one before."""


class _Errors:
    """What is wrong with every sensor. Args: as in the scenario: factors, and a share of readings."""

    def __init__(self, rng: Random, noise: float, drift: float, outliers: float) -> None:
        self.rng = rng
        self.noise = noise
        self.drift = drift
        self.outliers = outliers

    def walk(self, per_sqrt_hour: float, step_s: float) -> float:
        """A step of a random walk whose standard deviation after an hour is *per_sqrt_hour*."""
        return self.rng.gauss(0, self.drift * per_sqrt_hour * math.sqrt(step_s / 3600)) if step_s else 0.0

    def spike(self, size: float) -> float:
        """0, or now and then one of about *size* either way."""
        if not self.outliers or self.rng.random() >= self.outliers:
            return 0.0
        return self.rng.choice((-1, 1)) * size * self.rng.uniform(0.5, 1.5)


class Thermometer:
    """A room's temperature, °C: 21 on average, ±2 over a day, the warmest at 15:00.

    Noise 0.05 °C (the repeatability in the datasheet of Sensirion's SHT3x is 0.04 to 0.15), drift 0.02 °C
    after an hour (self-heating, weather), outliers of 15 °C (a bit lost on the bus).
    """

    columns = ("temperature_c",)

    def __init__(self, rng: Random, errors: _Errors) -> None:
        self._errors = errors
        self._mean_c = 21 + rng.gauss(0, 1)
        self._phase_s = rng.uniform(-1800, 1800)
        self._walked_c = 0.0

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        errors = self._errors
        self._walked_c += errors.walk(0.02, step_s)
        daily_c = 2 * math.cos(2 * math.pi * (at_s - 15 * 3600 + self._phase_s) / DAY_S)
        noise_c = errors.rng.gauss(0, 0.05 * errors.noise)
        return {
            "temperature_c": round(self._mean_c + daily_c + self._walked_c + noise_c + errors.spike(15), 3)
        }


class Vibration:
    """Acceleration of a machine's housing, three axes, milli-g: a shaft's frequency, its second and third
    harmonic, and gravity on z.

    24.5 Hz (a two-pole-pair motor at 50 Hz, with slip), 120 mg; noise 4 mg (one step of the
    ADXL345, a common MEMS accelerometer, is 3.9), drift 2 mg after an hour (temperature), outliers of 1500 mg
    (a blow).
    """

    columns = ("x_mg", "y_mg", "z_mg")

    def __init__(self, rng: Random, errors: _Errors) -> None:
        self._errors = errors
        self._hz = 24.5 * (1 + rng.gauss(0, 0.01))
        self._phases = [rng.uniform(0, 2 * math.pi) for _ in range(3)]
        self._walked_mg = [0.0, 0.0, 0.0]

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        errors, found = self._errors, {}
        for axis, column in enumerate(self.columns):
            self._walked_mg[axis] += errors.walk(2, step_s)
            angle = 2 * math.pi * self._hz * at_s + self._phases[axis]
            shaft = 120 * math.sin(angle) + 40 * math.sin(2 * angle) + 15 * math.sin(3 * angle)
            noise = errors.rng.gauss(0, 4 * errors.noise)
            gravity = 1000 if column == "z_mg" else 0
            found[column] = round(gravity + shaft + self._walked_mg[axis] + noise + errors.spike(1500))
        return dict(found)


class Camera:
    """A watching camera's frames: how much of the picture moves (0 to 1), and the bytes of the JPEG. No
    pictures: what travels is what a function of the node has made of them.

    Scenes alternate between still (mean 30 s, 1 %) and moving (mean 5 s, 30 %). A VGA frame has 30 kB, twice
    that when everything moves; the size spreads by 10 % (lognormal). Drift: dirt makes frames smaller, by
    about 1 % in an hour when read once a second. Outliers: a torn frame of a tenth of the bytes.
    """

    columns = ("motion", "frame_bytes")

    def __init__(self, rng: Random, errors: _Errors) -> None:
        self._errors = errors
        self._moving = rng.random() < 5 / 35
        self._dirt = 0.0

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        errors, rng = self._errors, self._errors.rng
        if step_s and rng.random() < 1 - math.exp(-step_s / (5 if self._moving else 30)):
            self._moving = not self._moving
        self._dirt += abs(errors.walk(0.0002, step_s))
        motion = min(
            1.0, max(0.0, (0.3 if self._moving else 0.01) * rng.lognormvariate(0, 0.5 * errors.noise))
        )
        size = 30_000 * (1 + motion) * math.exp(-self._dirt) * rng.lognormvariate(0, 0.1 * errors.noise)
        if errors.spike(1):
            size /= 10
        return {"motion": round(motion, 4), "frame_bytes": max(1, round(size))}


class Meter:
    """A water meter: flow, litres a second, and the volume since the first reading, m³, which never falls.

    People draw water in the morning and in the evening (two humps over a base of 0.2 l/s, up to 2.5); noise
    2 % of the flow (accuracy class 2 of ISO 4064-1 allows so much in the upper flow rate zone), drift 0.5 %
    after an hour, outliers of 20 l/s (a hydrant).
    """

    columns = ("flow_l_per_s", "volume_m3")

    def __init__(self, rng: Random, errors: _Errors) -> None:
        self._errors = errors
        self._shift_s = rng.gauss(0, 1800)
        self._walked = 0.0
        self._volume_l = 0.0

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        errors = self._errors
        hour = ((at_s + self._shift_s) / 3600) % 24
        flow = 0.2 + 2.3 * _hump(hour, 7.5, 1.2) + 1.8 * _hump(hour, 19.0, 1.8)
        self._walked += errors.walk(0.005, step_s)
        flow *= 1 + self._walked + errors.rng.gauss(0, 0.02 * errors.noise)
        flow = max(0.0, flow + abs(errors.spike(20)))
        self._volume_l += flow * step_s
        return {"flow_l_per_s": round(flow, 4), "volume_m3": round(self._volume_l / 1000, 6)}


class Gps:
    """A receiver on a vehicle: latitude and longitude, degrees, and speed, m/s.

    It drives at 8 m/s on average and turns slowly. The error of a position is correlated in time: a
    first-order Gauss–Markov process of 3 m and 60 s on each axis, the usual model of slow ranging errors,
    scaled by noise; drift is the turning; outliers jump by 150 m (reflections between houses).
    """

    columns = ("lat_deg", "lon_deg", "speed_m_per_s")

    def __init__(self, rng: Random, errors: _Errors) -> None:
        self._errors = errors
        self._north_m, self._east_m = rng.gauss(0, 2000), rng.gauss(0, 2000)
        self._heading = rng.uniform(0, 2 * math.pi)
        self._speed = 8.0
        self._error_m = [rng.gauss(0, 3 * errors.noise), rng.gauss(0, 3 * errors.noise)]

    def read(self, at_s: float, step_s: float) -> dict[str, float | int]:
        errors, rng = self._errors, self._errors.rng
        if step_s:
            self._speed += (8 - self._speed) * (1 - math.exp(-step_s / 30)) + rng.gauss(0, 0.2)
            self._speed = max(0.0, self._speed)
            self._heading += errors.walk(6, step_s)
            self._north_m += self._speed * step_s * math.cos(self._heading)
            self._east_m += self._speed * step_s * math.sin(self._heading)
            kept = math.exp(-step_s / 60)
            fresh = 3 * errors.noise * math.sqrt(1 - kept**2)
            self._error_m = [kept * each + rng.gauss(0, fresh) for each in self._error_m]
        north_m = self._north_m + self._error_m[0] + errors.spike(150)
        east_m = self._east_m + self._error_m[1] + errors.spike(150)
        return {  # around 50° north; a degree of latitude is 111.2 km
            "lat_deg": round(50 + north_m / 111_200, 7),
            "lon_deg": round(10 + east_m / (111_200 * math.cos(math.radians(50))), 7),
            "speed_m_per_s": round(self._speed, 2),
        }


MODELS: Final[dict[str, type[Thermometer | Vibration | Camera | Meter | Gps]]] = {
    "thermometer": Thermometer,
    "vibration": Vibration,
    "camera": Camera,
    "meter": Meter,
    "gps": Gps,
}
"""By ``[devices.sensor] kind``."""


def readings(sensor: Sensor, device: str, rng: Random) -> Iterator[Reading]:
    """One device's readings, ``1 / rate_hz`` seconds apart, endless.

    Args: rng: the device's own: readings depend on it and on the sensor's table alone.
    """
    errors = _Errors(rng, sensor.noise, sensor.drift, sensor.outliers)
    model = MODELS[sensor.kind](rng, errors)
    seq = 0
    while True:
        at_s = seq / sensor.rate_hz
        values = model.read(at_s, 1 / sensor.rate_hz if seq else 0.0)
        yield Reading(device, seq, round(1000 * at_s), values)
        seq += 1


def _hump(hour: float, middle: float, width: float) -> float:
    away = min(abs(hour - middle), 24 - abs(hour - middle))
    return math.exp(-((away / width) ** 2) / 2)
