"""Batches for tests: rows of JSON lines, asked of a simulator, and outcomes written plainly."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from orchestrator.batch.asking import Question
from orchestrator.batch.job import Order, source_identity
from orchestrator.batch.outcome import Failure, Outcome
from orchestrator.batch.parts import Scanned
from orchestrator.batch.rows import BadRow, Row
from orchestrator.batch.work import Tally, Why
from orchestrator.config import OrchestratorConfig, RequestConfig


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """One row a line."""
    with path.open("rb") as lines:
        for position, line in enumerate(lines):
            try:
                fields = orjson.loads(line)
            except ValueError:
                yield BadRow(position=position, line=position + 1, problem="no JSON")
                continue
            yield Row(position=position, line=position + 1, fields=fields)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def numbered(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"Say the number {number}."} for number in range(count)]


def asking(row: Row, *, model: str) -> Question | Failure:
    request = RequestConfig(prompt=str(row.fields["prompt"]), model=model, seed=1)
    return Question(request=request)


def plain(outcome: Outcome) -> dict[str, Any]:
    """What two runs of one batch have in common."""
    return {
        "position": outcome.position,
        "status": outcome.status,
        "text": outcome.text,
        "calls": sum(use.calls for use in outcome.use),
        "cost": outcome.cost_nanousd,
        "failure": outcome.failure and outcome.failure.kind,
        "is_repeated": outcome.is_repeated,
    }


def write_plainly(outcomes: Iterator[Outcome], path: Path) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("wb") as lines:
        lines.writelines(orjson.dumps(plain(outcome)) + b"\n" for outcome in outcomes)
    draft.replace(path)


def order(
    config: OrchestratorConfig, rows: Path, output: Path, *, model: str = "alpha", **more: Any
) -> Order:
    made = Order(
        output=output,
        rows=partial(read_rows, rows),
        source=source_identity(rows),
        config=config,
        ask=partial(asking, model=model),
        config_digest="digest",
        write=write_plainly,
        workers=1,
    )
    return replace(made, **more)


def answers(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


class Watching:
    """Keeps what it is told, and may act on it."""

    period_s = 0.02

    def __init__(self) -> None:
        self.scanned: Scanned | None = None
        self.source_changed = False
        self.stops: list[Why] = []
        self.last: Tally | None = None

    def found(self, scanned: Scanned, order: Order, *, source_changed: bool) -> None:
        self.scanned, self.source_changed = scanned, source_changed

    def show(self, tally: Tally) -> None:
        self.last = replace(tally)

    def stopping(self, why: Why, tally: Tally) -> None:
        self.stops.append(why)


def asking_or_dying(row: Row, *, model: str) -> Question | Failure:
    """As `asking`, but some rows take the process down that reads them: once, or each time."""
    once, always = row.fields.get("dies_once"), row.fields.get("dies")
    if always or (once and not Path(str(once)).exists()):
        if once:
            Path(str(once)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return asking(row, model=model)
