"""Say what an input is by its name, and open its bytes. Nothing is guessed from the content."""

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from orchestrator.errors import OrchestratorError
from orchestrator.yaml_source import suggestion

Format = Literal["jsonl", "csv", "tsv", "text", "parquet"]
Packing = Literal["", "gz", "bz2", "xz"]

STDIN = "-"

_FORMATS: Mapping[str, Format] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "text": "text",
    "txt": "text",
    "parquet": "parquet",
}
_PACKINGS: Mapping[str, Packing] = {"gz": "gz", "bz2": "bz2", "xz": "xz"}
# What is met often, and what turns it into something that is read.
_UNREAD: Mapping[str, str] = {
    "json": "write one object a line: jq -c '.[]' FILE > FILE.jsonl",
    "lz4": "unpack it first: lz4 -d FILE",
    "xls": "save it as CSV",
    "xlsx": "save it as CSV",
    "zip": "unpack it first: unzip FILE",
    "zst": "unpack it first: zstd -d FILE",
}

# What reading may raise once a file is open; damaged and torn compressed data included.
BROKEN: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError)


class InputError(OrchestratorError):
    """The input as a whole cannot be read, or not to its end; a bad row is no such error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An input.

    Attributes:
        path: Where it is; None is stdin.
        form: What its rows look like.
        packing: How it is compressed.
    """

    path: Path | None
    form: Format
    packing: Packing = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return "stdin" if self.path is None else str(self.path)


def source_of(name: str | Path, form: str | None = None) -> Source:
    """What a name stands for.

    >>> source_of("rows.csv.gz").form, source_of("rows.csv.gz").packing
    ('csv', 'gz')

    Args:
        name: A path, or `-`.
        form: What it is, whatever its name ends in: `csv`, or `csv.gz` where it is compressed.

    Raises:
        InputError: neither says what it is, or it is nothing that is read here.
    """
    path = None if str(name) == STDIN else Path(name)
    shown = "stdin" if path is None else str(path)
    endings = [] if path is None else [one.removeprefix(".").lower() for one in path.suffixes]
    packing = _PACKINGS.get(endings[-1], "") if endings else ""
    if form is not None:
        told, _, packed = form.lower().partition(".")
        return _checked(shown, path, told, packed or packing)
    if not endings:
        raise InputError(f"Nothing says what {shown} is; {_WANTED}")
    ending = endings[-2] if packing and len(endings) > 1 else endings[-1]
    return _checked(shown, path, ending, packing)


_WANTED = (
    f"give --format: {', '.join(dict.fromkeys(_FORMATS.values()))}, or one with .gz, .bz2, .xz"
)


def _checked(shown: str, path: Path | None, told: str, packed: str) -> Source:
    for ending in (told, packed):
        if ending in _UNREAD:
            raise InputError(f"{shown} is {ending}, which is not read here; {_UNREAD[ending]}")
    if told not in _FORMATS or (packed and packed not in _PACKINGS):
        unknown = packed if told in _FORMATS else told
        close = suggestion(unknown, (*_FORMATS, *_PACKINGS))
        raise InputError(f"{shown}: unknown format {unknown!r}{close}; {_WANTED}")
    form, packing = _FORMATS[told], _PACKINGS.get(packed, "")
    if form == "parquet" and (packing or path is None):
        raise InputError(f"{shown}: Parquet is read from a file that is not compressed as a whole")
    return Source(path=path, form=form, packing=packing)


_OPENERS: Mapping[Packing, Callable[[BinaryIO, Literal["rb"]], object]] = {
    "gz": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
}


@contextmanager
def opened(source: Source, stdin: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """The bytes of an input, unpacked.

    Args:
        source: Which.
        stdin: What stands in for stdin.

    Raises:
        InputError: it cannot be opened.
    """
    if source.path is None:
        given = stdin or getattr(sys.stdin, "buffer", None)
        if given is None:
            raise InputError("There is no stdin to read from")
        yield _unpacked(given, source.packing)  # whoever gave it closes it
        return
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror or error}") from error
    with file:
        try:
            yield _unpacked(file, source.packing)
        except BROKEN as error:
            raise InputError(broken(source, error)) from error


def broken(source: Source, error: Exception) -> str:
    """Why an input ends before its end."""
    why = getattr(error, "strerror", None) or str(error)
    if isinstance(error, EOFError):
        why = "its compressed data is cut short"
    return f"{source.name} cannot be read to its end: {why}"


def _unpacked(file: BinaryIO, packing: Packing) -> BinaryIO:
    return cast(BinaryIO, _OPENERS[packing](file, "rb")) if packing else file


def need_file(source: Source, why: str) -> Path:
    """The path of an input that can be read twice, anywhere in it.

    Raises:
        InputError: it is stdin, a pipe or compressed.
    """
    if source.path is None or source.packing or not source.path.is_file():
        raise InputError(f"{why} needs a file that is not compressed; {source.name} is none")
    return source.path
