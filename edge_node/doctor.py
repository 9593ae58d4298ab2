"""What is wrong with this home or machine? Each check is one finding: what was looked at, and what to do.

In: a home. Out: findings, worst things named with their fix. Here is what can be seen on this machine, and
what its daemon says of itself; nothing is changed, nothing is sent. What the network answers: ``probes``.
What only a gateway has: ``gateway.doctor``. Runs with and without a daemon.

    examine      packages, clock, home, disk, memory, settings, keys, certificates, roster, ledger, workers
    of_status    what the daemon answers to ``status``: trouble that it knows of
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import sqlite3
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from edge_node.clock import AHEAD_S_MAX
from edge_node.control.server import answers
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from edge_node.functions.invocation import Completion, Invocation
from edge_node.functions.limits import PoolSettings
from edge_node.functions.runtimes.pool import WorkerPool
from edge_node.home import Home
from edge_node.membership.standing import why_out
from edge_node.store.hlc import AHEAD_MS_MAX
from edge_node.wire.ids import GATEWAY
from security.certificates import floor_s, not_after_s, renewal_due_s, spelled_minute
from security.errors import BadInput, EdgeweaveError
from security.keystore import KeyStore
from security.roster import RosterView, open_roster

OUR_PACKAGES: Final = ("security", "edge_node", "gateway", "device_sim")
DISTRIBUTION: Final = "edgeweave"
BEHIND_S_MAX: Final = 3600  # a roster of now may be dated by a gateway whose clock is a little ahead of ours
DISK_BYTES_MIN: Final = 64 * 1024 * 1024  # the outbox at its bound
INODES_MIN: Final = 1000  # bundles, logs and their successors are files
FSYNCS: Final = 5
FSYNC_MS_MAX: Final = 100.0  # every accepted task waits for one; SD cards take 5 to 30, a dying one seconds
MEMORY_MIB_MIN: Final = 64  # the daemon's bound and a worker; below it the kernel begins to kill
OPEN_FILES_MIN: Final = 1024
OPEN_FILES_SHARE_MAX: Final = 0.8
DAY_S: Final = 86400
OVERDUE_S: Final = DAY_S  # daemons renew within the hour: a day later something keeps them from it
AUTHORITY_DAYS_MIN: Final = 365  # a new mesh takes its time: every device joins again
EPOCH_S_MAX: Final = 3 * DAY_S  # the gateway makes a new one every day
SKEW_MS_WARN: Final = 5_000  # a beat is as late as its way was long: less is the network
FULL_SHARE: Final = 0.9
CALL_S_MAX: Final = 30.0
_MORE_PATH: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")  # daemons lie there; not on a plain user's PATH

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: ``detail`` says what is so, ``fix`` what to do about it if anything is."""

    check: str
    verdict: Verdict
    detail: str
    fix: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict == "fail"

    def line(self) -> str:
        """For people."""
        text = f"{self.verdict:<4}  {self.check:<13}  {self.detail}"
        return f"{text}: {self.fix}" if self.fix else text

    def facts(self) -> dict[str, Any]:
        return {"check": self.check, "verdict": self.verdict, "detail": self.detail, "fix": self.fix}


def examine(
    home: Home,
    *,
    settings_fault: BadInput | None = None,
    now_s: float | None = None,
    worker_start_s_max: float = 20.0,
) -> list[Finding]:
    """Everything that can be looked at on any home, daemon or not."""
    told_s = time.time() if now_s is None else now_s
    known_s = surely_passed_s(home)
    now_s = judged_s(told_s, known_s)
    findings = [python(), *packages(), clock(told_s, known_s), *directories(home), disk(home.path)]
    if home.path.is_dir() and os.access(home.path, os.W_OK):
        findings.append(fsync_time(home.path))
    findings += [memory(), open_files()]
    if settings_fault is None:
        there = "as in the file" if home.settings.exists() else "defaults (no file)"
        findings.append(Finding("settings", "ok", there))
    else:
        findings.append(Finding("settings", "fail", settings_fault.cause, settings_fault.fix))
    findings += [*key_files(home.keys), certificate(home.keys / "identity.pem", now_s)]
    findings += authority_certificates(home.keys, now_s)
    findings += [*roster(home, now_s), ledger(home), workers(worker_start_s_max), control_socket(home)]
    return findings


