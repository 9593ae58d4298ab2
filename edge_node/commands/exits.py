"""How an error leaves a process: its exit code and its one line.

    0 done   1 the task failed   2 bad input   3 unavailable   4 refused   70 a mistake of ours   130 Ctrl-C

With ``--json`` an error is ``{"error": {"code", "message", "fix"}}`` on stdout, else one line on stderr.
Standard library only: daemons end through this room too.
"""

from __future__ import annotations

import json
from typing import Any, Final

from edge_node.client import DeadlineExceeded, TaskCancelled, TaskFailed
from security.errors import BadInput, EdgeweaveError, Refused

DONE: Final = 0
TASK_FAILED: Final = 1
BAD_INPUT: Final = 2
UNAVAILABLE: Final = 3
REFUSED: Final = 4
OUR_MISTAKE: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130
LINE_CHARS_MAX: Final = 600
"""Of a cause, and of a fix: some quote what was written, which may be a file of its own."""


def code_of(error: BaseException) -> tuple[int, str]:
    """Exit code, and the same as a word for ``--json``."""
    match error:
        case TaskFailed():
            return TASK_FAILED, "task_failed"
        case DeadlineExceeded():
            return TASK_FAILED, "deadline_exceeded"
        case TaskCancelled():
            return TASK_FAILED, "cancelled"
        case BadInput():
            return BAD_INPUT, "bad_input"
        case Refused():
            return REFUSED, "refused"
        case EdgeweaveError():  # Unavailable, and a peer that does not keep to the protocol
            return UNAVAILABLE, "unavailable"
        case KeyboardInterrupt():
            return INTERRUPTED, "interrupted"
    return OUR_MISTAKE, "internal"


def as_json(error: BaseException) -> str:
    """One line of JSON for stdout."""
    _, word = code_of(error)
    message, fix = cause_and_fix(error)
    told: dict[str, Any] = {"code": word, "message": message, "fix": fix}
    match error:
        case TaskFailed():
            told |= {"task": error.task, "kind": error.kind, "remote_traceback": error.remote_traceback}
        case DeadlineExceeded() | TaskCancelled():
            told |= {"task": error.task}
    return json.dumps({"error": told}, ensure_ascii=False)


def as_line(error: BaseException, program: str) -> str:
    """One line for stderr."""
    message, fix = cause_and_fix(error)
    return f"{program}: {message}: {fix}" if fix else f"{program}: {message}"


def cause_and_fix(error: BaseException) -> tuple[str, str]:
    """Both on one line each."""
    if isinstance(error, EdgeweaveError):
        return _line(error.cause), _line(error.fix)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ""
    return _line(f"{type(error).__name__}: {error}"), ""


def _line(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= LINE_CHARS_MAX:
        return line
    return f"{line[: LINE_CHARS_MAX - 100]} … {line[-90:]}"  # its beginning says what, its end why
