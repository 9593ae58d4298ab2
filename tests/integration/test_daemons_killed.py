"""kill -9 of everything, in turn, under work: what was accepted is kept, what is left is adopted.

No test counts seconds: each waits for the condition that matters. The two brokers tell the same story.
"""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.support.daemons import Bed, running_marks, until
from tests.support.links import BROKERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=BROKERS)
def bed(request, tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("killed"), broker=request.param) as bed:
        bed.pair()
        yield bed


@pytest.fixture
def gateway(bed):
    return bed.daemons["gateway"]


@pytest.fixture
def node(bed):
    return bed.daemons["pi-1"]


@pytest.fixture(autouse=True)
def whole(bed, gateway, node):
    """Every test begins with a mesh in one piece, whatever the one before left."""
    for daemon in (gateway, node):
        if not daemon.running:
            daemon.start()
    node.connected()
    gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])


def submit_naps(daemon, count, *, where, seconds=0.2):
    async def submitted(mesh):
        return [(await mesh.submit("toys.nap", seconds, n, where=where)).id for n in range(count)]

    return daemon.ask(submitted)


def results(daemon, ids):
    async def fetched(mesh):
        return [await mesh.result(task, wait_s=120) for task in ids]

    return daemon.ask(fetched)


def settled_once(daemon, ids):
    """The ledger's account: each of *ids* exactly once, and done."""
    rows = daemon.ask(lambda mesh: mesh.call("tasks", {"limit": 1000}))
    mine = sorted(row["id"] for row in rows if row["id"] in set(ids) and row["state"] == "done")
    return mine == sorted(ids)


def test_a_node_killed_in_the_middle_resumes_what_it_had_accepted(gateway, node):
    ids = submit_naps(node, 12, where="local")
    first_done = until("the first is done", lambda: done_of(node, ids))
    node.kill()
    node.start()

    assert results(node, ids) == list(range(12))
    assert settled_once(node, ids)
    assert len(first_done) < 12, "it was killed in the middle"


def done_of(daemon, ids):
    rows = daemon.ask(lambda mesh: mesh.call("tasks", {"limit": 1000}))
    return [row["id"] for row in rows if row["id"] in set(ids) and row["state"] == "done"]


def test_a_worker_node_killed_mid_task_costs_a_lease_and_not_the_task(gateway, node, tmp_path):
    signal_file = tmp_path / "go"
    task = gateway.ask(lambda mesh: submitted(mesh, "toys.until", str(signal_file), where="pi-1"))
    (first,) = until("it runs on pi-1", lambda: running_marks(signal_file))
    node.kill()
    until("its worker died with it", lambda: not psutil.pid_exists(first))
    node.start()
    until("another worker has it", lambda: len(running_marks(signal_file)) > 1)
    signal_file.touch()

    assert results(gateway, [task]) == [1]
    outcome = gateway.ask(lambda mesh: mesh.outcome_of(task))
    assert len(outcome.attempts) >= 2


def test_a_cancel_that_was_answered_holds_when_its_owner_is_killed_at_once(gateway, node, tmp_path):
    signal_file = tmp_path / "go"
    task = gateway.ask(lambda mesh: submitted(mesh, "toys.until", str(signal_file), where="pi-1"))
    until("it runs on pi-1", lambda: running_marks(signal_file))
    assert gateway.ask(lambda mesh: mesh.cancel(task))
    gateway.kill()
    signal_file.touch()  # what may still run there ends, and says so
    gateway.start()
    gateway.until("pi-1 is up again", lambda s: "pi-1" in s["peers_up"])

    assert gateway.ask(lambda mesh: mesh.outcome_of(task)).status == "cancelled"
    assert gateway.ask(lambda mesh: mesh.cancel(task)), "the yes is the same in its next life"
    done = submit_naps(gateway, 1, where="local", seconds=0.01)
    assert results(gateway, done) == [0]
    gateway.kill()
    gateway.start()
    assert not gateway.ask(lambda mesh: mesh.cancel(done[0])), "it had ended otherwise"


async def submitted(mesh, name, *args, **options):
    return (await mesh.submit(name, *args, **options)).id


def test_a_killed_gateway_leaves_a_broker_that_is_adopted(bed, gateway, node):
    ids = submit_naps(gateway, 8, where="pi-1")
    broker = bed.broker_pid()
    gateway.kill()

    assert psutil.pid_exists(broker)
    local = submit_naps(node, 3, where="local", seconds=0.01)
    assert results(node, local) == [0, 1, 2], "a node works on without its gateway"
    gateway.start()
    assert bed.broker_pid() == broker, "the same broker goes on"
    assert results(gateway, ids) == list(range(8))
    assert settled_once(gateway, ids)
    gateway.until("pi-1 is up again", lambda s: "pi-1" in s["peers_up"])


def test_work_that_a_node_gave_to_a_killed_gateway_finishes(gateway, node):
    ids = submit_naps(node, 4, where="gateway")
    gateway.kill()
    gateway.start()

    assert results(node, ids) == list(range(4))
    assert settled_once(node, ids)


def test_a_killed_broker_is_started_again_and_work_goes_on(bed, gateway, node):
    ids = submit_naps(gateway, 6, where="pi-1") + submit_naps(gateway, 6, where="pi-1", seconds=0.01)
    bed.remember()
    broker = psutil.Process(bed.broker_pid())
    broker.send_signal(signal.SIGKILL)

    until("a new broker runs", lambda: bed.broker_pid() not in (0, broker.pid))
    assert results(gateway, ids) == [*range(6), *range(6)]
    more = submit_naps(node, 2, where="gateway", seconds=0.01)
    assert results(node, more) == [0, 1]


def test_a_daemon_without_its_broker_says_so_and_still_works(bed, gateway, node):
    """The gateway is down and its broker too: local work, honest status."""
    broker = psutil.Process(bed.broker_pid())
    gateway.kill()
    broker.send_signal(signal.SIGKILL)
    node.until("it has noticed", lambda s: not s["broker"]["connected"])

    assert bed.cli(node, "run", "toys.add", "--arg", "a=1").value == 2
    status = bed.cli(node, "status", "--json").value
    assert status["broker"]["connected"] is False and status["peers_up"] == []
    gateway.start()
    node.connected()


def test_sigterm_finishes_running_work_says_goodbye_and_leaves_nobody(bed, gateway, node, tmp_path):
    go = tmp_path / "go"
    task = node.ask(lambda mesh: submitted(mesh, "toys.until", str(go), where="local"))
    until("it runs", lambda: running_marks(go))
    bed.remember()
    os.kill(node.pid, signal.SIGTERM)
    node.until("it drains", lambda s: s["draining"])
    late = bed.cli(node, "run", "toys.add", "--arg", "a=1")
    go.touch()

    assert node.ended().code == 0
    assert late.code == 4 and "draining" in late.line
    gateway.until("the goodbye was heard", lambda s: "pi-1" not in s["peers_up"])
    rows = gateway.ask(lambda mesh: mesh.call("nodes"))
    assert next(row["reason"] for row in rows if row["id"] == "pi-1").startswith(
        "its broker connection ended"
    ), rows
    node.start()
    outcome = node.ask(lambda mesh: mesh.outcome_of(task))
    assert [attempt.status for attempt in outcome.attempts] == ["done"], "it was finished, not repeated"

    assert (node.term().code, gateway.term().code) == (0, 0)
    until("nobody is left", lambda: not bed.left())
    assert not node.home.socket.exists() and not gateway.home.socket.exists()


def test_ctrl_c_drains_too(bed, gateway, node):
    os.kill(node.pid, signal.SIGINT)

    assert node.ended().code == 0
