"""Access as the house holds it: from the set-up link to the last log-out, over restarts and full disks."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge_node.clock import ManualClock
from gateway.access.access import ACCESS, AUDIT, SESSIONS, Access, local
from gateway.access.accounts import Stale, UnknownAccount
from gateway.access.links import LIFE_MS, LINKS_MAX
from gateway.access.passwords import Cost
from gateway.access.roles import Principal, Role
from gateway.access.sessions import IDLE_MS
from security.errors import BadInput, Refused, Unavailable

CHEAP = Cost(memory_kib=64, passes=1)
WORDS, OTHER = "four words of dice", "four words of mice"
ROOT = Principal("local:root", Role.ADMIN, "local")
HERE, AWAY = "127.0.0.1", "192.0.2.66"
SECOND = 1_000_000_000


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def access(tmp_path, clock):
    tmp_path.chmod(0o700)
    access = Access(tmp_path, clock=clock, cost=CHEAP)
    await access.open()
    yield access
    await access.close()


@pytest.fixture
async def ann(access):
    await access.add_user(ROOT, "ann", WORDS, Role.ADMIN)
    _, principal = await access.log_in("ann", WORDS, HERE)
    return principal


async def reopened(access: Access, clock) -> Access:
    again = Access(access.directory, clock=clock, cost=CHEAP)
    await again.open()
    return again


def whats(access: Access) -> list[tuple[str, str, str]]:
    return [(entry.who, entry.what, entry.target) for entry in access.audit.read(0, 1000)]


# ── set-up ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_setup_secret_makes_one_administrator_and_is_void_then(access):
    secret = access.setup_secret
    with pytest.raises(Refused, match="not valid"):
        await access.set_up("x" * 32, "ann", WORDS)
    with pytest.raises(BadInput):
        await access.set_up(secret, "Ann Lee", WORDS)
    with pytest.raises(BadInput, match="12 characters"):
        await access.set_up(secret, "ann", "short")

    user = await access.set_up(secret, "ann", WORDS)
    assert (user.name, user.role, access.setup_secret) == ("ann", Role.ADMIN, None)
    for given in (secret, ""):
        with pytest.raises(Refused, match="not valid"):
            await access.set_up(given, "eve", WORDS)
    assert whats(access) == [("gateway", "audit.begin", ""), ("setup", "user.add", "ann")]


async def test_two_who_come_with_the_link_at_once_make_one_user(access):
    secret = access.setup_secret

    told = await asyncio.gather(
        *(access.set_up(secret, name, WORDS) for name in ("ann", "eve")), return_exceptions=True
    )

    assert sum(isinstance(each, Refused) for each in told) == 1
    assert len(access.users()) == 1


async def test_each_start_without_a_user_has_another_secret_and_none_with_one(access, clock):
    again = await reopened(access, clock)
    assert again.setup_secret != access.setup_secret
    await again.set_up(again.setup_secret, "ann", WORDS)
    await again.close()

    last = await reopened(access, clock)
    assert last.setup_secret is None and [user.name for user in last.users()] == ["ann"]
    await last.close()


async def test_a_user_made_on_the_terminal_voids_the_link_too(access):
    await access.add_user(ROOT, "ann", WORDS, Role.ADMIN)

    assert access.setup_secret is None


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_log_in_begins_a_session_and_log_out_ends_it(access, ann):
    cookie, principal = await access.log_in(" ANN ", WORDS, HERE)

    assert principal.name == "ann" and principal.role is Role.ADMIN and principal.kind == "session"
    assert (
        access.by_cookie(cookie) == principal and len(principal.csrf) == 43 and principal.csrf not in cookie
    )
    await access.log_out(cookie)
    assert access.by_cookie(cookie) is None
    assert whats(access)[-2:] == [("ann", "session.begin", "ann"), ("ann", "session.end", "ann")]


async def test_a_link_logs_in_once_and_only_while_it_is_new(access, ann, clock):
    secret, until_ms = await access.add_link(ROOT, "ann")
    assert until_ms == clock.wall_ms() + LIFE_MS

    cookie, principal = await access.log_in_by_link(secret, HERE)
    assert (principal.name, principal.role) == ("ann", Role.ADMIN) and access.by_cookie(cookie) == principal
    for wrong in (secret, "x" * 32, ""):
        with pytest.raises(Refused, match="not valid"):
            await access.log_in_by_link(wrong, HERE)

    late, _ = await access.add_link(ROOT, "ann")
    clock.advance(LIFE_MS * 1_000_000)
    with pytest.raises(Refused, match="not valid"):
        await access.log_in_by_link(late, HERE)
    assert ("local:root", "session.link", "ann") in whats(access)


async def test_a_link_is_void_with_its_users_password_and_after_a_restart(access, ann, clock):
    secret, _ = await access.add_link(ROOT, "ann")
    await access.set_password(ROOT, "ann", OTHER)
    with pytest.raises(Refused, match="not valid"):
        await access.log_in_by_link(secret, HERE)

    secret, _ = await access.add_link(ROOT, "ann")
    again = await reopened(access, clock)
    with pytest.raises(Refused, match="not valid"):
        await again.log_in_by_link(secret, HERE)
    await again.close()


async def test_only_an_administrator_makes_links_and_only_for_who_is_there(access, ann):
    await access.add_user(ROOT, "vera", WORDS, Role.VIEWER)
    _, vera = await access.log_in("vera", WORDS, HERE)
    with pytest.raises(Refused):
        await access.add_link(vera, "ann")
    with pytest.raises(UnknownAccount):
        await access.add_link(ROOT, "nobody")
    for _ in range(LINKS_MAX + 1):
        last, _ = await access.add_link(ROOT, "ann")
    assert len(access.links._open) == LINKS_MAX
    assert (await access.log_in_by_link(last, HERE))[1].name == "ann"


async def test_a_cookie_planted_before_log_in_is_worth_nothing_after_it(access, ann):
    planted = "x" * 43
    cookie, _ = await access.log_in("ann", WORDS, HERE)
    other, _ = await access.log_in("ann", WORDS, HERE)

    assert len({planted, cookie, other}) == 3
    assert access.by_cookie(planted) is None


@pytest.mark.parametrize("cookie", ["", "x", "x" * 4096, "\ud800" * 43, "\0" * 43])
async def test_no_cookie_breaks_anything(access, ann, cookie):
    assert access.by_cookie(cookie) is None
    await access.log_out(cookie)


async def test_a_session_survives_a_restart_and_ends_when_idle(access, ann, clock):
    cookie, _ = await access.log_in("ann", WORDS, HERE)
    again = await reopened(access, clock)
    assert again.by_cookie(cookie).name == "ann"
    clock.advance(IDLE_MS * 1_000_000)

    assert again.by_cookie(cookie) is None and access.by_cookie(cookie) is None
    await again.close()


async def test_wrong_words_and_unknown_names_get_the_same_sentence(access, ann):
    told = []
    for name, words in (
        ("ann", OTHER),
        ("eve", WORDS),
        ("not a name!", WORDS),
        ("ann", "x" * 5000),
        ("", ""),
    ):
        with pytest.raises(Refused) as refused:
            await access.log_in(name, words, HERE)
        told.append(str(refused.value))

    assert len(set(told)) == 1


async def test_case_and_blanks_do_not_dodge_the_lock(access, ann):
    spellings = ["ann", "ANN", " ann", "Ann\t", "\uff41nn", "aNN "]
    for name in spellings[:5]:
        with pytest.raises(Refused):
            await access.log_in(name, OTHER, AWAY)

    for name in spellings:
        with pytest.raises(Unavailable) as locked:
            await access.log_in(name, WORDS, AWAY)
        assert 0 < locked.value.retry_after_s <= 30


async def test_a_stranger_who_locks_a_name_does_not_lock_its_owner_out(access, ann, clock):
    for _ in range(5):
        with pytest.raises(Refused):
            await access.log_in("ann", OTHER, AWAY)
    with pytest.raises(Unavailable):
        await access.log_in("ann", WORDS, AWAY)

    assert (await access.log_in("ann", WORDS, HERE))[1].name == "ann"
    clock.advance(30 * SECOND)
    assert (await access.log_in("ann", WORDS, AWAY))[1].name == "ann", "and from there too, by and by"


async def test_a_hash_of_older_cost_is_made_anew_at_log_in(access, ann, clock):
    dearer = Access(access.directory, clock=clock, cost=Cost(memory_kib=128, passes=1))
    await dearer.open()
    await dearer.log_in("ann", WORDS, HERE)
    await dearer.close()

    stored = json.loads((access.directory / ACCESS).read_bytes())
    assert "m=128" in stored["users"][0]["password"]
    again = await reopened(access, clock)
    assert (await again.log_in("ann", WORDS, HERE))[1].name == "ann"
    await again.close()


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_new_password_ends_every_session_and_lock_of_its_user(access, ann):
    cookie, _ = await access.log_in("ann", WORDS, HERE)
    for _ in range(5):
        with pytest.raises(Refused):
            await access.log_in("ann", OTHER, AWAY)

    await access.set_password(ROOT, "ann", OTHER)

    assert access.by_cookie(cookie) is None
    with pytest.raises(Refused):
        await access.log_in("ann", WORDS, HERE)
    assert (await access.log_in("ann", OTHER, AWAY))[1].name == "ann"


async def test_ones_own_password_needs_the_old_one_and_guesses_at_it_are_bounded(access, ann):
    for _ in range(5):
        with pytest.raises(Refused, match="old password"):
            await access.set_password(ann, "ann", OTHER, old="a wrong guess")
    with pytest.raises(Unavailable):
        await access.set_password(ann, "ann", OTHER, old=WORDS)

    await access.set_password(ROOT, "ann", WORDS)
    await access.set_password(ann, "ann", OTHER, old=WORDS)
    assert (await access.log_in("ann", OTHER, HERE))[1].name == "ann"


async def test_a_viewer_changes_their_own_password_and_nothing_else(access, ann):
    await access.add_user(ann, "bob", WORDS, Role.VIEWER)
    _, bob = await access.log_in("bob", WORDS, HERE)

    for change in (
        access.add_user(bob, "eve", WORDS, Role.VIEWER),
        access.set_password(bob, "ann", OTHER),
        access.set_role(bob, "bob", Role.ADMIN),
        access.remove_user(bob, "ann"),
        access.add_token(bob, "t", Role.VIEWER, None, 3600),
        access.revoke_token(bob, "none"),
    ):
        with pytest.raises(Refused):
            await change
    await access.set_password(bob, "bob", OTHER, old=WORDS)


async def test_a_role_counts_from_the_moment_it_is_changed(access, ann):
    await access.add_user(ann, "bob", WORDS, Role.ADMIN)
    cookie, _ = await access.log_in("bob", WORDS, HERE)

    await access.set_role(ann, "bob", Role.VIEWER)
    assert access.by_cookie(cookie).role is Role.VIEWER
    await access.remove_user(ann, "bob")
    assert access.by_cookie(cookie) is None
    with pytest.raises(Stale):
        await access.set_role(ann, "ann", Role.ADMIN, version=99)
    with pytest.raises(Refused, match="last administrator"):
        await access.remove_user(ann, "ann")


async def test_whoever_is_removed_or_given_less_meanwhile_changes_nothing_more(access, ann):
    """A password takes a while to hash; the right to set it must hold at its end."""
    await access.add_user(ann, "bob", WORDS, Role.ADMIN)
    _, bob = await access.log_in("bob", WORDS, HERE)
    _, bearer = await access.add_token(bob, "ci", Role.ADMIN, None, 3600)
    token = access.by_token(bearer)

    await access.set_role(ann, "bob", Role.OPERATOR)
    for by in (bob, token):
        with pytest.raises(Refused, match="less than when it asked"):
            await access.add_user(by, "eve", WORDS, Role.ADMIN)
    await access.remove_user(ann, "bob")
    for by in (bob, token):
        with pytest.raises(Refused, match="less than when it asked"):
            await access.set_role(by, "ann", Role.VIEWER)
    assert [user.name for user in access.users()] == ["ann"]


async def test_a_token_works_over_a_restart_until_it_is_revoked(access, ann, clock):
    token, secret = await access.add_token(ann, "ci", Role.OPERATOR, ["tasks:write"], 3600)
    again = await reopened(access, clock)

    principal = again.by_token(secret)
    assert principal == Principal(f"token:ci#{token.id}", Role.OPERATOR, "token", frozenset({"tasks:write"}))
    await again.revoke_token(ann, token.id)
    assert again.by_token(secret) is None
    await again.close()


@pytest.mark.parametrize("bearer", ["", "ewt", "ewt__", "ewt_a_b_c", "x" * 5000, "ewt_\ud800_\ud800"])
async def test_no_bearer_breaks_anything(access, bearer):
    assert access.by_token(bearer) is None and access.expired_at_ms(bearer) is None


async def test_a_token_with_scopes_makes_no_user(access, ann):
    narrow = Principal("token:n#n", Role.ADMIN, "token", frozenset({"access:write"}))

    with pytest.raises(Refused, match="scopes"):
        await access.add_user(narrow, "eve", WORDS, Role.ADMIN)


async def test_every_change_is_noted_with_before_and_after(access, ann):
    await access.add_user(ann, "bob", WORDS, Role.VIEWER)
    await access.set_role(ann, "bob", Role.OPERATOR)
    await access.set_password(ROOT, "bob", OTHER)
    token, _ = await access.add_token(ann, "ci", Role.OPERATOR, None, 3600)
    await access.revoke_token(ann, token.id)
    await access.remove_user(ann, "bob")

    assert whats(access)[3:] == [
        ("ann", "user.add", "bob"),
        ("ann", "user.role", "bob"),
        ("local:root", "user.password", "bob"),
        ("ann", "token.add", token.id),
        ("ann", "token.revoke", token.id),
        ("ann", "user.remove", "bob"),
    ]
    role = access.audit.read(4, 1)[0]
    assert (role.before["role"], role.after["role"]) == ("viewer", "operator")
    assert access.audit.verify().broken_at is None


async def test_no_secret_is_written_anywhere(access, ann, caplog):
    cookie, principal = await access.log_in("ann", WORDS, HERE)
    _, bearer = await access.add_token(ann, "ci", Role.OPERATOR, None, 3600)
    with pytest.raises(Refused):
        await access.log_in("ann", OTHER, HERE)
    await access.close()

    held = b"".join((access.directory / name).read_bytes() for name in (ACCESS, AUDIT, SESSIONS))
    for secret in (WORDS, OTHER, cookie, principal.csrf, bearer, bearer.split("_", 2)[2]):
        assert secret.encode() not in held and secret not in caplog.text
    assert b"$argon2id$" not in (access.directory / AUDIT).read_bytes()
    for name in (ACCESS, AUDIT, SESSIONS):
        assert oct((access.directory / name).stat().st_mode & 0o777) == "0o600"
    await access.open()


async def test_a_change_that_cannot_be_written_is_not_made(access, ann, monkeypatch):
    def full(data: bytes) -> None:
        raise Unavailable("no space left on device")

    before = access.users(), access.tokens(), access.audit.head
    monkeypatch.setattr(access.audit, "_save", full)
    for change in (
        access.add_user(ann, "bob", WORDS, Role.VIEWER),
        access.set_password(ROOT, "ann", OTHER),
        access.add_token(ann, "ci", Role.VIEWER, None, 3600),
    ):
        with pytest.raises(Unavailable, match="nothing was changed"):
            await change
    assert (access.users(), access.tokens(), access.audit.head) == before

    assert (await access.log_in("ann", WORDS, HERE))[1].name == "ann", "else nobody could look after it"
    with pytest.raises(Unavailable):
        await access.set_role(ROOT, "ann", Role.ADMIN)
    monkeypatch.undo()
    await access.set_role(ROOT, "ann", Role.ADMIN)
    assert [what for _, what, _ in whats(access)][-2:] == ["session.begin", "user.role"], (
        "what was owed comes first"
    )


async def test_a_log_that_was_cut_does_not_stop_the_gateway_and_is_told(access, ann, clock):
    log = access.directory / AUDIT
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:1]))

    again = await reopened(access, clock)
    assert again.broken == "the last 2 entries are missing: there were 3" and access.broken == ""
    await again.set_role(ROOT, "ann", Role.ADMIN)
    assert again.audit.head.n == 4
    await again.close()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b'{"v":2}', "newer edgeweave"),
        (b'{"v":1,"users":[],"tokens":[]}', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
async def test_a_damaged_file_of_accounts_is_one_line(tmp_path, clock, data, told):
    (tmp_path / ACCESS).write_bytes(data)
    (tmp_path / ACCESS).chmod(0o600)
    tmp_path.chmod(0o700)

    access = Access(tmp_path, clock=clock)
    with pytest.raises(BadInput, match=told) as error:
        await access.open()
    assert error.value.fix
    await access.close()
    assert (tmp_path / ACCESS).read_bytes() == data


async def test_accounts_that_contradict_themselves_are_refused(access, ann, clock):
    path = access.directory / ACCESS
    path.write_bytes(path.read_bytes().replace(b'"role":3', b'"role":1'))

    with pytest.raises(BadInput, match="contradicts itself"):
        await reopened(access, clock)


async def test_accounts_open_to_others_are_refused(access, ann, clock):
    (access.directory / ACCESS).chmod(0o644)

    with pytest.raises(BadInput, match="open to others") as error:
        await reopened(access, clock)
    assert "chmod 600" in error.value.fix


async def test_lost_sessions_cost_a_log_in_and_nothing_else(access, ann, clock):
    cookie, _ = await access.log_in("ann", WORDS, HERE)
    (access.directory / SESSIONS).write_bytes(b"garbage")
    (access.directory / SESSIONS).chmod(0o600)

    again = await reopened(access, clock)
    assert again.by_cookie(cookie) is None
    assert (await again.log_in("ann", WORDS, HERE))[1].name == "ann"
    await again.close()


def test_the_owner_of_the_control_socket_is_named_by_account():
    assert local(0).name == "local:root" and local(0).role is Role.ADMIN
    assert local(4_000_000).name == "local:uid 4000000" and local(None).name == "local:unknown"
