"""Work handed in from afar over a line that breaks, or says nothing, after the gateway has taken it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway import cli
from gateway.access.roles import Role
from gateway.afar import line
from tests.support.daemons import WAIT_S_MAX, Bed, until
from tests.support.http_api import Api

pytestmark = pytest.mark.slow


class Relay:
    """A port before the gateway's. Of its first connection nothing comes back after the TLS handshake: what
    was asked there arrives, its answer does not. Further ones are left alone.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._to = port
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._pumps = ThreadPoolExecutor(16)

    def __enter__(self) -> Relay:
        self._pumps.submit(self._serve)
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self._door, *self._ends):
            _cut(each)
        self._pumps.shutdown()

    def cut(self) -> None:
        """The first connection breaks."""
        for each in self._ends[:2]:
            _cut(each)

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._to), timeout=WAIT_S_MAX)
            self._ends += [near, far]
            heard, silent = threading.Event(), threading.Event()
            mute = silent if self.connections == 1 else threading.Event()
            self._pumps.submit(_pump, far, near, heard, mute)
            self._pumps.submit(_asking, near, far, heard, silent)


def _asking(near: socket.socket, far: socket.socket, heard: threading.Event, silent: threading.Event) -> None:
    """Client to gateway. What it says after it has heard something ends the handshake."""
    with contextlib.suppress(OSError):
        while data := near.recv(65536):
            if heard.is_set():
                silent.set()
            far.sendall(data)
    _cut(far)


def _pump(far: socket.socket, near: socket.socket, heard: threading.Event, mute: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := far.recv(65536):
            if not mute.is_set():
                heard.set()
                near.sendall(data)
    _cut(near)


def _cut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with Bed(tmp_path_factory.mktemp("once")) as bed:
        api = Api(bed.gateway().start()).people()
        with api.of(Role.ADMIN) as admin:
            assert admin.post("/v1/functions?file=toys.py", content=bed.toys.read_bytes()).status_code == 201
        yield api


def taken(api, function):
    with api.of(Role.VIEWER) as viewer:
        return [row["id"] for row in viewer.get("/v1/tasks", params={"function": function}).json()["tasks"]]


@pytest.mark.parametrize("broken", ["cut", "late"])
@pytest.mark.parametrize(("command", "function"), [("submit", "toys.size"), ("run", "toys.add")])
def test_work_whose_answer_does_not_come_is_sent_again_and_taken_once(
    api, capsys, monkeypatch, broken, command, function
):
    if broken == "late":
        monkeypatch.setattr(line, "ANSWER_S", 2.0)
    monkeypatch.setenv("EDGEWEAVE_TOKEN", api.tokens[Role.OPERATOR])
    argument = {"toys.size": "text=abc", "toys.add": "a=2"}[function]
    before = taken(api, function)
    with Relay(int(api.base.rpartition(":")[2])) as relay, ThreadPoolExecutor(1) as beside:
        words = ["--url", f"https://127.0.0.1:{relay.port}", "--ca", str(api.gateway.home.keys / "root.pem")]
        asked = beside.submit(cli.program.enter, [*words, "--json", command, function, "--arg", argument])
        until("it was taken", lambda: len(taken(api, function)) > len(before))
        if broken == "cut":
            relay.cut()
        code = asked.result(WAIT_S_MAX)
        connections = relay.connections

    out, err = capsys.readouterr()
    assert code == 0, out + err
    (task,) = set(taken(api, function)) - set(before)
    assert json.loads(out) == ({"task": task} if command == "submit" else 3)
    assert connections >= 2, "the first was never answered"


def test_each_command_is_work_of_its_own(api, capsys, monkeypatch):
    monkeypatch.setenv("EDGEWEAVE_TOKEN", api.tokens[Role.OPERATOR])
    words = ["--url", api.base, "--ca", str(api.gateway.home.keys / "root.pem"), "--json"]

    for _ in range(2):
        assert cli.program.enter([*words, "submit", "toys.size", "--arg", "text=abc"]) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["task"] != json.loads(second)["task"]
