"""New keys for a running node: work goes on, also after a restart, and the roster lists old and new."""

from __future__ import annotations

import pytest

from tests.support.daemons import Bed

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


def test_a_node_gets_new_keys_while_it_works(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    (first,) = keys_of_pi_1(gateway)

    told = bed.cli(node, "renew")
    assert told.code == 0 and "good for 30 days" in told.text
    second, old = keys_of_pi_1(gateway)
    assert old == first != second
    adds(bed, gateway, node)


def test_the_new_keys_hold_after_a_restart_and_the_oldest_go_at_the_next_renewal(bed):
    gateway, node = bed.daemons["gateway"], bed.daemons["pi-1"]
    before = keys_of_pi_1(gateway)
    node.term()
    assert node.ended().code == 0
    node.start().connected()
    gateway.until("pi-1 is back", lambda s: "pi-1" in s["peers_up"])
    adds(bed, gateway, node)

    assert bed.cli(node, "renew").code == 0
    after = keys_of_pi_1(gateway)
    assert after[1] == before[0] and after[0] not in before
    adds(bed, gateway, node)


def test_a_gateway_is_told_that_it_renews_itself(bed):
    gateway = bed.daemons["gateway"]
    with pytest.raises(Exception, match="renews itself"):
        gateway.ask(lambda mesh: mesh.call("renew"))
