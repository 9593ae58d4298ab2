"""Recorded moments and milliseconds, CSV and Parquet: what does not fit is told with its line and column."""

from __future__ import annotations

import builtins
from datetime import UTC, datetime, timedelta, timezone

import pytest

from device_sim.devices.moments import SECOND, read_milliseconds, read_moments
from device_sim.devices.series import NoSuchColumn
from security.errors import BadInput


def csv(tmp_path, text: str):
    path = tmp_path / "asked.csv"
    path.write_text(text)
    return path


def parquet(tmp_path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    path = tmp_path / "asked.parquet"
    write_table(pyarrow.table(columns), path)
    return path


def refused(read, *args) -> str:
    with pytest.raises(BadInput) as caught:
        read(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "cells",
    [
        ["10", "10.5", "12"],
        ["1.0e1", "10.5", "12.0"],
        ["2026-01-02T03:04:05", "2026-01-02T03:04:05.500", "2026-01-02 03:04:07"],
        ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05.5+01:00", "2026-01-02T03:04:07Z"],
    ],
)
def test_moments_are_seconds_or_stamps_after_the_first(tmp_path, cells):
    path = csv(tmp_path, "at,who\n" + "".join(f"{cell},x\n" for cell in cells))

    assert list(read_moments(path, "at")) == [0, SECOND // 2, 2 * SECOND]


def test_the_only_column_needs_no_name(tmp_path):
    assert list(read_moments(csv(tmp_path, "at\n3\n3\n4\n"), "")) == [0, 0, SECOND]


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("at\n1\n2\n1.5\n", "at", "asked.csv, line 4: at goes back in time to 1.5: sort the file by it"),
        ("at\n1\nsoon\n", "at", "asked.csv, line 3: at is 'soon', not seconds"),
        ("at\n1\n\n2\n", "", None),
        ("at,b\n1,\n2,3\n", "b", "asked.csv, line 2: b is None, not seconds or an ISO stamp"),
        ("at\n2026-01-02\n7\n", "at", "asked.csv, line 3: at is 7, not an ISO stamp"),
        ("at\n1\n2026-01-02\n", "at", "asked.csv, line 3: at is '2026-01-02', not seconds"),
        ("at\nnan\n", "at", "asked.csv, line 2: at is nan, not seconds or an ISO stamp"),
        ("at\n0\n1e300\n", "at", "asked.csv, line 3: at is 1e+300, not seconds"),
        ("at\n0\n1e11\n", "at", "asked.csv, line 3: at is 100000000000.0, centuries after the first"),
        ("at\n", "at", "asked.csv has no rows"),
        ("", "at", "asked.csv is empty"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_moment_is_told(tmp_path, text, column, told):
    path = csv(tmp_path, text)

    if told is None:  # an empty line is none
        assert list(read_moments(path, column)) == [0, SECOND]
    else:
        assert told in refused(read_moments, path, column)


def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path):
    path = csv(tmp_path, "started_at,who\n1,x\n")

    with pytest.raises(NoSuchColumn) as caught:
        read_moments(path, "start_at")
    assert str(caught.value) == (
        "asked.csv has the columns started_at, who, and none is 'start_at'; did you mean started_at?"
    )
    with pytest.raises(NoSuchColumn, match="has the columns started_at, who: choose one"):
        read_moments(path, "")


def test_milliseconds_are_numbers_of_zero_and_more(tmp_path):
    assert read_milliseconds(csv(tmp_path, "ms\n1\n2.5\n0\n"), "") == [1.0, 2.5, 0.0]
    told = refused(read_milliseconds, csv(tmp_path, "ms\n1\n-2\n"), "ms")
    assert told == "asked.csv, line 3: ms is -2, not milliseconds >= 0"


def test_parquet_columns_are_read_alike(tmp_path):
    stamps = [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 3, 4, 6, 250_000, tzinfo=UTC)]
    path = parquet(tmp_path, at=stamps, s=[7.0, 8.25], ms=[1, 2], name=["a", "b"], gap=[1.0, None])

    assert list(read_moments(path, "at")) == list(read_moments(path, "s")) == [0, 1_250_000_000]
    assert read_milliseconds(path, "ms") == [1.0, 2.0]
    assert refused(read_moments, path, "name").startswith("asked.parquet, row 1: name is 'a', not seconds or")
    assert "row 2: gap is None" in refused(read_moments, path, "gap")
    with pytest.raises(NoSuchColumn, match="did you mean name"):
        read_moments(path, "nam")


def test_stamps_of_two_zones_are_one_time(tmp_path):
    east = timezone(timedelta(hours=2))
    path = csv(
        tmp_path, f"at\n{datetime(2026, 1, 1, 12, tzinfo=UTC)}\n{datetime(2026, 1, 1, 14, tzinfo=east)}\n"
    )

    assert list(read_moments(path, "at")) == [0, 0]


def test_what_is_no_parquet_file_is_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"

    assert "cannot read x.parquet" in refused(read_moments, path, "at")
    path.write_bytes(b"PAR1 and then nothing")
    assert refused(read_moments, path, "at").startswith("x.parquet is no Parquet file: ")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    assert refused(read_moments, tmp_path / "x.parquet", "at") == (
        "pyarrow is not installed: pip install 'edgeweave[parquet]'"
    )
