"""Both sides of a TLS connection: identities of any shape, and a listening side that notes what it saw."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from security.authority import Authority
from security.certificates import build_leaf, pem_of
from security.identity import NodeKeys
from security.keystore import KeyStore

ANSWER = b"hello, member\n"


def store_of_a(
    folder: Path,
    mesh: Authority,
    name: str,
    *,
    usages: Iterable[str] = ("client",),
    now_s: int = 0,
    days: int = 30,
) -> KeyStore:
    """A store whose identity *mesh* has signed for these usages, *days* from *now_s* (0: now) on."""
    store = KeyStore(folder / f"{os.urandom(4).hex()}-{name}")
    keys = NodeKeys.generate()
    leaf = build_leaf(
        keys.public, issuing=mesh.issuing, issuing_key=mesh.issuing_key, mesh_id=mesh.mesh_id, node_id=name,
        usages=frozenset(usages), now_s=now_s or int(time.time()), serial=os.urandom(16), days=days,
    )  # fmt: skip
    store.save_identity(keys, leaf_pem=pem_of(leaf), issuing_pem=mesh.issuing_pem)
    return store


@dataclass
class Met:
    """What a listening side saw."""

    peers: list[bytes | None] = field(default_factory=list)  # leaf DER of those it accepted
    received: list[bytes] = field(default_factory=list)


class Listening:
    """Accepts, notes the peer, reads one line, answers one line."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context, self.met = context, Met()

    async def __aenter__(self) -> Listening:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met.peers.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        try:
            self.met.received.append(await reader.readline())
            writer.write(ANSWER)
            await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
