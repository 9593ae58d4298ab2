"""Accounts: users with a password and a role, tokens with a role, scopes and an end.

In: what shall change, with the hash of a password or of a token's secret. Out: what is there now, or why not.
A token never does more than the user who made it may do now, and goes with that user. There is always an
administrator left. Not here: hashing (``passwords``), sessions, how often somebody may guess (``attempts``),
files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

import msgspec

from gateway.access.roles import SCOPES, Principal, Role
from security.errors import BadInput, Refused

USERS_MAX: Final = 256  # people of one mesh; each is 200 bytes of access.json, which is read whole
TOKENS_MAX: Final = 512
TTL_S_MIN: Final = 60
TTL_S_MAX: Final = 366 * 86400
SPELLED_MAX: Final = 256  # of a name that somebody typed: longer is none

RESERVED: Final = frozenset({"gateway", "local", "setup", "token"})
"""Words of the audit log for who changed something; no user may pass for one."""

_NAME = re.compile(r"[a-z0-9._-]{1,32}\Z")


class UnknownAccount(BadInput):
    """There is no such user or token."""


class Stale(Refused):
    """It was changed since the asker looked."""


@dataclass(frozen=True, slots=True)
class User:
    """What may be told of a user. ``version`` grows with each change."""

    name: str
    role: Role
    since_at_ms: int
    password_at_ms: int
    version: int


@dataclass(frozen=True, slots=True)
class Token:
    """What may be told of a token. ``scopes`` None: all."""

    id: str
    name: str
    role: Role
    scopes: frozenset[str] | None
    owner: str
    made_at_ms: int
    expires_at_ms: int


class UserRow(msgspec.Struct, frozen=True):
    """As it is kept."""

    name: str
    role: Role
    password: str  # argon2id, in its usual spelling
    since_at_ms: int
    password_at_ms: int
    version: int

    def told(self) -> User:
        return User(self.name, self.role, self.since_at_ms, self.password_at_ms, self.version)


class TokenRow(msgspec.Struct, frozen=True):
    """As it is kept: the secret has 256 random bits, so one SHA-256 is enough."""

    id: str
    name: str
    role: Role
    scopes: list[str] | None
    owner: str
    secret_sha256: str
    made_at_ms: int
    expires_at_ms: int

    def told(self) -> Token:
        scopes = None if self.scopes is None else frozenset(self.scopes)
        return Token(
            self.id, self.name, self.role, scopes, self.owner, self.made_at_ms, self.expires_at_ms
        )  # fmt: skip


class Accounts:
    """A core. Its state is values only: ``users`` and ``tokens`` may be kept and put back."""

    def __init__(self, users: Iterable[UserRow] = (), tokens: Iterable[TokenRow] = ()) -> None:
        self._users = {row.name: row for row in users}
        self._tokens = {row.id: row for row in tokens}

    @property
    def rows(self) -> tuple[list[UserRow], list[TokenRow]]:
        return list(self._users.values()), list(self._tokens.values())

    def put_back(self, rows: tuple[list[UserRow], list[TokenRow]]) -> None:
        """Undo: a change could not be written."""
        self._users = {row.name: row for row in rows[0]}
        self._tokens = {row.id: row for row in rows[1]}

    # ── users ─────────────────────────────────────────────────────────────────────────────────────

    def users(self) -> list[User]:
        return [self._users[name].told() for name in sorted(self._users)]

    def user(self, name: str) -> User:
        """Raises: UnknownAccount."""
        return self._row(name).told()

    def password_of(self, name: str) -> str | None:
        """The hash; None: there is no such user."""
        row = self._users.get(name)
        return None if row is None else row.password

    def check_new(self, name: str) -> None:
        """Raises: BadInput: *name* is none, or taken. Refused: there is no room."""
        if not is_name(name):
            raise BadInput(f"{name!r:.60} is no user's name", fix="1 to 32 of a-z 0-9 . _ -", field="name")
        if name in RESERVED:
            raise BadInput(
                f"{name} is a word of the audit log, no user's name", fix="choose another name", field="name"
            )
        if name in self._users:
            raise BadInput(f"there is a user {name} already", fix="choose another name", field="name")
        if len(self._users) >= USERS_MAX:
            raise Refused(f"there are {USERS_MAX} users", fix="remove one first")

    def add_user(self, now_ms: int, name: str, role: Role, password: str) -> User:
        self.check_new(name)
        self._users[name] = UserRow(name, role, password, now_ms, now_ms, 1)
        return self._users[name].told()

    def set_password(self, now_ms: int, name: str, password: str, *, version: int | None = None) -> User:
        row = self._row(name, version)
        return self._put(msgspec.structs.replace(row, password=password, password_at_ms=now_ms))

    def rehash(self, name: str, password: str) -> None:
        """The same password under today's parameters: nothing that anybody sees has changed."""
        self._users[name] = msgspec.structs.replace(self._row(name), password=password)

    def set_role(self, name: str, role: Role, *, version: int | None = None) -> User:
        row = self._row(name, version)
        if role < Role.ADMIN:
            self._check_not_last(row)
        return self._put(msgspec.structs.replace(row, role=role))

    def remove_user(self, name: str, *, version: int | None = None) -> list[Token]:
        """Returns: the tokens that went along."""
        self._check_not_last(self._row(name, version))
        del self._users[name]
        gone = [row for row in self._tokens.values() if row.owner == name]
        for row in gone:
            del self._tokens[row.id]
        return [row.told() for row in gone]

    def _row(self, name: str, version: int | None = None) -> UserRow:
        row = self._users.get(name)
        if row is None:
            raise UnknownAccount(f"there is no user {name!r:.60}", fix="see `edge-gateway users`")
        if version is not None and version != row.version:
            raise Stale(f"user {name} was changed meanwhile", fix="look again, then change it")
        return row

    def _put(self, row: UserRow) -> User:
        self._users[row.name] = row = msgspec.structs.replace(row, version=row.version + 1)
        return row.told()

    def _check_not_last(self, row: UserRow) -> None:
        others = any(each.role == Role.ADMIN and each.name != row.name for each in self._users.values())
        if row.role == Role.ADMIN and not others:
            raise Refused(f"{row.name} is the last administrator", fix="make another user admin first")

    # ── tokens ────────────────────────────────────────────────────────────────────────────────────

    def tokens(self) -> list[Token]:
        return [row.told() for row in sorted(self._tokens.values(), key=lambda row: (row.name, row.id))]

    def add_token(
        self,
        now_ms: int,
        by: Principal,
        *,
        token_id: str,
        name: str,
        role: Role,
        scopes: Iterable[str] | None,
        ttl_s: int,
        secret_sha256: str,
    ) -> Token:
        """Raises: BadInput: name, scope or time do not fit. Refused: *by* may not do that much itself."""
        if not is_name(name):
            raise BadInput(f"{name!r:.60} is no token's name", fix="1 to 32 of a-z 0-9 . _ -", field="name")
        if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
            raise BadInput(
                "a token is good for 1 minute to 366 days", fix="choose a time between them", field="ttl_s"
            )
        wanted = None if scopes is None else sorted(set(scopes))
        unknown = [each for each in wanted or () if each not in SCOPES]
        if unknown or wanted == []:
            what = f"scope {unknown[0]!r:.40} is not known" if unknown else "a token without any scope"
            raise BadInput(what, fix=f"there are {', '.join(sorted(SCOPES))}", field="scopes")
        if role > by.role:
            raise Refused(f"{by.name} is {by.role.word} and can give no more", fix="choose a lower role")
        if by.scopes is not None and (wanted is None or not set(wanted) <= by.scopes):
            raise Refused(f"{by.name} has not these scopes itself", fix="give it a part of its own")
        self.prune(now_ms)
        if len(self._tokens) >= TOKENS_MAX:
            raise Refused(f"there are {TOKENS_MAX} tokens", fix="revoke one first")
        if any(row.name == name for row in self._tokens.values()):
            raise BadInput(
                f"there is a token {name} already",
                fix="choose another name, or revoke that one",
                field="name",
            )
        assert token_id not in self._tokens, "ids are random"
        # What a token makes belongs to the user behind it, and ends with that user.
        maker = self._tokens.get(by.name.rpartition("#")[2]) if by.kind == "token" else None
        row = TokenRow(
            token_id, name, role, wanted, maker.owner if maker else by.name, secret_sha256, now_ms,
            now_ms + ttl_s * 1000,
        )  # fmt: skip
        self._tokens[token_id] = row
        return row.told()

    def revoke_token(self, token_id: str) -> Token:
        row = self._tokens.pop(token_id, None)
        if row is None:
            raise UnknownAccount(f"there is no token {token_id!r:.60}", fix="see `edge-gateway tokens`")
        return row.told()

    def bearer(self, now_ms: int, token_id: str, secret_sha256: str) -> Principal | None:
        """Who this token speaks for. None: unknown, wrong or over."""
        row = self._borne(token_id, secret_sha256)
        if row is None or now_ms >= row.expires_at_ms:
            return None
        role = row.role
        if ":" not in row.owner:  # made by a user, whose role may have been lowered since
            owner = self._users.get(row.owner)
            if owner is None:
                return None
            role = min(role, owner.role)
        scopes = None if row.scopes is None else frozenset(row.scopes)
        return Principal(f"token:{row.name}#{row.id}", role, "token", scopes)

    def expired_at_ms(self, now_ms: int, token_id: str, secret_sha256: str) -> int | None:
        """When this token's time was over; None: it is not, or nobody with its secret asks."""
        row = self._borne(token_id, secret_sha256)
        return None if row is None or now_ms < row.expires_at_ms else row.expires_at_ms

    def _borne(self, token_id: str, secret_sha256: str) -> TokenRow | None:
        row = self._tokens.get(token_id)
        return row if row is not None and compare_digest(row.secret_sha256, secret_sha256) else None

    def holds(self, by: Principal) -> bool:
        """Whether *by* is still there, and may still do as much as when it asked."""
        match by.kind:
            case "session":
                user = self._users.get(by.name)
                return user is not None and user.role >= by.role
            case "token":
                token = self._tokens.get(by.name.rpartition("#")[2])
                if token is None:
                    return False
                owner = self._users.get(token.owner)
                return ":" in token.owner or (owner is not None and owner.role >= by.role)
        return True

    def prune(self, now_ms: int) -> None:
        """Tokens that are over for a day go; until then the list says why they do nothing."""
        self._tokens = {k: row for k, row in self._tokens.items() if now_ms < row.expires_at_ms + 86_400_000}

    def check(self) -> None:
        assert len(self._users) <= USERS_MAX and len(self._tokens) <= TOKENS_MAX
        assert not self._users or any(row.role == Role.ADMIN for row in self._users.values())
        assert all(is_name(name) and name == row.name for name, row in self._users.items())
        assert all(":" in row.owner or row.owner in self._users for row in self._tokens.values())


def is_name(text: str) -> bool:
    return _NAME.match(text) is not None


def spelled(name: str) -> str:
    """The one spelling of a name that somebody typed at log-in: no other one is a fresh set of guesses.

    "" for what no user can be called: all of these share their attempts.
    """
    if len(name) > SPELLED_MAX:
        return ""
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    return plain if is_name(plain) else ""
