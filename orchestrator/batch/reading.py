"""Read the rows of an input, one at a time: all, some of them, in another order, or a range.

A row that cannot be read is a `BadRow` in its place, and the next one follows. Positions are those
in the whole input, however few of its rows are read.

What is kept in memory: for `sample` the positions that were drawn; for `shuffle` 16 bytes a row;
otherwise one row.
"""

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import BinaryIO

from orchestrator.batch import parquet
from orchestrator.batch.records import Layout, Parse, Record, Start, Unreadable, layout_of
from orchestrator.batch.rows import BadRow, Row, kind_of
from orchestrator.batch.sources import (
    BROKEN,
    InputError,
    Source,
    broken,
    need_file,
    opened,
    source_of,
)

Rows = Generator[Row | BadRow, None, None]

EVERY_BYTES = 4 * 2**20  # how far apart the marks of an index are


def open_rows(
    source: Source | str | Path,
    *,
    form: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    shuffle: int | None = None,
    stdin: BinaryIO | None = None,
) -> Rows:
    """The rows of an input. Drawn first, then shuffled, then cut to the limit.

    Args:
        source: A path, or `-` for stdin.
        form: What it is, where its name does not say: `jsonl`, `csv.gz`.
        limit: How many rows at most.
        sample: Draw so many rows: those whose positions have the smallest hashes, so that rows
            added at the end change little. The input is read twice.
        seed: Of the draw.
        shuffle: Seed of another order than that of the input.
        stdin: What stands in for stdin.

    Returns:
        Rows as they are read. Closing them closes the file.

    Raises:
        InputError: at once, where nothing says what the input is; later, where it cannot be read,
            or not to its end.
    """
    found = source if isinstance(source, Source) else source_of(source, form)
    rows = _in_order(found, stdin) if shuffle is None else _shuffled(found, shuffle)
    if sample is not None:
        rows = _drawn(found, rows, sample, seed)
    return rows if limit is None else _first(rows, limit)


def _in_order(source: Source, stdin: BinaryIO | None) -> Rows:
    if source.form == "parquet":
        assert source.path is not None, "source_of has said so"
        for position, fields in enumerate(parquet.read(source.path)):
            line = position + 1
            if isinstance(fields, Unreadable):
                yield BadRow(position=position, line=line, problem=str(fields))
            else:
                yield _row_of(position, line, fields)
        return
    for position, (record, parse) in enumerate(_scanned(source, stdin)):
        yield _row(record, position, parse)


def _scanned(source: Source, stdin: BinaryIO | None = None) -> Iterator[tuple[Record, Parse]]:
    """Every record from the first to the last, and what reads it."""
    rows = 0
    with opened(source, stdin) as stream:
        try:
            layout, records = layout_of(source.form, stream)
            for record in records:
                yield record, layout.parse
                rows += 1
        except InputError as error:
            raise InputError(f"{source.name}: {error}") from None
        except BROKEN as error:
            before = f"; {rows:,} rows came before that"
            raise InputError(f"{broken(source, error)}{before}") from error


def _row(record: Record, position: int, parse: Parse) -> Row | BadRow:
    line = record.start.line
    if record.problem:
        return BadRow(position=position, line=line, problem=record.problem)
    try:
        fields = parse(record.raw)
    except Unreadable as error:
        return BadRow(position=position, line=line, problem=str(error))
    return _row_of(position, line, fields)


def _row_of(position: int, line: int, fields: dict[str, object]) -> Row | BadRow:
    """A row; its name is no content, so that equal rows are equal whatever they are called."""
    name = fields.pop("custom_id", None)
    if name is not None and not isinstance(name, str):
        problem = f"its custom_id is {kind_of(name)}; write text"
        return BadRow(position=position, line=line, problem=problem)
    return Row(position=position, line=line, custom_id=name or "", fields=fields)


# Some of them.


def _first(rows: Rows, limit: int) -> Rows:
    with closing(rows):
        yield from islice(rows, limit)


def _drawn(source: Source, rows: Rows, sample: int, seed: int) -> Rows:
    if source.form != "parquet":
        need_file(source, "Drawing a sample reads the input twice, which")
    wanted = draw(_count(source), sample, seed)
    with closing(rows):
        yield from islice((row for row in rows if row.position in wanted), len(wanted))


