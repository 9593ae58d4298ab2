"""What `deploy/` asks Prometheus: every expression of the alert rules and of the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from gateway.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
EXAMPLE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "edgeweave.json"
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*", "$node": ".*"}
OF_OTHERS = {"up": (), "node_textfile_mtime_seconds": ("file",)}
"""Metrics of Prometheus itself and of node_exporter, with their labels."""
_OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        found += [panel, *panel.get("panels", [])]
    return [panel for panel in found if panel["type"] != "row"]


def files_of_deploy() -> Iterator[tuple[str, str]]:
    """(where it stands, expression)."""
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]


def parsed(expression: str) -> Any:
    """Raises: ValueError: it is no PromQL."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return promql_parser.parse(expression)


def names_in(expression: str, where: str) -> set[str]:
    """The metrics of ours that it reads; a histogram by its own name. Raises: AssertionError: no PromQL."""
    try:
        names = {selector.name for selector in selectors(parsed(expression))}
    except ValueError as error:
        raise AssertionError(f"{where}: {expression}: {error}") from None
    return {whole(each) for each in names - set(OF_OTHERS)}


def whole(name: str) -> str:
    for end in _OF_A_HISTOGRAM:
        base = name.removesuffix(end)
        if base != name and base in METRICS and METRICS[base].kind == "histogram":
            return base
    return name


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector of a parsed expression."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        yield node
    elif kind == "MatrixSelector":
        yield node.vector_selector
    elif kind == "BinaryExpr":
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif kind == "Call":
        for each in node.args:
            yield from selectors(each)
    elif kind in ("AggregateExpr", "UnaryExpr", "ParenExpr", "SubqueryExpr"):
        yield from selectors(node.expr)
    else:
        assert kind in ("NumberLiteral", "StringLiteral"), kind
