"""A batch over several machines: real workers of Dask, and what happens when some are killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from orchestrator.batch.answering import Plan
from orchestrator.batch.cluster import Place, Spread, check, fitted, place_of
from orchestrator.batch.job import Result as Came
from orchestrator.batch.job import Run
from orchestrator.batch.outcome import Failure
from orchestrator.batch.parts import Heading, Index, PartsFolder, Scanned, read_part
from orchestrator.batch.rows import Row
from orchestrator.batch.sources import InputError, source_of
from orchestrator.batch.work import Tally
from orchestrator.cli import main
from orchestrator.config import (
    BudgetsConfig,
    CacheConfig,
    LedgerConfig,
    LimitsConfig,
    OrchestratorConfig,
    WindowConfig,
)
from orchestrator.simulator import Simulator
from tests import forked_programs
from tests.batching import Watching, answers, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere

if not os.environ.get("CI"):  # there it is an error
    pytest.importorskip("distributed", reason="the extra [dask] is not installed")
import dask

IN_FLIGHT = 8
ROWS = 160
FAR = Place(address="tcp://10.0.0.7:8786")


class Cluster:
    """A scheduler and two workers, each a process of its own on a free port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warm = subprocess.Popen(
            [sys.executable, forked_programs.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ORCHESTRATOR_HOME": str(folder)},
        )
        assert self._says() == "warm"
        self._file = folder / "scheduler.json"
        self._scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", "0")
        self._workers = [self._worker(), self._worker()]
        while not self._file.exists() or not self._file.stat().st_size:
            time.sleep(0.01)
        self.address = str(json.loads(self._file.read_text())["address"])

    def start(self, module: str, *words: str) -> int:
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps({"module": module, "words": words}) + "\n")
        self._warm.stdin.flush()
        return int(self._says())

    def kill_worker(self) -> None:
        """Another one begins in its place."""
        end(self._workers.pop(0))
        self._workers.append(self._worker())

    def close(self) -> None:
        for pid in (*self._workers, self._scheduler):
            end(pid)
        self._warm.communicate("")

    def _worker(self) -> int:
        return self._dask("worker", "--no-nanny", "--nthreads", "1", "--memory-limit", "0")

    def _dask(self, program: str, *words: str) -> int:
        told = ("--no-dashboard", "--scheduler-file", str(self._folder / "scheduler.json"))
        return self.start(f"distributed.cli.dask_{program}", *words, *told)

    def _says(self) -> str:
        assert self._warm.stdout is not None
        return self._warm.stdout.readline().strip()


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)


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
        "models:\n  m: {provider: custom, model: m-1, max_tokens: 400,"
        f' api_base: "{base}", price: {{input_usd: 1, output_usd: 10}}}}\n'
        "retry: {attempts: 1}\n"
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
    before, output = elsewhere.requests.total, tmp_path / "out.jsonl"

    client = cluster.start("orchestrator.cli", *words, "--dask", cluster.address)
    wait_for(elsewhere, before + ROWS // 8)
    cluster.kill_worker()
    wait_for(elsewhere, before + ROWS // 3)
    end(client)
    assert not output.exists(), "it was over before it was killed"
    resumed = run(*words, "--dask", cluster.address)

    assert resumed.exit_code == 0, resumed.output
    assert [one["position"] for one in answers(output)] == list(range(ROWS))
    repeated = elsewhere.requests.total - before - ROWS
    assert 0 <= repeated <= IN_FLIGHT
    records = [one for path in PartsFolder(output).paths() for one in read_part(path)]
    assert sorted(one.outcome.position for one in records) == list(range(ROWS))
    print(f"{repeated} of {ROWS} rows asked again")


def test_a_cap_holds_for_all_workers_together(
    cluster: Cluster, elsewhere: Simulator, words: list[str], tmp_path: Path
) -> None:
    """In the middle nothing more is begun; with a higher one it goes on with the rest."""
    before, cap_nanousd = elsewhere.requests.total, 20_000_000
    capped = run(*words, "--dask", cluster.address, "--max-cost", "0.02", "--json")

    told = json.loads(capped.stdout)
    assert capped.exit_code == 3, capped.output
    assert "raise --max-cost" in told["message"]
    folder = PartsFolder(tmp_path / "out.jsonl")
    records = [one for path in folder.paths() for one in read_part(path)]
    assert 0 < len(records) < ROWS
    spent = sum(one.outcome.cost_nanousd for one in records)
    assert cap_nanousd // 2 < spent == told["spent_nanousd"] <= cap_nanousd

    raised = run(*words, "--dask", cluster.address, "--max-cost", "9")

    assert raised.exit_code == 0, raised.output
    assert elsewhere.requests.total == before + ROWS


@pytest.mark.parametrize(
    "told", ["", "here", "local:0", "local:x", "tcp://", "tcp://host", "http://host:1", "tcp://h:x"]
)
def test_an_address_that_is_none_is_refused(told: str) -> None:
    """With what is one."""
    with pytest.raises(InputError, match=r"--dask .* is no cluster; write tcp://HOST:PORT"):
        place_of(told)


def test_an_address_says_whether_it_is_this_machine() -> None:
    """Then files of this machine count for all."""
    assert place_of("local").workers >= 1
    assert place_of("local:2") == Place(workers=2)
    assert place_of("tcp://127.0.0.1:8786").is_here
    assert place_of("tls://[::1]:8786").is_here
    assert not place_of("tcp://10.0.0.7:8786").is_here


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.parquet", "-"])
def test_what_has_no_ranges_is_refused(name: str) -> None:
    """Before anybody is asked."""
    form = "jsonl" if name == "-" else None
    with pytest.raises(InputError, match=r"cannot be shared out .* not compressed"):
        check(source_of(name, form))


def test_words_that_do_not_go_together_are_refused(words: list[str]) -> None:
    """What is drawn, ordered or simulated is so on one machine."""
    drawn = run(*words, "--dask", "local", "--limit", "5", "--workers", "2")
    deferred = run(*words, "--dask", "local", "--provider-batch")
    simulated = run(*words, "--dask", "tcp://10.0.0.7:8786", "--simulate")

    assert drawn.exit_code == simulated.exit_code == 2
    assert "leave --limit, --workers out" in " ".join(drawn.output.split())
    assert "leave --provider-batch out" in " ".join(deferred.output.split())
    assert "--simulate takes --dask local" in " ".join(simulated.output.split())


@pytest.fixture
def config(elsewhere: Simulator) -> OrchestratorConfig:
    """Deployments whose keys are not written in the configuration."""
    made = configured(elsewhere)
    models = {
        name: model.model_copy(update={"api_key": SecretStr("${KEY}")})
        for name, model in made.models.items()
    }
    return made.model_copy(update={"models": models})


def test_limits_of_money_need_a_ledger_of_all_machines(
    config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cap or a budget in a file of each machine would hold for none."""
    windows = BudgetsConfig(windows=(WindowConfig(scope="global", every="day", money_usd=1),))
    limited = config.model_copy(update={"budgets": windows})
    url = SecretStr("postgresql://me:${PASSWORD}@db/ledger")
    counted = limited.model_copy(update={"ledger": LedgerConfig(url=url)})

    with pytest.raises(InputError, match=r"--max-cost cannot be kept .* postgresql"):
        fitted(config, FAR, is_capped=True)
    with pytest.raises(InputError, match=r"budgets\.windows cannot be kept"):
        fitted(limited, FAR, is_capped=False)
    assert fitted(limited, Place(), is_capped=True) is limited
    monkeypatch.setenv("PASSWORD", "p")
    made = fitted(counted, FAR, is_capped=True)
    assert made.ledger == counted.ledger
    heading = Heading(batch="b", config="c", source="s")
    plan = Plan(config=made, ask=refusing, heading=heading, folder=Path("parts"))
    assert plan.purse.startswith("postgresql"), "the cap is counted where all machines reach it"
    assert replace(plan, config=config).purse.endswith("parts/ledger.db")


def refusing(row: Row) -> Failure:
    return Failure(kind="NotAsked", message=f"row {row.position}")


def test_files_of_one_machine_are_left_out_on_others(config: OrchestratorConfig) -> None:
    """Neither cache nor ledger is where the workers are."""
    kept = config.model_copy(update={"cache": CacheConfig(folder="here"), "ledger": LedgerConfig()})

    made = fitted(kept, FAR, is_capped=False)

    assert (made.cache, made.ledger) == (None, None)


def test_secrets_do_not_go_over_the_network_unencrypted(config: OrchestratorConfig) -> None:
    """The message says where they stand, and not what they are."""
    alpha = config.models["alpha"].model_copy(update={"api_key": SecretStr("sk-planted")})
    written = config.model_copy(
        update={
            "models": {**config.models, "alpha": alpha},
            "limits": LimitsConfig(url=SecretStr("redis://:planted@cache:6379/0")),
        }
    )

    with pytest.raises(InputError, match=r"^models\.alpha\.api_key, limits\.url would go") as told:
        fitted(written, FAR, is_capped=False)

    assert "planted" not in str(told.value)
    assert fitted(written, Place(address="tls://10.0.0.7:8786"), is_capped=False)


def test_without_the_extra_it_is_named(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And what installs it."""
    monkeypatch.setitem(sys.modules, "distributed", None)

    refused = run(*words, "--dask", "local")

    assert refused.exit_code == 2
    assert "pip install 'llm-orchestrator-gateway[dask]'" in " ".join(refused.output.split())


def test_a_cluster_that_is_not_there_is_said(
    words: list[str],
) -> None:
    """Nothing is lost by it."""
    with dask.config.set({"distributed.comm.timeouts.connect": "50ms"}):
        refused = run(*words, "--dask", "tcp://127.0.0.1:1")

    assert refused.exit_code == 1
    assert "tcp://127.0.0.1:1 cannot be reached" in " ".join(refused.output.split())


async def test_calls_of_all_shards_are_added_up_and_those_that_ended_leave_nothing_alone(
    elsewhere: Simulator, tmp_path: Path
) -> None:
    """What a shard left alone when it ended would else be told until the last one ends."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(2))
    made = order(configured(elsewhere), rows, tmp_path / "out.jsonl")
    spread = Spread(FAR, Run(made, PartsFolder(made.output), Watching(), Scanned(Index())))
    result: asyncio.Future[Came] = asyncio.get_running_loop().create_future()
    under_way = Tally(in_flight=2, calls_in_flight={"alpha": 2}, breakers={"beta": "half_open"})

    spread._hear((0.0, {"start": 0, "tally": asdict(under_way)}))
    spread._hear((0.0, {"start": 9, "tally": asdict(replace(under_way, breakers={}))}))
    before = replace(spread.look())
    result.set_result(Came(tally=Tally(answered=2, breakers={"beta": "open"})))
    await spread._collect(0, result)  # type: ignore[arg-type]

    assert (before.calls_in_flight, before.breakers) == ({"alpha": 4}, {"beta": "half_open"})
    after = spread.look()
    assert (after.answered, after.calls_in_flight, after.breakers) == (2, {"alpha": 2}, {})
