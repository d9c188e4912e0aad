"""Write what has come of rows: lines of JSON, OpenAI's batch output, tables, Parquet.

Everything is written as it comes, and can be read again by `open_rows`.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson

from orchestrator.batch import parquet
from orchestrator.batch.files import OutputError, atomically
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.records import DELIMITERS
from orchestrator.batch.sources import Format, Source, source_of
from orchestrator.wire.chat import completion_id

Shape = Literal["flat", "openai"]

# The columns of the flat shape, in order, and what they hold in tables and Parquet. What is a list
# or an object is text there: JSON.
COLUMNS: Mapping[str, type] = {
    "position": int,
    "line": int,
    "custom_id": str,
    "status": str,
    "answer": str,
    "parsed": str,
    "tool_calls": str,
    "finish_reason": str,
    "model": str,
    "calls": int,
    "prompt_tokens": int,
    "completion_tokens": int,
    "cost_usd": float,
    "cost_nanousd": int,
    "elapsed_s": float,
    "at_s": float,
    "agreement": float,
    "is_repeated": bool,
    "causes": str,
    "ignored": str,
    "error": str,
    "error_message": str,
    "error_status": int,
    "run_id": str,
    "receipt": str,
}


def write_outcomes(
    outcomes: Iterable[Outcome],
    path: Path,
    *,
    form: str | None = None,
    shape: Shape = "flat",
    replace: bool = False,
) -> int:
    """Write a file in one piece.

    Args:
        outcomes: In the order they are to have; read once.
        path: Where it is to be.
        form: What it is, where its name does not say.
        shape: What a row looks like.
        replace: Whether it may take the place of a file of ours.

    Returns:
        How many rows were written.

    Raises:
        InputError: nothing says what the file is to be, or it needs what is not installed.
        OutputError: it cannot be written so, or not there.
    """
    source = target_of(path, form, shape)
    counted = _Counted(outcomes)
    with atomically(path, replace=replace) as file:
        if source.form == "parquet":
            parquet.write(file, (_cells(one) for one in counted), COLUMNS)
        else:
            for piece in encoded(counted, source.form, shape):
                file.write(piece)
    return counted.count


def target_of(path: Path, form: str | None = None, shape: Shape = "flat") -> Source:
    """What a file is to be, for who wants to know before there is anything to write.

    Raises:
        InputError: nothing says what the file is to be.
        OutputError: it cannot be written so.
    """
    source = source_of(path, form)
    if source.packing:
        raise OutputError(f"{path}: what is written is not compressed; leave .{source.packing} out")
    _need_shape(source.form, shape)
    return source


class _Counted:
    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._outcomes = outcomes
        self.count = 0

    def __iter__(self) -> Iterator[Outcome]:
        try:
            for outcome in self._outcomes:
                yield outcome
                self.count += 1
        except OSError as error:  # else it would be said of the file that is written
            why = error.strerror or error
            raise OutputError(f"What is to be written cannot be read: {why}") from error


def encoded(
    outcomes: Iterable[Outcome], form: Format = "jsonl", shape: Shape = "flat"
) -> Iterator[bytes]:
    """The bytes of a file, row by row.

    Raises:
        OutputError: rows have no such form.
    """
    _need_shape(form, shape)
    if form == "jsonl":
        of = flat if shape == "flat" else openai_line
        return (_json(of(outcome)) + b"\n" for outcome in outcomes)
    if form in DELIMITERS:
        return _table(outcomes, DELIMITERS[form])
    raise OutputError(f"Answers are not written as {form}; use jsonl, csv, tsv or parquet")


def _need_shape(form: Format, shape: Shape) -> None:
    if shape == "openai" and form != "jsonl":
        raise OutputError(f"OpenAI's shape is one of JSON lines, not of {form}; use jsonl")
    if form == "text":
        raise OutputError("Answers are not written as text; use jsonl, csv, tsv or parquet")


# Shapes.


def flat(outcome: Outcome) -> dict[str, Any]:
    """One object without objects in it but for what the answer, the receipt and notes are."""
    failure = outcome.failure
    told = {
        "position": outcome.position,
        "line": outcome.line,
        "custom_id": outcome.custom_id,
        "status": outcome.status,
        "answer": outcome.text,
        "parsed": outcome.parsed,
        "tool_calls": list(outcome.tool_calls),
        "finish_reason": outcome.finish_reason,
        "model": outcome.model,
        "calls": sum(use.calls for use in outcome.use),
        "prompt_tokens": sum(use.prompt_tokens for use in outcome.use),
        "completion_tokens": sum(use.completion_tokens for use in outcome.use),
        "cost_usd": _dollars(outcome),
        "cost_nanousd": outcome.cost_nanousd,
        "elapsed_s": outcome.elapsed_s,
        "at_s": outcome.at_s,
        "agreement": outcome.agreement,
        "is_repeated": outcome.is_repeated,
        "causes": list(outcome.causes),
        "ignored": dict(outcome.ignored),
        "error": failure.kind if failure else None,
        "error_message": failure.message if failure else None,
        "error_status": failure.status if failure else None,
        "run_id": outcome.run_id,
    }
    if outcome.receipt is not None:
        told["receipt"] = outcome.receipt
    return told


def openai_line(outcome: Outcome) -> dict[str, Any]:
    """A line of OpenAI's batch output.

    A run that failed is a response with its status; a row that came to no run is an error.
    """
    failure = outcome.failure
    response: dict[str, Any] | None = {
        "status_code": failure.status if failure else 200,
        "request_id": outcome.run_id,
        "body": _error(outcome) if failure else _completion(outcome),
    }
    error = None
    if failure and not outcome.run_id:
        response, error = None, {"code": failure.kind, "message": failure.message}
    return {
        "id": f"batch_req_{outcome.digest[:16]}_{outcome.position}",
        "custom_id": outcome.custom_id,
        "response": response,
        "error": error,
    }


def _error(outcome: Outcome) -> dict[str, Any]:
    assert outcome.failure is not None, "asked of failures only"
    kind = "invalid_request_error" if outcome.failure.status < 500 else "server_error"
    said = {"message": outcome.failure.message, "code": outcome.failure.kind}
    return {"error": {**said, "type": kind, "param": None}}


def _completion(outcome: Outcome) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": outcome.text or (None if outcome.tool_calls else ""),
        "refusal": None,
    }
    if outcome.tool_calls:
        message["tool_calls"] = list(outcome.tool_calls)
    read = sum(use.prompt_tokens for use in outcome.use)
    written = sum(use.completion_tokens for use in outcome.use)
    told: dict[str, Any] = {
        "run_id": outcome.run_id,
        "status": outcome.status,
        "causes": list(outcome.causes),
        "calls": sum(use.calls for use in outcome.use),
        "cost_usd": _dollars(outcome),
    }
    if outcome.ignored:
        told["ignored"] = dict(outcome.ignored)
    if outcome.receipt is not None:
        told["receipt"] = outcome.receipt
    return {
        "id": completion_id(outcome.run_id),
        "object": "chat.completion",
        "created": int(outcome.at_s),
        "model": outcome.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": outcome.finish_reason or "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
        "orchestration": told,
    }


def _dollars(outcome: Outcome) -> float:
    return float(Decimal(outcome.cost_nanousd).scaleb(-9))


def _json(value: object) -> bytes:
    """JSON in UTF-8. A half of a character, which nothing could read again, is a `?`."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


# Tables.


def _table(outcomes: Iterable[Outcome], delimiter: str) -> Iterator[bytes]:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for outcome in outcomes:
        yield _taken(written)
        cells = _cells(outcome)
        writer.writerow([_harmless(cells[name]) for name in COLUMNS])
    yield _taken(written)


def _taken(written: io.StringIO) -> bytes:
    text = written.getvalue()
    written.seek(0)
    written.truncate()
    return text.encode()


def _cells(outcome: Outcome) -> dict[str, object]:
    """The flat shape, what is a list or an object as JSON; nothing where there is none of it."""
    told = flat(outcome)
    for name in _NESTED:
        value = told.get(name)
        is_told = value is not None if name == "parsed" else bool(value)
        told[name] = _json(value).decode() if is_told else None
    return {name: _text(value) for name, value in told.items()}


_NESTED = ("parsed", "tool_calls", "causes", "ignored", "receipt")


def _text(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


# What a spreadsheet takes for a formula, or for the beginning of one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def _harmless(cell: object) -> object:
    """A cell that a spreadsheet shows and does not execute, and that a table can hold."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\0", "\ufffd")
    return f"'{text}" if text.startswith(_FORMULA) else text
