"""What is wrong with this home or machine? Each check is one finding: what was looked at, and what to do.

In: a home. Out: findings, worst things named with their fix. Nothing is changed, nothing is sent beyond this
machine except one TCP connect to a seed (``reachable``). Runs with and without a daemon.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509

from edge_node.control.server import answers
from edge_node.home import Home
from security.errors import BadInput

OUR_PACKAGES: Final = ("security", "edge_node", "gateway", "device_sim")
DISTRIBUTION: Final = "edgeweave"
BUILT_S: Final = 1_763_000_000  # November 2025: no clock of a machine that runs this code is right before
DISK_BYTES_MIN: Final = 64 * 1024 * 1024  # the outbox at its bound
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
        text = f"{self.verdict:<4}  {self.check:<12}  {self.detail}"
        return f"{text}: {self.fix}" if self.fix else text

    def facts(self) -> dict[str, Any]:
        return {"check": self.check, "verdict": self.verdict, "detail": self.detail, "fix": self.fix}


def examine(
    home: Home, *, settings_fault: BadInput | None = None, now_s: float | None = None
) -> list[Finding]:
    """Everything that can be looked at on any home."""
    now_s = time.time() if now_s is None else now_s
    findings = [python(), *packages(), clock(now_s), *directories(home), disk(home.path)]
    if settings_fault is None:
        there = "as in the file" if home.settings.exists() else "defaults (no file)"
        findings.append(Finding("settings", "ok", there))
    else:
        findings.append(Finding("settings", "fail", settings_fault.cause, settings_fault.fix))
    findings += [*key_files(home.keys), certificate(home.keys / "identity.pem", now_s), control_socket(home)]
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


def clock(now_s: float) -> Finding:
    """Nothing of ours trusts the wall clock, but people read it in logs and results."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < BUILT_S:
        return Finding(
            "clock", "warn", f"the clock says {told}, before this was built", "set it, or install NTP"
        )
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
    return Finding("disk", "ok", text)


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
    name = leaf.subject.rfc4514_string()
    start_s, end_s = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if now_s < start_s:
        text = f"{name} begins {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, the clock is before that"
        return Finding("certificate", "warn", text, "set the clock")
    days = (end_s - now_s) / 86400
    if days < 0:
        text = f"{name} expired {-days:.0f} days ago"
        return Finding("certificate", "warn", text, "up renews it for 30 days after; later, join again")
    return Finding("certificate", "ok", f"{name}, {days:.0f} days left")


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
