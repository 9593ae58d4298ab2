"""Keys on disk: private, atomic, and loud about what is wrong."""

import os

import pytest

from security.authority import Authority
from security.errors import BadInput, Unavailable
from security.identity import NodeKeys
from security.keystore import KeyStore

NOW_S = 1_795_000_000


@pytest.fixture(scope="module")
def mesh():
    return Authority.create(now_s=NOW_S, entropy=os.urandom)


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


def save(store, mesh, keys, name="pi-1"):
    store.save_identity(
        keys, leaf_pem=mesh.issue(keys.public, name, now_s=NOW_S), issuing_pem=mesh.issuing_pem
    )


def test_an_empty_store_holds_nothing(store):
    assert store.identity() is None
    assert store.previous_identity() is None
    assert store.joining() is None
    assert store.root() is None
    assert store.roster() is None
    assert store.broker() is None
    assert store.deployer() is None
    assert store.authority(entropy=os.urandom) is None
    assert store.floor_s() == 0


def test_everything_comes_back_and_is_private_whatever_the_umask(tmp_path, mesh):
    before = os.umask(0)
    try:
        store = KeyStore(tmp_path / "home" / "keys")
        keys = NodeKeys.generate()
        store.save_joining(keys)
        save(store, mesh, keys)
        store.save_authority(mesh)
        store.save_broker(
            keys.signing, leaf_pem=mesh.issue_broker(keys.public, now_s=NOW_S), issuing_pem=mesh.issuing_pem
        )
        store.save_deployer(keys.signing)
        store.save_roster(b"roster")
        store.save_floor(NOW_S)
    finally:
        os.umask(before)
    again = KeyStore(store.directory)

    assert again.identity().keys.spki_sha256 == keys.spki_sha256
    assert again.identity().keys.x25519_public == keys.x25519_public
    assert again.identity().chain == (again.identity().leaf, mesh.issuing)
    assert again.joining().x25519_public == keys.x25519_public
    assert again.authority(entropy=os.urandom).mesh_id == mesh.mesh_id
    assert again.root_spki_sha256() == mesh.root_spki_sha256
    assert again.broker()[1].subject.rfc4514_string().endswith(",CN=broker")
    assert again.deployer().public_key() == keys.public
    assert (again.roster(), again.floor_s()) == (b"roster", NOW_S)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in store.directory.iterdir()} == {0o600}


def test_the_root_key_can_be_moved_away(store, mesh):
    store.save_authority(mesh)
    (store.directory / "root.key").unlink()
    authority = store.authority(entropy=os.urandom)

    assert authority.root_key is None
    assert authority.issue(NodeKeys.generate().public, "pi-1", now_s=NOW_S)


def test_a_renewal_keeps_the_previous_identity(store, mesh):
    old, new = NodeKeys.generate(), NodeKeys.generate()
    save(store, mesh, old)
    save(store, mesh, new)
    save(store, mesh, new)  # the same keys with a fresh certificate do not push the old ones out

    assert store.identity().keys.spki_sha256 == new.spki_sha256
    assert store.previous_identity().keys.spki_sha256 == old.spki_sha256


def test_leaving_forgets_the_mesh_but_not_an_authority(store, mesh):
    save(store, mesh, NodeKeys.generate())
    store.save_joining(NodeKeys.generate())
    store.save_roster(b"roster")
    store.save_root(mesh.root_pem)
    store.forget_identity()

    assert [file.name for file in store.directory.iterdir()] == []


def test_the_floor_never_goes_back(store):
    store.save_floor(NOW_S)
    store.save_floor(NOW_S - 1)

    assert store.floor_s() == NOW_S


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o601])
def test_loose_permissions_are_refused_with_the_fix(store, mesh, mode):
    save(store, mesh, NodeKeys.generate())
    store.identity_path.chmod(mode)

    with pytest.raises(BadInput) as caught:
        store.identity()

    assert f"mode {mode:04o}" in caught.value.cause
    assert f"chmod 600 {store.identity_path}" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_loose_directory_is_refused_with_the_fix(store):
    store.directory.chmod(0o755)

    with pytest.raises(BadInput, match="chmod 700"):
        KeyStore(store.directory)


def test_a_file_in_the_directorys_place_is_refused(tmp_path):
    (tmp_path / "keys").write_text("")

    with pytest.raises(BadInput, match="not a directory"):
        KeyStore(tmp_path / "keys")


