"""Arguments against annotations: does this call fit that function? Asked before anything is sent.

In: a manifest and a call's values. Out: nothing, or one line that names the argument, the place inside it,
what was expected and what came. Known: None bool int float str bytes list dict tuple datetime Any,
Optional, Union and ``|``, ``list[...]``, ``dict[...]``, ``tuple[...]``, Sequence, Mapping, ndarray. Any other
annotation accepts everything: annotations are help, not a security boundary.
An int passes as float and a bool as int, as in PEP 484; a tuple and a list pass for each other, since tuples
arrive as lists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edge_node.functions.manifest import Manifest, Param
from edge_node.stand_ins import Later
from security.errors import BadInput

if TYPE_CHECKING:
    import ast
else:
    ast = Later("ast")  # see manifest

Check = Callable[[Any], str | None]  # None: fits; else "row 3: expected dict, got int"


def check_arguments(manifest: Manifest, args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises: BadInput: too many, too few, unknown or unfit arguments."""
    name = manifest.name
    bound: dict[str, Any] = {}
    places = [param for param in manifest.params if param.kind in ("positional", "either")]
    rest = next((param for param in manifest.params if param.kind == "args"), None)
    more = next((param for param in manifest.params if param.kind == "kwargs"), None)
    by_name = {param.name: param for param in manifest.params if param.kind in ("either", "keyword")}
    fix = f"it is {manifest.signature()}"
    if len(args) > len(places) and rest is None:
        raise BadInput(f"{name} takes {_count(len(places))}, {len(args)} were given", fix=fix)
    for param, value in zip(places, args, strict=False):
        bound[param.name] = value
        _check(name, param, param.name, value)
    if rest is not None:
        for index, value in enumerate(args[len(places) :]):
            _check(name, rest, f"{rest.name}[{index}]", value)
    for key, value in kwargs.items():
        known = by_name.get(key)
        if known is not None and key in bound:
            raise BadInput(f"argument {key!r} of {name} was given twice", fix=fix)
        if known is None and more is None:
            raise BadInput(f"{name} has no argument {key!r:.60}", fix=fix)
        if known is not None:
            bound[key] = value
        _check(name, known or _kwarg(more), key, value)
    missing = [
        param.name
        for param in manifest.params
        if param.kind in ("positional", "either", "keyword")
        and not param.has_default
        and param.name not in bound
    ]
    if missing:
        raise BadInput(f"{name} lacks argument {', '.join(map(repr, missing))}", fix=fix)


def _kwarg(more: Param | None) -> Param:
    assert more is not None, "asked only where **kwargs exists"
    return more


def _check(name: str, param: Param, shown: str, value: Any) -> None:
    check = checker(param.annotation, "row" if param.name == "rows" else "item")
    cause = check(value) if check is not None else None
    if cause is not None:
        raise BadInput(f"argument {shown!r:.60} of {name}: {cause}")


def _count(count: int) -> str:
    return "no arguments" if count == 0 else "1 argument" if count == 1 else f"{count} arguments"


@functools.lru_cache(maxsize=512)
def checker(annotation: str, item: str = "item") -> Check | None:
    """The check that an annotation's text asks for; None: it accepts everything."""
    if not annotation or len(annotation) > 1000:
        return None
    try:
        return _compile(ast.parse(annotation, mode="eval").body, item, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_SIMPLE: dict[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int, bool),
    "float": (float, int, bool),
    "complex": (float, int, bool),
    "str": (str,),
    "bytes": (bytes, bytearray, memoryview),
    "datetime": (datetime,),
    "list": (list, tuple),
    "tuple": (list, tuple),
    "dict": (dict,),
}
_ALIASES = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Sequence": "list", "MutableSequence": "list",
            "Mapping": "dict", "MutableMapping": "dict"}  # fmt: skip
_ARRAYS = ("ndarray", "NDArray", "ArrayLike")


def _compile(node: ast.expr, item: str, depth: int) -> Check | None:
    if depth > 16:
        return None
    if isinstance(node, ast.Constant):
        if node.value is None:
            return _simple("None")
        return _compile(ast.parse(node.value, mode="eval").body, item, depth + 1) if isinstance(
            node.value, str
        ) else None  # fmt: skip
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union(_branches(node), item, depth)
    if isinstance(node, ast.Subscript):
        return _generic(_word(node.value), node.slice, item, depth)
    word = _word(node)
    if word in ("ndarray", "NDArray"):
        return _array
    return _simple(word) if word in _SIMPLE else None


