"""Mutants: deliberate defects of production cores, each with the checker that must find it.

    Mutant ─► applied(): one function or constant replaced, in this process ─► Play of a drawn seed ─► verdict

A checker that has never failed proves nothing. So each promise is broken here on purpose, in the code that
keeps it, and a swarm of at most 200 seeds has to see that by the checker that is named; an error that comes
out of a core is none of its words. What survives is written down in ``docs/simulating.md``, with the reason.

    make mutants                       every mutant searched for from its first seed on, as a table
    make mutants ARGS="NAME …"         these alone

Not here: the share of it that each change of the code runs (``test_mutants``), seeds and what they mean
(``device_sim.virtual.drawing``; other than VERSION says, a recorded seed means another run).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from device_sim.virtual.checkers.panel import Panel, checkers
from device_sim.virtual.drawing import VERSION, drawn_scenario
from device_sim.virtual.evidence import Verdict
from device_sim.virtual.play import Play
from edge_node.chronicle.chronicle import Chronicle
from edge_node.chronicle.entry import What
from edge_node.membership import detector, heartbeat
from edge_node.membership.following import Following
from edge_node.settings import NodeSettings, TaskSettings
from edge_node.tasks import rows
from edge_node.tasks.desk import Desk
from edge_node.tasks.events import Append, Reply, Settled
from edge_node.tasks.leases import Leases
from edge_node.tasks.ledger import Ledger
from edge_node.tasks.states import Refusal
from gateway import epochs
from gateway.broker import door_list
from security import envelope, group
from security.group import Epochs, GroupSender
from security.identity import bearer
from security.session import Sessions
from tests.property import replica_mutants

RECORDED_VERSION: Final = 3
"""``drawing.VERSION`` when the seeds below were recorded."""
SEEDS: Final = 200
NODES: Final = 6
SMALL: Final = NodeSettings(tasks=TaskSettings(outbox_tasks_max=8))
"""An outbox that a drawn scenario can fill."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect.

    `breaks`: what it does, and the promise.   `owner`, `attribute`: the one thing that is replaced.
    `made`: of the original, the replacement.  `checker`: whose verdict must be "failed".
    `found`: the seed that showed it, at this number of `nodes`.  `first`: where a search begins.
    `also`: others that showed it, for when a change of the cores makes that run another one.
    `quick`: every change of the code runs that seed.
    """

    name: str
    breaks: str
    owner: Any
    attribute: str
    made: Callable[[Any], Any]
    checker: str
    found: int = 0
    also: tuple[int, ...] = ()
    nodes: int = NODES
    first: int = 0
    seeds: int = SEEDS
    settings: NodeSettings | None = None
    quick: bool = True


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The defect is in the program within this block."""
    owner, attribute = mutant.owner, mutant.attribute
    original = vars(owner)[attribute]
    setattr(owner, attribute, mutant.made(original))
    try:
        yield
    finally:
        setattr(owner, attribute, original)


def judged(seed: int, nodes: int, settings: NodeSettings | None = None, only: str = "") -> list[Verdict]:
    """The verdicts on one play; *only*: of this checker alone, which is quicker. Raises: as ``Play.run``."""
    judges = [judge for judge in checkers() if only in ("", judge.name)]
    assert judges, f"no checker is called {only}"
    return Play(drawn_scenario(seed, nodes), panel=Panel(judges), settings=settings).run().verdicts


# ── what the defects do ───────────────────────────────────────────────────────────────────────────────


def _accept_told_at_once(original: Any) -> Any:
    def accept(self: Ledger, now_ns: int, task: Any, token: int, out: list[Any]) -> Any:
        entry = original(self, now_ns, task, token, out)
        out.append(Reply(token, True, "", task.id))
        entry.tokens.clear()
        return entry

    return accept


def _end_told_at_once(original: Any) -> Any:
    def close(self: Ledger, entry: Any, outcome: Any, out: list[Any]) -> None:
        original(self, entry, outcome, out)
        out.append(Settled(entry.task.id, outcome))

    return close


