"""SIGTERM while a daemon still starts: an orderly end like any other, with nothing left behind."""

from __future__ import annotations

import json

import psutil
import pytest

from tests.support.daemons import Bed, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_gateway_stopped_before_it_is_ready_takes_its_broker_along(tmp_path):
    with Bed(tmp_path, broker="embedded") as bed:
        gateway = bed.gateway()
        gateway.launch()
        record = gateway.home.path / "broker" / "running.json"
        until("the broker is started", lambda: record.exists() and record.read_text())
        broker = json.loads(record.read_text())["pid"]

        told = gateway.term()

        assert (told.code, told.out, told.err) == (0, "", "")
        until("the broker is gone", lambda: not psutil.pid_exists(broker))