def _branches(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_branches(node.left), *_branches(node.right)]
    return [node]


def _word(node: ast.expr) -> str:
    """The last name of a dotted one: ``t.List`` → ``list``."""
    word = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return _ALIASES.get(word, word)


def _generic(word: str, inside: ast.expr, item: str, depth: int) -> Check | None:
    parts = list(inside.elts) if isinstance(inside, ast.Tuple) else [inside]
    if word == "Optional":
        return _union([*parts, ast.Constant(None)], item, depth)
    if word == "Union":
        return _union(parts, item, depth)
    if word == "Annotated":
        return _compile(parts[0], item, depth + 1)
    if word in ("ndarray", "NDArray"):
        return _array
    if word == "list" and len(parts) == 1:
        return _list(_compile(parts[0], "item", depth + 1), _types(parts[0]), item)
    if word == "tuple":
        if len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...:
            return _list(_compile(parts[0], "item", depth + 1), _types(parts[0]), item)
        return _tuple([_compile(part, "item", depth + 1) for part in parts])
    if word == "dict" and len(parts) == 2:
        return _dict(
            _compile(parts[0], "item", depth + 1), _types(parts[0]),
            _compile(parts[1], "item", depth + 1), _types(parts[1]),
        )  # fmt: skip
    return None


def _types(node: ast.expr) -> frozenset[type]:
    """Types that fit without looking inside; lets a long list be checked by the set of its types."""
    found: set[type] = set()
    for branch in _branches(node):
        if isinstance(branch, ast.Constant) and branch.value is None:
            found.add(type(None))
        elif isinstance(branch, ast.Name | ast.Attribute):
            found.update(_SIMPLE.get(_word(branch), ()))
    return frozenset(found)


def _name_of(value: Any) -> str:
    return "None" if value is None else "bool" if value is True or value is False else type(value).__name__


def _simple(word: str) -> Check:
    types = _SIMPLE[word]

    def check(value: Any) -> str | None:
        return None if isinstance(value, types) else f"expected {word}, got {_name_of(value)}"

    return check


def _array(value: Any) -> str | None:
    kind = type(value)
    if kind.__name__ == "ndarray" and kind.__module__.partition(".")[0] == "numpy":
        return None  # told by name: this module must not import numpy
    return f"expected numpy.ndarray, got {_name_of(value)}"


def _union(parts: list[ast.expr], item: str, depth: int) -> Check | None:
    checks = [_compile(part, item, depth + 1) for part in parts]
    known = [check for check in checks if check is not None]
    if len(known) < len(checks):
        return None  # one branch accepts everything
    shown = " or ".join(ast.unparse(part) for part in parts)

    def check(value: Any) -> str | None:
        causes = []
        for branch in known:
            cause = branch(value)
            if cause is None:
                return None
            causes.append(cause)
        inner = [cause for cause in causes if not cause.startswith("expected ")]
        return inner[0] if len(inner) == 1 else f"expected {shown}, got {_name_of(value)}"

    return check


def _list(inner: Check | None, fitting: frozenset[type], item: str) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"expected list, got {_name_of(value)}"
        if inner is None or fitting.issuperset(map(type, value)):
            return None
        for index, one in enumerate(value):
            cause = inner(one)
            if cause is not None:
                return f"{item} {index}: {cause}"
        return None

    return check


def _tuple(inner: list[Check | None]) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"expected tuple, got {_name_of(value)}"
        if len(value) != len(inner):
            return f"expected {len(inner)} items, got {len(value)}"
        for index, (branch, one) in enumerate(zip(inner, value, strict=True)):
            cause = branch(one) if branch is not None else None
            if cause is not None:
                return f"item {index}: {cause}"
        return None

    return check


def _dict(key: Check | None, keys: frozenset[type], value: Check | None, values: frozenset[type]) -> Check:
    def check(given: Any) -> str | None:
        if not isinstance(given, dict):
            return f"expected dict, got {_name_of(given)}"
        if key is not None and not keys.issuperset(map(type, given)):
            for one in given:
                cause = key(one)
                if cause is not None:
                    return f"key {one!r:.40}: {cause}"
        if value is not None and not values.issuperset(map(type, given.values())):
            for one, held in given.items():
                cause = value(held)
                if cause is not None:
                    return f"key {one!r:.40}: {cause}"
        return None

    return check
