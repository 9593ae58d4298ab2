"""Every parser of bytes that somebody else may have written, with good bytes and what it may raise.

    PARSERS[name] = Parser(good, read, allowed)
    for data in hostile(good, rng, 1000): read(data)        # raises nothing but *allowed*

Good bytes are bent, cut, doubled, mixed with each other and replaced: that reaches deeper than noise alone.
The famous inputs come first: deep nesting, and lengths that are claimed and not there.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import msgspec

from device_sim.scenario import reading
from device_sim.virtual import recorded
from edge_node import joining
from edge_node.chronicle import entry
from edge_node.commands import inputs
from edge_node.control import protocol
from edge_node.discovery import sightings
from edge_node.functions import values
from edge_node.functions.bundle import Bundle
from edge_node.functions.invocation import TaskError
from edge_node.functions.manifest import Manifest, read_manifests
from edge_node.functions.runtimes import frames
from edge_node.scheduling.estimates import Estimates
from edge_node.settings import NodeSettings, parse, template
from edge_node.tasks import rows
from edge_node.tasks.task import Accepted, Attempt, Closed, Fenced, Outcome, Task
from edge_node.transport.inbox import Inbox
from edge_node.transport.mqtt import MqttLink, _Client
from edge_node.wire import codec, messages, topics
from gateway import restoration
from gateway.broker.process import Record
from gateway.settings import GatewaySettings
from security import canonical, certificates, enrolment, sealing, signing
from security.authority import Authority
from security.control import Control, decode_control, decode_payload, encode_payload
from security.enrolment import JoinCode, build_request, read_request
from security.envelope import Opener, Sealer, peek_kid
from security.errors import BadInput, EdgeweaveError, ProtocolViolation, Refused, Unavailable
from security.group import Epochs, GroupReceiver, GroupSender
from security.identity import NodeKeys, private_pem, read_spki, spki_der
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft, open_roster, read_payload
from security.session import FrameReceived, SendFrame, Sessions, Wanted
from security.signing import EntryDraft, open_entry, sign_entry
from tests.support.hostile_proxy import length_of

Errors = type[Exception] | tuple[type[Exception], ...]


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
LEAF_PEM = MESH.issue(KEYS.public, "pi-1", now_s=NOW_S)
LEAF_HASH = b"L" * 32
MANIFEST = BUNDLE.manifests()[0].to_bytes()
ENTRY = sign_entry(EntryDraft(MESH.mesh_id, "room.changes", 1, BUNDLE.digest, MANIFEST, NOW_S), KEYS.signing)
CODE = JoinCode.make(MESH.root_spki_sha256, ("10.0.0.1:8443",), bytes(20))
REQUEST = build_request(CODE, KEYS, name="pi-1", labels={"a": "b"}, server_leaf_sha256=LEAF_HASH)
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


def control_frames(data: bytes) -> None:
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


# ── one message of every kind ─────────────────────────────────────────────────────────────────────────


def sample_of(kind: Any) -> Any:
    """A value of a field's type: small, and inside its bounds."""
    bounds: list[Any] = []
    if typing.get_origin(kind) is typing.Annotated:
        kind, *bounds = typing.get_args(kind)
    least = max((each.min_length or 0 for each in bounds if isinstance(each, msgspec.Meta)), default=0)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return sample_of(next(each for each in typing.get_args(kind) if each is not type(None)))
    if typing.get_origin(kind) is list:
        return [sample_of(typing.get_args(kind)[0])]
    if typing.get_origin(kind) is tuple:
        parts = [sample_of(each) for each in typing.get_args(kind) if each is not Ellipsis]
        return tuple(parts * max(1, least))
    if typing.get_origin(kind) is dict:
        return {sample_of(each): sample_of(value) for each, value in [typing.get_args(kind)]}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{name: sample_of(hints[name]) for name in kind.__struct_fields__})
    if kind in (str, bytes):
        return (b"x" if kind is bytes else "x") * max(1, least)
    return {int: 1, float: 0.5, bool: True}[kind]


