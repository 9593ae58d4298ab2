"""A task, its attempts, how it ended, and the records by which its owner remembers it.

Plain data. Structs are array-shaped and append-only: a new field goes last and has a default, so that a
journal of the previous version stays readable. Wall times (`*_at_ms`) are for people; nothing decides by
them except what is left of a deadline after a restart.
"""

from __future__ import annotations

import msgspec

from security.certificates import RELEASED_S

ANY = "any"
LOCAL = "local"
KNOWN_MS = RELEASED_S * 1000
"""A stamp before the release is of a clock that did not know the time."""
INPUT_BYTES_MAX = 8 * 2**20
"""A body is at most 8 MiB; more is a blob that the caller names by digest."""
INLINE_BYTES_MAX = 16 * 1024
"""Arguments up to here ride along with an offer; larger ones are fetched by digest after it."""
DAY_MS = 24 * 3600 * 1000


class Task(msgspec.Struct, frozen=True, array_like=True):
    """What the owner promised to get done."""

    id: str
    function: str
    digest: bytes  # SHA-256 of the bundle
    input: bytes  # encoded arguments, <= INPUT_BYTES_MAX
    input_sha256: bytes
    origin: str  # the owner's node id
    where: str = ANY  # "any" | "local" | "gateway" | a node id
    priority: int = 0
    accepted_at_ms: int = 0  # wall time
    deadline_ms: int | None = None  # from acceptance; None: whenever
    ttl_ms: int = DAY_MS  # from acceptance
    timeout_s: float = 60.0
    memory_mb: int = 256
    requires: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    trace: str = ""  # of its caller, see `tasks.tracing`; empty: none


DIED, DIED_OF_ANOTHER, LAPSED = "worker died", "worker died of another call", "lapsed"


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try at one place. `ended_as`: "done", "failed", "refused: <reason>", "lapsed", "handed back",
    "worker died", "worker died of another call" (it had not begun), "cancelled", "expired",
    "lost in a restart", or empty while it runs."""

    number: int
    node: str
    pid: int = 0
    started_at_ms: int = 0
    ended_at_ms: int = 0
    ended_as: str = ""
    granted_at_ms: int = 0  # when it was given to its place, by the owner's clock; of traced tasks only


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """The terminal record: there is exactly one for every accepted task."""

    status: str  # states.Status
    output: bytes = b""  # encoded value when done
    error: bytes = b""  # encoded TaskError when failed or quarantined
    log: bytes = b""  # what the function printed
    settled_at_ms: int = 0
    attempts: tuple[Attempt, ...] = ()
    place: str = ""  # "local" | "gateway" | a node id; empty: it never ran
    cause: str = ""  # one sentence, for people
    run_us: int = 0
    cpu_us: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """Record: from here on the task is kept."""

    task: Task


class Fenced(msgspec.Struct, frozen=True):
    """Record: attempt `attempts[-1].number` may be out there; no number is ever used twice."""

    task_id: str
    attempts: tuple[Attempt, ...]


class Closed(msgspec.Struct, frozen=True):
    """Record: the terminal one."""

    task_id: str
    outcome: Outcome


class Noted(msgspec.Struct, frozen=True):
    """Record: something worth telling later (a late duplicate, a lapse); nothing depends on it."""

    task_id: str
    at_ms: int
    text: str


Record = Accepted | Fenced | Closed | Noted
