"""Queries as data: what a client asks with TinyDB's ``where(...)`` means the same in the daemon.

    where("setpoint_c") > 25              [">", ["setpoint_c"], 25]
    where("a").b.one_of([1, 2])           ["one_of", ["a", "b"], [1, 2]]
    Query().tags.any(where("k") == 1)     ["any_where", ["tags"], ["==", ["k"], 1]]
    q1 & q2 & ~q3                         ["and", q1, q2, ["not", q3]]

`encoded` reads TinyDB's own objects, `decoded` needs no TinyDB. TinyDB keeps a tuple that describes a query,
for hashing, but it leaves out a regular expression's flags, the order of an AND and whether a list was a
tuple. So a query is known by TinyDB's code that it runs, and its operands are taken from that code's closure.
Whatever is not exactly that (``.test``, ``.map``, a callable in ``any``, operands that are no plain data, a
TinyDB that does it otherwise) is None: the client asks for the documents and looks itself.

Exact also in what raises: ``where("a") < 5`` over a text is a `TypeError`, here as there.

Regular expressions: Python's can take exponential time, and would take it in the daemon. Those whose form
allows that (a choice or a repetition within a repetition, references back, over two open ends) are not
taken: the client runs them. The others' work is bounded for each text and for all of a query; beyond it the
query ends with `BadInput`.

Not here: documents and indexes (`tables`).
"""

from __future__ import annotations

import math
import re
import re._constants as parts  # type: ignore[import-not-found]  # as `re` itself reads a pattern
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from security.errors import BadInput

if TYPE_CHECKING:
    from types import CodeType

Predicate = Callable[[Any], bool]


class Incomparable(BadInput):
    """A query compares what cannot be compared: where TinyDB's search raises TypeError."""

    def __init__(self, error: TypeError) -> None:
        super().__init__(f"the query cannot be asked of every document: {error}", fix="ask where it applies")


DEPTH_MAX: Final = 32
"""Of conditions within conditions, and of lists within an operand: evaluation recurses."""
NODES_MAX: Final = 20_000
"""Conditions and values of one query: `one_of` over some thousand names is a use, more is a table."""
PATTERN_CHARS_MAX: Final = 512
CHOICES_MAX: Final = 4096
OPEN_ENDS_MAX: Final = 2
TEXT_STEPS_MAX: Final = 10_000_000
"""Of a pattern over one text, at worst: some ten milliseconds."""
QUERY_STEPS_MAX: Final = 200_000_000
"""Over all texts of one query, at worst: a second."""
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

_COMPARED: Final = {"==", "!=", "<", "<=", ">", ">="}
_JOINED: Final = {"and", "or"}
_TOTAL: Final = {"==", "!=", "exists", "matches", "search", "noop"}
"""Conditions that hold or do not, whatever the document is; the others may raise."""


class Lookup(NamedTuple):
    """Only documents whose top-level *field* is so can match. operator: ``==``, ``one_of`` or an ordering."""

    field: str
    operator: str
    value: Any


# ── from TinyDB ───────────────────────────────────────────────────────────────────────────────────────


def encoded(query: object) -> list[Any] | None:
    """Plain data (None, bool, int, float, str, list, dict with text keys); None: it runs in the client."""
    try:
        data = _encoded(query, 0, [0])
        decoded(data)
    except (_Inexpressible, BadInput):
        return None
    return data


class _Inexpressible(Exception):
    pass


def _encoded(query: object, depth: int, nodes: list[int]) -> list[Any]:
    code, held = _closure(getattr(query, "_test", None))
    nodes[0] += 1
    if depth > DEPTH_MAX or nodes[0] > NODES_MAX:
        raise _Inexpressible
    known = _known_code()
    if code is known.noop:
        return ["noop"]
    for name, joint in (("and", known.both), ("or", known.either)):
        if code is joint:
            return [name, *(_encoded(each, depth + 1, nodes) for each in _chain(query, joint))]
    if code is known.inverted:
        return ["not", _encoded(held["self"], depth + 1, nodes)]
    if code is not known.leaf:
        raise _Inexpressible
    code, held = _closure(held["runner"])
    if code is not known.runner:
        raise _Inexpressible
    path = [*held["self"]._path]
    if not all(isinstance(part, str) for part in path):
        raise _Inexpressible
    code, held = _closure(held["test"])
    if code in known.through:  # any, all and fragment wrap their test once more
        code, held = _closure(held["test"])
    name, operands = known.tests.get(code, ("", ()))
    if not name:
        raise _Inexpressible
    found = [held[each] for each in operands]
    if name in ("any_where", "all_where"):
        return [name, path, _encoded(found[0], depth + 1, nodes)]
    if name in ("one_of", "any", "all") and type(found[0]) is tuple:
        found = [list(found[0])]
    if name in ("matches", "search"):
        found[1] = int(found[1])
    return [name, path, *found] if name != "exists" else [name, path]


