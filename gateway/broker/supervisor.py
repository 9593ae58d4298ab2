"""The supervisor: one broker runs, ours or one that we left behind, or it is known why not.

    idle ──Found──► adopting ──Listening──► running ──Gone──► waiting ──(back-off)──► starting
      │  same configuration                    ▲  │                                      │
      ├──other configuration─► replacing ─Gone─┼──┼──────────────► starting ──Listening──┘
      └──nothing there──────► starting ────────┘  └──Stop──► stopping ──Gone──► stopped

A broker outlives a killed gateway (it has a session of its own); the next gateway finds its record and
adopts it if pid, start time and configuration digest all agree. A broker that never came up is given
up with its own last words; one that was up is started again with back-off, for ever.

In: Found, Spawned, SpawnFailed, Listening, Gone, Stop. Out: Spawn, Probe, Terminate, Remember, Forget,
Up, Down, GiveUp, Stopped. Not here: processes, files and sockets (``process``, ``broker``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000_000
START_NS: Final = 15 * SECOND  # amqtt's imports take seconds on a small board
STOP_NS: Final = 3 * SECOND  # then SIGKILL
BACKOFF_NS_FIRST: Final = SECOND // 10  # links must be back within 2 s of a broker's death
BACKOFF_NS_MAX: Final = 5 * SECOND
STEADY_NS: Final = 30 * SECOND  # up this long: the next death starts with a short back-off again


@dataclass(frozen=True, slots=True)
class Found:
    """Event: what the pid record says. `pid` 0: no record, or its process is gone or another one."""

    pid: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Spawned:
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class Listening:
    pid: int


@dataclass(frozen=True, slots=True)
class Gone:
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Event: `kill` false leaves the broker running, to be adopted by the next gateway."""

    kill: bool = True


Event = Found | Spawned | SpawnFailed | Listening | Gone | Stop


@dataclass(frozen=True, slots=True)
class Spawn:
    pass


@dataclass(frozen=True, slots=True)
class Probe:
    """Effect: connect until it listens (Listening), and watch for its end (Gone)."""

    pid: int


@dataclass(frozen=True, slots=True)
class Terminate:
    pid: int
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Remember:
    pid: int
    digest: str


@dataclass(frozen=True, slots=True)
class Forget:
    pass


@dataclass(frozen=True, slots=True)
class Up:
    pid: int
    adopted: bool


@dataclass(frozen=True, slots=True)
class Down:
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    pass


Effect = Spawn | Probe | Terminate | Remember | Forget | Up | Down | GiveUp | Stopped


class Supervisor:
    """See the picture above. `digest` names the configuration that we want to run."""

    def __init__(self, digest: str) -> None:
        self.state = "idle"
        self.pid = 0
        self._digest = digest
        self._deadline_ns: int | None = None
        self._adopted = False
        self._was_up = False
        self._up_since_ns = 0
        self._failures = 0

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        match event:
            case Found(pid, digest) if self.state == "idle":
                if pid and digest == self._digest:
                    self.pid, self._adopted = pid, True
                    self._enter("adopting", now_ns + START_NS)
                    return [Probe(pid)]
                if pid:
                    self.pid = pid
                    self._enter("replacing", now_ns + STOP_NS)
                    return [Probe(pid), Terminate(pid)]
                return self._spawn(now_ns)
            case Spawned(pid) if self.state == "starting" and not self.pid:
                self.pid = pid
                return [Remember(pid, self._digest), Probe(pid)]
            case Spawned(pid):  # we were told to stop meanwhile
                return [Terminate(pid, hard=True)]
            case SpawnFailed(reason) if self.state == "starting" and not self.pid:
                return self._failed(now_ns, reason)
            case Listening(pid) if pid == self.pid and self.state in ("starting", "adopting"):
                self._enter("running", None)
                self._was_up, self._up_since_ns = True, now_ns
                return [Up(pid, self._adopted)]
            case Gone(pid, reason) if pid == self.pid:
                return self._gone(now_ns, reason)
            case Stop(kill):
                return self._stop(now_ns, kill)
        return []

    def tick(self, now_ns: int) -> list[Effect]:
        if self._deadline_ns is None or now_ns < self._deadline_ns:
            return []
        match self.state:
            case "waiting":
                return self._spawn(now_ns)
            case "starting" | "adopting" | "replacing" | "stopping" if self.pid:
                self._deadline_ns = now_ns + STOP_NS
                return [Terminate(self.pid, hard=True)]
        self._deadline_ns = now_ns + STOP_NS
        return []

    def deadline_ns(self) -> int | None:
        return self._deadline_ns

    def check(self) -> None:
        assert (self.state in ("running", "adopting", "replacing", "stopping")) <= bool(self.pid)
        assert (self.state in ("idle", "waiting", "stopped", "given up")) <= (not self.pid)
        assert (self.state in ("waiting", "starting", "stopping")) <= (self._deadline_ns is not None)

    def _enter(self, state: str, deadline_ns: int | None) -> None:
        self.state, self._deadline_ns = state, deadline_ns

    def _spawn(self, now_ns: int) -> list[Effect]:
        self.pid, self._adopted = 0, False
        self._enter("starting", now_ns + START_NS)
        return [Spawn()]

    def _gone(self, now_ns: int, reason: str) -> list[Effect]:
        state, self.pid = self.state, 0
        if state == "stopping":
            self._enter("stopped", None)
            return [Forget(), Stopped()]
        if state in ("replacing", "adopting"):
            return [Forget(), *self._spawn(now_ns)]
        if state == "running" and now_ns - self._up_since_ns >= STEADY_NS:
            self._failures = 0
        return [Forget(), *self._failed(now_ns, reason)]

    def _failed(self, now_ns: int, reason: str) -> list[Effect]:
        if not self._was_up:
            self._enter("given up", None)
            return [GiveUp(reason)]
        wait_ns = min(BACKOFF_NS_MAX, BACKOFF_NS_FIRST << min(self._failures, 10))
        self._failures += 1
        self._enter("waiting", now_ns + wait_ns)
        return [Down(reason)]

    def _stop(self, now_ns: int, kill: bool) -> list[Effect]:
        if self.state in ("stopping", "stopped"):
            return []
        if kill and self.pid:
            self._enter("stopping", now_ns + STOP_NS)
            return [Terminate(self.pid)]
        self.pid = 0
        self._enter("stopped", None)
        return [Stopped()]
