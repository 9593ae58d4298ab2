"""Leaving a mesh: the gateway is told, the daemon stops, the keys are removed. In this order.

The daemon tells the gateway in a sealed message, so without a running daemon nobody is told: the home forgets
its keys all the same, and the member list keeps a name that nobody can use any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Final

from edge_node.client import Mesh
from edge_node.control.server import answers
from edge_node.home import Home
from security.errors import BadInput, Refused, Unavailable
from security.keystore import KeyStore

STOP_S_MAX: Final = 20.0  # the daemon drains for up to 10 s
_LOOK_S: Final = 0.05


def leave(home: Home) -> bool:
    """Whether the gateway took note.

    Raises: BadInput: not a member. Refused: a gateway's home. Unavailable: the daemon does not stop.
    """
    if not (home.keys / "identity.pem").exists():
        raise BadInput(f"{home.path} has not joined a mesh", fix="there is nothing to leave")
    if (home.keys / "issuing.pem").exists():
        raise Refused(
            "a gateway cannot leave its own mesh", fix="stop it, and remove its home to end the mesh"
        )
    told = False
    if answers(home.socket):
        pid, told = asyncio.run(_tell(home))
        _stop(home, pid)
    with home.hold():
        KeyStore(home.keys).forget_identity()
    return told


async def _tell(home: Home) -> tuple[int, bool]:
    async with Mesh.open(home) as mesh:
        pid = int((await mesh.status())["pid"])
        answer = await mesh.call("leave")
    return pid, bool(answer.get("told")) if isinstance(answer, dict) else False


def _stop(home: Home, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    end_s = time.monotonic() + STOP_S_MAX
    while answers(home.socket):
        if time.monotonic() > end_s:
            raise Unavailable(f"the daemon (process {pid}) does not stop", fix="end it, then leave again")
        time.sleep(_LOOK_S)
    while time.monotonic() < end_s:  # its socket is gone before its lock
        try:
            with home.hold():
                return
        except Unavailable:
            time.sleep(_LOOK_S)