MESSAGES = [sample_of(kind) for kind in typing.get_args(messages.ANY)]
EVERY_MESSAGE = [codec.pack(1, [(1, codec.encode_message(each))]) for each in MESSAGES]


# ── doors that need something around them ─────────────────────────────────────────────────────────────


def sessions_of(me: str, peer: NodeKeys, own: NodeKeys) -> Sessions:
    """One side of a conversation; time stands still but for what a test tells it."""
    rng = random.Random(me)
    return Sessions(
        me=me, mesh_id=MESH.mesh_id, boot_id=me.encode().ljust(8), static=[own.static_private_bytes],
        keys_of=lambda name: (peer.x25519_public,), context=codec.direct_context(MESH.mesh_id),
        entropy=rng.randbytes, roster_version=lambda: 1, wall_ms=lambda: 0,
    )  # fmt: skip


def sent(effects: list[Any]) -> list[bytes]:
    return [each.frame for each in effects if isinstance(each, SendFrame)]


PEER = NodeKeys.generate()
OURS, THEIRS = sessions_of("pi-1", PEER, KEYS), sessions_of("pi-2", KEYS, PEER)
M1 = sent(THEIRS.handle(0, Wanted("pi-1")) + THEIRS.drain())[0]
M2 = sent(OURS.handle(0, FrameReceived("pi-2", M1)) + OURS.drain())[0]
THEIRS.handle(0, FrameReceived("pi-1", M2)), THEIRS.drain()
SEALED = [THEIRS.seal(0, "pi-1", bytes(size)) for size in (0, 1, 40, 300)]
_now_ns = 0


def handshake(data: bytes) -> None:
    """A control frame of a peer: it never raises, whatever it is, and no invariant breaks."""
    global _now_ns
    _now_ns += 2_000_000_000  # each finds its peer's budget filled up
    OURS.handle(_now_ns, FrameReceived("pi-2", data))
    OURS.tick(_now_ns)
    OURS.drain()
    OURS.check()


SECRET = b"S" * 32
GRANT = MESH.sign_grant(group="mesh", epoch=1, secret=SECRET, issued_s=NOW_S)


def epochs() -> Epochs:
    return Epochs(mesh_id=MESH.mesh_id, group="mesh", root_spki_sha256=MESH.mesh_id)


HELD = epochs()
HELD.adopt(0, GRANT, SECRET)
PRESENCE = f"ew/1/{MESH.mesh_id}/p/pi-2"
GROUP_FRAME = GroupSender("pi-2", HELD, codec.group_context(MESH.mesh_id), entropy=noise).seal(
    PRESENCE, b"beat"
)
assert GROUP_FRAME is not None


def group_frame(data: bytes) -> None:
    reader = GroupReceiver(HELD, codec.group_context(MESH.mesh_id), is_member=lambda src: True)
    reader.open(0, PRESENCE, "pi-2", data)
    reader.check()


OPENER = Opener(bytes(32), bytes(12), b"kid of 8", b"context")
PARCELS = [Sealer(bytes(32), bytes(12), b"kid of 8", b"context").seal(seq, bytes(seq)) for seq in (1, 300)]


def read_any_leaf(der: bytes) -> object:
    return certificates.verify_leaf(
        [MESH.issuing, MESH.root], certificates.read_certificate(der),
        root_spki_sha256=MESH.root_spki_sha256, usage="client", floor_s=NOW_S,
    )  # fmt: skip


def invitations() -> bytes:
    desk = enrolment.JoinDesk(root_spki_sha256=MESH.root_spki_sha256)
    _, effects = desk.invite(NOW_S, entropy=bytes(20), addresses=())
    return bytes(effects[-1].data)


def restore_invitations(data: bytes) -> None:
    desk = enrolment.JoinDesk(root_spki_sha256=MESH.root_spki_sha256)
    desk.restore(data, now_s=NOW_S, void_open=False)
    desk.check()


