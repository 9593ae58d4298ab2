"""Explained (P8): everything carries a cause that leads to its story. Its subject does not exist yet."""

from __future__ import annotations

from device_sim.virtual.evidence import End, Event, Verdict


class Explained:
    name = "everything is explained"
    promise = "P8"
    wants: tuple[type, ...] = ()

    def saw(self, event: Event) -> None:
        """Nothing that happens bears on it."""

    def verdict(self, end: End) -> Verdict:
        why = "records carry a sentence for people, but no cause id that could be followed yet"
        return Verdict(self.name, self.promise, "not applicable", why=why)
