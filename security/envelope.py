"""Sealed parcels: COSE_Encrypt0 in one fixed shape, ChaCha20/Poly1305, nothing to negotiate.

    D0 83                     tag 16, array(3)
      44 A1 01 18 18          protected {1: 24}: ChaCha20/Poly1305, the only value accepted
      A2 04 48 <kid 8>        unprotected: kid,
         06 4n <n = 1..3>     Partial IV = seq, big endian, shortest form, 1 <= seq < 2^24
      <bstr head> <ct || tag> shortest length form
    nonce = iv XOR left-padded seq          AAD = CBOR ["Encrypt0", h'A1011818', bstr(context)]

In: a key, its iv, the kid it goes by, the context both sides know (who speaks to whom, on which topic).
Out: parcels; from a parcel the sequence number and the plain bytes, or ``ProtocolViolation``.
The AAD binds the context, not the sequence number; that one is in the nonce. kid, algorithm and shape are
not in the AAD bytes one by one: the kid chooses the key, and any other shape is refused before decryption.

Not here: choosing keys, counting (``session``), refusing a number seen before (``replay``), the frames of
groups (``group``: this shape and one more field, so both go through this one parser). The header is
built by concatenation: a general COSE library costs 5 to 25 us a parcel; independent ones prove the bytes
in the tests. The AEAD object of a key in use is kept: making one costs as much as sealing 256 bytes. It takes
2.3 KB, so of the thousands of keys that a gateway holds only the last used have one.

Source: RFC 9052 sections 3.1, 5.2, 5.3; RFC 9053 section 4.3; RFC 8949 section 4.2.1.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Final
from weakref import ref

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.errors import BadInput, ProtocolViolation

KEY_BYTES: Final = 32
IV_BYTES: Final = 12
KID_BYTES: Final = 8
TAG_BYTES: Final = 16
SEQ_LIMIT: Final = 1 << 24  # the first number that no parcel can bear
PARCEL_BYTES_MAX: Final = 256 * 1024  # what a stranger may make us look at
PLAIN_BYTES_MAX: Final = PARCEL_BYTES_MAX - 44  # the longest header and the tag

HEAD: Final = bytes.fromhex("d083 44a1011818 a20448")
_KID_END: Final = len(HEAD) + KID_BYTES
MARK: Final = _KID_END + 1  # where the length byte of the Partial IV lies: 41, 42 or 43
_SEQ: Final = MARK + 1
_SEQ_FLOOR: Final = (0, 1, 1 << 8, 1 << 16)  # least number that needs n bytes; less is a leading zero
_AAD_HEAD: Final = b"\x83\x68Encrypt0\x44\xa1\x01\x18\x18"


WARM_MAX: Final = 128
"""Ciphers kept, of the whole process: 0.3 MB. A node uses some dozens of keys at a time."""


class _Keyed:
    """A key, and the cipher that was made of it while it is among the last used."""

    __slots__ = ("__weakref__", "_cipher", "_key")

    _lately: ClassVar[deque[ref[_Keyed]]] = deque()
    """Who has a cipher: the first made goes first. Weak, so that a key ends with its session."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher: ChaCha20Poly1305 | None = None

    def _warm(self) -> ChaCha20Poly1305:
        lately = self._lately
        if len(lately) >= WARM_MAX:
            coldest = lately.popleft()()
            if coldest is not None:
                coldest._cipher = None
        lately.append(ref(self))
        cipher = self._cipher = ChaCha20Poly1305(self._key)
        return cipher


class Sealer(_Keyed):
    """Seals parcels under one key; the caller never gives the same ``seq`` twice.

    Args: key: 32 bytes; iv: 12 bytes; kid: 8 bytes; context: any bytes, bound as external AAD.
    Raises: BadInput: a length that does not fit.
    """

    __slots__ = ("_aad", "_heads", "_iv")

    def __init__(self, key: bytes, iv: bytes, kid: bytes, context: bytes) -> None:
        _checked(key, iv, kid)
        super().__init__(key)
        self._iv = int.from_bytes(iv, "big")
        head = HEAD + kid + b"\x06"
        self._heads = (head + b"\x41", head + b"\x42", head + b"\x43")
        self._aad = aad(context)

    def seal(self, seq: int, plain: bytes) -> bytes:
        """Raises: BadInput: seq outside 1 .. 2^24 - 1, or more than ``PLAIN_BYTES_MAX`` bytes."""
        size = len(plain)
        if size > PLAIN_BYTES_MAX:
            raise BadInput(f"{size} bytes do not fit a parcel", fix=f"send at most {PLAIN_BYTES_MAX}")
        if 0 < seq < 0x100:
            head = self._heads[0] + seq.to_bytes(1, "big")
        elif 0x100 <= seq < 0x10000:
            head = self._heads[1] + seq.to_bytes(2, "big")
        elif 0x10000 <= seq < SEQ_LIMIT:
            head = self._heads[2] + seq.to_bytes(3, "big")
        else:
            raise BadInput(f"parcel number {seq} is out of range", fix=f"use 1 to {SEQ_LIMIT - 1}")
        cipher = self._cipher or self._warm()
        sealed = cipher.encrypt((self._iv ^ seq).to_bytes(12, "big"), plain, self._aad)
        return b"".join((head, bstr_head(size + TAG_BYTES), sealed))