def python() -> Finding:
    version = ".".join(str(number) for number in sys.version_info[:3])
    if sys.platform != "linux":
        return Finding("python", "warn", f"Python {version} on {sys.platform}", "only Linux is supported")
    return Finding("python", "ok", f"Python {version} at {sys.executable}")


def packages() -> list[Finding]:
    """Our package names are common words: another distribution may have overwritten or hidden them."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
        root = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file(""))).resolve()
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "warn", f"{DISTRIBUTION} is not installed, it runs from a directory")]
    owners = importlib.metadata.packages_distributions()
    ours = Path(__file__).resolve().parent.parent
    editable = not any(str(file).startswith("edge_node/") for file in files)
    findings = []
    for name in OUR_PACKAGES:
        others = sorted(set(owners.get(name, [])) - {DISTRIBUTION})
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if others:
            fix = f"pip uninstall {others[0]}, then reinstall {DISTRIBUTION} in an environment of its own"
            findings.append(Finding("packages", "fail", f"{name} also belongs to {', '.join(others)}", fix))
        elif place is not None and place.parent not in (ours, root):
            fix = "start it from another directory, or unset PYTHONPATH"
            findings.append(
                Finding("packages", "fail", f"{name} is found at {place}, which is not ours", fix)
            )
        elif place is None:
            findings.append(Finding("packages", "fail", f"{name} is missing", f"reinstall {DISTRIBUTION}"))
    version = importlib.metadata.version(DISTRIBUTION)
    how = "from a checkout" if editable else "installed"
    return findings or [
        Finding("packages", "ok", f"{DISTRIBUTION} {version}, {how}: {', '.join(OUR_PACKAGES)}")
    ]


def surely_passed_s(home: Home) -> int:
    """The latest of the release, the roster and the time that this home keeps; whatever cannot be read is
    told by other checks."""
    kept_s = issued_s = 0
    if not home.keys.is_dir():
        return floor_s()  # a key store would make it
    with contextlib.suppress(EdgeweaveError, OSError):
        store = KeyStore(home.keys)
        kept_s = store.floor_s()
        pin, signed = store.root_spki_sha256(), store.roster()
        if pin is not None and signed is not None:
            issued_s = open_roster(signed, root_spki_sha256=pin).issued_s
    return floor_s(kept_s, issued_s)


def judged_s(told_s: float, known_s: float) -> float:
    """What certificates are held against: the machine's time, unless that is certainly wrong. Else a clock
    in 1970, or years ahead, would be told as certificates that ended and a mesh to be made anew."""
    return told_s if known_s <= told_s <= known_s + AHEAD_S_MAX else known_s


def clock(told_s: float, known_s: float) -> Finding:
    """Nothing of ours trusts the wall clock, but people read it in logs and results."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(told_s))
    fix = "set it, or install NTP"
    if told_s < known_s - BEHIND_S_MAX:
        text = f"the clock says {told}, earlier than what has surely passed ({spelled_minute(int(known_s))})"
        return Finding("clock", "warn", text, fix)
    if told_s > known_s + AHEAD_S_MAX:
        text = f"the clock says {told}, years after everything known ({spelled_minute(int(known_s))})"
        return Finding("clock", "warn", text, fix)
    return Finding("clock", "ok", told)


def directories(home: Home) -> list[Finding]:
    """The home and its keys belong to us alone."""
    if not home.path.is_dir():
        return [Finding("home", "warn", f"{home.path} does not exist yet", "it is made by join or up")]
    findings = []
    for directory in (home.path, home.keys):
        if not directory.is_dir():
            continue
        found = directory.stat()
        if found.st_uid != os.geteuid():
            findings.append(
                Finding("home", "fail", f"{directory} belongs to uid {found.st_uid}", "run this as its owner")
            )
        elif stat.S_IMODE(found.st_mode) & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            findings.append(
                Finding("home", "fail", f"{directory} has mode {mode:04o}", f"chmod 700 {directory}")
            )
    return findings or [Finding("home", "ok", str(home.path))]


