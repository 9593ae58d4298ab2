"""Fault 13: every parser of bytes that others send, fed what nobody should: typed errors only.

A thousand inputs a parser, from a seed that is named by a failure; `EDGEWEAVE_FUZZ=n` takes n times as many
and other ones. Good bytes are bent, cut, doubled, mixed with each other and replaced: that reaches deeper
than noise alone. The parsers of trust have their own tests beside these (`test_security_parsers`).
"""

from __future__ import annotations

import random
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from edge_node.control import protocol
from edge_node.discovery import sightings
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from edge_node.functions.invocation import TaskError
from edge_node.functions.manifest import Manifest, read_manifests
from edge_node.settings import NodeSettings, parse, template
from edge_node.wire import codec, messages, topics
from gateway.settings import GatewaySettings
from security.authority import Authority
from security.control import Control, decode_control, decode_payload, encode_payload
from security.enrolment import JoinCode, build_request, read_request
from security.errors import BadInput, ProtocolViolation
from security.identity import NodeKeys
from security.roster import Member, MemberKey, RosterDraft, open_roster
from security.signing import EntryDraft, open_entry, sign_entry

INPUTS = 1000
NOW_S = 1_795_000_000
SOURCE = '''
from edge_node.functions import function

@function(timeout_s=5, memory_mb=128, requires=["numpy"], labels={"site": "a"})
def changes(rows: list[dict], above: float = 0.5) -> list[int]:
    """Row indexes."""
    return []
'''
SETTINGS = {
    kind: re.sub(r"(?m)^# (?=\w+ = )", "", template(kind)).encode()
    for kind in (NodeSettings, GatewaySettings)
}


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


MESH = Authority.create(now_s=NOW_S, entropy=noise)
KEYS = NodeKeys.generate()
MEMBER = Member("pi-1", (MemberKey(KEYS.spki_sha256, KEYS.x25519_public, NOW_S),), ("deployer",), {"a": "b"})
SIGNED = MESH.sign_roster(RosterDraft(1, bytes(32), NOW_S, ("a:1",), (), (MEMBER,)))
ROSTER = open_roster(SIGNED, root_spki_sha256=MESH.root_spki_sha256)
BUNDLE = Bundle.of_source("room.py", SOURCE.encode())
MANIFEST = BUNDLE.manifests()[0].to_bytes()
ENTRY = sign_entry(EntryDraft(MESH.mesh_id, "room.changes", 1, BUNDLE.digest, MANIFEST, NOW_S), KEYS.signing)
CODE = JoinCode.make(MESH.root_spki_sha256, ("10.0.0.1:8443",), bytes(20))
REQUEST = build_request(CODE, KEYS, name="pi-1", labels={"a": "b"}, server_leaf_sha256=bytes(32))
PARCEL = codec.pack(
    3,
    [
        (4, codec.encode_message(messages.Offer("t" * 23, 1, "room.changes", bytes(32), 2000, input=b"x"))),
        (5, codec.encode_message(messages.Result("t", 1, "done", b"out", load=messages.Load(1, 0)))),
        (6, codec.encode_message(messages.CatalogueWanted([("room.changes", 3)]))),
        (7, codec.encode_message(messages.Ack(7, b"\x05"))),
    ],
)
CALL = values.encode([[{"a": 1, "b": 2.5, "c": None, "d": b"\x00" * 20}], {"above": 0.5}])
FRAME = Control(1, bytes(8), 3, bytes(8), bytes(8), b"\x01" * 80).encode()


def frames(data: bytes) -> None:
    for body in protocol.FrameReader().feed(data):
        protocol.decode_request(body)


def as_text(read: Callable[[str], object], data: bytes) -> None:
    read(data.decode("utf-8", "replace"))


