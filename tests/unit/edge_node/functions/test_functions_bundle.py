"""Bundles are deterministic, named by their digest, and verified whenever they are read."""

from __future__ import annotations

import hashlib
import stat

import msgspec
import pytest

from edge_node.functions.bundle import (
    Bundle,
    BundleStore,
    DamagedBundle,
    MissingBundle,
    checked_bundle,
    digest_of,
)
from security.errors import BadInput, ProtocolViolation, Unavailable

SOURCE = "from edge_node.functions import function\n\n@function\ndef f(x: int): return x\n"


@pytest.fixture
def data() -> bytes:
    return Bundle.of_source("some/where/room.py", SOURCE).to_bytes()


def test_the_same_file_gives_the_same_bytes_from_any_folder(data):
    """Pinned: a digest is a name for ever, so these bytes must never change."""
    assert data == Bundle.of_source("room.py", SOURCE.encode()).to_bytes()
    assert data == b"\x93\xa4ewb1\xa4room\x91\x92\xa7room.py\xc4" + bytes([len(SOURCE)]) + SOURCE.encode()
    assert Bundle.from_bytes(data).digest == digest_of(data) == hashlib.sha256(data).digest()


def test_a_bundle_knows_its_manifests(data):
    assert [manifest.name for manifest in Bundle.from_bytes(data).manifests()] == ["room.f"]


def test_a_file_that_offers_nothing_makes_no_bundle():
    with pytest.raises(BadInput, match="no function is marked"):
        Bundle.of_source("room.py", "x = 1")


@pytest.mark.parametrize(
    "forged",
    [
        b"", b"\x93", ["ewb2", "a", [["a.py", b""]]], ["ewb1", "a", []], ["ewb1", "a", [["b.py", b""]]],
        ["ewb1", "a", [["b.py", b""], ["a.py", b""]]], ["ewb1", "a", [["a.py", b""], ["a.py", b""]]],
        ["ewb1", "a", [["../x", b""], ["a.py", b""]]], ["ewb1", "a", [["/x", b""], ["a.py", b""]]],
        ["ewb1", "a", [["a.py", b"x" * 1024 * 1025]]], ["ewb1", "a", [["a.py", "text"]]],
        ["ewb1", "a", [["a.py", b""]], 1],
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_refused(forged):
    with pytest.raises(ProtocolViolation):
        Bundle.from_bytes(forged if isinstance(forged, bytes) else msgspec.msgpack.encode(forged))


def test_put_and_get(tmp_path, data):
    store = BundleStore(tmp_path / "bundles")
    digest = store.put(data)

    assert store.put(data) == digest
    assert store.get(digest) == data
    assert store.has(digest) and store.digests() == [digest]
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "bundles").stat().st_mode) == 0o700
    store.remove(digest)
    assert not store.has(digest) and store.digests() == []


def test_a_missing_bundle_is_told(tmp_path):
    with pytest.raises(MissingBundle):
        BundleStore(tmp_path).get(bytes(32))


def test_a_changed_file_is_set_aside_and_may_be_put_again(tmp_path, data):
    store = BundleStore(tmp_path)
    digest = store.put(data)
    store.path(digest).write_bytes(data.replace(b"return x", b"return y"))

    with pytest.raises(DamagedBundle, match="changed on disk"):
        store.get(digest)
    assert not store.has(digest)
    assert (tmp_path / f"{digest.hex()}.damaged").exists()
    assert store.put(data) == digest and store.get(digest) == data


def test_putting_over_a_changed_file_mends_it(tmp_path, data):
    store = BundleStore(tmp_path)
    digest = store.put(data)
    store.path(digest).write_bytes(b"")

    store.put(data)

    assert store.get(digest) == data


def test_what_a_crash_left_half_written_is_cleared(tmp_path, data):
    (tmp_path / ".new-abc").write_bytes(data[:10])

    BundleStore(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_unavailable(tmp_path, data):
    store = BundleStore(tmp_path / "b")
    (tmp_path / "b").rmdir()
    (tmp_path / "b").write_text("a file in its place")

    with pytest.raises(Unavailable):
        store.put(data)


def test_nothing_but_bundles_is_kept(tmp_path):
    with pytest.raises(ProtocolViolation):
        BundleStore(tmp_path).put(b"something else")


def test_fetched_bytes_must_have_the_digest_that_was_signed(data):
    assert checked_bundle(data, digest_of(data)).stem == "room"
    with pytest.raises(BadInput, match="does not have its digest"):
        checked_bundle(data + b"x", digest_of(data))


def test_looking_through_everything_sets_aside_what_was_changed(tmp_path, data):
    store = BundleStore(tmp_path)
    changed, whole = store.put(data), store.put(Bundle.of_source("other.py", SOURCE).to_bytes())
    store.path(changed).write_bytes(data + b" ")

    assert store.verify() == [changed]
    assert store.verify() == [] and store.digests() == [whole]
