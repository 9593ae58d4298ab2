"""Of everything that fails at once, a person is told one thing: the first that explains it."""

from __future__ import annotations

import pytest

from device_sim.fleet.members import one_error
from security.errors import Unavailable


@pytest.mark.parametrize(
    ("group", "told"),
    [
        (ExceptionGroup("g", [Unavailable("a"), Unavailable("b")]), Unavailable),
        (ExceptionGroup("g", [ExceptionGroup("h", [Unavailable("a")])]), Unavailable),
        (ExceptionGroup("g", [Unavailable("a"), KeyError("ours")]), KeyError),
        (KeyError("alone"), KeyError),
    ],
)
async def test_one_cause_comes_out_of_a_group(group, told):
    with pytest.raises(told):
        async with one_error():
            raise group


async def test_nothing_comes_out_of_success():
    async with one_error():
        done = True
    assert done
