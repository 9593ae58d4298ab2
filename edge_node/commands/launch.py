"""Becoming a daemon: ``up`` checks what it can, then replaces itself by a process without typer and rich.

``os.execv`` keeps the process id, so that whoever started ``edge-node up`` (a shell, systemd, a test) has
the daemon itself: its signals, its exit code, its ``ready`` line on stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import edge_node
from edge_node.control.server import answers
from edge_node.home import Home
from security.errors import Unavailable


def daemon_arguments(module: str, home: Home, options: Mapping[str, object]) -> list[str]:
    """The command that becomes the daemon: options by name; None and False are left out, True is a flag.

    ``-P`` keeps the current directory off the module path: our package names are common words.
    ``no_debug_ranges`` leaves the columns out of tracebacks, and half a megabyte out of memory.
    """
    arguments = [sys.executable, "-P", "-X", "no_debug_ranges", "-m", module, "--home", str(home.path)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        arguments.append(f"--{name}")
        if value is not True:
            arguments.append(str(value))
    return arguments


def check_free(home: Home) -> None:
    """Raises: Unavailable: a daemon answers in this home already."""
    if answers(home.socket):
        raise Unavailable(
            f"a daemon already runs in {home.path}",
            fix="stop it first, or choose another home with --home DIR",
        )


def become(module: str, home: Home, options: Mapping[str, object]) -> NoReturn:
    """Replace this process by the daemon."""
    environment = dict(os.environ)
    root = Path(edge_node.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):  # a checkout: `-P` would lose it
        inherited = environment.get("PYTHONPATH", "")
        if str(root) not in inherited.split(os.pathsep):
            environment["PYTHONPATH"] = f"{root}{os.pathsep}{inherited}" if inherited else str(root)
    arguments = daemon_arguments(module, home, options)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(arguments[0], arguments, environment)  # noqa: S606 (no shell, on purpose)
