"""The report as one page that needs nothing else: no request goes out, no script runs.

In: a ``Record`` and its pictures. Out: HTML, the same for the same record. Everything is put together by
``markup``, so that no name in a record can become markup. What failed stands before what passed, and what was
not applicable is with neither.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final

from device_sim.report.captions import Picture
from device_sim.report.glossary import ordered
from device_sim.report.markup import Html, Inside, tag
from device_sim.report.quantities import THIN, counted, number, quantity, seconds
from device_sim.report.record import Check, Record

FAULTS_MAX: Final = 100
CLASSES_MAX: Final = 60
SHOWN: Final = {
    "passed": ("✓", "passed"),
    "failed": ("✗", "failed"),
    "not applicable": ("–", "not applicable"),
}

_STYLE: Final = Html(
    """
:root { color-scheme: light dark; --ground: #f3f3f0; --card: #fff; --ink: #1c1c1c; --quiet: #595959;
  --line: #d8d8d4; --good: #00644a; --bad: #a63f00; --mark: #004d7a; }
@media (prefers-color-scheme: dark) { :root { --ground: #161719; --card: #212326; --ink: #ececea;
  --quiet: #a9aaad; --line: #3b3e43; --good: #4fd0a5; --bad: #ff9a5c; --mark: #7cc4ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .3rem 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p, ul { margin: .4rem 0; }
.verdict { border-left: .5rem solid var(--quiet); background: var(--card); padding: .7rem 1rem;
  border-radius: 4px; font-size: 1.1rem; font-weight: 600; }
.verdict.held { border-color: var(--good); } .verdict.broken { border-color: var(--bad); }
.passed { color: var(--good); } .failed { color: var(--bad); } .quiet { color: var(--quiet); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem .7rem; border-bottom: 1px solid var(--line); }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; }
th[scope=row] { font-weight: 500; overflow-wrap: break-word; min-width: 6.5rem; }
.number { text-align: right; white-space: nowrap; }
.word { white-space: nowrap; font-weight: 600; }
code, pre { font: .88rem/1.45 ui-monospace, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: .6rem .8rem;
  margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
td.lines { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 11rem; }
.checks td:nth-child(3) { min-width: 11rem; }
figure { margin: 0 0 1.4rem; padding: .9rem;
  background: var(--card); border: 1px solid var(--line); border-radius: 4px; }
figure .wide { background: #fbfbf9; border: 0; }
img { display: block; width: 100%; min-width: 38rem; height: auto; }
figcaption { color: var(--quiet); font-size: .88rem; margin-top: .5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: .9rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: .5rem .7rem; }
.tile b { display: block; font-size: 1.25rem; white-space: nowrap; }
.tile span { color: var(--quiet); font-size: .85rem; }
@media print { figure, tr { break-inside: avoid; } }
"""
)
TILES: Final = ("accepted", "completed", "failed", "lost", "p50_ms", "p99_ms", "messages_per_task", "crashes")


def page(record: Record, pictures: Sequence[Picture] | None) -> str:
    """The whole. Args: pictures: None where they could not be drawn."""
    manifest = record.manifest
    title = f"{manifest.scenario}, seed {manifest.seed}: {verdict_of(record)[1]}"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        tag("style", _STYLE),
    )
    body = tag("body", tag("main", *_sections(record, pictures)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def held(record: Record) -> bool:
    """No check failed, and there was one that passed."""
    words = [check.word for check in record.checks]
    return "failed" not in words and "passed" in words


def _sections(record: Record, pictures: Sequence[Picture] | None) -> Iterable[Html]:
    manifest = record.manifest
    kind = "in virtual time" if manifest.kind == "run" else "real daemons"
    nodes = counted(len(record.nodes), "node")
    yield tag("p", f"edgeweave report, {kind}, {nodes}, {seconds(manifest.duration_s)}", class_="quiet")
    yield tag("h1", manifest.scenario)
    mark, verdict = verdict_of(record)
    yield tag("p", verdict, class_=f"verdict {mark}")
    yield _tiles(record)
    yield from _violations(record)
    yield tag("h2", "What was checked")
    yield _checks(record.checks)
    yield tag("h2", "What it looked like")
    if pictures is None:
        yield tag("p", "No pictures: matplotlib is missing. ", tag("code", "pip install 'edgeweave[report]'"))
    for picture in pictures or ():
        yield _figure(picture)
    yield tag("h2", "Figures")
    yield _table(
        ["figure", "value", "what it is"],
        [[name, quantity(value, unit), text] for name, value, (unit, text) in ordered(record.figures)],
        numbers={1},
    )
    yield from _faults(record)
    yield tag("h2", "Nodes")
    yield _classes(record)
    if record.notes:
        yield tag("h2", "What to bear in mind")
        yield tag("ul", *(tag("li", note) for note in record.notes))
    yield tag("h2", "To do it again")
    yield tag("pre", tag("code", manifest.command))
    yield _manifest(record)


def verdict_of(record: Record) -> tuple[str, str]:
    """(class, sentence)."""
    counts = {word: sum(check.word == word for check in record.checks) for word in SHOWN}
    aside = f", {number(counts['not applicable'])} not applicable" if counts["not applicable"] else ""
    judged = counts["passed"] + counts["failed"]
    if counts["failed"]:
        return "broken", f"Not held: {number(counts['failed'])} of {counted(judged, 'check')} failed{aside}"
    if not judged:
        return "none", f"Nothing was checked{aside}"
    every = "the one check" if judged == 1 else f"all {counted(judged, 'check')}"
    return "held", f"Held: {every} passed{aside}"


def _tiles(record: Record) -> Html:
    known = {name: (value, unit) for name, value, (unit, _) in ordered(record.figures)}
    tiles = [
        tag("div", tag("b", quantity(*known[name])), tag("span", name), class_="tile")
        for name in TILES
        if name in known
    ]
    return tag("div", *tiles, class_="tiles")


def _violations(record: Record) -> Iterable[Html]:
    broken = [check for check in record.checks if check.word == "failed"]
    if not broken:
        return
    yield tag("h2", "Violations")
    for check in broken:
        yield tag("h3", tag("span", f"✗ {check.name}", class_="failed"), f": {check.promise}")
        yield tag("pre", check.detail or "no detail")
    again = "The same seed shows them again:" if record.manifest.kind == "run" else "To play it again:"
    yield tag("p", again)
    yield tag("pre", tag("code", record.manifest.command))


def _checks(checks: Sequence[Check]) -> Html:
    if not checks:
        return tag("p", "Nothing.")
    order = ["failed", "passed", "not applicable"]
    rows = []
    for check in sorted(
        checks, key=lambda each: order.index(each.word)
    ):  # stable: else as the record has them
        sign, word = SHOWN[check.word]
        style = check.word if check.word != "not applicable" else "quiet"
        detail = "see above" if check.word == "failed" else check.detail
        rows.append(
            [tag("span", f"{sign} {word}", class_=f"word {style}"), check.name, check.promise, detail]
        )
    return tag("div", _table(["", "check", "promise", "detail"], rows, head=1, lines={3}), class_="checks")


def _figure(picture: Picture) -> Html:
    caption = picture.caption
    image = None
    if picture.png:
        data = "data:image/png;base64," + base64.b64encode(picture.png).decode()
        image = tag("div", tag("img", src=data, alt=caption.alt), class_="wide", tabindex="0")
    note = tag("figcaption", caption.note) if picture.png and caption.note else None
    return tag("figure", tag("h3", caption.title), image, note)


def _faults(record: Record) -> Iterable[Html]:
    if not record.faults:
        return
    yield tag("h2", "Faults")
    rows: list[list[Inside]] = [
        [_moment(each.at_s), each.do, each.node, "" if each.until_s is None else _moment(each.until_s)]
        for each in record.faults[:FAULTS_MAX]
    ]
    yield _table(["at", "fault", "node", "until"], rows, numbers={0, 3}, head=1)
    if len(record.faults) > FAULTS_MAX:
        yield tag("p", f"{number(len(record.faults) - FAULTS_MAX)} more are in record.json.", class_="quiet")


def _moment(at_s: float) -> str:
    return f"{at_s:.1f}{THIN}s"


def _classes(record: Record) -> Html:
    found: dict[str, list[int]] = {}
    for node in record.nodes:
        counts = found.setdefault(node.cls, [0, 0, 0, 0])
        for at, count in enumerate((1, node.up, node.accepted, node.ran)):
            counts[at] += count
    rows: list[list[Inside]] = [
        [cls, *map(number, counts)] for cls, counts in list(found.items())[:CLASSES_MAX]
    ]
    if len(found) > CLASSES_MAX:
        rows.append([f"{len(found) - CLASSES_MAX} more classes", *[""] * 4])
    return _table(
        ["class", "nodes", "up at the end", "tasks accepted", "tasks run"], rows, numbers={1, 2, 3, 4}
    )


def _manifest(record: Record) -> Html:
    manifest = record.manifest
    speed = manifest.duration_s / manifest.wall_s if manifest.wall_s else 0.0
    wall = seconds(manifest.wall_s)
    if manifest.kind == "run" and speed:
        wall += f", {number(round(speed, 1))} times as fast as it would be"
    rows: list[list[Inside]] = [
        ["seed", str(manifest.seed)],
        ["commit", manifest.commit or "not of a source tree"],
        ["fleet's time", seconds(manifest.duration_s)],
        ["our time", wall],
        ["machine", manifest.machine],
        ["versions", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))],
    ]
    if manifest.trace_hash:
        rows.append(["hash of the trace", manifest.trace_hash])
    return _table(["", ""], rows)


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Inside]],
    *,
    numbers: Iterable[int] = (),
    lines: Iterable[int] = (),
    head: int = 0,
) -> Html:
    """Args: numbers, lines: columns set as such.   head: the column that names its row."""
    styles: dict[int, str] = {**dict.fromkeys(numbers, "number"), **dict.fromkeys(lines, "lines")}
    body = [
        tag(
            "tr",
            *(
                tag("th", cell, scope="row", class_=styles.get(at))
                if at == head
                else tag("td", cell, class_=styles.get(at))
                for at, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    top = tag(
        "thead",
        tag("tr", *(tag("th", name, scope="col", class_=styles.get(at)) for at, name in enumerate(heads))),
    )
    return tag(
        "div", tag("table", top if any(heads) else None, tag("tbody", *body)), class_="wide", tabindex="0"
    )
