"""Fault 13: every parser of bytes that others send, fed what nobody should: typed errors only.

A few hundred inputs a parser, from a seed that a failure names; `EDGEWEAVE_FUZZ=n` takes n times as many
and other ones, `make faults` a million in all. The parsers are listed in `tests/support/parsers`.
"""

from __future__ import annotations

import tracemalloc

import pytest

from tests.faults import f13_fuzz
from tests.support.parsers import CLAIMS, PARSERS

INPUTS = 500


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_good_bytes_are_read(name):
    good, read, _ = PARSERS[name]
    for data in good:
        read(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PARSERS))
def test_hostile_bytes_raise_only_what_the_caller_expects(name, fuzz_effort):
    f13_fuzz.fed(name, f"{name} {fuzz_effort}", INPUTS * fuzz_effort)


def test_bytes_that_claim_much_get_little():
    """A length that is only claimed is never allocated."""
    tracemalloc.start()
    try:
        for name, (_, read, allowed) in PARSERS.items():
            if name == "json or csv file":
                continue  # a person's own, in a command: it is read into one buffer of its bound
            for claim in (*CLAIMS, *(b"\x93" + claim for claim in CLAIMS)):
                try:
                    read(claim)
                except allowed:
                    pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 1024 * 1024
