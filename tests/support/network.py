"""The hosts of `examples.hosts`, for tests: they skip, with the reason, where there can be none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from examples.hosts.network import Network as Hosts
from examples.hosts.network import ip, lacking

__all__ = ["Network", "ip", "needs_namespaces"]


def needs_namespaces() -> None:
    reason = lacking()
    if reason:
        pytest.skip(reason)


class Network(Hosts):
    def __init__(self, hosts: Sequence[str]) -> None:
        needs_namespaces()
        super().__init__(hosts)
