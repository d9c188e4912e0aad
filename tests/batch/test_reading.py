"""Rows are read from whatever holds them, and a broken one is told without stopping."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.batch.reading import draw, index_of, open_rows, rows_between
from orchestrator.batch.records import MOST_BYTES
from orchestrator.batch.rows import BadRow, Row
from orchestrator.batch.sources import InputError, source_of
from tests.conftest import THOROUGH

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def read(content: bytes, form: str = "jsonl") -> list[Row | BadRow]:
    return list(open_rows("-", form=form, stdin=io.BytesIO(content)))


def told(content: bytes, form: str = "jsonl") -> list[tuple[int, object]]:
    """The line of every row, and its content or what is wrong with it."""
    return [(one.line, getattr(one, "fields", None) or one.problem) for one in read(content, form)]


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# Formats.


@pytest.mark.parametrize(
    ("name", "content", "fields"),
    [
        ("a.jsonl", b'{"prompt": "hi"}\n', {"prompt": "hi"}),
        ("a.ndjson", b'{"messages": []}', {"messages": []}),
        ("a.csv", b"word,n\nhi,1\n", {"word": "hi", "n": "1"}),
        ("a.tsv", b"word\tn\nhi, you\t1\n", {"word": "hi, you", "n": "1"}),
        ("a.TXT", "grüß dich\r\n".encode(), {"prompt": "grüß dich"}),
        ("a.csv.gz", gzip.compress(b"word\nhi\n", mtime=0), {"word": "hi"}),
        ("a.txt.bz2", bz2.compress(b"hi\n"), {"prompt": "hi"}),
        ("a.jsonl.xz", lzma.compress(b'{"prompt": "hi"}'), {"prompt": "hi"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_is_read_as_what_its_name_says(
    tmp_path: Path, name: str, content: bytes, fields: dict[str, object]
) -> None:
    """The end of the name decides, compressed or not, and nothing is guessed."""
    (row,) = open_rows(file(tmp_path, name, content))

    assert isinstance(row, Row)
    assert row.fields == fields


def test_a_line_of_openais_batches_keeps_its_name_and_body() -> None:
    """The name is no content: two lines that ask the same have one digest."""
    line = '{"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions", "body": {"n": 1}}'
    first, second = read(f"{line % 'a'}\n{line % 'b'}\n".encode())

    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.custom_id, second.custom_id) == ("a", "b")
    assert first.digest == second.digest
    assert first.fields["body"] == {"n": 1}


def test_stdin_needs_a_format_and_may_be_compressed() -> None:
    """A pipe has no name that could say what comes out of it."""
    assert told(gzip.compress(b"hi\n"), "text.gz") == [(1, {"prompt": "hi"})]
    with pytest.raises(InputError, match="Nothing says what stdin is; give --format"):
        open_rows("-")


def test_a_program_without_stdin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services have none."""
    monkeypatch.setattr("sys.stdin", None)

    with pytest.raises(InputError, match="There is no stdin"):
        next(open_rows("-", form="text"))


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("a.json", None, "jq -c"),
        ("a.xlsx", None, "save it as CSV"),
        ("a.jsonl.zst", None, "zstd -d"),
        ("a", None, "Nothing says what a is"),
        ("a.jsnl", None, "unknown format 'jsnl', did you mean 'jsonl'"),
        ("a.csv", "cvs", "did you mean 'csv'"),
        ("a.csv", "csv.rar", "unknown format 'rar'"),
        ("a.parquet.gz", None, "not compressed as a whole"),
        ("-", "parquet", "stdin: Parquet is read from a file"),
    ],
)
def test_what_cannot_be_read_is_said_at_once(name: str, form: str | None, said: str) -> None:
    """Before anything is opened, with what to do about it."""
    with pytest.raises(InputError, match=said):
        open_rows(name, form=form)


