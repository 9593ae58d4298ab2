"""The tables of a scenario, as frozen structs: one class a table, one field a key, with its unit and bounds.

What a key means to people stands in docs/scenario.md, which a test compares with this file. Not here: text
(``reading``), what no single key can know (``contradictions``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from device_sim.faults import Fault, Rates, resolved
from edge_node.wire.ids import GATEWAY

NODES_MAX: Final = 10_000
"""Of a world. Real daemons: see ``beyond``."""
BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one input or output: more than any node takes."""

Text = Annotated[str, Meta(min_length=1, max_length=200)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Ms = Annotated[float, Meta(ge=0, le=3_600_000)]
Size = Annotated[int, Meta(ge=0, le=BYTES_MAX)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class FleetTable(_Table, frozen=True, kw_only=True):
    """The whole."""

    name: Text
    duration_s: Seconds
    """Seconds that the series are replayed."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    """Of every offset and jitter, and of the sample that is computed again; in the world, of everything."""
    mdns: Literal["none", "lo"] = "none"
    """lo: nodes find the gateway by mDNS on the loopback interface; none: by the addresses of the code."""
    settle_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """Seconds after the replay within which everything accepted must have ended."""
    verify: Annotated[int, Meta(ge=0, le=100_000)] = 120
    """Tasks, drawn at random, whose results are computed again here and compared byte by byte."""


class RunTable(_Table, frozen=True, kw_only=True):
    """Of the world alone."""

    heal_s: Seconds | None = None
    """When every fault is made good; None: at the end of the replay."""
    liveness_s: Annotated[float, Meta(gt=0, le=86400)] = 120.0
    """Virtual seconds after the replay and the healing within which everything must come to rest."""


class GatewayTable(_Table, frozen=True, kw_only=True):
    """The gateway."""

    broker: Literal["auto", "mosquitto", "embedded"] = "auto"
    workers: Annotated[int, Meta(ge=0, le=64)] = 1
    """Processes for offloaded work; 0: one a core."""
    arrivals: tuple[Arrivals, ...] = ()
    """What is asked for at the gateway itself."""


class FunctionsTable(_Table, frozen=True, kw_only=True):
    """A file to deploy."""

    file: Text
    """Relative to the scenario."""


class ServiceTable(_Table, frozen=True, kw_only=True):
    """How long a function takes in the world, on a board of speed 1."""

    distribution: Literal["constant", "exponential", "lognormal", "trace", "real"] = "constant"
    """real: the function itself is called for its output; its time is recorded in a file, or constant."""
    mean_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 20.0
    cv: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Standard deviation over mean, of lognormal."""
    file: str = ""
    """Recorded milliseconds, of trace and real; relative to the scenario."""
    column: str = ""
    per_kb_ms: Ms = 0.0
    """More for each 1024 bytes of input."""
    import_ms: Ms = 0.0
    """More for the first run on each worker."""
    output_bytes: Size = 64
    poison: bool = False
    """Its runs take their worker with them."""


class LinkTable(_Table, frozen=True, kw_only=True):
    """The way between a node and the broker: a ``virtual.network.LinkModel``, and when it is away."""

    delay_ms: Ms = 0.3
    """One way."""
    jitter_ms: Ms = 0.0
    """Up to so much more, evenly; order is kept."""
    hop_ms: Ms = 0.0
    """What passing through both machines costs besides, either way."""
    loss: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    """Of IP packets: TCP sends them again, later."""
    up_kbps: Annotated[float, Meta(ge=0, le=1e8)] = 0.0
    """1 000 bits a second towards the broker; 0: no limit."""
    down_kbps: Annotated[float, Meta(ge=0, le=1e8)] = 0.0
    parcel_loss: Share = 0.0
    """Of this node's publications, for good: a broker that loses."""
    duplicate: Share = 0.0
    reorder: Share = 0.0
    """Of publications, held back for up to reorder_ms and overtaken."""
    reorder_ms: Ms = 50.0
    parcel_delay_ms: Ms = 0.0
    """Every publication is held back so long."""
    up_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Mean seconds that an intermittent link stands; drawn, exponential. 0: always."""
    down_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Mean seconds that it is away."""


class Trace(_Table, frozen=True, kw_only=True):
    """A recorded series and the pace of its replay. Sample n comes at n / (rate_hz · speed_up) seconds; the
    window that is full first is handed over at 0."""

    file: Text
    """CSV, the first line names the columns; relative to the scenario."""
    rate_hz: Annotated[float, Meta(gt=0, le=1e6)]
    """Readings a second, as recorded."""
    window: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Readings that a function gets at once."""
    hop: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Readings from the begin of one window to the begin of the next."""
    columns: tuple[Text, ...] = ()
    """Those handed over; empty: all."""
    form: Literal["rows", "array"] = "rows"
    """rows: a list of dicts; array: a numpy array, readings × columns; int16, int32, int64 or float64."""
    speed_up: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    burst_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Windows are handed over together every so often, as by a sensor that saves its radio; 0: at once."""
    offset_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    """Each device begins up to so much later, by the seed."""
    jitter_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """Each hand-over comes up to so much later, by the seed."""
    repeat: bool = False
    """Begin again when the series ends before the replay does. No window spans the seam."""


class Sensor(_Table, frozen=True, kw_only=True):
    """A modelled sensor instead of a recorded series (``devices.models``); paced like a trace."""

    kind: Literal["thermometer", "vibration", "camera", "meter", "gps"]
    rate_hz: Annotated[float, Meta(gt=0, le=1e6)]
    window: Annotated[int, Meta(ge=1, le=1_000_000)]
    hop: Annotated[int, Meta(ge=1, le=1_000_000)]
    columns: tuple[Text, ...] = ()
    form: Literal["rows", "array"] = "rows"
    speed_up: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    burst_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    offset_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    jitter_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    noise: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    """Times the kind's usual noise."""
    drift: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    """Times the kind's usual drift."""
    outliers: Share = 0.0
    """Of readings, that are far off."""

    @property
    def repeat(self) -> bool:
        """As of a trace. A model does not end, but what is made of it beforehand does."""
        return True


class Call(_Table, frozen=True, kw_only=True):
    """What a device asks for."""

    function: Text
    """STEM.NAME; its first argument is the window."""
    every_windows: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    whole: bool = False
    """Once, at the end, with the whole series instead of a window."""
    deadline_s: Seconds | None = None
    ttl_s: Seconds | None = None
    """Seconds that the task is kept trying; None: the node's setting."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    """Higher first among waiting tasks."""
    where: Text = "any"
    """any, local, gateway or a node."""
    arguments: dict[str, Any] = {}
    """By name, after the window."""


class Spread(_Table, frozen=True, kw_only=True):
    """Sizes that are drawn: uniform between min and max, or lognormal of mean and cv."""

    min: Size | None = None
    max: Size | None = None
    mean: Annotated[float, Meta(gt=0, le=BYTES_MAX)] | None = None
    cv: Annotated[float, Meta(gt=0, le=100)] | None = None


class Arrivals(_Table, frozen=True, kw_only=True):
    """Work that comes by itself, at its own moments."""

    function: Text
    kind: Literal["constant", "poisson", "bursty", "trace"] = "poisson"
    rate_hz: Annotated[float, Meta(gt=0, le=1e5)] | None = None
    """Mean tasks a second; of all kinds but trace."""
    burst: Annotated[int, Meta(ge=1, le=10_000)] = 10
    """Tasks of a burst, of bursty: mean of a geometric distribution."""
    gap_s: Annotated[float, Meta(ge=0, le=3600)] = 0.01
    """Seconds between the tasks of a burst."""
    file: str = ""
    """Moments, of trace: CSV or Parquet; relative to the scenario."""
    column: str = ""
    """Seconds, or ISO stamps; empty: the only column of the file."""
    speed_up: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    repeat: bool = False
    """Begin the file again when it ends before the replay does."""
    input_bytes: Size | Spread | None = None
    """None: the newest window of the device's trace or sensor."""
    deadline_s: Seconds | None = None
    ttl_s: Seconds | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    where: Text = "any"
    arguments: dict[str, Any] = {}


class DevicesTable(_Table, frozen=True, kw_only=True):
    """One node, or *count* alike named ``prefix-1`` and so on: a class of nodes."""

    id: str = ""
    prefix: str = ""
    count: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 1
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    cores: Annotated[int, Meta(ge=0, le=256)] = 0
    """0: one a worker."""
    slowdown: Annotated[float, Meta(ge=1, le=1000)] = 1.0
    """How many times slower than this machine it is."""
    speed: Annotated[float, Meta(gt=0, le=1000)] | None = None
    """Instead of slowdown: how many times faster."""
    memory_mb: Annotated[int, Meta(ge=16, le=1_048_576)] | None = None
    battery_wh: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """Empty, it takes the node away; None: it has mains."""
    idle_w: Annotated[float, Meta(ge=0, le=10_000)] = 2.0
    busy_w: Annotated[float, Meta(ge=0, le=10_000)] = 5.0
    """With every core busy; in between, in proportion."""
    link: str = ""
    """A table ``[links.NAME]``; empty: a perfect one."""
    clock_drift_ppm: Annotated[float, Meta(ge=-100_000, le=100_000)] = 0.0
    """Each node's clock is wrong by up to so much either way; drawn."""
    rtc: bool = True
    """false: after each boot it is 1970 until somebody tells the time."""
    labels: dict[str, Text] = {}
    trace: Trace | None = None
    sensor: Sensor | None = None
    calls: tuple[Call, ...] = ()
    arrivals: tuple[Arrivals, ...] = ()

    @property
    def ids(self) -> list[str]:
        return [self.id] if self.id else [f"{self.prefix}-{number}" for number in range(1, self.count + 1)]

    @property
    def cls(self) -> str:
        """The name of its class: the id of one, the prefix of several."""
        return self.id or self.prefix

    @property
    def source(self) -> Trace | Sensor | None:
        """Where its windows come from."""
        return self.trace if self.trace is not None else self.sensor

    @property
    def pace(self) -> float:
        """How fast it is, this machine being 1; whichever way it was said."""
        return self.speed if self.speed is not None else 1.0 / self.slowdown

    @property
    def slowed(self) -> float:
        """How many times slower than this machine, >= 1: no daemon can be made faster."""
        return max(1.0, 1.0 / self.pace)


class StateTable(_Table, frozen=True, kw_only=True):
    """Of the world alone: clients that write replicated tables."""

    rate_hz: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    """Mean changes a second at each node that writes; 0: nobody does."""
    nodes: tuple[Text, ...] = ()
    """Who writes, each a node or the prefix of several alike, or the gateway; empty: everybody."""
    tables: Annotated[int, Meta(ge=1, le=100)] = 2
    """Shared by all who write."""
    keys: Annotated[int, Meta(ge=1, le=100_000)] = 8
    """Documents in each of them."""
    value_bytes: Annotated[int, Meta(ge=0, le=60_000)] = 0
    """Of a field, at least."""
    own: Share = 0.2
    """Of changes, that go to a document which nobody else writes."""
    removals: Share = 0.1
    """… that remove a shared document."""
    counters: Share = 0.15
    """… that count."""
    sets: Share = 0.15
    """… that put something into a set, or take it out."""


class Expect(_Table, frozen=True, kw_only=True):
    """What must hold at the end. Times depend on the machine: leave them out where others work on it too."""

    lost: Annotated[int, Meta(ge=0)] = 0
    failed_max: Annotated[int, Meta(ge=0)] = 0
    explained_max: Annotated[int, Meta(ge=0)] | None = None
    accepted_min: Annotated[int, Meta(ge=0)] | None = None
    completed_min: Annotated[int, Meta(ge=0)] | None = None
    offloaded_min: Annotated[int, Meta(ge=0)] | None = None
    """Ran at another node or at the gateway."""
    peers_min: Annotated[int, Meta(ge=0)] | None = None
    """Ran at another node."""
    resumed_min: Annotated[int, Meta(ge=0)] | None = None
    """Promises that were open when their node was killed and ended well."""
    verified_min: Annotated[int, Meta(ge=0)] | None = None
    kill_to_replacement_s_max: Annotated[float, Meta(ge=0)] | None = None
    revoked_cut_s_max: Annotated[float, Meta(ge=0)] | None = None
    latency_ms_p99_max: Annotated[float, Meta(ge=0)] | None = None


class Scenario(_Table, frozen=True, kw_only=True):
    """A whole file."""

    fleet: FleetTable
    devices: tuple[DevicesTable, ...]
    run: RunTable = RunTable()
    gateway: GatewayTable = GatewayTable()
    links: dict[str, LinkTable] = {}
    functions: tuple[FunctionsTable, ...] = ()
    services: dict[str, ServiceTable] = {}
    state: StateTable = StateTable()
    faults: tuple[Fault, ...] = ()
    rates: Rates = Rates()
    expect: Expect = Expect()

    @property
    def nodes(self) -> dict[str, DevicesTable]:
        """Every node by its name, in the order of the file."""
        return {name: table for table in self.devices for name in table.ids}

    @property
    def classes(self) -> Mapping[str, list[str]]:
        """The nodes of each class, and of each node itself and the gateway: what ``faults[].nodes`` names."""
        found = {table.cls: table.ids for table in self.devices}
        return found | {name: [name] for ids in list(found.values()) for name in ids} | {GATEWAY: [GATEWAY]}

    @property
    def stems(self) -> list[str]:
        """What the files of its functions are called, without ``.py``."""
        return [source.file.rsplit("/", 1)[-1].removesuffix(".py") for source in self.functions]

    @property
    def synthetic(self) -> list[str]:
        """Services without a file: functions that only the world knows."""
        stems = self.stems
        return sorted(name for name in self.services if name.partition(".")[0] not in stems)

    @property
    def writers(self) -> list[str]:
        """Who writes replicated tables."""
        if not self.state.rate_hz:
            return []
        everybody = (*self.nodes, GATEWAY)
        wanted = [name for each in self.state.nodes for name in self.classes.get(each, ())] or everybody
        return list(dict.fromkeys(wanted))

    def timeline(self) -> tuple[Fault, ...]:
        """Its faults, one node each; a partition and a full disk end by a fault of their own."""
        return tuple(fault for _, fault in resolved(self.faults, self.classes))

    @property
    def healed_s(self) -> float:
        """When every fault is made good."""
        return self.run.heal_s if self.run.heal_s is not None else self.fleet.duration_s
