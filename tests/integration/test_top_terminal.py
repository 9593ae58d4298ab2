"""`edge-gateway top` in a real terminal, over a real mesh: driven by keys, read from the screen."""

from __future__ import annotations

import re

import pytest

from tests.support.daemons import BIN, Bed, running_marks, until
from tests.support.tmux_screen import TmuxScreen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|4[0-7]|9[0-7]|38|48)\b[0-9;]*m")


@pytest.fixture
def bed(tmp_path):
    with Bed(tmp_path / "bed") as bed:
        yield bed


@pytest.fixture(autouse=True)
def _room(tmp_path):
    (tmp_path / "bed").mkdir()


def top(bed, gateway, path, *, colour, size=(80, 24)):
    environment = dict(bed.environment)
    if colour:
        del environment["NO_COLOR"]
    del environment["COLUMNS"]
    path.mkdir()
    words = [str(BIN / "edge-gateway"), "top", "--home", str(gateway.home.path)]
    return TmuxScreen(path, words, environment, size=size)


def cursor_to(screen, word, hint):
    """Down until the keys' line offers *hint*: the chosen row is the one with *word*."""
    lines = [line.split() for line in screen.text.splitlines()]
    rows = [line[0] for line in lines[4:] if line]
    screen.keys("Home", *["Down"] * rows.index(word)).shows(hint)


def test_a_person_watches_lets_in_filters_cancels_and_shuts_out(bed, tmp_path):
    """In 80 columns and in 140, through a restart of the gateway, until q."""
    gateway, _ = bed.pair()
    assert bed.cli(gateway, "run", "toys.add", "--arg", "a=1").value == 2
    assert bed.cli(gateway, "run", "toys.fail").code == 1
    waiting = bed.node("pi-2")
    code = bed.cli(gateway, "invite", "--approval", "pending").text
    with top(bed, gateway, tmp_path / "a", colour=True) as screen:
        text = screen.shows("1 nodes", "pi-1", " up ", "ms", "2 of 2 up", "q quit")
        assert all(len(line) <= 80 for line in text.splitlines())
        assert COLOUR.search(screen.styled)

        # Somebody knocks: shown first, let in after the name was typed.
        waiting.options = [code, "--name", "pi-2", *waiting.options]
        joining = Joining(bed, waiting)
        screen.shows("pi-2", "pending", "1 wait for approval")
        cursor_to(screen, "pi-2", "a approve")
        screen.keys("a").shows("Approve pi-2?", "Compare the six words", "Type its name, pi-2")
        screen.keys("pi-1", "Enter").shows("That is another name: nothing was done.")
        assert bed.cli(gateway, "pending", "--json").value[0]["id"] == "pi-2"
        screen.keys("pi-2", "Enter").shows("pi-2 is a member now", without="Approve")
        assert joining.ended() == 0

        # Tasks: a filter, a story, the end of one that runs.
        screen.keys("2").shows("toys.add", "done", "toys.fail", "failed", "6 tables   2")
        screen.keys("/", "failed", "Enter").shows("toys.fail", "tables   1: failed", without="toys.add")
        screen.keys("Enter").shows("tasks: ", "committed the end: it failed")
        screen.keys("Escape").shows("tables   1: failed", without="committed")
        screen.keys("Escape").shows("toys.add")
        mark = tmp_path / "never"
        task = bed.cli(gateway, "submit", "toys.until", "--arg", f"path={mark}").text
        until("it runs", lambda: running_marks(mark))
        screen.shows(task)
        cursor_to(screen, task, "c cancel")
        screen.keys("c").shows(task[-6:], "It ends as cancelled")
        screen.keys(task[-6:], "Enter").shows(f"{task} is cancelled")

        # The gateway dies and comes back.
        screen.keys("4").shows("pi-2 is a member", "gateway started")
        gateway.kill()
        screen.shows("away for", "start it", "pi-2 is a member")
        gateway.start()
        screen.shows("its life before had not ended", without="away for")

        screen.resize(140, 40)
        screen.keys("3").shows("broker", "connected 127.0.0.1", "3 links")
        screen.keys("1").shows("version", "workers", "roles", "pi-1", " up ")
        cursor_to(screen, "pi-1", "x revoke")
        screen.keys("x").shows("Revoke pi-1?", "shut out for good")
        screen.keys("Escape").shows("x revoke", without="Revoke pi-1?")
        assert {row["id"]: row["status"] for row in bed.cli(gateway, "nodes", "--json").value}[
            "pi-1"
        ] == "active"
        screen.keys("x").shows("Revoke pi-1?")
        screen.keys("pi-1", "Enter").shows("The name holds: say why")
        screen.keys("stolen", "Enter").shows("pi-1 is revoked", "revoked")
        rows = {row["id"]: row for row in bed.cli(gateway, "nodes", "--json").value}
        assert (rows["pi-1"]["status"], rows["pi-1"]["reason"]) == ("revoked", "stolen")

        screen.keys("?").shows("Keys", "edge-gateway revoke")
        screen.keys("Escape").shows("1 nodes")
        screen.keys("q").shows("ended with 0")


def test_without_colour_everything_is_still_said(bed, tmp_path):
    gateway = bed.gateway().start()
    with top(bed, gateway, tmp_path / "a", colour=False) as screen:
        screen.shows("gateway", " up ", "1 of 1 up", "connected")
        assert not [code for code in COLOUR.findall(screen.styled) if not grey(code)]
        screen.keys("6").shows("no tables are stored")
        gateway.term()
        screen.shows("away for", "no daemon answers")
        screen.keys("C-c").shows("ended with 0")


def grey(code):
    """A colour of equal parts red, green and blue, or of the 24 greys."""
    numbers = [int(each) for each in re.findall(r"[0-9]+", code)]
    palette = [
        numbers[at + 2] for at in range(len(numbers) - 2) if numbers[at] in (38, 48) and numbers[at + 1] == 5
    ]
    return bool(palette) and all(
        each >= 232 or each in (0, 7, 8, 15, 16, 59, 102, 145, 188, 231) for each in palette
    )


class Joining:
    """`edge-node join` that waits for its approval."""

    def __init__(self, bed, node):
        import subprocess

        self._process = subprocess.Popen(
            [str(BIN / "edge-node"), "join", *node.options, "--home", str(node.home.path)],
            env=bed.environment, cwd=bed.path, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ended(self):
        return self._process.wait(60)
