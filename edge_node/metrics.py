"""Metrics: what a daemon tells of itself, as Prometheus reads it (text format 0.0.4).

    status, durations (plain data, over the control socket) ─┐
    the home: certificates, disk                             ├─► families ─► text
    /proc of the daemon                                      ┘

Made by whoever asks (`edge-node metrics`, the gateway's `/metrics`), not by the daemon of a node, which loads
nothing of this. ``METRICS`` is the table of all there are; the documents are compared with it. Names are
Prometheus' convention: base units, ``_total`` for what only grows. The client library is not used: it is no
part of what a node installs, and of it only the twenty lines of ``text`` would be used; a test has it read
and write the same. Not ``process_*``: with those names node_exporter tells of itself, and it would refuse
a file that has them too.

Labels are bounded: members by the roster, everything else by ``LABELS_MAX``. Whatever an older daemon does
not tell is left out, never told as 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from security.errors import BadInput

Kind = Literal["counter", "gauge", "histogram"]
Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""(name of a metric without what a histogram adds, labels, value)."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABELS_MAX: Final = 64
"""Values of one label that come from others (reasons, kinds): the rest is added up as ``(the rest)``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is known of a metric before anything is measured."""

    kind: Kind
    labels: tuple[str, ...]
    help: str


METRICS: Final[dict[str, Metric]] = {}


def _add(kind: Kind, name: str, about: str, *labels: str) -> None:
    assert name not in METRICS and (kind == "counter") == name.endswith("_total")
    METRICS[name] = Metric(kind, labels, about)


_add("gauge", "edgeweave_up", "1: the daemon of this home answers.")
_add("gauge", "edgeweave_info", "Always 1; says who and what this is.", "node", "mesh", "version")
_add("gauge", "edgeweave_uptime_seconds", "Since the daemon's start.")
_add("gauge", "edgeweave_member", "1: listed as an active member.")
_add("gauge", "edgeweave_draining", "1: shutting down, or told to take no work.")
_add("gauge", "edgeweave_roster_version", "Version of the member list held here.")
_add("gauge", "edgeweave_roster_members", "Active members on it.")
_add("gauge", "edgeweave_roster_stale", "1: it was not signed again in time.")
_add("gauge", "edgeweave_broker_connected", "1: the link to the broker is up.")
_add("gauge", "edgeweave_peers", "Members that this one remembers, by what it believes of them.", "state")
_add("gauge", "edgeweave_group_epoch", "Number of the group key's epoch.")
_add("gauge", "edgeweave_group_epoch_timestamp_seconds", "When that epoch was made.")
_add("counter", "edgeweave_group_refused_total", "Messages to the group that were not believed.", "reason")

_add("counter", "edgeweave_tasks_accepted_total", "Tasks accepted here: on disk, and promised.")
_add("counter", "edgeweave_tasks_settled_total", "Tasks of ours that ended, by how.", "status")
_add("counter", "edgeweave_tasks_done_total", "Of those that are done: where they ran.", "place")
_add("counter", "edgeweave_tasks_refused_total", "Tasks that were not accepted, by why.", "reason")
_add("gauge", "edgeweave_tasks_open", "Tasks of ours that were accepted and have not ended.")
_add("gauge", "edgeweave_tasks_open_bytes", "Bytes of their arguments.")
_add("gauge", "edgeweave_tasks_queued", "Tasks that wait for a worker here, whoever's they are.")
_add("gauge", "edgeweave_tasks_running", "Tasks that run here.")
_add("gauge", "edgeweave_task_backlog_seconds", "Until the workers here were through with them.")
_add("gauge", "edgeweave_task_leases", "Tasks of ours that others hold.")
_add("counter", "edgeweave_task_leases_lapsed_total", "Holders that fell silent: the task came back.")
_add("counter", "edgeweave_task_redispatches_total", "Attempts that were sent somewhere.")
_add("counter", "edgeweave_task_duplicates_total", "Results of attempts that did not count any more.")
_add("counter", "edgeweave_offers_refused_total", "Offers to others that they did not take.", "reason")
_add("counter", "edgeweave_worker_deaths_total", "Workers that died under a task.")
_add("gauge", "edgeweave_outbox_tasks", "Tasks that wait for one member.", "node")
_add("gauge", "edgeweave_outbox_bytes", "Bytes of their arguments.", "node")
_add("histogram", "edgeweave_task_seconds", "From acceptance to end.")
_add("histogram", "edgeweave_task_run_seconds", "Inside the function.")
_add("histogram", "edgeweave_task_queue_seconds", "The same without the run: waiting, and on the way.")

_add("gauge", "edgeweave_store_writable", "1: accepts can be written; 0: read-only.")
_add("counter", "edgeweave_store_bytes_written_total", "Log that a store has written.", "store")
_add(
    "counter",
    "edgeweave_disk_bytes_written_total",
    "At block devices, by the daemon alone; the kernel counts.",
)
_add("gauge", "edgeweave_disk_free_bytes", "Free for this user on the home's file system.")
_add("gauge", "edgeweave_disk_size_bytes", "Size of the home's file system.")
_add("gauge", "edgeweave_ledger_damaged", "Ledgers that were set aside as damaged and still lie there.")
_add("gauge", "edgeweave_ledger_lost_tasks", "Tasks that are known to have been lost with them.")

_add("counter", "edgeweave_link_bytes_total", "MQTT bytes of messages, before TLS.", "direction")
_add("counter", "edgeweave_link_refused_total", "Messages of others that were not believed.", "reason")
_add("counter", "edgeweave_link_unsent_total", "Messages that the link did not take; sent again.", "reason")
_add("gauge", "edgeweave_link_line_bytes_per_second", "What the line to the broker carries, measured.")
_add("counter", "edgeweave_link_made_anew_total", "Links that did not get on and were cut by us.")

_add("gauge", "edgeweave_table_keys", "Keys of the replicated tables held here.")
_add("gauge", "edgeweave_table_bytes", "Bytes of them.")
_add("gauge", "edgeweave_table_conflicts", "Fields that two members wrote without knowing of each other.")
_add("gauge", "edgeweave_table_log_batches", "Batches of writes kept for members that may lack them.")
_add("gauge", "edgeweave_table_log_bytes", "Bytes of them.")
_add("gauge", "edgeweave_table_batches_waiting", "Batches that wait for what they build on.")
_add("gauge", "edgeweave_table_batches_quarantined", "Of those: stamped by a clock that runs ahead.")
_add("gauge", "edgeweave_table_members_behind", "Members that were not heard to have everything.")
_add("counter", "edgeweave_table_events_total", "What happened to the tables, by what.", "event")
_add("gauge", "edgeweave_clock_skew_seconds", "Our clock minus the one that the mesh trusts.")
_add("counter", "edgeweave_incidents_total", "What should not happen: forks, damage, bad entries.", "what")
_add(
    "counter", "edgeweave_spans_total",
    "Spans for the collector: exported, failed, or dropped as too many waited.", "outcome",
)  # fmt: skip

_add(
    "gauge", "edgeweave_certificate_expiry_timestamp_seconds", "When a certificate in this home ends.",
    "certificate",
)  # fmt: skip
_add("counter", "edgeweave_process_cpu_seconds_total", "CPU time of the daemon, its workers apart.")
_add("gauge", "edgeweave_process_resident_memory_bytes", "Memory of the daemon, its workers apart.")
_add("gauge", "edgeweave_process_open_fds", "Open files and connections of the daemon.")
_add("gauge", "edgeweave_process_max_fds", "How many it may have.")


# ── what a daemon tells ───────────────────────────────────────────────────────────────────────────────

_STATUS: Final = {
    "edgeweave_uptime_seconds": ("up_s",),
    "edgeweave_member": ("member",),
    "edgeweave_draining": ("draining",),
    "edgeweave_roster_version": ("roster", "version"),
    "edgeweave_roster_members": ("roster", "members"),
    "edgeweave_roster_stale": ("roster", "stale"),
    "edgeweave_broker_connected": ("broker", "connected"),
    "edgeweave_group_epoch": ("group", "epoch"),
    "edgeweave_tasks_accepted_total": ("tasks", "accepted"),
    "edgeweave_tasks_open": ("tasks", "open"),
    "edgeweave_tasks_open_bytes": ("tasks", "open_bytes"),
    "edgeweave_tasks_queued": ("tasks", "queued_here"),
    "edgeweave_tasks_running": ("tasks", "running_here"),
    "edgeweave_task_backlog_seconds": ("tasks", "backlog_s"),
    "edgeweave_task_leases": ("tasks", "leases"),
    "edgeweave_task_leases_lapsed_total": ("tasks", "lapsed"),
    "edgeweave_task_redispatches_total": ("tasks", "redispatched"),
    "edgeweave_task_duplicates_total": ("tasks", "duplicates"),
    "edgeweave_worker_deaths_total": ("tasks", "worker_deaths"),
    "edgeweave_disk_bytes_written_total": ("store", "process_bytes"),
    "edgeweave_link_line_bytes_per_second": ("wire", "line_bytes_s"),
    "edgeweave_link_made_anew_total": ("wire", "made_anew"),
    "edgeweave_table_keys": ("state", "keys"),
    "edgeweave_table_bytes": ("state", "bytes"),
    "edgeweave_table_conflicts": ("state", "conflicts"),
    "edgeweave_table_log_batches": ("state", "log_batches"),
    "edgeweave_table_log_bytes": ("state", "log_bytes"),
    "edgeweave_table_batches_waiting": ("state", "waiting"),
    "edgeweave_table_batches_quarantined": ("state", "quarantined"),
}
"""Where in ``status`` a number lies, or a yes or no."""
_COUNTED: Final = {
    "edgeweave_group_refused_total": ("group", "refused"),
    "edgeweave_tasks_settled_total": ("tasks", "settled"),
    "edgeweave_tasks_done_total": ("tasks", "by_place"),
    "edgeweave_tasks_refused_total": ("tasks", "refused"),
    "edgeweave_offers_refused_total": ("tasks", "refused_by_peers"),
    "edgeweave_link_refused_total": ("wire", "refused"),
    "edgeweave_link_unsent_total": ("wire", "unsent"),
    "edgeweave_table_events_total": ("state", "counts"),
    "edgeweave_incidents_total": ("stories",),
    "edgeweave_spans_total": ("telemetry", "spans"),
}
"""Where counts by name lie; the name becomes the metric's one label."""
_HISTOGRAMS: Final = {
    "edgeweave_task_seconds": "whole",
    "edgeweave_task_run_seconds": "run",
    "edgeweave_task_queue_seconds": "queue",
}


