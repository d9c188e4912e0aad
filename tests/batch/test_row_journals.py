"""A row of several calls that was cut off pays for its finished calls no second time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters import MockAdapter
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.batch.answering import Answerer, Plan
from orchestrator.batch.asking import Question
from orchestrator.batch.job import run_batch
from orchestrator.batch.journals import RowJournals
from orchestrator.batch.outcome import Failure, Outcome
from orchestrator.batch.parts import Heading, Index, Part, PartsFolder, part_path
from orchestrator.batch.processes import Crew, WorkerDied
from orchestrator.batch.rows import Row
from orchestrator.clock import FakeClock
from orchestrator.errors import BatchError, JournalError
from orchestrator.journal import Opening
from orchestrator.ledger import Ledger
from tests.batching import Watching, order, write_rows

NAMES = ("gpt", "claude", "gemini")
ROW = Row(position=7, line=8, fields={"prompt": "Why?"})
FAILED = Failure(kind="InvalidRow", message="never asked")
HEADING = Heading(batch="b", config="config", source="")
SCHEMA = {"type": "object", "required": ["city"]}
WANTED: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
PRICE = {"input_usd": "0.01", "output_usd": "0.10"}


class Counting:
    """A cap that is never reached, and what was settled with it."""

    def __init__(self) -> None:
        self.settled: list[int] = []

    async def hold(self, needed_nanousd: int) -> str:
        return "held"

    async def settle(self, held: str, spent_nanousd: int) -> None:
        self.settled.append(spent_nanousd)


def says(text: str, count: int = 4) -> list[Reply]:
    return [Reply(text=text) for _ in range(count)]


def configured() -> OrchestratorConfig:
    models = {name: {"provider": "openai", "model": name, "price": PRICE} for name in NAMES}
    panel = {"members": list(NAMES), "synthesizer": "claude", "quorum": 3}
    told = {"models": models, "panels": {"three": panel}}
    return OrchestratorConfig.model_validate(told)


@asynccontextmanager
async def answering(
    folder: Path,
    *,
    stuck: str = "",
    model: str = "three",
    wanted: dict[str, Any] | None = None,
    **about: Any,
) -> AsyncIterator[tuple[Answerer, dict[str, MockAdapter]]]:
    """What answers rows, by a panel of three; who is stuck never does."""
    never = asyncio.Event()
    mocks = {
        name: MockAdapter(
            [Reply(text="late", delay_s=1)] if name == stuck else says(f"{name} answers"),
            deployment=name,
            sleep=lambda _: never.wait(),
        )
        for name in NAMES
    }
    journals = RowJournals(folder, "config")
    request = RequestConfig(prompt="Why?", model=model, max_tokens=100, response_format=wanted)
    async with EnhancedOrchestrator(
        configured(), adapters=mocks, clock=FakeClock(), ledger=about.get("ledger")
    ) as engine:
        yield (
            Answerer(
                engine,
                lambda row: Question(request=request),
                stopping=asyncio.Event(),
                journals=journals,
                clock=about.pop("clock", FakeClock()),
                **about,
            ),
            mocks,
        )


async def cut_off(folder: Path, **about: Any) -> None:
    """Begin the row, and leave it once two of its three drafts are paid for."""
    journal = RowJournals(folder, "config").of(ROW)
    async with answering(folder, stuck="gemini", **about) as (answer, _):
        task = asyncio.create_task(answer(ROW))
        while len(journal.paid()) < 2:  # noqa: ASYNC110 - it looks as another process would
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})


def calls(mocks: dict[str, MockAdapter]) -> dict[str, int]:
    return {name: len(mock.requests) for name, mock in mocks.items()}


def used(outcome: Outcome) -> dict[str, tuple[int, int, int]]:
    return {
        use.deployment: (use.calls, use.completion_tokens, use.cost_nanousd) for use in outcome.use
    }


async def test_a_row_that_was_cut_off_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    """Its outcome is that of a row nobody cut off, what was paid before included."""
    async with answering(tmp_path / "whole") as (answer, _):
        whole = await answer(ROW)
    await cut_off(tmp_path)

    async with answering(tmp_path) as (answer, mocks):
        outcome = await answer(ROW)
        assert RowJournals(tmp_path, "config").of(ROW).is_there
        answer.forget(ROW)

    assert calls(mocks) == {"gpt": 0, "claude": 1, "gemini": 1}
    assert (outcome.status, outcome.text) == ("complete", whole.text)
    assert used(outcome) == used(whole)
    assert not list((tmp_path / "rows").iterdir())


async def test_a_row_whose_outcome_was_lost_is_told_again_without_a_call(tmp_path: Path) -> None:
    """The process may end between the last answer and the line that keeps it."""
    async with answering(tmp_path) as (answer, _):
        before = await answer(ROW)

    async with answering(tmp_path) as (answer, mocks):
        after = await answer(ROW)

    assert calls(mocks) == dict.fromkeys(NAMES, 0)
    assert (after.text, after.run_id, used(after)) == (before.text, before.run_id, used(before))


async def test_a_question_that_is_put_twice_is_written_down_twice(tmp_path: Path) -> None:
    """Once more for JSON that is right: both runs are found again, and both are told of."""
    async with answering(tmp_path, wanted=WANTED) as (answer, _):
        before = await answer(ROW)

    async with answering(tmp_path, wanted=WANTED) as (answer, mocks):
        after = await answer(ROW)
        answer.forget(ROW)

    assert calls(mocks) == dict.fromkeys(NAMES, 0)
    assert after.failure is not None
    assert after.failure.kind == "InvalidAnswer"
    assert (after.text, used(after)) == (before.text, used(before))
    assert sum(use.calls for use in after.use) == 8
    assert not list((tmp_path / "rows").glob("*"))


async def test_the_cap_counts_what_was_paid_before_no_second_time(tmp_path: Path) -> None:
    """Of a row that is gone on with, only what is paid for now is settled."""
    cap = Counting()
    async with Ledger() as ledger:
        await cut_off(tmp_path, cap=Counting(), ledger=ledger)
        before = sum(c.cost_nanousd or 0 for c in RowJournals(tmp_path, "config").of(ROW).paid())
        left = RowJournals(tmp_path, "config").left_nanousd()

        async with answering(tmp_path, cap=cap, ledger=ledger) as (answer, _):
            outcome = await answer(ROW)
            await ledger.drain()

    assert left == before > 0
    assert cap.settled == [outcome.cost_nanousd - before]


async def test_a_row_of_one_call_is_written_down_nowhere_but_in_its_part(tmp_path: Path) -> None:
    """It is as fast as it ever was."""
    async with answering(tmp_path, model="gpt") as (answer, _):
        outcome = await answer(ROW)

    assert outcome.status == "complete"
    assert not RowJournals(tmp_path, "config").of(ROW).is_there


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
async def test_of_a_torn_journal_what_is_whole_counts(tmp_path: Path, share: float) -> None:
    """What cannot be read is asked again; nothing fails."""
    await cut_off(tmp_path)
    (path,) = (tmp_path / "rows").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    kept = len(RowJournals(tmp_path, "config").of(ROW).paid())

    async with answering(tmp_path) as (answer, mocks):
        outcome = await answer(ROW)

    assert outcome.status == "complete"
    assert sum(calls(mocks).values()) == 4 - kept
    assert sum(use.calls for use in outcome.use) == 4


@pytest.mark.parametrize(
    ("row", "config"),
    [
        (Row(position=7, line=8, fields={"prompt": "Why not?"}), "config"),
        (Row(position=6, line=8, fields={"prompt": "Why?"}), "config"),
        (ROW, "another"),
    ],
)
async def test_a_row_that_has_changed_meets_no_old_journal(
    tmp_path: Path, row: Row, config: str
) -> None:
    """Other content, another place, another configuration."""
    await cut_off(tmp_path)

    assert not RowJournals(tmp_path, config).of(row).is_there


async def test_a_row_waits_for_the_process_that_had_it(tmp_path: Path) -> None:
    """One that dies lets go of its files one after another."""
    await cut_off(tmp_path)
    row = RowJournals(tmp_path, "config").of(ROW)
    dying = row.question.resume()
    assert dying is not None

    class Waiting(FakeClock):
        waits = 0

        async def sleep(self, delay_s: float) -> None:
            self.waits += 1
            dying.close()

    clock = Waiting()
    async with answering(tmp_path, clock=clock) as (answer, mocks):
        outcome = await answer(ROW)

    assert clock.waits == 1
    assert outcome.status == "complete"
    assert calls(mocks)["gpt"] == 0


async def test_a_row_that_another_process_keeps_ends_the_batch(tmp_path: Path) -> None:
    """To ask it here as well would be to pay twice."""
    await cut_off(tmp_path)
    row = RowJournals(tmp_path, "config").of(ROW)
    other = row.question.resume()
    assert other is not None

    class Patient(FakeClock):
        async def sleep(self, delay_s: float) -> None: ...

    async with answering(tmp_path, clock=Patient()) as (answer, _):
        with pytest.raises(JournalError, match="in use"):
            await answer(ROW)
    other.close()


async def test_a_row_that_takes_its_processes_down_tells_what_it_has_cost(tmp_path: Path) -> None:
    """It has no answer, but its drafts were paid for."""
    await cut_off(tmp_path)
    row = RowJournals(tmp_path, "config").of(ROW)
    paid = sum(call.cost_nanousd or 0 for call in row.paid())
    plan = Plan(config=configured(), ask=lambda row: FAILED, heading=HEADING, folder=tmp_path)
    part = Part(part_path(tmp_path, 1), HEADING)

    kept = Crew(plan, part, asyncio.Event()).given_up(ROW, WorkerDied("it died"))

    part.close()
    assert (kept.status, kept.cost_nanousd) == ("failed", paid)
    assert part.read(kept.place).use[0].calls == 1
    assert not row.is_there


def opened(folder: Path, row: Row, *, began: datetime, config: str = "config") -> Path:
    """A journal that a killed process has left."""
    slot = RowJournals(folder, config).of(row).question
    opening = Opening(
        run_id="run",
        started_at=began.isoformat(),
        seed=1,
        nonce="",
        config_hash="",
        request=RequestConfig(prompt="Why?"),
    )
    slot.begin(opening).close()
    return slot.path


def test_what_no_row_can_go_on_with_is_removed(tmp_path: Path) -> None:
    """What is of another configuration, and what has an outcome that was written down since."""
    now = datetime.now(UTC)
    done, failed = (Row(position=n, line=1, fields={"prompt": "Why?"}) for n in (0, 1))
    part = Part(part_path(tmp_path, 1), HEADING)
    index = Index()
    for row in (done, failed):
        outcome = Outcome(
            position=row.position,
            line=1,
            digest=row.digest,
            status="failed" if row is failed else "complete",
            at_s=now.timestamp(),
        )
        index.add(outcome, part.append(outcome))
    part.close()
    earlier, later = now - timedelta(seconds=9), now + timedelta(seconds=9)
    useless = [
        opened(tmp_path, done, began=earlier),
        opened(tmp_path, ROW, began=earlier, config="another"),
    ]
    useful = [opened(tmp_path, failed, began=later), opened(tmp_path, ROW, began=earlier)]

    journals = RowJournals(tmp_path, "config")
    journals.tidy(index)

    assert [path.exists() for path in useless] == [False, False]
    assert [path.exists() for path in useful] == [True, True]
    journals.clear()
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("is_fresh", [False, True])
def test_who_begins_anew_meets_nothing_old(tmp_path: Path, is_fresh: bool) -> None:
    """Not even where the batch is over before its first row."""
    output = tmp_path / "out.jsonl"
    folder = PartsFolder(output).path
    path = opened(folder, ROW, began=datetime.now(UTC), config="digest")
    told = order(configured(), write_rows(tmp_path / "rows.jsonl", []), output)

    def unreadable() -> Iterator[Row]:
        raise BatchError("no rows")
        yield ROW

    with pytest.raises(BatchError, match="no rows"):
        run_batch(replace(told, rows=unreadable, is_fresh=is_fresh), Watching())

    assert path.exists() is not is_fresh


def test_what_is_no_journal_of_a_row_stays(tmp_path: Path) -> None:
    """Somebody else has put it there."""
    path = opened(tmp_path, ROW, began=datetime.now(UTC))
    other = path.with_name("a note!.jsonl")
    other.touch()

    RowJournals(tmp_path, "config").clear()

    assert [path.exists(), other.exists()] == [False, True]


def test_a_journal_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    """It would be met again by a row that has been paid for."""
    slot = RowJournals(tmp_path, "config").of(ROW).question
    slot.path.mkdir(parents=True)

    with pytest.raises(JournalError, match=r"rows/7-.* cannot be removed"):
        slot.remove()
    with pytest.raises(JournalError, match="cannot be removed"):
        slot.resume()