def _end_never_written(original: Any) -> Any:
    """The terminal record is a note of the same serial: whoever waits for it hears that it is kept."""

    def close(self: Ledger, entry: Any, outcome: Any, out: list[Any]) -> None:
        original(self, entry, outcome, out)
        last = out.pop()
        out.append(Append(last.serial, (rows.Noted(entry.task.id, outcome.settled_at_ms, "ended"),)))

    return close


def _failure_is_success(original: Any) -> Any:
    def failed(self: Ledger, serial: int, now_ns: int, reason: str, out: list[Any]) -> Any:
        return self.persisted(serial, out)

    return failed


def _nothing_restored(original: Any) -> Any:
    return lambda self: []


def _half_restored(original: Any) -> Any:
    """The oldest of several open tasks is passed over."""
    return lambda self: original(self)[1:]


def _nothing_expires(original: Any) -> Any:
    def expired(self: Ledger, now_ns: int) -> list[Any]:
        original(self, now_ns)
        return []

    return expired


def _expires_after_its_restart_anew(original: Any) -> Any:
    """Expiry is counted in seconds where it should be milliseconds."""

    def entry_of(self: Ledger, now_ns: int, task: Any, age_ms: int, *, attempt: int) -> Any:
        entry = original(self, now_ns, task, age_ms, attempt=attempt)
        entry.expires_ns = now_ns + (entry.expires_ns - now_ns) * 10
        self._expiry.set(task.id, entry.expires_ns)
        return entry

    return entry_of


def _lapses_are_lost(original: Any) -> Any:
    def lapsed(self: Leases, now_ns: int) -> list[str]:
        original(self, now_ns)
        return []

    return lapsed


def _outbox_without_end(original: Any) -> Any:
    def refusal(self: Ledger, now_ns: int, task: Any) -> Any:
        found = original(self, now_ns, task)
        return None if found is not None and found[0] is Refusal.OUTBOX_FULL else found

    return refusal


def _refused_and_kept(original: Any) -> Any:
    def submitted(self: Desk, now_ns: int, event: Any, out: list[Any]) -> None:
        refused = len(out)
        original(self, now_ns, event, out)
        said_no = any(type(effect) is Reply and not effect.accepted for effect in out[refused:])
        if said_no and self._ledger.known(event.task.id) is None:
            self._place(now_ns, self._ledger.accept(now_ns, event.task, event.token, out), out)

    return submitted


def _same_number_again(original: Any) -> Any:
    def fenced(self: Ledger, entry: Any, serial: int) -> Any:
        before = entry.attempt
        found = original(self, entry, serial)
        entry.attempt = before
        return found

    return fenced


def _old_results_age_at_once(original: Any) -> Any:
    return lambda at_ms, before_ms: at_ms < before_ms


def _lost_accepts_forgotten(original: Any) -> Any:
    def settle(self: Any, failure: str) -> list[int]:
        return original(self, "")

    return settle


def _no_rotation(original: Any) -> Any:
    def changed(self: epochs.EpochKeeper, now_ns: int, roster: Any) -> list[Any]:
        if roster.version > self._version:
            self._members, self._version = epochs._keys_of(roster), roster.version
            for peer in [peer for peer in self._met if peer not in self._members]:
                del self._met[peer]
        return []

    return changed


def _first_epoch_for_ever(original: Any) -> Any:
    def adopt(self: Epochs, now_ns: int, grant: bytes, secret: bytes) -> Any:
        return group.Held() if self.current is not None else original(self, now_ns, grant, secret)

    return adopt


def _revoked_stay_admitted(original: Any) -> Any:
    return lambda roster: [bearer(each.id, key.spki_sha256) for each in roster.members for key in each.keys]


def _same_stream_each_life(original: Any) -> Any:
    def init(self: GroupSender, me: str, epochs: Any, context: Any, *, entropy: Any) -> None:
        original(self, me, epochs, context, entropy=lambda count: b"\1" * count)

    return init