def of_status(status: Mapping[str, Any]) -> Iterator[Sample]:
    """Args: status: as the control method of that name answers it."""
    yield "edgeweave_up", {}, 1
    node = str(status.get("node", ""))
    versions = _at(status, "versions")
    version = str(versions.get(node, "")) if isinstance(versions, Mapping) else ""
    yield "edgeweave_info", {"node": node, "mesh": str(status.get("mesh", "")), "version": version}, 1
    for name, path in _STATUS.items():
        value = _at(status, *path)
        if isinstance(value, int | float):
            yield name, {}, value
    for name, path in _COUNTED.items():
        counts = _at(status, *path)
        if isinstance(counts, Mapping):
            (label,) = METRICS[name].labels
            yield from ((name, {label: each}, count) for each, count in _bounded(counts))
    peers = _at(status, "peers")
    if isinstance(peers, Mapping):
        states = [str(state) for state in peers.values()]
        for state in sorted({"up", "suspect", "quiet", "down", *states}):
            yield "edgeweave_peers", {"state": state}, states.count(state)
    issued_at_ms, skew_ms = _at(status, "group", "issued_at_ms"), _at(status, "state", "clock", "skew_ms")
    if isinstance(issued_at_ms, int):
        yield "edgeweave_group_epoch_timestamp_seconds", {}, issued_at_ms / 1e3
    if isinstance(skew_ms, int | float):
        yield "edgeweave_clock_skew_seconds", {}, skew_ms / 1e3
    full = _at(status, "tasks", "store_full")
    if isinstance(full, bool):
        yield "edgeweave_store_writable", {}, not full
    for store in ("ledger", "tables"):
        written = _at(status, "store", f"{store}_log_bytes")
        if isinstance(written, int):
            yield "edgeweave_store_bytes_written_total", {"store": store}, written
    for direction in ("in", "out"):
        count = _at(status, "wire", f"bytes_{direction}")
        if isinstance(count, int):
            yield "edgeweave_link_bytes_total", {"direction": direction}, count
    for name, path in (
        ("edgeweave_ledger_damaged", ("ledger", "damaged")),
        ("edgeweave_ledger_lost_tasks", ("ledger", "lost")),
        ("edgeweave_table_members_behind", ("state", "members_behind")),
    ):
        listed = _at(status, *path)
        if isinstance(listed, list | tuple):
            yield name, {}, len(listed)
    outbox = _at(status, "tasks", "outbox")
    if isinstance(outbox, Mapping):
        for peer, waiting in sorted(outbox.items()):
            yield "edgeweave_outbox_tasks", {"node": peer}, waiting["tasks"]
            yield "edgeweave_outbox_bytes", {"node": peer}, waiting["bytes"]
    if isinstance(status.get("pid"), int):
        yield from of_process(Path("/proc") / str(status["pid"]))


