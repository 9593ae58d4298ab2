"""Sealing under a passphrase: what was sealed comes back whole, or it is said in one line why not."""

from __future__ import annotations

import io
import os
import random

import pytest

from security import sealing
from security.canonical import encode
from security.errors import BadInput
from security.sealing import CHUNK_BYTES, checked_passphrase, seal, unseal

WORDS = b"four words of dice"
CHEAP = 4  # log2 n: the tests are about the format, not about what a guess costs


def sealed(plain: bytes, *, passphrase: bytes = WORDS) -> bytes:
    pieces = [plain[i : i + 300_000] for i in range(0, len(plain), 300_000)]
    return b"".join(seal(pieces, passphrase, salt=os.urandom(16), nonce=os.urandom(7), cost=CHEAP))


def opened(data: bytes, passphrase: bytes = WORDS) -> bytes:
    return b"".join(unseal(io.BytesIO(data), passphrase))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_sealed_comes_back(size):
    plain = random.Random(size).randbytes(size)

    assert opened(sealed(plain)) == plain


def test_no_plaintext_is_in_the_file_and_no_two_files_are_alike():
    plain = b"-----BEGIN PRIVATE KEY-----" * 10

    assert b"PRIVATE" not in sealed(plain)
    assert sealed(plain) != sealed(plain)


def test_a_wrong_passphrase_is_told_in_one_line():
    with pytest.raises(BadInput, match=r"^wrong passphrase or damaged file"):
        opened(sealed(b"keys"), b"four words of mice")


def test_a_file_cut_anywhere_is_refused():
    data = sealed(os.urandom(3000))
    for length in range(len(data)):
        with pytest.raises(BadInput, match="truncated or damaged"):
            opened(data[:length])


def test_a_file_cut_between_two_chunks_is_refused():
    """Every chunk that is left is authentic; what is missing is the mark of the last one."""
    data = sealed(os.urandom(2 * CHUNK_BYTES + 5))

    with pytest.raises(BadInput, match="truncated or damaged"):
        opened(data[: -(4 + 5 + 16)])


def test_chunks_cannot_be_swapped_or_appended():
    data = sealed(os.urandom(3 * CHUNK_BYTES))
    frame = 4 + CHUNK_BYTES + 16
    first, second, third = (data[len(data) - n * frame :][:frame] for n in (3, 2, 1))
    head = data[: -3 * frame]

    assert opened(head + first + second + third)
    for other in (head + second + first + third, head + first + third, data + third, data + b"\0"):
        with pytest.raises(BadInput, match="truncated or damaged"):
            opened(other)


def test_a_flipped_bit_is_refused_wherever_it_is():
    data = sealed(b"x" * 200)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(BadInput):
            opened(bytes(broken))


def test_a_newer_format_says_that_an_upgrade_is_needed():
    header = encode({"v": 2, "new": True})
    data = sealing.MAGIC + len(header).to_bytes(2, "big") + header + bytes(100)

    with pytest.raises(BadInput, match=r"newer edgeweave .format 2, this one reads 1.: upgrade"):
        opened(data)


def test_a_file_cannot_ask_for_all_memory():
    """Its author is not known before it is opened."""
    table = {"v": 1, "kdf": "scrypt", "n": 40, "r": 8, "p": 1, "salt": bytes(16), "nonce": bytes(7)}
    for change in ({"n": 21}, {"n": 0}, {"r": 64}, {"r": 0}, {"p": 9}, {"salt": b""}, {"kdf": "md5"}):
        header = encode(table | {"n": 4} | change)
        with pytest.raises(BadInput, match="truncated or damaged"):
            opened(sealing.MAGIC + len(header).to_bytes(2, "big") + header + bytes(100))


def test_another_file_is_told_apart():
    with pytest.raises(BadInput, match="no sealed file of edgeweave"):
        opened(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize("text", ["", "1234567", "x" * 1025])
def test_a_passphrase_is_neither_trivial_nor_endless(text):
    with pytest.raises(BadInput, match="8 characters or more"):
        checked_passphrase(text)


def test_any_text_can_be_a_passphrase():
    assert checked_passphrase("Öl und Wasser 水") == "Öl und Wasser 水".encode()
    assert checked_passphrase("bytes \udcff are kept") == b"bytes \xff are kept"
