"""What sealing costs: seal + open of 256 bytes against the bare AEAD pair on the same bytes.

Both are timed in turns, so that whatever else the machine does falls on both alike; the figure to trust is
the ratio of the medians. Run: python benchmarks/bench_envelope.py [--json]
Targets: envelope <= 4x the bare pair (the exit code says so); the session's own line shows what counting,
the lookup and the replay window add.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from security.envelope import Opener, Sealer, aad
from security.handshake import public_of
from security.session import Confirm, FrameReceived, SendFrame, Sessions, Wanted

PLAIN_BYTES = 256
RUNS = 15
PAIRS_A_RUN = 4_000
TARGET = 4.0


def bare(key: bytes, iv: bytes, context: bytes, plain: bytes) -> Callable[[int], None]:
    aead, bound = ChaCha20Poly1305(key), aad(context)
    encrypt, decrypt = aead.encrypt, aead.decrypt

    def run(pairs: int) -> None:
        for _ in range(pairs):
            decrypt(iv, encrypt(iv, plain, bound), bound)

    return run


def envelope(key: bytes, iv: bytes, context: bytes, plain: bytes) -> Callable[[int], None]:
    seal, unseal = Sealer(key, iv, b"kid of 8", context).seal, Opener(key, iv, b"kid of 8", context).open
    seq = 0

    def run(pairs: int) -> None:
        nonlocal seq
        for _ in range(pairs):
            seq += 1
            unseal(seal(seq, plain))

    return run


def session(plain: bytes) -> Callable[[int], None]:
    statics = {name: os.urandom(32) for name in "ab"}

    def member(me: str) -> Sessions:
        return Sessions(
            me=me,
            mesh_id="0123456789abcdef",
            boot_id=os.urandom(8),
            static=[statics[me]],
            keys_of=lambda peer: (public_of(statics[peer]),),
            context=lambda src, dst, kid, role: cbor2.dumps([1, "0123456789abcdef", src, dst, kid, role]),
            entropy=os.urandom,
            roster_version=lambda: 1,
            wall_ms=lambda: 0,
        )

    a, b = member("a"), member("b")
    (m1,) = a.handle(0, Wanted("b"))
    assert isinstance(m1, SendFrame)
    (m2,) = b.handle(0, FrameReceived("a", m1.frame))
    assert isinstance(m2, SendFrame)
    assert Confirm("b") in a.handle(0, FrameReceived("b", m2.frame))

    def run(pairs: int) -> None:
        for _ in range(pairs):
            b.open(1, "a", a.seal(1, "b", plain))

    return run


def handshake_us(rounds: int = 200) -> float:
    """One whole handshake, both sides, with keys and derivation, in microseconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        session(b"")
        times.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(times)


def main() -> int:
    parser = argparse.ArgumentParser(description="seal + open against the bare AEAD pair")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    key, iv, plain = os.urandom(32), os.urandom(12), os.urandom(PLAIN_BYTES)
    context = cbor2.dumps([1, "0123456789abcdef", "ew/1/0123456789abcdef/d/b/a", "a", "b", b"kid of 8", 0])
    cases = {
        "bare": bare(key, iv, context, plain),
        "envelope": envelope(key, iv, context, plain),
        "session": session(plain),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for run in cases.values():
        run(PAIRS_A_RUN // 4)
    for _ in range(RUNS):
        for name, run in cases.items():
            began = time.perf_counter_ns()
            run(PAIRS_A_RUN)
            times[name].append((time.perf_counter_ns() - began) / PAIRS_A_RUN / 1000)

    median_us = {name: round(statistics.median(found), 3) for name, found in times.items()}
    ratio = round(median_us["envelope"] / median_us["bare"], 2)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "plain_bytes": PLAIN_BYTES,
        "runs": RUNS,
        "median_us": median_us,
        "envelope_ratio": ratio,
        "session_ratio": round(median_us["session"] / median_us["bare"], 2),
        "handshake_us": round(handshake_us(), 1),
        "target_ratio": TARGET,
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        for name, micros in median_us.items():
            print(f"{name:9} {micros:7.2f} us a pair   {micros / median_us['bare']:5.2f}x")
        print(f"handshake {report['handshake_us']:7.1f} us, both sides    ({report['machine']})")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
