"""Access: the one object that knows who may ask, and that notes what they changed.

    <home>/access.json     users, tokens (hashes only), the head of the audit log; 0600, replaced whole
    <home>/audit.log       what was changed (``audit``)
    <home>/sessions.json   who is logged in (hashes only); not in backups, may be thrown away

    log_in ─► attempts ─► argon2id ─► session       by_cookie, by_token ─► Principal
    add_user, set_role, … ─► accounts ─► audit entry and access.json, together, or nothing

Who asks for an account's change is checked here once more, whatever the door checked. Secrets are never
written, logged or told: a cookie, a token, the set-up secret exist where they are used and as SHA-256.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import hashlib
import hmac
import logging
import math
import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from edge_node.clock import Clock, SystemClock
from gateway.access.accounts import Accounts, Token, TokenRow, User, UserRow, spelled
from gateway.access.attempts import Attempts
from gateway.access.audit import Audit
from gateway.access.chain import Head
from gateway.access.links import Links
from gateway.access.passwords import COST, Cost, Hasher, checked_password
from gateway.access.passwords import spelled as spelled_password
from gateway.access.roles import Principal, Role
from gateway.access.sessions import Sessions
from security.errors import BadInput, Refused, Unavailable
from security.keystore import KeyDirectory

T = TypeVar("T")

log = logging.getLogger(__name__)

ACCESS: Final = "access.json"
AUDIT: Final = "audit.log"
SESSIONS: Final = "sessions.json"
WRONG: Final = "name or password is wrong"
_NS: Final = 1_000_000_000
SETUP: Final = Principal("setup", Role.ADMIN, "setup")
_OWN: Final = "own session"  # in place of an address, where a session asks for its own password

asking: contextvars.ContextVar[Principal | None] = contextvars.ContextVar("asking", default=None)
"""Who asks, for whatever is done on the way: set by the HTTP door; None: the control socket."""


class Stored(msgspec.Struct, frozen=True):
    """What ``access.json`` holds."""

    v: int
    users: list[UserRow]
    tokens: list[TokenRow]
    audit: Head


def opened(data: bytes, path: Path) -> Stored:
    """Raises: BadInput: damaged, or written by a newer edgeweave."""
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("v")
        if isinstance(version, int) and version > 1:
            raise BadInput(
                f"{path} was written by a newer edgeweave (version {version})", fix="upgrade edgeweave here"
            )
        return msgspec.json.decode(data, type=Stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"{path} cannot be read: {error}",
            fix="restore it from a backup; or move it away: users are then set up anew",
        ) from None


def local(uid: int | None) -> Principal:
    """The owner of the control socket: whoever can open it has the gateway's keys anyway."""
    try:
        account = "unknown" if uid is None else pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        account = f"uid {uid}"
    return Principal(f"local:{account}", Role.ADMIN, "local")


