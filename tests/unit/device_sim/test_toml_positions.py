"""Lines of keys: whatever tomllib finds in a text has a line, and it is the right one."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.positions import nearest, positions


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1", ("a",), 1),
        ("# a = 0\n\na = 1", ("a",), 3),
        ("[x]\n[y]\na = 1\n[z]\na = 2", ("z", "a"), 5),
        ("[x.y]\na = 1", ("x",), 1),
        ("[x.y]\na = 1\n[x]\nb = 2", ("x", "b"), 4),
        ("[[d]]\na = 1\n[[d]]\na = 2", ("d", 1, "a"), 4),
        ("[[d]]\na = 1\n[[d]]\na = 2", ("d", 0), 1),
        ("[[d]]\n[d.t]\na = 1\n[[d]]\n[d.t]\na = 2", ("d", 1, "t", "a"), 6),
        ("[[d]]\n[[d.c]]\na = 1\n[[d.c]]\na = 2\n[[d]]\n[[d.c]]\na = 3", ("d", 1, "c", 0, "a"), 8),
        ("[[d]]\n[[d.c]]\na = 1\n[[d.c]]\na = 2", ("d", 0, "c", 1, "a"), 5),
        ("\nt.u.v = 1\nt.u.w = 2", ("t", "u", "w"), 3),
        ('[d]\nt . "u v".w = 1', ("d", "t", "u v", "w"), 2),
        ("t = { a = 1, b.c = 2 }", ("t", "b", "c"), 1),
        ("x = 1\nt = [{ a = 1 },\n  { a = 2, b = 3 }]", ("t", 1, "b"), 3),
        ("a = [\n  1, # one, ] {\n  2,\n]\nb = 2", ("a", 1), 3),
        ("a = [\n  1, # one, ] {\n  2,\n]\nb = 2", ("b",), 5),
        ('a = """\n[x]\nb = 1\n\\""" """\nb = 2', ("b",), 5),
        ("a = '''\n[x]\nb = 1'''\nb = 2", ("b",), 4),
        ('a = """x"""""\nb = 2', ("b",), 2),
        ('a = "[[x]] # \\" b = 1"\nb = 2', ("b",), 2),
        ("a = 'C:\\'\nb = 2", ("b",), 2),
        ("a = 2026-01-01 07:30:00 # when\r\nb = 2", ("b",), 2),
        ('"a.b" = 1\n\'c d\' = 2', ("c d",), 2),
        ("[ x . y ] # why\na = 1", ("x", "y", "a"), 2),
    ],
)  # fmt: skip
def test_a_key_is_found_on_its_line(text, path, line):
    tomllib.loads(text)

    assert positions(text)[path] == line


def test_what_is_not_written_is_told_by_what_contains_it():
    lines = positions("[fleet]\nname = 'x'\n[[devices]]\nid = 'a'")

    assert nearest(lines, ("devices", 0, "trace", "file")) == 3
    assert nearest(lines, ("gateway",)) == 1


KEYS = st.text("ab-_ .\"'#[]=\\é", min_size=1, max_size=4)
LEAVES = st.one_of(
    st.integers(-9, 9), st.booleans(), st.floats(-1e3, 1e3), st.text("x \"'#[]{}=,\\\n", max_size=8)
)
INLINE = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TREES = st.dictionaries(
    KEYS,
    INLINE
    | st.lists(st.dictionaries(KEYS, INLINE, min_size=1, max_size=3), min_size=1, max_size=3)
    | st.dictionaries(KEYS, INLINE, max_size=3),
    max_size=4,
)


class Writer:
    """Writes a tree as TOML and notes where it put each path."""

    def __init__(self, choose) -> None:
        self.lines = [""]
        self.where: dict[tuple[str | int, ...], int] = {}
        self.choose = choose

    def document(self, tree: dict[str, Any]) -> None:
        for key, value in tree.items():
            if not self.as_table(value):
                self.pair((), key, value)
        for key, value in tree.items():
            if not self.as_table(value):
                continue
            many = isinstance(value, list)
            for index, table in enumerate(value if many else [value]):
                self.note((key,))
                path = (key, index) if many else (key,)
                self.note(path)
                word = json.dumps(key, ensure_ascii=False)
                self.put(f"[[{word}]]\n" if many else f"[ {word} ] # [x]\n")
                for name, each in table.items():
                    self.pair(path, name, each)

    def as_table(self, value: Any) -> bool:
        tables = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
        return isinstance(value, dict) or bool(tables)

    def pair(self, path, key, value) -> None:
        self.note((*path, key))
        self.put(json.dumps(key, ensure_ascii=False) + " = ")
        self.value((*path, key), value)
        self.put(self.choose(["\n", " # why = [ \n", "\n\n# [x]\n"]))

    def value(self, path, value) -> None:
        match value:
            case dict():
                self.put("{")
                for number, (key, each) in enumerate(value.items()):
                    self.put(", " if number else " ")
                    self.note((*path, key))
                    self.put(json.dumps(key, ensure_ascii=False) + "=")
                    self.value((*path, key), each)
                self.put("}")
            case list():
                self.put("[")
                for index, each in enumerate(value):
                    self.put(self.choose(["", " ", "\n  ", " # ]\n"]))
                    self.note((*path, index))
                    self.value((*path, index), each)
                    self.put(",")
                self.put("]")
            case str() if "\n" in value and "'''" not in value and not value.endswith("'"):
                self.put(f"'''\n{value}'''")
            case str():
                self.put(json.dumps(value, ensure_ascii=False))
            case bool():
                self.put("true" if value else "false")
            case _:
                self.put(repr(value))

    def note(self, path) -> None:
        self.where.setdefault(path, self.text.count("\n") + 1)

    def put(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "".join(self.lines)


@pytest.mark.slow
@settings(max_examples=60)
@given(TREES, st.randoms(use_true_random=False))
def test_every_path_of_any_document_is_on_the_line_where_it_was_written(tree, rng):
    writer = Writer(rng.choice)
    writer.document(tree)
    assert tomllib.loads(writer.text) == tree

    assert positions(writer.text) == writer.where
