"""Logs: JSON lines in ``<home>/log/``, short lines on stderr. The standard library and nothing else.

One line a record: ``{"at": "2026-11-22T17:40:01.123Z", "level": "info", "logger": "edge_node.agent",
"message": "…", …}``; what is given as ``extra={"task": …}`` becomes keys of its own. Files rotate, so a
daemon that complains for a year does not fill a small board's card. Keys, codes and payloads are never
logged: that is the caller's duty.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, Final, TextIO

from edge_node.settings import LogSettings

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record, never more than one line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line of JSON."""
        line: dict[str, Any] = {
            "at": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=_shown)


class ShortLines(logging.Formatter):
    """For a person in front of the daemon: time, level where it matters, message, extras."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one short line."""
        parts = [time.strftime("%H:%M:%S", time.localtime(record.created))]
        if record.levelno >= logging.WARNING:
            parts.append(record.levelname.lower() + ":")
        parts.append(" ".join(record.getMessage().split()))
        extras = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        parts += [f"{name}={_shown(value)}" for name, value in extras.items()]
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(f"({record.exc_info[0].__name__}, see the log)")
        return " ".join(parts)


class Seldom:
    """For a line that strangers can cause at will: at most one in 10 s, with how many times it was meant."""

    def __init__(self, pause_ns: int = 10_000_000_000) -> None:
        self._pause_ns = pause_ns
        self._last_ns: int | None = None
        self._count = 0

    def due(self, now_ns: int) -> int:
        """It happened once more. How many times since the last line; 0: not a line now."""
        self._count += 1
        if self._last_ns is not None and now_ns < self._last_ns + self._pause_ns:
            return 0
        count, self._count = self._count, 0
        self._last_ns = now_ns
        return count


class RollingFile(logging.FileHandler):
    """``name``, ``name.1``, … as the standard library's RotatingFileHandler writes them.

    Its module imports pickle and sockets for handlers that we do not use: half a megabyte of a node's 50.
    """

    def __init__(self, path: Path, *, bytes_max: int, kept: int) -> None:
        super().__init__(path, encoding="utf-8")
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept
        self._told = False  # that it cannot be written

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; roll over first if the file would grow beyond its bound."""
        try:
            text = self.format(record) + self.terminator
            stream = self.stream
            assert stream is not None, "opened by the constructor"
            if stream.tell() and stream.tell() + len(text.encode()) > self._bytes_max:
                stream = self._roll()
            stream.write(text)
            stream.flush()
        except Exception as error:  # a full disk must neither end the daemon nor fill a terminal
            if not self._told:
                self._told = True
                sys.stderr.write(f"the log {self._path} cannot be written: {error}\n")
        else:
            self._told = False

    def _roll(self) -> Any:
        if self.stream is not None:
            self.stream.close()
        older = [self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._kept + 1)]
        for source, target in reversed(list(zip([self._path, *older], older, strict=False))):
            if source.exists():
                source.replace(target)
        if not older:
            self._path.unlink()
        self.stream = self._open()
        return self.stream


def start(
    directory: Path,
    settings: LogSettings,
    *,
    name: str = "daemon.log",
    stderr: TextIO | None = sys.stderr,
    stderr_level: str = "info",
) -> None:
    """Send every record of this process to ``<directory>/<name>``, and a person's share to stderr.

    Args: stderr: None: nothing there.   stderr_level: least level shown there.
    Raises: OSError: the file cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = RollingFile(directory / name, bytes_max=settings.file_bytes_max, kept=settings.files_kept)
    file.setFormatter(JsonLines())
    root = logging.getLogger()
    stop()
    root.addHandler(file)
    root.setLevel(settings.level.upper())
    if stderr is not None:
        short = logging.StreamHandler(stderr)
        short.setFormatter(ShortLines())
        short.setLevel(stderr_level.upper())
        root.addHandler(short)
    logging.captureWarnings(True)
    # Chatty at info, and about things that our own records tell better.
    for chatty in ("zeroconf", "asyncio", "amqtt", "transitions", "uvicorn", "mqtt"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def leave_stderr() -> None:
    """From here on to the file alone: what ends a daemon is told on stderr once, in a line of its own."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    if not root.handlers:
        root.addHandler(logging.NullHandler())  # else Python itself would write to stderr


def stop() -> None:
    """Close and forget every handler."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()


def _stamp(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created * 1000) % 1000:03}Z"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
