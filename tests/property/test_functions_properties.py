"""Values and manifests invert; random bytes raise only what callers expect; catalogues converge."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_node.functions.arguments import checker
from edge_node.functions.bundle import Bundle
from edge_node.functions.catalogue import Catalogue
from edge_node.functions.invocation import TaskError
from edge_node.functions.manifest import Manifest, read_manifests
from edge_node.functions.runtimes.frames import FrameReader
from edge_node.functions.values import decode, decode_call, encode
from security.errors import BadInput, ProtocolViolation

MESH = "0123456789abcdef"
ALIKE = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | ALIKE
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ALIKE, inner, max_size=4),
    max_leaves=20,
)


def same(a, b) -> bool:
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, list):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same(value):
    assert same(value, decode(encode(value)))


@given(st.binary(max_size=200))
def test_random_bytes_only_raise_protocol_violation(data):
    for parse in (decode, decode_call, Manifest.from_bytes, Bundle.from_bytes, TaskError.decode):
        try:
            parse(data)
        except ProtocolViolation:
            pass


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 255))
def test_bent_arrays_only_raise_protocol_violation(data, at, byte):
    packed = bytearray(msgspec.msgpack.encode(["<f4", [2, 2], data]))
    packed[at % len(packed)] = byte
    try:
        decode(msgspec.msgpack.encode(msgspec.msgpack.Ext(3, bytes(packed))))
    except ProtocolViolation:
        pass


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_as_a_function_file_only_raises_bad_input(source):
    try:
        read_manifests("a.py", source)
    except BadInput:
        pass


@given(st.text("listdcnoe[]|,. N'xU()*" + '"', max_size=40), VALUES)
def test_any_annotation_gives_a_verdict_in_one_line(annotation, value):
    check = checker(annotation)
    cause = check(value) if check else None

    assert cause is None or "\n" not in cause


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 700), max_size=30))
def test_frames_come_out_as_they_went_in_however_they_are_cut(bodies, cuts):
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    reader = FrameReader(bytes, 1000)
    out, at = [], 0
    for cut in [*cuts, len(stream)]:
        out += reader.feed(stream[at : at + cut])
        at = min(at + cut, len(stream))

    assert out == bodies


class Entry(msgspec.Struct, frozen=True):
    name: str
    version: int
    fill: int
    mesh: str = MESH
    manifest: bytes = b""
    issued_s: int = 0

    @property
    def digest(self) -> bytes:
        return bytes([self.fill]) * 32

    @property
    def raw(self) -> bytes:
        return msgspec.msgpack.encode(self)


ENTRIES = st.lists(
    st.builds(Entry, st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 2)), max_size=30
)


@given(ENTRIES)
def test_versions_never_go_back_whatever_arrives(entries):
    catalogue, highest = Catalogue(MESH, msgspec.msgpack.Decoder(Entry).decode), {}
    for entry in entries:
        catalogue.adopt(entry.raw)
        highest[entry.name] = max(highest.get(entry.name, 0), entry.version)
        catalogue.check()
        assert dict(catalogue.versions()) == highest


@given(ENTRIES)
def test_two_members_that_tell_each_other_everything_agree(entries):
    """Given an honest deployer: one content a version."""
    honest = [Entry(e.name, e.version, e.version) for e in entries]
    a, b = (Catalogue(MESH, msgspec.msgpack.Decoder(Entry).decode) for _ in range(2))
    for entry in honest:
        a.adopt(entry.raw)
    for entry in reversed(honest[::2]):
        b.adopt(entry.raw)

    for data in a.entries_newer_than(b.versions()):
        b.adopt(data)

    assert a.versions() == b.versions()
    assert [a.current(name).digest for name in a.names()] == [b.current(name).digest for name in b.names()]


@given(st.datetimes(max_value=datetime(9999, 1, 1)))
def test_naive_times_stay_naive(when):
    assert decode(encode([when]))[0].tzinfo is None
