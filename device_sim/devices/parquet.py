"""Columns of a Parquet file, through pyarrow: the one place that imports it, and only when one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from security.errors import BadInput


def names(path: Path) -> list[str]:
    """Its columns. Raises: BadInput: no pyarrow, or no Parquet file."""
    return list(_opened(path).schema_arrow.names)


def column(path: Path, name: str) -> list[Any]:
    """One column as Python's numbers, texts, datetimes or None. Raises: BadInput, as ``names``."""
    import pyarrow

    try:
        table = _opened(path).read(columns=[name])
        return list(table.column(name).to_pylist())
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path.name}: {_first_line(error)}", fix="write it again, whole") from None


def _opened(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadInput("pyarrow is not installed", fix="pip install 'edgeweave[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        why = error.strerror or _first_line(error)
        raise BadInput(f"cannot read {path.name}: {why}", fix="name a Parquet file") from None
    except pyarrow.ArrowException as error:
        raise BadInput(f"{path.name} is no Parquet file: {_first_line(error)}", fix="name one") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120] or type(error).__name__