def announcement(data: bytes) -> None:
    """TXT strings, one a line."""
    properties = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
    sightings.sighting_from("pi-1", properties, ["10.0.0.1"])


ADVERT = sightings.Advert(MESH.mesh_id, "pi-1", "gateway", (("10.0.0.1", 1883),), 8443)
TXT = b"\n".join(f"{key}={value}".encode() for key, value in sightings.properties_of(ADVERT).items())


def estimates() -> Estimates:
    known = Estimates()
    known.observe("a.b", "pi-1", 0.5, 1.0, 100, "board")
    return known


def answers_of_a_worker(data: bytes) -> None:
    list(frames.FrameReader(frames.decode_from_worker, 1 << 20).feed(data))


ANSWERS = b"".join(
    frames.pack(sample_of(kind)) for kind in (frames.Ready, frames.Loaded, frames.Printed, frames.Done)
)
TASK = Task("t", "f.noop", bytes(32), b"in", bytes(32), "pi-1")
RECORDS = [Accepted(TASK), Fenced("t", (Attempt(1, "gateway"),)), Closed("t", Outcome("done", b"out"))]


class OneTask:
    """A ledger that holds this body in each of a task's rows, under checksums that are right."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def rows_of(self, task_id: str) -> list[tuple[int, int, bytes, int]]:
        kinds = (rows.ACCEPTED, rows.RESERVED + 1, rows.CLOSED, -1)
        return [(kind, 0, self.body, rows.crc_of(task_id, kind, self.body)) for kind in kinds]


def ledger_rows(data: bytes) -> None:
    rows.Reading(OneTask(data)).get("t")  # type: ignore[arg-type]


def in_a_file(read: Callable[[Path], object], data: bytes) -> None:
    """Through a file, as a person or an earlier life of the process left it."""
    path = Path(tempfile.gettempdir()) / f"edgeweave-parser-{os.getpid()}"
    try:
        path.write_bytes(data)
        read(path)
    finally:
        path.unlink(missing_ok=True)


def key_file(name: str, read: Callable[[KeyStore], object], data: bytes) -> None:
    """A file of a home's keys, written by who may and damaged since."""
    with tempfile.TemporaryDirectory(prefix="edgeweave-parser-") as folder:
        store = KeyStore(Path(folder))
        store.write(name, data)
        read(store)


IDENTITY = private_pem(KEYS.signing) + private_pem(KEYS.static) + LEAF_PEM + MESH.issuing_pem


def unseal(data: bytes) -> None:
    """Not with a costly key: a file that asks for one is as if it ended there."""
    try:
        cost = cbor2.loads(data[len(sealing.MAGIC) + 2 :])["n"]
    except (cbor2.CBORDecodeError, TypeError, KeyError, ValueError, OverflowError, RecursionError):
        cost = 0
    if isinstance(cost, int) and cost <= 11:
        list(sealing.unseal(io.BytesIO(data), b"four words of dice"))


BACKUP = b"".join(sealing.seal([b"plain"], b"four words of dice", salt=bytes(16), nonce=bytes(7), cost=10))
SCENARIO = min((Path(__file__).parents[2] / "examples" / "scenarios").glob("*.toml"))


def client_for(inbox: Inbox, *, mqtt5: bool = False) -> _Client:
    """The MQTT client of a link, connected to nothing; inside a running loop."""
    link = MqttLink(addresses=list, client_id="a", tls=None, inbox=inbox, mqtt5=mqtt5)
    return _Client(link, ("127.0.0.1", 1), None)


def publish(topic: bytes, payload: bytes, mid: int, *, mqtt5: bool = False) -> bytes:
    """A PUBLISH packet of QoS 1, or 0 where *mid* is 0."""
    rest = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if mid else b"")
    rest += b"\0" if mqtt5 else b""
    return bytes([0x32 if mid else 0x30]) + length_of(len(rest) + len(payload)) + rest + payload


