"""`why` between real daemons: a holder is killed, a third node tells of it, then the owner is away."""

from __future__ import annotations

import json
import re

import psutil
import pytest

from tests.support.daemons import Bed, running_marks, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("why"), broker="embedded") as bed:
        gateway, owner = bed.pair()
        bed.join("pi-2").start().connected()
        for daemon in (gateway, owner):
            daemon.until("pi-2 is up", lambda s: "pi-2" in s["peers_up"])
        yield bed


def in_order(text, *patterns):
    """Each pattern is found after the one before it."""
    at = 0
    for pattern in patterns:
        found = re.compile(pattern).search(text, at)
        assert found, f"{pattern!r} is not told after {text[:at][-200:]!r} in\n{text}"
        at = found.end()
    return True


def test_a_third_node_tells_what_happened_and_says_when_the_owner_is_missing(bed, tmp_path):
    """Killed mid-task; told by the gateway, which had no part in it; then without the owner."""
    gateway, owner, holder = (bed.daemons[name] for name in ("gateway", "pi-1", "pi-2"))
    signal_file = tmp_path / "go"

    async def submitted(mesh):
        return (await mesh.submit("toys.until", str(signal_file), where="pi-2")).id

    task = owner.ask(submitted)
    (worker,) = until("it runs on pi-2", lambda: running_marks(signal_file))
    until("pi-2 has noted that it took it", lambda: "took" in bed.cli(holder, "why", task, "--here").out)
    holder.kill()
    until("its worker died with it", lambda: not psutil.pid_exists(worker))
    holder.start()
    signal_file.touch()
    assert owner.ask(lambda mesh: mesh.result(task, wait_s=120)) == 1

    told = bed.cli(gateway, "why", task[:14]).text
    assert in_order(
        told,
        rf"task {task} \(toys\.until\), owner pi-1",
        r"pi-1 accepted it: toys\.until, for pi-2 alone",
        r"pi-2 took attempt 1 from pi-1",
        r"pi-1: attempt 1 at pi-2 is given up: .*its last word was",
        r"attempt \d+ on pi-2 ended: done",
        r"pi-1 committed the end: it is done",
    )
    assert "pi-2 found that its life before had not ended in order (it was killed)" in told
    assert "missing:" not in told

    entries = json.loads(bed.cli(gateway, "why", task, "--json").out)
    assert {side["node"] for side in entries["sides"]} == {"gateway", "pi-1", "pi-2"}
    assert all(each["cause"] for each in entries["entries"])

    owner.kill()
    gateway.until("pi-1 is away", lambda s: "pi-1" not in s["peers_up"])
    told = bed.cli(gateway, "why", task).text
    assert "pi-2 took attempt 1 from pi-1" in told
    assert re.search(r"missing: pi-1 could not be asked: it is away since \S+; its side is missing", told)

    told = bed.cli(owner, "why", task)
    assert "no daemon runs in" in told.err
    assert "pi-1 committed the end: it is done" in told.out
    assert "missing: nobody else was asked" in told.out


def test_a_refusal_at_the_door_names_an_id_that_can_be_asked_about(bed):
    gateway = bed.daemons["gateway"]

    line = bed.cli(gateway, "submit", "toys.add", "--arg", "a=1", "--where", "pi-9").line
    (cause,) = re.findall(r"\(why: edge-gateway why (r-\w+)\)", line)

    told = bed.cli(gateway, "why", cause).text
    assert re.search(
        r"gateway did not accept task \w+ \(toys\.add\): no such node: pi-9 is not a member", told
    )


def test_what_nobody_knows_is_one_line_with_what_comes_near(bed):
    gateway = bed.daemons["gateway"]

    told = bed.cli(gateway, "why", "pi-22")

    assert told.code == 2
    assert "nothing is known of 'pi-22' here or at" in told.line and "did you mean pi-2" in told.line
