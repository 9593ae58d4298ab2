"""uvicorn without its command line.

The package imports ``uvicorn.main`` for names that we never use, and with it a click command of ninety
options, the supervisors of reloading, watchfiles and multiprocessing: 1.8 MB of a gateway. Whoever asks for
one of the names after all gets the real one (``edge_node.stand_ins``).
"""

from __future__ import annotations

from edge_node.stand_ins import Later, lent, on_demand

_main = Later("uvicorn.main", pending=("Server", "main", "run"))
with lent(_main):
    import uvicorn
on_demand(uvicorn, _main)

from uvicorn import Config  # noqa: E402  after the stand-in
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: E402
from uvicorn.server import ServerState  # noqa: E402

__all__ = ["Config", "H11Protocol", "ServerState"]
