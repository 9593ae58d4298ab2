"""The narrator: entries in order become sentences, one a line, each with the time of whoever noted it.

    12:03:01.123  pi-3 accepted it: toys.nap
    12:03:05.340  pi-3: the lease of attempt 1 at pi-1 lapsed (lease lapsed), silent for 4.2 s
    …
    what is missing: pi-1 could not be asked: it is away since 12:03:11; its side is missing

In: the plain answer of `correspondence` (or of a home that was read with its daemon down). Out: lines. Times
are shown by `when`, since what a moment is called depends on where it is read. An entry of a kind that this
version does not know is told as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_node.chronicle.entry import Entry, Subject, What
from edge_node.chronicle.merging import SKEW_MS, merged, without_echoes
from edge_node.tasks.tracing import trace_id

When = Callable[[int], str]
"""A wall time in milliseconds, as people write it."""

_BEGINNINGS = frozenset(
    {What.LOST, What.RESTARTED, What.LINK_DOWN, What.SHUT_OUT, What.CODE_MISSED, What.RESTED}
)
"""What others followed from: its cause id is worth asking about."""
_ENDINGS = {
    "done": "it is done",
    "failed": "it failed",
    "expired": "it expired",
    "cancelled": "it was cancelled",
    "quarantined": "it was quarantined",
}


def narrated(answer: Mapping[str, Any], when: When) -> list[str]:
    """The whole story: a heading, the entries, what is missing."""
    about, told_by = str(answer["about"]), str(answer["asked_by"])
    raw = [Entry(**each) for each in answer["entries"]]
    skews = {side["node"]: int(side["skew_ms"]) for side in answer["sides"]}
    entries = without_echoes(about, merged(about, raw, skews))
    lines = [heading(about, entries)]
    width = max((len(when(each.at_ms)) for each in entries if each.at_ms), default=0)
    for each in entries:
        at = when(each.at_ms) if each.at_ms else "?"
        lines.append(f"  {at:<{width}}  {sentence(each, about, when)}")
    lines += [f"  {line}" for line in remarks(answer, entries, when)]
    if not entries:
        lines.append(f"  nothing that was not plain has been noted of it at {told_by}")
    return lines


def heading(about: str, entries: Sequence[Entry]) -> str:
    for each in entries:
        if each.id == about and each.subject == Subject.TASK:
            if each.what == What.ACCEPTED:
                return f"task {about} ({each.details.get('function', '?')}), owner {each.node}"
            return f"task {about}"
    subjects = [each.subject for each in entries if each.id == about]
    for subject in sorted(
        subjects, key=lambda each: each == Subject.TABLES
    ):  # a node's name may be a table's
        return f"{subject} {about}"
    return f"what followed from {about}" if entries else about


def remarks(answer: Mapping[str, Any], entries: Sequence[Entry], when: When) -> list[str]:
    """What is missing of the story, and whose clock differs."""
    found = []
    noters = {each.node for each in entries}
    first_ms = min((each.at_ms for each in entries if each.at_ms), default=0)
    for side in answer["sides"]:
        node, skew_ms = side["node"], int(side["skew_ms"])
        if abs(skew_ms) > SKEW_MS and node in noters:
            way = "ahead of" if skew_ms > 0 else "behind"
            found.append(
                f"clocks disagree: {node}'s is {duration(abs(skew_ms))} {way} that of {answer['asked_by']}"
            )
        if not side["complete"]:
            found.append(f"missing: {node} noted more than it could tell; what is told is its newest")
        if side["since_ms"] and first_ms and side["since_ms"] > first_ms:
            found.append(f"missing: {node} has forgotten what it noted before {when(side['since_ms'])}")
    for each in answer["missing"]:
        since = f" since {when(each['since_ms'])}" if each["since_ms"] else ""
        found.append(f"missing: {each['node']} {each['reason']}{since}; its side is missing")
    if not answer.get("others_asked", True):
        found.append("missing: nobody else was asked")
    return found


def duration(ms: float) -> str:
    """As people say it: 850 ms, 2.1 s, 3 min, 2.5 h, 4 days."""
    if ms < 1000:
        return f"{ms:.3g} ms"
    for unit, size, most in (("s", 1e3, 120), ("min", 6e4, 120), ("h", 3.6e6, 48)):
        if ms / size < most:
            return f"{ms / size:.3g} {unit}"
    return f"{ms / 8.64e7:.3g} days"


def sentence(each: Entry, about: str = "", when: When = str) -> str:
    """One entry. Args: about: the id that is asked for, which need not be named again."""
    teller = _TELLERS.get(each.what)
    if teller is None:
        return f"{each.node} noted {each.what!r} of {each.id}{_fields(each)}"
    told = teller(each, _Words(each, when))
    if each.subject == Subject.TASK and each.id != about:
        told += f" (task {each.id})"
    elif each.cause not in (about, each.id) and (each.subject == Subject.TASK or each.what in _BEGINNINGS):
        told += f" (cause {each.cause})"
    return told


class _Words:
    """Fields of an entry as text."""

    def __init__(self, each: Entry, when: When) -> None:
        self._details = each.details
        self._when = when

    def text(self, name: str, default: str = "") -> str:
        return str(self._details.get(name, default))

    def number(self, name: str) -> float | None:
        value = self._details.get(name)
        return value if isinstance(value, int | float) else None

    def ms(self, name: str, before: str = "", after: str = "") -> str:
        """With what stands around it; empty if the field is not there."""
        value = self.number(name)
        return "" if value is None else f"{before}{duration(value)}{after}"

    def at(self, name: str, before: str = "") -> str:
        value = self.number(name)
        return "" if not value else f"{before}{self._when(int(value))}"

    def reason(self, before: str = ": ") -> str:
        return f"{before}{self.text('reason')}" if self.text("reason") else ""


def _fields(each: Entry) -> str:
    told = ", ".join(f"{name} {value}" for name, value in each.details.items())
    return f" ({told})" if told else ""


# ── a task at its owner ───────────────────────────────────────────────────────────────────────────────


def _accepted(each: Entry, words: _Words) -> str:
    where = f", for {words.text('where')} alone" if words.text("where") else ""
    due = words.ms("deadline_ms", ", due within ")
    traced = f", of trace {trace_id(words.text('traceparent'))}" if words.text("traceparent") else ""
    return f"{each.node} accepted it: {words.text('function', '?')}{where}{due}{traced}"


def _attempted(each: Entry, words: _Words) -> str:
    ended = words.text("as")
    if ended == "lost in a restart":
        return f"{each.node} restarted and took it up again: attempt {each.attempt} is lost"
    began = words.at("started_at_ms", ", begun ")
    pid = f", process {words.text('pid')}" if words.text("pid") else ""
    return f"attempt {each.attempt} on {each.place or each.node} ended: {ended}{began}{pid}"


def _settled(each: Entry, words: _Words) -> str:
    status = words.text("status")
    ending = _ENDINGS.get(status, f"it ended as {status}")
    ran = ""
    run_us = words.number("run_us")
    if run_us and each.place:
        ran = f" after {duration(run_us / 1000)}"
    return f"{each.node} committed the end: {ending}{ran}{words.reason()}"


def _remarked(each: Entry, words: _Words) -> str:
    return f"{each.node} remarked: {words.text('text')}"


def _now(each: Entry, words: _Words) -> str:
    at = f" at {each.place}" if each.place else ""
    figures = f", chosen by {_figures(each, words)}" if words.text("figures") else ""
    return f"{each.node}: it is {words.text('state')}{at} now{figures}"


def _figures(each: Entry, words: _Words) -> str:
    """The rule and the figures of a choice, as placement writes them, without the place again."""
    return words.text("figures").removeprefix(f"{each.place}: ")


def _placed(each: Entry, words: _Words) -> str:
    place = "itself" if each.place == each.node else each.place
    return f"{each.node} chose {place} for attempt {each.attempt}: {_figures(each, words)}"


def _turned_down(each: Entry, words: _Words) -> str:
    place = "itself" if each.place == each.node else each.place
    figures = [
        words.ms("wait_ms", "its wait is reckoned at "),
        words.ms("left_ms", "", " left of the deadline"),
    ]
    told = "; ".join(each for each in figures if each)
    ended = words.text("as", "turned down")
    return f"{each.node}: attempt {each.attempt} at {place} {ended}{f' ({told})' if told else ''}"


def _lapsed(each: Entry, words: _Words) -> str:
    silent = words.ms("silent_ms", "; its last word was ", " before")
    return f"{each.node}: attempt {each.attempt} at {each.place} is given up{words.reason()}{silent}"


def _worker_died(each: Entry, words: _Words) -> str:
    deaths = words.number("deaths") or 0
    so_far = f", {deaths:.0f} so far" if deaths > 1 else ""
    what = "took a worker down" if words.number("began") else "lost its worker before it had begun"
    return f"{each.node}: attempt {each.attempt} {what} at {each.place}{so_far}"


def _not_used(each: Entry, words: _Words) -> str:
    status = words.text("status")
    return (
        f"{each.node} recorded a late result ({status}) of attempt {each.attempt} from {each.place} "
        "as a duplicate; it is not used"
    )


# ── a task at its holder ──────────────────────────────────────────────────────────────────────────────


def _took(each: Entry, words: _Words) -> str:
    wait = words.number("wait_ms")
    waits = f", to wait {duration(wait)} for a worker" if wait else ""
    return f"{each.node} took attempt {each.attempt} from {each.place}{waits}"


def _refused(each: Entry, words: _Words) -> str:
    figures = [
        words.ms("wait_ms", "a new task waits "),
        words.ms("run_ms", "and runs "),
        words.ms("left_ms", "with ", " left of its deadline"),
        words.ms("promised_ms", "its owner reckoned with a wait of "),
    ]
    told = ", ".join(each for each in figures if each)
    why = f"{words.reason()}{f' ({told})' if told else ''}"
    return f"{each.node} refused attempt {each.attempt} of {each.place}{why}"


def _ran(each: Entry, words: _Words) -> str:
    began = words.at("started_at_ms", ", begun ")
    pid = f", process {words.text('pid')}" if words.text("pid") else ""
    status = words.text("status")
    what = {"done": "finished", "died": "lost its worker to"}.get(status, f"ended ({status})")
    return (
        f"{each.node} {what} attempt {each.attempt} of {each.place}{words.ms('run_ms', ' in ')}{began}{pid}"
    )


def _stopped(each: Entry, words: _Words) -> str:
    state = "while it ran" if words.number("began") else "before it ran"
    return f"{each.node} dropped attempt {each.attempt} of {each.place} {state}{words.reason()}"


def _not_started(each: Entry, words: _Words) -> str:
    return f"{each.node} could not start attempt {each.attempt}{words.reason()}"


# ── the door, nodes, functions ────────────────────────────────────────────────────────────────────────


def _turned_away(each: Entry, words: _Words) -> str:
    detail = f": {words.text('detail')}" if words.text("detail") else ""
    return (
        f"{each.node} did not accept task {words.text('task', '?')} ({words.text('function', '?')}): "
        f"{words.text('reason')}{detail}"
    )


def _started(each: Entry, words: _Words) -> str:
    resumed = words.number("open_tasks")
    more = f", {resumed:.0f} accepted tasks taken up again" if resumed else ""
    return f"{each.node} started ({words.text('version')}){more}"


def _killed(each: Entry, words: _Words) -> str:
    last = words.at("after_ms", " after ")
    gap = duration(1000 * (words.number("missing_s") or 0))
    how = "the machine had gone down" if words.text("machine") == "off" else "it was killed"
    found = f"{each.node} found that its life before had not ended in order ({how}){last}"
    return f"{found}: up to {gap} of it may be missing"


def _left_out(each: Entry, words: _Words) -> str:
    since = words.at("since_ms", " since ")
    return (
        f"{each.node} did not note {words.text('count')} more ({words.text('kind')}){since}: too many at once"
    )


def _plain(text: str, *, reason: bool = True) -> Callable[[Entry, _Words], str]:
    """*text* has {node}, {id}, {place} and names of details."""

    def told(each: Entry, words: _Words) -> str:
        fields = {name: str(value) for name, value in each.details.items()}
        said = text.format_map(_Gaps(fields, node=each.node, id=each.id, place=each.place))
        return said + (words.reason() if reason else "")

    return told


class _Gaps(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def _rested(each: Entry, words: _Words) -> str:
    mode = words.text("mode")
    what = {"work": "take work of others again", "drain": "take no work of others and hand back what waits"}
    asked = words.text("by") or "an operator"
    return (
        f"{each.node}: {asked} told {each.id} to {what.get(mode, 'take no work of others')} ({mode})"
        f"{words.at('asked_at_ms', ' at ')}{words.reason()}"
    )


def _shut_out(each: Entry, words: _Words) -> str:
    how = {"left": ": it left", "revoked": f": revoked by {words.text('by') or 'an operator'}"}
    told = f"{each.node}: {each.id} is no member any more, by roster {words.text('roster', '?')}"
    return f"{told}{how.get(words.text('status'), '')}{words.reason()}"


def _back(each: Entry, words: _Words) -> str:
    return f"{each.node}: {each.id} is back{words.ms('away_ms', ' after ')}"


# ── replicated tables ─────────────────────────────────────────────────────────────────────────────────


def _tables(text: str) -> Callable[[Entry, _Words], str]:
    """As `_plain`, with {key} as people write it and {whose} after the member whose writes it was about."""

    def told(each: Entry, words: _Words) -> str:
        key = words.text("key", "?")
        fields = {
            "key": key[1:] if key[:1] in ("s", "i") else key,
            "field": words.text("field", "?"),
            "whose": f" of {each.place}" if each.place else "",
            "who": f"{each.place} and another" if each.place else "two members",
        }
        said = text.format_map(_Gaps(fields, node=each.node, id=each.id, place=each.place or "somebody"))
        return said + (f": {words.text('detail')}" if words.text("detail") else "")

    return told


_TELLERS: dict[str, Callable[[Entry, _Words], str]] = {
    What.ACCEPTED: _accepted,
    What.ATTEMPTED: _attempted,
    What.SETTLED: _settled,
    What.REMARKED: _remarked,
    What.NOW: _now,
    What.PLACED: _placed,
    What.TURNED_DOWN: _turned_down,
    What.LAPSED: _lapsed,
    What.WORKER_DIED: _worker_died,
    What.NOT_USED: _not_used,
    What.TAKEN_UP: _plain("{node} took it up again after a restart"),
    What.NOT_WRITTEN: _plain("{node} could not write its ledger"),
    What.TOOK: _took,
    What.REFUSED: _refused,
    What.RAN: _ran,
    What.STOPPED: _stopped,
    What.NOT_STARTED: _not_started,
    What.TURNED_AWAY: _turned_away,
    What.STARTED: _started,
    What.ENDED: _plain("{node} shut down in order"),
    What.KILLED: _killed,
    What.LINK_UP: _plain("{node} was connected to the broker {broker}"),
    What.LINK_DOWN: _plain("{node} lost its connection to the broker"),
    What.LOST: _plain("{node}: {id} is lost"),
    What.BACK: _back,
    What.RESTARTED: _plain("{node}: {id} is there as a new process; what it held is gone"),
    What.ENROLLED: _plain("{node}: {id} is a member, by roster {roster}"),
    What.SHUT_OUT: _shut_out,
    What.EPOCH: _plain("{node} goes by group epoch {epoch}, shown by {place}"),
    What.RESTED: _rested,
    What.DAMAGED: _plain("{node} found damage"),
    What.CODE_CAME: _plain("{node} fetched the code {digest} of {id}"),
    What.CODE_MISSED: _plain("{node} could not fetch the code {digest} of {id}"),
    What.CONFLICT: _tables(
        "{node}: {who} wrote {field} of {key} in {id} without knowing of each other; both are kept"
    ),
    What.CONFLICT_CUT: _tables("{node} dropped a losing value{whose}: more rivals than a field holds"),
    What.BATCH_WAITS: _tables("{node} keeps writes{whose} apart and tries them again later"),
    What.BATCH_NOT_KEPT: _tables("{node} did not take writes{whose}; they are offered again"),
    What.BATCH_DROPPED: _tables("{node} dropped writes{whose} that are none"),
    What.ORPHANED: _tables("{node} alone had writes{whose}, and may not say them in its place"),
    What.CLOCK_AHEAD: _tables("{node} found that its own clock had run ahead"),
    What.STAMPED_AGAIN: _tables("{node} wrote anew, with true times, what its wrong clock had stamped"),
    What.WRITTEN_AGAIN: _tables("{node} wrote anew, in a new epoch, what not everybody could take"),
    What.SNAPSHOT_TAKEN: _tables("{node} was behind and took over the tables{whose}"),
    What.SNAPSHOT_DROPPED: _tables("{node} did not take over the tables{whose}"),
    What.DIVERGED: _tables("{node} knows the same as {place} and holds other cells"),
    What.STATE_NOT_WRITTEN: _tables("{node} could not write its tables; writes are refused until it can"),
    What.LEFT_OUT: _left_out,
}
assert _TELLERS.keys() == {each.value for each in What}, "every kind has its sentence"