def from_a_broker(data: bytes, *, mqtt5: bool = False) -> None:
    """Whatever arrives, a typed error ends the connection or nothing does."""

    async def story() -> None:
        client = client_for(Inbox(), mqtt5=mqtt5)
        client._open[1] = 7
        client._in += data
        try:
            client._parse()
        finally:
            for future in (client._disconnected, client._connected):
                if future.done():
                    future.exception()
                else:
                    future.cancel()

    asyncio.run(story())


CONNACK, PUBACK = b"\x20\x02\0\0", b"\x40\x02\0\1"
CONNACK_5 = b"\x20\x03\0\0\0"


def recorded_seed() -> bytes:
    scenario = reading.parse(SCENARIO.read_text()).scenario
    kept = recorded.Recorded(
        format=recorded.FORMAT, drawing=1, version="1", commit="c", seed=1, nodes=5, drawn=["five nodes"],
        scenario=scenario, faults=(), trace_hash="h", steps=1, ended_ns=1, broken=(),
    )  # fmt: skip
    return msgspec.json.encode(kept)


PARSERS: dict[str, tuple[list[bytes], Callable[[bytes], object], Errors]] = {
    "parcel": ([PARCEL, *EVERY_MESSAGE], codec.unpack, ProtocolViolation),
    "topic": ([TOPICS, b"ew/1/0123456789abcdef/roster"], partial(as_text, topics.parse), ProtocolViolation),
    "control socket": ([REQUESTS], control_frames, ProtocolViolation),
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
    # trust
    "cbor": ([canonical.encode([1, {"a": b"b"}])], canonical.decode, ProtocolViolation),
    "spki": ([spki_der(KEYS.public)], read_spki, ProtocolViolation),
    "csr": ([certificates.build_csr(KEYS.signing, "pi-1")], certificates.key_of_csr, ProtocolViolation),
    "leaf": ([certificates.der_of(certificates.read_pem(LEAF_PEM)[0])], read_any_leaf, ProtocolViolation),
    "pem": ([LEAF_PEM], certificates.read_pem, ProtocolViolation),
    "sign1": (
        [ENTRY],
        partial(signing.verify1, context=b"ew1-entry", trusted_spki_sha256={KEYS.spki_sha256}),
        ProtocolViolation,
    ),
    "roster payload": ([ROSTER.payload], read_payload, ProtocolViolation),
    "join answer": (
        [enrolment.accepted(LEAF_PEM, MESH.chain_pem, SIGNED, wall_s=NOW_S, brokers=("a:1",))],
        partial(
            enrolment.read_answer, root_spki_sha256=MESH.root_spki_sha256, keys=KEYS, name="", floor_s=NOW_S
        ),
        (ProtocolViolation, Refused, Unavailable),
    ),
    "renewal": (
        [enrolment.build_renewal(KEYS, KEYS, node_id="pi-1", server_leaf_sha256=LEAF_HASH, nonce=bytes(16))],
        partial(enrolment.open_renewal, roster=ROSTER, server_leaf_sha256=LEAF_HASH, now_s=NOW_S),
        (ProtocolViolation, Refused),
    ),
    "leave": (
        [enrolment.build_leave(KEYS, node_id="pi-1", server_leaf_sha256=LEAF_HASH)],
        partial(enrolment.open_leave, roster=ROSTER, server_leaf_sha256=LEAF_HASH),
        (ProtocolViolation, Refused),
    ),
    "leave answer": ([enrolment.noted()], enrolment.read_noted, (ProtocolViolation, Refused, Unavailable)),
    "joining server's head": (
        [b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: close"],
        joining._read_head,
        ProtocolViolation,
    ),
    "kept invitations": ([invitations()], restore_invitations, ProtocolViolation),
    "sealed backup": ([BACKUP], unseal, BadInput),
    # sealed
    "envelope": (PARCELS, OPENER.open, ProtocolViolation),
    "envelope's key id": (PARCELS, peek_kid, ProtocolViolation),
    "session parcel": (SEALED, lambda data: OURS.open(0, "pi-2", data), ProtocolViolation),
    "handshake": ([M1, M2], handshake, ()),
    "group frame": ([GROUP_FRAME], group_frame, ProtocolViolation),
    "group grant": ([GRANT], lambda data: epochs().adopt(0, data, SECRET), ProtocolViolation),
    "kept group secrets": ([HELD.to_bytes()], lambda data: epochs().restore(0, data), ProtocolViolation),
    # network
    "announcement": ([TXT], announcement, ProtocolViolation),
    "packets of a broker": (
        [publish(b"ew/1/m/d/a/b", b"payload", 7), publish(b"t", b"", 0), CONNACK, PUBACK],
        from_a_broker,
        EdgeweaveError,
    ),
    "packets of a broker, MQTT 5": (
        [publish(b"ew/1/m/d/a/b", b"payload", 7, mqtt5=True), CONNACK_5, PUBACK],
        partial(from_a_broker, mqtt5=True),
        EdgeweaveError,
    ),
    # processes and files of ours
    "control answer's data": (
        [msgspec.msgpack.encode({"a": [1, 2.5, b"b"]})],
        protocol.unpack,
        ProtocolViolation,
    ),
    "worker's answers": ([ANSWERS], answers_of_a_worker, (ValueError, msgspec.DecodeError, RecursionError)),
    "kept estimates": ([estimates().dump()], lambda data: Estimates().load(data), BadInput),
    "ledger rows": ([rows.row_of(record).body for record in RECORDS], ledger_rows, ()),
    "kept identity": ([IDENTITY], partial(key_file, "identity.pem", KeyStore.identity), BadInput),
    "kept root": ([MESH.root_pem], partial(key_file, "root.pem", KeyStore.root), BadInput),
    "kept floor": ([b"1795000000"], partial(key_file, "floor", KeyStore.floor_s), BadInput),
    "chronicle entry": ([entry.encoded(sample_of(entry.Entry))], entry.decoded, ()),
    "restoration record": (
        [restoration.Restored(1, 2, 3).encode()],
        restoration.Restored.decode,
        (),
    ),
    "broker record": (
        [b'{"pid": 1, "started": 2, "boot": "b", "kind": "mosquitto", "digest": "d"}'],
        partial(in_a_file, Record.read),
        (),
    ),
    # people
    "csv": ([b"a,b\n1,2.5\n3,x\n"], lambda data: inputs.parse_csv(data.decode("latin-1"), "f.csv"), BadInput),
    "json or csv file": (
        [b'{"a": [1, 2.5, null]}'],
        partial(in_a_file, lambda path: inputs.read_input(str(path), "json")),
        BadInput,
    ),
    "arguments": (
        [b"a=1 b=[1,2] c=text"],
        partial(as_text, lambda text: inputs.parse_named(text.split(" "))),
        BadInput,
    ),
    "labels": (
        [b"site=a floor=2"],
        partial(as_text, lambda text: inputs.parse_labels(text.split(" "))),
        BadInput,
    ),
    "duration": ([b"90s", b"1.5h"], partial(as_text, inputs.parse_duration), BadInput),
    "scenario": ([SCENARIO.read_bytes()], partial(as_text, reading.parse), BadInput),
    "recorded seed": ([recorded_seed()], partial(in_a_file, recorded.read), BadInput),
}

LOCAL = {
    "arguments", "broker record", "chronicle entry", "csv", "duration", "function source", "gateway settings",
    "json or csv file", "kept estimates", "kept floor", "kept group secrets", "kept identity",
    "kept invitations", "kept root", "labels", "ledger rows", "recorded seed", "restoration record",
    "scenario", "sealed backup", "settings",
}  # fmt: skip
"""What a person wrote or this home kept: no stranger makes anybody wait there."""

NESTED = [
    head * 50_000 for head in (b"\x91", b"\x81\xa1a", b"\x81", b"\xa1\x61", b"[", b"{", b"(", b"a=[", b"\xc0")
]
CLAIMS = [
    b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x00" * 64, b"",
    b"HTTP/1.1 \xb2\xb2\xb2 OK",
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
