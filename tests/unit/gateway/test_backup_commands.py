"""``edge-gateway backup`` and ``restore``: where a passphrase may come from, and what is told."""

from __future__ import annotations

import json

import pytest

from edge_node.home import Home
from gateway import backup, cli
from security import sealing
from security.canonical import decode
from tests.support.gateway_home import GatewayHome as Gateway
from tests.support.typed_commands import typed

WORDS = "four words of dice"


@pytest.fixture
def gateway(tmp_path):
    gateway = Gateway(tmp_path / "gateway")
    yield gateway
    gateway.documents.close()


@pytest.fixture
def edge_gateway(capsys, monkeypatch):
    """Run the command line here; what a guess costs is not what is tested."""
    write = backup.write_backup
    monkeypatch.setattr(backup, "write_backup", lambda *args, **options: write(*args, **options, cost=4))

    def run(home, *words, stdin=b"", terminal=False):
        return typed(
            cli.program, capsys, monkeypatch, home, words, stdin=stdin, terminal=terminal, secret=WORDS
        )

    return run


def test_from_stdin_and_from_a_file_it_is_the_same_passphrase(edge_gateway, gateway, tmp_path):
    words = tmp_path / "words"
    words.write_text(f"{WORDS}\nsecond line\n")

    code, out, err = edge_gateway(gateway.home, "backup", tmp_path / "b", stdin=f"{WORDS}\n".encode())
    assert code == 0 and f"mesh {gateway.authority.mesh_id}, roster 12" in out and "keep them apart" in err
    new = Home(tmp_path / "new")
    code, out, err = edge_gateway(new, "restore", tmp_path / "b", "--passphrase-file", words)
    assert code == 0 and "restored into" in out and "signs nothing until" in err
    code, out, _ = edge_gateway(
        Home(tmp_path / "newer"), "restore", tmp_path / "b", "--passphrase-file", "-", "--json",
        stdin=WORDS.encode(),
    )  # fmt: skip
    assert code == 0 and json.loads(out)["roster"] == 12


def test_on_a_terminal_it_is_asked_for_twice(edge_gateway, gateway, tmp_path, monkeypatch):
    typed = iter([WORDS, WORDS, WORDS, "four words of mice"])
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream: next(typed))

    assert edge_gateway(gateway.home, "backup", tmp_path / "b", terminal=True)[0] == 0
    code, out, err = edge_gateway(gateway.home, "backup", tmp_path / "c", terminal=True)
    assert (code, out, err.count("\n")) == (2, "", 1) and "differ" in err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("words", "stdin", "told"),
    [
        ([], b"", "8 characters or more"),
        ([], b"short\n", "8 characters or more"),
        (["--passphrase-file", "nowhere"], b"", "cannot read nowhere"),
        (["--passphrase", "on the command line"], b"", "--help"),
    ],
)
def test_without_a_proper_passphrase_nothing_is_written(edge_gateway, gateway, tmp_path, words, stdin, told):
    code, out, err = edge_gateway(gateway.home, "backup", tmp_path / "b", *words, stdin=stdin)

    assert (code, out, err.count("\n")) == (2, "", 1) and told in err
    assert not (tmp_path / "b").exists()


def test_each_refusal_of_a_restore_is_one_line(edge_gateway, gateway, tmp_path):
    file, other = tmp_path / "b", tmp_path / "other"
    edge_gateway(gateway.home, "backup", file, stdin=WORDS.encode())
    other.write_bytes(b"something else, long enough to be read as a header")
    cut = tmp_path / "cut"
    cut.write_bytes(file.read_bytes()[:-1])
    new = Home(tmp_path / "new")
    for home, name, words, code, told in (
        (new, tmp_path / "none", WORDS, 2, "cannot read"),
        (new, other, WORDS, 2, "no sealed file of edgeweave"),
        (new, cut, WORDS, 2, "truncated or damaged"),
        (new, file, "four words of mice", 2, "wrong passphrase or damaged file"),
        (gateway.home, file, WORDS, 4, "holds a mesh already"),
    ):
        answer = edge_gateway(home, "restore", name, stdin=words.encode())
        assert (answer[0], answer[1], answer[2].count("\n")) == (code, "", 1)
        assert told in answer[2]


@pytest.mark.slow
def test_what_a_guess_costs_is_what_is_written_down(tmp_path, gateway):
    """The command uses the full cost: the file says so itself."""
    backup.write_backup(gateway.home, tmp_path / "b", WORDS.encode(), now_s=1)

    data = (tmp_path / "b").read_bytes()
    start = len(sealing.MAGIC) + 2
    header = decode(data[start : start + int.from_bytes(data[start - 2 : start], "big")], what="header")
    assert (header["kdf"], header["n"], header["r"], header["p"]) == ("scrypt", 17, 8, 1)