def _chain(query: object, joint: CodeType) -> Iterable[object]:
    """The members of ``a & b & c``, which TinyDB nests to the left, in order."""
    found = []
    while True:
        code, held = _closure(getattr(query, "_test", None))
        if code is not joint:
            break
        found.append(held["other"])
        query = held["self"]
        if len(found) > NODES_MAX:
            raise _Inexpressible
    return [query, *reversed(found)]


def _closure(function: Any) -> tuple[CodeType, dict[str, Any]]:
    code = getattr(function, "__code__", None)
    if code is None:
        raise _Inexpressible
    cells = function.__closure__ or ()
    return code, {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True)}


class _Known(NamedTuple):
    noop: CodeType
    both: CodeType
    either: CodeType
    inverted: CodeType
    leaf: CodeType
    runner: CodeType
    through: set[CodeType]
    tests: dict[CodeType, tuple[str, tuple[str, ...]]]


_KNOWN: list[_Known] = []


def _known_code() -> _Known:
    """TinyDB's code for each kind of query, taken from samples; loaded only by who has queries to encode."""
    if not _KNOWN:
        from tinydb.queries import Query

        a = Query().a
        leaf, held = _closure((a == 1)._test)
        samples = [
            ("==", a == 1, ("rhs",)),
            ("!=", a != 1, ("rhs",)),
            ("<", a < 1, ("rhs",)),
            ("<=", a <= 1, ("rhs",)),
            (">", a > 1, ("rhs",)),
            (">=", a >= 1, ("rhs",)),
            ("exists", a.exists(), ()),
            ("matches", a.matches("a"), ("regex", "flags")),
            ("search", a.search("a"), ("regex", "flags")),
            ("one_of", a.one_of([1]), ("items",)),
            ("any", a.any([1]), ("cond",)),
            ("all", a.all([1]), ("cond",)),
            ("any_where", a.any(a == 1), ("cond",)),
            ("all_where", a.all(a == 1), ("cond",)),
            ("fragment", a.fragment({}), ("document",)),
        ]
        through = set()
        tests = {}
        for name, query, operands in samples:
            test = _closure(_closure(query._test)[1]["runner"])[1]["test"]
            code, inside = _closure(test)
            if "test" in inside:
                through.add(code)
                code, inside = _closure(inside["test"])
            tests[code] = (name, operands)
        _KNOWN.append(
            _Known(
                _closure(a.noop()._test)[0],
                _closure(((a == 1) & (a == 2))._test)[0],
                _closure(((a == 1) | (a == 2))._test)[0],
                _closure((~(a == 1))._test)[0],
                leaf,
                _closure(held["runner"])[0],
                through,
                tests,
            )
        )
    return _KNOWN[0]


# ── in the daemon ─────────────────────────────────────────────────────────────────────────────────────


def decoded(data: object) -> Predicate:
    """What `encoded` gave, as a test over a document.

    The predicate raises: TypeError: as TinyDB's would. BadInput: a text is too long for a pattern.
    Raises: BadInput: it is not a query's data, too large, too deep, or has a pattern that may not end.
    """
    return _decoded(data, 0, [0])


def plan(data: object) -> list[Lookup]:
    """Lookups any of which narrows the query down, in the order in which they are tested.

    It ends where a condition could raise on a document that a later lookup leaves out. An ordering among
    them raises too, where values of a field cannot be compared with its own: whoever uses what comes after
    it makes sure that there are none.
    """
    if not isinstance(data, list) or not data:
        return []
    found: list[Lookup] = []
    for each in data[1:] if data[0] == "and" else [data]:
        name = each[0]
        top = len(each) > 2 and isinstance(each[1], list) and len(each[1]) == 1
        if top and name == "one_of" and isinstance(each[2], list):
            if all(is_scalar(value) for value in each[2]):
                found.append(Lookup(each[1][0], name, each[2]))
        elif top and name in _COMPARED - {"!="} and is_scalar(each[2]):
            found.append(Lookup(each[1][0], name, each[2]))
        elif name not in _TOTAL:
            break
    return found


def fields_of(data: list[Any]) -> set[str]:
    """The top-level fields that it looks at. *data*: what `decoded` has taken."""
    name, *operands = data
    if name == "noop":
        return set()
    if name in ("and", "or", "not"):
        return {field for each in operands for field in fields_of(each)}
    path: list[str] = operands[0]
    return {path[0]} if path else set(operands[1])  # a fragment of the document itself