def test_an_unreadable_file_names_its_fix(store, mesh, monkeypatch):
    """The refusal is simulated: nothing is unreadable to root, and tests run as root too."""
    save(store, mesh, NodeKeys.generate())

    def refuse(path, flags, *more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadInput, match="cannot be read by this user: run as its owner"):
        store.identity()


def test_a_directory_in_a_files_place_is_refused(store):
    (store.directory / "identity.pem").mkdir(mode=0o700)

    with pytest.raises(BadInput, match=r"identity\.pem"):
        store.identity()


@pytest.mark.parametrize("damage", [b"", b"nonsense", "cut", "swapped"])
def test_damage_is_seen_and_named(store, mesh, damage):
    save(store, mesh, NodeKeys.generate())
    good = store.identity_path.read_bytes()
    if damage == "cut":
        damage = good[: len(good) // 2]
    elif damage == "swapped":  # another key's certificate
        other = NodeKeys.generate()
        at = good.index(b"-----BEGIN CERTIFICATE")
        damage = good[:at] + mesh.issue(other.public, "pi-1", now_s=NOW_S) + mesh.issuing_pem
    store.write("identity.pem", damage)

    with pytest.raises(BadInput) as caught:
        store.identity()
    assert str(store.identity_path) in caught.value.cause
    assert "join again" in caught.value.fix


def test_an_authority_without_its_root_is_named(store, mesh):
    store.save_authority(mesh)
    store.remove("root.pem")

    with pytest.raises(BadInput, match="restore it from a backup"):
        store.authority(entropy=os.urandom)
    store.save_root(Authority.create(now_s=NOW_S, entropy=os.urandom).root_pem)
    with pytest.raises(BadInput, match="does not follow"):
        store.authority(entropy=os.urandom)


def test_key_and_certificate_of_different_owners_are_not_stored(store, mesh):
    with pytest.raises(BadInput, match="do not belong together"):
        store.save_identity(
            NodeKeys.generate(),
            leaf_pem=mesh.issue(NodeKeys.generate().public, "pi-1", now_s=NOW_S),
            issuing_pem=mesh.issuing_pem,
        )
    assert store.identity() is None


def test_a_write_that_fails_leaves_the_old_file(store, monkeypatch):
    store.write("roster.cose", b"old")

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unavailable, match="No space left"):
        store.write("roster.cose", b"new")

    assert store.roster() == b"old"


def test_a_leftover_of_a_crash_does_not_matter(store):
    leftover = store.directory / ".roster.cose.new"
    leftover.write_bytes(b"torn")
    leftover.chmod(0o644)
    store.write("roster.cose", b"new")

    assert store.roster() == b"new"
    assert not leftover.exists()


def test_group_secrets_come_back_are_private_and_go_with_the_mesh(store):
    assert store.group_secrets() is None
    store.save_group_secrets(b"secret")

    assert KeyStore(store.directory).group_secrets() == b"secret"
    assert (store.directory / "groups.cbor").stat().st_mode & 0o777 == 0o600
    store.forget_identity()
    assert store.group_secrets() is None


def test_an_incarnation_is_above_every_earlier_one_whatever_the_clock_says(store):
    assert store.next_incarnation(NOW_S) == NOW_S
    assert store.next_incarnation(NOW_S) == NOW_S + 1
    assert store.next_incarnation(0) == NOW_S + 2, "a board without a clock"
    assert KeyStore(store.directory).next_incarnation(NOW_S + 100) == NOW_S + 100
    assert (store.directory / "incarnation").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [b"", b"-7\n", b"12x\n", b"9" * 40, b"\xff\x00", "٣".encode()])
def test_a_damaged_incarnation_starts_from_the_clock(store, damage):
    store.next_incarnation(NOW_S)
    store.write("incarnation", damage)

    assert store.next_incarnation(NOW_S + 5) == NOW_S + 5
    assert store.next_incarnation(NOW_S + 5) == NOW_S + 6


def test_an_incarnation_that_cannot_be_written_is_not_used(store, monkeypatch):
    """What is not durable could be given twice."""
    before = store.next_incarnation(NOW_S)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        store.next_incarnation(NOW_S)
    monkeypatch.undo()
    assert store.next_incarnation(NOW_S) == before + 1


def test_the_settled_roster_comes_back_and_damage_means_none(store):
    assert store.settled_roster() == 0
    store.save_settled_roster(7)
    assert store.settled_roster() == 7
    store.write("settled", b"seven")
    assert store.settled_roster() == 0
