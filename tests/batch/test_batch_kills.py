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


@pytest.fixture
def warm() -> Iterator[Warm]:
    made = Warm()
    yield made
    made.close()


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def killed_after(pid: int, simulator: Simulator, requests: int) -> bool:
    """Kill a batch once so many requests have come; whether it was still at it."""
    ends = simulator.requests.total + requests
    while simulator.requests.total < ends and runs(pid):
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
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
