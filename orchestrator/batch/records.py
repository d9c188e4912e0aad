"""Cut a stream of bytes into the records of its rows. Flat in memory, whatever comes.

A record knows where it begins, so that it can be read again by itself. Nothing here stops at a
broken one: it is told, and the next one follows.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import orjson

from orchestrator.batch.sources import Format, InputError, Packing
from orchestrator.wire.bounds import DEPTH, depth

MOST_BYTES = 16 * 2**20  # of one row
_PIECE_BYTES = 2**16  # of what is read over

_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")
# How compressed files begin, and text never does.
_MAGIC: Mapping[Packing, bytes] = {
    "gz": b"\x1f\x8b",
    "bz2": b"BZh91AY&SY",
    "xz": b"\xfd7zXZ\x00",
}

DELIMITERS: Mapping[Format, str] = {"csv": ",", "tsv": "\t"}


class Unreadable(ValueError):
    """What is wrong with a record. Nothing of its content stands in it."""


@dataclass(frozen=True, slots=True)
class Start:
    """A place in the bytes where a record begins: how many are before it, and its line, from 1."""

    offset: int = 0
    line: int = 1


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes of one row.

    Attributes:
        start: Where they begin.
        raw: Them, without the end of the line; nothing where there is a problem.
        problem: Why they could not be taken whole.
    """

    start: Start
    raw: bytes
    problem: str = ""