def disk(path: Path) -> Finding:
    """Room for the outbox at its bound."""
    while not path.exists():
        path = path.parent
    usage = shutil.disk_usage(path)
    text = f"{usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f}"
    if usage.free < DISK_BYTES_MIN:
        return Finding(
            "disk", "fail", text, f"free {DISK_BYTES_MIN // 2**20} MiB: accepted tasks are kept on disk"
        )
    if not os.access(path, os.W_OK):
        return Finding(
            "disk", "fail", f"{path} cannot be written", "check its owner, or choose another --home"
        )
    inodes = os.statvfs(path)
    if inodes.f_files and inodes.f_favail < INODES_MIN:  # some file systems count none
        left = f"{inodes.f_favail} of {inodes.f_files} inodes left"
        return Finding("disk", "fail", left, f"remove files on that disk: {INODES_MIN} must be free")
    return Finding("disk", "ok", text)


def fsync_time(directory: Path) -> Finding:
    """How long the disk takes to keep something, measured: each accepted task waits for that."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as file:
            times_ms = []
            for _ in range(FSYNCS):
                file.write(bytes(4096))
                file.flush()
                begun_ns = time.monotonic_ns()
                os.fsync(file.fileno())
                times_ms.append((time.monotonic_ns() - begun_ns) / 1e6)
    except OSError as error:
        text = f"nothing can be written into {directory}: {error.strerror}"
        return Finding("fsync", "fail", text, "free space on that disk, or check its health")
    return fsync_finding(statistics.median(times_ms), medium_of(directory))


def fsync_finding(median_ms: float, medium: str) -> Finding:
    text = f"p50 {median_ms:.1f} ms{f' on {medium}' if medium else ''}: each accepted task waits for one"
    if median_ms > FSYNC_MS_MAX:
        return Finding(
            "fsync", "warn", text, "use another medium for --home; a failing SD card does this too"
        )
    return Finding("fsync", "ok", text)


def medium_of(path: Path, *, sys_block: Path = Path("/sys/dev/block")) -> str:
    """What kind of disk, in words; "" where the system does not say (a network, a container)."""
    device = path.stat().st_dev
    block = sys_block / f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        whole = block.resolve(strict=True)
        if (whole / "partition").exists():
            whole = whole.parent
        if whole.name.startswith("mmcblk"):
            return "an SD card or eMMC"
        return "a spinning disk" if (whole / "queue" / "rotational").read_text().strip() == "1" else "flash"
    return ""


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """What is left for functions."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        return Finding("memory", "ok", "the system does not say how much is left")
    mib = int(found[1]) // 1024
    if mib < MEMORY_MIB_MIN:
        fix = f"end other programs, lower [worker] count, or add swap: {MEMORY_MIB_MIN} MiB are needed"
        return Finding("memory", "fail", f"{mib} MiB available", fix)
    return Finding("memory", "ok", f"{mib:,} MiB available")


def open_files(pid: int | None = None) -> Finding:
    """The limit that the daemon has (*pid*), else the one that it would get from here."""
    if pid is None:
        limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], 0
    else:
        try:
            limits = Path(f"/proc/{pid}/limits").read_text()
            used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  their number is all
        except OSError as error:
            return Finding("open files", "ok", f"the daemon's limit cannot be read ({error.strerror})")
        told = re.search(r"^Max open files\s+(\d+|unlimited)", limits, re.MULTILINE)
        limit = int(told[1]) if told is not None and told[1].isdigit() else resource.RLIM_INFINITY
    endless = limit in (resource.RLIM_INFINITY, -1)
    text = f"{used} open, " if used else ""
    text += "no limit" if endless else f"limit {limit}"
    if not endless and (limit < OPEN_FILES_MIN or used > OPEN_FILES_SHARE_MAX * limit):
        fix = f"raise it: `ulimit -n {4 * OPEN_FILES_MIN}`, or LimitNOFILE={4 * OPEN_FILES_MIN} in the unit"
        return Finding("open files", "warn", text, fix)
    return Finding("open files", "ok", text)


def key_files(directory: Path) -> list[Finding]:
    """Every file in keys/ is readable, by us alone."""
    if not directory.is_dir():
        return [Finding("keys", "warn", "no keys yet", "they are made by join, or a gateway's first up")]
    findings, count = [], 0
    for file in sorted(directory.iterdir()):
        count += 1
        mode = stat.S_IMODE(file.lstat().st_mode)
        if file.is_file() and mode & 0o077:
            findings.append(Finding("keys", "fail", f"{file} has mode {mode:04o}", f"chmod 600 {file}"))
        elif not os.access(file, os.R_OK):
            findings.append(Finding("keys", "fail", f"{file} cannot be read", "run this as its owner"))
    return findings or [Finding("keys", "ok", f"{count} files, readable by their owner alone")]