class Access:
    """Args: directory: the gateway's home.   entropy: of secrets and salts.   cost: of a password's hash."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        cost: Cost = COST,
    ) -> None:
        self.directory = directory
        self.accounts = Accounts()
        self.sessions = Sessions()
        self.links = Links()
        self.attempts = Attempts()
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._hasher = Hasher(cost, entropy=entropy)
        self._files: KeyDirectory | None = None
        self.broken = ""
        """What was wrong with the audit log when it was opened; "" if nothing."""
        self._setup = ""
        self._keeping = asyncio.Lock()
        self.audit = Audit(directory / AUDIT, clock=self._clock, contents=self._contents, save=self._save)

    async def open(self) -> None:
        """Read what is there. Raises: BadInput, Unavailable: a file damaged, open to others, too new."""
        self._files = await asyncio.to_thread(KeyDirectory, self.directory)
        path = self.directory / ACCESS
        data = await asyncio.to_thread(self._read, ACCESS)
        stored = Stored(1, [], [], Head()) if data is None else opened(data, path)
        self.accounts = Accounts(stored.users, stored.tokens)
        try:
            self.accounts.check()
        except AssertionError:
            raise BadInput(f"{path} contradicts itself", fix="restore it from a backup") from None
        kept = await asyncio.to_thread(self._read, SESSIONS)
        if kept is not None:
            try:
                self.sessions.restore(self._clock.wall_ms(), kept)
            except BadInput as error:
                log.warning("people have to log in again", extra={"cause": error.cause})
        verdict = await self.audit.open(stored.audit)
        self.broken = "" if verdict.broken_at is None else verdict.reason
        if self.audit.head.n == 0:
            await self.audit.append("gateway", "audit.begin", "", None, None)
        if not self.accounts.users():
            self._setup = self._secret(24)

    async def close(self) -> None:
        """After ``open`` or a failed one."""
        await self.audit.finish()
        if self.audit.head.n:
            await self._keep_sessions()
        self.audit.close()
        self._hasher.close()

    # ── the first user ────────────────────────────────────────────────────────────────────────────

    @property
    def setup_secret(self) -> str | None:
        """Makes the first administrator, once; another one at each start. None: there are users."""
        return self._setup or None

    async def set_up(self, secret: str, name: str, password: str) -> User:
        """Raises: Refused: the secret is wrong or used up. BadInput: name or password do not fit."""
        self._check_setup(secret)
        self.accounts.check_new(name)
        hashed = await self._hasher.hash(checked_password(password, name=name))

        def edit() -> tuple[object, object, User]:
            self._check_setup(secret)  # two may have come with it at once
            user = self.accounts.add_user(self._clock.wall_ms(), name, Role.ADMIN, hashed)
            return None, _facts(user), user

        user = await self._change(SETUP, "user.add", name, edit)
        self._setup = ""
        return user

    def _check_setup(self, secret: str) -> None:
        given = secret.encode("utf-8", "replace")
        if not self._setup or not hmac.compare_digest(given, self._setup.encode()):
            raise Refused(
                "this set-up link is not valid (any more)",
                fix="the gateway prints a new one at its start while it has no user",
            )

    # ── who asks ──────────────────────────────────────────────────────────────────────────────────

    async def log_in(self, name: str, password: str, address: str) -> tuple[str, Principal]:
        """Returns: the value of a new session's cookie, and whose it is.

        Raises: Refused: wrong; the same word and the same work for names that do not exist.
            Unavailable: too many attempts; ``retry_after_s`` says how long to wait.
        """
        typed, name = name, spelled(name)
        self._ask(name, address)
        held = self.accounts.password_of(name) if name else None
        word = spelled_password(password)
        right = await self._hasher.verify(held, word)
        if not right or self.accounts.password_of(name) != held:  # it was changed while we hashed
            locked = self.attempts.locked(self._clock.now_ns(), name, address)
            log.warning(
                "log-in refused",
                extra={"user": name or repr(typed[:40]), "address": address, "locked": locked},
            )
            raise Refused(WRONG, fix="try again; `edge-gateway users passwd NAME` sets a new password")
        assert held is not None and word is not None
        self.attempts.succeeded(self._clock.now_ns(), name, address)
        if self._hasher.is_old(held):
            fresh = await self._hasher.hash(word)
            if self.accounts.password_of(name) == held:
                self.accounts.rehash(name, fresh)  # written with the entry below
        return await self._begin(name, f"from {address}")

    async def add_link(self, by: Principal, name: str) -> tuple[str, int]:
        """A secret that logs *name* in once, and until when (wall-clock milliseconds).

        Raises: Refused: *by* may not. UnknownAccount: there is no such user.
        """
        _check_admin(by)
        user = self.accounts.user(name)
        await self.audit.append(by.name, "session.link", user.name, None, None)
        secret = self._secret(24)
        return secret, self.links.add(self._clock.wall_ms(), _sha256(secret), user.name).until_ms

    async def log_in_by_link(self, secret: str, address: str) -> tuple[str, Principal]:
        """As `log_in`. Raises: Refused: the link is unknown, used up, or its time is over."""
        name = self.links.use(self._clock.wall_ms(), _sha256(secret))
        if name is None:
            raise Refused(
                "this log-in link is not valid (any more)",
                fix="`edge-gateway users link NAME` prints another; or log in with a password",
            )
        return await self._begin(name, f"by a link, from {address}")

    async def _begin(self, name: str, how: str) -> tuple[str, Principal]:
        """A session of *name*. Raises: Refused: there is no such user any more."""
        cookie = self._secret(32)
        self.sessions.begin(self._clock.wall_ms(), _sha256(cookie), name)
        await self.audit.note(name, "session.begin", name, None, None, how)
        await self._keep_sessions()
        principal = self.by_cookie(cookie)
        if principal is None:
            raise Refused(WRONG, fix="try again")  # the user was removed in this very moment
        return cookie, principal

    def by_cookie(self, cookie: str) -> Principal | None:
        """Whose session this is; the session counts as used now. None: there is none, or it has ended."""
        if not 16 <= len(cookie) <= 128:
            return None
        name = self.sessions.used(self._clock.wall_ms(), _sha256(cookie))
        if name is None or self.accounts.password_of(name) is None:
            return None
        csrf = _spell(hashlib.sha256(b"edgeweave csrf\0" + cookie.encode("utf-8", "replace")).digest())
        return Principal(name, self.accounts.user(name).role, "session", None, csrf)

    def by_token(self, bearer: str) -> Principal | None:
        """Whom ``ewt_<id>_<secret>`` speaks for. None: unknown, wrong, over or revoked."""
        named = _named(bearer)
        return None if named is None else self.accounts.bearer(self._clock.wall_ms(), *named)

    def expired_at_ms(self, bearer: str) -> int | None:
        """When the time of a token that ``by_token`` does not take was over; None: that is not why."""
        named = _named(bearer)
        return None if named is None else self.accounts.expired_at_ms(self._clock.wall_ms(), *named)

    async def log_out(self, cookie: str) -> None:
        name = self.sessions.end(_sha256(cookie))
        if name is not None:
            await self.audit.note(name, "session.end", name, None, None)
            await self._keep_sessions()

    def _ask(self, name: str, address: str) -> None:
        wait_ns = self.attempts.ask(self._clock.now_ns(), name, address)
        if wait_ns:
            wait_s = math.ceil(wait_ns / _NS)
            raise Unavailable("too many attempts", fix=f"wait {wait_s} s", retry_after_s=wait_s)

    # ── users ─────────────────────────────────────────────────────────────────────────────────────

    def users(self) -> list[User]:
        return self.accounts.users()

    async def add_user(self, by: Principal, name: str, password: str, role: Role) -> User:
        """Raises: Refused: *by* may not. BadInput: name, password; it is there already."""
        _check_admin(by)
        self.accounts.check_new(name)
        hashed = await self._hasher.hash(checked_password(password, name=name))

        def edit() -> tuple[object, object, User]:
            user = self.accounts.add_user(self._clock.wall_ms(), name, role, hashed)
            return None, _facts(user), user

        user = await self._change(by, "user.add", name, edit)
        self._setup = ""
        return user

    async def set_password(
        self, by: Principal, name: str, password: str, *, old: str | None = None, version: int | None = None
    ) -> User:
        """One's own with the *old* one, anybody's as administrator. Every session of that user ends.

        Raises: Refused: *by* may not, *old* is wrong, or *version* is not the present one (`Stale`).
            BadInput: no such user, or no proper password. Unavailable: too many guesses at *old*.
        """
        if by.kind == "session" and by.name == name:
            self._ask(name, _OWN)
            held = self.accounts.password_of(name)
            if not await self._hasher.verify(held, spelled_password(old or "")):
                raise Refused("the old password is wrong", fix="give the present one as well")
            self.attempts.succeeded(self._clock.now_ns(), name, _OWN)
        else:
            _check_admin(by)
        before = self.accounts.user(name)
        hashed = await self._hasher.hash(checked_password(password, name=name))

        def edit() -> tuple[object, object, User]:
            user = self.accounts.set_password(self._clock.wall_ms(), name, hashed, version=version)
            return _facts(before), _facts(user), user

        user = await self._change(by, "user.password", name, edit)
        self.attempts.forget(name)
        await self._end_sessions(name)
        return user

    async def set_role(self, by: Principal, name: str, role: Role, *, version: int | None = None) -> User:
        """Raises: Refused: *by* may not, it is the last administrator, or `Stale`. BadInput: no such user."""
        _check_admin(by)

        def edit() -> tuple[object, object, User]:
            before = self.accounts.user(name)
            user = self.accounts.set_role(name, role, version=version)
            return _facts(before), _facts(user), user

        return await self._change(by, "user.role", name, edit)

    async def remove_user(self, by: Principal, name: str, *, version: int | None = None) -> None:
        """With tokens and sessions. Raises: as ``set_role``."""
        _check_admin(by)

        def edit() -> tuple[object, object, None]:
            before = self.accounts.user(name)
            tokens = self.accounts.remove_user(name, version=version)
            return _facts(before) | {"tokens": [each.id for each in tokens]}, None, None

        await self._change(by, "user.remove", name, edit)
        self.attempts.forget(name)
        await self._end_sessions(name)

    async def _end_sessions(self, name: str) -> None:
        self.links.end_all_of(name)
        if self.sessions.end_all_of(name):
            await self._keep_sessions()

    # ── tokens ────────────────────────────────────────────────────────────────────────────────────

    def tokens(self) -> list[Token]:
        return self.accounts.tokens()

    async def add_token(
        self, by: Principal, name: str, role: Role, scopes: Iterable[str] | None, ttl_s: int
    ) -> tuple[Token, str]:
        """Returns: the token, and the only copy of its secret, ``ewt_<id>_<secret>``.

        Raises: Refused: *by* may not, or not that much. BadInput: name, scopes or time do not fit.
        """
        if by.role < Role.ADMIN:
            raise Refused(f"accounts are for admin, and {by.name} is {by.role.word}")
        secret = self._secret(32)
        token_id = base64.b32encode(self._entropy(5)).decode().lower()

        def edit() -> tuple[object, object, Token]:
            token = self.accounts.add_token(
                self._clock.wall_ms(), by, token_id=token_id, name=name, role=role, scopes=scopes,
                ttl_s=ttl_s, secret_sha256=_sha256(secret),
            )  # fmt: skip
            return None, token_facts(token), token

        token = await self._change(by, "token.add", token_id, edit)
        return token, f"ewt_{token_id}_{secret}"

    async def revoke_token(self, by: Principal, token_id: str) -> None:
        """Raises: Refused: *by* may not. BadInput: there is no such token."""
        if by.role < Role.ADMIN:
            raise Refused(f"accounts are for admin, and {by.name} is {by.role.word}")

        def edit() -> tuple[object, object, None]:
            return token_facts(self.accounts.revoke_token(token_id)), None, None

        await self._change(by, "token.revoke", token_id, edit)

    # ── the disk ──────────────────────────────────────────────────────────────────────────────────

    async def _change(
        self, by: Principal, what: str, target: str, edit: Callable[[], tuple[object, object, T]]
    ) -> T:
        """*edit* changes the accounts and tells before and after; undone if it cannot be written."""
        who = by.name
        await self.audit.ready()
        async with self.audit.turn:
            if not self.accounts.holds(by):  # removed, or given less, while a password was hashed
                raise Refused(f"{who} may do less than when it asked", fix="look again")
            held = self.accounts.rows
            try:
                before, after, result = edit()
                await self.audit.write(who, what, target, before, after)
            except Exception:
                self.accounts.put_back(held)
                raise
        log.info("account changed", extra={"who": who, "what": what, "target": target})
        return result

    def _contents(self, head: Head) -> bytes:
        users, tokens = self.accounts.rows
        return msgspec.json.encode(Stored(1, users, tokens, head))

    def _save(self, data: bytes) -> None:
        assert self._files is not None, "opened"
        self._files.write(ACCESS, data)

    async def _keep_sessions(self) -> None:
        """Best effort: people log in again where it fails."""
        assert self._files is not None, "opened"
        async with self._keeping:
            with contextlib.suppress(Unavailable):
                await asyncio.to_thread(self._files.write, SESSIONS, self.sessions.stored())

    def _read(self, name: str) -> bytes | None:
        assert self._files is not None
        try:
            return self._files.read(name)
        except BadInput as error:
            path = self.directory / name
            raise BadInput(error.cause, fix=f"chmod 600 {path}, or restore it from a backup") from None

    def _secret(self, count: int) -> str:
        return _spell(self._entropy(count))


def _check_admin(by: Principal) -> None:
    if by.role < Role.ADMIN:
        raise Refused(f"accounts are for admin, and {by.name} is {by.role.word}", fix="ask an administrator")
    if by.scopes is not None:  # a user has no scopes: it could make one that may do more than itself
        raise Refused("a token with scopes cannot change users", fix="use a token without")


def _named(bearer: str) -> tuple[str, str] | None:
    """Id, and SHA-256 of the secret, of ``ewt_<id>_<secret>``; None: it is no token."""
    parts = bearer.split("_", 2) if len(bearer) <= 128 else []
    return (parts[1], _sha256(parts[2])) if len(parts) == 3 and parts[0] == "ewt" else None


def _spell(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _facts(user: User) -> dict[str, object]:
    return {"role": user.role.word, "password_at_ms": user.password_at_ms, "version": user.version}


def token_facts(token: Token) -> dict[str, object]:
    """What is told of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.word,
        "scopes": None if token.scopes is None else sorted(token.scopes),
        "owner": token.owner,
        "made_at_ms": token.made_at_ms,
        "expires_at_ms": token.expires_at_ms,
    }


def user_facts(user: User) -> dict[str, object]:
    """What is told of a user."""
    return {"name": user.name, "since_at_ms": user.since_at_ms, **_facts(user)}
