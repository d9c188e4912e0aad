"""A batch over several machines: real workers of Dask, and what happens when some are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.batch.cluster import Place, fitted, place_of
from orchestrator.batch.parts import PartsFolder, read_part
from orchestrator.batch.sources import InputError
from orchestrator.cli import main
from orchestrator.config import BudgetsConfig, CapsConfig, LedgerConfig, OrchestratorConfig
from orchestrator.simulator import Simulator
from tests.batching import answers, numbered, write_rows
from tests.faces import configured, simulated_elsewhere

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 8
ROWS = 160


class Cluster:
    """A scheduler and two workers, each a process of its own on a free port."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRATOR_HOME": str(folder)}
        self._scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        self.workers = [self._worker(), self._worker()]

    @property
    def address(self) -> str:
        """Once there is one."""
        import orjson

        while not self._file.exists() or not self._file.stat().st_size:
            time.sleep(0.01)
        return str(orjson.loads(self._file.read_bytes())["address"])

    def kill_one(self) -> None:
        """Another one begins in its place."""
        end(self.workers.pop(0))
        self.workers.append(self._worker())

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            end(process)

    def _worker(self) -> "subprocess.Popen[bytes]":
        return self._start("dask_worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "0")

    def _start(self, program: str, *words: str) -> "subprocess.Popen[bytes]":
        told = (*words, "--no-dashboard", "--scheduler-file", str(self._file))
        return started(f"distributed.cli.{program}", *told, env=self._env)


def started(module: str, *words: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Simulator]:
    with simulated_elsewhere() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def words(elsewhere: Simulator, tmp_path: Path) -> list[str]:
    """A batch over a file, as the command line takes it."""
    base = elsewhere.base_url("custom", "20ms")
    config = tmp_path / "orchestrator.yaml"
    config.write_text(
        "models:\n  m: {provider: custom, model: m-1,"
        f' api_base: "{base}", price: {{input_usd: 1, output_usd: 10}}}}\n'
        "budgets: {max_tokens: 400}\nretry: {attempts: 1}\n"
    )
    rows = write_rows(tmp_path / "rows.jsonl", numbered(ROWS))
    output = tmp_path / "out.jsonl"
    told = ["batch", str(rows), "-o", str(output), "-m", "m", "--config", str(config)]
    return [*told, "--concurrency", str(IN_FLIGHT), "--progress", "none"]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def wait_for(simulator: Simulator, requests: int) -> None:
    while simulator.requests.total < requests:
        time.sleep(0.001)


def test_a_killed_worker_and_a_killed_client_lose_nothing(
    cluster: Cluster, elsewhere: Simulator, words: list[str], tmp_path: Path
) -> None:
    """Every row is answered exactly once; only what the dead had under way is asked again."""
    before = elsewhere.requests.total
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    client = started("orchestrator", *words, "--dask", cluster.address, env=env)
    wait_for(elsewhere, before + ROWS // 8)
    cluster.kill_one()
    wait_for(elsewhere, before + ROWS // 3)
    end(client)
    assert not (tmp_path / "out.jsonl").exists(), "it was over before it was killed"
    resumed = run(*words, "--dask", cluster.address)

    assert resumed.exit_code == 0, resumed.output
    told = answers(tmp_path / "out.jsonl")
    assert [one["position"] for one in told] == list(range(ROWS))
    repeated = elsewhere.requests.total - before - ROWS
    assert 0 <= repeated <= IN_FLIGHT
    kept = [
        record.outcome.position
        for path in PartsFolder(tmp_path / "out.jsonl").paths()
        for record in read_part(path)
    ]
    assert sorted(kept) == list(range(ROWS)), "no row has two outcomes"
    print(f"{repeated} of {ROWS} rows asked again")
