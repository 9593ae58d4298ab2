"""Hosts as network namespaces, on a switch that is a namespace too: no packet can leave them.

    with Network(["gw", "dev"]) as network:
        network.prefix("gw")                      # command words that run a program on that host
        network.address("gw")                     # 10.77.0.1
        network.weather(loss_percent=5)           # on every cable
        network.split(["dev"]); network.heal()    # dev reaches nobody, nobody reaches dev

Needs root. A bridge lives in the switch's namespace, veth pairs go from it into every host; none of them has
an uplink or a default route, so real mDNS may be spoken with default flags.

Loss and partitions are rules of the bridge (nft), bandwidth is a token bucket at both ends of each cable
(tc tbf). Delay is netem's; on a kernel without that queue a process of ours (``delay``) stands between each
cable and the bridge: port0 leaves the bridge, a veth pair takes its place.

    host: eth0 ── port0 ═ delay box ═ plug0 ── wire0 :bridge

Nothing stays behind: a guard, a shell in a session of its own, waits for our end, however it comes, and
removes these namespaces and whatever still runs in them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from security.errors import BadInput, Unavailable

PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
HOSTS_MAX: Final = 200  # addresses 10.77.0.1 to .200
_GUARD: Final = (
    'cat > /dev/null; for name in "$@"; do '
    'for pid in $(ip netns pids "$name" 2> /dev/null); do kill -9 "$pid" 2> /dev/null; done; '
    'ip netns delete "$name" 2> /dev/null; done'
)
_TABLE: Final = "bridge weather"
_BOX: Final = Path(__file__).with_name("delay.py")


def run(*words: str) -> str:
    """What the command says. Raises: OSError: it failed; its own words."""
    program = shutil.which(words[0], path=PATH)
    if program is None:
        raise OSError(f"{words[0]} is not installed")
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def ip(*words: str) -> str:
    return run("ip", *words)


def lacking() -> str:
    """Why this machine cannot have such hosts; "" if it can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    if not shutil.which("ip", path=PATH):
        return "ip is not installed"
    name = f"ewt{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "trial", "type", "bridge")
    except OSError as error:
        return f"this machine allows no network namespaces: {error}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, env={"PATH": PATH})
    return ""


