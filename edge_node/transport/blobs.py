"""Large bodies: inputs, outputs and bundles named by their SHA-256, pulled in sealed chunks.

The one who needs a body asks a holder for a few chunks at a time; the request is the credit, so that
beats and leases pass between chunks. Progress survives a new session (chunks are numbered messages);
30 s without one ends the transfer, and the next holder is tried. What arrives is believed only when
the digest of the whole agrees.

A broker's queue for us is one line: beats, leases and keys wait behind the chunks that we asked for. So a
pull begins with one chunk and asks for more at a time only as long as an answer comes no more than 100 ms
later than the quickest; a line that carries a chunk in half a second is never asked for seconds of them.

In: Want, messages, ticks. Out: Tell, Fetched, NotFetched. Not here: where bodies are kept (the shell
answers ``Serve`` through ``lookup``), how chunks are sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from edge_node.wire.messages import BlobChunk, BlobMissing, BlobWanted, Message

CHUNK_BYTES = 32 * 1024
CREDIT_CHUNKS = 8
"""256 KiB asked for at a time, at most."""
QUEUE_NS = 100_000_000
"""How much later than the quickest an answer may come before less is asked for: so long a lease waits."""
BODY_BYTES_MAX = 8 * 1024 * 1024
TRANSFERS_MAX = 16
"""Concurrent pulls of a node; the rest waits in order, at most what the callers
admit (4 096 runs, the results on lease, 64 publications). 16 bodies are 128 MiB at the very worst."""
IDLE_NS = 30_000_000_000


class Tell(msgspec.Struct, frozen=True):
    """Effect: send this message; chunks travel in the bulk lane."""

    peer: str
    message: Message
    bulk: bool = False


class Fetched(msgspec.Struct, frozen=True):
    """Effect: the body is here and its digest agrees."""

    digest: bytes
    body: bytes


class NotFetched(msgspec.Struct, frozen=True):
    """Effect: no holder could give it."""

    digest: bytes
    reason: str


Effect = Tell | Fetched | NotFetched


class _Pull(msgspec.Struct):
    digest: bytes
    holders: list[str]  # still to be tried; [0] is asked now
    chunks: dict[int, bytes] = msgspec.field(default_factory=dict)
    total: int | None = None
    size: int = 0
    asked_to: int = 0  # first chunk that has not been asked for
    idle_ns: int = 0
    credit: int = 1
    """Chunks that may be asked for and not here."""
    quickest_ns: int | None = None
    asks: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """(chunks that are here when it is answered, when it was asked), in this order; at most CREDIT_CHUNKS."""


class Blobs:
    """Pulls and serves bodies; a core."""

    def __init__(self, lookup: Callable[[bytes], bytes | None]) -> None:
        self._lookup = lookup  # a digest to the body if we hold it; must be quick (memory or a cached file)
        self._pulls: dict[bytes, _Pull] = {}
        self._queue: list[_Pull] = []

    @property
    def busy(self) -> bool:
        """Something is being fetched."""
        return bool(self._pulls)

    def want(self, now_ns: int, digest: bytes, holders: list[str]) -> list[Effect]:
        """Pull *digest* from the first of *holders* that has it; asking again while it runs adds holders."""
        running = self._pulls.get(digest) or next((p for p in self._queue if p.digest == digest), None)
        if running is not None:
            running.holders.extend(h for h in holders if h not in running.holders)
            return []
        if not holders:
            return [NotFetched(digest, "nobody is known to hold it")]
        pull = _Pull(digest, list(dict.fromkeys(holders)))
        if len(self._pulls) >= TRANSFERS_MAX:
            self._queue.append(pull)
            return []
        return self._begin(now_ns, pull)

    def handle(self, now_ns: int, peer: str, message: BlobWanted | BlobChunk | BlobMissing) -> list[Effect]:
        match message:
            case BlobWanted():
                return self._serve(peer, message)
            case BlobChunk():
                return self._chunk(now_ns, peer, message)
            case BlobMissing(digest):
                pull = self._pulls.get(digest)
                if pull is None or pull.holders[0] != peer:
                    return []
                return self._next_holder(now_ns, pull, f"{peer} does not hold it")

    def _serve(self, peer: str, wanted: BlobWanted) -> list[Effect]:
        body = self._lookup(wanted.digest)
        if body is None or len(body) > BODY_BYTES_MAX:
            return [Tell(peer, BlobMissing(wanted.digest))]
        total = max(1, -(-len(body) // CHUNK_BYTES))
        first = max(0, wanted.first)
        last = min(total, first + min(wanted.count, CREDIT_CHUNKS))
        return [
            Tell(
                peer,
                BlobChunk(wanted.digest, i, total, len(body), body[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]),
                bulk=True,
            )
            for i in range(first, last)
        ]

    def _chunk(self, now_ns: int, peer: str, chunk: BlobChunk) -> list[Effect]:
        pull = self._pulls.get(chunk.digest)
        if pull is None or pull.holders[0] != peer:
            return []  # a late chunk of a transfer that ended: harmless
        total = max(1, -(-chunk.size // CHUNK_BYTES))
        if (
            chunk.size > BODY_BYTES_MAX
            or chunk.total != total
            or not 0 <= chunk.index < total
            or len(chunk.data) > CHUNK_BYTES
            or (pull.total is not None and (pull.total, pull.size) != (total, chunk.size))
        ):
            return self._next_holder(now_ns, pull, f"{peer} sent chunks that do not fit together")
        pull.total, pull.size = total, chunk.size
        pull.chunks[chunk.index] = chunk.data
        pull.idle_ns = now_ns + IDLE_NS
        if len(pull.chunks) == total:
            body = b"".join(pull.chunks[i] for i in range(total))
            if hashlib.sha256(body).digest() != pull.digest:
                return self._next_holder(now_ns, pull, f"what {peer} sent has another digest")
            del self._pulls[pull.digest]
            return [Fetched(pull.digest, body), *self._begin_next(now_ns)]
        self._answered(now_ns, pull)
        missing = max(0, pull.asked_to - len(pull.chunks))
        if pull.asked_to < total and missing <= pull.credit // 2:
            return [self._ask(now_ns, pull, min(pull.credit - missing, total - pull.asked_to))]
        return []

    def _ask(self, now_ns: int, pull: _Pull, count: int) -> Effect:
        first = pull.asked_to
        pull.asked_to += count
        pull.asks.append((pull.asked_to, now_ns))
        return Tell(pull.holders[0], BlobWanted(pull.digest, first, count))

    def _answered(self, now_ns: int, pull: _Pull) -> None:
        """Twice as much at a time, or half, by how long each answer took."""
        while pull.asks and len(pull.chunks) >= pull.asks[0][0]:
            took_ns = now_ns - pull.asks.pop(0)[1]
            if pull.quickest_ns is None or took_ns < pull.quickest_ns:
                pull.quickest_ns = took_ns
            late = took_ns > pull.quickest_ns + QUEUE_NS
            pull.credit = max(1, pull.credit // 2) if late else min(CREDIT_CHUNKS, pull.credit * 2)

    def _begin(self, now_ns: int, pull: _Pull) -> list[Effect]:
        self._pulls[pull.digest] = pull
        pull.chunks.clear()
        pull.asks.clear()
        pull.total, pull.size, pull.asked_to = None, 0, 0
        pull.credit, pull.quickest_ns = 1, None  # of another holder, perhaps over another line
        pull.idle_ns = now_ns + IDLE_NS
        return [self._ask(now_ns, pull, 1)]

    def _begin_next(self, now_ns: int) -> list[Effect]:
        if not self._queue or len(self._pulls) >= TRANSFERS_MAX:
            return []
        return self._begin(now_ns, self._queue.pop(0))

    def _next_holder(self, now_ns: int, pull: _Pull, reason: str) -> list[Effect]:
        del self._pulls[pull.digest]
        pull.holders.pop(0)
        if pull.holders:
            return self._begin(now_ns, pull)
        return [NotFetched(pull.digest, reason), *self._begin_next(now_ns)]

    def peer_down(self, now_ns: int, peer: str) -> list[Effect]:
        """Ask others for what *peer* was asked for; whoever waits for it alone is told at once."""
        reason = f"{peer} is down"
        waiting, self._queue = self._queue, []
        effects: list[Effect] = []
        for pull in waiting:
            pull.holders = [holder for holder in pull.holders if holder != peer]
            if pull.holders:
                self._queue.append(pull)
            else:
                effects.append(NotFetched(pull.digest, reason))
        for pull in [p for p in self._pulls.values() if p.holders[0] == peer]:
            effects += self._next_holder(now_ns, pull, reason)
        return effects

    def tick(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for pull in [p for p in self._pulls.values() if p.idle_ns <= now_ns]:
            effects += self._next_holder(now_ns, pull, f"{pull.holders[0]} was silent for 30 s")
        return effects

    def deadline_ns(self) -> int | None:
        return min(p.idle_ns for p in self._pulls.values()) if self._pulls else None

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._pulls) <= TRANSFERS_MAX
        assert all(pull.holders for pull in self._pulls.values())
        for pull in self._pulls.values():
            assert 1 <= pull.credit <= CREDIT_CHUNKS and len(pull.asks) <= CREDIT_CHUNKS
            assert pull.asked_to - len(pull.chunks) <= CREDIT_CHUNKS, "more is on its way than may be"
        assert not (self._queue and len(self._pulls) < TRANSFERS_MAX)
