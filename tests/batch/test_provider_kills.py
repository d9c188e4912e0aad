"""A provider's batch is submitted once, wherever its client is killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.batch.job import run_batch
from orchestrator.batch.parts import PartsFolder
from orchestrator.batch.submitted import Journal
from orchestrator.config import OrchestratorConfig
from orchestrator.simulator import Simulator
from tests.batch.test_batch_kills import Warm, runs
from tests.batching import Watching, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere


@pytest.fixture
def warm() -> Iterator[Warm]:
    made = Warm()
    yield made
    made.close()


def killed_at(pid: int, moment: Callable[[], bool]) -> bool:
    """Kill a batch once a moment has come; whether it was still at it."""
    while not moment() and runs(pid):
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while runs(pid):
            time.sleep(0.001)
        return True
    return False


def at_a_request(simulator: Simulator, output: Path, rng: Random) -> Callable[[], bool]:
    """An upload, a submission, a look or a collection has come to the provider."""
    ends = simulator.requests.total + rng.randrange(6)
    return lambda: simulator.requests.total >= ends


def at_a_submission(simulator: Simulator, output: Path, rng: Random) -> Callable[[], bool]:
    """The provider has a batch, which its client has not heard yet, or just so."""
    ends = len(simulator.batches.all) + 1
    return lambda: len(simulator.batches.all) >= ends


def at_an_outcome(simulator: Simulator, output: Path, rng: Random) -> Callable[[], bool]:
    """Some of what was collected is written down."""
    ends = written(output) + 1 + rng.randrange(2000)
    return lambda: written(output) >= ends


def written(output: Path) -> int:
    return sum(path.stat().st_size for path in PartsFolder(output).paths())


MOMENTS = (at_a_request, at_a_submission, at_an_outcome)
ROWS = 24
# Room for some rows at a time, so that there are several batches.
PROVIDER: Mapping[str, Any] = {"in_provider_batches": True, "max_cost_nanousd": 3_500_000}


def capped(config: OrchestratorConfig) -> OrchestratorConfig:
    """With a length limit, so that rows can be paid for whatever comes."""
    models = {
        name: model.model_copy(update={"max_tokens": 400}) for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def test_a_batch_of_a_provider_whose_client_is_killed_is_submitted_once(
    warm: Warm, tmp_path: Path, thorough: bool
) -> None:
    """Wherever that was between upload and the last row written down, and whatever was kept."""
    rows, whole = write_rows(tmp_path / "rows.jsonl", numbered(ROWS)), tmp_path / "whole.jsonl"
    rng, rounds, deaths = Random(7), 20 if thorough else 1, 0
    with simulated_elsewhere() as simulator:
        config = capped(configured(simulator))
        told = run_batch(order(config, rows, whole, in_provider_batches=True), Watching())
        for number in range(rounds):
            output, more = tmp_path / f"{number}.jsonl", dict(PROVIDER)
            simulator.batches.all.clear()
            for _ in range(6):
                pid = warm.start(config, rows, output, **more)
                deaths += killed_at(pid, rng.choice(MOMENTS)(simulator, output, rng))

            result = run_batch(order(config, rows, output, **more), Watching())
            lines = [line["custom_id"] for batch in simulator.batches.all for line in batch.lines]

            assert len(lines) == len(set(lines)) == ROWS, "rows were submitted twice, or never"
            assert output.read_bytes() == whole.read_bytes()
            assert result.tally.spent_nanousd == told.tally.spent_nanousd
            assert Journal(PartsFolder(output).path).read().batches == ()
    assert deaths >= 3 * rounds, "it was over before it was killed often enough"
    print(f"{deaths} kills")
