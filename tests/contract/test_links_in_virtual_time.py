"""The contracts of links and brokers once more, on the world's own loop: real time has no part in them."""

from __future__ import annotations

import inspect

import pytest

from device_sim.virtual.loop import VirtualLoop
from device_sim.virtual.network import LinkModel
from tests.contract import test_broker_contract, test_link_contract
from tests.support.links import VirtualBed


def statements(module):
    """(the test, its arguments) for every case of a contract."""
    found = []
    for name, test in vars(module).items():
        if not name.startswith("test_") or "bed" not in inspect.signature(test).parameters:
            continue
        cases = [{}]
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                cases = [{mark.args[0]: value} for value in mark.args[1]]
        for case in cases:
            found.append(pytest.param(test, case, id="-".join([name[5:], *map(str, case.values())])))
    return found


MODELS = {
    "plain": LinkModel(),
    "bad": LinkModel(delay_ms=80, jitter_ms=40, loss=0.02, up_kbps=2_000, down_kbps=8_000),
}


def kept(bed, test, case):
    loop = VirtualLoop(bed.world)
    try:
        loop.run_until_complete(test(bed, **case), until_ns=600 * 10**9)
    finally:
        loop.close()
    return bed.world.trace_hash(), bed.world.now_ns


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("test", "case"), statements(test_link_contract))
def test_a_link_keeps_its_contract_over_any_line_and_in_the_same_way_each_time(test, case, model):
    first = kept(VirtualBed(3, MODELS[model]), test, case)

    assert kept(VirtualBed(3, MODELS[model]), test, case) == first


@pytest.mark.parametrize(("test", "case"), statements(test_broker_contract))
def test_the_broker_keeps_its_contract_over_a_bad_line(test, case):
    kept(test_broker_contract.VirtualDesk(4, MODELS["bad"]), test, case)
