"""The pictures of a report, drawn from a ``Record`` by matplotlib, which is the extra ``report``.

Each is drawn once, as a PNG: the file beside the page and the picture within it are the same bytes, and the
same record gives the same bytes with the same matplotlib. Colours are those of Okabe and Ito, and cividis:
the colour-blind can tell them apart. Pictures stand on a light card in a dark page too, as their colours were
chosen for that ground. What they show is said in ``captions``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from device_sim.report import captions
from device_sim.report.captions import GATEWAY, Caption, Picture
from device_sim.report.histogram import Bins, merged, percentile
from device_sim.report.quantities import THIN, counted, milliseconds, number, octets
from device_sim.report.record import Edge, Record

BANDS_MAX: Final = 400
COLUMNS_MAX: Final = 240
"""Of the heat map; narrower ones flicker."""
NAMED_MAX: Final = 40
"""Rows of the heat map that are named one by one."""
FUNCTIONS_MAX: Final = 6
LANES_MAX: Final = 16
RATES_MAX: Final = 120
"""Intervals of the rates; more show the noise and not the course."""
ALONE_MAX: Final = 60
"""Nodes of the graph that stand for themselves."""
ARROWS_MAX: Final = 300
WIDTH_IN: Final = 9.0
DPI: Final = 150
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, QUIET, AWAY = "#1c1c1c", "#6b6b6b", "#c9c9c9"
CARD: Final = "#fbfbf9"
_LOOK: Final = {
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


def draw(record: Record) -> list[Picture]:
    """All five; one that would show nothing has a caption and no picture."""
    return [draw_one(record) for draw_one in (latency, load, messages, faults, mesh)]


def _picture(caption: Caption, height_in: float, paint: Callable[[Figure], None]) -> Picture:
    with mpl.rc_context({**mpl.rcParamsDefault, **_LOOK}):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
        paint(figure)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return Picture(caption, buffer.getvalue())


# ── latency ───────────────────────────────────────────────────────────────────────────────────────────────


def latency(record: Record) -> Picture:
    """One row for each function, the busiest first, on one axis."""
    caption = captions.latency(record)
    if not caption.alt:
        return Picture(caption, b"")
    rows = _functions(record)
    least = min(bins[0][0] for _, bins in rows) / 1.1
    most = max(bins[-1][0] for _, bins in rows)
    if most / least < 10:  # a decade at least, so that the axis has numbers
        middle = math.sqrt(least * most)
        least, most = middle / math.sqrt(10), middle * math.sqrt(10)
    marks = ((0.5, "solid"), (0.95, "dashed"), (0.99, "dotted"))

    def paint(figure: Figure) -> None:
        axes: list[Any] = list(figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0])
        for axis, (name, bins) in zip(axes, rows, strict=True):
            bounds = np.array([bound for bound, _ in bins])
            counts = np.array([count for _, count in bins])
            axis.bar(
                bounds / 1.1, counts, width=bounds - bounds / 1.1, align="edge", color=SKY, edgecolor=SKY
            )
            told = []
            for share, style in marks:
                at = percentile(bins, share) or 0.0
                axis.axvline(at, color=INK if share == 0.5 else RED, linestyle=style, linewidth=1.3)
                told.append(f"p{share * 100:.0f} {milliseconds(at)}")
            axis.set_title(f"{_short(name, 40)}: {counted(int(counts.sum()), 'task')}, " + ", ".join(told))
            axis.set_xscale("log")
            axis.set_xlim(least, most * 1.05)
            axis.set_ylabel("tasks")
            axis.yaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
            axis.yaxis.set_major_formatter(_thousands)
        axes[-1].xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: milliseconds(value)))
        axes[-1].xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes[-1].xaxis.set_minor_formatter(ticker.NullFormatter())
        axes[-1].set_xlabel("from the client's call to its answer")
        lines = [
            Line2D([], [], color=INK if share == 0.5 else RED, linestyle=style, label=f"p{share * 100:.0f}")
            for share, style in marks
        ]
        figure.legend(handles=lines, loc="outside upper right", ncols=3)

    return _picture(caption, 1.1 + 1.25 * len(rows), paint)


def _functions(record: Record) -> list[tuple[str, Bins]]:
    found = sorted(record.latencies_ms.items(), key=lambda each: (-sum(n for _, n in each[1]), each[0]))
    found = [(name, bins) for name, bins in found if bins]
    if len(found) <= FUNCTIONS_MAX:
        return list(found)
    rest = found[FUNCTIONS_MAX - 1 :]
    return [*found[: FUNCTIONS_MAX - 1], (f"{len(rest)} others", merged(bins for _, bins in rest))]


# ── load ──────────────────────────────────────────────────────────────────────────────────────────────────


def load(record: Record) -> Picture:
    """A row for each node, or a band for some that are neighbours in the record."""
    rows = len(record.load.nodes)
    together = -(-max(map(len, record.load.shares), default=0) // COLUMNS_MAX) or 1
    caption = captions.load(record, min(rows, BANDS_MAX), together)
    if not caption.alt or not record.load.shares[0]:
        return Picture(caption, b"")
    matrix = _means(_bands(np.array(record.load.shares, dtype=float)).T, together).T
    interval_s = record.load.interval_s * together
    end_s = min(matrix.shape[1] * interval_s, record.manifest.duration_s or math.inf)
    end_s = max(end_s, (matrix.shape[1] - 1) * interval_s, interval_s / 2)
    top = _scale(matrix)
    height_in = 1.3 + (0.24 * len(matrix) if rows <= NAMED_MAX else 5.0)

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        colours = mpl.colormaps["cividis"].with_extremes(bad=AWAY)
        image = axis.imshow(
            np.ma.masked_less(matrix, 0.0) * 100,
            aspect="auto",
            cmap=colours,
            vmin=0,
            vmax=top,
            interpolation="nearest",
            extent=(0.0, matrix.shape[1] * interval_s, rows, 0),
        )
        axis.set_xlim(0, end_s)
        _time_axis(axis, end_s)
        axis.spines[["left", "bottom"]].set_visible(False)
        if rows <= NAMED_MAX:
            axis.set_yticks([row + 0.5 for row in range(rows)], [_short(n, 18) for n in record.load.nodes])
            axis.tick_params(axis="y", length=0)
        else:
            _name_classes(axis, record)
        extend = "max" if matrix.max() * 100 > top else "neither"
        bar = figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03, aspect=30, extend=extend)
        bar.set_label(f"workers busy, {THIN}%")
        bar.outline.set_visible(False)
        if (matrix < 0).any():
            figure.legend(handles=[Patch(color=AWAY, label="away")], loc="outside upper right")

    return _picture(caption, height_in, paint)


def _bands(matrix: Any) -> Any:
    """At most BANDS_MAX rows."""
    rows = len(matrix)
    if rows <= BANDS_MAX:
        return matrix
    return _merged_rows(matrix, [rows * band // BANDS_MAX for band in range(BANDS_MAX + 1)])


def _scale(matrix: Any) -> int:
    """Where the colours end, in percent: a mesh that is mostly idle would be one dark patch up to 100."""
    there = matrix[matrix >= 0] * 100
    most = float(np.quantile(there, 0.995)) if there.size else 0.0
    return next((top for top in (5, 10, 20, 50) if most <= top), 100) if most else 100


def _means(matrix: Any, together: int) -> Any:
    """Rows of so many that follow each other."""
    return _merged_rows(matrix, [*range(0, len(matrix), together), len(matrix)])


def _merged_rows(matrix: Any, edges: Sequence[int]) -> Any:
    """Each the mean of those that were there; -1 where nobody was."""
    found = np.full((len(edges) - 1, matrix.shape[1]), -1.0)
    for row, (low, high) in enumerate(pairwise(edges)):
        some = matrix[low:high]
        there = (some >= 0).sum(axis=0)
        total = np.where(some >= 0, some, 0.0).sum(axis=0)
        np.divide(total, there, out=found[row], where=there > 0)
    return found


def _name_classes(axis: Any, record: Record) -> None:
    """Runs of nodes of one class are named, if there are few enough to be read."""
    classes = {node.id: node.cls for node in record.nodes}
    runs: list[tuple[str, int, int]] = []
    for row, node in enumerate(record.load.nodes):
        cls = classes.get(node, "")
        if runs and runs[-1][0] == cls:
            runs[-1] = (cls, runs[-1][1], row + 1)
        else:
            runs.append((cls, row, row + 1))
    if len(runs) > 24 or not any(cls for cls, _, _ in runs):
        axis.set_ylabel("nodes, in the order of the record")
        axis.yaxis.set_major_formatter(_thousands)
        return
    rows, last = len(record.load.nodes), -math.inf
    ticks, names = [], []
    for cls, low, high in runs:
        if low:
            axis.axhline(low, color=CARD, linewidth=1.2)
        middle = (low + high) / 2
        if middle - last >= rows / 26:  # names that would lie on each other are left out
            ticks.append(middle)
            names.append(f"{_short(cls, 14)} ({number(high - low)})")
            last = middle
    axis.set_yticks(ticks, names)
    axis.tick_params(axis="y", length=0)


# ── messages ──────────────────────────────────────────────────────────────────────────────────────────────


def messages(record: Record) -> Picture:
    """Two panels that share their kinds: messages a task, bytes a node and minute."""
    caption = captions.messages(record)
    if not caption.alt:
        return Picture(caption, b"")
    kinds = sorted(record.messages, key=lambda each: (each.count, each.kind))
    done = record.figures.get("completed", 0)
    minutes = record.manifest.duration_s / 60
    by_node = len(record.nodes) * minutes

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        names = [each.kind for each in kinds]
        counts = [each.count / done if done else each.count for each in kinds]
        sizes = [each.bytes / by_node if by_node else each.bytes for each in kinds]
        for axis, values, colour, tell in ((left, counts, BLUE, number), (right, sizes, ORANGE, octets)):
            bars = axis.barh(names, values, color=colour, height=0.62)
            axis.bar_label(bars, [tell(value) for value in values], padding=4)
            axis.set_xlim(0, max([*values, 1e-9]) * 1.25)  # room for the number behind the longest
            axis.xaxis.set_major_locator(ticker.MaxNLocator(4))
            axis.tick_params(axis="y", length=0)
        left.set_title("messages for each completed task" if done else "messages")
        right.set_title("bytes published a node and minute" if by_node else "bytes published")
        right.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: octets(value)))
        left.xaxis.set_major_formatter(_thousands)

    return _picture(caption, 1.0 + 0.34 * len(kinds), paint)


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────


def faults(record: Record) -> Picture:
    """Lanes by verb above the rates of tasks; one axis of time."""
    caption = captions.faults(record)
    if not caption.alt:
        return Picture(caption, b"")
    lanes = _lanes(record)
    interval_s, accepted, completed = _rates(record)
    times = [column * interval_s for column in range(len(accepted) + 1)]
    end_s = max(
        [record.manifest.duration_s, *(each.until_s or each.at_s for each in record.faults), *times[-2:-1]]
    )

    def paint(figure: Figure) -> None:
        heights = [0.32 * max(1, len(lanes)), 1.9]
        if lanes:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
            _paint_lanes(upper, lanes, end_s)
        else:
            lower = figure.subplots()
        if accepted:
            for name, counts, colour, style in (
                ("accepted", accepted, BLUE, "solid"),
                ("completed", completed, GREEN, "dashed"),
            ):
                lower.stairs(
                    np.array(counts) / interval_s,
                    times,
                    color=colour,
                    linestyle=style,
                    label=name,
                    lw=1.3,
                )
            figure.legend(loc="outside upper right", ncols=2)
        for each in record.faults[:200]:  # more would be a wall
            lower.axvline(each.at_s, color=RED, alpha=0.25, linewidth=0.8, zorder=0)
        lower.set_ylim(bottom=0)
        lower.set_ylabel("tasks a second")
        lower.yaxis.set_major_formatter(_thousands)
        lower.set_xlim(0, end_s or 1.0)
        _time_axis(lower, end_s)

    return _picture(caption, 2.9 + 0.32 * len(lanes), paint)


def _rates(record: Record) -> tuple[float, list[int], list[int]]:
    """(interval, accepted, completed) in at most RATES_MAX intervals."""
    rates = record.rates
    by = -(-len(rates.accepted) // RATES_MAX) or 1
    accepted, completed = (
        [sum(counts[at : at + by]) for at in range(0, len(counts), by)]
        for counts in (rates.accepted, rates.completed)
    )
    return rates.interval_s * by, accepted, completed


def _lanes(record: Record) -> list[tuple[str, list[tuple[float, float | None]]]]:
    """(name, [(from, to; None: a moment)]): a lane for each verb and its nodes, in order of the first."""
    by_verb: dict[str, list[Any]] = {}
    for each in record.faults:
        by_verb.setdefault(each.do, []).append(each)
    lanes = []
    for do, some in by_verb.items():
        nodes = list(dict.fromkeys(each.node for each in some if each.node))
        if len(nodes) == 1 and do.endswith(f"-{nodes[0]}"):
            nodes = []  # kill-gateway says so itself
        whom = (
            f" {_short(nodes[0], 16)}"
            if len(nodes) == 1
            else f" ({number(len(nodes))} nodes)"
            if nodes
            else ""
        )
        lanes.append((_short(do, 20) + whom, [(each.at_s, each.until_s) for each in some]))
    if len(lanes) <= LANES_MAX:
        return lanes
    rest = [span for _, spans in lanes[LANES_MAX - 1 :] for span in spans]
    return [*lanes[: LANES_MAX - 1], (f"{len(lanes) - LANES_MAX + 1} others", rest)]


def _paint_lanes(
    axis: Any, lanes: Sequence[tuple[str, list[tuple[float, float | None]]]], end_s: float
) -> None:
    for row, (_, spans) in enumerate(lanes):
        long = [(low, max(high - low, end_s / 500)) for low, high in spans if high is not None]
        axis.broken_barh(long, (row - 0.3, 0.6), facecolor=ORANGE, alpha=0.75, edgecolor=RED, linewidth=0.6)
        moments = [low for low, high in spans if high is None]
        if moments:  # the layout would take an empty line for a box at the origin
            axis.plot(moments, [row] * len(moments), "D", color=RED, markersize=5, clip_on=False)
    axis.set_yticks(range(len(lanes)), [name for name, _ in lanes])
    axis.set_ylim(len(lanes) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.grid(axis="x", color="#e3e3e0", linewidth=0.6)
    axis.set_axisbelow(True)


# ── mesh ──────────────────────────────────────────────────────────────────────────────────────────────────


def mesh(record: Record) -> Picture:
    """Nodes on a circle, the gateway in its middle, an arrow from the owner of work to who ran it."""
    by_class = len(record.nodes) > ALONE_MAX
    places, ran, edges = _grouped(record) if by_class else _alone(record)
    across = sorted(
        (edge for edge in edges if edge.owner != edge.place),
        key=lambda edge: (-edge.tasks, edge.owner, edge.place),
    )
    drawn = across[:ARROWS_MAX]
    caption = captions.mesh(record, by_class=by_class, left_out=len(across) - len(drawn))
    if not caption.alt:
        return Picture(caption, b"")
    within = {edge.owner: edge.tasks for edge in edges if edge.owner == edge.place}
    points = _circle(list(places))
    half = 1.35 if len(points) > 2 else 0.45
    heaviest = max((edge.tasks for edge in drawn), default=1)
    largest = max([*ran.values(), 1])

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        axis.set_aspect("equal")
        axis.axis("off")
        for edge in reversed(drawn):  # the heavy ones on top
            weight = math.sqrt(edge.tasks / heaviest)
            axis.add_patch(
                FancyArrowPatch(
                    points[edge.owner], points[edge.place], connectionstyle="arc3,rad=0.14", arrowstyle="-|>",
                    mutation_scale=7 + 7 * weight, shrinkA=9, shrinkB=10, linewidth=0.5 + 3.2 * weight,
                    color=ORANGE if edge.place == GATEWAY else BLUE, alpha=0.3 + 0.6 * weight,
                )
            )  # fmt: skip
        for name, (x, y) in points.items():
            up = places[name][1]
            size = 60 + 420 * math.sqrt(ran.get(name, 0) / largest)
            axis.scatter(
                [x], [y], s=size, color=(PINK if name == GATEWAY else SKY) if up else AWAY, edgecolor=INK,
                linewidth=0.8, zorder=3,
            )  # fmt: skip
            told = places[name][0]
            if by_class and within.get(name):
                told += f"\n{number(within[name])} tasks within"
            _label(axis, told, x, y, many=len(points) > 24)
        axis.set_xlim(-1.75, 1.75)
        axis.set_ylim(-half, half)
        seen = [
            (SKY, "node: the larger, the more it ran", True),
            (PINK, "gateway", GATEWAY in points),
            (AWAY, "away at the end", any(not up for _, up in places.values())),
            (BLUE, "handed to a node", any(edge.place != GATEWAY for edge in drawn)),
            (ORANGE, "handed to the gateway", any(edge.place == GATEWAY for edge in drawn)),
        ]
        handles = [Patch(color=colour, label=label) for colour, label, is_there in seen if is_there]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))

    return _picture(caption, 6.6 if len(points) > 2 else 2.8, paint)


Places = dict[str, tuple[str, bool]]
"""Name -> (label, is it up)."""


def _alone(record: Record) -> tuple[Places, dict[str, int], list[Edge]]:
    places = {node.id: (_short(node.id, 16), node.up) for node in record.nodes}
    for edge in record.edges:  # whoever works is there
        for name in (edge.owner, edge.place):
            places.setdefault(name, (_short(name, 16), True))
    return places, {node.id: node.ran for node in record.nodes}, list(record.edges)


def _grouped(record: Record) -> tuple[Places, dict[str, int], list[Edge]]:
    classes = {node.id: node.cls for node in record.nodes}
    count: dict[str, int] = {}
    ran: dict[str, int] = {}
    up: dict[str, bool] = {}
    for node in record.nodes:
        count[node.cls] = count.get(node.cls, 0) + 1
        ran[node.cls] = ran.get(node.cls, 0) + node.ran
        up[node.cls] = up.get(node.cls, False) or node.up
    tasks: dict[tuple[str, str], int] = {}
    for edge in record.edges:
        pair = classes.get(edge.owner, edge.owner), classes.get(edge.place, edge.place)
        tasks[pair] = tasks.get(pair, 0) + edge.tasks
    for name in sorted({each for pair in tasks for each in pair}):
        count.setdefault(name, 1)
    places = {
        name: (f"{_short(name, 16)} ({number(n)})" if n > 1 else _short(name, 16), up.get(name, True))
        for name, n in count.items()
    }
    return places, ran, [Edge(owner=a, place=b, tasks=n) for (a, b), n in tasks.items()]


def _circle(names: list[str]) -> dict[str, tuple[float, float]]:
    if len(names) <= 2:
        return {name: (-0.9 + 1.8 * at, 0.0) for at, name in enumerate(names)}
    around = [name for name in names if name != GATEWAY]
    turn = 2 * math.pi / max(1, len(around))
    first = -math.pi / 2 if len(around) == 2 else 0.0  # two lie side by side
    points = {
        name: (math.sin(first + at * turn), math.cos(first + at * turn)) for at, name in enumerate(around)
    }
    if GATEWAY in names:
        points[GATEWAY] = (0.0, 0.0)
    return points


def _label(axis: Any, text: str, x: float, y: float, *, many: bool) -> None:
    """Outside of the circle, turned outwards where there are many; beneath what stands in the middle."""
    radius = math.hypot(x, y)
    if radius < 0.5:
        ground = {"facecolor": CARD, "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axis.annotate(
            text,
            (x, y),
            xytext=(0, -19),
            textcoords="offset points",
            ha="center",
            va="top",
            zorder=4,
            bbox=ground,
        )
        return
    outside = 1.13
    if many:
        degrees = math.degrees(math.atan2(y, x))
        left = x < 0
        axis.text(
            x * outside, y * outside, text, rotation=degrees + 180 if left else degrees, fontsize=7,
            rotation_mode="anchor", ha="right" if left else "left", va="center",
        )  # fmt: skip
        return
    ha = "center" if abs(x) < 0.2 else "left" if x > 0 else "right"
    va = "center" if abs(x) >= 0.2 else "bottom" if y > 0 else "top"
    axis.text(x * outside, y * outside, text, ha=ha, va=va)


# ── axes ──────────────────────────────────────────────────────────────────────────────────────────────────

_thousands: Final = ticker.FuncFormatter(lambda value, _: number(round(value, 6)))


def _time_axis(axis: Any, end_s: float) -> None:
    """Seconds up to five minutes, minutes up to three hours, then hours."""
    size, unit = (1, "s") if end_s <= 300 else (60, "min") if end_s <= 10_800 else (3600, "h")
    steps = [1, 2, 5, 10]
    nice = ticker.MaxNLocator(9, steps=steps).tick_values(0, max(end_s, 1e-3) / size)
    axis.set_xticks([each * size for each in nice if 0 <= each * size <= end_s * 1.0001])
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(round(value / size, 3))))
    axis.set_xlabel(f"time of the run, {unit}" if end_s > 0 else "time of the run")


def _short(text: str, chars: int) -> str:
    """Without what mathtext would take for a formula, and not longer than that."""
    plain = text.replace("$", r"\$").replace("\n", " ")
    return plain if len(plain) <= chars else plain[: chars - 1] + "…"
