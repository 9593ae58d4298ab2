"""Provision: what a run needs before it can start, and getting it.

    Run ──► (function, digest) signed by a deployer? ──► bundle here? ──► input here? ──► Start
                 │ no: AskCatalogue                     │ no: Want      │ no: Want
                 └─ unknown after 10 s ─► CannotRun   └─ nobody has it ─► CannotRun

Asked are the owner of the run, then the peers that ran this bundle lately, then the gateway: one that is
away costs nothing as long as another holds what is missing.

Nothing runs that the catalogue does not know by a deployer's signature; limits come from the signed
manifest and not from the offer. A core; bodies and bundles are kept by the shell.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_node.tasks.events import Run
from edge_node.tasks.states import Refusal

CATALOGUE_WAIT_NS = 10_000_000_000
WAITING_MAX = 4096
"""Runs being provided for; the desk bounds them in time, this bounds a mistake."""


class Authorised(msgspec.Struct, frozen=True):
    """What the signed manifest allows."""

    timeout_s: float
    memory_mb: int


class AskCatalogue(msgspec.Struct, frozen=True):
    """Effect: ask these members for newer entries."""

    peers: tuple[str, ...]


class Want(msgspec.Struct, frozen=True):
    """Effect: fetch this body from one of these holders."""

    digest: bytes
    holders: tuple[str, ...]


class Start(msgspec.Struct, frozen=True):
    """Effect: everything is here."""

    run: Run
    input: bytes
    timeout_s: float
    memory_mb: int


class CannotRun(msgspec.Struct, frozen=True):
    run: Run
    reason: Refusal
    detail: str


Effect = AskCatalogue | Want | Start | CannotRun


class _Waiting(msgspec.Struct):
    run: Run
    until_ns: int
    for_digest: bytes | None = None  # the body that it waits for; None: the catalogue


class Provision:
    """Runs on their way to a worker; a core."""

    def __init__(
        self,
        *,
        me: str,
        gateway: str,
        authorised: Callable[[str, bytes], Authorised | None],
        has_bundle: Callable[[bytes], bool],
        body: Callable[[bytes], bytes | None],
    ) -> None:
        self._me = me
        self._gateway = gateway
        self._authorised = authorised
        self._has_bundle = has_bundle
        self._body = body
        self._waiting: dict[tuple[str, int], _Waiting] = {}

    def run(self, now_ns: int, run: Run) -> list[Effect]:
        """The hot path: everything is usually here."""
        allowed = self._authorised(run.function, run.digest)
        if allowed is not None and run.input is not None and self._has_bundle(run.digest):
            return [self._start(run, run.input, allowed)]
        if len(self._waiting) >= WAITING_MAX:
            return [CannotRun(run, Refusal.QUEUE_FULL, "too many runs wait for their code or input")]
        waiting = self._waiting[run.task, run.attempt] = _Waiting(run, now_ns + CATALOGUE_WAIT_NS)
        return self._advance(waiting)

    def _start(self, run: Run, body: bytes, allowed: Authorised) -> Start:
        return Start(run, body, run.timeout_s or allowed.timeout_s, run.memory_mb or allowed.memory_mb)

    def _holders(self, run: Run) -> tuple[str, ...]:
        """Who may hold what it needs, likeliest first. A digest proves itself: anybody may hand it on."""
        return tuple(h for h in dict.fromkeys((run.owner, *run.holders, self._gateway)) if h != self._me)

    def _advance(self, waiting: _Waiting) -> list[Effect]:
        run = waiting.run
        allowed = self._authorised(run.function, run.digest)
        if allowed is None:
            waiting.for_digest = None
            return [AskCatalogue(self._holders(run))]
        if not self._has_bundle(run.digest):
            waiting.for_digest = run.digest
            return [Want(run.digest, self._holders(run))]
        body = run.input
        if body is None:
            assert run.input_digest is not None, "a run has an input or its digest"
            body = self._body(run.input_digest)
            if body is None:
                waiting.for_digest = run.input_digest
                return [Want(run.input_digest, self._holders(run))]
        del self._waiting[run.task, run.attempt]
        return [self._start(run, body, allowed)]

    def catalogue_changed(self) -> list[Effect]:
        effects: list[Effect] = []
        for waiting in list(self._waiting.values()):
            if waiting.for_digest is None and self._authorised(waiting.run.function, waiting.run.digest):
                effects += self._advance(waiting)
        return effects

    def fetched(self, digest: bytes) -> list[Effect]:
        """The body (or bundle) is kept now."""
        effects: list[Effect] = []
        for waiting in list(self._waiting.values()):
            if waiting.for_digest == digest:
                effects += self._advance(waiting)
        return effects

    def not_fetched(self, digest: bytes, why: str) -> list[Effect]:
        effects: list[Effect] = []
        for key, waiting in list(self._waiting.items()):
            if waiting.for_digest == digest:
                del self._waiting[key]
                bundle = digest == waiting.run.digest
                reason = Refusal.UNKNOWN_FUNCTION if bundle else Refusal.INPUT_MISSING
                what = "the bundle" if bundle else "the input"
                effects.append(CannotRun(waiting.run, reason, f"{what} could not be fetched: {why}"))
        return effects

    def stop(self, task: str, attempt: int) -> bool:
        """True if the run was still waiting here, and is not any more."""
        return self._waiting.pop((task, attempt), None) is not None

    def tick(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for key, waiting in list(self._waiting.items()):
            if waiting.for_digest is None and waiting.until_ns <= now_ns:
                del self._waiting[key]
                effects.append(
                    CannotRun(
                        waiting.run, Refusal.UNKNOWN_FUNCTION, "no deployer has signed this function and code"
                    )
                )
        return effects

    def deadline_ns(self) -> int | None:
        if not self._waiting:
            return None
        return min((w.until_ns for w in self._waiting.values() if w.for_digest is None), default=None)

    def check(self) -> None:
        """Invariants; raises AssertionError."""
        assert len(self._waiting) <= WAITING_MAX
        assert all(key == (w.run.task, w.run.attempt) for key, w in self._waiting.items())
