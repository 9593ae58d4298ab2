"""Outputs by digest: a result whose output is too large to ride along, at both of its ends.

    holder   replace(result)     output kept among the bodies, the result names its digest
    owner    came(peer, result)  -> body here: the whole results;  else: fetch it (the caller does)
             body_came(digest)   -> the whole results that waited for it
             chunk_came(peer)    -> Progress: a result whose output is on its way is no silent holder

One output an attempt: another digest under the same task and attempt is not fetched. Bounded by the leases
(only results that the desk expects come here). Not here: the transfer (``blobs``), the bytes (``bodies``).
"""

from __future__ import annotations

import msgspec

from edge_node.tasks.events import Heard
from edge_node.transport.bodies import Bodies
from edge_node.wire.messages import Progress, Result


class Outputs:
    """Results that wait for their output; a core."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._waiting: dict[bytes, list[tuple[str, Result]]] = {}

    def __len__(self) -> int:
        """Outputs that are waited for."""
        return len(self._waiting)

    def replace(self, result: Result) -> Result:
        """The result without its output, which peers may fetch."""
        digest = self._bodies.keep(result.output)
        return msgspec.structs.replace(
            result, output=b"", output_digest=digest, output_bytes=len(result.output)
        )

    def came(self, peer: str, result: Result) -> bool:
        """*result* waits from now on. False: another output of the same attempt does, and that one counts."""
        digest = result.output_digest
        assert digest is not None
        key = (result.task, result.attempt)
        if all((r.task, r.attempt) != key for known in self._waiting.values() for _, r in known):
            self._waiting.setdefault(digest, []).append((peer, result))
            return True
        return digest in self._waiting

    def body_came(self, digest: bytes, body: bytes) -> list[Heard]:
        waiting = self._waiting.pop(digest, ())
        return [
            Heard(peer, msgspec.structs.replace(result, output=body, output_digest=None))
            for peer, result in waiting
        ]

    def body_missed(self, digest: bytes) -> None:
        """It cannot be had: the lease lapses, the task is placed again."""
        self._waiting.pop(digest, None)

    def chunk_came(self, peer: str, digest: bytes) -> list[Heard]:
        """Something of it came from *peer*, although that holder has already finished."""
        return [
            Heard(holder, Progress(result.task, result.attempt, True))
            for holder, result in self._waiting.get(digest, ())
            if holder == peer
        ]