class Network:
    """Some hosts and their switch, while the block lasts."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Raises: Unavailable: this machine cannot have them. BadInput: none, or too many."""
        if not 1 <= len(hosts) <= HOSTS_MAX:
            raise BadInput(f"{len(hosts)} hosts", fix=f"choose 1 to {HOSTS_MAX}")
        reason = lacking()
        if reason:
            raise Unavailable(reason, fix="run it as root on Linux with the package iproute2")
        self.mark = f"ew{os.getpid()}"
        self.hosts = list(hosts)
        self.switch = f"{self.mark}-switch"
        self._guard: subprocess.Popen[bytes] | None = None
        self._box: subprocess.Popen[bytes] | None = None

    def name(self, host: str) -> str:
        return f"{self.mark}-{host}"

    def port(self, host: str) -> str:
        return f"port{self.hosts.index(host)}"

    def address(self, host: str) -> str:
        return f"10.77.0.{1 + self.hosts.index(host)}"

    def prefix(self, host: str) -> list[str]:
        """`ip netns exec` replaces itself by the program, so a pid stays a pid."""
        return [shutil.which("ip", path=PATH) or "ip", "netns", "exec", self.name(host)]

    @property
    def namespaces(self) -> list[str]:
        return [*map(self.name, self.hosts), self.switch]

    def __enter__(self) -> Network:
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", *self.namespaces],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": PATH}, start_new_session=True,
        )  # fmt: skip
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            ip("-n", self.switch, "link", "set", "br0", "up")
            for host in self.hosts:
                self._plug_in(host)
        except OSError:
            self.close()
            raise
        return self

    def _plug_in(self, host: str) -> None:
        name, port = self.name(host), self.port(host)
        ip("netns", "add", name)
        veth = ["type", "veth", "peer", "name", "eth0", "netns", name]
        ip("-n", self.switch, "link", "add", port, *veth)
        ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
        ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what we made. Processes in it keep their namespace alive; ending them is their owner's."""
        self._end_box()
        for name in self.namespaces:
            subprocess.run(
                ["ip", "netns", "delete", name], capture_output=True, check=False, env={"PATH": PATH}
            )
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(10)
            self._guard = None

    # ── what happens to cables ────────────────────────────────────────────────────────────────────

    def cut(self, host: str, *, whole: bool) -> None:
        """Pull this host's cable, or put it back. Both sides see the link go."""
        ip("-n", self.switch, "link", "set", self.port(host), "up" if whole else "down")

    def split(self, apart: Sequence[str]) -> None:
        """These hosts reach each other and nobody else; no side sees its link go."""
        self._bridge(
            "add chain bridge weather split { type filter hook forward priority 0; }",
            "flush chain bridge weather split",
        )
        ours = ", ".join(f'"{port}", "{_wire(port)}"' for port in map(self.port, apart))
        for one, other in (("iifname", "oifname"), ("oifname", "iifname")):
            self._bridge(f"add rule bridge weather split {one} {{ {ours} }} {other} != {{ {ours} }} drop")

    def heal(self) -> None:
        self._bridge("flush chain bridge weather split")

    def weather(
        self, *, loss_percent: int = 0, bandwidth: str = "", delay_ms: int = 0, jitter_ms: int = 0
    ) -> list[str]:
        """The same on every cable, replacing what was. What this kernel cannot do, in words.

        Args: bandwidth: as tc says it, "10mbit"; delay_ms: added once in each direction, that is to what a
            host sends, give or take jitter_ms.
        Raises: BadInput: a value that nft or tc does not take. Unavailable: the delay box does not start.
        """
        self._unplug_box()
        missing = []
        try:
            self._bridge(
                "add chain bridge weather loss { type filter hook forward priority 1; }",
                "flush chain bridge weather loss",
            )
            if loss_percent:
                self._bridge(
                    f"add rule bridge weather loss numgen random mod 100 < {loss_percent} counter drop"
                )
        except OSError as error:
            if not loss_percent:
                pass  # nothing was asked of it
            elif "not installed" in str(error):
                missing.append("loss: nft is not installed")
            else:
                raise BadInput(f"loss of {loss_percent} %: {error}", fix="choose 0 to 99") from None
        has_netem = True
        for host in self.hosts:
            ends = (self.name(host), "eth0"), (self.switch, self.port(host))
            for netns, device in ends:
                parent = self._shape(netns, device, bandwidth, missing)
                if delay_ms and netns != self.switch and has_netem:
                    has_netem = _netem(netns, device, parent, delay_ms, jitter_ms)
        if delay_ms and not has_netem:
            self._plug_box(delay_ms, jitter_ms)
        return list(dict.fromkeys(missing))

    def lost(self) -> int:
        """Frames that the loss of this weather has dropped so far."""
        told = run("ip", "netns", "exec", self.switch, *self._nft, f"list chain {_TABLE} loss")
        return sum(map(int, re.findall(r"counter packets (\d+)", told)))

    def _shape(self, netns: str, device: str, bandwidth: str, missing: list[str]) -> list[str]:
        """Where a further queue is to be added, in tc's words."""
        tc = ["tc", "-n", netns, "qdisc"]
        subprocess.run(
            [*tc, "del", "dev", device, "root"], capture_output=True, check=False, env={"PATH": PATH}
        )
        parent = ["root", "handle", "1:"]
        if not bandwidth:
            return parent
        try:
            run(*tc, "add", "dev", device, *parent, "tbf", "rate", bandwidth, "burst", "32kbit",
                "latency", "400ms")  # fmt: skip
        except OSError as error:
            if not _is_lacking(error):
                raise BadInput(f"bandwidth {bandwidth!r}: {error}", fix="write it as 10mbit") from None
            missing.append(f"tc: {error}")
            return parent
        return ["parent", "1:1", "handle", "10:"]

    def _plug_box(self, delay_ms: int, jitter_ms: int) -> None:
        """Between every cable and the bridge. Nobody sees a link go."""
        cables = []
        for port in map(self.port, self.hosts):
            wire, plug = _wire(port), f"plug{port.removeprefix('port')}"
            ip("-n", self.switch, "link", "add", wire, "type", "veth", "peer", "name", plug)
            for device in (port, plug):  # nothing of the switch's own on the line
                ip("-n", self.switch, "link", "set", device, "addrgenmode", "none")
            ip("-n", self.switch, "link", "set", plug, "up")
            ip("-n", self.switch, "link", "set", port, "nomaster")
            ip("-n", self.switch, "link", "set", wire, "master", "br0", "up")
            cables.append(f"{port}:{plug}")
        enter = [shutil.which("ip", path=PATH) or "ip", "netns", "exec", self.switch]
        self._box = subprocess.Popen(
            [*enter, sys.executable, "-I", str(_BOX), str(delay_ms), str(jitter_ms), *cables],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._box.stdout is not None
        if self._box.stdout.readline() != b"ready\n":
            self._unplug_box()
            raise Unavailable("the delay box did not start", fix="see above; go on without --delay")

    def _unplug_box(self) -> None:
        if self._box is None:
            return
        self._end_box()
        for port in map(self.port, self.hosts):
            ip("-n", self.switch, "link", "delete", _wire(port))
            ip("-n", self.switch, "link", "set", port, "master", "br0")

    def _end_box(self) -> None:
        if self._box is not None:
            self._box.kill()  # it holds nothing but frames
            self._box.wait(10)
            assert self._box.stdout is not None
            self._box.stdout.close()
            self._box = None

    def _bridge(self, *commands: str) -> None:
        run("ip", "netns", "exec", self.switch, *self._nft, "; ".join([f"add table {_TABLE}", *commands]))

    @property
    def _nft(self) -> list[str]:
        return [shutil.which("nft", path=PATH) or "nft"]


def _wire(port: str) -> str:
    """The bridge's port in its stead while a delay box stands between."""
    return f"wire{port.removeprefix('port')}"


def _is_lacking(error: OSError) -> bool:
    return "qdisc kind is unknown" in str(error) or "not installed" in str(error)


def _netem(netns: str, device: str, parent: list[str], delay_ms: int, jitter_ms: int) -> bool:
    """Does this kernel have it? Raises: BadInput: it does, and takes no such delay."""
    try:
        run("tc", "-n", netns, "qdisc", "add", "dev", device, *parent, "netem",
            "delay", f"{delay_ms}ms", f"{jitter_ms}ms")  # fmt: skip
    except OSError as error:
        if not _is_lacking(error):
            raise BadInput(f"delay of {delay_ms} ms: {error}", fix="write it as 20ms") from None
        return False
    return True
