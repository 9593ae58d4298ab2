"""``@function``: marks a plain Python function as one that the mesh may run.

The marked function is returned itself, with its wishes noted on it: calling it, testing it and importing
its file need no mesh. The mesh never imports a file to learn these wishes (``manifest`` reads them from
the syntax tree, so they must be literals); here they are checked for the person at the keyboard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

MARK = "__edgeweave__"  # the attribute that a marked function bears

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MEMORY_MB = 256
DEFAULT_OUTPUT_BYTES_MAX = 8 * 1024 * 1024


@overload
def function(fn: F, /) -> F: ...
@overload
def function(
    *,
    timeout_s: float = ...,
    memory_mb: int = ...,
    requires: Sequence[str] = ...,
    labels: Mapping[str, str] | None = ...,
    output_bytes_max: int = ...,
) -> Callable[[F], F]: ...
def function(
    fn: F | None = None,
    /,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    memory_mb: int = DEFAULT_MEMORY_MB,
    requires: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    output_bytes_max: int = DEFAULT_OUTPUT_BYTES_MAX,
) -> F | Callable[[F], F]:
    """Offer a function to the mesh; usable bare (``@function``) or with wishes.

    Args:
        timeout_s: seconds that one run may take on a worker; > 0.
        memory_mb: megabytes that a run may add to an idle worker; > 0.
        requires: modules that must be importable where it runs, by import name.
        labels: labels that a node must bear to run it.
        output_bytes_max: largest encoded result; at most 8 MiB.
    """

    def mark(target: F) -> F:
        setattr(
            target,
            MARK,
            {
                "timeout_s": timeout_s,
                "memory_mb": memory_mb,
                "requires": list(requires),
                "labels": dict(labels or {}),
                "output_bytes_max": output_bytes_max,
            },
        )
        return target

    return mark if fn is None else mark(fn)