def draw(count: int, sample: int, seed: int) -> frozenset[int]:
    """So many of the positions below a count, the same for the same seed everywhere.

    >>> sorted(draw(1000, 3, 7)) == sorted(draw(1000, 3, 7))
    True
    """
    return frozenset(nsmallest(sample, range(count), key=lambda position: _mixed(position, seed)))


_64 = 2**64 - 1


def _mixed(position: int, seed: int) -> int:
    """A number that looks like chance; SplitMix64's way to finish."""
    value = (position + 1) * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 & _64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _64
    return value ^ value >> 31


def _count(source: Source) -> int:
    if source.form == "parquet":
        assert source.path is not None, "source_of has said so"
        return parquet.count(source.path)
    return sum(1 for _ in _scanned(source))


# In another order.


def _shuffled(source: Source, seed: int) -> Rows:
    if source.form == "parquet":
        raise InputError(f"{source.name}: Parquet is read in order only; leave --shuffle out")
    need_file(source, "Shuffling")
    offsets, lines = array("Q"), array("I")
    for record, _ in _scanned(source):
        offsets.append(record.start.offset)
        lines.append(record.start.line)
    order = array("I", range(len(offsets)))
    Random(seed).shuffle(order)
    with opened(source) as stream:
        layout, _ = layout_of(source.form, stream)
        for position in order:
            start = Start(offsets[position], lines[position])
            yield _row(_record_at(stream, layout, start, source), position, layout.parse)


def _record_at(stream: BinaryIO, layout: Layout, start: Start, source: Source) -> Record:
    stream.seek(start.offset)
    record = next(layout.scan(stream, start), None)
    if record is None or record.start != start:
        raise _changed(source)
    return record


def _changed(source: Source) -> InputError:
    return InputError(f"{source.name} was changed while it was read; leave it alone, and go on")


# A range of them.


@dataclass(frozen=True, slots=True)
class Mark:
    """Where in the bytes a row begins: how many are before it, its line, and its position."""

    offset: int
    line: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What is known of a file that is read in ranges: a mark every few megabytes.

    Attributes:
        rows: How many there are.
        size: How many bytes.
        marks: In the order of the file.
    """

    rows: int
    size: int
    marks: tuple[Mark, ...]

    def ranges(self, count: int) -> tuple[tuple[int, int], ...]:
        """So many ranges of bytes, about equal, that make up the whole."""
        cuts = [self.size * place // count for place in range(count + 1)]
        return tuple(pairwise(cuts))


def index_of(source: Source, *, every_bytes: int = EVERY_BYTES) -> Index:
    """Look through a file once, so that ranges of it know where they are.

    Raises:
        InputError: it is stdin, compressed, Parquet, or cannot be read.
    """
    size = _size(source)
    marks: list[Mark] = []
    rows, wanted = 0, 0
    for position, (record, _) in enumerate(_scanned(source)):
        if record.start.offset >= wanted:
            marks.append(Mark(record.start.offset, record.start.line, position))
            wanted = record.start.offset + every_bytes
        rows = position + 1
    return Index(rows=rows, size=size, marks=tuple(marks))


def rows_between(source: Source, start: int, end: int, index: Index) -> Rows:
    """The rows whose first byte is within a range; ranges that meet share no row and miss none.

    Args:
        source: The file that was indexed.
        start: The first byte.
        end: The first byte that is not meant.
        index: Of the whole file; without it nobody could say where within quotes a row begins, or
            which position it has.

    Raises:
        InputError: the file has another size than when it was indexed, or cannot be read.
    """
    if _size(source) != index.size:
        raise _changed(source)
    before = bisect_right(index.marks, start, key=lambda mark: mark.offset)
    if not index.marks:
        return
    mark = index.marks[max(before - 1, 0)]
    with opened(source) as stream:
        layout, _ = layout_of(source.form, stream)
        stream.seek(mark.offset)
        begin = Start(mark.offset, mark.line)
        for position, record in enumerate(layout.scan(stream, begin), mark.position):
            if record.start.offset >= end:
                return
            if record.start.offset >= start:
                yield _row(record, position, layout.parse)


def _size(source: Source) -> int:
    if source.form == "parquet":
        raise InputError(f"{source.name}: Parquet is not read in ranges of bytes")
    return need_file(source, "Reading in ranges").stat().st_size
