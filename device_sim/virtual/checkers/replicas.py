"""Replicas (P4): those that have exchanged everything are equal. Their subject does not exist yet."""

from __future__ import annotations

from device_sim.virtual.evidence import End, Event, Verdict


class Replicas:
    name = "replicas are equal"
    promise = "P4"
    wants: tuple[type, ...] = ()

    def saw(self, event: Event) -> None:
        """Nothing that happens bears on it."""

    def verdict(self, end: End) -> Verdict:
        why = "members replicate no tables yet: a document lives at the node that wrote it"
        return Verdict(self.name, self.promise, "not applicable", why=why)
