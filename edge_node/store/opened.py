"""A store opened in this process, without a daemon: replica, tables and requests over one cell store.

    state = OpenedState("pi-3", store, author)
    state.call("state.upsert", {"table": "rooms", "document": '{"id":"r1"}', …}) -> {"ids": […]}

The same requests and answers as over the daemon's socket, each answered before the call returns, a write
after its fsync. Nobody replicates meanwhile: this is for a home whose daemon is down, for measurements, tests
and imports. ``reading`` opens to look only.

Blocks, one caller at a time. Not here: who may open what (`commands`), the file (`storage.cells`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from edge_node.store.batch import Change
from edge_node.store.cell_store import CellStore, Image, MemoryCellStore
from edge_node.store.replica import (
    WRITERS_TABLE,
    Append,
    Author,
    Changed,
    Effect,
    Event,
    Failed,
    Limits,
    NotWritten,
    Persisted,
    Policy,
    Reload,
    Replica,
    Write,
    Written,
)
from edge_node.store.requests import Done, Requests
from edge_node.store.tables import Tables
from edge_node.wire.ids import GATEWAY
from security.errors import BadInput, EdgeweaveError, Refused, Unavailable
from security.signing import peek1


class OfMembers:
    """What the roster says of writers while no roster is at hand: only the gateway names them."""

    def may_write(self, node: str, table: str) -> bool:
        return table != WRITERS_TABLE or node == GATEWAY

    def believed(self, node: str) -> bool:
        return node == GATEWAY


class _Reader:
    """An author that has no key: what lies in a log was verified when it came."""

    def sign(self, payload: bytes) -> bytes:
        raise AssertionError("nothing is written")

    def open(self, data: bytes) -> tuple[str, bytes]:
        raise AssertionError("nothing arrives")

    def read(self, data: bytes) -> bytes:
        return peek1(data).payload


class OpenedState:
    """Args: store: taken over, and closed with this one. limits, policy: None: those of every member.

    Raises (constructor): Unavailable, BadInput: as the store's.
    """

    def __init__(
        self,
        me: str,
        store: CellStore,
        author: Author,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._me, self._store, self._author = me, store, author
        self._policy = policy or OfMembers()
        self._limits = limits
        self._entropy, self._wall_ms, self._now_ns = entropy, wall_ms, now_ns
        self._dones: dict[int, Done] = {}
        self._tokens = 0
        self._read_only = False
        self.replica = self._loaded(store.load())
        self.tables = Tables(lambda: self.replica.cells, entropy)
        self.requests = Requests(self.tables, self._write)

    @classmethod
    def reading(cls, me: str, image: Image) -> OpenedState:
        """What lies in an image, to look at: nothing is written to any file, and every write is refused."""
        store = MemoryCellStore()
        state = cls(me, store, _Reader())
        state._read_only = True
        state.replica = state._loaded(image)
        state.requests.reset()
        return state

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer. A watch waits for nothing: what it would wait for cannot come while it does.

        Raises: BadInput, Refused, Unavailable: as the daemon would answer.
        """
        if method == "state.watch":
            params = {**params, "wait_ms": 0}
        answers: list[dict[str, Any] | EdgeweaveError] = []
        self.requests.call(self._now_ns(), method, params, answers.append)
        (answer,) = answers
        if isinstance(answer, EdgeweaveError):
            raise answer
        return answer

    def handle(self, event: Event) -> list[Effect]:
        """An event for the replica, and its commits made durable; what is left for others to do."""
        left: list[Effect] = []
        self._carry_out(self.replica.handle(self._now_ns(), self._wall_ms(), event), left)
        return left

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> OpenedState:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self, image: Image) -> Replica:
        return Replica(self._me, self._author, self._policy, image, self._entropy, self._limits)

    def _write(self, changes: tuple[Change, ...], done: Done) -> None:
        if self._read_only:
            done(Refused("these tables are open to be read only", fix="start the daemon: it writes them"))
            return
        self._tokens += 1
        self._dones[self._tokens] = done
        self.handle(Write(self._tokens, changes))

    def _carry_out(self, effects: list[Effect], left: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(serial, commit):
                    now_ns, wall_ms = self._now_ns(), self._wall_ms()
                    try:
                        self._store.commit([commit])
                    except (Unavailable, BadInput) as error:
                        self._carry_out(
                            self.replica.handle(now_ns, wall_ms, Failed(serial, str(error))), left
                        )
                    else:
                        self._carry_out(self.replica.handle(now_ns, wall_ms, Persisted(serial)), left)
                case Written(token):
                    self._dones.pop(token)("")
                case NotWritten(token, reason):
                    self._dones.pop(token)(reason)
                case Changed():
                    self.requests.changed(self._now_ns(), self._wall_ms(), effect)
                case Reload():
                    self.replica = self._loaded(self._store.load())
                    self.requests.reset()
                case _:
                    left.append(effect)
