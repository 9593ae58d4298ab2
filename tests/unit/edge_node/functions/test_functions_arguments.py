"""Arguments are checked against annotations before anything is sent."""

from __future__ import annotations

from datetime import datetime

import pytest

from edge_node.functions.arguments import check_arguments, checker
from edge_node.functions.manifest import read_manifests
from security.errors import BadInput

np = pytest.importorskip("numpy")


def manifest(parameters: str):
    source = f"from edge_node.functions import function\n@function\ndef changes({parameters}): pass\n"
    return read_manifests("room.py", source)[0]


ACCEPTED = [
    ("int", 1),
    ("int", True),
    ("float", 1),
    ("float", 1.5),
    ("str", "x"),
    ("bytes", b""),
    ("None", None),
    ("list", [1]),
    ("list", (1,)),
    ("dict", {}),
    ("datetime", datetime(2020, 1, 1)),
    ("Any", object()),
    ("datetime.datetime", datetime(2020, 1, 1)),
    ("np.ndarray", np.zeros(1)),
    ("npt.NDArray[np.float64]", np.zeros(1)),
    ("list | np.ndarray", np.zeros(1)),
    ("list[float] | np.ndarray", [1.0]),
    ("list[int]", [1, 2]),
    ("list[int]", []),
    ("list[list[float]]", [[1], [1.5]]),
    ("List[int]", [1]),
    ("dict[str, float]", {"a": 1}),
    ("typing.Dict[str, int]", {"a": 1}),
    ("list[dict[str, Any]]", [{"a": object()}]),
    ("Optional[int]", None),
    ("Optional[int]", 3),
    ("Union[int, str]", "x"),
    ("int | None", None),
    ("tuple[int, str]", [1, "x"]),
    ("tuple[int, ...]", [1, 2, 3]),
    ("Sequence[int]", [1]),
    ("Mapping[str, int]", {}),
    ("'list[int]'", [1]),
    ("Annotated[int, 'metres']", 3),
    ("Whatever", object()),
    ("list[Whatever]", [object()]),
    ("", object()),
    ("int | Whatever", "x"),
    ("list[int | None]", [1, None]),
]

REFUSED = [
    ("int", "x", "expected int, got str"),
    ("int", 1.5, "expected int, got float"),
    ("str", 1, "expected str, got int"),
    ("bool", 1, "expected bool, got int"),
    ("None", 0, "expected None, got int"),
    ("list", {}, "expected list, got dict"),
    ("list", np.zeros(1), "expected list, got ndarray"),
    ("np.ndarray", [1], "expected numpy.ndarray, got list"),
    ("dict", None, "expected dict, got None"),
    ("list[int]", [1, 2, "x"], "item 2: expected int, got str"),
    ("list[list[int]]", [[1], [2, "x"]], "item 1: item 1: expected int, got str"),
    ("dict[str, float]", {"a": "x"}, "key 'a': expected float, got str"),
    ("dict[str, float]", {1: 2.0}, "key 1: expected str, got int"),
    ("Optional[int]", "x", "expected int or None, got str"),
    ("int | str", 1.5, "expected int or str, got float"),
    ("list[int] | None", [1, "x"], "item 1: expected int, got str"),
    ("tuple[int, str]", [1], "expected 2 items, got 1"),
    ("tuple[int, str]", [1, 2], "item 1: expected str, got int"),
    ("datetime", "2020-01-01", "expected datetime, got str"),
]


@pytest.mark.parametrize(("annotation", "value"), ACCEPTED)
def test_what_fits_passes(annotation, value):
    check_arguments(manifest(f"x: {annotation}" if annotation else "x"), [value], {})


@pytest.mark.parametrize(("annotation", "value", "cause"), REFUSED)
def test_what_does_not_fit_is_told_in_one_line(annotation, value, cause):
    with pytest.raises(BadInput) as caught:
        check_arguments(manifest(f"x: {annotation}"), [value], {})

    assert str(caught.value) == f"argument 'x' of room.changes: {cause}"


def test_rows_are_called_rows():
    rows = [{}, {}, {}, 7]

    with pytest.raises(BadInput) as caught:
        check_arguments(manifest("rows: list[dict]"), [rows], {})

    assert str(caught.value) == "argument 'rows' of room.changes: row 3: expected dict, got int"


@pytest.mark.parametrize(
    ("parameters", "args", "kwargs", "cause"),
    [
        ("a, b", [1], {}, "room.changes lacks argument 'b'"),
        ("a, *, b", [1], {}, "lacks argument 'b'"),
        ("a", [1, 2], {}, "takes 1 argument, 2 were given"),
        ("", [1], {}, "takes no arguments, 1 were given"),
        ("a", [1], {"a": 2}, "argument 'a' of room.changes was given twice"),
        ("a", [1], {"z": 2}, "has no argument 'z'"),
        ("a, /", [], {"a": 1}, "has no argument 'a'"),
        ("*a: int", [1, "x"], {}, "argument 'a[1]' of room.changes: expected int, got str"),
        ("**k: int", [], {"q": "x"}, "argument 'q' of room.changes: expected int, got str"),
    ],
)
def test_arity_and_names_are_checked(parameters, args, kwargs, cause):
    with pytest.raises(BadInput) as caught:
        check_arguments(manifest(parameters), args, kwargs)

    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "args", "kwargs"),
    [
        ("a, b=1", [1], {}),
        ("a, *, b=1", [], {"a": 1}),
        ("*a", [1, 2, 3], {}),
        ("**k", [], {"x": 1}),
        ("a, /, **k", [1], {"a": 2}),
        ("a, b", [1], {"b": 2}),
    ],
)
def test_calls_that_python_would_take_pass(parameters, args, kwargs):
    check_arguments(manifest(parameters), args, kwargs)


@pytest.mark.parametrize("annotation", ["(" * 500, "list[", "x" * 2000, "list[" * 90 + "]" * 90, "\0"])
def test_annotations_that_make_no_sense_accept_everything(annotation):
    check = checker(annotation)

    assert check is None or check([]) is None