def test_a_format_that_is_given_goes_before_the_name(tmp_path: Path) -> None:
    """And a file that is compressed by its name stays so."""
    path = file(tmp_path, "a.log.gz", gzip.compress(b"hi\n"))

    (row,) = open_rows(path, form="text")

    assert isinstance(row, Row)
    assert row.fields == {"prompt": "hi"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A folder is no file either."""
    with pytest.raises(InputError, match=r"a\.txt cannot be read: No such file"):
        next(open_rows(tmp_path / "a.txt"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        next(open_rows(tmp_path, form="text"))


# Broken rows.


def test_broken_lines_are_told_by_number_and_the_others_are_read() -> None:
    """Positions count every row, lines every line, empty ones included."""
    lines = [b'\xef\xbb\xbf{"prompt": "1"}', b"", b"{", b"[1]", b'"x"', b'{"a": "\xff"}']
    lines += [
        b'{"a": "\0"}',
        b"  \r",
        b'{"custom_id": 5}',
        b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}",
    ]

    rows = read(b"\n".join([*lines, b'{"prompt": "2"}']))

    assert [(row.position, row.line) for row in rows] == [
        (0, 1), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 9), (7, 10), (8, 11),
    ]  # fmt: skip
    problems = [row.problem for row in rows if isinstance(row, BadRow)]
    for problem, said in zip(
        problems, ["not JSON", "not an object", "not an object", "not UTF-8 at byte 8", "NUL",
                   "custom_id is a number", "64 levels"], strict=True,
    ):  # fmt: skip
        assert said in problem


def test_a_line_that_is_too_long_is_told_and_not_kept() -> None:
    """The line after it is read as if nothing had been."""
    long = b'{"prompt": "' + b"x" * MOST_BYTES + b'"}\n'

    first, second, third = read(long + b'{"prompt": "hi"}\n' + long)

    assert isinstance(first, BadRow)
    assert "longer than 16 MB" in first.problem
    assert isinstance(second, Row)
    assert (second.position, second.line) == (1, 2)
    assert isinstance(third, BadRow)


def test_a_file_in_utf_16_is_refused_as_a_whole() -> None:
    """Every line of it would be broken."""
    with pytest.raises(InputError, match="UTF-16"):
        read("hi\n".encode("utf-16"), "text")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\n".encode("utf-16"), "rows.csv: it is UTF-16"),
        (b"", "rows.csv: the table is empty"),
        (b"a,a\n", "rows.csv: two columns of the table are called 'a'"),
        (gzip.compress(b"a\n1\n"), "rows.csv: it is compressed (gz), and nothing says so"),
        (bz2.compress(b"a\n1\n"), "let it end in .bz2"),
        (lzma.compress(b"a\n1\n"), "--format jsonl.xz"),
    ],
)
def test_a_file_that_is_unreadable_as_a_whole_is_named(
    content: bytes, said: str, tmp_path: Path
) -> None:
    """With what to do about it, and not once for each of what would be taken for its rows."""
    path = tmp_path / "rows.csv"
    path.write_bytes(content)

    with pytest.raises(InputError) as refused:
        list(open_rows(path))

    assert said in str(refused.value)


@pytest.mark.parametrize("packing", PACKERS)
def test_compressed_data_that_is_cut_short_tells_how_many_rows_came(
    tmp_path: Path, packing: str
) -> None:
    """What came before is given first: nobody is to take half a file for a whole one."""
    lines = b"".join(b"line %d\n" % number for number in range(5_000))
    path = file(tmp_path, f"a.txt.{packing}", PACKERS[packing](lines)[:-20])
    read: list[int] = []

    with pytest.raises(InputError, match="cannot be read to its end") as caught:
        read.extend(row.position for row in open_rows(path))

    assert read == list(range(len(read)))
    assert f"{len(read):,} rows came before that" in str(caught.value)


def test_what_is_not_compressed_though_it_says_so_is_told(tmp_path: Path) -> None:
    """The name lies about the content."""
    with pytest.raises(InputError, match="0 rows came before"):
        next(open_rows(file(tmp_path, "a.txt.gz", b"hi\n")))


# Tables.


def test_cells_hold_line_ends_quotes_and_delimiters() -> None:
    """As RFC 4180 writes them; a row's line is the one where it begins."""
    table = b'a,b\r\n"1\r\n2","x ""y"", z"\r\n\r\n5" disk,""\r\n'

    assert told(table, "csv") == [
        (2, {"a": "1\r\n2", "b": 'x "y", z'}),
        (5, {"a": '5" disk', "b": ""}),
    ]


def test_rows_of_a_table_that_do_not_fit_its_header_are_told() -> None:
    """Too few columns, too many, and what stands behind a closing quote."""
    rows = told(b'a,b\n1\n1,2,3\n"x"y,2\nx\ry,2\n1,2\n', "csv")

    assert [line for line, _ in rows] == [2, 3, 4, 5, 6]
    assert rows[0][1] == "has 1 columns; the first row names 2"
    assert rows[1][1] == "has 3 columns; the first row names 2"
    assert "closing quote" in str(rows[2][1])
    assert isinstance(rows[3][1], str)
    assert rows[4][1] == {"a": "1", "b": "2"}


def test_a_quote_that_is_never_closed_takes_the_rest_and_says_so() -> None:
    """Guessing where the row was to end would ask, and pay for, what nobody wrote."""
    (good, bad) = told(b'a\n1\n"2\n3\n4\n', "csv")

    assert good == (2, {"a": "1"})
    assert bad == (3, "a quote in it is never closed, so that everything to line 5 is in it")


def test_a_row_of_a_table_that_is_too_long_ends_where_its_quote_does() -> None:
    """However many lines that takes; the next row is read."""
    line = b"x" * 2**20 + b'""\n'
    rows = told(b'a\n"' + line * 17 + b'"\n1\n', "csv")

    assert rows[0][0] == 2
    assert "longer than 16 MB" in str(rows[0][1])
    assert rows[1] == (20, {"a": "1"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"", "is empty"),
        (b"a,,b\n", "column 2 of the table has no name"),
        (b"a,b, a\n", "are called 'a'"),
        (b'"a\n1\n', "never closed"),
        (b"\xff\n", "not UTF-8"),
    ],
)
def test_a_table_without_a_usable_header_is_refused(table: bytes, said: str) -> None:
    """Its columns have no names, and no row could be used."""
    with pytest.raises(InputError, match=said):
        read(table, "csv")


CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
SPECIAL = st.text(st.sampled_from(',"\t\n\r x'), max_size=6)
TABLES = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(CELLS | SPECIAL, min_size=width, max_size=width), min_size=1, max_size=6
    )
)


@settings(max_examples=50)
@given(TABLES, st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]))
def test_whatever_python_writes_as_a_table_is_read_back(
    cells: list[list[str]], form: str, ending: str
) -> None:
    """Quotes, delimiters and line ends within cells included."""
    written = io.StringIO(newline="")
    writer = csv.writer(
        written, delimiter="," if form == "csv" else "\t", lineterminator=ending,
        quoting=csv.QUOTE_ALL,
    )  # fmt: skip
    names = [f"c{place}" for place in range(len(cells[0]))]
    writer.writerows([names, *cells])

    rows = read(written.getvalue().encode(), form)

    assert [list(row.fields.values()) for row in rows if isinstance(row, Row)] == cells
    assert [row.position for row in rows] == list(range(len(cells)))


@given(st.binary(max_size=60), st.sampled_from(["jsonl", "text", "csv", "tsv"]))
def test_no_bytes_break_the_reader(content: bytes, form: str) -> None:
    """Every row is read or told, in order, or there is one error that says why not."""
    try:
        rows = read(content, form)
    except InputError:
        return

    assert [row.position for row in rows] == list(range(len(rows)))
    assert all(1 <= row.line <= content.count(b"\n") + 1 for row in rows)
    assert all(row.problem if isinstance(row, BadRow) else row.digest for row in rows)


NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["prompt", "custom_id", "x"]), JSON), st.integers(0, 80))
def test_every_line_that_is_read_has_a_digest(fields: dict[str, object], levels: int) -> None:
    """Numbers of any size, halves of characters, and as deep as it may be."""
    deep: object = 0
    for _ in range(levels):
        deep = [deep]

    (row,) = read(json.dumps({**fields, "deep": deep}).encode())

    assert isinstance(row, BadRow) or len(row.digest) == 32


@pytest.mark.parametrize(("name", "more"), [("a.txt", {}), ("a.txt", {"limit": 3, "sample": 5})])
def test_closing_the_rows_closes_the_file(tmp_path: Path, name: str, more: dict[str, int]) -> None:
    """Whoever stops in the middle leaves nothing open."""
    path = file(tmp_path, name, b"1\n" * 50)
    rows = open_rows(path, **more)  # type: ignore[arg-type]
    next(rows)
    assert open_files(path) == 1

    rows.close()

    assert open_files(path) == 0


def open_files(path: Path) -> int:
    """How often this process has a file open."""
    links = Path("/proc/self/fd")
    if not links.is_dir():
        pytest.skip("only /proc tells which files are open")
    return sum(os.path.realpath(link) == str(path.resolve()) for link in links.iterdir())


# Ranges.


def written(folder: Path, form: str, pieces: list[str]) -> Path:
    path = folder / f"a.{form}"
    path.write_bytes("".join(pieces).encode())
    return path


