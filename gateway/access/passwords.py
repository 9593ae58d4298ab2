"""Passwords: which are taken, and their argon2id hashes, made on two threads of their own.

Parameters: 46 MiB, 2 passes, 1 lane, 16 bytes of salt, 32 of tag: OWASP's first choice (46 MiB, 1 pass) with
a pass more. Measured on a 2-core cloud machine: 0.09 s of one core a hash; 31.5 MiB resident before and
after, 77.4 at its peak. The memory is one block above glibc's threshold for ``mmap``, so it goes back to the
system the moment the hash is done: an idle gateway pays nothing, two people who log in at once 92 MiB.
libargon2 releases the GIL.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from security.errors import BadInput, Unavailable

T = TypeVar("T")

CHARACTERS_MIN: Final = 12
BYTES_MAX: Final = 1024  # more is no password, and hashing it costs
AT_ONCE: Final = 2
WAITING_MAX: Final = 16  # four seconds of hashing; whoever comes then is asked to come again


@dataclass(frozen=True, slots=True)
class Cost:
    memory_kib: int = 46 * 1024
    passes: int = 2
    lanes: int = 1


COST: Final = Cost()


def checked_password(text: str, *, name: str = "") -> bytes:
    """The bytes that are hashed: NFC, UTF-8, so that every keyboard spells an ä alike.

    Raises: BadInput: too short, too long, or what everybody would guess first.
    """
    data = spelled(text)
    if data is None:
        raise BadInput(
            f"a password has at most {BYTES_MAX} bytes of text", fix="choose a shorter one", field="password"
        )
    if len(data.decode()) < CHARACTERS_MIN:
        raise BadInput(
            f"a password has at least {CHARACTERS_MIN} characters", fix="four words are easy to remember",
            field="password",
        )  # fmt: skip
    plain = data.decode().casefold()
    if len(set(plain)) < 4:
        raise BadInput(
            "this password has fewer than four different characters",
            fix="choose another one",
            field="password",
        )
    if name and name.casefold() in plain and len(plain) - len(name) < CHARACTERS_MIN // 2:
        raise BadInput(
            "this password is little more than the name", fix="choose another one", field="password"
        )
    return data


def spelled(text: str) -> bytes | None:
    """None: no text that a password can be."""
    if len(text) > BYTES_MAX:
        return None
    try:
        data = unicodedata.normalize("NFC", text).encode()
    except UnicodeEncodeError:
        return None
    return data if len(data) <= BYTES_MAX and b"\0" not in data else None


class Hasher:
    """Hashes two at a time; its threads start with the first hash, as does the import of argon2 (4 MB)."""

    def __init__(self, cost: Cost = COST, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._cost = cost
        self._entropy = entropy
        self._pool: ThreadPoolExecutor | None = None
        self._busy = 0
        self._nobody = ""  # what a name that does not exist is compared with

    async def hash(self, password: bytes) -> str:
        """In PHC's spelling. Raises: Unavailable: too many at once."""
        return await self._in_turn(lambda: self._hash(password))

    async def verify(self, stored: str | None, password: bytes | None) -> bool:
        """Whether *password* is the one. The same work where there is no such user, or no such password."""
        return await self._in_turn(lambda: self._verify(stored, password))

    def is_old(self, stored: str) -> bool:
        """Made under other parameters than today's."""
        from argon2 import extract_parameters

        held = extract_parameters(stored)
        return (held.memory_cost, held.time_cost, held.parallelism) != (
            self._cost.memory_kib, self._cost.passes, self._cost.lanes,
        )  # fmt: skip

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if self._busy >= WAITING_MAX:
            raise Unavailable("too many people log in at once", fix="try again", retry_after_s=5)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except MemoryError:
            raise Unavailable("there is no memory to check a password", fix="free some, try again") from None
        except RuntimeError as error:  # no thread to be had, or closed meanwhile
            raise Unavailable(f"passwords cannot be checked now: {error}", fix="try again") from None
        finally:
            self._busy -= 1

    def _hash(self, password: bytes) -> str:
        from argon2.exceptions import HashingError
        from argon2.low_level import Type, hash_secret

        cost = self._cost
        try:
            return hash_secret(
                password, self._entropy(16), cost.passes, cost.memory_kib, cost.lanes, 32, Type.ID
            ).decode()
        except HashingError as error:  # libargon2's word for a failed allocation
            raise MemoryError from error

    def _verify(self, stored: str | None, password: bytes | None) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
        from argon2.low_level import Type, verify_secret

        if not self._nobody:
            self._nobody = self._hash(self._entropy(32))
        against = self._nobody if stored is None or password is None else stored
        try:
            right = verify_secret(against.encode(), password or b"", Type.ID)
        except VerifyMismatchError:
            return False
        except VerificationError as error:
            if "emory" in str(error):  # libargon2's only word for it
                raise MemoryError from error
            return False  # damaged: a new password mends it
        except InvalidHashError:
            return False
        return right and stored is not None and password is not None
