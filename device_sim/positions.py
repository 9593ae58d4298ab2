"""Where every key of a TOML text stands.

``tomllib`` tells values but not lines, and an error without its line sends people searching. This is a
reader of TOML's outline alone: headers, keys, brackets and strings (to know where they end), with every
value skipped. It expects text that ``tomllib`` has accepted already and says nothing about what is wrong.

In: text. Out: line numbers by path, as ``("devices", 2, "trace", "rate_hz") -> 14``; an element of an array
of tables or of an array has its index in the path. Not here: values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

Path = tuple[str | int, ...]

_BARE_END: Final = frozenset(" \t=.]\r\n#")


def positions(text: str) -> dict[Path, int]:
    """The line (from 1) on which each key, table or element begins. A table that only its children name
    (``[a.b]`` without ``[a]``) stands where the first of them does."""
    return _Outline(text).read()


def nearest(lines: Mapping[Path, int], path: Path) -> int:
    """The line of *path*, or of the closest that contains it; 1 for the document."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Outline:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._lines: dict[Path, int] = {}
        self._sizes: dict[Path, int] = {}  # arrays of tables: how many so far

    def read(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank():
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    # ── lines ─────────────────────────────────────────────────────────────────────────────────────

    def _header(self) -> Path:
        line = self._line
        self._take()
        many = self._peek() == "["
        if many:
            self._take()
        words = self._key()
        self._take()
        if many:
            self._take()
        path: Path = ()
        for number, word in enumerate(words, 1):
            path = (*path, word)
            self._lines.setdefault(path, line)
            last = number == len(words)
            if last and many:
                self._sizes[path] = self._sizes.get(path, 0) + 1
            if path in self._sizes:  # a header inside an array of tables speaks of its newest element
                path = (*path, self._sizes[path] - 1)
                self._lines.setdefault(path, line)
            elif last:
                self._lines[path] = min(self._lines[path], line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line
        path = table
        for word in self._key():
            path = (*path, word)
            self._lines.setdefault(path, line)
        self._take()  # the equals sign
        self._value(path)

    def _key(self) -> list[str]:
        words = []
        while True:
            self._skip_space()
            words.append(self._string() if self._peek() in "\"'" else self._bare())
            self._skip_space()
            if self._peek() != ".":
                return words
            self._take()

    def _bare(self) -> str:
        start = self._at
        while self._peek() and self._peek() not in _BARE_END:
            self._take()
        return self._text[start : self._at]

    # ── values ────────────────────────────────────────────────────────────────────────────────────

    def _value(self, path: Path) -> None:
        self._skip_space()
        match self._peek():
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case '"' | "'":
                self._string()
            case _:  # a number, a date, true or false: none of them holds a comma, a bracket or a '#'
                while self._peek() and self._peek() not in ",]}#\r\n":
                    self._take()

    def _array(self, path: Path) -> None:
        self._take()
        index = 0
        while self._skip_blank() and self._peek() != "]":
            if self._peek() == ",":
                self._take()
                continue
            self._lines.setdefault((*path, index), self._line)
            self._value((*path, index))
            index += 1
        self._take()

    def _inline_table(self, path: Path) -> None:
        self._take()
        while self._skip_blank() and self._peek() != "}":
            if self._peek() == ",":
                self._take()
                continue
            self._pair(path)
        self._take()

    def _string(self) -> str:
        """Of any kind; the text of a one-line one, which is all that a key may be."""
        quote = self._peek()
        if self._text.startswith(quote * 3, self._at):
            return self._long_string(quote)
        start = self._at
        self._take()
        while self._peek() not in (quote, ""):
            if quote == '"' and self._peek() == "\\":
                self._take()
            self._take()
        self._take()
        word = self._text[start : self._at]
        if quote == "'":
            return word[1:-1]
        try:
            return str(json.loads(word))
        except ValueError:  # TOML's escapes are JSON's, but for \U and \e: no key of ours has them
            return word[1:-1]

    def _long_string(self, quote: str) -> str:
        for _ in range(3):
            self._take()
        while self._peek() and not self._text.startswith(quote * 3, self._at):
            if quote == '"' and self._peek() == "\\":
                self._take()
            self._take()
        for _ in range(3):
            self._take()
        while self._peek() == quote:  # up to two more belong to the text
            self._take()
        return ""

    # ── characters ────────────────────────────────────────────────────────────────────────────────

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> None:
        if self._peek() == "\n":
            self._line += 1
        self._at += 1

    def _skip_space(self) -> None:
        while self._peek() in (" ", "\t"):
            self._take()

    def _skip_blank(self) -> bool:
        """Past spaces, line ends and comments. False: the text is over."""
        while self._peek():
            if self._peek() == "#":
                while self._peek() not in ("\n", ""):
                    self._take()
            elif self._peek() in " \t\r\n":
                self._take()
            else:
                return True
        return False
