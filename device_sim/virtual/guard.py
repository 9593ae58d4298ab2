"""The guard: inside the world nothing may look at, or touch, what is outside.

Not here: what is used instead (``clocks``, ``world.rng``, ``world.entropy``, ``loop``, ``processor``).
"""

from __future__ import annotations

from security.errors import EdgeweaveError


class LeakedOutside(EdgeweaveError, RuntimeError):
    """Code in the world reached for the machine: a run would no longer be a function of its seed."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(f"the virtual world was left through {what}", fix=fix)