def certificate(file: Path, now_s: float) -> Finding:
    """This member's own certificate."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return Finding(
            "certificate", "warn", "none yet", "join a mesh (a gateway makes its own at its first up)"
        )
    except OSError as error:
        return Finding(
            "certificate", "fail", f"cannot read {file}: {error.strerror}", "run this as its owner"
        )
    try:
        leaf = x509.load_pem_x509_certificates(data)[0]
    except (ValueError, IndexError):
        return Finding("certificate", "fail", f"{file} holds no certificate", "restore it, or join again")
    name = ", ".join(str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    start_s, end_s = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if now_s < start_s:
        text = f"{name} begins {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, the clock is before that"
        return Finding("certificate", "warn", text, "set the clock")
    days = (end_s - now_s) / DAY_S
    is_gateway = (file.parent / "issuing.pem").exists()
    if days < 0:
        text = f"{name} expired {-days:.0f} days ago"
        fix = (
            "restart the gateway"
            if is_gateway
            else "`edge-node up` renews it for 30 days after; later, join again"
        )
        return Finding("certificate", "fail", text, fix)
    due_s = now_s - renewal_due_s(leaf)
    if due_s > OVERDUE_S:
        text = f"{name}, {days:.0f} days left, its renewal is overdue by {due_s / DAY_S:.0f} days"
        fix = (
            "restart the gateway"
            if is_gateway
            else "run the daemon where it reaches the gateway, or `edge-node renew`"
        )
        return Finding("certificate", "warn", text, fix)
    due = "renewal is due now" if due_s > 0 else f"renewed from {spelled_minute(renewal_due_s(leaf))} on"
    return Finding("certificate", "ok", f"{name}, {days:.0f} days left, {due}")


def authority_certificates(keys: Path, now_s: float) -> list[Finding]:
    """The issuing CA that signed this member, and the root: nobody renews these."""
    findings = []
    for check, file, place in (("issuing CA", "identity.pem", 1), ("root", "root.pem", 0)):
        try:
            found = x509.load_pem_x509_certificates((keys / file).read_bytes())[place]
        except (OSError, ValueError, IndexError):
            continue  # told by `certificate` and `key_files`
        days = (not_after_s(found) - now_s) / DAY_S
        text = f"{max(0.0, days):,.0f} days left"
        fix = "make a new mesh (`edge-gateway up --home NEW`) and let every device join it"
        if days < 0:
            findings.append(Finding(check, "fail", f"expired {-days:.0f} days ago", fix))
        elif days < AUTHORITY_DAYS_MIN:
            findings.append(Finding(check, "warn", text, fix))
        else:
            findings.append(Finding(check, "ok", text))
    return findings


def roster(home: Home, now_s: float) -> list[Finding]:
    """The member list that this home keeps, and whether it still lists this member."""
    if not (home.keys / "identity.pem").exists():
        return []
    again = "get a code with `edge-gateway invite`, then `edge-node leave` and `edge-node join CODE`"
    try:
        store = KeyStore(home.keys)
        identity, pin, signed = store.identity(), store.root_spki_sha256(), store.roster()
        if identity is None or pin is None or signed is None:
            return [Finding("roster", "fail", "this home keeps none", again)]
        view = RosterView(root_spki_sha256=pin, signed=signed)
        current = view.current
        assert current is not None, "a view of a roster holds it"
        out = why_out(identity, store.previous_identity(), current)
    except EdgeweaveError as error:
        return [Finding("roster", "fail", f"it does not verify: {error.cause}", error.fix or again)]
    if out is not None:
        return [Finding("roster", "fail", out.cause, out.fix)]
    text = f"version {current.version}, {sum(one.status == 'active' for one in current.members)} members"
    if view.is_stale(int(now_s)):
        days = (now_s - current.issued_s) / DAY_S
        text += f", signed {days:.0f} days ago"
        return [
            Finding("roster", "warn", text, "start the gateway, or bring this member where it reaches it")
        ]
    return [Finding("roster", "ok", text)]


def ledger(home: Home) -> Finding:
    """The tasks on disk: SQLite's own check, beside the daemon or without it."""
    if not home.ledger.exists():
        return Finding("ledger", "ok", "none yet: no task was accepted here")
    fix = "`up` sets it aside and saves what can be read; `store verify` names the gaps"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{home.ledger}?mode=ro", uri=True, timeout=3)
        ) as opened:
            (told,) = opened.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        return Finding("ledger", "warn", f"it cannot be read now: {error}", "run this as its owner, or again")
    except sqlite3.DatabaseError as error:
        return Finding("ledger", "fail", f"{home.ledger} is damaged: {error}", fix)
    if told != "ok":
        return Finding("ledger", "fail", f"{home.ledger} is damaged: {' '.join(str(told).split())}", fix)
    return Finding("ledger", "ok", f"sound, {home.ledger.stat().st_size / 2**20:.1f} MiB")


