"""Idempotency keys on a real disk."""

from __future__ import annotations

import asyncio

import pytest

from gateway.api.idempotency import KEPT_MS, KEYS_MAX, Keys, checked_key
from gateway.api.problems import Problem
from security.errors import Unavailable

REQUEST = b"r" * 32


@pytest.fixture
def wall():
    return [1_760_000_000_000]


@pytest.fixture
def keys(tmp_path, wall):
    made = Keys(tmp_path / "idempotency.db", lambda: wall[0])
    yield made
    made.close()


async def held(keys, owner="ann", key="k", request=REQUEST):
    async with keys.turn(owner, key, request) as turn:
        return turn.task


async def kept(keys, task, owner="ann", key="k", request=REQUEST):
    async with keys.turn(owner, key, request) as turn:
        await keys.keep(turn, task)


async def test_a_key_is_held_over_a_restart_for_a_day(keys, tmp_path, wall):
    await kept(keys, "t1")
    keys.close()
    again = Keys(tmp_path / "idempotency.db", lambda: wall[0])

    assert await held(again) == "t1"
    assert (tmp_path / "idempotency.db").stat().st_mode & 0o777 == 0o600
    wall[0] += KEPT_MS
    assert await held(again) == ""
    again.close()


async def test_a_key_is_of_one_sender_and_one_request(keys):
    await kept(keys, "t1")

    assert await held(keys, owner="bob") == ""
    assert await held(keys, key="other") == ""
    with pytest.raises(Problem) as told:
        await held(keys, request=b"x" * 32)
    assert (told.value.kind, told.value.status) == ("key-reused", 422)


async def test_a_request_under_way_is_not_begun_twice(keys):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def first():
        async with keys.turn("ann", "k", REQUEST):
            begun.set()
            await go_on.wait()

    running = asyncio.create_task(first())
    await begun.wait()
    with pytest.raises(Problem) as told:
        await held(keys)
    go_on.set()
    await running

    assert told.value.status == 409
    assert await held(keys) == "", "and the next one has its turn"


async def test_a_refused_request_may_be_tried_again(keys):
    async with keys.turn("ann", "k", REQUEST) as turn:
        await keys.keep(turn, "t1")
        await keys.forget(turn)

    assert await held(keys, request=b"x" * 32) == ""


async def test_the_oldest_go_when_there_are_too_many(keys, wall):
    await kept(keys, "first", key="first")
    rows = [("ann", f"k{n}", REQUEST, "t", wall[0] + 1 + n) for n in range(KEYS_MAX - 1)]
    keys._connection.execute("BEGIN")  # one fsync for all
    keys._connection.executemany("INSERT INTO kept VALUES (?, ?, ?, ?, ?)", rows)
    keys._connection.execute("COMMIT")
    wall[0] += KEYS_MAX

    await kept(keys, "last", key="last")

    assert (await held(keys, key="first"), await held(keys, key="last")) == ("", "last")
    assert await held(keys, key=f"k{KEYS_MAX - 2}") == "t"


async def test_a_disk_that_fails_is_said(tmp_path, wall):
    (tmp_path / "idempotency.db").write_bytes(b"not a database" * 100)
    damaged = Keys(tmp_path / "idempotency.db", lambda: wall[0])

    with pytest.raises(Unavailable, match="cannot be kept"):
        await held(damaged)


@pytest.mark.parametrize(("text", "key"), [('"a b"', None), ("abc", "abc"), ('"abc"', "abc"), ("", None)])
def test_keys_are_short_and_visible(text, key):
    if key is None:
        with pytest.raises(Problem):
            checked_key(text)
    else:
        assert checked_key(text) == key


@pytest.mark.parametrize("text", ["x" * 256, "é", "a\tb", '""'])
def test_other_keys_are_refused(text):
    with pytest.raises(Problem):
        checked_key(text)
