"""Prometheus itself: its programs, and a server on loopback that reads what a test gives it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest
import yaml

from tests.support.links import free_port

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / "out" / "prometheus"
"""Where `make test` puts them, if there are none: the package they come in would start a server."""


def program(name: str) -> str:
    """The path of ``promtool`` or ``prometheus``; without it the test is skipped."""
    found = str(FETCHED / name) if (FETCHED / name).exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Prometheus:
    """``with Prometheus(folder, config) as server``: running, and asked by its own HTTP API."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._program = program("prometheus")
        self._folder = folder
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        address = f"127.0.0.1:{free_port()}"
        self._log = (self._folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                self._program, f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'series'}", f"--web.listen-address={address}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT, cwd=self._folder,
        )  # fmt: skip
        self._client = httpx.Client(base_url=f"http://{address}", timeout=30)
        self.until("it is ready", lambda: self._client.get("/-/ready").status_code == 200)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def until(self, what: str, holds: Any, within_s: float = 60.0) -> None:
        end_s = time.monotonic() + within_s
        while True:
            try:
                if holds():
                    return
            except httpx.TransportError:
                pass
            log = (self._folder / "prometheus.log").read_text()[-2000:]
            assert self._process.poll() is None, log
            assert time.monotonic() < end_s, f"not in {within_s:g} s: {what}\n{log}"
            time.sleep(0.1)

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer. Raises: AssertionError: Prometheus says what it does not like."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (path, parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: ``metric`` (labels) and ``value`` (seconds, text)."""
        found = self.get("query", query=expression)
        return found["result"] if found["resultType"] != "scalar" else [{"value": found["result"]}]