def workers(start_s_max: float = 20.0, *, python: str | None = None) -> Finding:
    """Starts one worker as the daemon does and has it run a function. Call it on the main thread."""
    begun_ns = time.monotonic_ns()
    try:
        said = asyncio.run(_worker_says(start_s_max, python))
    except TimeoutError:
        fix = "is the machine overloaded? raise [worker] start_s_max; the log tells what the worker said"
        return Finding("workers", "fail", "no worker answered", fix)
    except OSError as error:
        return Finding("workers", "fail", f"no worker starts: {error.strerror}", "check memory and ulimit -u")
    if said != "yes":
        return Finding("workers", "fail", f"a worker failed: {said}", f"reinstall {DISTRIBUTION}")
    return Finding(
        "workers", "ok", f"one started and answered in {(time.monotonic_ns() - begun_ns) / 1e9:.1f} s"
    )


async def _worker_says(start_s_max: float, python: str | None) -> str:
    answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
    source = "from edge_node.functions import function\n\n@function\ndef hear():\n    return 'yes'\n"
    bundle = Bundle.of_source("doctor.py", source)
    settings = PoolSettings(start_timeout_s=start_s_max)

    def on_done(done: Completion) -> None:
        if not answer.done():
            answer.set_result(done)

    pool = WorkerPool(1, on_done=on_done, python=python, settings=settings)
    with tempfile.TemporaryDirectory(prefix="edgeweave-doctor-") as directory:
        file = Path(directory) / bundle.digest.hex()
        file.write_bytes(bundle.to_bytes())
        running = asyncio.create_task(pool.run(), name="workers")
        try:
            pool.start(
                Invocation(
                    task="doctor", attempt=1, function="doctor.hear", digest=bundle.digest,
                    bundle_path=str(file), input=values.encode_call([], {}),
                )
            )  # fmt: skip
            async with asyncio.timeout(min(CALL_S_MAX, 2 * start_s_max)):
                done = await answer
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
    if done.status == "done":
        return str(values.decode(done.output))
    return done.error.one_line() if done.error is not None else done.status


def running(home: Home) -> bool:
    """Whether a daemon answers in this home."""
    return answers(home.socket)


def control_socket(home: Home) -> Finding:
    """Does the daemon answer, and only to us?"""
    if not home.socket.exists():
        return Finding("daemon", "warn", "not running", "start it with up")
    mode = stat.S_IMODE(home.socket.stat().st_mode)
    if mode & 0o077:
        return Finding("daemon", "fail", f"{home.socket} has mode {mode:04o}", f"chmod 600 {home.socket}")
    if not answers(home.socket):
        return Finding("daemon", "warn", "not running (it left its socket behind)", "start it with up")
    return Finding("daemon", "ok", f"answers at {home.socket}")


