"""The catalogue believes signatures and growing versions, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from edge_node.functions.catalogue import HISTORY_MAX, Adopted, Catalogue, Fork, Known, Stale
from security.errors import BadInput, ProtocolViolation

MESH = "0123456789abcdef"


@dataclass(frozen=True)
class Entry:
    mesh: str
    name: str
    version: int
    digest: bytes
    manifest: bytes
    issued_s: int
    raw: bytes


def entry(
    name: str, version: int, fill: int = 0, *, mesh: str = MESH, nonce: int = 0, good: bool = True
) -> bytes:
    return msgspec.msgpack.encode([mesh, name, version, bytes([fill]) * 32, b"m", 0, nonce, good])


def open_entry(data: bytes) -> Entry:
    mesh, name, version, digest, manifest, issued_s, _, good = msgspec.msgpack.decode(data)
    if not good:
        raise ProtocolViolation("no deployer of this mesh signed it")
    return Entry(mesh, name, version, digest, manifest, issued_s, data)


@pytest.fixture
def catalogue():
    made = Catalogue(MESH, open_entry)
    yield made
    made.check()


def test_the_highest_version_is_current(catalogue):
    first, second = entry("room.changes", 1, 1), entry("room.changes", 3, 3)

    assert catalogue.next_version("room.changes") == 1
    assert catalogue.adopt(first) == Adopted(open_entry(first))
    assert catalogue.adopt(second) == Adopted(open_entry(second))
    assert catalogue.current("room.changes").version == 3
    assert catalogue.next_version("room.changes") == 4
    assert [old.version for old in catalogue.history("room.changes")] == [3, 1]
    assert catalogue.digests() == {bytes([1]) * 32, bytes([3]) * 32}


def test_an_old_entry_cannot_be_replayed(catalogue):
    catalogue.adopt(entry("a.f", 1, 1))
    catalogue.adopt(entry("a.f", 5, 5))

    assert catalogue.adopt(entry("a.f", 1, 1)) == Stale("a.f", 1, 5)
    assert catalogue.adopt(entry("a.f", 3, 3)) == Stale("a.f", 3, 5)
    assert catalogue.current("a.f").version == 5


def test_the_same_version_with_other_content_is_a_fork(catalogue):
    catalogue.adopt(entry("a.f", 1, 1))
    catalogue.adopt(entry("a.f", 2, 2))

    assert catalogue.adopt(entry("a.f", 2, 9)) == Fork("a.f", 2, bytes([2]) * 32, bytes([9]) * 32)
    assert catalogue.adopt(entry("a.f", 1, 9)) == Fork("a.f", 1, bytes([1]) * 32, bytes([9]) * 32)
    assert catalogue.current("a.f").digest == bytes([2]) * 32


def test_the_same_content_signed_twice_is_nothing_new(catalogue):
    """ECDSA signs the same thing differently each time."""
    catalogue.adopt(entry("a.f", 2, 2))

    assert isinstance(catalogue.adopt(entry("a.f", 2, 2, nonce=1)), Known)


def test_rolling_back_is_a_new_version_of_an_old_digest(catalogue):
    for version, fill in [(1, 1), (2, 2), (3, 1)]:
        catalogue.adopt(entry("a.f", version, fill))

    assert (catalogue.current("a.f").version, catalogue.current("a.f").digest) == (3, bytes([1]) * 32)


@pytest.mark.parametrize(
    "data",
    [
        entry("a.f", 1, good=False),
        entry("a.f", 1, mesh="f" * 16),
        entry("a.f", 0),
        entry("a.f", -3),
        b"x" * 40_000,
    ],
)
def test_what_no_deployer_of_this_mesh_signed_is_refused(catalogue, data):
    with pytest.raises(ProtocolViolation):
        catalogue.adopt(data)
    assert catalogue.names() == []


def test_an_unknown_name_gets_its_nearest(catalogue):
    with pytest.raises(BadInput, match="nothing is deployed yet"):
        catalogue.current("room.changes")
    catalogue.adopt(entry("room.changes", 1))
    catalogue.adopt(entry("gait.spectrum", 1))

    with pytest.raises(
        BadInput, match=r"no function 'room.chnges' is deployed: did you mean 'room.changes'\?"
    ):
        catalogue.current("room.chnges")
    assert catalogue.nearest("elsewhere_entirely.spectrum") == "gait.spectrum"
    assert catalogue.nearest("zzz") is None


def test_others_get_what_they_lack(catalogue):
    a1, a2, b1 = entry("a.f", 1), entry("a.f", 2), entry("b.f", 1)
    for data in (a1, a2, b1):
        catalogue.adopt(data)

    assert catalogue.versions() == [("a.f", 2), ("b.f", 1)]
    assert catalogue.entries_newer_than([]) == [a2, b1]
    assert catalogue.entries_newer_than([("a.f", 1), ("b.f", 1)]) == [a2]
    assert catalogue.entries_newer_than([("a.f", 2), ("b.f", 7)]) == []


def test_a_snapshot_restores_to_the_same_and_is_verified_again(catalogue):
    for name, version in [("a.f", 1), ("b.f", 1), ("a.f", 2)]:
        catalogue.adopt(entry(name, version, version))
    other = Catalogue(MESH, open_entry)

    causes = other.restore([*catalogue.snapshot(), entry("c.f", 1, good=False)])

    assert causes == ["no deployer of this mesh signed it"]
    assert other.snapshot() == catalogue.snapshot()
    assert other.history("a.f") == catalogue.history("a.f")


def test_history_is_bounded(catalogue):
    for version in range(1, HISTORY_MAX + 10):
        catalogue.adopt(entry("a.f", version))

    assert len(catalogue.history("a.f")) == HISTORY_MAX
