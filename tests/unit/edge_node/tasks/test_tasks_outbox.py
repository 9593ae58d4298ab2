"""The outbox of a destination: what is asked for now goes before what waited, and neither starves."""

from __future__ import annotations

from edge_node.tasks.ledger import Entry
from edge_node.tasks.outbox import LIVE_RUN, SWEPT, Outbox
from edge_node.tasks.states import State
from edge_node.tasks.task import Task


def entry(name: str) -> Entry:
    task = Task(
        id=name,
        function="f",
        digest=bytes(32),
        input=b"",
        input_sha256=bytes(32),
        origin="pi-1",
        where="pi-2",
    )
    return Entry(task, 1, 10**18, None)


def names(outbox: Outbox, most: int = 1000) -> list[str]:
    found = []
    while len(found) < most and (one := outbox.take()) is not None:
        found.append(one.task.id)
    return found


def test_what_is_asked_for_now_goes_first_and_the_backlog_does_not_starve():
    outbox = Outbox()
    for n in range(5):
        outbox.put(entry(f"old-{n}"), away=True, open_tasks=100)
    for n in range(3 * LIVE_RUN):
        outbox.put(entry(f"new-{n}"), away=False, open_tasks=100)

    order = names(outbox)
    assert order[: LIVE_RUN + 1] == [*(f"new-{n}" for n in range(LIVE_RUN)), "old-0"]
    assert [name for name in order if name.startswith("old")] == [f"old-{n}" for n in range(5)]
    assert [name for name in order if name.startswith("new")] == [f"new-{n}" for n in range(3 * LIVE_RUN)]
    assert order[-2:] == ["old-3", "old-4"] and not outbox


def test_who_ended_meanwhile_is_passed_over():
    outbox = Outbox()
    entries = [entry(str(n)) for n in range(4)]
    for one in entries:
        outbox.put(one, away=True, open_tasks=4)
    entries[0].state = entries[2].state = State.CLOSING

    assert [one.task.id for one in outbox.waiting] == ["1", "3"]
    assert names(outbox) == ["1", "3"]


def test_who_ended_does_not_pile_up():
    outbox = Outbox()
    for n in range(10_000):
        one = entry(str(n))
        outbox.put(one, away=bool(n % 2), open_tasks=3)
        one.state = State.CLOSING
        assert len(outbox) <= SWEPT + 2 * 3 + 1
