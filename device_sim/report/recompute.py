"""Some of the results, computed again right here and compared byte by byte.

The mesh ran a bundle by its digest in a worker somewhere; here the same file is imported as plain Python and
called. Both encodings must be equal. It runs the scenario's own functions in this process: they are code
that whoever starts the fleet has deployed to it anyway.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_sim.devices.series import Series
from device_sim.report.account import Promise
from edge_node.functions import values
from security.errors import BadInput


@dataclass(slots=True)
class Recomputed:
    checked: int = 0
    differing: list[str] = field(default_factory=list)  # task ids


def recompute(
    promises: Sequence[Promise],
    series: Mapping[str, Series],
    sources: Sequence[Path],
    *,
    count: int,
    seed: int,
) -> Recomputed:
    """Compare up to *count* results drawn among those that are done.

    Args: series: by node, what its windows were taken from.   sources: the files that were deployed.
    """
    done = sorted((each for each in promises if each.status == "done"), key=lambda each: each.id)
    drawn = random.Random(seed).sample(done, min(count, len(done)))  # noqa: S311 (a sample, not a secret)
    modules = {path.stem: _imported(path) for path in sources}
    found = Recomputed()
    for promise in drawn:
        stem, _, name = promise.function.partition(".")
        window = series[promise.node].window(*promise.rows)
        args, more = values.decode_call(values.encode_call((window,), dict(promise.arguments)))
        found.checked += 1
        if _digest(getattr(modules[stem], name), args, more) != promise.output_sha256:
            found.differing.append(promise.id)
    return found


def _digest(function: Callable[..., Any], args: Sequence[Any], more: Mapping[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            value = function(*args, **more)
        except Exception as error:  # a door: the function is the scenario's, and the mesh said it went well
            return f"raised {type(error).__name__}"
    return hashlib.sha256(values.encode(value)).hexdigest()


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"edgeweave_recomputed_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} cannot be imported", fix="it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
