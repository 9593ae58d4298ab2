"""Trace context: which caller's trace a task belongs to, carried with it wherever it goes.

    traceparent, tracestate ─► parsed ─► Task.trace ─► Offer.trace ─► the run: TRACEPARENT, TRACESTATE
                                             └─► settled ─► spans (``edge_node.telemetry``)

Kept as one text: the traceparent in version 00, and behind a space the tracestate, if there is one; empty for
most tasks. It travels as the caller gave it. The ids of our spans are not drawn but follow from the task's id
and the attempt's number, so owner and holder name the same span without a word, also after a restart.

Source: W3C, Trace Context Level 1, sections 3.2 (traceparent), 3.3 (tracestate) and 4.3 (processing).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from security.errors import BadInput

TRACEPARENT_CHARS: Final = 55
STATE_CHARS_MAX: Final = 512
"""What 3.3.1.5 asks to be passed on at least; more is a caller's text in every row and message of a task."""
STATE_MEMBERS_MAX: Final = 32
TRACE_CHARS_MAX: Final = TRACEPARENT_CHARS + 1 + STATE_CHARS_MAX
_LARGE_MEMBER_CHARS: Final = 128
_RECEIVED_CHARS_MAX: Final = 16 * 1024
_FIRST = "00"
_SAMPLED = 0x01

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


def parsed(traceparent: str, tracestate: str = "") -> str:
    """As a task keeps it; empty: the traceparent is none, so the tracestate counts for nothing either.

    Of a later version the fields of 00 are taken; of the flags, "sampled" alone. A tracestate that is
    malformed is left out, one that is too long is cut as 3.3.1.5 says: large members first, then the last.
    """
    if len(traceparent) > _RECEIVED_CHARS_MAX:
        return ""
    match = _PARENT.fullmatch(traceparent)
    if match is None:
        return ""
    version, trace, parent, flags, more = match.groups()
    if version == "ff" or (version == _FIRST and more) or not (int(trace, 16) and int(parent, 16)):
        return ""
    kept = f"{_FIRST}-{trace}-{parent}-{int(flags, 16) & _SAMPLED:02x}"
    state = _state(tracestate) if tracestate else ""
    return f"{kept} {state}" if state else kept


def checked(traceparent: str, tracestate: str = "") -> str:
    """As ``parsed``, of a caller that has to be told. Both empty: none. Raises: BadInput."""
    if not traceparent and not tracestate:
        return ""
    trace = parsed(traceparent, tracestate)
    if not trace:
        raise BadInput(
            f"{traceparent!r:.80} is no traceparent",
            fix="write it as W3C Trace Context does: 00-<32 hex digits>-<16 hex digits>-01, in small letters",
        )
    return trace


def begun(chance: bytes) -> str:
    """A trace that begins here, sampled. Args: chance: 24 random bytes."""
    trace, parent = int.from_bytes(chance[:16], "big") or 1, int.from_bytes(chance[16:24], "big") or 1
    return f"{_FIRST}-{trace:032x}-{parent:016x}-01"


def parts(trace: str) -> tuple[str, str]:
    """(traceparent, tracestate) of what a task keeps; both may be empty."""
    return trace[:TRACEPARENT_CHARS], trace[TRACEPARENT_CHARS + 1 :]


def is_sampled(trace: str) -> bool:
    """Does its caller record it?"""
    return trace[TRACEPARENT_CHARS - 2 : TRACEPARENT_CHARS] == "01"


def trace_id(trace: str) -> str:
    return trace[3:35]


def parent_id(trace: str) -> str:
    """The caller's span."""
    return trace[36:52]


def span_id(task: str, what: str, attempt: int = 0) -> str:
    """Of one span of ours, 16 hex digits. Args: what: "task", "attempt" or "run"."""
    digest = hashlib.sha256(f"edgeweave span\n{task}\n{what}\n{attempt}".encode()).digest()
    return f"{int.from_bytes(digest[:8], 'big') or 1:016x}"


def of_run(trace: str, task: str, attempt: int) -> str:
    """What the function is given: its caller is this run. Empty: a peer sent what is no trace."""
    trace = parsed(*parts(trace))
    if not trace:
        return ""
    return f"{trace[:36]}{span_id(task, 'run', attempt)}{trace[52:]}"


def _state(text: str) -> str:
    """Its members, bounded; empty: it is malformed."""
    if len(text) > _RECEIVED_CHARS_MAX:
        return ""
    members = [each.strip(" \t") for each in text.split(",")]
    members = [each for each in members if each]  # an empty one is allowed, and says nothing
    keys = [each.partition("=")[0] for each in members]
    if len(members) > STATE_MEMBERS_MAX or len(set(keys)) < len(keys):
        return ""
    if not all(_MEMBER.fullmatch(each) for each in members):
        return ""
    for at in range(len(members) - 1, -1, -1):
        if _length(members) <= STATE_CHARS_MAX:
            break
        if len(members[at]) > _LARGE_MEMBER_CHARS:
            del members[at]
    while _length(members) > STATE_CHARS_MAX:
        members.pop()
    return ",".join(members)


def _length(members: list[str]) -> int:
    return sum(len(each) + 1 for each in members) - 1
