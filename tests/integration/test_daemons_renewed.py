"""New keys for a running node: work goes on, also after a restart, and the old keys end."""

from __future__ import annotations

import pytest

from tests.support.daemons import Bed, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("renewed")) as bed:
        bed.pair()
        yield bed


def keys_of_pi_1(gateway) -> list[str]:
    roster = gateway.ask(lambda mesh: mesh.call("roster"))
    (member,) = [m for m in roster["members"] if m["id"] == "pi-1"]
    return member["keys"]


def adds(bed, gateway, node) -> None:
    for daemon, where in ((gateway, "pi-1"), (node, "gateway"), (node, "local")):
        told = bed.cli(daemon, "run", "toys.add", "--arg", "a=2", "--arg", "b=3", "--where", where)
        assert (told.code, told.text) == (0, "5"), (where, told)


def test_a_node_gets_new_keys_while_it_works_and_the_old_ones_go_once_the_new_were_used(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    (first,) = keys_of_pi_1(gateway)
    tasks = [gateway.ask(lambda mesh, n=n: mesh.submit("toys.add", n, 1, where="pi-1")) for n in range(20)]

    told = bed.cli(node, "renew")
    assert told.code == 0 and "good for 30 days" in told.text
    second = keys_of_pi_1(gateway)[0]
    assert second != first
    until("the old key is gone", lambda: keys_of_pi_1(gateway) == [second])
    node.connected()  # the broker cut the connection that was made with the old key
    gateway.until("pi-1 is up", lambda s: "pi-1" in s["peers_up"])
    adds(bed, gateway, node)
    results = gateway.ask(lambda mesh: results_of(mesh, [task.id for task in tasks]))
    assert results == [n + 1 for n in range(20)]


async def results_of(mesh, ids) -> list[int]:
    return [await mesh.result(each) for each in ids]


def test_the_new_keys_hold_after_a_restart_and_are_renewed_again(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    before = keys_of_pi_1(gateway)
    node.term()
    assert node.ended().code == 0
    node.start().connected()
    gateway.until("pi-1 is back", lambda s: "pi-1" in s["peers_up"])
    adds(bed, gateway, node)

    assert bed.cli(node, "renew").code == 0
    assert keys_of_pi_1(gateway)[0] not in before
    until("the old key is gone", lambda: len(keys_of_pi_1(gateway)) == 1)


def test_a_gateway_is_told_that_it_renews_itself(bed):
    gateway = bed.daemons["gateway"]
    with pytest.raises(Exception, match="renews itself"):
        gateway.ask(lambda mesh: mesh.call("renew"))
