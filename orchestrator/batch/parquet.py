"""Read and write Parquet through pyarrow, which comes with the extra `parquet`.

It is imported where it is first needed, and nowhere else: nothing but Parquet wants it.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.batch.records import Unreadable
from orchestrator.batch.sources import InputError

ROWS = 1024  # that are in memory together, within one row group of the file

# What is raised for a value that Python cannot hold: a date after 9999, say.
_UNHELD: tuple[type[Exception], ...] = (ValueError, OverflowError)

# By what Python calls a column's type.
_TYPES: Mapping[type, str] = {str: "string", int: "int64", float: "float64", bool: "bool_"}


def read(path: Path) -> Iterator[dict[str, object] | Unreadable]:
    """The rows of a file, by the names of its columns, or what is wrong with one.

    Raises:
        InputError: pyarrow is not installed, or the file is not Parquet, or is damaged, or two of
            its columns have one name.
    """
    pyarrow = _pyarrow("pyarrow")
    rows = 0
    try:
        with _pyarrow("pyarrow.parquet").ParquetFile(path) as file:
            _need_names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=ROWS):
                for fields in _rows_of(batch):
                    yield fields
                    rows += 1
    except (OSError, pyarrow.ArrowException) as error:
        why = f"cannot be read as Parquet after {rows:,} rows ({type(error).__name__})"
        raise InputError(f"{path} {why}; is it whole?") from error


def _need_names(path: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: two columns are called {twice[:64]!r}; rename one")


def _rows_of(batch: Any) -> Iterable[dict[str, object] | Unreadable]:
    """Rows as Python has them; one by one only where a value is nothing that it can hold."""
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except _UNHELD:
        return map(_row_of, (batch.slice(place, 1) for place in range(batch.num_rows)))
    return rows


def _row_of(batch: Any) -> dict[str, object] | Unreadable:
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (fields[name],) = column.to_pylist()
        except _UNHELD as error:
            return Unreadable(
                f"its column {name[:64]!r} cannot be read ({type(error).__name__}: a time out of "
                "range or finer than microseconds, or text that is not UTF-8); write it as text"
            )
    return fields


def count(path: Path) -> int:
    """How many rows a file has; its end says so.

    Raises:
        InputError: as for `read`.
    """
    pyarrow = _pyarrow("pyarrow")
    try:
        return int(_pyarrow("pyarrow.parquet").read_metadata(path).num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        why = f"cannot be read as Parquet ({type(error).__name__})"
        raise InputError(f"{path} {why}; is it whole?") from error


def write(
    file: BinaryIO, rows: Iterable[Mapping[str, object]], columns: Mapping[str, type]
) -> None:
    """Write rows as they come, some at a time.

    Args:
        file: Where to.
        rows: Each with every column; None is a value of any.
        columns: Their names and what they hold.

    Raises:
        InputError: pyarrow is not installed.
    """
    pyarrow = _pyarrow("pyarrow")
    fields = [(name, getattr(pyarrow, _TYPES[kind])()) for name, kind in columns.items()]
    schema = pyarrow.schema(fields)
    remaining = iter(rows)
    with _pyarrow("pyarrow.parquet").ParquetWriter(file, schema) as writer:
        while some := list(islice(remaining, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            "Parquet needs pyarrow: pip install 'llm-orchestrator-gateway[parquet]'"
        ) from error