PIECES = st.lists(
    st.sampled_from(
        ["a,b\n", '"x\ny",2\n', "\n", '"1\n\n\n2","3"\r\n', 'un"quoted,4\n', "5\n", '"é""",6\n']
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50)
@given(PIECES, st.integers(1, 40), st.lists(st.integers(0, 150), max_size=4), st.booleans())
def test_ranges_that_meet_share_no_row_and_miss_none(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[str],
    every: int,
    cuts: list[int],
    is_table: bool,
) -> None:
    """Wherever they are cut, within quotes or not; each row is what it is in the whole."""
    folder = tmp_path_factory.mktemp("ranges")
    pieces = [("\ufeff" if every % 2 else "") + "a,b\n", *pieces]
    source = source_of(written(folder, "csv" if is_table else "txt", pieces))
    index = index_of(source, every_bytes=every)
    ends = [0, *sorted(min(cut, index.size) for cut in cuts), index.size]

    ranges = [
        list(rows_between(source, start, end, index)) for start, end in itertools.pairwise(ends)
    ]

    whole = list(open_rows(source))
    assert list(itertools.chain(*ranges)) == whole
    assert index.rows == len(whole)
    in_three = [rows_between(source, start, end, index) for start, end in index.ranges(3)]
    assert list(itertools.chain(*in_three)) == whole


def test_a_file_that_has_changed_since_it_was_indexed_is_refused(tmp_path: Path) -> None:
    """Its positions would be those of another file."""
    source = source_of(file(tmp_path, "a.txt", b"1\n2\n"))
    index = index_of(source)
    file(tmp_path, "a.txt", b"1\n2\n3\n")

    with pytest.raises(InputError, match="was changed while it was read"):
        next(rows_between(source, 0, 2, index))


@pytest.mark.parametrize("name", ["-", "a.txt.gz", "a.parquet", "absent.txt"])
def test_only_a_plain_file_is_read_in_ranges(tmp_path: Path, name: str) -> None:
    """Nobody can begin in the middle of anything else."""
    file(tmp_path, "a.txt.gz", gzip.compress(b"1\n"))
    place = name if name == "-" else tmp_path / name

    with pytest.raises(InputError, match=r"needs a file that is not compressed|not read in ranges"):
        index_of(source_of(place, "text" if name == "-" else None))


# Some of them, and in another order.


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    """Bad rows are rows."""
    path = file(tmp_path, "a.jsonl", b'{"a": 1}\n{\n{"a": 3}\n')

    assert [row.position for row in open_rows(path, limit=2)] == [0, 1]
    assert list(open_rows(path, limit=0)) == []


def test_a_sample_is_that_many_rows_in_order_and_the_same_again(tmp_path: Path) -> None:
    """Another seed draws others; rows that are added leave most of the sample as it was."""
    path = file(tmp_path, "a.txt", b"".join(b"%d\n" % number for number in range(500)))

    drawn = [row.position for row in open_rows(path, sample=50, seed=1)]

    assert len(drawn) == 50
    assert drawn == sorted(drawn) == sorted(draw(500, 50, 1))
    assert drawn != [row.position for row in open_rows(path, sample=50, seed=2)]
    assert len(set(drawn) & draw(550, 50, 1)) >= 35
    assert len(list(open_rows(path, sample=900))) == 500
    with pytest.raises(InputError, match=r"Drawing a sample .* stdin is none"):
        next(open_rows("-", form="text", sample=1, stdin=io.BytesIO(b"1\n")))


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_a_shuffle_gives_every_row_once_where_it_is(tmp_path: Path, form: str) -> None:
    """The order is another one, and the same for the same seed; rows stay what they are."""
    pieces = ["\ufeffa\n", *(f'"{number}\n"\n\n' for number in range(40))]
    path = written(tmp_path, form, pieces)
    whole = list(open_rows(path))

    shuffled = list(open_rows(path, shuffle=3))

    assert shuffled != whole
    assert sorted(shuffled, key=lambda row: row.position) == whole
    assert shuffled == list(open_rows(path, shuffle=3))
    assert shuffled != list(open_rows(path, shuffle=4))
    assert list(open_rows(path, shuffle=3, limit=5)) == shuffled[:5]
    drawn = draw(len(whole), 9, 0)
    some = [row for row in shuffled if row.position in drawn]
    assert list(open_rows(path, shuffle=3, sample=9)) == some


def test_a_file_that_changes_while_it_is_shuffled_is_refused(tmp_path: Path) -> None:
    """Whatever stands at a place now is not the row that stood there."""
    path = file(tmp_path, "a.txt", b"".join(b"%d" % place * 9_000 + b"\n" for place in range(9)))
    rows = open_rows(path, shuffle=1)
    next(rows)
    path.write_bytes(b"")

    with pytest.raises(InputError, match="was changed while it was read"):
        list(rows)


def test_what_cannot_be_read_twice_is_not_shuffled(tmp_path: Path) -> None:
    """And Parquet only in its order."""
    for name, said in (("a.txt.gz", "Shuffling needs a file"), ("a.parquet", "in order only")):
        with pytest.raises(InputError, match=said):
            next(open_rows(file(tmp_path, name, b""), shuffle=1))


# Memory.


class Generated(io.RawIOBase):
    """Rows that are made as they are read."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, room: "memoryview[int]") -> int:  # type: ignore[override]
        while self._rows and len(self._rest) < len(room):
            self._rows -= 1
            self._rest += json.dumps({"prompt": f"{self._rows} " + "word " * 20}).encode() + b"\n"
        piece, self._rest = self._rest[: len(room)], self._rest[len(room) :]
        room[: len(piece)] = piece
        return len(piece)


def peak_bytes(rows: int) -> int:
    stream = io.BufferedReader(Generated(rows))
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_rows("-", form="jsonl", stdin=stream))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert count == rows


def test_ten_times_the_rows_take_no_more_memory() -> None:
    """One row is in memory at a time; the file is not."""
    peak_bytes(100)  # whatever is made once is made now

    assert peak_bytes(5_000) <= peak_bytes(500) + 20_000


@pytest.mark.skipif(not THOROUGH, reason="ORCHESTRATOR_THOROUGH=1 reads a gigabyte")
def test_a_gigabyte_is_read_in_sixteen_megabytes() -> None:
    """Made on the fly, so that no disk is needed."""
    stream = io.BufferedReader(Generated(9_000_000))

    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = sum(1 for _ in open_rows("-", form="jsonl", stdin=stream))
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert rows == 9_000_000
    assert after_kb - before_kb < 16_000
