"""Which passwords are taken, and what their hashes cost and tell."""

from __future__ import annotations

import asyncio
import unicodedata

import pytest
from argon2 import extract_parameters

from gateway.access.passwords import AT_ONCE, COST, WAITING_MAX, Cost, Hasher, checked_password, spelled
from security.errors import BadInput, Unavailable

CHEAP = Cost(memory_kib=64, passes=1)


@pytest.fixture
async def hasher():
    hasher = Hasher(CHEAP)
    yield hasher
    hasher.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at least 12 characters"),
        ("elevenchars", "at least 12 characters"),
        ("e\u0301" * 11, "at least 12 characters"),
        ("x" * 1025, "at most 1024 bytes"),
        ("é" * 600, "at most 1024 bytes"),
        ("four words \ud800 of dice", "at most 1024 bytes"),
        ("four words \0 of dice", "at most 1024 bytes"),
        ("aaaaaaaaaaaaaaaa", "fewer than four different"),
        ("administrator1!", "little more than the name"),
    ],
)
def test_a_password_that_does_not_fit_is_refused_with_its_reason(text, told):
    with pytest.raises(BadInput, match=told):
        checked_password(text, name="administrator")


@pytest.mark.parametrize(
    "text", ["four words of dice", "twelve chars", "ä" * 3 + "öüß word here", "xyz!" * 256]
)
def test_a_password_that_fits_is_taken(text):
    assert checked_password(text, name="ann").decode() == unicodedata.normalize("NFC", text)


def test_two_spellings_of_one_text_are_one_password():
    assert spelled("pa\u0308sswo\u0308rter") == spelled("p\u00e4ssw\u00f6rter")


async def test_the_right_password_alone_opens(hasher):
    stored = await hasher.hash(b"four words of dice")

    assert await hasher.verify(stored, b"four words of dice") is True
    assert await hasher.verify(stored, b"four words of mice") is False
    assert await hasher.verify(stored, None) is False
    assert await hasher.verify(None, b"four words of dice") is False
    assert await hasher.verify("$argon2id$damaged", b"four words of dice") is False
    assert stored != await hasher.hash(b"four words of dice"), "salted"


async def test_a_name_that_does_not_exist_costs_the_same_hash(hasher, monkeypatch):
    """Not by the clock: by what libargon2 is asked to do."""
    asked = []
    from argon2 import low_level

    real = low_level.verify_secret
    monkeypatch.setattr(
        low_level, "verify_secret", lambda stored, *rest: asked.append(stored.decode()) or real(stored, *rest)
    )
    stored = await hasher.hash(b"four words of dice")
    await hasher.verify(stored, b"wrong words of dice")
    await hasher.verify(None, b"wrong words of dice")

    known, unknown = (extract_parameters(each) for each in asked)
    assert known == unknown


async def test_two_hash_at_once_and_a_bounded_number_waits(hasher):
    results = await asyncio.gather(
        *(hasher.hash(b"x" * 12) for _ in range(WAITING_MAX + 5)), return_exceptions=True
    )

    refused = [each for each in results if isinstance(each, Unavailable)]
    assert len(refused) == 5 and refused[0].retry_after_s > 0
    assert hasher._pool is not None and hasher._pool._max_workers == AT_ONCE == 2
    assert await hasher.hash(b"x" * 12), "and it goes on"


@pytest.mark.slow
async def test_what_a_hash_costs_is_what_is_written_down():
    """OWASP's 46 MiB with a pass more, within 64 MiB; older ones are found out."""
    hasher = Hasher()
    stored = await hasher.hash(b"four words of dice")
    hasher.close()

    assert stored.startswith("$argon2id$v=19$m=47104,t=2,p=1$")
    assert COST.memory_kib <= 64 * 1024
    assert not hasher.is_old(stored) and Hasher(CHEAP).is_old(stored)
