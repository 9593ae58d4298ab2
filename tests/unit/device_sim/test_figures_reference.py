"""docs/scenario.md names every figure as the glossary does."""

from __future__ import annotations

from pathlib import Path

from device_sim.report.assertions import parse
from device_sim.report.glossary import FIGURES, Meaning, ordered

PAGE = Path(__file__).resolve().parents[3] / "docs" / "scenario.md"


def rows() -> list[list[str]]:
    table = PAGE.read_text().split("<!-- figures:", 1)[1].split("<!-- end of figures -->", 1)[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_figures_is_the_glossary():
    told = {name.strip("`"): Meaning("" if unit == "count" else unit, text) for name, unit, text in rows()}

    assert list(told.items()) == list(FIGURES.items())


def test_every_figure_can_be_asserted_of():
    for name in FIGURES:
        assert parse(f"{name} >= 0").name == name


def test_figures_are_shown_in_the_glossarys_order_and_unknown_ones_last():
    shown = [name for name, _, _ in ordered({"zeal": 1.0, "p99_ms": 2.0, "accepted": 3.0, "care": 4.0})]

    assert shown == ["accepted", "p99_ms", "care", "zeal"]
