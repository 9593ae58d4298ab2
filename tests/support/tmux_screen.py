"""A real terminal for a test: a program inside a tmux of its own, driven by keys."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

WAIT_S_MAX = 60.0


class TmuxScreen:
    """One program in one terminal; the tmux server belongs to this object alone and ends with it."""

    def __init__(
        self, path: Path, words: list[str], env: Mapping[str, str], *, size: tuple[int, int] = (80, 24)
    ) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._socket = path / "tmux"
        self._env = {**env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        self._env.pop("TMUX", None)
        command = f"{shlex.join(words)}; echo ended with $?; exec cat"
        self._tmux(
            "new-session", "-d", "-s", "one", "-x", str(size[0]), "-y", str(size[1]), "sh", "-c", command
        )

    def __enter__(self) -> TmuxScreen:
        return self

    def __exit__(self, *exc: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", os.devnull, *words],
            env=self._env, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return done.stdout

    def keys(self, *keys: str) -> TmuxScreen:
        """As tmux names them: Enter, Escape, Tab, Down; other words are typed letter by letter."""
        for key in keys:
            self._tmux("send-keys", "-t", "one", key)
        return self

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-t", "one", "-x", str(columns), "-y", str(lines))

    @property
    def text(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p", "-t", "one")

    @property
    def styled(self) -> str:
        """The same with its escape sequences."""
        return self._tmux("capture-pane", "-e", "-p", "-t", "one")

    def shows(self, *words: str, without: str = "") -> str:
        """Wait until all *words* are on the screen, and *without* is not; the text then."""
        end_s = time.monotonic() + WAIT_S_MAX
        while True:
            text = self.text
            if all(word in text for word in words) and (not without or without not in text):
                return text
            assert time.monotonic() < end_s, f"{words} did not come, without {without!r}:\n{text}"
            time.sleep(0.05)