def of_status(status: Mapping[str, Any], now_s: float) -> list[Finding]:
    """Trouble that the daemon knows of. Whatever an older daemon does not tell is not judged."""
    findings = []
    link = status.get("broker", {})
    if link.get("connected"):
        findings.append(Finding("link", "ok", f"connected to the broker at {link.get('address', '?')}"))
    else:
        fix = "see the other findings; local work goes on meanwhile"
        findings.append(Finding("link", "fail", "the daemon is not connected to the broker", fix))
    told = status.get("roster", {})
    if told.get("stale"):
        text = f"version {told.get('version')} was not signed again for a week"
        findings.append(Finding("roster", "warn", text, "start the gateway, or see why it is not reached"))
    findings += _stories(status.get("stories", {}))
    damaged = status.get("ledger", {}).get("damaged") or []
    if damaged:
        fix = "`store verify` names what is lost here; remove what was set aside after a look"
        findings.append(Finding("ledger", "fail", f"{len(damaged)} damaged: {damaged[0]}", fix))
    if status.get("tasks", {}).get("store_full"):
        findings.append(
            Finding("store", "fail", "the disk took no more: new tasks are refused", "free space")
        )
    group = status.get("group") or {}
    if isinstance(group.get("issued_at_ms"), int):
        age_s = now_s - group["issued_at_ms"] / 1000
        text = f"epoch {group.get('epoch', '?')} of the group is {age_s / 3600:.0f} hours old"
        late = age_s > EPOCH_S_MAX
        fix = "is the gateway up and in reach? it makes a new one each day" if late else ""
        findings.append(Finding("group", "warn" if late else "ok", text, fix))
    if isinstance(status.get("pid"), int):
        findings.append(open_files(status["pid"]))
    if isinstance(status.get("state"), Mapping):
        findings += tables(status["state"])
        findings += skew(status["state"].get("clock", {}), ours=status.get("node") == GATEWAY)
    findings += versions(status.get("versions", {}))
    findings += wire_format(status.get("wire", {}))
    return findings


_TWO: Final = "end the second gateway, or the old backup that runs"
STORIES: Final[dict[str, tuple[Verdict, str, str]]] = {
    "roster fork": ("fail", "two rosters of one version", _TWO),
    "catalogue fork": ("fail", "two entries of one version", _TWO),
    "catalogue entry refused": ("warn", "an entry that no deployer signed", "who publishes? see the log"),
    "bundle changed on disk": (
        "warn",
        "code changed on disk, set aside",
        "check the disk; it is fetched anew",
    ),
}


def _stories(stories: Mapping[str, int]) -> list[Finding]:
    """What happened since the daemon's start that should not."""
    findings = []
    for name, (verdict, text, fix) in STORIES.items():
        if stories.get(name):
            findings.append(Finding("history", verdict, f"{stories[name]} × {text}", fix))
    return findings


def tables(state: Mapping[str, Any]) -> list[Finding]:
    """The replicated tables: how full they are, and what of them waits or is undecided."""
    from edge_node.store.replica import Limits  # for every other command it would be 40 ms of nothing

    limits = Limits()
    keys, size, log = (int(state.get(name, 0)) for name in ("keys", "bytes", "log_bytes"))
    findings = []
    if conflicts := state.get("conflicts"):
        text = f"{conflicts} × two members wrote a field without knowing of each other; one value wins"
        findings.append(Finding("tables", "warn", text, "see `state conflicts`, decide with `state resolve`"))
    if apart := state.get("quarantined"):
        text = f"{apart} batches of writes are kept apart: whoever wrote them has a clock that runs ahead"
        findings.append(Finding("tables", "warn", text, "set its clock; `why` that member tells more"))
    if count := state.get("counts", {}).get("diverged"):
        text = f"{count} × another member knew the same and held other cells"
        findings.append(Finding("tables", "warn", text, "`store verify` on both; a snapshot mends it"))
    behind = list(state.get("members_behind", ()))
    who = f"{', '.join(behind[:5])}{' and others' if len(behind) > 5 else ''}"
    kept = f"{log / 2**20:.1f} MiB of writes are kept for {who or 'members that are away'}"
    fix = "bring them back, or revoke who stays away"
    if log >= limits.log_bytes_full:
        findings.append(Finding("tables", "fail", f"{kept}: nothing more is written", fix))
    elif log > limits.log_bytes_max:
        findings.append(Finding("tables", "warn", kept, fix))
    text = f"{keys} keys, {size / 2**20:.1f} MiB"
    if keys > FULL_SHARE * limits.keys_max or size > FULL_SHARE * limits.bytes_max:
        most = f"{limits.keys_max} keys and {limits.bytes_max // 2**20} MiB"
        findings.append(Finding("tables", "warn", f"{text} of at most {most}", "remove what is not needed"))
    elif not findings:
        findings.append(Finding("tables", "ok", f"{text}; not all of it is at {who} yet" if behind else text))
    return findings


