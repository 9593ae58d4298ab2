"""Leaving a mesh: the gateway is told, the daemon stops, the keys are removed. In this order.

A running daemon tells the gateway in a sealed message; without one the gateway's joining port is told, in a
message that the member's key signs. Where neither is reached, the home forgets its keys all the same, and the
member list keeps the name until an operator revokes it: nobody can say it for this home any more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from typing import Final

from cryptography.x509.oid import NameOID

from edge_node.client import Mesh
from edge_node.control.server import answers
from edge_node.home import Home
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable
from security.keystore import KeyStore

STOP_S_MAX: Final = 20.0  # the daemon drains for up to 10 s
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Left:
    node: str
    told: bool  # the gateway took note, or knew already


def leave(home: Home) -> Left:
    """Forget the mesh; the gateway takes note if it is reached.

    Raises: BadInput: not a member. Refused: a gateway's home. Unavailable: the daemon does not stop.
    """
    if not (home.keys / "identity.pem").exists():
        raise BadInput(f"{home.path} has not joined a mesh", fix="there is nothing to leave")
    if (home.keys / "issuing.pem").exists():
        raise Refused(
            "a gateway cannot leave its own mesh", fix="stop it, and remove its home to end the mesh"
        )
    store = KeyStore(home.keys)
    node, told = _node_of(store), False
    if answers(home.socket):
        pid, told = asyncio.run(_tell(home))
        _stop(home, pid)
    with home.hold():
        told = told or _tell_the_door(store)
        store.forget_identity()
    return Left(node, told)


def _node_of(store: KeyStore) -> str:
    """This node's name; "this node" where its identity cannot be read: that is no reason to keep it."""
    try:
        identity = store.identity()
    except EdgeweaveError:
        return "this node"
    assert identity is not None, "looked for above"
    (name,) = identity.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def _tell_the_door(store: KeyStore) -> bool:
    from edge_node import joining  # it and mDNS take 0.1 s, which every other command would pay

    try:
        asyncio.run(joining.leave(store))
    except Refused:  # revoked or replaced: it was off the list before
        return True
    except (EdgeweaveError, OSError):
        return False
    return True


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
