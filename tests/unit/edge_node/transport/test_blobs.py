"""Pulling large bodies by digest: whole or not at all, from whoever holds them."""

from __future__ import annotations

import hashlib
from collections import deque

import pytest

from edge_node.transport.blobs import (
    CHUNK_BYTES,
    CREDIT_CHUNKS,
    IDLE_NS,
    TRANSFERS_MAX,
    Blobs,
    Fetched,
    NotFetched,
    Tell,
)
from edge_node.wire.messages import BlobChunk, BlobMissing, BlobWanted

MS = 1_000_000
BODY = bytes(range(256)) * 2000  # 512 000 bytes: 16 chunks
DIGEST = hashlib.sha256(BODY).digest()


def run(fetcher: Blobs, holders: dict[str, Blobs], effects, limit=200):
    """Carry messages until nothing moves; the final effects."""
    ends = []
    for _ in range(limit):
        if not effects:
            break
        effect = effects.pop(0)
        if isinstance(effect, Tell):
            for answer in holders[effect.peer].handle(0, "me", effect.message):
                effects += fetcher.handle(0, effect.peer, answer.message)
        else:
            ends.append(effect)
    fetcher.check()
    return ends


def test_a_body_arrives_whole():
    fetcher, holder = Blobs(lambda d: None), Blobs({DIGEST: BODY}.get)

    assert run(fetcher, {"h": holder}, fetcher.want(0, DIGEST, ["h"])) == [Fetched(DIGEST, BODY)]


def test_an_empty_body_has_one_empty_chunk():
    digest = hashlib.sha256(b"").digest()
    fetcher, holder = Blobs(lambda d: None), Blobs({digest: b""}.get)

    assert run(fetcher, {"h": holder}, fetcher.want(0, digest, ["h"])) == [Fetched(digest, b"")]


def test_the_next_holder_is_asked_when_one_has_it_not_or_lies():
    fetcher = Blobs(lambda d: None)
    holders = {
        "empty": Blobs(lambda d: None),
        "liar": Blobs({DIGEST: BODY[::-1]}.get),
        "good": Blobs({DIGEST: BODY}.get),
    }

    ends = run(fetcher, holders, fetcher.want(0, DIGEST, ["empty", "liar", "good"]))

    assert ends == [Fetched(DIGEST, BODY)]


def test_no_holder_left_says_why():
    fetcher = Blobs(lambda d: None)

    assert run(fetcher, {"liar": Blobs({DIGEST: b"x"}.get)}, fetcher.want(0, DIGEST, ["liar"])) == [
        NotFetched(DIGEST, "what liar sent has another digest")
    ]
    assert fetcher.want(0, DIGEST, []) == [NotFetched(DIGEST, "nobody is known to hold it")]


def test_a_silent_holder_is_left_after_30_s():
    fetcher = Blobs(lambda d: None)
    fetcher.want(0, DIGEST, ["mute", "good"])
    assert fetcher.deadline_ns() == IDLE_NS

    assert fetcher.tick(IDLE_NS) == [Tell("good", BlobWanted(DIGEST, 0, 1))]


def test_credit_bounds_what_is_asked_for():
    fetcher, holder = Blobs(lambda d: None), Blobs({DIGEST: BODY}.get)
    (ask,) = fetcher.want(0, DIGEST, ["h"])

    chunks = holder.handle(0, "me", BlobWanted(DIGEST, 0, 10_000))
    assert ask == Tell("h", BlobWanted(DIGEST, 0, 1)) and len(chunks) == CREDIT_CHUNKS
    assert all(len(c.message.data) == CHUNK_BYTES and c.bulk for c in chunks)


def most_on_its_way(round_trip_ns: int, chunk_ns: int, body: bytes) -> int:
    """Chunks of *body* that wait on a line at once: it takes *chunk_ns* for each and delays both ways."""
    digest = hashlib.sha256(body).digest()
    fetcher, holder = Blobs(lambda d: None), Blobs({digest: body}.get)
    line: deque[tuple[int, BlobChunk]] = deque()  # (arrives, chunk)
    now_ns = most = free_ns = 0
    effects = fetcher.want(now_ns, digest, ["h"])
    while True:
        for effect in effects:
            if isinstance(effect, Fetched):
                assert effect.body == body
                return most
            for answer in holder.handle(now_ns, "me", effect.message):
                free_ns = max(now_ns + round_trip_ns, free_ns) + chunk_ns
                line.append((free_ns, answer.message))
        most = max(most, len(line))
        now_ns, chunk = line.popleft()
        effects = fetcher.handle(now_ns, "h", chunk)
        fetcher.check()


def test_a_slow_line_is_never_asked_for_seconds_of_chunks():
    """500 kbit/s carry a chunk in half a second: more than two would keep a lease waiting."""
    assert most_on_its_way(80 * MS, 524 * MS, BODY) <= 2


@pytest.mark.parametrize("round_trip_ns", [MS, 300 * MS])
def test_a_fast_line_is_soon_asked_for_all_it_may_be(round_trip_ns):
    """However far away the holder is: its delay is not the line's."""
    assert most_on_its_way(round_trip_ns, MS, BODY) == CREDIT_CHUNKS


def test_chunks_nobody_asked_for_and_strangers_are_ignored():
    fetcher = Blobs(lambda d: None)
    fetcher.want(0, DIGEST, ["h"])

    assert fetcher.handle(0, "stranger", BlobChunk(DIGEST, 0, 1, 1, b"x")) == []
    assert fetcher.handle(0, "h", BlobMissing(b"other")) == []


def test_a_chunk_that_does_not_fit_ends_the_holder():
    fetcher = Blobs(lambda d: None)
    fetcher.want(0, DIGEST, ["h"])

    assert isinstance(fetcher.handle(0, "h", BlobChunk(DIGEST, 5, 2, 10**9, b"x"))[0], NotFetched)


def test_a_holder_that_is_down_is_not_waited_for():
    """Thirty seconds of silence would keep its place from other transfers."""
    fetcher = Blobs(lambda d: None)
    other = hashlib.sha256(b"other").digest()
    fetcher.want(0, DIGEST, ["dead"])
    fetcher.want(0, other, ["dead", "good"])

    assert fetcher.peer_down(0, "dead") == [
        NotFetched(DIGEST, "dead is down"),
        Tell("good", BlobWanted(other, 0, 1)),
    ]
    fetcher.check()


def test_transfers_queued_behind_a_dead_holder_end_too():
    fetcher = Blobs(lambda d: None)
    digests = [hashlib.sha256(bytes([n])).digest() for n in range(TRANSFERS_MAX + 3)]
    for digest in digests:
        fetcher.want(0, digest, ["dead"])

    ends = [effect.digest for effect in fetcher.peer_down(0, "dead") if isinstance(effect, NotFetched)]

    assert sorted(ends) == sorted(digests)
