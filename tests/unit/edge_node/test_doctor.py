"""Doctor names what is wrong, and says what to do."""

from __future__ import annotations

import os
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_node import doctor
from edge_node.home import Home
from gateway import doctor as gateway_doctor
from security.authority import Authority
from security.errors import BadInput
from security.identity import NodeKeys
from security.keystore import KeyStore
from security.roster import Member, MemberKey, RosterDraft

DAY_S = 86400


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

    assert [each.check for each in failed] == ["home", "keys", "certificate", "roster"]
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


# -- the machine ---------------------------------------------------------------------------------------


def test_the_time_that_a_disk_takes_is_measured_and_judged(home):
    assert doctor.fsync_time(home.path).verdict in ("ok", "warn")
    assert not list(home.path.glob(".doctor-*")), "its file is gone"
    slow = doctor.fsync_finding(250.0, "an SD card or eMMC")

    assert (slow.verdict, doctor.fsync_finding(30.0, "").verdict) == ("warn", "ok")
    assert "250.0 ms on an SD card" in slow.detail and "another medium" in slow.fix


def test_a_disk_that_takes_nothing_fails(home):
    """A limit on file sizes stands for the full disk; the kernel refuses the write alike."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        finding = doctor.fsync_time(home.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert finding.failed and "File too large" in finding.detail


@pytest.mark.parametrize(
    ("name", "rotational", "words"),
    [("mmcblk0", "0", "SD card"), ("nvme0n1", "0", "flash"), ("sda", "1", "spinning")],
)
def test_the_medium_is_told_by_the_systems_words(tmp_path, name, rotational, words):
    device = tmp_path.stat().st_dev
    whole = tmp_path / "devices" / name
    (whole / "part1" / "x").mkdir(parents=True)
    (whole / "queue").mkdir()
    (whole / "queue" / "rotational").write_text(rotational + "\n")
    (whole / "part1" / "partition").write_text("1\n")
    (tmp_path / f"{os.major(device)}:{os.minor(device)}").symlink_to(whole / "part1")

    assert words in doctor.medium_of(tmp_path, sys_block=tmp_path)
    assert doctor.medium_of(tmp_path, sys_block=tmp_path / "none") == ""


def test_little_memory_is_a_failure(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  1000000 kB\nMemAvailable:   40960 kB\n")

    assert doctor.memory(tmp_path / "meminfo").failed
    assert "40 MiB available" in doctor.memory(tmp_path / "meminfo").detail
    assert doctor.memory().verdict == "ok"
    assert doctor.memory(tmp_path / "none").verdict == "ok"


def test_a_process_with_few_files_left_is_warned_of():
    few = subprocess.Popen(
        ["/bin/sh", "-c", "ulimit -n 64; exec sleep 60"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        end_s = time.monotonic() + 20
        while (finding := doctor.open_files(few.pid)).verdict == "ok" and time.monotonic() < end_s:
            pass  # the shell has not lowered it yet
    finally:
        few.kill()
        few.wait()

    assert finding.verdict == "warn" and "limit 64" in finding.detail and "LimitNOFILE=4096" in finding.fix
    assert doctor.open_files(few.pid).verdict == "ok", "a process that is gone is not judged"
    assert "open, " in doctor.open_files(os.getpid()).detail


def test_a_worker_is_started_and_runs_a_function():
    assert doctor.workers().verdict == "ok"


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_a_failure(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)

    finding = doctor.workers(0.3, python=str(broken))

    assert finding.failed and "no worker answered" in finding.detail and "start_s_max" in finding.fix


def test_a_foreign_package_of_our_name_is_found_out(tmp_path):
    (tmp_path / "device_sim").mkdir()
    (tmp_path / "device_sim" / "__init__.py").touch()
    code = "from edge_node import doctor; print(*(each.line() for each in doctor.packages()), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip

    assert f"device_sim is found at {tmp_path}/device_sim, which is not ours" in done.stdout
    assert "unset PYTHONPATH" in done.stdout


# -- what the home keeps -------------------------------------------------------------------------------


@pytest.fixture
def joined(home):
    """A home with real certificates of a new mesh; answers the authority and the keys."""
    now_s = int(time.time())
    authority, keys = Authority.create(now_s=now_s, entropy=os.urandom), NodeKeys.generate()
    store = KeyStore(home.keys)
    leaf = authority.issue(keys.public, "pi-1", now_s=now_s)
    store.save_identity(keys, leaf_pem=leaf, issuing_pem=authority.issuing_pem)
    store.save_root(authority.root_pem)
    own = MemberKey(keys.spki_sha256, keys.x25519_public, 0)
    store.save_roster(authority.sign_roster(draft(now_s, Member("pi-1", (own,)))))
    return authority, keys


def draft(now_s, *members, version=1):
    return RosterDraft(version, bytes(32), now_s, ("127.0.0.1:8883",), (), members)


@pytest.mark.parametrize(
    ("days", "check", "verdict", "words"),
    [
        (0, "certificate", "ok", "pi-1, 30 days left, renewed from"),
        (10.5, "certificate", "ok", "renewal is due now"),
        (13, "certificate", "warn", "overdue by 3 days"),
        (31, "certificate", "fail", "pi-1 expired 1 days ago"),
        (-30, "certificate", "warn", "the clock is before that"),
        (0, "issuing CA", "ok", "3,650 days left"),
        (3400, "issuing CA", "warn", "250 days left"),
        (3700, "issuing CA", "fail", "expired 50 days ago"),
        (11000, "root", "fail", "expired 50 days ago"),
        (0, "roster", "ok", "version 1, 1 members"),
        (8, "roster", "warn", "signed 8 days ago"),
    ],
)
def test_certificates_and_roster_are_held_against_the_time(home, joined, days, check, verdict, words):
    now_s = time.time() + days * DAY_S
    found = [doctor.certificate(home.keys / "identity.pem", now_s), *doctor.roster(home, now_s)]
    findings = {each.check: each for each in [*found, *doctor.authority_certificates(home.keys, now_s)]}

    assert findings[check].verdict == verdict and words in findings[check].detail
    assert bool(findings[check].fix) == (verdict != "ok")


@pytest.mark.parametrize(("years", "words"), [(-56, "earlier than"), (10, "years after everything known")])
def test_a_clock_that_is_certainly_wrong_is_told_and_nothing_is_judged_by_it(home, joined, years, words):
    """Else a lost RTC battery would be told as a CA that ended: make a new mesh."""
    now_s = time.time()
    findings = {each.check: each for each in doctor.examine(home, now_s=now_s + years * 365 * DAY_S)}

    assert findings["clock"].verdict == "warn" and words in findings["clock"].detail
    assert findings["clock"].fix
    for check in ("certificate", "issuing CA", "root", "roster"):
        assert findings[check].verdict == "ok", findings[check]
    known_s = doctor.surely_passed_s(home)
    assert doctor.clock(known_s - 60, known_s).verdict == "ok", "the gateway's clock may be a little ahead"


def test_a_roster_without_this_member_is_a_failure(home, joined):
    authority, _ = joined
    other = MemberKey(bytes(32), bytes(32), 0)
    KeyStore(home.keys).save_roster(authority.sign_roster(draft(int(time.time()), Member("pi-1", (other,)))))

    (finding,) = doctor.roster(home, time.time())

    assert finding.failed and finding.fix


def test_a_damaged_roster_is_a_failure(home, joined):
    file = home.keys / "roster.cose"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    (finding,) = doctor.roster(home, time.time())
    assert finding.failed and "does not verify" in finding.detail

    file.unlink()
    (finding,) = doctor.roster(home, time.time())
    assert finding.failed and "keeps none" in finding.detail


def test_the_brokers_certificate_is_examined_on_a_gateway(home, joined):
    authority, _ = joined
    assert gateway_doctor.broker_certificate(home, time.time()) == []
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    leaf = authority.issue_broker(key.public_key(), now_s=int(time.time()))
    KeyStore(home.keys).save_broker(key, leaf_pem=leaf, issuing_pem=authority.issuing_pem)

    told = []
    for days in (0, 40, 91):
        (finding,) = gateway_doctor.broker_certificate(home, time.time() + days * DAY_S)
        told.append((finding.verdict, bool(finding.fix)))
    assert told == [("ok", False), ("warn", True), ("fail", True)]
    (home.keys / "broker.pem").write_text("x")
    (finding,) = gateway_doctor.broker_certificate(home, time.time())
    assert finding.failed and "holds no certificate" in finding.detail


def test_a_damaged_ledger_is_told_from_a_sound_one(home):
    assert doctor.ledger(home).verdict == "ok"
    with sqlite3.connect(home.ledger) as opened:
        opened.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB)")
        opened.executemany("INSERT INTO records (body) VALUES (?)", [(os.urandom(2000),) for _ in range(50)])
    opened.close()
    assert "sound" in doctor.ledger(home).detail

    data = bytearray(home.ledger.read_bytes())
    data[4096:8192] = bytes(4096)
    home.ledger.write_bytes(data)
    assert doctor.ledger(home).failed and "damaged" in doctor.ledger(home).detail

    home.ledger.write_bytes(b"no database at all" * 300)
    assert doctor.ledger(home).failed and "saves what can be read" in doctor.ledger(home).fix


# -- what the daemon says ------------------------------------------------------------------------------

HEALTHY = {
    "broker": {"connected": True, "address": "127.0.0.1:8883"},
    "roster": {"version": 3, "stale": False},
    "ledger": {"damaged": []},
    "tasks": {"store_full": False},
    "stories": {"roster fork": 0},
    "group": {"epoch": 4, "issued_at_ms": 1_000_000_000},
    "state": {
        "keys": 12, "bytes": 700, "log_bytes": 300, "conflicts": 0, "quarantined": 0,
        "members_behind": ["pi-2"], "clock": {"trusted": "gateway", "members": 1, "skew_ms": -40},
    },
}  # fmt: skip
NOW_S = 1_000_000 + 3600.0


def tables(**change):
    return {"state": HEALTHY["state"] | change}


def clock(skew_ms, trusted="gateway", members=1):
    return {"trusted": trusted, "members": members, "skew_ms": skew_ms}


@pytest.mark.parametrize(
    ("change", "check", "verdict", "words"),
    [
        ({"broker": {"connected": False}}, "link", "fail", "not connected"),
        ({"roster": {"version": 3, "stale": True}}, "roster", "warn", "not signed again for a week"),
        ({"stories": {"roster fork": 2}}, "history", "fail", "2 × two rosters of one version"),
        ({"stories": {"catalogue fork": 1}}, "history", "fail", "two entries of one version"),
        ({"stories": {"bundle changed on disk": 1}}, "history", "warn", "code changed on disk"),
        ({"ledger": {"damaged": ["set aside as x"]}}, "ledger", "fail", "set aside as x"),
        ({"tasks": {"store_full": True}}, "store", "fail", "new tasks are refused"),
        ({"group": {"epoch": 4, "issued_at_ms": 0}}, "group", "warn", "epoch 4"),
        (tables(conflicts=3), "tables", "warn", "3 × two members wrote a field"),
        (tables(quarantined=2), "tables", "warn", "2 batches of writes are kept apart"),
        (tables(counts={"diverged": 1}), "tables", "warn", "1 × another member knew the same"),
        (tables(log_bytes=9 << 20), "tables", "warn", "9.0 MiB of writes are kept for pi-2"),
        (tables(log_bytes=64 << 20), "tables", "fail", "nothing more is written"),
        (tables(keys=95_000), "tables", "warn", "95000 keys, 0.0 MiB of at most 100000 keys and 32 MiB"),
        (tables(bytes=30 << 20), "tables", "warn", "12 keys, 30.0 MiB of at most"),
        (tables(clock=clock(6_000)), "skew", "warn", "our clock is 6.0 s ahead of the gateway's"),
        (tables(clock=clock(-90_000)), "skew", "warn", "our clock is 90.0 s behind the gateway's"),
        (
            tables(clock=clock(61_000, "median", 3)),
            "skew",
            "fail",
            "61.0 s ahead of the median of 3 members: others would keep our writes apart",
        ),
        ({"wire": {"refused": {"topic version '2', …": 3}}}, "wire", "fail", "3 × topic version '2'"),
        ({"wire": {"unsupported": 5}}, "wire", "warn", "5 messages of kinds"),
        ({"versions": {"pi-3": "0.0.1"}}, "versions", "warn", "elsewhere pi-3 0.0.1"),
    ],
)
def test_trouble_that_the_daemon_knows_of_is_told_with_its_fix(change, check, verdict, words):
    assert all(each.verdict == "ok" for each in doctor.of_status(HEALTHY, NOW_S))

    found = doctor.of_status(HEALTHY | change, NOW_S)

    (finding,) = [each for each in found if each.verdict != "ok"]
    assert (finding.check, finding.verdict) == (check, verdict)
    assert words in finding.detail and finding.fix


def test_a_clock_that_nobody_can_be_compared_with_is_no_trouble():
    alone = doctor.of_status(HEALTHY | tables(clock=clock(None, "none", 2)), NOW_S)

    (finding,) = [each for each in alone if each.check == "skew"]
    assert finding.verdict == "ok" and "three members" in finding.detail


def test_the_gateways_own_clock_is_what_others_are_held_against():
    (finding,) = [
        each for each in doctor.of_status(HEALTHY | {"node": "gateway"}, NOW_S) if each.check == "skew"
    ]
    assert (finding.verdict, finding.detail) == ("ok", "the mesh goes by this gateway's clock")


def test_who_lacks_writes_is_named_without_alarm():
    (finding,) = [each for each in doctor.of_status(HEALTHY, NOW_S) if each.check == "tables"]

    assert finding.detail == "12 keys, 0.0 MiB; not all of it is at pi-2 yet"


def test_what_an_older_daemon_does_not_tell_is_not_judged():
    assert [each.check for each in doctor.of_status({"broker": {"connected": True}}, NOW_S)] == ["link"]


def test_members_with_other_software_are_named():
    told = {"gateway": "0.2.0", "pi-1": "0.2.0", "pi-2": ""}
    assert [each.verdict for each in doctor.versions(told, ours="0.2.0")] == ["ok"]

    (differing,) = doctor.versions(told | {"pi-3": "0.1.0"}, ours="0.2.0")

    assert differing.verdict == "warn" and "here 0.2.0, elsewhere pi-3 0.1.0" in differing.detail
    assert doctor.versions({"pi-1": ""}) == []


def test_every_finding_has_its_row_in_the_manual():
    """The names that the code gives to findings are those of the table."""
    root = Path(__file__).resolve().parents[3]
    sources = [root / name for name in ("edge_node/doctor.py", "edge_node/probes.py", "gateway/doctor.py")]
    code = {name for file in sources for name in re.findall(r'Finding\(\s*"([\w ]+)"', file.read_text())}
    code |= {"issuing CA", "root", "joining port", "broker port"}  # named by their caller
    table = (root / "docs/operating.md").read_text().split("<!-- doctor:")[1].split("<!-- end -->")[0]

    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted(code)
