"""Abilities: which software a member is, and which modules that functions require it does not have.

A shell: ``look`` searches the interpreter's paths, so it runs in a thread, when the catalogue has changed.
What others say of themselves (``About``) is kept here for people; the desk is told it as it comes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from edge_node.wire.messages import About

DISTRIBUTION = "edgeweave"
LACKS_MAX = 256  # what the message carries; a catalogue that requires more is told about in part


@cache
def own_version() -> str:
    """Of the installed distribution, or "" where there is none.

    From the folder's name, as `importlib.metadata` finds it; importing that would cost a node a megabyte.
    Looked for once: what this process runs does not change, whatever is installed meanwhile.
    """
    for folder in sys.path:
        for found in Path(folder or ".").glob(f"{DISTRIBUTION}-*.dist-info"):
            return found.name.removesuffix(".dist-info").partition("-")[2]
    return ""


def missing(modules: Iterable[str]) -> list[str]:
    """Those of *modules* (as one imports them) that are not installed here, by name.

    Only the top-level package of a dotted name is looked for: to look further would import it here.
    """
    importlib.invalidate_caches()
    found: dict[str, bool] = {}
    for module in modules:
        top = module.partition(".")[0]
        if top not in found:
            try:
                found[top] = importlib.util.find_spec(top) is not None
            except (ImportError, ValueError):
                found[top] = False
    return sorted({module for module in modules if not found[module.partition(".")[0]]})


class Abilities:
    """Ours, and what peers told of theirs; bounded by the roster (``keep_only``)."""

    def __init__(self) -> None:
        self.own = About(own_version(), ".".join(map(str, sys.version_info[:3])))
        self._told: dict[str, About] = {}

    def look(self, requires: Iterable[str]) -> About | None:
        """What we are now, if that changed. Blocking: a few milliseconds a module that is new."""
        lacks = missing(sorted(set(requires)))[:LACKS_MAX]
        return None if lacks == self.own.lacks else msgspec.structs.replace(self.own, lacks=lacks)

    def heard(self, peer: str, about: About) -> None:
        self._told[peer] = about

    def versions(self) -> dict[str, str]:
        """By name, of those that told theirs."""
        return {peer: self._told[peer].version for peer in sorted(self._told)}

    def lacks_of(self, peer: str) -> list[str] | None:
        """None: it told nothing."""
        about = self._told.get(peer)
        return None if about is None else about.lacks

    def keep_only(self, members: frozenset[str]) -> None:
        for peer in [peer for peer in self._told if peer not in members]:
            del self._told[peer]
