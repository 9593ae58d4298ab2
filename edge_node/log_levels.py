"""Log levels, changed while the daemon runs, for a while: to look at what happens now, not to be forgotten.

    set(logger, level, for_s) ─► that logger's level ─► for_s later: what it was before the first change

What shall stay is a setting (``[log] level``). Only loggers that exist can be named; a name above them
(``edge_node``) means all of them, the empty one everything. A level below the setting reaches the file;
stderr stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from security.errors import BadInput

LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT: Final = "default"
FOR_S_DEFAULT: Final = 600.0
FOR_S_MAX: Final = 86_400.0
CHANGED_MAX: Final = 64
"""Loggers that differ at once; there are about as many."""

log = logging.getLogger(__name__)


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True)
class _Changed:
    before: int
    """The level that it had; 0: that of the logger above."""
    for_s: float
    timer: Timer


class LogLevels:
    """Args: later: calls something after some seconds; ``loop.call_later``."""

    def __init__(self, later: Callable[[float, Callable[[], None]], Timer]) -> None:
        self._later = later
        self._changed: dict[str, _Changed] = {}

    def asked(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method ``log-level``: change a level, or without ``level`` tell what differs.

        Args: params: level (of ``LEVELS``, or ``default``: back now), logger, for_s.
        Returns: logger, its level now, and what differs now.   Raises: BadInput.
        """
        name, level = params.get("logger", ""), params.get("level", "")
        if not isinstance(name, str) or not isinstance(level, str):
            raise BadInput("logger and level are texts")
        check_known(name)
        if level == DEFAULT:
            self._back(name)
        elif level:
            self._set(name, level, params.get("for_s", FOR_S_DEFAULT))
        return {"logger": name, "level": level_of(name), "changed": self.changed()}

    def changed(self) -> list[dict[str, Any]]:
        """What differs now, by name."""
        return [
            {
                "logger": name,
                "level": level_of(name),
                "before": logging.getLevelName(one.before).lower() if one.before else "",
                "for_s": one.for_s,
            }
            for name, one in sorted(self._changed.items())
        ]

    def _set(self, name: str, level: str, for_s: object) -> None:
        if level not in LEVELS:
            raise BadInput(f"{level!r:.40} is no level", fix=f"choose {', '.join(LEVELS)} or {DEFAULT}")
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 1 <= for_s <= FOR_S_MAX:
            raise BadInput("a level is changed for 1 s to 24 h", fix="for longer, set [log] level")
        if name not in self._changed and len(self._changed) >= CHANGED_MAX:
            raise BadInput(f"{CHANGED_MAX} levels differ already", fix=f"set some back: --level {DEFAULT}")
        held = self._changed.get(name)
        if held is not None:
            held.timer.cancel()
        before = logging.getLogger(name).level if held is None else held.before
        timer = self._later(for_s, lambda: self._back(name))
        self._changed[name] = _Changed(before, for_s, timer)
        logging.getLogger(name).setLevel(level.upper())
        log.info("log level changed", extra={"of": name or "all", "to": level, "for_s": for_s})

    def _back(self, name: str) -> None:
        held = self._changed.pop(name, None)
        if held is None:
            return
        held.timer.cancel()
        logging.getLogger(name).setLevel(held.before)
        log.info("log level is back", extra={"of": name or "all", "to": level_of(name)})


def check_known(name: str) -> None:
    """Raises: BadInput: no logger bears this name, nor any below it."""
    if name and not _is_known(name):
        known = logging.Logger.manager.loggerDict
        ours = sorted({each.partition(".")[0] for each in known} & {"edge_node", "gateway"})
        raise BadInput(
            f"no logger is named {name!r:.110}",
            fix=f"the log's key `logger` names them; {' and '.join(ours) or 'edge_node'} mean all of ours",
        )


def level_of(name: str) -> str:
    """The level that counts for a logger: its own, or that of one above; "" if there is none of that name."""
    if name and not _is_known(name):
        return ""  # asking for it would make it, and keep it for ever
    return logging.getLevelName(logging.getLogger(name or None).getEffectiveLevel()).lower()


def _is_known(name: str) -> bool:
    return name in logging.Logger.manager.loggerDict
