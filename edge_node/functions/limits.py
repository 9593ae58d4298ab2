"""What a run may use up, and how each bound is held.

| bound | held by |
|---|---|
| time | the pool kills the worker's process group and starts another (checked every <= 25 ms) |
| memory | the pool samples the worker's resident size every 25 ms and kills it when it has grown by more than ``memory_mb`` since it was last idle; RLIMIT_DATA behind it refuses one large allocation at once |
| output | the worker refuses to send it |
| prints | the worker keeps the first 64 KiB of a run, the rest is counted and dropped |
| core dumps | RLIMIT_CORE 0 |
| BLAS threads | one a worker, by environment |

**Not held**: same-user Python is not a sandbox. A function can read what the daemon's user can read, raise
its own soft limits, leave threads behind, leave its process group and outlive its worker, or start
processes until the machine is full: RLIMIT_NPROC is set, but it counts a user's processes together and
does not bind root (fork bombs need an own uid or a pids cgroup). Memory of child processes is not counted.
When the *daemon* is killed its workers die with it (PR_SET_PDEATHSIG); children that a function had
started are orphaned then.
"""  # noqa: E501

from __future__ import annotations

import msgspec

MIB = 1024 * 1024

LOG_BYTES_MAX = 64 * 1024  # of one run; a print loop must not fill the ledger
OUTPUT_BYTES_MAX = 8 * MIB  # what a body may be on the wire
TRACEBACK_CHARS_MAX = 16 * 1024
MESSAGE_CHARS_MAX = 2 * 1024
ERROR_BYTES_MAX = 96 * 1024  # encoded, beside the log: a result has to fit one parcel

PIPELINE_EXPECTED_S = 0.005  # only runs shorter than this share a pipe: a pipe hop is ~0.1 ms
PIPELINE_DEPTH = 32
PIPELINE_BACKLOG_S = 0.05  # never more expected work than this in one pipe: it cannot be taken back


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a worker pool."""

    start_timeout_s: float = 20.0  # a worker that is not ready by then is killed
    import_timeout_s: float = 30.0  # first import of a bundle on a worker; not counted as run time
    sample_s: float = 0.025  # of time and memory while something runs; halving it doubles ~0.1 % CPU
    recycle_mb: int = 256  # an idle worker that kept more than this is replaced
    recycle_bundles: int = 64  # modules a worker keeps before it is replaced
    frame_bytes_max: int = 64 * MIB  # of one frame from a worker; a function may write nonsense there
    restart_delay_s_max: float = 5.0  # between attempts when workers do not start
    processes_max: int = 512  # RLIMIT_NPROC: above what the user has when a worker starts; not for root


def size_text(count: int) -> str:
    """12.3 MB: decimal units, as people compare them."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}".replace(".0 ", " ")
    return f"{count} bytes"
