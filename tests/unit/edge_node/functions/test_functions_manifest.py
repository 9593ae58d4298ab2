"""Manifests are read from the syntax tree, and every refusal names file and line."""

from __future__ import annotations

import pytest

from edge_node.functions import function
from edge_node.functions.manifest import Manifest, Param, read_manifests
from security.errors import BadInput, ProtocolViolation

HEAD = "from edge_node.functions import function\n\n"


def test_everything_that_a_file_offers_is_read():
    source = HEAD + (
        "raise SystemExit('never run')\n"
        '@function(timeout_s=5, memory_mb=128, requires=["numpy"], labels={"site": "a"},'
        " output_bytes_max=100)\n"
        "def changes(rows: list[dict], /, window: 'int' = 3, *more: float,"
        " penalty: float = 1, name, **kw) -> list[int]:\n"
        '    """Row indexes at which the state changes.\n\n    More.\n    """\n'
        "def helper(): pass\n"
        "@function\ndef plain(): pass\n"
    )
    first, second = read_manifests("functions/room.py", source)

    assert first == Manifest(
        name="room.changes",
        params=(
            Param("rows", "list[dict]", False, "positional"),
            Param("window", "int", True, "either"),
            Param("more", "float", False, "args"),
            Param("penalty", "float", True, "keyword"),
            Param("name", "", False, "keyword"),
            Param("kw", "", False, "kwargs"),
        ),
        returns="list[int]",
        timeout_s=5.0,
        memory_mb=128,
        requires=("numpy",),
        labels={"site": "a"},
        doc="Row indexes at which the state changes.",
        output_bytes_max=100,
        line=5,
    )
    assert (second.name, second.timeout_s, second.memory_mb) == ("room.plain", 30.0, 256)
    assert first.signature() == (
        "room.changes(rows: list[dict], /, window: int = …, *more: float,"
        " penalty: float = …, name, **kw) -> list[int]"
    )


@pytest.mark.parametrize(
    "head",
    [
        "from edge_node.functions import function as offered\n@offered\n",
        "import edge_node.functions\n@edge_node.functions.function(timeout_s=1)\n",
        "import edge_node.functions as ef\n@ef.function\n",
        "from edge_node import functions\n@functions.function()\n",
        "from edge_node.functions.decorator import function\n@function\n",
    ],
)
def test_the_decorator_is_known_by_any_imported_name(head):
    assert [m.name for m in read_manifests("a.py", head + "def f(): pass")] == ["a.f"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n", "a.py:1: invalid syntax"),
        ("x = 1\n", "no function is marked with @function; found no function at all"),
        ("def f(): pass\ndef g(): pass\n", "found f, g without it"),
        ("def function(x): return x\n@function\ndef f(): pass", "found function, f without it"),
        (HEAD + "@function(timeout=5)\ndef f(): pass", "a.py:3: @function knows no timeout"),
        (HEAD + "@function(**{})\ndef f(): pass", "a.py:3: @function knows no **"),
        (HEAD + "T = 5\n@function(timeout_s=T)\ndef f(): pass", "a.py:4: timeout_s must be a literal, not T"),
        (HEAD + "@function(timeout_s='5')\ndef f(): pass", "timeout_s must be a number of seconds, not '5'"),
        (HEAD + "@function(timeout_s=True)\ndef f(): pass", "timeout_s must be a number"),
        (HEAD + "@function(timeout_s=0)\ndef f(): pass", "a.py:3: timeout_s must be between"),
        (HEAD + "@function(timeout_s=1e999)\ndef f(): pass", "timeout_s must be between"),
        (HEAD + "@function(memory_mb=1.5)\ndef f(): pass", "memory_mb must be a whole number"),
        (HEAD + "@function(memory_mb=-1)\ndef f(): pass", "memory_mb must be between"),
        (HEAD + "@function(requires='numpy')\ndef f(): pass", "requires must be a list of module names"),
        (HEAD + "@function(requires=['numpy>=1'])\ndef f(): pass", "as one imports them"),
        (HEAD + "@function(labels={'a': 1})\ndef f(): pass", "labels must be a dict of strings"),
        (HEAD + "@function(output_bytes_max=9000000000)\ndef f(): pass", "output_bytes_max must be between"),
        (HEAD + "@function(5)\ndef f(): pass", "@function takes keywords only"),
        (HEAD + "@function\nasync def f(): pass", "a.py:4: f is async"),
        (HEAD + "class A:\n    @function\n    def f(self): pass", "a.py:5: f is inside a class or function"),
        (HEAD + "@function\nclass A: pass", "a.py:4: A is a class"),
        (HEAD + "@function\ndef f(): pass\n@function\ndef f(): pass", "a.py:6: f is defined twice"),
        (HEAD + "@function\ndef f(x: '" + "y" * 20_000 + "'): pass", "too long"),
        (HEAD + "x = '" + "y" * 1024 * 1024 + "'", "a function file may have"),
        ("\0", "a.py"),
        ("(" * 5000, "a.py"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_offered_says_where_and_why(source, said):
    with pytest.raises(BadInput) as caught:
        read_manifests("a.py", source)

    assert said in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(BadInput):
        read_manifests("a.py", b"x = '\xff'\n")


@pytest.mark.parametrize("name", ["room.txt", "my-room.py", "1.py", "class.py", ".py", "a b.py"])
def test_a_file_name_that_gives_no_function_name_is_refused(name):
    with pytest.raises(BadInput, match="cannot name a function file"):
        read_manifests(name, HEAD)


def test_bytes_and_back():
    (manifest,) = read_manifests("a.py", HEAD + "@function(labels={'b': '1', 'a': '2'})\ndef f(x: int): pass")

    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc0", b"\x81\xa4name\x01", b"\x80", b"x" * 20_000,
        Manifest("nodot").to_bytes(), Manifest("a.b", timeout_s=-1).to_bytes(),
        Manifest("a.b", timeout_s=float("nan")).to_bytes(), Manifest("a.b", requires=("os; rm",)).to_bytes(),
        Manifest("a.b.c").to_bytes(),
    ],
)  # fmt: skip
def test_a_manifest_from_elsewhere_is_judged_again(data):
    with pytest.raises(ProtocolViolation):
        Manifest.from_bytes(data)


def test_a_marked_function_stays_a_function():
    @function(timeout_s=5)
    def f(x):
        return x + 1

    @function
    def g(x):
        return x + 2

    assert (f(1), g(1), f.__name__) == (2, 3, "f")