def _numbers_begin_anew(original: Any) -> Any:
    def seal(self: Sessions, now_ns: int, peer: str, plain: bytes) -> bytes:
        sealed: bytes = original(self, now_ns, peer, plain)
        session = self._sealing.get(peer)
        if session is not None and session.seq >= 64:
            session.seq = 0
        return sealed

    return seal


class _Readable:
    """A cipher that has forgotten to encrypt."""

    def __init__(self, key: bytes) -> None: ...

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return data + bytes(envelope.TAG_BYTES)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return data[: -envelope.TAG_BYTES]


def _down_for_ever(original: Any) -> Any:
    def heard(self: Any, now_ns: int, peer: str) -> list[Any]:
        state = self._peers.get(peer)
        return [] if state is not None and state.state == "down" else original(self, now_ns, peer)

    return heard


def _ten_ms(original: Any) -> Any:
    return 10_000_000


def _follow_all(original: Any) -> Any:
    def init(self: Following, *, me: str, always: str, rng: Any, limit: int = 0) -> None:
        original(self, me=me, always=always, rng=rng, limit=10_000)

    return init


def _parked_for_ever(original: Any) -> Any:
    return lambda self, now_ns, view, out: None


def _ends_of_attempts_not_noted(original: Any) -> Any:
    def explained(self: Chronicle, now_ns: int, wall_ms: int, told: Any) -> None:
        if told.what not in (What.LAPSED, What.TURNED_DOWN):
            original(self, now_ns, wall_ms, told)

    return explained


def _refusals_not_noted(original: Any) -> Any:
    def turned_away(self: Chronicle, *answer: Any) -> str:
        noted = len(self._fresh)
        cause = original(self, *answer)
        del self._fresh[noted:]
        return cause

    return turned_away


