"""`doctor` as people run it: a healthy mesh, a node that is down, a mesh whose gateway is gone."""

from __future__ import annotations

import json

import pytest

from tests.support.daemons import Bed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def findings(told):
    return {each["check"]: each for each in json.loads(told.out)["findings"]}


def test_doctor_follows_a_mesh_from_health_to_its_end(tmp_path):
    with Bed(tmp_path) as bed:
        gateway, node = bed.pair()
        (node.home.settings).write_text('[discovery]\nmdns = "none"\n')  # for doctor without a daemon to ask

        for daemon in (gateway, node):
            told = bed.cli(daemon, "doctor", "--json")
            found = findings(told)
            assert told.code == 0, told.out
            assert found["link"]["verdict"] == found["gateway"]["verdict"] == "ok"
            assert found["gateway clock"]["verdict"] == "ok", "one machine, one clock"
            assert found["skew"]["verdict"] == found["tables"]["verdict"] == "ok"
            assert "10 messages" in found["latency"]["detail"]
            assert "off (--mdns none)" in found["mdns"]["detail"], "the daemon's silence is kept"
        assert "broker cert" in findings(bed.cli(gateway, "doctor", "--json"))

        node.term()
        told = bed.cli(node, "doctor", "--json")
        found = findings(told)
        assert told.code == 0, told.out
        assert found["daemon"]["verdict"] == "warn" and "it lets us in" in found["broker"]["detail"]
        assert "the broker and back" in found["latency"]["detail"]
        node.start().connected()  # the login of ours left nothing behind

        gateway.term()
        node.until("the link is down", lambda status: not status["broker"]["connected"])
        told = bed.cli(node, "doctor")
        failed = [line.split()[1] for line in told.out.splitlines() if line.startswith("fail")]
        assert (told.code, failed) == (1, ["link", "gateway", "broker"])
        assert all(": " in line for line in told.out.splitlines() if not line.startswith("ok"))
