"""Manifest: what a function file offers, read from its syntax tree; user code is never imported here.

In: the file's name and text. Out: one ``Manifest`` a decorated function, named ``stem.function``. Its bytes
go, opaque, into the signed catalogue entry, so limits and requirements are what the deployer signed.
Not here: checking arguments against it (``arguments``), running it (``runtimes``).
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edge_node.functions.decorator import DEFAULT_MEMORY_MB, DEFAULT_OUTPUT_BYTES_MAX, DEFAULT_TIMEOUT_S
from edge_node.stand_ins import Later
from security.errors import BadInput, ProtocolViolation

if TYPE_CHECKING:
    import ast
else:
    ast = Later("ast")  # half a megabyte that only a deployment and a caller need

SOURCE_BYTES_MAX = 1024 * 1024  # of one file: it crosses radio links and is parsed by the daemon
TIMEOUT_S_MAX = 24 * 3600.0
MANIFEST_BYTES_MAX = 16 * 1024  # inside a signed entry, which is in every member's catalogue

_STEM = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")

ParamKind = Literal["positional", "either", "args", "keyword", "kwargs"]


class Param(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter; ``annotation`` is its source text, empty where there is none."""

    name: str
    annotation: str = ""
    has_default: bool = False
    kind: ParamKind = "either"  # positional only, either way, *args, keyword only, **kwargs


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What callers and nodes need to know of one function."""

    name: str  # "room.changes"
    params: tuple[Param, ...] = ()
    returns: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S
    memory_mb: int = DEFAULT_MEMORY_MB
    requires: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    doc: str = ""  # first line of the docstring
    output_bytes_max: int = DEFAULT_OUTPUT_BYTES_MAX
    line: int = 0  # of the def, in its file

    def to_bytes(self) -> bytes:
        return _encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Raises: ProtocolViolation: not a manifest, or one with wishes beyond what is allowed."""
        if len(data) > MANIFEST_BYTES_MAX:
            raise ProtocolViolation("manifest is too large")
        try:
            manifest = _decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"manifest does not decode: {error}") from None
        cause = _fault(manifest)
        if cause:
            raise ProtocolViolation(f"manifest of {manifest.name!r:.80}: {cause}")
        return manifest

    def signature(self) -> str:
        """For people: ``room.changes(rows: list[dict]) -> list[int]``."""
        stars = {"args": "*", "kwargs": "**"}
        words, seen = [], ""
        for param in self.params:
            if seen == "positional" and param.kind != "positional":
                words.append("/")
            if param.kind == "keyword" and seen not in ("keyword", "args"):
                words.append("*")
            seen = param.kind
            text = stars.get(param.kind, "") + param.name
            text += f": {param.annotation}" if param.annotation else ""
            words.append(text + (" = …" if param.has_default else ""))
        if seen == "positional":
            words.append("/")
        return f"{self.name}({', '.join(words)})" + (f" -> {self.returns}" if self.returns else "")


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(Manifest).decode


