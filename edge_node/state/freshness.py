"""How recent what is read here is: reads are local; whoever wants more waits for news of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edge_node.state.exchange import Ask, Exchange
from security.errors import BadInput, Unavailable

WAIT_S: Final = 5.0
WAIT_S_MAX: Final = 60.0
AGE_S_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """Of whom everything is here that they had written *max_age_s* before, and of whom that is not known.

    True if all live members were reached.
    """

    reached: tuple[str, ...]
    missing: tuple[str, ...]
    max_age_s: float

    def __bool__(self) -> bool:
        return not self.missing


def fresh(max_age_s: float, wait_s: float, strict: bool) -> Exchange[Freshness]:
    """Raises: BadInput.   Unavailable: *strict*, and some live members were not reached."""
    if not 0 <= max_age_s <= AGE_S_MAX:
        raise BadInput(f"an age of {max_age_s} s", fix=f"choose 0 (as of now) to {AGE_S_MAX:g} seconds")
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise BadInput(f"waiting {wait_s} s", fix=f"choose 0 to {WAIT_S_MAX:g} seconds")
    answer: dict[str, Any] = yield Ask(
        "state.fresh", {"max_age_s": float(max_age_s), "wait_s": float(wait_s)}
    )
    found = Freshness(tuple(answer["reached"]), tuple(answer["missing"]), float(max_age_s))
    if strict and not found:
        raise Unavailable(
            f"not heard of within {max_age_s:g} s: {', '.join(found.missing)}",
            fix="go on with what is here (strict=False), or wait for them",
        )
    return found