def skew(clock: Mapping[str, Any], *, ours: bool = False) -> list[Finding]:
    """Our clock against the one that the mesh trusts: by it writes are stamped, and judged.

    Args: ours: that one is ours.
    """
    if ours:
        return [Finding("skew", "ok", "the mesh goes by this gateway's clock")]
    trusted, skew_ms = clock.get("trusted"), clock.get("skew_ms")
    if trusted not in ("gateway", "median") or not isinstance(skew_ms, int):
        few = "neither the gateway nor three members are there to compare with"
        return [Finding("skew", "ok", few)] if trusted else []
    whose = "the gateway's" if trusted == "gateway" else f"the median of {clock.get('members')} members"
    told = f"our clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} {whose}"
    if skew_ms > AHEAD_MS_MAX:
        return [Finding("skew", "fail", f"{told}: others would keep our writes apart", "set it: NTP")]
    if abs(skew_ms) > SKEW_MS_WARN:
        return [Finding("skew", "warn", told, "set it: NTP")]
    return [Finding("skew", "ok", told)]


def versions(told: Mapping[str, str], *, ours: str = "") -> list[Finding]:
    """The software of the members that told theirs, by name, against ours."""
    told = {name: version for name, version in told.items() if version}
    if not told:
        return []
    ours = ours or _own_version()
    others = [f"{name} {version}" for name, version in sorted(told.items()) if version != ours]
    if others:
        return [
            Finding(
                "versions", "warn", f"here {ours}, elsewhere {', '.join(others)}", "upgrade, gateway first"
            )
        ]
    return [Finding("versions", "ok", f"{ours} on all {len(told)} members that told theirs")]


def wire_format(wire: Mapping[str, Any]) -> list[Finding]:
    """Whether members speak in a format or with messages that are not this version's."""
    findings = []
    for cause, count in (wire.get("refused") or {}).items():
        if "version" in cause:
            findings.append(
                Finding(
                    "wire", "fail", f"{count} × {cause}", "upgrade the older of both; the log names the peer"
                )
            )
    if wire.get("unsupported"):
        text = f"{wire['unsupported']} messages of kinds that this version does not know"
        findings.append(Finding("wire", "warn", text, "members are newer than this one: upgrade it"))
    return findings


def _own_version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def port_free(what: str, address: str, port: int) -> Finding:
    """Whether a server may listen there."""
    check = f"{what} port"
    if port == 0:
        return Finding(check, "ok", "any free one")
    try:
        kind, _, _, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        return Finding(check, "fail", f"{address} is not an address", "choose one with --listen")
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
            probe.listen(1)
        except OSError as error:
            option = "--broker-port" if what == "broker" else "--port"
            if error.errno == errno.EADDRINUSE:
                return Finding(
                    check, "fail", f"port {port} is in use on {address}", f"choose another with {option}"
                )
            if error.errno == errno.EACCES:
                return Finding(
                    check, "fail", f"port {port} needs root", f"choose one over 1023 with {option}"
                )
            return Finding(
                check, "fail", f"cannot listen on {address}: {error.strerror}", "choose one with --listen"
            )
    return Finding(check, "ok", f"{address}:{port} is free")


def reachable(address: str, *, timeout_s: float = 3.0) -> Finding:
    """Whether somebody listens at a seed."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return Finding("seed", "ok", f"{address} answers")
    except ValueError:
        return Finding(
            "seed", "fail", f"{address!r} is not host:port", "correct [link] seeds in settings.toml"
        )
    except OSError as error:
        return Finding(
            "seed", "warn", f"{address} does not answer ({error.strerror or error})", "is the gateway up?"
        )


def program_found(name: str, *, wanted: bool) -> Finding:
    """Whether a program is installed, also where plain users do not look."""
    path = os.environ.get("PATH", "") + os.pathsep + os.pathsep.join(_MORE_PATH)
    found = shutil.which(name, path=path)
    if found:
        return Finding("broker", "ok", f"{name} at {found}")
    if wanted:
        return Finding(
            "broker", "fail", f"{name} is not installed", f"apt install {name}, or --broker embedded"
        )
    return Finding("broker", "ok", f"{name} is not installed: the embedded broker is used")