def read_manifests(file_name: str, source: str | bytes) -> tuple[Manifest, ...]:
    """Everything that a file offers, in the file's order.

    Args: file_name: as the person wrote it; its stem is the first half of every name.
    Raises: BadInput: with ``file:line``; a syntax error, a wish that is unknown or not a literal, an
        ``async def``, a nested function, or nothing decorated at all.
    """
    stem = stem_of(file_name)
    size = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if size > SOURCE_BYTES_MAX:
        raise BadInput(f"{file_name} is {size} bytes, a function file may have {SOURCE_BYTES_MAX}")
    try:
        tree = ast.parse(source, filename=file_name)
    except SyntaxError as error:
        raise BadInput(
            f"{file_name}:{error.lineno or 1}: {error.msg}", fix="it must be valid Python"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{file_name}: cannot be parsed: {error}") from None
    names = _Names(tree)
    top = {id(node) for node in tree.body}
    manifests: dict[str, Manifest] = {}
    plain: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        marks = [mark for mark in node.decorator_list if names.is_function_mark(mark)]
        place = f"{file_name}:{node.lineno}"
        if not marks:
            if id(node) in top and not isinstance(node, ast.ClassDef):
                plain.append(node.name)
            continue
        if isinstance(node, ast.ClassDef):
            raise BadInput(f"{place}: {node.name} is a class", fix="@function goes on a function")
        if isinstance(node, ast.AsyncFunctionDef):
            raise BadInput(f"{place}: {node.name} is async", fix="write it with a plain def")
        if id(node) not in top:
            raise BadInput(
                f"{place}: {node.name} is inside a class or function", fix="move it to the top level"
            )
        if node.name in manifests:
            raise BadInput(f"{place}: {node.name} is defined twice")
        manifests[node.name] = _manifest(stem, node, marks[0], file_name)
    if not manifests:
        found = f"found {', '.join(plain[:8])} without it" if plain else "found no function at all"
        raise BadInput(
            f"{file_name}: no function is marked with @function; {found}",
            fix="from edge_node.functions import function, and put @function above the def",
        )
    return tuple(sorted(manifests.values(), key=lambda manifest: manifest.line))


def stem_of(file_name: str) -> str:
    """``room`` of ``functions/room.py``. Raises: BadInput: not usable as the first half of a name."""
    last = file_name.replace("\\", "/").rsplit("/", 1)[-1]
    stem = last.removesuffix(".py")
    if not last.endswith(".py") or _STEM.match(stem) is None or keyword.iskeyword(stem):
        raise BadInput(
            f"{last!r} cannot name a function file", fix="use a Python file called like letters_and_digits.py"
        )
    return stem


class _Names:
    """Under which names this file knows our decorator."""

    def __init__(self, tree: ast.Module) -> None:
        self._direct: set[str] = set()
        self._modules: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                for alias in node.names:
                    if node.module in _HOMES and alias.name == "function":
                        self._direct.add(alias.asname or alias.name)
                    elif node.module == "edge_node" and alias.name == "functions":
                        self._modules.add(alias.asname or alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in _HOMES:
                        self._modules.add(alias.asname or alias.name)

    def is_function_mark(self, mark: ast.expr) -> bool:
        target = mark.func if isinstance(mark, ast.Call) else mark
        if isinstance(target, ast.Name):
            return target.id in self._direct
        return (
            isinstance(target, ast.Attribute)
            and target.attr == "function"
            and ast.unparse(target.value) in self._modules
        )


_HOMES = ("edge_node.functions", "edge_node.functions.decorator")


def _manifest(stem: str, node: ast.FunctionDef, mark: ast.expr, file_name: str) -> Manifest:
    wishes: dict[str, Any] = {}
    if isinstance(mark, ast.Call):
        if mark.args:
            raise BadInput(f"{file_name}:{mark.lineno}: @function takes keywords only")
        for word in mark.keywords:
            wishes[word.arg or "**"] = _wish(word, f"{file_name}:{word.value.lineno}")
    doc = (ast.get_docstring(node) or "").strip().split("\n", 1)[0][:200]
    manifest = Manifest(
        name=f"{stem}.{node.name}",
        params=tuple(_params(node.args)),
        returns=_text(node.returns),
        doc=doc,
        line=node.lineno,
        **wishes,
    )
    cause = _fault(manifest)
    if not cause and len(manifest.to_bytes()) > MANIFEST_BYTES_MAX:
        cause = "its signature and wishes are too long"
    if cause:
        raise BadInput(f"{file_name}:{mark.lineno}: {cause}")
    return manifest


def _wish(word: ast.keyword, place: str) -> Any:
    if word.arg not in _WISHES:
        raise BadInput(
            f"{place}: @function knows no {word.arg or '**'}", fix=f"it takes {', '.join(sorted(_WISHES))}"
        )
    try:
        value = ast.literal_eval(word.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadInput(
            f"{place}: {word.arg} must be a literal, not {ast.unparse(word.value)[:60]}",
            fix="the file is read without being run",
        ) from None
    fits, expected, convert = _WISHES[word.arg]
    if not fits(value):
        raise BadInput(f"{place}: {word.arg} must be {expected}, not {value!r:.60}")
    return convert(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    )


_WISHES: dict[str, tuple[Any, str, Any]] = {
    "timeout_s": (_is_number, "a number of seconds", float),
    "memory_mb": (_is_int, "a whole number of megabytes", int),
    "requires": (_is_names, "a list of module names", tuple),
    "labels": (_is_labels, "a dict of strings", dict),
    "output_bytes_max": (_is_int, "a whole number of bytes", int),
}


def _params(args: ast.arguments) -> list[Param]:
    places = [*args.posonlyargs, *args.args]
    first_default = len(places) - len(args.defaults)
    found = [
        Param(
            arg.arg,
            _text(arg.annotation),
            index >= first_default,
            "positional" if index < len(args.posonlyargs) else "either",
        )
        for index, arg in enumerate(places)
    ]
    if args.vararg:
        found.append(Param(args.vararg.arg, _text(args.vararg.annotation), False, "args"))
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        found.append(Param(arg.arg, _text(arg.annotation), default is not None, "keyword"))
    if args.kwarg:
        found.append(Param(args.kwarg.arg, _text(args.kwarg.annotation), False, "kwargs"))
    return found


def _text(node: ast.expr | None) -> str:
    if node is None:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.strip()  # 'list[dict]' in quotes
    return ast.unparse(node)


def _fault(manifest: Manifest) -> str:
    """Why this manifest is beyond what a node takes on, or ''; also asked of manifests from the network."""
    stem, _, name = manifest.name.partition(".")
    if _STEM.match(stem) is None or _STEM.match(name) is None:
        return f"{manifest.name!r:.80} is not STEM.NAME, each at most 64 letters, digits and _"
    if not 0.001 <= manifest.timeout_s <= TIMEOUT_S_MAX:
        return f"timeout_s must be between 0.001 and {TIMEOUT_S_MAX:g}"
    if not 1 <= manifest.memory_mb <= 1024 * 1024:
        return "memory_mb must be between 1 and 1048576"
    if not 1 <= manifest.output_bytes_max <= DEFAULT_OUTPUT_BYTES_MAX:
        return f"output_bytes_max must be between 1 and {DEFAULT_OUTPUT_BYTES_MAX}"
    if len(manifest.requires) > 32 or any(_MODULE.match(module) is None for module in manifest.requires):
        return "requires must be at most 32 names of modules, as one imports them"
    if len(manifest.labels) > 32:
        return "labels must be at most 32"
    return ""
