"""Events in the words of a stream: once for all readers, and never two events as one."""

from __future__ import annotations

import msgspec

from gateway.api.said import SAID_MAX, Said


def event(number, **fields):
    return {"cursor": f"{number}-00c0ffee", "subject": "task", "id": f"t{number}"} | fields


def test_an_event_is_three_lines_and_an_empty_one():
    said = Said()(event(7))

    head, name, data, *end = said.decode().split("\n")
    assert (head, name, end) == ("id: 7-00c0ffee", "event: task", ["", ""])
    assert msgspec.json.decode(data.removeprefix("data: ")) == event(7)


def test_what_was_said_once_is_said_again_without_another_encoding():
    said = Said()
    first = said(event(7))

    assert said(event(7)) is first and said(event(8)) != first


def test_a_subject_cannot_end_its_line():
    assert b"\nevent: tasktaskdata\n" in Said()(event(1, subject="task\r\ntask\ndata: "))
    assert b"\nevent: other\n" in Said()(event(2, subject="\n"))


def test_only_the_newest_are_remembered():
    said = Said()
    for number in range(SAID_MAX + 9):
        said(event(number))

    assert len(said) == SAID_MAX
