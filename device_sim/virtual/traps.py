"""Traps: what waits for an operation of a disk, and happens right before or after it.

    arm(point, nth) ── write, fsync, names … ──► at the nth that fits: spring(label, bytes)
                                                 which may end the machine: ``Dark`` leads out of its code

A machine that went dark does nothing more: whatever its code still tries on its way out meets ``Dark`` again,
until the world goes on. Not here: what it comes to (``injector``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from device_sim.virtual.world import Dark, World

if TYPE_CHECKING:
    from device_sim.virtual.disk import Disk

Spring = Callable[[str, int], None]
"""Told where ("after fsync ledger.log") and of how many bytes. May raise `Dark`."""


class _Trap:
    __slots__ = ("kind", "left", "point", "spring")

    def __init__(self, kind: str, point: str, nth: int, spring: Spring) -> None:
        self.kind = kind
        self.point = point
        self.left = nth
        self.spring = spring


class Traps:
    """Of one machine's disk; they stay armed through restarts."""

    def __init__(self, world: World, disk: Disk) -> None:
        self._world = world
        self._disk = disk
        self._armed: list[_Trap] = []
        self._dark = False

    def arm(self, kind: str, point: str, nth: int, spring: Spring) -> None:
        """Args: kind: what it is called, to disarm it.   point: ``before write`` and so on.
        nth: operation of that sort from now on, from 1."""
        assert nth >= 1, "the first one is 1"
        self._armed.append(_Trap(kind, point, nth, spring))
        self._disk.watch = self._saw

    def disarm(self, kind: str = "") -> None:
        """Those of that kind, or all."""
        self._armed = [trap for trap in self._armed if kind and trap.kind != kind]
        self._rest()

    def dark(self) -> None:
        """The machine is. Raises: Dark."""
        self._dark = True
        self._disk.watch = self._saw
        self._world.soon(self._over)
        raise Dark

    def _over(self) -> None:
        self._dark = False
        self._rest()

    def _rest(self) -> None:
        if not self._armed and not self._dark:
            self._disk.watch = None

    def _saw(self, when: str, what: str, name: str, length: int) -> None:
        if self._dark:
            raise Dark
        point = f"{when} {what}"
        sprung = []
        for trap in self._armed:
            if trap.point == point:
                trap.left -= 1
                if not trap.left:
                    sprung.append(trap)
        if not sprung:
            return
        self._armed = [trap for trap in self._armed if trap.left]
        self._rest()
        for trap in sprung:
            trap.spring(f"{point} {name}", length)