REQUESTS = b"".join(
    protocol.encode(request)
    for request in (
        protocol.Submit(1, "a.b", b"in", "local", 100, 2000, 3),
        protocol.Result(3, "t1", 500),
        protocol.Call(5, "status", b"\x80"),
    )
)
TOPICS = b"ew/1/0123456789abcdef/d/pi-1/gateway"
PARSERS: dict[
    str, tuple[list[bytes], Callable[[bytes], object], type[Exception] | tuple[type[Exception], ...]]
] = {
    "parcel": ([PARCEL], codec.unpack, ProtocolViolation),
    "topic": ([TOPICS, b"ew/1/0123456789abcdef/roster"], partial(as_text, topics.parse), ProtocolViolation),
    "control socket": ([REQUESTS], frames, ProtocolViolation),
    "control response": (
        [
            protocol.encode(protocol.Accepted(1, "t"))[4:],
            protocol.encode(protocol.Failure(6, "refused", "a"))[4:],
        ],
        protocol.decode_response,
        ProtocolViolation,
    ),
    "session control": ([FRAME], decode_control, ProtocolViolation),
    "handshake payload": ([encode_payload(bytes(8), 5, bytes(8))], decode_payload, ProtocolViolation),
    "value": ([CALL], values.decode, ProtocolViolation),
    "call": ([CALL], values.decode_call, ProtocolViolation),
    "bundle": ([BUNDLE.to_bytes()], Bundle.from_bytes, ProtocolViolation),
    "manifest": ([MANIFEST], Manifest.from_bytes, ProtocolViolation),
    "task error": ([TaskError("raised", "E", "m", "t").encode()], TaskError.decode, ProtocolViolation),
    "function source": ([SOURCE.encode()], partial(read_manifests, "room.py"), BadInput),
    "catalogue entry": (
        [ENTRY],
        partial(open_entry, mesh_id=MESH.mesh_id, deployers=ROSTER.signers),
        ProtocolViolation,
    ),
    "roster": ([SIGNED], partial(open_roster, root_spki_sha256=MESH.root_spki_sha256), ProtocolViolation),
    "join request": ([REQUEST], read_request, ProtocolViolation),
    "join code": ([CODE.text().encode()], partial(as_text, JoinCode.parse), BadInput),
    "settings": ([SETTINGS[NodeSettings]], partial(as_text, partial(parse, NodeSettings)), BadInput),
    "gateway settings": (
        [SETTINGS[GatewaySettings]],
        partial(as_text, partial(parse, GatewaySettings)),
        BadInput,
    ),
    "address": ([b"10.0.0.1:8443", b"[fe80::1%eth0]:1"], partial(as_text, sightings.parse_address), BadInput),
}

NESTED = [
    head * 50_000 for head in (b"\x91", b"\x81\xa1a", b"\x81", b"\xa1\x61", b"[", b"{", b"(", b"a=[", b"\xc0")
]
CLAIMS = [
    b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x00" * 64, b"",
]  # fmt: skip


def hostile(good: list[bytes], rng: random.Random, count: int) -> Iterator[bytes]:
    """So many inputs: the famous ones first, then bent and random ones."""
    yield from [*NESTED, *CLAIMS]
    for _ in range(count - len(NESTED) - len(CLAIMS)):
        data = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(8):
                case 0 if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
                case 1 if at < len(data):
                    data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF))
                case 2:
                    del data[at:]
                case 3:
                    del data[at : at + rng.randrange(1, 9)]
                case 4:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 5:
                    data[at:at] = data[: rng.randrange(len(data) + 1)]
                case 6:
                    data[at : at + 5] = rng.choice(CLAIMS)
                case _:
                    data = bytearray(rng.randbytes(rng.randrange(200)))
        yield bytes(data)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning", "ignore:Parsed a serial")
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PARSERS))
def test_hostile_bytes_raise_only_what_the_caller_expects(name, fuzz_effort):
    good, read, allowed = PARSERS[name]
    for data in good:
        read(data)
    seed = f"{name} {fuzz_effort}"
    limit = sys.getrecursionlimit()

    for number, data in enumerate(hostile(good, random.Random(seed), INPUTS * fuzz_effort)):
        try:
            read(data)
        except allowed as error:
            assert "\n" not in str(error), (seed, number, data[:200])
        except Exception as error:
            raise AssertionError(f"seed {seed!r}, input {number}: {data[:200]!r}") from error
    assert sys.getrecursionlimit() == limit


def test_bytes_that_claim_much_get_little():
    """A length that is only claimed is never allocated."""
    tracemalloc.start()
    try:
        for _, read, allowed in PARSERS.values():
            for claim in (*CLAIMS, *(b"\x93" + claim for claim in CLAIMS)):
                try:
                    read(claim)
                except allowed:
                    pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 1024 * 1024
