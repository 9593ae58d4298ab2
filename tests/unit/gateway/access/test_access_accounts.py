"""Users and tokens: who may be made, changed and removed, and what a token is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import accounts as rules
from gateway.access.accounts import Accounts, Stale, UnknownAccount, is_name, spelled
from gateway.access.roles import SCOPES, Principal, Role, role_of
from security.errors import BadInput, EdgeweaveError, Refused

ROOT = Principal("local:root", Role.ADMIN, "local")
DAY_S = 86400


def token(accounts, by=ROOT, now_ms=0, **changed):
    wanted = {
        "token_id": "aaaa", "name": "ci", "role": Role.OPERATOR, "scopes": None, "ttl_s": DAY_S,
        "secret_sha256": "5e",
    } | changed  # fmt: skip
    return accounts.add_token(now_ms, by, **wanted)


@pytest.fixture
def accounts():
    accounts = Accounts()
    accounts.add_user(1, "ann", Role.ADMIN, "hash-a")
    accounts.add_user(2, "bob", Role.VIEWER, "hash-b")
    return accounts


@pytest.mark.parametrize("name", ["a", "ann.lee-2_x", "0", "x" * 32])
def test_names_that_may_be(name):
    assert is_name(name) and spelled(name) == name


@pytest.mark.parametrize(
    "name", ["", "Ann", "ann lee", "é", "x" * 33, "a\n", "a/b", "local:root", "\u0430nn"]
)
def test_names_that_may_not(accounts, name):
    with pytest.raises(BadInput, match="1 to 32"):
        accounts.add_user(3, name, Role.VIEWER, "h")


@pytest.mark.parametrize("name", ["gateway", "local", "setup", "token"])
def test_no_user_passes_for_a_word_of_the_audit_log(accounts, name):
    with pytest.raises(BadInput, match="word of the audit log"):
        accounts.add_user(3, name, Role.VIEWER, "h")


@given(st.sampled_from(["ann", "Ann", "ANN"]), st.text(" \t\n\u00a0\u2003", max_size=5), st.booleans())
def test_case_width_and_blanks_are_the_same_name(name, blanks, wide):
    """So no other spelling is a fresh set of guesses."""
    typed = "".join(chr(ord(c) + 0xFEE0) for c in name) if wide else name

    assert spelled(blanks + typed + blanks) == "ann"


@given(st.text(max_size=300))
def test_any_text_is_spelled_as_a_name_or_as_none(text):
    plain = spelled(text)

    assert plain == "" or is_name(plain)
    assert spelled(plain) == plain


def test_the_last_administrator_cannot_go_or_step_down(accounts):
    for change in (lambda: accounts.remove_user("ann"), lambda: accounts.set_role("ann", Role.OPERATOR)):
        with pytest.raises(Refused, match="last administrator"):
            change()
    accounts.set_role("bob", Role.ADMIN)
    accounts.remove_user("ann")

    assert [user.name for user in accounts.users()] == ["bob"]


def test_a_change_on_an_old_look_is_stale(accounts):
    seen = accounts.user("bob").version
    accounts.set_role("bob", Role.OPERATOR, version=seen)

    for change in (
        lambda: accounts.set_role("bob", Role.ADMIN, version=seen),
        lambda: accounts.set_password(3, "bob", "h", version=seen),
        lambda: accounts.remove_user("bob", version=seen),
    ):
        with pytest.raises(Stale):
            change()
    assert accounts.user("bob").role == Role.OPERATOR


def test_unknown_and_known_names_are_told_apart(accounts):
    with pytest.raises(UnknownAccount):
        accounts.user("eve")
    with pytest.raises(UnknownAccount):
        accounts.revoke_token("none")
    with pytest.raises(BadInput, match="already"):
        accounts.add_user(3, "ann", Role.VIEWER, "h")


def test_nothing_that_is_told_holds_a_secret(accounts):
    token(accounts)

    assert "hash-a" not in repr(accounts.users()) and "5e" not in repr(accounts.tokens())


def test_a_token_speaks_until_its_end_and_only_with_its_secret(accounts):
    token(accounts, scopes=["nodes:read"])

    assert accounts.bearer(DAY_S * 1000 - 1, "aaaa", "5e") == Principal(
        "token:ci#aaaa", Role.OPERATOR, "token", frozenset({"nodes:read"})
    )
    assert accounts.bearer(DAY_S * 1000, "aaaa", "5e") is None
    assert accounts.bearer(0, "aaaa", "5f") is None and accounts.bearer(0, "aaab", "5e") is None
    accounts.revoke_token("aaaa")
    assert accounts.bearer(0, "aaaa", "5e") is None


def test_only_who_has_its_secret_is_told_when_a_token_expired(accounts):
    token(accounts)

    end_ms = DAY_S * 1000
    assert accounts.expired_at_ms(end_ms - 1, "aaaa", "5e") is None
    assert accounts.expired_at_ms(end_ms + 5, "aaaa", "5e") == end_ms
    assert accounts.expired_at_ms(end_ms + 5, "aaaa", "5f") is None
    accounts.revoke_token("aaaa")
    assert accounts.expired_at_ms(end_ms + 5, "aaaa", "5e") is None


def test_a_token_does_no_more_than_its_user_may_now(accounts):
    accounts.set_role("bob", Role.ADMIN)
    token(accounts, Principal("bob", Role.ADMIN, "session"), role=Role.ADMIN)

    accounts.set_role("bob", Role.VIEWER)
    assert accounts.bearer(0, "aaaa", "5e").role == Role.VIEWER
    assert [gone.id for gone in accounts.remove_user("bob")] == ["aaaa"]
    assert accounts.bearer(0, "aaaa", "5e") is None


def test_what_a_token_makes_belongs_to_the_user_behind_it(accounts):
    accounts.set_role("bob", Role.ADMIN)
    token(accounts, Principal("bob", Role.ADMIN, "session"), role=Role.ADMIN)

    made = token(accounts, accounts.bearer(0, "aaaa", "5e"), token_id="bbbb", name="child")
    assert made.owner == "bob"
    assert {gone.id for gone in accounts.remove_user("bob")} == {"aaaa", "bbbb"}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "C I"}, "no token's name"),
        ({"ttl_s": 59}, "1 minute to 366 days"),
        ({"ttl_s": 367 * DAY_S}, "1 minute to 366 days"),
        ({"scopes": ["nodes:fly"]}, "nodes:fly"),
        ({"scopes": []}, "without any scope"),
    ],
)
def test_a_token_that_does_not_fit_is_not_made(accounts, changed, told):
    with pytest.raises(BadInput, match=told):
        token(accounts, **changed)
    assert accounts.tokens() == []


def test_nobody_gives_more_than_they_have(accounts):
    with pytest.raises(Refused, match="can give no more"):
        token(accounts, Principal("x", Role.OPERATOR, "session"), role=Role.ADMIN)
    narrow = Principal("token:n#n", Role.ADMIN, "token", frozenset({"access:write", "nodes:read"}))
    for scopes in (None, ["tasks:read"]):
        with pytest.raises(Refused, match="scopes"):
            token(accounts, narrow, scopes=scopes)
    assert token(accounts, narrow, scopes=["nodes:read"]).scopes == {"nodes:read"}


def test_numbers_are_bounded(accounts, monkeypatch):
    monkeypatch.setattr(rules, "USERS_MAX", 2)
    monkeypatch.setattr(rules, "TOKENS_MAX", 1)
    token(accounts, ttl_s=60)

    with pytest.raises(Refused, match="remove one"):
        accounts.add_user(3, "eve", Role.VIEWER, "h")
    with pytest.raises(Refused, match="revoke one"):
        token(accounts, token_id="bbbb", name="other")
    assert token(accounts, token_id="bbbb", name="other", now_ms=86_460_000).id == "bbbb", (
        "the old one is over"
    )


def test_roles_include_those_below_and_scopes_narrow_them():
    viewer = Principal("v", Role.VIEWER, "session")
    narrow = Principal("t", Role.ADMIN, "token", frozenset({"nodes:read"}))

    assert viewer.lacks(Role.VIEWER, "nodes:read") == ""
    assert viewer.lacks(Role.OPERATOR, "nodes:write") == "this needs the role operator, and v is viewer"
    assert narrow.lacks(Role.VIEWER, "nodes:read") == ""
    assert narrow.lacks(Role.VIEWER, "tasks:read") == "this needs the scope tasks:read, which t does not have"
    assert ROOT.lacks(Role.ADMIN, "access:write") == "" and "access:write" in SCOPES
    assert role_of("operator") is Role.OPERATOR
    with pytest.raises(BadInput, match="king"):
        role_of("king")


names = st.sampled_from(["ann", "bob", "cy"])
roles = st.sampled_from(list(Role))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), names, roles),
        st.tuples(st.just("role"), names, roles),
        st.tuples(st.just("remove"), names),
        st.tuples(st.just("token"), names, roles),
        st.tuples(st.just("undo")),
    ),
    max_size=20,
)


@given(steps)
def test_whatever_is_tried_an_administrator_stays_and_no_token_outlives_its_user(script):
    accounts = Accounts()
    accounts.add_user(0, "root", Role.ADMIN, "h")
    held = accounts.rows
    for serial, (what, *rest) in enumerate(script):
        before = accounts.rows
        try:
            if what == "add":
                accounts.add_user(0, rest[0], rest[1], "h")
            elif what == "role":
                accounts.set_role(*rest)
            elif what == "remove":
                accounts.remove_user(rest[0])
            elif what == "token":
                by = Principal(rest[0], accounts.user(rest[0]).role, "session")
                token(accounts, by, token_id=f"t{serial}", name=f"t{serial}", role=rest[1])
            else:
                accounts.put_back(held)
        except EdgeweaveError:
            assert accounts.rows == before, "what is refused changes nothing"
        held = before
        accounts.check()