class Opener(_Keyed):
    """Opens what the ``Sealer`` of the same four arguments sealed; knows nothing of replays."""

    __slots__ = ("_aad", "_head", "_iv")

    def __init__(self, key: bytes, iv: bytes, kid: bytes, context: bytes) -> None:
        _checked(key, iv, kid)
        super().__init__(key)
        self._iv = int.from_bytes(iv, "big")
        self._head = HEAD + kid + b"\x06"
        self._aad = aad(context)

    def open(self, parcel: bytes) -> tuple[int, bytes]:
        """The sequence number and the plain bytes.

        Raises: ProtocolViolation, and nothing else: not this shape, not this kid, not authentic.
        """
        if not parcel.startswith(self._head):
            raise ProtocolViolation("parcel is not under this key" if is_parcel(parcel) else "not a parcel")
        seq, body = _parse(parcel)
        try:
            cipher = self._cipher or self._warm()
            return seq, cipher.decrypt((self._iv ^ seq).to_bytes(12, "big"), parcel[body:], self._aad)
        except InvalidTag:
            raise ProtocolViolation("parcel does not authenticate") from None


def is_parcel(frame: bytes) -> bool:
    """Does it begin like one? The rest is for ``Opener.open`` to judge."""
    return frame.startswith(HEAD)


def peek_kid(parcel: bytes) -> bytes:
    """The name of the key that a parcel claims to be under; nothing is proved by it.

    Raises: ProtocolViolation: not the shape of a parcel (everything but the tag is checked).
    """
    if not parcel.startswith(HEAD) or parcel[_KID_END : _KID_END + 1] != b"\x06":
        raise ProtocolViolation("not a parcel")
    _parse(parcel)
    return bytes(parcel[len(HEAD) : _KID_END])


def aad(context: bytes) -> bytes:
    """The Enc_structure of RFC 9052 section 5.3 around ``context``."""
    return _AAD_HEAD + bstr_head(len(context)) + context


def bstr_head(size: int) -> bytes:
    """CBOR head of a byte string, shortest form."""
    if size < 24:
        return (0x40 | size).to_bytes(1, "big")
    if size < 0x100:
        return (0x5800 | size).to_bytes(2, "big")
    if size < 0x10000:
        return (0x590000 | size).to_bytes(3, "big")
    return (0x5A00000000 | size).to_bytes(5, "big")


def _parse(parcel: bytes) -> tuple[int, int]:
    """(sequence number, where the sealed bytes begin) of something that starts like a parcel up to the 06."""
    total = len(parcel)
    if total > PARCEL_BYTES_MAX:
        raise ProtocolViolation("parcel is too large")
    n = parcel[MARK] - 0x40 if total > MARK else 0
    at = _SEQ + n  # the head of the sealed bytes
    if not 1 <= n <= 3 or total < at + 1 + TAG_BYTES:  # so that up to four length bytes can be read below
        raise ProtocolViolation("parcel has a wrong shape")
    seq = int.from_bytes(parcel[_SEQ:at], "big")
    if seq < _SEQ_FLOOR[n]:
        raise ProtocolViolation("parcel number is zero or not in its shortest form")
    head = parcel[at]
    if head == 0x59:
        size, body, floor = parcel[at + 1] << 8 | parcel[at + 2], at + 3, 0x100
    elif head == 0x58:
        size, body, floor = parcel[at + 1], at + 2, 24
    elif 0x40 <= head < 0x58:
        size, body, floor = head - 0x40, at + 1, 0
    elif head == 0x5A:
        size, body, floor = int.from_bytes(parcel[at + 1 : at + 5], "big"), at + 5, 0x10000
    else:
        raise ProtocolViolation("parcel has a wrong shape")
    if size < floor or size < TAG_BYTES or body + size != total:
        raise ProtocolViolation("parcel length is wrong or not in its shortest form")
    return seq, body


def _checked(key: bytes, iv: bytes, kid: bytes) -> None:
    for name, data, size in (("key", key, KEY_BYTES), ("iv", iv, IV_BYTES), ("kid", kid, KID_BYTES)):
        if len(data) != size:
            raise BadInput(f"{name} has {len(data)} bytes", fix=f"give {size}")
