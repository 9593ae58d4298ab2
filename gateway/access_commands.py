"""``edge-gateway users``, ``tokens`` and ``audit``.

They go through the running daemon's control socket, so no log-in limits them: whoever may open it owns the
gateway. A password is asked for twice on a terminal, else read from ``--password-file`` or the first line of
stdin; never from the command line, which every user of the machine can read. ``audit verify`` reads the files
itself: it needs no daemon and believes none.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_node.commands import exits
from edge_node.commands.door import Program
from edge_node.commands.inputs import parse_duration
from edge_node.commands.terminal import Terminal
from gateway.access.access import ACCESS, AUDIT, opened
from gateway.access.audit import verify_file
from gateway.access.chain import Head
from gateway.access.roles import SCOPES, WORDS, role_of
from gateway.backup_commands import beginning_of, first_line
from security.errors import BadInput

USER_COLUMNS = ("name", "role", "since_at_ms", "password_at_ms")
TOKEN_COLUMNS = ("id", "name", "role", "scopes", "owner", "made_at_ms", "expires_at_ms")
ENTRY_COLUMNS = ("n", "when_at_ms", "who", "what", "target", "before", "after", "cause")
PASSWORD_LINE_MAX = 4096  # what is too long is refused with its reason by the daemon

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user, as `users` lists it.")]
RoleOption = Annotated[
    str, typer.Option("--role", metavar="|".join(WORDS), help="What may be done; each includes those before.")
]
PasswordFile = Annotated[
    str | None,
    typer.Option("--password-file", metavar="PATH", help="Its first line is the password; - reads stdin."),
]


def list_users(terminal: Terminal) -> None:
    terminal.table(
        terminal.call("users"), USER_COLUMNS,
        empty="no users; open the link that `up` printed, or `edge-gateway users add NAME --role admin`",
    )  # fmt: skip


def list_tokens(terminal: Terminal) -> None:
    terminal.table(terminal.call("tokens"), TOKEN_COLUMNS, empty="no tokens")


def list_entries(terminal: Terminal, after: int = -1, limit: int = 50) -> None:
    entries = terminal.call("audit", {"after": after, "limit": limit})
    if terminal.json:
        terminal.value(entries)
        return
    rows = [each | {"when_at_ms": each["at_ms"]} for each in entries]
    terminal.table(rows, ENTRY_COLUMNS, empty="nothing is noted there")


def add_commands(program: Program, confirmed: Callable[[Terminal, str, str], None]) -> None:
    """users, tokens, audit. Args: confirmed: has a name typed again, or raises BadInput."""
    _add_users(program, confirmed)
    _add_tokens(program)
    _add_audit(program)


def _add_users(program: Program, confirmed: Callable[[Terminal, str, str], None]) -> None:
    app = program.group(
        "users", "List the people who may log in; or add, change and remove them.", list_users
    )

    @program.command("list", app=app)
    def show(terminal: Terminal) -> None:
        """List the users: role, since when, and from when their password is."""
        list_users(terminal)

    @program.command("add", app=app)
    def add(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 32 of a-z 0-9 . _ -")],
        role: RoleOption = "viewer",
        password_file: PasswordFile = None,
    ) -> None:
        """Let a person log in, with a password of at least 12 characters."""
        role_of(role)
        password = _password(password_file)
        answer = terminal.call("user-add", {"name": name, "role": role, "password": password})
        _told(terminal, answer, f"{name} may log in as {role}")

    @program.command("passwd", app=app)
    def passwd(terminal: Terminal, name: Name, password_file: PasswordFile = None) -> None:
        """Set a user's password; their sessions end, and locks of their name are forgotten."""
        answer = terminal.call("user-passwd", {"name": name, "password": _password(password_file)})
        _told(terminal, answer, f"{name} has a new password")

    @program.command("role", app=app)
    def role_command(
        terminal: Terminal,
        name: Name,
        role: Annotated[str, typer.Argument(metavar="|".join(WORDS), help="What may be done from now on.")],
    ) -> None:
        """Change what a user may do, at once; there is always an administrator left."""
        role_of(role)
        _told(terminal, terminal.call("user-role", {"name": name, "role": role}), f"{name} is {role} now")

    @program.command("link", app=app, here="the link is for a browser on it")
    def link(terminal: Terminal, name: Name) -> None:
        """Print a link that logs a user in, once, within ten minutes; for a browser on this machine."""
        answer = terminal.call("user-link", {"name": name})
        _told(terminal, answer, answer["link"])

    @program.command("remove", app=app)
    def remove(
        terminal: Terminal,
        name: Name,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    ) -> None:
        """Remove a user with sessions and tokens."""
        if not yes:
            confirmed(terminal, f"remove {name}", name)
        _told(terminal, terminal.call("user-remove", {"name": name}), f"{name} is removed")


