"""What has come of rows is written so that it is read again, whole or not at all."""

import errno
import json
import os
import stat
import tracemalloc
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from orchestrator.batch.files import OutputError
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.batch.reading import open_rows
from orchestrator.batch.rows import Row
from orchestrator.batch.sources import Format, InputError
from orchestrator.batch.writing import COLUMNS, encoded, flat, openai_line, write_outcomes
from tests.batch.outcomes import OUTCOMES


def outcome(position: int = 0, **fields: object) -> Outcome:
    given = {"digest": "d" * 32, "status": "complete", "text": "hi", "run_id": "r1", **fields}
    return Outcome(position=position, line=position + 1, **given)  # type: ignore[arg-type]


def readable(value: object) -> object:
    """What is left of a value in UTF-8, and of numbers that only Python knows."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case int() if abs(value) >= 2**63:
            return float(value)
        case list() | tuple():
            return [readable(one) for one in value]
        case dict():
            return {readable(key): readable(one) for key, one in value.items()}
        case _:
            return value


USE = (ModelUse(deployment="gpt", calls=2, prompt_tokens=5, completion_tokens=3, cost_nanousd=7),)
FAILED = outcome(status="failed", text="", failure=Failure(kind="X", message="no", status=429))


# Shapes.


@settings(max_examples=25)
@given(st.lists(OUTCOMES, max_size=3))
def test_lines_of_json_are_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome]
) -> None:
    """Whatever stands in them: line ends, halves of characters, numbers beyond any machine's."""
    path = tmp_path_factory.mktemp("out") / "a.jsonl"

    assert write_outcomes(outcomes, path) == len(outcomes)

    rows = [row for row in open_rows(path) if isinstance(row, Row)]
    wanted = [readable(flat(one)) for one in outcomes]
    assert [{**row.fields, "custom_id": row.custom_id} for row in rows] == wanted


@settings(max_examples=25)
@given(st.lists(OUTCOMES, max_size=3), st.sampled_from(["csv", "tsv"]))
def test_a_table_is_read_back_and_holds_no_formula(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome], form: str
) -> None:
    """A cell that a spreadsheet would execute has a ' before it, and is else what it was."""
    path = tmp_path_factory.mktemp("out") / f"a.{form}"

    write_outcomes(outcomes, path)

    rows = list(open_rows(path))
    assert len(rows) == len(outcomes)
    for row, one in zip(rows, outcomes, strict=True):
        assert isinstance(row, Row)
        for name, cell in [("custom_id", row.custom_id), *row.fields.items()]:
            assert not str(cell).startswith(("=", "+", "-", "@", "\t", "\r", "\n")), name
        text = one.text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        assert str(row.fields["answer"]).removeprefix("'") == text.removeprefix("'")
        assert row.fields["position"] == str(one.position)
        if one.parsed is not None:
            parsed = str(row.fields["parsed"])
            dangerous = parsed.startswith("'-")
            assert json.loads(parsed[1:] if dangerous else parsed) == json.loads(
                json.dumps(one.parsed, ensure_ascii=False).encode("utf-8", "replace")
            )


def test_a_flat_line_has_the_columns_and_adds_up_what_models_did() -> None:
    """The receipt only where there is one."""
    line = flat(outcome(use=USE * 2, receipt={"calls": 4}))

    assert list(line) == list(COLUMNS)
    assert (line["calls"], line["prompt_tokens"], line["completion_tokens"]) == (4, 10, 6)
    assert (line["cost_nanousd"], line["cost_usd"]) == (14, 1.4e-08)
    assert "receipt" not in flat(outcome())


