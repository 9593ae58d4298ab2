"""Asking: what a client's request must be to become a task; everything else is refused at the door.

The function is known, its arguments fit the signed manifest, the input is not too large, deadline and ttl lie
ahead. In: a request, the catalogue, the moment. Out: a ``Task``. Whether the node has room for it is the
desk's word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from edge_node.control import protocol
from edge_node.functions import values
from edge_node.functions.arguments import check_arguments
from edge_node.functions.catalogue import Catalogue
from edge_node.functions.manifest import Manifest
from edge_node.tasks.task import INPUT_BYTES_MAX, Task
from edge_node.tasks.tracing import checked
from edge_node.wire.ids import task_id
from security.errors import BadInput

LABELS_MAX = 32  # as many as a function's manifest may ask for


class Known(Protocol):
    """What can be asked for: ``functions.publishing.Publisher``."""

    @property
    def catalogue(self) -> Catalogue: ...
    def manifest_of(self, name: str, digest: bytes) -> Manifest | None: ...


def task_of(
    request: protocol.Submit | protocol.Run,
    *,
    origin: str,
    known: Known,
    wall_ms: int,
    ttl_ms: int,
    entropy: Callable[[int], bytes],
) -> Task:
    """The task that *request* asks for. Args: ttl_ms: where the request names none.

    Raises: BadInput: it asks for something that cannot be done; naming cause and fix.
    """
    if len(request.input) > INPUT_BYTES_MAX:
        raise BadInput(
            f"the arguments take {len(request.input) / 1e6:.1f} MB, at most 8.4 MB fit a task",
            fix="split the input into smaller windows",
        )
    entry = known.catalogue.current(request.function)
    manifest = known.manifest_of(entry.name, entry.digest)
    assert manifest is not None, "the current entry is in the history"
    args, kwargs = values.decode_call(request.input)
    check_arguments(manifest, args, kwargs)
    if request.deadline_ms is not None and request.deadline_ms <= 0:
        raise BadInput("the deadline lies in the past", fix="give the seconds from now, more than 0")
    if request.ttl_ms is not None and request.ttl_ms <= 0:
        raise BadInput("the ttl lies in the past", fix="give the seconds from now, more than 0")
    return Task(
        id=task_id(wall_ms, entropy(8)),
        function=entry.name,
        digest=entry.digest,
        input=request.input,
        input_sha256=hashlib.sha256(request.input).digest(),
        origin=origin,
        where=request.where,
        priority=request.priority,
        accepted_at_ms=wall_ms,
        deadline_ms=request.deadline_ms,
        ttl_ms=request.ttl_ms if request.ttl_ms is not None else ttl_ms,
        timeout_s=manifest.timeout_s,
        memory_mb=manifest.memory_mb,
        requires=tuple(manifest.requires),
        labels=_labels(request, manifest.labels),
        trace=checked(request.traceparent, request.tracestate),
    )


def _labels(request: protocol.Submit | protocol.Run, wanted: dict[str, str]) -> dict[str, str]:
    """What a place must bear: what the signed function asks for, and what the caller adds to it."""
    if not request.labels:
        return dict(wanted)
    if len(request.labels) > LABELS_MAX:
        raise BadInput(f"{len(request.labels)} labels are asked for, at most {LABELS_MAX} can be")
    for key, value in request.labels.items():
        if wanted.get(key, value) != value:
            raise BadInput(
                f"{request.function} runs only where {key}={wanted[key]}, not {value}",
                fix=f"leave {key} out of the labels asked for",
            )
    return wanted | request.labels
