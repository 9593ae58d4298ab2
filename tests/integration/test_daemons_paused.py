"""A process that is stopped for a while is not a dead one."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.daemons import Bed

pytestmark = pytest.mark.slow

STOP_S = 5.0
"""What the promise says; longer than a verdict after a suspicion takes."""


def test_a_node_stopped_for_five_seconds_is_not_down(tmp_path):
    with Bed(tmp_path) as bed:
        gateway, node = bed.pair()
        os.kill(node.pid, signal.SIGSTOP)
        try:
            time.sleep(STOP_S)
            assert node.name in gateway.ask(lambda mesh: mesh.status())["peers_up"]
        finally:
            os.kill(node.pid, signal.SIGCONT)

        assert gateway.ask(lambda mesh: mesh.run("toys.add", 2, 3, where="pi-1")) == 5
        for daemon in (gateway, node):
            assert "peer is up" in daemon.story() and "peer is down" not in daemon.story()