def test_an_answer_is_a_completion_that_openais_client_reads() -> None:
    """With what only an orchestrator has beside it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    line = openai_line(
        outcome(custom_id="me", model="council", use=USE, at_s=12.9, ignored={"store": "no"})
    )

    assert (line["custom_id"], line["error"]) == ("me", None)
    assert line["response"]["status_code"] == 200
    assert line["response"]["request_id"] == "r1"
    completion = ChatCompletion.model_validate(line["response"]["body"])
    assert completion.choices[0].message.content == "hi"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 8
    assert (completion.created, completion.model) == (12, "council")
    assert line["response"]["body"]["orchestration"]["ignored"] == {"store": "no"}
    called = openai_line(outcome(text="", tool_calls=(call,), finish_reason="tool_calls"))
    choice = ChatCompletion.model_validate(called["response"]["body"]).choices[0]
    assert choice.message.content is None
    assert choice.message.tool_calls


def test_a_failed_run_is_a_response_and_a_row_without_a_run_an_error() -> None:
    """As OpenAI tells apart what was refused and what was never sent."""
    refused, unasked = openai_line(FAILED), openai_line(outcome(failure=FAILED.failure, run_id=""))

    assert refused["response"]["status_code"] == 429
    assert refused["response"]["body"]["error"]["message"] == "no"
    assert refused["error"] is None
    assert unasked["response"] is None
    assert unasked["error"] == {"code": "X", "message": "no"}


@settings(max_examples=10)
@given(st.lists(OUTCOMES, max_size=2))
def test_openais_lines_are_read_back(outcomes: list[Outcome]) -> None:
    """One a row, each an object with the names that OpenAI gives them."""
    lines = b"".join(encoded(outcomes, shape="openai")).splitlines()

    assert [set(json.loads(line)) for line in lines] == [
        {"id", "custom_id", "response", "error"}
    ] * len(outcomes)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("a.csv", "openai", "one of JSON lines, not of csv"),
        ("a.txt", "flat", "not written as text"),
        ("a.jsonl.gz", "flat", "leave .gz out"),
        ("absent/a.jsonl", "flat", "no such folder"),
    ],
)
def test_what_cannot_be_written_so_is_refused(
    tmp_path: Path, name: str, shape: str, said: str
) -> None:
    """Before a single outcome is taken."""

    def never() -> Iterator[Outcome]:
        raise AssertionError("nothing is to be taken")
        yield

    with pytest.raises(OutputError, match=said):
        write_outcomes(never(), tmp_path / name, shape=shape)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_format_is_refused(tmp_path: Path) -> None:
    """Its name says nothing."""
    with pytest.raises(InputError, match="Nothing says what"):
        write_outcomes([], tmp_path / "a")


# Files.


def test_what_is_written_is_for_its_owner_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """Answers may be anybody's secret."""
    path = tmp_path / "a.jsonl"

    write_outcomes([outcome()], path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_nlink == 1


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    """Then it is replaced at once."""
    path = tmp_path / "a.jsonl"
    path.write_text("mine")

    with pytest.raises(OutputError, match="exists already"):
        write_outcomes([outcome()], path)
    assert path.read_text() == "mine"

    write_outcomes([], path, replace=True)
    assert path.read_bytes() == b""


def test_a_file_that_comes_while_another_is_written_is_left_alone(tmp_path: Path) -> None:
    """It was not there when it was looked for."""
    path = tmp_path / "a.jsonl"

    def some() -> Iterator[Outcome]:
        path.write_text("mine")
        yield outcome()

    with pytest.raises(OutputError, match="exists already"):
        write_outcomes(some(), path)

    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replace", [False, True])
def test_a_link_is_not_followed(tmp_path: Path, replace: bool) -> None:
    """Nor is a folder or a device written to."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "a.jsonl").symlink_to(target)
    (tmp_path / "b.jsonl").mkdir()

    for name, said in (("a.jsonl", "is a link"), ("b.jsonl", "no ordinary file")):
        with pytest.raises(OutputError, match=said):
            write_outcomes([outcome()], tmp_path / name, replace=replace)
    assert target.read_text() == "mine"


def test_a_file_of_another_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing it would change whose it is."""
    path = tmp_path / "a.jsonl"
    path.write_text("theirs")
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)

    with pytest.raises(OutputError, match="belongs to another user"):
        write_outcomes([outcome()], path, replace=True)


def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    """And nothing half written beside it."""
    path = tmp_path / "a.jsonl"
    path.write_text("mine")

    def some() -> Iterator[Outcome]:
        yield outcome()
        raise ValueError("the rest is gone")

    with pytest.raises(ValueError, match="the rest is gone"):
        write_outcomes(some(), path, replace=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_read_is_not_said_of_the_file_that_is_written(tmp_path: Path) -> None:
    """Making room would not help."""

    def some() -> Iterator[Outcome]:
        yield outcome()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OutputError, match="to be written cannot be read: Input/output error"):
        write_outcomes(some(), tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was there stays."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OutputError, match="No space left on device; make room"):
        write_outcomes([outcome()], tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_gets_the_file_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By renaming; what was there would have been seen before."""

    def unknown(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", unknown)

    write_outcomes([outcome()], tmp_path / "a.jsonl")

    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


# Memory.


def peak_bytes(rows: int, form: Format) -> int:
    tracemalloc.start()
    try:
        made = (outcome(place, text="word " * 20) for place in range(rows))
        deque(encoded(made, form), maxlen=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_ten_times_the_outcomes_take_no_more_memory(form: Format) -> None:
    """Each is written and forgotten."""
    peak_bytes(10, form)

    assert peak_bytes(1_500, form) <= peak_bytes(150, form) + 20_000