def of_durations(durations: Mapping[str, Any]) -> Iterator[Sample]:
    """Args: durations: as the control method of that name answers them."""
    for name, kind in _HISTOGRAMS.items():
        told = durations[kind]
        for bound, count in zip([*told["bounds_s"], math.inf], told["below"], strict=True):
            yield f"{name}_bucket", {"le": _number(bound)}, count
        yield f"{name}_sum", {}, told["sum_s"]
        yield f"{name}_count", {}, told["below"][-1]


def of_process(proc: Path) -> Iterator[Sample]:
    """What the kernel tells of one process; nothing if it is gone, or somebody else's.

    Source: proc(5), fields 14 (utime), 15 (stime), 24 (rss) of stat.
    """
    try:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        yield "edgeweave_process_cpu_seconds_total", {}, cpu_s
        yield "edgeweave_process_resident_memory_bytes", {}, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        yield "edgeweave_process_open_fds", {}, sum(1 for _ in (proc / "fd").iterdir())
        for line in (proc / "limits").read_text().splitlines():
            if line.startswith("Max open files") and line.split()[3].isdecimal():
                yield "edgeweave_process_max_fds", {}, int(line.split()[3])
    except (OSError, ValueError, IndexError):
        return


# ── what a home tells, with or without a daemon ───────────────────────────────────────────────────────

