"""A delay box: what netem does, in userspace, for kernels without that queue.

    port0 ──▶ frames held in a heap for DELAY ± JITTER ──▶ plug0        (a host's cable and the bridge's)
    port0 ◀── at once ◀────────────────────────────────── plug0

    python delay.py 20 0 port0:plug0 port1:plug1        milliseconds; root, in the switch's namespace

One process for all cables; it says `ready`, and runs until it is ended. Sockets of AF_PACKET carry whole
frames with their virtio header, so partial checksums and segmentation offload pass through as they came and
TCP needs no `ethtool -K`. A frame is delayed on its way from a host only: once a direction, as by netem.

Standard library alone: it is run as a file, without this package. Not here: the interfaces (``network``).
"""

from __future__ import annotations

import contextlib
import heapq
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FRAMES_MAX: Final = 1000
"""Held on one cable, as netem's own limit: a real queue drops as well when it is full."""
FRAME_BYTES_MAX: Final = 10 + 14 + 65_536  # virtio header, Ethernet header, the largest offloaded segment
READ_AT_ONCE: Final = 64  # frames of one interface before another's turn
BUFFER_BYTES: Final = 4 * 1024 * 1024

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_VNET_HDR: Final = 15
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_RCVBUFFORCE: Final = 33


class Line:
    """One direction of a cable: frames come out when their time has come. Pure; nanoseconds.

    Jitter may change their order, as netem's does; of equal times the first in is the first out.
    """

    def __init__(self, delay_ns: int, jitter_ns: int, rng: random.Random) -> None:
        self.delay_ns = delay_ns
        self.jitter_ns = min(jitter_ns, delay_ns)
        self.dropped = 0
        self._rng = rng
        self._held: list[tuple[int, int, bytes]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, now_ns: int, frame: bytes) -> bool:
        """Is there room for it? Dropped otherwise."""
        if len(self._held) >= FRAMES_MAX:
            self.dropped += 1
            return False
        self._count += 1
        due_ns = now_ns + self.delay_ns + self._rng.randint(-self.jitter_ns, self.jitter_ns)
        heapq.heappush(self._held, (due_ns, self._count, frame))
        return True

    def take(self, now_ns: int) -> list[bytes]:
        """Those whose time has come."""
        due = []
        while self._held and self._held[0][0] <= now_ns:
            due.append(heapq.heappop(self._held)[2])
        return due

    def deadline_ns(self) -> int | None:
        return self._held[0][0] if self._held else None


@dataclass(slots=True)
class _Way:
    """From one interface to another."""

    line: Line
    source: socket.socket
    target: socket.socket

    def read(self) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                frame = self.source.recv(FRAME_BYTES_MAX)
            except OSError:  # nothing more, or the link is down
                return
            self.line.put(time.monotonic_ns(), frame)

    def write(self) -> None:
        for frame in self.line.take(time.monotonic_ns()):
            with contextlib.suppress(OSError):  # full or down: lost, as on a cable
                self.target.send(frame)


def tap(interface: str) -> socket.socket:
    """Everything that arrives there; what we write goes out there. Raises: OSError: no such interface."""
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    one.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    one.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    one.bind((interface, _ETH_P_ALL))
    return one


def main(arguments: Sequence[str]) -> None:
    """Args: delay and jitter in ms, then cables as host side:bridge side."""
    delay_ns, jitter_ns = (int(word) * 1_000_000 for word in arguments[:2])
    rng = random.Random()
    ways: dict[int, _Way] = {}
    poll = select.epoll()
    for cable in arguments[2:]:
        host, bridge = map(tap, cable.split(":"))
        for source, target, line in (
            (host, bridge, Line(delay_ns, jitter_ns, rng)),
            (bridge, host, Line(0, 0, rng)),
        ):
            ways[source.fileno()] = _Way(line, source, target)
            poll.register(source, select.EPOLLIN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        due = [at for way in ways.values() if (at := way.line.deadline_ns()) is not None]
        wait_s = (
            max(0.0, (min(due) - time.monotonic_ns()) / 1e9) if due else -1
        )  # rounded up to ms: never early
        for number, _ in poll.poll(wait_s):
            ways[number].read()
        for way in ways.values():
            way.write()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