def is_scalar(value: object) -> bool:
    """Is it what an index holds? A list or an object never equals one of these."""
    return value is None or type(value) in (bool, int, float, str)


def _decoded(data: object, depth: int, nodes: list[int]) -> Predicate:
    nodes[0] += 1
    if depth > DEPTH_MAX or nodes[0] > NODES_MAX:
        raise BadInput("the query is too large", fix=f"at most {NODES_MAX} values, {DEPTH_MAX} deep")
    match data:
        case ["noop"]:
            return _always
        case ["and" | "or" as name, first, second, *rest]:
            tests = [_decoded(each, depth + 1, nodes) for each in (first, second, *rest)]
            return _all_of(tests) if name == "and" else _any_of(tests)
        case ["not", inner]:
            return _none_of(_decoded(inner, depth + 1, nodes))
        case [str(name), [*names], *operands]:
            path = [each for each in names if isinstance(each, str)]
            if len(path) != len(names):
                raise BadInput("a query's path holds what is no text", fix="name fields by text")
            nodes[0] += len(path)
            if not path and name != "fragment":
                raise BadInput("the query has no path", fix="name a field: where('field')")
            if name in ("any_where", "all_where") and len(operands) == 1:
                test = _of_elements(name, _decoded(operands[0], depth + 1, nodes))
            else:
                for operand in operands:
                    _check_plain(operand, depth + 1, nodes)
                test = _test(name, operands)
            return _at(path, test)
    raise BadInput("this is no query's data", fix="use what edge_node.store.queries.encoded gives")


def _check_plain(value: object, depth: int, nodes: list[int]) -> None:
    nodes[0] += 1
    if depth > DEPTH_MAX or nodes[0] > NODES_MAX:
        raise BadInput("the query is too large", fix=f"at most {NODES_MAX} values, {DEPTH_MAX} deep")
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        if not _spelt(value):  # type: ignore[arg-type]
            raise BadInput("a text of the query has no UTF-8 spelling", fix="take the lone surrogate out")
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
            raise BadInput("an integer of the query is over 64 bits", fix="compare in the client")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise BadInput("NaN and infinities are no JSON", fix="compare with a finite number")
    elif kind is list:
        for each in value:  # type: ignore[attr-defined]
            _check_plain(each, depth + 1, nodes)
    elif kind is dict:
        for name, each in value.items():  # type: ignore[attr-defined]
            if type(name) is not str or not _spelt(name):
                raise BadInput("an object of the query has a name that is no text", fix="JSON has text only")
            _check_plain(each, depth + 1, nodes)
    else:
        raise BadInput(f"a query cannot hold {kind.__name__}", fix="compare with JSON's kinds of values")


