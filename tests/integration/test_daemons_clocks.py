"""Whole daemons on machines whose clock lies: 1970, as without an RTC, and ten years ahead.

What is promised: `docs/operating.md`, "Clocks".
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from tests.support.daemons import Bed, Daemon, until
from tests.support.links import free_port
from tests.support.lying_clock import FAKETIME, memory_swept, set_clock

IN_1970_S = 2 * 86400 - int(time.time())  # it is 3 January 1970 there
TEN_YEARS_S = 10 * 365 * 86400

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mosquitto,
    pytest.mark.timeout(240),
    pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed"),
    pytest.mark.usefixtures("swept"),
]
swept = pytest.fixture(memory_swept)


def is_fooled(daemon: Daemon, ahead_s: int) -> bool:
    """Whether what it logged last, by its own clock, bears that clock's time."""
    line = (daemon.home.logs / "daemon.log").read_text().splitlines()[-1]
    at = datetime.fromisoformat(json.loads(line)["at"]).replace(tzinfo=UTC)
    return abs(at.timestamp() - time.time() - ahead_s) < 3600


def keys_of(gateway: Daemon, name: str) -> list[str]:
    roster = gateway.ask(lambda mesh: mesh.call("roster"))
    (member,) = [m for m in roster["members"] if m["id"] == name]
    return member["keys"]


def both_up(gateway: Daemon, node: Daemon) -> None:
    node.connected()
    gateway.until(f"{node.name} is up", lambda s: node.name in s["peers_up"])


def adds(bed: Bed, daemon: Daemon, *places: str) -> None:
    for where in places:
        total = daemon.ask(lambda mesh, there=where: mesh.run("toys.add", 2, 3, where=there, ttl_s=60))
        assert total == 5, (daemon.name, where)


def renews(bed: Bed, gateway: Daemon, node: Daemon) -> None:
    before = keys_of(gateway, node.name)
    told = bed.cli(node, "renew")
    assert told.code == 0, told
    assert keys_of(gateway, node.name)[0] not in before


def has_one_key(gateway: Daemon, node: Daemon) -> None:
    """The former ones went once the new one was in use."""
    until(f"{node.name} has one key", lambda: len(keys_of(gateway, node.name)) == 1)
    both_up(gateway, node)


def found(bed: Bed, daemon: Daemon) -> dict[str, dict[str, str]]:
    """Doctor's findings by their names, the worst of each."""
    told = bed.cli(daemon, "doctor", "--json")
    rows = sorted(
        json.loads(told.out)["findings"], key=lambda row: ("ok", "warn", "fail").index(row["verdict"])
    )
    return {row["check"]: row for row in rows}


def test_a_node_in_1970_and_then_ten_years_ahead_joins_works_and_renews(tmp_path):
    with Bed(tmp_path, broker="mosquitto") as bed:
        gateway = bed.gateway().start()
        assert bed.cli(gateway, "deploy", str(bed.toys)).code == 0
        node = set_clock(bed.node("pi-1"), IN_1970_S)
        told = bed.cli(node, "join", bed.cli(gateway, "invite").text, "--name", "pi-1", "--mdns", "none")
        assert told.code == 0, told

        for ahead_s in (IN_1970_S, TEN_YEARS_S):
            set_clock(node, ahead_s).start().connected().knows("toys.add")
            assert is_fooled(node, ahead_s)
            both_up(gateway, node)
            adds(bed, gateway, "pi-1")
            adds(bed, node, "gateway", "local")
            renews(bed, gateway, node)
            findings = found(bed, node.timed())
            assert findings["clock"]["verdict"] == "warn" and findings["gateway clock"]["verdict"] == "fail"
            assert findings["skew"]["verdict"] == ("fail" if ahead_s > 0 else "warn")
            others = [
                each for name, each in findings.items() if name not in ("clock", "gateway clock", "skew")
            ]
            assert {each["verdict"] for each in others} <= {"ok", "warn"}
            assert findings["certificate"]["verdict"] == findings["issuing CA"]["verdict"] == "ok"
            has_one_key(gateway, node)
            if ahead_s == IN_1970_S:
                assert node.term().code == 0
        set_clock(node, 0)  # by NTP, while the daemon runs
        renews(bed, gateway, node)
        adds(bed, gateway, "pi-1")
        assert found(bed, node)["clock"]["verdict"] == "ok"


def house(bed: Bed) -> tuple[Daemon, Daemon]:
    """As ``Bed.pair``, on ports that stay; the toys have run on the node, so it needs nobody for them."""
    listen = ("--listen", "127.0.0.1", "--port", str(free_port()), "--broker-port", str(free_port()))
    gateway = set_clock(bed.gateway(*listen, "--broker", bed.broker, "--mdns", "none"), 0).start()
    node = bed.join("pi-1").start()
    assert bed.cli(gateway, "deploy", str(bed.toys)).code == 0
    node.connected().knows("toys.add")
    both_up(gateway, node)
    adds(bed, node, "local")
    return gateway, node


def test_a_gateway_that_wakes_in_1970_goes_on_at_the_time_it_knew_and_says_so(tmp_path):
    """No RTC, no network time yet. The embedded broker does not judge dates by such a clock."""
    with Bed(tmp_path, broker="embedded") as bed:
        gateway, node = house(bed)
        gateway.term()
        set_clock(gateway, IN_1970_S).start()
        both_up(gateway, node)
        adds(bed, gateway, "pi-1")
        renews(bed, gateway, node)
        newcomer = bed.join("pi-2").start().connected().knows("toys.add")
        adds(bed, newcomer, "gateway", "pi-1")

        assert "clock says 1970-01-03" in gateway.ask(lambda mesh: mesh.status())["clock"]
        findings = found(bed, gateway)
        assert findings["clock"]["verdict"] == "warn" and "1970-01-03" in findings["clock"]["detail"]
        for check in ("certificate", "issuing CA", "roster", "link", "broker", "broker cert"):
            assert findings[check]["verdict"] == "ok", findings[check]

        set_clock(gateway, 0)
        renews(bed, gateway, newcomer)
        has_one_key(gateway, node)
        adds(bed, gateway, "pi-1", "pi-2")
        assert "clock" not in gateway.ask(lambda mesh: mesh.status())
        assert found(bed, gateway)["clock"]["verdict"] == "ok"


def test_a_gateway_ten_years_ahead_warns_and_goes_on_once_its_clock_is_set(tmp_path):
    """mosquitto lets nobody in by that clock; nothing is signed by it, so setting it is all it takes."""
    with Bed(tmp_path, broker="mosquitto") as bed:
        gateway, node = house(bed)
        gateway.term()
        set_clock(gateway, TEN_YEARS_S).start()

        assert "years after everything known" in gateway.ask(lambda mesh: mesh.status())["clock"]
        assert "years after everything known" in (gateway.home.logs / "daemon.log").read_text()
        findings = found(bed, gateway)
        assert "set it" in findings["clock"]["fix"]
        assert "new mesh" not in json.dumps(findings), "nothing is lost, and nobody is told so"
        newcomer = bed.join("pi-2")
        adds(bed, node, "local")
        adds(bed, gateway, "local")

        set_clock(gateway, 0)  # by NTP: no restart
        newcomer.start().connected().knows("toys.add")
        both_up(gateway, node)
        adds(bed, gateway, "pi-1", "pi-2")
        renews(bed, gateway, node)
        assert "clock" not in gateway.ask(lambda mesh: mesh.status())
        assert found(bed, gateway)["clock"]["verdict"] == "ok"