CERTIFICATES: Final = {"member": "identity.pem", "broker": "broker.pem", "issuing": "issuing.pem"}


def of_home(path: Path) -> Iterator[Sample]:
    """The certificates that lie there, and its disk. Raises: OSError: there is no such directory."""
    from cryptography import x509

    for certificate, file in CERTIFICATES.items():
        try:
            leaf = x509.load_pem_x509_certificates((path / "keys" / file).read_bytes())[0]
        except (OSError, ValueError, IndexError):
            continue  # not this home's, or not readable: `doctor` tells which
        ends_s = leaf.not_valid_after_utc.timestamp()
        yield "edgeweave_certificate_expiry_timestamp_seconds", {"certificate": certificate}, ends_s
    disk = os.statvfs(path)
    yield "edgeweave_disk_free_bytes", {}, disk.f_bavail * disk.f_frsize
    yield "edgeweave_disk_size_bytes", {}, disk.f_blocks * disk.f_frsize


def without_daemon(path: Path) -> Iterator[Sample]:
    """Raises: BadInput: there is no home."""
    yield "edgeweave_up", {}, 0
    try:
        yield from of_home(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", fix="name the daemon's home with --home") from None


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────


def text(samples: Iterable[Sample], metrics: Mapping[str, Metric] = METRICS) -> str:
    """The exposition: every metric with its help and type, then its samples, in the order of *metrics*.

    Source: Prometheus, "Exposition formats", text format 0.0.4.
    """
    lines: dict[str, list[str]] = {}
    for name, labels, value in samples:
        base = name.rpartition("_")[0]
        family = base if name not in metrics and base in metrics else name
        told = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
        line = f"{name}{{{told}}} {_number(value)}" if told else f"{name} {_number(value)}"
        lines.setdefault(family, []).append(line)
    out: list[str] = []
    for name, metric in metrics.items():
        if name in lines:
            out += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *lines.pop(name)]
    assert not lines, f"not in the table of metrics: {sorted(lines)}"
    return "\n".join(out) + "\n"


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    return str(int(value)) if isinstance(value, int) else repr(float(value))


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _bounded(counts: Mapping[Any, int]) -> list[tuple[str, int]]:
    """By name. Names beyond the bound are added up, so that sums stay true; those that came first stay."""
    kept = [(str(name), count) for name, count in list(counts.items())[:LABELS_MAX]]
    rest = sum(list(counts.values())[LABELS_MAX:])
    return sorted(kept) + ([("(the rest)", rest)] if rest else [])


def _at(told: Mapping[str, Any], *path: str) -> Any:
    found: Any = told
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found
