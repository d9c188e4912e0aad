"""Read and write Parquet through pyarrow, which comes with the extra `parquet`.

It is imported where it is first needed, and nowhere else: nothing but Parquet wants it.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.batch.sources import InputError

ROWS = 1024  # that are in memory together, within one row group of the file

# By what Python calls a column's type.
_TYPES: Mapping[type, str] = {str: "string", int: "int64", float: "float64", bool: "bool_"}


def read(path: Path) -> Iterator[dict[str, object]]:
    """The rows of a file, by the names of its columns.

    Raises:
        InputError: pyarrow is not installed, or the file is not Parquet, or is damaged.
    """
    pyarrow = _pyarrow("pyarrow")
    rows = 0
    try:
        with _pyarrow("pyarrow.parquet").ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for fields in batch.to_pylist():
                    yield fields
                    rows += 1
    except (OSError, pyarrow.ArrowException) as error:
        why = f"cannot be read as Parquet after {rows:,} rows ({type(error).__name__})"
        raise InputError(f"{path} {why}; is it whole?") from error


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
