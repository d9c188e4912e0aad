"""Parquet is read and written where pyarrow is installed, and says so where it is not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.batch.outcome import Outcome
from orchestrator.batch.reading import open_rows
from orchestrator.batch.rows import BadRow, Row
from orchestrator.batch.sources import InputError
from orchestrator.batch.writing import COLUMNS, write_outcomes


@pytest.mark.parametrize("is_sampled", [False, True])
def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sampled: bool
) -> None:
    """Reading or writing: nothing else would help."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "a.parquet"

    with pytest.raises(InputError, match=r"llm-orchestrator-gateway\[parquet\]"):
        next(open_rows(path, sample=1 if is_sampled else None))
    with pytest.raises(InputError, match=r"llm-orchestrator-gateway\[parquet\]"):
        write_outcomes([], path)
    assert list(tmp_path.iterdir()) == []


def outcomes(count: int) -> Iterator[Outcome]:
    for place in range(count):
        yield Outcome(
            position=place,
            line=place + 1,
            custom_id=f"row {place}",
            digest="d" * 32,
            status="complete",
            text="grüß dich",
            parsed={"n": place} if place % 2 else None,
        )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Over several of the pieces in which it is written; empty columns included."""
    pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    path = tmp_path / "a.parquet"

    assert write_outcomes(outcomes(2_500), path) == 2_500

    rows = list(open_rows(path))
    assert [row.position for row in rows] == list(range(2_500))
    first, last = rows[0], rows[-1]
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert {*first.fields, "custom_id"} == set(COLUMNS)
    assert (last.custom_id, last.line) == ("row 2499", 2_500)
    assert (first.fields["answer"], first.fields["parsed"]) == ("grüß dich", None)
    assert last.fields["parsed"] == '{"n":2499}'
    assert last.fields["is_repeated"] is False
    assert len(list(open_rows(path, sample=10))) == 10
    assert len(list(open_rows(path, limit=3))) == 3


@pytest.mark.parametrize("sample", [None, 1])
def test_what_is_no_parquet_is_said(tmp_path: Path, sample: int | None) -> None:
    """Whatever its name ends in; a file that is cut short is none either."""
    pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    path = tmp_path / "a.parquet"
    write_outcomes(outcomes(5), path)

    for content in (b"", b"a,b\n", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as Parquet"):
            next(open_rows(path, sample=sample))


def test_a_value_that_cannot_be_held_breaks_its_row_alone(tmp_path: Path) -> None:
    """With the column's name; a table with two columns of one name is refused."""
    pa = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    times = pa.array([0, 1, 10**18, None], pa.timestamp("ns"))
    texts = pa.array([b"a", b"b", b"\xff", b"d"]).view(pa.string())
    parquet.write_table(pa.table({"prompt": texts, "at": times}), tmp_path / "a.parquet")
    same = pa.Table.from_arrays([texts, texts], names=["prompt", "prompt"])
    parquet.write_table(same, tmp_path / "same.parquet")

    rows = list(open_rows(tmp_path / "a.parquet"))

    assert [row.position for row in rows] == [0, 1, 2, 3]
    assert [type(row) for row in rows] == [Row, BadRow, BadRow, Row]
    problems = [row.problem for row in rows if isinstance(row, BadRow)]
    assert ["'at'" in problems[0], "'prompt'" in problems[1]] == [True, True]
    with pytest.raises(InputError, match=r"same\.parquet: two columns are called 'prompt'"):
        list(open_rows(tmp_path / "same.parquet"))