Scan = Callable[[BinaryIO, Start], Iterator[Record]]
Parse = Callable[[bytes], dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the records of an input are found and read.

    Attributes:
        scan: Finds them, from a place where one begins, or from the beginning of the file.
        parse: The content of one; raises `Unreadable`.
    """

    scan: Scan
    parse: Parse


def layout_of(form: Format, stream: BinaryIO) -> tuple[Layout, Iterator[Record]]:
    """How an input is read, and its records from the first one on.

    Args:
        form: What it is.
        stream: Its bytes; of a table the header is read now.

    Raises:
        InputError: a table has no header that can be used.
    """
    if form not in DELIMITERS:
        layout = Layout(scan=scan_lines, parse=read_json if form == "jsonl" else read_text)
        return layout, layout.scan(stream, Start())
    delimiter = DELIMITERS[form]
    csv.field_size_limit(max(csv.field_size_limit(), MOST_BYTES))
    scan = _table_scan(delimiter)
    records = scan(stream, Start())
    header = next(records, None)
    columns = _columns(header, delimiter)
    layout = Layout(scan=_after_header(scan), parse=_table_parse(columns, delimiter))
    return layout, records


def _after_header(scan: Scan) -> Scan:
    """The same from the beginning of the file without the record that is no row."""

    def rows(stream: BinaryIO, start: Start) -> Iterator[Record]:
        records = scan(stream, start)
        if start == Start():
            next(records, None)
        yield from records

    return rows


# Lines.


@dataclass(frozen=True, slots=True)
class _Line:
    start: Start
    raw: bytes  # nothing of one that is too long
    quotes: int
    is_long: bool = False


def _physical(stream: BinaryIO, start: Start) -> Iterator[_Line]:
    offset, number = start.offset, start.line
    while raw := stream.readline(MOST_BYTES + 1):
        size, at = len(raw), Start(offset, number)
        if offset == 0:
            raw, at = _without_bom(raw, at)
        quotes, is_long = raw.count(b'"'), size > MOST_BYTES and not raw.endswith(b"\n")
        while is_long and (piece := stream.readline(_PIECE_BYTES)):
            size += len(piece)
            quotes += piece.count(b'"')
            if piece.endswith(b"\n"):
                break
        yield _Line(at, b"" if is_long else raw, quotes, is_long)
        offset += size
        number += 1


def _without_bom(raw: bytes, start: Start) -> tuple[bytes, Start]:
    if raw.startswith(_OTHER_BOMS):
        raise InputError("it is UTF-16; save it as UTF-8")
    for packing, magic in _MAGIC.items():
        if raw.startswith(magic):
            raise InputError(
                f"it is compressed ({packing}), and nothing says so; let it end in .{packing}, or "
                f"say it as in --format jsonl.{packing}"
            )
    if not raw.startswith(_BOM):
        return raw, start
    return raw.removeprefix(_BOM), Start(len(_BOM), start.line)


_TOO_LONG = f"is longer than {MOST_BYTES // 2**20} MB"


def scan_lines(stream: BinaryIO, start: Start) -> Iterator[Record]:
    """A record a line; lines with nothing on them count as lines and are no records."""
    for line in _physical(stream, start):
        if line.is_long:
            yield Record(line.start, b"", f"the line {_TOO_LONG}; split it")
        elif line.raw.strip():
            yield Record(line.start, line.raw.removesuffix(b"\n").removesuffix(b"\r"))


# Tables.


# What stands between quotes up to the one that ends it; `""` is a quote that does not.
_QUOTED = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')


def _table_scan(delimiter: str) -> Scan:
    """Records as RFC 4180 has them: within quotes, the end of a line is content."""
    between = delimiter.encode()

    def scan(stream: BinaryIO, start: Start) -> Iterator[Record]:
        begin: Start | None = None
        parts: list[bytes] = []
        size, last, is_open, is_long = 0, start.line, False, False
        for line in _physical(stream, start):
            if begin is None:
                if not line.is_long and not line.raw.strip(b"\r\n"):
                    continue
                begin, parts, size, is_long = line.start, [], 0, False
            size += len(line.raw)
            is_long = is_long or line.is_long or size > MOST_BYTES
            # Of what is too long only the quotes are counted: those of a field come in pairs.
            is_open = is_open ^ bool(line.quotes % 2) if is_long else _opens(line, is_open, between)
            if is_long:
                parts.clear()
            else:
                parts.append(line.raw)
            last = line.start.line
            if not is_open:
                yield _table_record(begin, parts, is_long=is_long)
                begin = None
        if begin is not None:
            problem = f"a quote in it is never closed, so that everything to line {last} is in it"
            yield Record(begin, b"", problem)

    return scan


def _table_record(begin: Start, parts: list[bytes], *, is_long: bool) -> Record:
    if is_long:
        return Record(begin, b"", f"the row {_TOO_LONG}; look for a quote that is never closed")
    return Record(begin, b"".join(parts))


def _opens(line: _Line, is_open: bool, delimiter: bytes) -> bool:
    """Whether a line ends within quotes. They mean something only where a field begins."""
    raw = line.raw
    if not line.quotes:
        return is_open
    place = 0
    while True:
        if not is_open and raw.startswith(b'"', place):
            is_open, place = True, place + 1
        if is_open:
            closing = _QUOTED.match(raw, place)
            if closing is None:
                return True
            is_open, place = False, closing.end()
        place = raw.find(delimiter, place) + 1
        if place == 0:
            return False


def _columns(header: Record | None, delimiter: str) -> list[str]:
    if header is None:
        raise InputError("the table is empty; its first row is to name the columns")
    try:
        names = [name.strip() for name in _cells(header.raw, delimiter, header.problem)]
    except Unreadable as error:
        raise InputError(f"the first row of the table, which names the columns: {error}") from None
    for place, name in enumerate(names, 1):
        if not name:
            raise InputError(f"column {place} of the table has no name in its first row")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two columns of the table are called {twice[:64]!r}; rename one")
    return names


def _table_parse(columns: list[str], delimiter: str) -> Parse:
    def parse(raw: bytes) -> dict[str, object]:
        cells = _cells(raw, delimiter)
        if len(cells) != len(columns):
            raise Unreadable(f"has {len(cells)} columns; the first row names {len(columns)}")
        return dict(zip(columns, cells, strict=True))

    return parse


def _cells(raw: bytes, delimiter: str, problem: str = "") -> list[str]:
    if problem:
        raise Unreadable(problem)
    try:
        return next(csv.reader([_decoded(raw)], delimiter=delimiter, strict=True))
    except csv.Error:
        raise Unreadable(
            f'has something between a closing quote and the next {delimiter!r} (write " as "")'
        ) from None


# Contents.


def read_text(raw: bytes) -> dict[str, object]:
    """A line of text, as the prompt that it is."""
    return {"prompt": _decoded(raw)}


def read_json(raw: bytes) -> dict[str, object]:
    """A line of JSON.

    Raises:
        Unreadable: it is none, or no object, or nests too deep.
    """
    text = _decoded(raw)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(value, dict):
        raise Unreadable("is JSON, but not an object; write {...}")
    # More brackets than that cannot but be there where it is too deep.
    if raw.count(b"{") + raw.count(b"[") > DEPTH and depth(value) > DEPTH:
        raise Unreadable(f"nests more than {DEPTH} levels deep")
    return value


def _decoded(raw: bytes) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start + 1}") from None
    if "\0" in text:
        raise Unreadable("has a NUL character in it")
    return text
