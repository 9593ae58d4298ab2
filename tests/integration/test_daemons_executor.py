"""`MeshExecutor` on real daemons: programs written for executors, one node, one gateway."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import CancelledError, as_completed
from pathlib import Path

import pytest

from edge_node.client import BadInput, MeshExecutor, Refused, TaskFailed
from tests.support.daemons import Bed, running_marks, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("executor")) as bed:
        bed.pair("--label", "site=b")
        yield bed


@pytest.fixture(scope="module")
def node(bed):
    return bed.daemons["pi-1"]


@pytest.fixture(scope="module")
def toys(bed):
    """The deployed file, imported as any program would."""
    spec = importlib.util.spec_from_file_location("toys", bed.toys)
    module = importlib.util.module_from_spec(spec)
    sys.modules["toys"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["toys"]


def test_an_executors_program_runs_on_the_mesh(bed, node, toys):
    with MeshExecutor(home=node.home, deadline_s=60) as mesh:
        futures = {mesh.submit(toys.add, number, b=number): number for number in range(20)}
        assert {2 * futures[future]: future.result() for future in as_completed(futures)} == {
            2 * number: 2 * number for number in range(20)
        }
        assert list(mesh.map(toys.add, range(300), range(300))) == [2 * number for number in range(300)]
        with pytest.raises(TaskFailed, match="ValueError: on purpose") as failed:
            mesh.submit(toys.fail).result()
        assert "raise ValueError(word)" in failed.value.remote_traceback
        with pytest.raises(BadInput, match="has no argument 'c'"):
            mesh.submit(toys.add, c=1).result()


def test_options_decide_where_it_runs(bed, node, toys):
    with MeshExecutor(home=node.home, where="gateway") as mesh:
        task = mesh.submit(toys.add, 1)
        assert task.result() == 2
    gateway = bed.daemons["gateway"]
    with MeshExecutor(home=gateway.home, labels={"site": "b"}) as mesh:
        here = mesh.submit(toys.add, 1)
        assert here.result() == 2
    assert gateway.ask(lambda asked: asked.outcome_of(here.task)).place == "pi-1"
    with MeshExecutor(home=node.home, labels={"site": "a"}) as mesh:
        with pytest.raises(BadInput, match="runs only where site=b, not a"):
            mesh.submit(toys.only_at_b).result()
        with pytest.raises(Refused, match="labels do not match"):
            mesh.submit(toys.add, 1).result()
    assert node.ask(lambda asked: asked.outcome_of(task.task)).place == "gateway"


def test_cancelling_a_future_stops_the_worker(bed, node, toys):
    path = bed.path / "never"
    with MeshExecutor(home=node.home, where="local") as mesh:
        future = mesh.submit(toys.until, str(path))
        (pid,) = until("it runs", lambda: running_marks(path))
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result()

    assert node.ask(lambda asked: asked.outcome_of(future.task)).status == "cancelled"
    until("its worker has ended", lambda: not Path(f"/proc/{pid}").exists())


def test_code_that_was_changed_since_is_refused_until_it_is_deployed_again(bed, node, toys):
    gateway, before = bed.daemons["gateway"], bed.toys.read_text()
    bed.toys.write_text(before + "\n\n# changed\n")
    with MeshExecutor(home=node.home) as mesh:
        with pytest.raises(BadInput, match="deploy it again with `edge-gateway deploy"):
            mesh.submit(toys.add, 1)
        assert bed.cli(gateway, "deploy", str(bed.toys)).code == 0
        node.until(
            "the new version", lambda rows: {r["version"] for r in rows if r["name"] == "toys.add"} == {2},
            method="functions",
        )  # fmt: skip
        assert mesh.submit(toys.add, 1).result() == 2


def test_the_example_runs(bed, node):
    told = subprocess.run(
        [sys.executable, str(EXAMPLES / "as_executor.py"), "--home", str(bed.daemons["gateway"].home.path)],
        capture_output=True, text=True, timeout=60, check=False, env=bed.environment,
    )  # fmt: skip
    assert "edge-gateway deploy" in told.stderr and told.returncode == 2, told
    assert bed.cli(bed.daemons["gateway"], "deploy", str(EXAMPLES / "functions" / "room.py")).code == 0
    told = subprocess.run(
        [sys.executable, str(EXAMPLES / "as_executor.py"), "--home", str(bed.daemons["gateway"].home.path)],
        capture_output=True, text=True, timeout=60, check=False, env=bed.environment,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.count("changes at") == 4


def test_a_future_lives_through_a_crash_of_its_daemon(bed, node, toys):
    """Accepted means kept: the next life of the daemon runs it, the future never notices."""
    path = bed.path / "open"
    with MeshExecutor(home=node.home, where="local") as mesh:
        future = mesh.submit(toys.until, str(path))
        until("it runs", lambda: running_marks(path))
        node.kill()
        path.touch()
        node.start()

        assert future.result(timeout=60) == 1
        assert mesh.submit(toys.add, 2).result(timeout=60) == 3
