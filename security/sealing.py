"""Sealing under a passphrase: a stream of bytes that only its owner can open again, and nobody alter.

    magic (18) | length of header (2) | header | check (16) | length (4) | chunk | length (4) | chunk | …

The header is CBOR {v, kdf, n, r, p, salt, nonce} and names everything that is needed to open it; the key is
scrypt(passphrase, salt, n, r, p), 32 bytes (RFC 7914). Chunks of at most 1 MiB are sealed one by one with
ChaCha20-Poly1305 (RFC 8439) in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): nonce =
header's 7 bytes || counter (4) || 1 for the last chunk, else 0; what is authenticated with each is the whole
head of the file. So chunks cannot be dropped, swapped or cut off at the end. Counter 0 is the *check*, an
empty chunk: a wrong passphrase is told before anything is read.

A core: no file, no random source; salt and nonce come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from security.canonical import a_bytes, a_count, a_map, a_text, decode, encode
from security.errors import BadInput, ProtocolViolation

VERSION: Final = 1
MAGIC: Final = b"edgeweave sealed\r\n"  # the line end shows a transfer that took the file for text
COST: Final = 17
"""log2 of scrypt's n. With r = 8 a guess costs 128 MiB and 0.4 s of one core (OWASP's choice of 2024)."""
COST_MAX: Final = 20
"""A file may ask for at most 1 GiB: whoever wrote it is not known before it is opened."""
R: Final = 8
P: Final = 1
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 7
CHUNK_BYTES: Final = 1024 * 1024
TAG_BYTES: Final = 16
HEADER_BYTES_MAX: Final = 256
CHUNKS_MAX: Final = 2**32 - 1
PASSPHRASE_CHARS_MIN: Final = 8
PASSPHRASE_BYTES_MAX: Final = 1024

_NOT_OURS = "is no sealed file of edgeweave"


class Reader(Protocol):
    """A binary file, open for reading."""

    def read(self, size: int, /) -> bytes: ...


def checked_passphrase(text: str) -> bytes:
    """Raises: BadInput: too short to be worth its scrypt, or absurdly long."""
    data = text.encode("utf-8", "surrogateescape")
    if len(text) < PASSPHRASE_CHARS_MIN or len(data) > PASSPHRASE_BYTES_MAX:
        raise BadInput(
            f"a passphrase has {PASSPHRASE_CHARS_MIN} characters or more",
            fix="four words chosen by dice are easy to write down and hard to guess",
        )
    return data


def seal(
    plain: Iterable[bytes], passphrase: bytes, *, salt: bytes, nonce: bytes, cost: int = COST
) -> Iterator[bytes]:
    """The sealed file, piece by piece; at most two chunks are held in memory.

    Args: plain: pieces of any length. salt, nonce: 16 and 7 random bytes, fresh for each file.
    """
    assert len(salt) == SALT_BYTES and len(nonce) == NONCE_BYTES, "fresh random bytes"
    header = encode({"v": VERSION, "kdf": "scrypt", "n": cost, "r": R, "p": P, "salt": salt, "nonce": nonce})
    head = MAGIC + len(header).to_bytes(2, "big") + header
    aead = ChaCha20Poly1305(_key(passphrase, salt, cost, R, P))
    yield head
    yield aead.encrypt(_nonce(nonce, 0, last=False), b"", head)
    counter, waiting = 1, bytearray()
    for piece in plain:
        waiting += piece
        while len(waiting) > CHUNK_BYTES:
            yield _framed(
                aead.encrypt(_nonce(nonce, counter, last=False), bytes(waiting[:CHUNK_BYTES]), head)
            )
            del waiting[:CHUNK_BYTES]
            counter += 1
            assert counter < CHUNKS_MAX, "4 PiB: a nonce must not come twice"
    yield _framed(aead.encrypt(_nonce(nonce, counter, last=True), bytes(waiting), head))


def unseal(file: Reader, passphrase: bytes) -> Iterator[bytes]:
    """What was sealed, piece by piece. Each piece is authentic, but the whole is so only once this has ended:
    act on nothing before.

    Raises: BadInput: no sealed file, of a newer version, the wrong passphrase, truncated or damaged.
    """
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        if MAGIC.startswith(magic):
            raise _cut()
        raise BadInput(f"the file {_NOT_OURS}", fix="choose the file that `edge-gateway backup` wrote")
    length = file.read(2)
    size = int.from_bytes(length, "big")
    header = file.read(min(size, HEADER_BYTES_MAX))
    if len(length) < 2 or len(header) < size:
        raise _cut()
    cost, r, p, salt, nonce = _read_header(header)
    head = magic + length + header
    check = file.read(TAG_BYTES)
    if len(check) < TAG_BYTES:
        raise _cut()
    aead = ChaCha20Poly1305(_key(passphrase, salt, cost, r, p))
    try:
        aead.decrypt(_nonce(nonce, 0, last=False), check, head)
    except InvalidTag:
        raise BadInput("wrong passphrase or damaged file", fix="try again, or take another copy") from None
    counter, last = 1, False
    while not last:
        sealed = _unframed(file)
        try:
            piece = aead.decrypt(_nonce(nonce, counter, last=False), sealed, head)
        except InvalidTag:
            try:
                piece = aead.decrypt(_nonce(nonce, counter, last=True), sealed, head)
            except InvalidTag:
                raise _cut() from None
            last = True
        counter += 1
        yield piece
    if file.read(1):
        raise _cut()


def _cut() -> BadInput:
    return BadInput("the file is truncated or damaged", fix="take another copy of it")


def _read_header(header: bytes) -> tuple[int, int, int, bytes, bytes]:
    try:
        table = a_map(decode(header, what="header"), "header")
        version = a_count(table.get("v"), "version")
        if version > VERSION:
            raise BadInput(
                f"the file was sealed by a newer edgeweave (format {version}, this one reads {VERSION})",
                fix="upgrade edgeweave here first",
            )
        table = a_map(table, "header", keys=frozenset(("v", "kdf", "n", "r", "p", "salt", "nonce")))
        if version != VERSION or a_text(table["kdf"], "kdf") != "scrypt":
            raise ProtocolViolation(_NOT_OURS)
        cost = a_count(table["n"], "n", most=COST_MAX)
        r, p = a_count(table["r"], "r", most=R), a_count(table["p"], "p", most=4)
        if cost < 1 or r < 1 or p < 1:
            raise ProtocolViolation(_NOT_OURS)
        return (
            cost, r, p,
            a_bytes(table["salt"], "salt", length=SALT_BYTES),
            a_bytes(table["nonce"], "nonce", length=NONCE_BYTES),
        )  # fmt: skip
    except ProtocolViolation:
        raise _cut() from None


def _key(passphrase: bytes, salt: bytes, cost: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << cost, r=r, p=p).derive(passphrase)


def _nonce(prefix: bytes, counter: int, *, last: bool) -> bytes:
    return prefix + counter.to_bytes(4, "big") + (b"\1" if last else b"\0")


def _framed(sealed: bytes) -> bytes:
    return len(sealed).to_bytes(4, "big") + sealed


def _unframed(file: Reader) -> bytes:
    length = file.read(4)
    size = int.from_bytes(length, "big")
    if len(length) < 4 or not TAG_BYTES <= size <= CHUNK_BYTES + TAG_BYTES:
        raise _cut()
    sealed = file.read(size)
    if len(sealed) < size:
        raise _cut()
    return sealed
