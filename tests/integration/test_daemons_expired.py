"""A token whose time ends while its holder listens: the gateway's clock goes on by two hours, in a moment."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_node.commands import exits
from gateway.access.roles import Role
from tests.support.daemons import BIN, COMMAND_S_MAX, WAIT_S_MAX, Bed, Told, until
from tests.support.http_api import Api
from tests.support.lying_clock import FAKETIME, memory_swept, set_clock

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed"),
    pytest.mark.usefixtures("swept"),
]
swept = pytest.fixture(memory_swept)
AHEAD_S = 2 * 3600
NOTED = {"function": "toys.add", "args": [1], "where": "pi-99"}
"""Work that is refused, which the chronicle notes: whoever listens hears of it."""


def refused(told: Told) -> None:
    assert told.code == exits.REFUSED and told.err.count("\n") == 1, told
    assert "the token expired at 2" in told.err and "UTC" in told.err, told
    assert "make one there with `edge-gateway tokens add`" in told.err


def test_a_token_that_expires_ends_what_its_holder_has_open_and_is_told_as_expired(tmp_path):
    """A stream ends, a poll and a command that follows are refused, and each says what is to be done."""
    with ThreadPoolExecutor(1) as beside, Bed(tmp_path) as bed:
        api = Api(set_clock(bed.gateway(), 0).start()).people()
        with api.of(Role.ADMIN) as admin:
            assert admin.post("/v1/functions?file=toys.py", content=bed.toys.read_bytes()).status_code == 201
        ann = api.log_in()
        short = {"name": "short", "role": "viewer", "ttl_s": 3600}
        token = ann.post("/v1/tokens", json=short).json()["secret"]
        (tmp_path / "token").write_text(token)
        (tmp_path / "token").chmod(0o600)
        afar = [
            str(BIN / "edge-gateway"), "--url", api.base, "--token-file", str(tmp_path / "token"),
            "--ca", str(api.gateway.home.keys / "root.pem"),
        ]  # fmt: skip
        follows = subprocess.Popen(
            [*afar, "events", "--follow"], env=bed.environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            with api.client(token) as holder, holder.stream("GET", "/v1/events") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("retry:"), "it is open"
                heard = ann.post("/v1/tasks", json=NOTED).json()["cause"]
                while heard not in next(lines):
                    pass
                assert follows.stdout is not None
                assert any("pi-99" in line for line in iter(follows.stdout.readline, "")), "it follows too"

                set_clock(api.gateway, AHEAD_S)
                until("the clock has moved", lambda: holder.get("/v1/me").status_code == 401)
                ann.post("/v1/tasks", json=NOTED)
                assert beside.submit(list, lines).result(WAIT_S_MAX) is not None, "it has ended"
                again = holder.get("/v1/events", headers={"last-event-id": "0-00000000"})

            out, err = follows.communicate(timeout=WAIT_S_MAX)
            refused(Told(follows.returncode, out, err))
        finally:
            follows.kill()
            follows.wait()
        nodes = subprocess.run(
            [*afar, "nodes"], env=bed.environment, capture_output=True, text=True, timeout=COMMAND_S_MAX,
            check=False,
        )  # fmt: skip
        refused(Told(nodes.returncode, nodes.stdout, nodes.stderr))
        assert nodes.stdout == "" and token not in nodes.stderr

        told = again.json()
        assert (again.status_code, told["type"]) == (401, "urn:edgeweave:problem:not-authenticated")
        assert told["detail"].startswith("the token expired at 2") and "tokens add" in told["fix"]
        assert 'error_description="The access token expired"' in again.headers["www-authenticate"]
        forged = f"{token[:-2]}xx"
        with api.client(forged) as guesser:
            assert guesser.get("/v1/me").json()["detail"] == "the token is unknown or was revoked"
        (row,) = [each for each in ann.get("/v1/tokens").json()["tokens"] if each["name"] == "short"]
        assert row["expires_at_ms"] < row["made_at_ms"] + 3_601_000, "the list still says why it does nothing"
