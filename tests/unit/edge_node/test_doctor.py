"""Doctor names what is wrong, and says what to do."""

from __future__ import annotations

import socket

import pytest

from edge_node import doctor
from edge_node.home import Home
from security.errors import BadInput


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    return home


def verdicts(findings):
    return {each.check: each.verdict for each in findings}


def test_a_fresh_home_has_nothing_wrong(home):
    findings = doctor.examine(home)

    assert not [each for each in findings if each.failed]
    assert verdicts(findings)["certificate"] == "warn"
    assert verdicts(findings)["daemon"] == "warn"


def test_every_finding_that_is_not_ok_has_a_fix(tmp_path):
    findings = doctor.examine(
        Home(tmp_path / "none"), settings_fault=BadInput("s.toml:1: x", fix="y"), now_s=0.0
    )

    assert {each.check for each in findings if each.verdict != "ok"} >= {"home", "settings", "clock", "keys"}
    assert all(each.fix for each in findings if each.verdict != "ok" and each.check != "packages")


def test_our_packages_are_ours():
    assert verdicts(doctor.packages())["packages"] in ("ok", "warn")


def test_a_package_of_the_same_name_is_found_out(monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.metadata, "packages_distributions", lambda: {"security": ["edgeweave", "other"]}
    )

    (finding,) = [each for each in doctor.packages() if "security" in each.detail and each.failed]
    assert "also belongs to other" in finding.detail


def test_loose_permissions_are_found(home):
    (home.keys / "identity.pem").write_text("x")
    (home.keys / "identity.pem").chmod(0o640)
    home.path.chmod(0o750)

    failed = [each for each in doctor.examine(home) if each.failed]

    assert [each.check for each in failed] == ["home", "keys", "certificate"]
    assert failed[1].fix == f"chmod 600 {home.keys / 'identity.pem'}"


def test_a_port_in_use_is_found(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = doctor.port_free("broker", "127.0.0.1", port)
        assert (
            finding.failed and f"port {port} is in use" in finding.detail and "--broker-port" in finding.fix
        )
        assert doctor.reachable(f"127.0.0.1:{port}").verdict == "ok"

    assert doctor.port_free("joining", "127.0.0.1", port).verdict == "ok"
    assert doctor.reachable(f"127.0.0.1:{port}").verdict == "warn"
    assert doctor.reachable("nonsense").verdict == "fail"
    assert doctor.port_free("joining", "not an address", 1).failed


def test_a_dead_daemons_socket_is_told_from_a_living_one(home):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        home.socket.chmod(0o600)
        listener.listen(1)
        assert doctor.control_socket(home).verdict == "ok"
        home.socket.chmod(0o666)
        assert doctor.control_socket(home).verdict == "fail"
        home.socket.chmod(0o600)

    assert "left its socket behind" in doctor.control_socket(home).detail


def test_a_program_is_found_where_plain_users_do_not_look(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "tool").touch(mode=0o755)
    monkeypatch.setattr(doctor, "_MORE_PATH", (str(tmp_path),))

    assert str(tmp_path) in doctor.program_found("tool", wanted=True).detail
    assert doctor.program_found("no-such-tool", wanted=True).failed
    assert not doctor.program_found("no-such-tool", wanted=False).failed
