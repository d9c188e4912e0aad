"""Several processes share the rows of a batch, and none is lost with the process that had it."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from adapters.config import ModelConfig, RatesConfig
from orchestrator.batch import job, processes
from orchestrator.batch.answering import Plan
from orchestrator.batch.job import run_batch
from orchestrator.batch.parts import Heading, PartsFolder, read_part
from orchestrator.batch.processes import for_one_of
from orchestrator.batch.work import Tally
from orchestrator.config import CacheConfig, LimitsConfig, OrchestratorConfig, TimeoutsConfig
from orchestrator.simulator import Simulator
from tests.batching import Watching, answers, asking, asking_or_dying, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Simulator]:
    with simulated_elsewhere() as running:
        yield running


@pytest.fixture
def cached(elsewhere: Simulator, tmp_path: Path) -> OrchestratorConfig:
    """A configuration whose answers to numbered rows are kept: no process loads litellm."""
    config = configured(elsewhere, cache=CacheConfig(folder=str(tmp_path / "cache")))
    rows = write_rows(tmp_path / "first.jsonl", numbered(40))
    run_batch(order(config, rows, tmp_path / "first-out.jsonl"), Watching())
    return config


def test_rows_are_shared_and_survive_the_processes_that_had_them(
    elsewhere: Simulator, cached: OrchestratorConfig, tmp_path: Path
) -> None:
    """One that kills its process twice is an error; those that were beside it are answered."""
    given: list[dict[str, Any]] = [dict(row) for row in numbered(40)]
    given[7]["dies_once"] = str(tmp_path / "died")
    given[20]["dies"] = True
    rows, output = write_rows(tmp_path / "rows.jsonl", given), tmp_path / "out.jsonl"
    before = elsewhere.requests.total

    made = order(
        cached,
        rows,
        output,
        ask=partial(asking_or_dying, model="alpha"),
        workers=2,
        concurrency=6,
    )
    result = run_batch(made, Watching())

    told = answers(output)
    assert [one["position"] for one in told] == list(range(40))
    assert [one["position"] for one in told if one["failure"]] == [20]
    assert told[20]["failure"] == "WorkerDied"
    assert (result.tally.answered, result.tally.failed) == (39, 1)
    assert elsewhere.requests.total == before
    by_part = [
        [record.outcome.position for record in read_part(path)]
        for path in PartsFolder(output).paths()
    ]
    assert sorted(position for part in by_part for position in part) == list(range(40))
    assert len(by_part) >= 3, "the parent wrote one, and two processes at least one each"


class Leaving(Watching):
    """Presses Ctrl-C twice once so many calls are under way."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls
        self._presses = 2
        self.seen: dict[str, int] = {}

    def show(self, tally: Tally) -> None:
        super().show(tally)
        if sum(tally.calls_in_flight.values()) >= self._calls and self._presses:
            self.seen = dict(tally.calls_in_flight)
            self._presses -= 1
            os.kill(os.getpid(), signal.SIGINT)


def test_the_calls_of_all_processes_are_told_though_no_row_ends(
    elsewhere: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one are half of them; when it is over none is left."""
    monkeypatch.setattr(job, "ONE_PRESS_S", 0)
    patience = TimeoutsConfig(first_content_s=60, gap_s=60, total_s=60)
    config = configured(elsewhere, {"alpha": ["stall0"]}, timeouts=patience)
    rows = write_rows(tmp_path / "rows.jsonl", numbered(4))
    watching = Leaving(4)

    made = order(config, rows, tmp_path / "out.jsonl", workers=2, concurrency=4)
    result = run_batch(made, watching)

    assert watching.seen == {"alpha": 4}
    assert (result.is_complete, result.tally.done, result.tally.calls_in_flight) == (False, 0, {})


def test_a_process_whose_parent_is_gone_ends_at_once(elsewhere: Simulator, tmp_path: Path) -> None:
    """Nobody would be told of what it does."""
    plan = Plan(
        config=configured(elsewhere),
        ask=partial(asking, model="alpha"),
        heading=Heading(batch="b", config="c", source=""),
        folder=tmp_path,
    )
    line, other_end = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=processes._serve, args=(plan, 1, other_end)
    )
    process.start()
    other_end.close()

    line.close()
    process.join(60)

    assert process.exitcode == 1
    assert process.pid != os.getpid()


def test_each_process_has_its_share_of_what_a_model_allows(elsewhere: Simulator) -> None:
    """Together they call it no faster than one would; nobody has less than one."""
    config = configured(elsewhere)
    rates = RatesConfig(requests_per_minute=100, concurrency=1)
    limited = config.models["alpha"].model_copy(update={"rates": rates})
    config = config.model_copy(update={"models": {**config.models, "alpha": limited}})

    shared = for_one_of(config, 3).models

    assert shared["alpha"].rates == RatesConfig(requests_per_minute=33, concurrency=1)
    assert isinstance(shared["beta"], ModelConfig)
    assert shared["beta"] == config.models["beta"]
    # Where Redis counts a minute for all of them, it is whole for each.
    counted = config.model_copy(update={"limits": LimitsConfig(url=SecretStr("redis://h"))})
    assert for_one_of(counted, 3).models["alpha"].rates == rates