TASKS: Final = (
    Mutant(
        "accept-before-fsync",
        "P3: the yes to a client does not wait for the disk",
        Ledger, "accept", _accept_told_at_once, "acknowledged survives",
    ),
    Mutant(
        "end-before-fsync",
        "P3: a result is told before its record is on the disk",
        Ledger, "close", _end_told_at_once, "acknowledged survives",
    ),
    Mutant(
        "end-never-written",
        "P1: a task ends without a terminal record",
        Ledger, "close", _end_never_written, "settled once",
    ),
    Mutant(
        "failed-write-is-kept",
        "P1: a write that failed is taken for one that is on the disk",
        Ledger, "failed", _failure_is_success, "settled once",
        found=2,
    ),
    Mutant(
        "lost-accept-forgotten",
        "P1: records go on being written of a task whose accept was lost",
        rows.Gathering, "settle", _lost_accepts_forgotten, "settled once",
        found=22,
    ),
    Mutant(
        "nothing-restored",
        "P1: a start takes up nothing of what an earlier life accepted",
        rows.Reading, "open_tasks", _nothing_restored, "settled once",
        found=35,
    ),
    Mutant(
        "first-not-restored",
        "P1: a start passes over the oldest open task",
        rows.Reading, "open_tasks", _half_restored, "settled once",
        found=35,
    ),
    Mutant(
        "nothing-expires",
        "P1: a time to live is over and the task is not",
        Ledger, "expired", _nothing_expires, "settled once",
        found=31,
    ),
    Mutant(
        "expires-late",
        "P1: a time to live is ten times as long as was promised",
        Ledger, "_entry", _expires_after_its_restart_anew, "settled once",
        found=33,
    ),
    Mutant(
        "results-age-at-once",
        "P1: what was settled by a clock that did not know the time is forgotten when it does",
        rows, "aged", _old_results_age_at_once, "settled once",
        found=2,
    ),
    Mutant(
        "refused-and-kept",
        "P1: a task is refused at the door and kept all the same",
        Desk, "_submitted", _refused_and_kept, "settled once", settings=SMALL,
        found=6,
    ),
    Mutant(
        "outbox-without-end",
        "P5: nobody is refused for a full outbox",
        Ledger, "refusal", _outbox_without_end, "bounds", settings=SMALL,
        found=6,
    ),
    Mutant(
        "beats-without-pause",
        "P5: a beat every 10 ms while there is work",
        heartbeat, "BEAT_NS", _ten_ms, "bounds",
    ),
    Mutant(
        "follows-everybody",
        "P5: the beats of all members are followed, however many there are",
        Following, "__init__", _follow_all, "bounds", nodes=60, quick=False,
    ),
    Mutant(
        "lapse-lost",
        "P7: a lease runs out and its task is not taken up again",
        Leases, "lapsed", _lapses_are_lost, "finishes",
        found=65,
        also=(8,),
        quick=False,  # of drawing 2; with drawing 3 seeds 0 to 109 do not show it
    ),
    Mutant(
        "parked-for-ever",
        "P7: work for a node that was away is not sent when it is back",
        Desk, "_drain_outbox", _parked_for_ever, "finishes",
        found=8,
        also=(10,),
    ),
    Mutant(
        "down-for-ever",
        "P7: a peer that was down is not up again when it is heard",
        detector.Detector, "heard", _down_for_ever, "finishes",
    ),
    Mutant(
        "number-used-again",
        "P2: a second attempt goes out under the number of the first",
        Ledger, "_fenced", _same_number_again, "fenced",
        found=2,
    ),
    Mutant(
        "plain-envelopes",
        "wire 4: what is sealed can be read",
        envelope, "ChaCha20Poly1305", lambda original: _Readable, "sealed",
    ),
    Mutant(
        "nonce-after-restart",
        "wire 4-6: a stream begins anew under the key of a former life",
        GroupSender, "__init__", _same_stream_each_life, "sealed",
    ),
    Mutant(
        "nonce-wraps",
        "wire 4: the numbers of a session begin anew under its key",
        Sessions, "seal", _numbers_begin_anew, "sealed",
        found=4,
    ),
    Mutant(
        "no-rotation",
        "fault 18: a revoked member keeps the secret that is in use",
        epochs.EpochKeeper, "_roster_changed", _no_rotation, "revoked is out",
        found=1,
    ),
    Mutant(
        "first-epoch-for-ever",
        "fault 18: members keep to the first secret that they were handed",
        Epochs, "adopt", _first_epoch_for_ever, "revoked is out",
        found=1,
    ),
    Mutant(
        "revoked-stays-admitted",
        "fault 18: the door asks who is listed, not who is active",
        door_list, "admitted", _revoked_stay_admitted, "revoked is out",
        found=1,
    ),
    Mutant(
        "attempts-end-without-a-word",
        "P8: why a lease ended or a place refused is not noted",
        Chronicle, "explained", _ends_of_attempts_not_noted, "everything is explained",
        found=0,
    ),
    Mutant(
        "refusals-lead-nowhere",
        "P8: the id that a refused client is told was never noted",
        Chronicle, "turned_away", _refusals_not_noted, "everything is explained",
        found=2, settings=SMALL,
    ),
)  # fmt: skip


def _merge(name: str, defect: str, breaks: str, checker: str, **how: Any) -> Mutant:
    """A defect that plays of replicas alone have shown already, among members that know nothing of it."""
    known = next(each for each in replica_mutants.MUTANTS if each.name == defect)
    return Mutant(name, breaks, known.owner, known.attribute, known.made, checker, **how)