def _add_tokens(program: Program) -> None:
    app = program.group("tokens", "List the tokens of programs; or add and revoke them.", list_tokens)

    @program.command("list", app=app)
    def show(terminal: Terminal) -> None:
        """List the tokens: what each may do, whose it is, until when."""
        list_tokens(terminal)

    @program.command("add", app=app)
    def add(
        terminal: Terminal,
        name: Annotated[str, typer.Argument(metavar="NAME", help="For people: 1 to 32 of a-z 0-9 . _ -")],
        role: RoleOption = "viewer",
        scope: Annotated[
            list[str] | None,
            typer.Option(
                "--scope", metavar="SCOPE", help="Only this, as nodes:read or tasks:write. Repeatable."
            ),
        ] = None,
        ttl: Annotated[
            str,
            typer.Option("--ttl", metavar="TIME", help="How long it is good, as 12h or 90d; at most 366d."),
        ] = "90d",
    ) -> None:
        """Print a token for a program; shown once."""
        role_of(role)
        unknown = sorted(set(scope or []) - SCOPES)
        if unknown:
            there = ", ".join(sorted(SCOPES))
            raise BadInput(f"scope {unknown[0]!r:.60} is not known", fix=f"there are {there}")
        answer = terminal.call(
            "token-add", {"name": name, "role": role, "scopes": scope or None, "ttl_s": parse_duration(ttl)}
        )
        if terminal.json:
            terminal.value(answer)
            return
        terminal.text(str(answer["secret"]))
        end = f"edge-gateway tokens revoke {answer['id']}"
        terminal.note(f"send it as `Authorization: Bearer …`; it is shown only now; end it with `{end}`")

    @program.command("revoke", app=app)
    def revoke(
        terminal: Terminal,
        token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `tokens` lists it.")],
    ) -> None:
        """End a token at once."""
        _told(terminal, terminal.call("token-revoke", {"id": token}), f"{token} is revoked")


def _add_audit(program: Program) -> None:
    app = program.group("audit", "Show what was changed last, and by whom; or verify the log.", list_entries)

    @program.command("list", app=app)
    def show(
        terminal: Terminal,
        after: Annotated[
            int,
            typer.Option("--after", metavar="N", help="Entries above this number; default: the last ones."),
        ] = -1,
        limit: Annotated[
            int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")
        ] = 50,
    ) -> None:
        """Show entries of the audit log: who changed what, and how it was before and after."""
        list_entries(terminal, after, limit)

    @program.command("verify", app=app, here="it reads the log on the disk, and believes no daemon")
    def verify(
        terminal: Terminal,
        file: Annotated[
            str | None, typer.Option("--file", metavar="PATH", help="A copy of a log; default: this home's.")
        ] = None,
        expect: Annotated[
            str | None,
            typer.Option(
                "--expect",
                metavar="N:HASH",
                help="An entry that was noted before, as this command prints it.",
            ),
        ] = None,
    ) -> None:
        """Check the audit log's chain of hashes, with the daemon or without; exit code 0 only if it holds."""

        head = _expected(expect)
        path = terminal.home.path / AUDIT if file is None else Path(file)
        if file is None:
            held = _read(terminal.home.path / ACCESS)
            kept = opened(held, terminal.home.path / ACCESS).audit
            verdict = verify_file(path, kept)
            if head is not None and verdict.broken_at is None:
                verdict = verify_file(path, head)
        else:
            verdict = verify_file(path, head)
        facts = {
            "file": str(path),
            "whole": verdict.broken_at is None,
            "entries": verdict.entries,
            "broken_at": verdict.broken_at,
            "reason": verdict.reason,
            "head": f"{verdict.head.n}:{verdict.head.hash}",
        }
        if terminal.json:
            terminal.value(facts)
        elif verdict.broken_at is None:
            terminal.text(f"{verdict.entries} entries, whole")
            terminal.note(f"note elsewhere, for --expect: {facts['head']}")
            if file is not None and head is None:
                terminal.note("entries cut off at the end of a copy are noticed only with --expect")
        else:
            terminal.text(f"broken at entry {verdict.broken_at}: {verdict.reason}")
            terminal.note(f"{verdict.entries} entries before it hold; nothing behind it can be believed")
        if verdict.broken_at is not None:
            raise typer.Exit(exits.TASK_FAILED)


def _expected(text: str | None) -> Head | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", text)
    if found is None:
        raise BadInput(
            f"{text!r:.90} is no entry", fix="give N:HASH as `edge-gateway audit verify` prints it"
        )
    return Head(int(found[1]), found[2])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"there is no {path}", fix="name a gateway's home with --home DIR, or a copy with --file"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="run as its owner") from None


def _told(terminal: Terminal, answer: object, text: str) -> None:
    if terminal.json:
        terminal.value(answer)
    else:
        terminal.text(text)


def _password(path: str | None) -> str:
    """Raises: BadInput: empty, typed differently, or the file cannot be read."""
    if path is not None and path != "-":
        password = first_line(beginning_of(path, PASSWORD_LINE_MAX))
    elif path == "-" or not sys.stdin.isatty():
        password = first_line(sys.stdin.buffer.readline(PASSWORD_LINE_MAX))
    else:
        password = getpass.getpass("password: ", stream=sys.stderr)
        if getpass.getpass("again: ", stream=sys.stderr) != password:
            raise BadInput("the two passwords differ", fix="try again")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise BadInput("the password is not UTF-8", fix="write it as UTF-8") from None
    if not password:
        raise BadInput("no password was given", fix="type one, or give --password-file PATH")
    return password
