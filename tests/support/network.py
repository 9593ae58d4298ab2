"""Hosts as network namespaces, on a switch that is a namespace too: no packet can leave them.

    with Network(["gw", "dev"]) as network:
        network.prefix("gw")        # command words that run a program on that host
        network.address("gw")       # 10.77.0.1

Needs root. A bridge lives in the switch's namespace, veth pairs go from it into every host; none of them
has an uplink or a default route, so real mDNS may be spoken with default flags.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def ip(*words: str) -> None:
    done = subprocess.run(
        [shutil.which("ip", path=PATH) or "ip", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def needs_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces)")
    if not shutil.which("ip", path=PATH):
        pytest.skip("ip is not installed")
    name = f"ewt{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "trial", "type", "bridge")
    except OSError as error:
        pytest.skip(f"this machine allows no network namespaces: {error}")
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False, env={"PATH": PATH})


class Network:
    """Some hosts and their switch, while the block lasts."""

    def __init__(self, hosts: Sequence[str]) -> None:
        needs_namespaces()
        self.mark = f"ew{os.getpid()}"
        self.hosts = list(hosts)
        self.switch = f"{self.mark}-switch"

    def name(self, host: str) -> str:
        return f"{self.mark}-{host}"

    def address(self, host: str) -> str:
        return f"10.77.0.{1 + self.hosts.index(host)}"

    def prefix(self, host: str) -> list[str]:
        """`ip netns exec` replaces itself by the program, so a pid stays a pid."""
        return [shutil.which("ip", path=PATH) or "ip", "netns", "exec", self.name(host)]

    def __enter__(self) -> Network:
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            ip("-n", self.switch, "link", "set", "br0", "up")
            for number, host in enumerate(self.hosts):
                name, port = self.name(host), f"port{number}"
                ip("netns", "add", name)
                ip(
                    "-n",
                    self.switch,
                    "link",
                    "add",
                    port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    name,
                )
                ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
                ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except OSError:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def cut(self, host: str, *, whole: bool) -> None:
        """Pull this host's cable, or put it back."""
        port = f"port{self.hosts.index(host)}"
        ip("-n", self.switch, "link", "set", port, "up" if whole else "down")

    def close(self) -> None:
        for name in [*map(self.name, self.hosts), self.switch]:
            subprocess.run(
                ["ip", "netns", "delete", name], capture_output=True, check=False, env={"PATH": PATH}
            )
