"""Documents: replicated tables as rows and texts for a reader, and back. A core.

In: documents as the API gives them, what a reader typed. Out: columns, cells, JSON, queries.
Not here: pages (`pages.state`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from edge_node.commands.conditions import parsed
from gateway.console import words
from security.errors import BadInput

COLUMNS_MAX: Final = 7
"""Fields beside the key that get a column: more do not fit on a screen."""
CELL_CHARS: Final = 60


def columns(documents: Iterable[Mapping[str, Any]], key: str | None) -> list[str]:
    """The fields that most documents have: the key first, then by how many have it, then by name."""
    found = Counter(name for each in documents for name in each)
    found.pop(key or "", None)
    ranked = sorted(found, key=lambda name: (-found[name], name))
    return ([key] if key else []) + sorted(ranked[:COLUMNS_MAX])


def rest(document: Mapping[str, Any], shown: Sequence[str]) -> str:
    """Fields without a column, in one short text."""
    left = {name: value for name, value in document.items() if name not in shown}
    return ", ".join(f"{name} {cell(value)}" for name, value in sorted(left.items()))


def cell(value: Any) -> str:
    """A value in a few characters: text as it is, everything else as JSON."""
    return words.value(value, CELL_CHARS)


def pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True)


def value(text: str) -> Any:
    """What a reader typed as one value: JSON. Raises: BadInput, with the place."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            fix='write JSON: 21.5, true, null, [1, 2], or a text in quotes, "low"',
        ) from None
    except RecursionError:
        raise BadInput("the value is nested too deeply", fix="keep it flat") from None


def fields(text: str) -> dict[str, Any]:
    """What a reader typed as a document. Raises: BadInput."""
    found = value(text)
    if not isinstance(found, dict):
        raise BadInput("a document is an object", fix='write {"field": value}')
    return found


def where(text: str) -> str:
    """A filter as the API takes it: ``setpoint_c > 25``, or the query itself as a JSON list; "" for none.

    Raises: BadInput: with the place in *text*.
    """
    text = text.strip()
    if not text:
        return ""
    if text.startswith("["):
        value(text)
        return text
    return json.dumps(parsed(text), ensure_ascii=False)


def said(document: Mapping[str, Any], key: str | None, doc_id: str) -> str:
    """What a reader calls a document: its key's value, else its id."""
    name = document.get(key) if key else None
    return cell(name) if name not in (None, "") else doc_id


def sides(desired: Mapping[str, Any], reported: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(setting, desired, reported, verdict) of a twin, by name. "" where a side says nothing.

    verdict: same, differs, not reported, only reported.
    """
    found = []
    for name in sorted({*desired, *reported}):
        if name not in desired:
            verdict = "only reported"
        elif name not in reported:
            verdict = "not reported"
        else:
            verdict = "same" if json.dumps(desired[name]) == json.dumps(reported[name]) else "differs"
        wished = cell(desired[name]) if name in desired else ""
        found.append((name, wished, cell(reported[name]) if name in reported else "", verdict))
    return found


def _no_constant(name: str) -> Any:
    raise BadInput(f"{name} is no JSON", fix="use null, or a text")
