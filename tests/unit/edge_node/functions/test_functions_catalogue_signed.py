"""The catalogue over real signatures: only the roster's deployers, only this mesh, only unchanged bytes."""

from __future__ import annotations

import functools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_node.functions.bundle import Bundle
from edge_node.functions.catalogue import Adopted, Catalogue, Known
from edge_node.functions.manifest import Manifest
from security.errors import ProtocolViolation
from security.signing import Deployer, EntryDraft, open_entry, sign_entry

MESH = "0123456789abcdef"
SOURCE = "from edge_node.functions import function\n\n@function(memory_mb=64)\ndef f(x: int): return x\n"


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def catalogue(key):
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Catalogue(MESH, functools.partial(open_entry, mesh_id=MESH, deployers=[Deployer("gateway", spki)]))


def signed(key, *, mesh: str = MESH, version: int = 1) -> bytes:
    bundle = Bundle.of_source("room.py", SOURCE)
    (manifest,) = bundle.manifests()
    draft = EntryDraft(mesh, manifest.name, version, bundle.digest, manifest.to_bytes(), 1_700_000_000)
    return sign_entry(draft, key)


def test_a_deployers_entry_carries_the_manifest(catalogue, key):
    outcome = catalogue.adopt(signed(key))

    assert isinstance(outcome, Adopted)
    manifest = Manifest.from_bytes(catalogue.current("room.f").manifest)
    assert (manifest.name, manifest.memory_mb, manifest.signature()) == ("room.f", 64, "room.f(x: int)")
    assert catalogue.entries_newer_than([]) == [outcome.entry.raw]
    assert isinstance(catalogue.adopt(signed(key)), Known)


def test_anyone_elses_entry_is_refused(catalogue):
    with pytest.raises(ProtocolViolation):
        catalogue.adopt(signed(ec.generate_private_key(ec.SECP256R1())))


def test_an_entry_of_another_mesh_is_refused(catalogue, key):
    with pytest.raises(ProtocolViolation):
        catalogue.adopt(signed(key, mesh="f" * 16))


def test_a_changed_entry_is_refused_wherever_it_was_changed(catalogue, key):
    data = signed(key)
    for at in range(len(data)):
        bent = bytearray(data)
        bent[at] ^= 1
        with pytest.raises(ProtocolViolation):
            catalogue.adopt(bytes(bent))
    assert catalogue.names() == []