def _spelt(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _always(_: Any) -> bool:
    return True


def _all_of(tests: list[Predicate]) -> Predicate:
    if len(tests) == 2:
        one, two = tests
        return lambda value: one(value) and two(value)
    return lambda value: all(test(value) for test in tests)


def _any_of(tests: list[Predicate]) -> Predicate:
    return lambda value: any(test(value) for test in tests)


def _none_of(test: Predicate) -> Predicate:
    return lambda value: not test(value)


def _at(path: list[str], test: Predicate) -> Predicate:
    """The test over what lies there; nothing does: False. What the test itself raises is raised."""
    if len(path) == 1:
        (name,) = path

        def at_top(value: Any) -> bool:
            try:
                found = value[name]
            except (KeyError, TypeError):
                return False
            return test(found)

        return at_top

    def below(value: Any) -> bool:
        try:
            for part in path:
                value = value[part]
        except (KeyError, TypeError):
            return False
        return test(value)

    return below


def _of_elements(name: str, inner: Predicate) -> Predicate:
    if name == "any_where":
        return lambda value: hasattr(value, "__iter__") and any(inner(each) for each in value)
    return lambda value: hasattr(value, "__iter__") and all(inner(each) for each in value)


def _test(name: str, operands: list[Any]) -> Predicate:
    match name, operands:
        case "==", [rhs]:
            return lambda value: bool(value == rhs)
        case "!=", [rhs]:
            return lambda value: bool(value != rhs)
        case "<", [rhs]:
            return lambda value: bool(value < rhs)
        case "<=", [rhs]:
            return lambda value: bool(value <= rhs)
        case ">", [rhs]:
            return lambda value: bool(value > rhs)
        case ">=", [rhs]:
            return lambda value: bool(value >= rhs)
        case "exists", []:
            return _always
        case "one_of", [list() | str() as items]:
            return lambda value: value in items
        case "any", [list() | str() as items]:
            return lambda value: hasattr(value, "__iter__") and any(each in items for each in value)
        case "all", [list() | str() as items]:
            return lambda value: hasattr(value, "__iter__") and all(each in value for each in items)
        case "fragment", [dict() as document]:
            return _has_fragment(document)
        case "matches" | "search", [str(pattern), int(flags)] if type(flags) is int:
            return _of_text(name, pattern, flags)
    raise BadInput(f"no query operator {name!r} with such operands", fix="use TinyDB's operators")


def _has_fragment(document: Mapping[str, Any]) -> Predicate:
    def test(value: Any) -> bool:
        return all(name in value and value[name] == each for name, each in document.items())

    return test


# ── regular expressions ───────────────────────────────────────────────────────────────────────────────


def _of_text(name: str, pattern: str, flags: int) -> Predicate:
    compiled, ways = _compiled(pattern, flags)
    run = compiled.match if name == "matches" else compiled.search
    ends = ways.open_ends + (name == "search")
    left = QUERY_STEPS_MAX

    def test(value: Any) -> bool:
        nonlocal left
        if not isinstance(value, str):
            return False
        steps = ways.choices * max(len(value), 1) ** ends + len(value)
        left -= steps
        if steps > TEXT_STEPS_MAX or left < 0:
            raise BadInput(
                f"matching {pattern!r} with a text of {len(value)} characters may take the daemon long",
                fix="anchor the pattern, or use .test(function): it matches in the client",
            )
        return run(value) is not None

    return test


class _Ways(NamedTuple):
    """In how many ways a pattern can be tried at one place: choices x (length of the text) ** open_ends."""

    choices: int
    open_ends: int


class _MayNotEnd(Exception):
    pass


def _compiled(pattern: str, flags: int) -> tuple[re.Pattern[str], _Ways]:
    if len(pattern) > PATTERN_CHARS_MAX:
        raise BadInput(
            f"a pattern of {len(pattern)} characters is over {PATTERN_CHARS_MAX}",
            fix=".test(function) matches in the client",
        )
    try:
        form = list(parser.parse(pattern, flags & ~int(re.DEBUG)))
        while form and form[-1][0] in _REPEATS and not _choices_in(form[-1][1][2]):
            form.pop()  # at the end nothing can fail behind it: it gives nothing back
        ways = _ways(form, within=False)
        return re.compile(pattern, flags & ~int(re.DEBUG)), ways
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"not a regular expression: {error}", fix="see Python's re") from error
    except _MayNotEnd:
        raise BadInput(
            f"the pattern {pattern!r} might run for very long",
            fix="no repetition within another, no reference back; .test(function) matches in the client",
        ) from None


_REPEATS: Final = (parts.MAX_REPEAT, parts.MIN_REPEAT, parts.POSSESSIVE_REPEAT)
_SHORT: Final = 16
"""Repetitions of up to so many are choices, longer ones have an open end."""


def _ways(form: Any, *, within: bool) -> _Ways:
    """Raises: _MayNotEnd: a choice within a repetition, a reference back, or too many choices."""
    choices, open_ends = 1, 0
    for operator, operand in form:
        more = _Ways(1, 0)
        if operator in _REPEATS:
            more = _ways_of_repeat(*operand, within=within)
        elif operator is parts.BRANCH:
            if within:
                raise _MayNotEnd
            each = [_ways(branch, within=within) for branch in operand[1]]
            more = _Ways(sum(way.choices for way in each), max(way.open_ends for way in each))
        elif operator is parts.SUBPATTERN:
            more = _ways(operand[3], within=within)
        elif operator is parts.ATOMIC_GROUP:
            more = _ways(operand, within=within)
        elif operator in (parts.ASSERT, parts.ASSERT_NOT):
            more = _ways(operand[1], within=within)
        elif operator in (parts.GROUPREF, parts.GROUPREF_EXISTS, parts.GROUPREF_IGNORE):
            raise _MayNotEnd
        choices *= more.choices
        open_ends += more.open_ends
        if choices > CHOICES_MAX or open_ends > OPEN_ENDS_MAX:
            raise _MayNotEnd
    return _Ways(choices, open_ends)


def _ways_of_repeat(low: int, high: int, inner: Any, *, within: bool) -> _Ways:
    if low == high and high <= _SHORT:
        once = _ways(inner, within=within)
        return _Ways(once.choices**high, once.open_ends * high)
    if within:
        raise _MayNotEnd
    if high <= 1:
        once = _ways(inner, within=False)
        return _Ways(once.choices + 1, once.open_ends)
    _ways(inner, within=True)
    return _Ways(high - low + 1, 0) if high <= _SHORT else _Ways(1, 1)


def _choices_in(form: Any) -> bool:
    """Could its inside be tried in several ways?"""
    try:
        return _ways(form, within=True) != _Ways(1, 0)
    except _MayNotEnd:
        return True
