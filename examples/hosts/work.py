"""What the hosts do: wait for a moment, as if it were computing, so that two cores can be eight hosts."""

import time

from edge_node.functions import function


@function(timeout_s=30)
def step(n: int, seconds: float = 0.05) -> int:
    """*n*, after so many seconds."""
    time.sleep(seconds)
    return n
