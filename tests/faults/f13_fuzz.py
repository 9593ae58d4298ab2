"""Fault 13: every parser of bytes that others send, fed what nobody should: typed errors only."""

from __future__ import annotations

import logging
import random
import sys
import time
import warnings
from pathlib import Path

from security.errors import EdgeweaveError
from tests.faults.fault import Context, Fault, Outcome
from tests.faults.trials import Figures, tried
from tests.support.parsers import PARSERS, hostile

FAULT = Fault(
    number=13,
    name="fuzz",
    title="every parser fed hostile bytes: typed errors only",
    brokers=(),
    full=1_000_000,
    small=len(PARSERS) * 500,
    unit="inputs",
    round_max=250_000,
    round_s=60,
)


def fed(name: str, seed: int | str, count: int) -> None:
    """*count* hostile inputs into one parser. Raises: AssertionError: another error left it."""
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's own parser, of certificates with odd serial numbers
        logging.disable(logging.CRITICAL)  # each refusal is a line of a daemon's log
        try:
            _feed(name, seed, count)
        finally:
            logging.disable(logging.NOTSET)
    assert sys.getrecursionlimit() == limit


def _feed(name: str, seed: int | str, count: int) -> None:
    good, read, allowed = PARSERS[name]
    for number, data in enumerate(hostile(good, random.Random(seed), count)):
        try:
            read(data)
        except allowed as error:
            assert "\n" not in str(error) or not isinstance(error, EdgeweaveError), (seed, number, data[:200])
        except Exception as error:
            raise AssertionError(
                f"{name}, seed {seed!r}, input {number}: {data[:200]!r}: {error!r}"
            ) from error


def every_parser(scratch: Path, seed: int, count: int) -> Figures:
    """The inputs dealt out evenly."""
    each, begun = -(-count // len(PARSERS)), time.perf_counter()
    for name in sorted(PARSERS):
        fed(name, f"{name} {seed}", each)
    return {"parsers": len(PARSERS), "us an input": round((time.perf_counter() - begun) / count * 1e6, 1)}


async def run(context: Context) -> Outcome:
    return await tried(context, {every_parser: 1})