SURVIVE: Final = "acknowledged changes survive"
EQUAL: Final = "replicas are equal"
MERGES: Final = (
    _merge("arrival-wins", "the last to arrive wins", "P4: the order of arrival decides", EQUAL, found=8),
    _merge("tie-break-reversed", "the tie-break is reversed",
           "P4: of rivals the oldest wins", EQUAL, found=8),
    _merge("dot-off-by-one", "a dot is compared off by one",
           "P3: a write leaves standing what it knew of", SURVIVE, found=6),
    _merge("replaces-all", "every write replaces all",
           "P4: a rival that nobody had seen is gone", EQUAL, found=6),
    _merge("replaces-none", "no write replaces any",
           "P3: what was replaced is back", SURVIVE, found=3),
    _merge("forgets-early", "deletions are collected too early",
           "P4: a deletion is forgotten before everybody knows of it", EQUAL, found=18),
    _merge("own-cut", "one member's knowledge is the cut",
           "P4: what is forgotten is not what everybody knows", EQUAL, found=8, quick=False),
    _merge("effects-first", "effects come before causes",
           "P4: a batch is applied before its causes", EQUAL, found=16, quick=False),
    _merge("kept-before-fsync", "acknowledged before it is safe",
           "P3: a change is acknowledged before the disk has it", SURVIVE, found=3),
    _merge("dot-used-again", "a dot is used again",
           "P3: an epoch goes on in the next life", SURVIVE, found=52),
    _merge("void-ignored", "amends are ignored", "P4: what is void or wrong stays so", EQUAL, found=43),
    _merge("sum-forgotten", "a folded sum is forgotten",
           "P3: a counter forgets closed epochs", SURVIVE, found=22),
    _merge("cells-not-kept", "cells are not kept",
           "P3: a start finds old cells under new knowledge", SURVIVE, found=3),
    _merge("stamps-stay-wrong", "wrong stamps are not corrected",
           "P4: what a wrong clock stamped never comes", EQUAL, found=43, quick=False),
)  # fmt: skip
MUTANTS: Final = TASKS + MERGES


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search has shown. `seed`: the first that found it; None: it survived `plays` seeds.

    `raised`: plays that an error ended, which is no word of the checker.
    """

    name: str
    seed: int | None
    plays: int
    raised: int
    seconds: float
    line: str


def searched(name: str) -> Searched:
    """From its first seed on, until its checker finds it."""
    mutant = next(each for each in MUTANTS if each.name == name)
    begun = time.monotonic()
    raised, plays, said = 0, 0, ""
    for seed in range(mutant.first, mutant.first + mutant.seeds):
        plays += 1
        try:
            with applied(mutant):
                (verdict,) = judged(seed, mutant.nodes, mutant.settings, mutant.checker)
        except Exception as error:  # the door: a defect may raise anything
            raised += 1
            said = f"{type(error).__name__}: {error}"[:150]
            continue
        if verdict.word == "failed" and not _fails_anyway(seed, mutant):
            seconds = time.monotonic() - begun
            return Searched(name, seed, plays, raised, seconds, verdict.violations[0])
    return Searched(name, None, plays, raised, time.monotonic() - begun, said)


def _fails_anyway(seed: int, mutant: Mutant) -> bool:
    """Then this seed says nothing of the mutant."""
    return any(verdict.word == "failed" for verdict in judged(seed, mutant.nodes, mutant.settings))


def main(names: list[str]) -> int:
    """The table. Returns: mutants that survived."""
    known = [each.name for each in MUTANTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    print(f"drawing {VERSION}; seeds were recorded with {RECORDED_VERSION}")
    print(f"{'mutant':26} {'checker':22} {'seed':>5} {'plays':>5} {'s':>6}  first violation")
    survived = 0
    with ProcessPoolExecutor() as pool:
        for each in pool.map(partial(searched), names or known):
            checker = next(mutant.checker for mutant in MUTANTS if mutant.name == each.name)
            seed = "-" if each.seed is None else str(each.seed)
            survived += each.seed is None
            more = f" ({each.raised} plays raised)" if each.raised else ""
            columns = f"{each.name:26} {checker:22} {seed:>5} {each.plays:>5} {each.seconds:6.1f}"
            print(f"{columns}  {each.line}{more}", flush=True)
    print(f"{survived} survived" if survived else "all found")
    return min(survived, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
