"""A home is private, held by one daemon, and found the same way everywhere."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest

from edge_node.home import Home, chosen_home, gateway_home, node_home, short_address
from security.errors import BadInput, Unavailable


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_its_owners_alone(tmp_path):
    home = Home(tmp_path / "deep" / "home")

    home.create()

    assert [mode(each) for each in (home.path, home.keys, home.logs, home.bundles)] == [0o700] * 4


def test_an_empty_directory_becomes_private_a_used_one_is_refused(tmp_path):
    empty, used = tmp_path / "empty", tmp_path / "used"
    for each in (empty, used):
        each.mkdir(mode=0o755)
        each.chmod(0o755)
    (used / "settings.toml").touch()

    Home(empty).create()

    assert mode(empty) == 0o700
    with pytest.raises(BadInput, match=r"mode 0755.*chmod 700"):
        Home(used).create()


def test_a_home_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(BadInput, match="cannot make the home"):
        Home(tmp_path / "file" / "home").create()


def test_the_home_is_chosen_by_argument_then_environment_then_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = {"EDGEWEAVE_HOME": "/env"}

    assert str(chosen_home("/arg", environ=environ).path) == "/arg"
    assert str(chosen_home(environ=environ, default=Home("/d")).path) == "/env"
    assert str(chosen_home(environ={}, default=Home("/d")).path) == "/d"
    assert chosen_home(environ={}).path == node_home().path == tmp_path / ".edgeweave" / "node"
    gateway_home().create()
    gateway_home().socket.touch()
    assert chosen_home(environ={}).path == gateway_home().path
    node_home().create()
    node_home().socket.touch()
    assert chosen_home(environ={}).path == node_home().path


def test_long_paths_get_short_addresses(tmp_path):
    long = tmp_path / ("x" * 200)
    long.mkdir()

    with short_address(tmp_path / "a.sock") as plain, short_address(long / "a.sock") as short:
        assert plain == str(tmp_path / "a.sock")
        assert short.startswith("/proc/self/fd/") and short.endswith("/a.sock")


@pytest.mark.slow
def test_one_daemon_a_home_until_it_dies(tmp_path):
    """The lock ends with its process, however that dies; its holder is named meanwhile."""
    code = (
        "import sys, time\nfrom edge_node.home import Home\n"
        "with Home(sys.argv[1]).hold():\n    print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable, match=f"process {process.pid}"), Home(tmp_path).hold():
            pass
    finally:
        process.kill()
        process.communicate()
    with Home(tmp_path).hold():
        assert mode(Home(tmp_path).lock) == 0o600
