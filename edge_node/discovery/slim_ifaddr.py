"""ifaddr without ``ctypes.util``, which it imports to find libc and never asks again.

That module brings tempfile, shutil, bz2 and lzma, 0.5 MB of a node's 50, and finds libc by running
``ldconfig`` in a process of its own, at every start. The C library is what this interpreter is linked with:
``CDLL(None)``. A process that has imported ``ctypes.util`` already keeps it.
"""

from __future__ import annotations

import ctypes

from edge_node.stand_ins import Later, lent


def _find_library(name: str) -> None:
    """None: what this process has loaded."""


if hasattr(ctypes, "util"):
    import ifaddr
else:
    _util = Later("ctypes.util", find_library=_find_library)
    ctypes.util = _util
    try:
        with lent(_util):
            import ifaddr
    finally:
        del ctypes.util

__all__ = ["ifaddr"]
