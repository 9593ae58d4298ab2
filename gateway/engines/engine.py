"""Engine: where work runs behind the gateway, seen by the desk as one more set of workers.

The port is `edge_node.functions.runtimes.Runtime` (start, cancel, run; completions through callbacks)
and what placement wants to know of it. Heavy engines are extras, each imported only in its own file.
"""

from __future__ import annotations

from typing import Protocol

from edge_node.functions.runtimes.runtime import Runtime


class Engine(Runtime, Protocol):
    """A runtime with a name and a price."""

    @property
    def name(self) -> str: ...

    @property
    def start_up_s(self) -> float:
        """Seconds from the first call to the first running function, when cold."""

    @property
    def price_per_cpu_s(self) -> float:
        """In the operator's currency; 0 where the machine is paid for anyway."""
