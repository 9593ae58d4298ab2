"""Logs: one JSON object a line in the file, short lines for people."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path

import pytest

from edge_node import logs
from edge_node.settings import LogSettings


@pytest.fixture
def started(tmp_path):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stderr = io.StringIO()

    def start(**settings):
        logs.start(tmp_path / "log", LogSettings(**settings), stderr=stderr)
        return tmp_path / "log" / "daemon.log", stderr

    yield start
    logs.stop()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before, level


def test_a_record_is_one_line_of_json_with_its_extras(started):
    file, _ = started()

    logging.getLogger("x").info("took\n%d", 3, extra={"task": "t1", "digest": b"\x01\x02"})

    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert record.pop("at").endswith("Z")
    assert record == {"level": "info", "logger": "x", "message": "took\n3", "task": "t1", "digest": "0102"}


def test_a_traceback_is_in_the_file_and_not_on_stderr(started):
    file, stderr = started()
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("x").exception("broke")

    assert "ValueError: no" in json.loads(file.read_text())["traceback"]
    assert stderr.getvalue().split(" ", 1)[1] == "error: broke (ValueError, see the log)\n"


def test_the_level_is_a_setting(started):
    file, _ = started(level="warning")

    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")

    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["loud"]


def test_files_rotate(started):
    file, _ = started(file_bytes_max=64 * 1024, files_kept=2)

    for _ in range(400):
        logging.getLogger("x").info("x" * 1000)

    assert sorted(each.name for each in file.parent.iterdir()) == [
        "daemon.log",
        "daemon.log.1",
        "daemon.log.2",
    ]
    assert all(each.stat().st_size <= 64 * 1024 for each in file.parent.iterdir())


def test_old_files_are_numbered_and_the_oldest_goes(tmp_path):
    path = tmp_path / "daemon.log"
    file = logs.RollingFile(path, bytes_max=40, kept=2)
    for n in range(4):
        file.emit(logging.makeLogRecord({"msg": f"record {n} {'x' * 20}"}))
    file.close()

    kept = {each.name: each.read_text().split()[1] for each in sorted(tmp_path.iterdir())}
    assert kept == {"daemon.log": "3", "daemon.log.1": "2", "daemon.log.2": "1"}


def test_what_strangers_can_cause_is_a_line_in_ten_seconds_with_its_count():
    seldom, second = logs.Seldom(), 1_000_000_000

    told = [(at, count) for at in range(25) for _ in range(4) if (count := seldom.due(at * second))]

    assert told == [(0, 1), (10, 40), (20, 40)]


def test_a_log_that_cannot_be_written_is_told_once_in_a_line(started, capsys):
    file, _ = started()
    logging.getLogger("x").info("before")
    handler = next(each for each in logging.getLogger().handlers if isinstance(each, logs.RollingFile))
    stream = handler.stream
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:  # closing it flushes once more
        handler.stream = full
        for _ in range(3):
            logging.getLogger("x").info("into a full disk")
        handler.stream = stream
    logging.getLogger("x").info("after")

    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].endswith("cannot be written: [Errno 28] No space left on device")
    assert json.loads(file.read_text().splitlines()[-1])["message"] == "after"
