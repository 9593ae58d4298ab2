"""Backup and restore of a gateway's home: all that makes the mesh, nothing else, whole or not at all."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from edge_node.clock import ManualClock, SystemClock
from edge_node.home import Home
from edge_node.store.cell_store import Commit, Logged
from edge_node.store.cells import CellId
from edge_node.store.documents import Documents
from edge_node.store.storage.cell_file import CellFile, state_key
from gateway.access.access import Access
from gateway.access.passwords import Cost
from gateway.access.roles import Role
from gateway.backup import check_whole, read_backup, write_backup
from gateway.house import open_trust
from gateway.restoration import RECORD, Restored
from security import sealing
from security.authority import Authority
from security.canonical import encode
from security.errors import BadInput, Refused, Unavailable
from security.keystore import KeyStore
from security.roster import open_roster
from tests.support.gateway_home import NOW_S, GatewayHome, signed

WORDS = b"four words of dice"
CHEAP = 4


@pytest.fixture
def gateway(tmp_path):
    gateway = GatewayHome(tmp_path / "gateway")
    yield gateway
    gateway.documents.close()


@pytest.fixture
def file(gateway, tmp_path):
    target = tmp_path / "mesh.backup"
    gateway.backup(target)
    return target


def restored(path: Path, file: Path, passphrase: bytes = WORDS, **options) -> Home:
    home = Home(path)
    with file.open("rb") as source:
        read_backup(home, source, passphrase, now_s=NOW_S + 5, **options)
    return home


def files(home: Home) -> dict[str, bytes]:
    return {
        str(path.relative_to(home.path)): path.read_bytes() for path in home.path.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("running", [True, False])
def test_a_restored_home_has_the_keys_the_code_and_the_settings(gateway, tmp_path, running):
    target = tmp_path / "mesh.backup"
    if not running:
        gateway.documents.close()
    told = gateway.backup(target)
    home = restored(tmp_path / "new", target)
    before, after = files(gateway.home), files(home)

    kept = {name for name in before if name.startswith(("keys/", "bundles/"))} | {"settings.toml"}
    left = {"keys/invitations", "keys/joining.pem", "keys/joining.token"}
    assert {name: after.get(name) for name in kept - left} == {name: before[name] for name in kept - left}
    assert set(after) - kept == {"documents.db", "daemon.lock", f"keys/{RECORD}"}
    documents = Documents(home.documents)
    assert documents.table("catalogue", key="id").all() == [{"id": "one.one", "version": 1}]
    documents.close()
    assert (told.roster_version, told.members, told.bundles, told.left_out) == (12, 1, 1, [])
    assert open_trust(KeyStore(home.keys), SystemClock()).authority.mesh_id == gateway.authority.mesh_id


@pytest.mark.parametrize("running", [True, False])
def test_replicated_tables_go_along_with_their_key(gateway, tmp_path, running):
    """Where no member is left, they are all there is of them."""
    state, mesh = gateway.home.state, gateway.authority.mesh_id
    file = CellFile(state, mesh, "gateway", state_key(state, KeyStore(gateway.home.keys)))
    file.load()
    file.commit(
        [Commit({CellId(0, "t", "k", "f"): b"1"}, [Logged(0, "gateway", 7, 1, 1, b"batch")], head=b"h")]
    )
    before = file.load()
    if not running:
        file.close()
    target = tmp_path / "mesh.backup"
    assert gateway.backup(target).left_out == []
    home = restored(tmp_path / "new", target)

    key = state_key(home.state, KeyStore(home.keys))
    again = CellFile(home.state, mesh, "gateway", key)

    assert again.load() == before and again.losses == ""
    assert home.state.stat().st_mode & 0o777 == 0o600
    again.close()
    file.close()


async def test_users_tokens_and_the_audit_log_go_along_and_who_is_logged_in_does_not(gateway, tmp_path):
    clock, cheap = ManualClock(), Cost(memory_kib=64, passes=1)
    access = Access(gateway.home.path, clock=clock, cost=cheap)
    await access.open()
    user = await access.set_up(access.setup_secret, "ann", "four words of dice")
    cookie, ann = await access.log_in("ann", "four words of dice", "::1")
    token, bearer = await access.add_token(ann, "ci", Role.VIEWER, None, 3600)
    gateway.backup(tmp_path / "b")  # while the daemon holds them
    await access.revoke_token(ann, token.id)
    await access.close()

    home = restored(tmp_path / "new", tmp_path / "b")
    again = Access(home.path, clock=clock, cost=cheap)
    await again.open()

    assert (again.users(), again.setup_secret) == ([user], None)
    assert again.by_token(bearer) is not None and again.by_cookie(cookie) is None
    assert again.audit.verify().entries == 4 and again.audit.verify().broken_at is None
    await again.close()


def test_the_backup_is_for_its_owner_alone_and_shows_nothing(gateway, file):
    data = file.read_bytes()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"PRIVATE" not in data and gateway.authority.mesh_id.encode() not in data
    assert [path.name for path in gateway.home.path.iterdir() if path.name.startswith(".")] == []


def test_every_file_of_a_restored_home_is_for_its_owner_alone(file, tmp_path):
    home = restored(tmp_path / "new", file)
    open_to_others = [p for p in home.path.rglob("*") if stat.S_IMODE(p.stat().st_mode) & 0o077]

    assert open_to_others == []


def test_a_restored_home_remembers_which_backup_it_came_from(file, tmp_path):
    home = restored(tmp_path / "new", file)

    assert Restored.decode(KeyStore(home.keys).read(RECORD)) == Restored(12, NOW_S, NOW_S + 5)


def test_a_backup_of_a_restored_home_does_not_carry_its_restoration(file, tmp_path):
    home = restored(tmp_path / "new", file)
    write_backup(home, tmp_path / "again", WORDS, now_s=NOW_S + 9, cost=CHEAP)
    again = restored(tmp_path / "newer", tmp_path / "again")

    assert Restored.decode(KeyStore(again.keys).read(RECORD)).backup_s == NOW_S + 9


def test_a_roster_that_a_member_holds_is_taken_and_remembered(gateway, file, tmp_path):
    home = restored(
        tmp_path / "new", file, seen=[signed(gateway.authority, 19), signed(gateway.authority, 3)]
    )
    keystore = KeyStore(home.keys)

    assert open_roster(keystore.roster(), root_spki_sha256=gateway.authority.mesh_id).version == 19
    record = Restored.decode(keystore.read(RECORD))
    assert (record.backup_version, record.learned_version, record.settled_s) == (12, 19, 0)


def test_a_roster_of_another_mesh_is_refused_and_nothing_is_restored(file, tmp_path):
    stranger = Authority.create(now_s=NOW_S, entropy=os.urandom)

    with pytest.raises(BadInput, match="--seen is not of this mesh"):
        restored(tmp_path / "new", file, seen=[signed(stranger, 99)])
    assert not any((tmp_path / "new" / "keys").iterdir())


def test_a_home_that_holds_a_mesh_is_not_overwritten(gateway, file):
    before = files(gateway.home)

    with pytest.raises(Refused, match=r"holds a mesh already: restore into a new home with --home DIR"):
        restored(gateway.home.path, file)
    assert files(gateway.home) == before


@pytest.mark.parametrize("name", ["ledger.db", "documents.db", "state.db"])
def test_a_used_home_is_not_mixed_with_a_backup(file, tmp_path, name):
    home = Home(tmp_path / "used")
    home.create()
    (home.path / name).write_bytes(b"of another life")

    with pytest.raises(Refused, match=f"no new home: it holds {name}"):
        restored(home.path, file)


def test_settings_that_were_chosen_for_the_new_machine_stay(file, tmp_path):
    home = Home(tmp_path / "new")
    home.create()
    home.settings.write_text("[broker]\nport = 1\n")

    assert restored(home.path, file).settings.read_text() == "[broker]\nport = 1\n"


def test_a_wrong_passphrase_leaves_no_mesh_behind(file, tmp_path):
    with pytest.raises(BadInput, match=r"^wrong passphrase or damaged file"):
        restored(tmp_path / "new", file, b"four words of mice")
    restored(tmp_path / "new", file)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_leaves_no_mesh_behind(file, tmp_path, kept):
    data = file.read_bytes()
    short = tmp_path / "short"
    short.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(BadInput, match="truncated or damaged"):
        restored(tmp_path / "new", short)
    assert not any((tmp_path / "new" / "keys").iterdir())
    restored(tmp_path / "new", file)


def test_an_interrupted_restore_is_begun_anew(file, tmp_path, monkeypatch):
    """Killed just before the keys are moved in: the bundles and documents of the first try are there."""
    home = Home(tmp_path / "new")
    move = Path.replace

    def killed(self, target):
        if Path(target) == home.keys:
            raise KeyboardInterrupt
        return move(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            restored(home.path, file)
    assert not any(home.keys.iterdir())
    with pytest.raises(Refused, match="was interrupted: begin it again"):
        check_whole(home)  # a gateway would make another mesh in it

    restored(home.path, file)
    check_whole(home)
    assert KeyStore(home.keys).authority(entropy=os.urandom) is not None


def test_a_home_without_a_mesh_has_nothing_to_back_up(tmp_path):
    for home in (Home(tmp_path / "nothing"), Home(tmp_path / "empty")):
        with pytest.raises(BadInput, match="holds no mesh"):
            write_backup(home, tmp_path / "file", WORDS, now_s=NOW_S, cost=CHEAP)
        home.create()
    assert not (tmp_path / "file").exists()


def test_an_older_backup_is_replaced_and_any_other_file_is_not(gateway, file, tmp_path):
    before = file.read_bytes()
    gateway.backup(file)
    assert file.read_bytes() != before

    diary = tmp_path / "diary"
    diary.write_text("dear diary")
    with pytest.raises(BadInput, match="is there and is no backup"):
        gateway.backup(diary)
    assert diary.read_text() == "dear diary"


def test_a_disk_that_fills_up_keeps_the_older_backup(gateway, file, monkeypatch):
    before, room = file.read_bytes(), iter([True, True, False])
    seal = sealing.seal

    def full(*args, **options):
        for piece in seal(*args, **options):
            if not next(room):
                raise OSError(28, "No space left on device")
            yield piece

    monkeypatch.setattr(sealing, "seal", full)
    with pytest.raises(Unavailable, match="No space left on device: free space"):
        gateway.backup(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if path.name.endswith(".new")] == []


def test_damaged_documents_are_named_and_the_keys_are_still_backed_up(gateway, tmp_path):
    gateway.documents.close()
    gateway.home.documents.write_bytes(b"no database" * 1000)
    told = gateway.backup(tmp_path / "file")

    assert len(told.left_out) == 1 and told.left_out[0].startswith("documents.db: ")
    assert KeyStore(restored(tmp_path / "new", tmp_path / "file").keys).deployer() is not None


def backup_of(*entries: tuple[str, bytes]) -> bytes:
    plain = b"".join(
        len(head := encode([path, len(content)])).to_bytes(2, "big") + head + content
        for path, content in entries
    )
    return b"".join(sealing.seal([plain], WORDS, salt=bytes(16), nonce=bytes(7), cost=CHEAP))


CONTENTS = ("contents", encode({"v": 1, "made": 1}))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([CONTENTS, ("../../etc/passwd", b""), ("", b"")], "does not know: upgrade"),
        ([CONTENTS, ("keys/../x", b""), ("", b"")], "does not know: upgrade"),
        ([CONTENTS, ("ledger.db", b""), ("", b"")], "does not know: upgrade"),
        ([("contents", encode({"v": 2, "made": 1})), ("", b"")], "newer edgeweave"),
        ([CONTENTS, ("settings.toml", b""), ("settings.toml", b""), ("", b"")], "damaged"),
        ([CONTENTS, ("settings.toml", b"")], "damaged"),
        ([CONTENTS, ("", b""), ("settings.toml", b"")], "damaged"),
        ([CONTENTS, ("", b"")], "holds no mesh"),
    ],
)
def test_a_file_that_is_sealed_rightly_and_holds_something_else_is_refused(tmp_path, entries, told):
    home = Home(tmp_path / "new")

    with pytest.raises(BadInput, match=told):
        read_backup(home, io.BytesIO(backup_of(*entries)), WORDS, now_s=NOW_S)
    assert not any(home.keys.iterdir()) and not home.settings.exists()
