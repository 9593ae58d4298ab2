"""Where a run took place: the source tree, the packages, the machine. Read once, after the run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Final

PACKAGES: Final = ("edgeweave", "cryptography", "aiomqtt", "amqtt", "msgspec", "zeroconf", "numpy")
ROOT: Final = Path(__file__).resolve().parents[2]
GIT_S_MAX: Final = 10.0


def versions() -> dict[str, str]:
    """Of Python, the system and the packages that matter; those that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> str:
    """As people speak of it: cores, memory, processor."""
    cores = os.cpu_count() or 1
    parts = [f"{cores} core{'s' if cores > 1 else ''}"]
    with contextlib.suppress(OSError, ValueError):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts.append(f"{size / 2**30:.1f} GiB of memory")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                parts.append(line.partition(":")[2].strip())
                break
        else:
            parts.append(platform.machine())
    return ", ".join(parts)


def commit(root: Path = ROOT) -> str:
    """Of the source tree at *root*, with "+" if it was changed since; empty if it is none."""
    if not (root / ".git").exists():  # installed as a package: the tree above is somebody else's
        return ""
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return name + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=GIT_S_MAX
    )
    return done.stdout.strip()
