"""A batch whose process is killed at any moment goes on where it was, and asks nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.batch.job import run_batch
from orchestrator.batch.parts import PartsFolder
from orchestrator.config import OrchestratorConfig
from orchestrator.simulator import Simulator
from tests import forked_batches
from tests.batching import Watching, answers, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere

IN_FLIGHT = 12
COUNCILS = 3  # of those that are asked at once
MEMBERS = 3  # of a council: as many of its calls are under way at once
CALLS = 7  # of a council: drafts, rankings, an answer


class Warm:
    """The process that batches are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, forked_batches.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._says() == "warm"

    def start(self, config: OrchestratorConfig, rows: Path, output: Path, **more: Any) -> int:
        told = config.model_dump(mode="json", exclude_defaults=True)
        for model in told["models"].values():
            model["api_key"] = "simulated-key"
        batch = {"config": told, "rows": str(rows), "output": str(output), "more": more}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(batch) + "\n")
        self._process.stdin.flush()
        return int(self._says())

    def _says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate("")


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    made = Warm()
    yield made
    made.close()


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def killed_after(
    pid: int, simulator: Simulator, requests: int, how: signal.Signals = signal.SIGKILL
) -> bool:
    """End a batch once so many requests have come; whether it was still at it."""
    ends = simulator.requests.total + requests
    while simulator.requests.total < ends and runs(pid):
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.kill(pid, how)
        while runs(pid):
            time.sleep(0.001)
        return True
    return False


def test_a_killed_batch_goes_on_and_asks_nothing_twice(
    warm: Warm, tmp_path: Path, thorough: bool
) -> None:
    """Its output is that of one nobody killed, to the byte; only what was under way is repeated."""
    kills, count = (100, 3500) if thorough else (10, 240)
    rng, rows = Random(5), write_rows(tmp_path / "rows.jsonl", numbered(count))
    output, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    with simulated_elsewhere() as simulator:
        config = configured(simulator, {"alpha": ("5ms",)})
        run_batch(order(config, rows, whole), Watching())
        before, most = simulator.requests.total, 2 * count // kills - IN_FLIGHT
        killed = 0
        while killed < kills:
            pid = warm.start(config, rows, output, concurrency=IN_FLIGHT)
            if not killed_after(pid, simulator, rng.randrange(max(1, most // 2))):
                break
            killed += 1

        result = run_batch(order(config, rows, output), Watching())
        repeated = simulator.requests.total - before - count

    assert killed >= kills // 2, "it was over before it was killed often enough"
    assert result.is_complete
    assert output.read_bytes() == whole.read_bytes()
    assert [one["position"] for one in answers(output)] == list(range(count))
    assert 0 <= repeated <= killed * IN_FLIGHT
    with PartsFolder(output).lock():
        pass
    print(f"{killed} kills, {repeated} of {count} rows asked again")


def test_a_killed_batch_of_councils_pays_for_no_finished_call_twice(
    warm: Warm, tmp_path: Path, thorough: bool
) -> None:
    """Of a row of seven calls that was under way, those that had ended are not made again."""
    kills, count = (100, 200) if thorough else (3, 9)
    rng, rows = Random(7), write_rows(tmp_path / "rows.jsonl", numbered(count))
    output, about = tmp_path / "killed.jsonl", {"model": "all", "concurrency": COUNCILS}
    with simulated_elsewhere() as simulator:
        config = configured(simulator, {"alpha": ("5ms",)})
        killed, most = 0, CALLS * count // kills
        while killed < kills:
            pid = warm.start(config, rows, output, **about)
            if not killed_after(pid, simulator, 1 + rng.randrange(most)):
                break
            killed += 1

        result = run_batch(order(config, rows, output, **about), Watching())

    repeated = simulator.requests.total - CALLS * count
    told = answers(output)
    assert killed >= kills // 2, "it was over before it was killed often enough"
    assert result.is_complete
    assert [(one["position"], one["status"]) for one in told] == [
        (position, "complete") for position in range(count)
    ]
    assert {one["calls"] for one in told} == {CALLS}
    assert all(one["cost"] for one in told)
    assert 0 <= repeated <= killed * COUNCILS * MEMBERS
    assert not (PartsFolder(output).path / "rows").exists()
    print(f"{killed} kills, {repeated} of {CALLS * count} calls made again")


@pytest.mark.parametrize(("model", "calls"), [("alpha", 1), ("all", CALLS)])
def test_a_batch_that_is_told_to_end_repeats_no_call(
    warm: Warm, tmp_path: Path, model: str, calls: int
) -> None:
    """SIGTERM lets what is under way come to its end; the same command goes on after it."""
    count = 60 // calls
    rows, output = write_rows(tmp_path / "rows.jsonl", numbered(count)), tmp_path / "ended.jsonl"
    about = {"model": model, "concurrency": COUNCILS}
    with simulated_elsewhere() as simulator:
        config = configured(simulator, {"alpha": ("5ms",)})
        pid = warm.start(config, rows, output, **about)
        ended = killed_after(pid, simulator, 2 * calls, signal.SIGTERM)

        result = run_batch(order(config, rows, output, **about), Watching())

    assert ended, "it was over before it was told to end"
    assert result.is_complete
    assert 0 < result.tally.found < count
    assert [one["position"] for one in answers(output)] == list(range(count))
    assert simulator.requests.total == calls * count
