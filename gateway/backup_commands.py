"""``edge-gateway backup``, ``restore`` and ``settle``.

A passphrase is asked for on a terminal (twice before it seals), else read from ``--passphrase-file`` or the
first line of stdin; never from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import getpass
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_node.commands.door import Program
from edge_node.commands.terminal import Terminal
from gateway import backup as copies
from security.errors import BadInput
from security.roster import ROSTER_BYTES_MAX
from security.sealing import PASSPHRASE_BYTES_MAX, checked_passphrase

PassphraseFile = Annotated[
    str | None,
    typer.Option(
        "--passphrase-file", metavar="PATH", help="Its first line is the passphrase; - reads stdin."
    ),
]


def add_commands(program: Program) -> None:
    """backup, restore, settle."""

    @program.command("backup", here="it seals the keys on the disk")
    def backup(
        terminal: Terminal,
        file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; an older backup is replaced.")],
        passphrase_file: PassphraseFile = None,
    ) -> None:
        """Write everything that makes the mesh into one file under a passphrase; the daemon may run."""
        passphrase = _passphrase(terminal, passphrase_file, twice=True)
        with terminal.waiting("sealing"):
            told = copies.write_backup(terminal.home, Path(file), passphrase, now_s=int(time.time()))
        if terminal.json:
            terminal.value(_facts(told))
            return
        terminal.text(
            f"mesh {told.mesh}, roster {told.roster_version} with {told.members} members, "
            f"{told.bundles} bundles: {file}"
        )
        for what in told.left_out:
            terminal.note(f"left out, damaged: {what}")
        terminal.note("whoever has this file and its passphrase is the gateway: keep them apart")

    @program.command("restore", here="it makes a home on the disk")
    def restore(
        terminal: Terminal,
        file: Annotated[str, typer.Argument(metavar="FILE", help="What `backup` wrote.")],
        passphrase_file: PassphraseFile = None,
        seen: Annotated[
            list[str] | None,
            typer.Option(
                "--seen",
                metavar="ROSTER",
                help="keys/roster.cose of a node: taken before anything is signed. Repeatable.",
            ),
        ] = None,
    ) -> None:
        """Make a new home the gateway that a file is the backup of; `up` then asks its members first."""
        rosters = [beginning_of(path, ROSTER_BYTES_MAX) for path in seen or []]
        try:
            source = Path(file).open("rb")  # noqa: SIM115  closed below
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}", fix="check the name") from None
        with source:
            passphrase = _passphrase(terminal, passphrase_file, twice=False)
            with terminal.waiting("opening"):
                told = copies.read_backup(
                    terminal.home, source, passphrase, now_s=int(time.time()), seen=rosters
                )
        if terminal.json:
            terminal.value(_facts(told))
            return
        terminal.text(f"mesh {told.mesh}, roster {told.roster_version}: restored into {terminal.home.path}")
        terminal.note(
            "make sure that the lost gateway never runs again; then `edge-gateway up`: it signs nothing "
            "until its members were heard"
        )

    @program.command("settle", here="what is lost by it, somebody at the gateway decides")
    def settle(
        terminal: Terminal,
    ) -> None:
        """After a restore, go on without the members that were not heard: what only they know is lost."""
        answer = terminal.call("settle")
        if terminal.json:
            terminal.value(answer)
        else:
            terminal.text(f"settled: the member list goes on with version {answer['version']}")


def _facts(told: copies.Summary) -> dict[str, Any]:
    return {
        "mesh": told.mesh,
        "roster": told.roster_version,
        "members": told.members,
        "bundles": told.bundles,
        "made_at_ms": told.made_s * 1000,
        "left_out": told.left_out,
    }


def _passphrase(terminal: Terminal, path: str | None, *, twice: bool) -> bytes:
    """Raises: BadInput: too short, typed differently, or the file cannot be read."""
    if path is not None and path != "-":
        return checked_passphrase(first_line(beginning_of(path, PASSPHRASE_BYTES_MAX + 2)))
    if path == "-" or not sys.stdin.isatty():
        return checked_passphrase(first_line(sys.stdin.buffer.readline(PASSPHRASE_BYTES_MAX + 2)))
    first = getpass.getpass("passphrase: ", stream=sys.stderr)
    if twice and getpass.getpass("again: ", stream=sys.stderr) != first:
        raise BadInput("the two passphrases differ", fix="try again")
    return checked_passphrase(first)


def first_line(data: bytes) -> str:
    return data.split(b"\n", 1)[0].removesuffix(b"\r").decode("utf-8", "surrogateescape")


def beginning_of(path: str, most: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", fix="check the name") from None
