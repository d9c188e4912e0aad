"""A batch answers every row once, whatever happens in between, and never costs more than it may."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.amounts import NANO
from orchestrator.batch import job, parts
from orchestrator.batch.answering import Answerer
from orchestrator.batch.job import Order, Result, run_batch
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import PartsFolder, read_part
from orchestrator.batch.rows import Row
from orchestrator.batch.work import Tally
from orchestrator.config import (
    BreakerConfig,
    BudgetsConfig,
    CacheConfig,
    OrchestratorConfig,
    WindowConfig,
)
from orchestrator.errors import BatchError, BatchInUse, UnknownPrice
from orchestrator.simulator import Simulator
from tests.batching import Watching, answers, numbered, order, read_rows, write_rows
from tests.faces import configured, simulated_elsewhere

PRICE = {"price": {"input_usd": "1.37", "output_usd": "10.73"}, "max_tokens": 400}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Simulator]:
    with simulated_elsewhere() as running:
        yield running


@pytest.fixture
def config(elsewhere: Simulator) -> OrchestratorConfig:
    return configured(elsewhere)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def priced(config: OrchestratorConfig) -> OrchestratorConfig:
    models = {
        name: type(model).model_validate(
            model.model_dump(exclude={"price", "max_tokens"}, exclude_none=True) | PRICE
        )
        for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def run(made: Order, watching: Watching | None = None) -> Result:
    return run_batch(made, watching or Watching())


def written(output: Path) -> list[Outcome]:
    return [record.outcome for path in PartsFolder(output).paths() for record in read_part(path)]


class Interrupting(Watching):
    """Presses Ctrl-C once so many rows are done; once, or twice."""

    def __init__(self, after: int, *, presses: int = 1) -> None:
        super().__init__()
        self._after = after
        self._presses = presses

    def show(self, tally: Tally) -> None:
        super().show(tally)
        if tally.done >= self._after and self._presses:
            self._presses -= 1
            os.kill(os.getpid(), signal.SIGINT)


def test_every_row_is_answered_in_its_place(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Broken ones too, with what is wrong with them; the others do not suffer."""
    given: list[Any] = numbered(8)
    given.insert(3, "no json\n")
    rows, before = write_rows(tmp_path / "rows.jsonl", given), elsewhere.requests.total

    result = run(order(config, rows, output))

    told = answers(output)
    assert [one["position"] for one in told] == list(range(9))
    assert [one["status"] for one in told].count("complete") == 8
    assert told[3]["failure"] == "InvalidRow"
    assert all(one["text"] and one["calls"] == 1 for one in told if one["position"] != 3)
    assert elsewhere.requests.total - before == 8
    assert result.is_complete
    assert (result.tally.answered, result.tally.failed, result.tally.total) == (8, 1, 9)


def test_a_finished_batch_does_nothing_again(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call, no engine, and not even the input is read."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(5))
    first = run(order(config, rows, output))
    state, before = output.stat(), elsewhere.requests.total

    def refuse() -> Iterator[Row]:
        raise AssertionError("it was read again")

    again = run(replace(order(config, rows, output), rows=refuse))

    assert elsewhere.requests.total == before
    assert again.was_finished
    assert (again.tally.found, again.tally.answered, again.tally.total) == (5, 0, 5)
    assert again.tally.spent_nanousd == first.tally.spent_nanousd
    assert output.stat() == state
    # And where the mark is lost, the parts say the same, without an engine.
    PartsFolder(output).mark.unlink()
    monkeypatch.setattr(job, "answerer", refuse)
    once_more = run(order(config, rows, output))
    assert (once_more.tally.found, once_more.tally.answered) == (5, 0)
    assert elsewhere.requests.total == before


def test_equal_rows_are_asked_once(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """At once, one after another, and when a batch is gone on with."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(3) * 40)
    before = elsewhere.requests.total

    run(order(config, rows, output, concurrency=2))
    write_rows(rows, numbered(3) * 41)
    result = run(order(config, rows, output))

    told = answers(output)
    assert elsewhere.requests.total - before == 3
    assert len(told) == 123
    assert len({one["text"] for one in told}) == 3
    assert sum(not one["is_repeated"] for one in told) == 3
    assert all(one["cost"] == one["calls"] == 0 for one in told if one["is_repeated"])
    assert (result.tally.found, result.tally.repeated) == (120, 3)


def test_rows_that_failed_are_asked_again_on_demand_only(
    elsewhere: Simulator, output: Path, tmp_path: Path
) -> None:
    """What was answered stays as it is."""
    failing = configured(elsewhere, {"alpha": ("e500",)})
    sound = configured(elsewhere)
    rows = write_rows(tmp_path / "rows.jsonl", numbered(4))
    first = run(order(failing, rows, output))
    assert (first.tally.failed, first.is_complete) == (4, True)
    assert {one["status"] for one in answers(output)} == {"failed"}

    left = run(order(sound, rows, output))
    retried = run(order(sound, rows, output, retries_failed=True))

    assert left.was_finished
    assert left.tally.all_failed == 4
    assert (retried.tally.answered, retried.tally.all_failed) == (4, 0)
    assert {one["status"] for one in answers(output)} == {"complete"}


def test_changed_rows_and_a_changed_configuration_are_asked_again(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """And it is said; rows that are gone from the input are gone from the output."""
    given = numbered(6)
    rows = write_rows(tmp_path / "rows.jsonl", given)
    run(order(config, rows, output))
    given[2] = {"prompt": "Something else."}
    write_rows(rows, given[:5])
    before, watching = elsewhere.requests.total, Watching()

    changed = run(order(config, rows, output), watching)

    assert watching.source_changed
    assert (changed.tally.changed, changed.tally.answered, changed.tally.found) == (1, 1, 4)
    assert elsewhere.requests.total - before == 1
    assert len(answers(output)) == 5

    watching = Watching()
    run(order(config, rows, output, config_digest="other"), watching)
    assert watching.scanned is not None
    assert watching.scanned.others == 7
    assert elsewhere.requests.total - before == 6


def test_a_fresh_start_forgets_everything(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Every row is asked again."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(3))
    run(order(config, rows, output))
    before = elsewhere.requests.total

    run(order(config, rows, output, is_fresh=True))

    assert elsewhere.requests.total - before == 3
    assert len(written(output)) == 3


def test_unordered_outcomes_are_written_as_they_came(
    config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """All of them, once each."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(9))

    run(order(config, rows, output, is_unordered=True))

    came = [outcome.position for outcome in written(output)]
    assert [one["position"] for one in answers(output)] == came
    assert sorted(came) == list(range(9))


def test_an_interrupted_batch_finishes_what_is_under_way(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Ctrl-C once: everything that was asked is kept, and the rest is asked another time."""
    rows, before = write_rows(tmp_path / "rows.jsonl", numbered(60)), elsewhere.requests.total
    watching = Interrupting(5)

    cut = run(order(config, rows, output, concurrency=3), watching)

    assert (cut.why, cut.is_complete, watching.stops) == ("interrupted", False, ["interrupted"])
    assert elsewhere.requests.total - before == len(written(output)) == cut.tally.done < 60
    assert not output.exists()

    run(order(config, rows, output))
    assert elsewhere.requests.total - before == 60
    assert len(answers(output)) == 60


def test_an_impatient_one_ends_at_once(
    elsewhere: Simulator, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C twice: what is under way is broken off."""
    monkeypatch.setattr(job, "ONE_PRESS_S", 0)
    endless = configured(elsewhere, {"alpha": ("60000ms",)})
    rows = write_rows(tmp_path / "rows.jsonl", numbered(4))

    cut = run(order(endless, rows, output), Interrupting(0, presses=2))

    assert (cut.why, cut.tally.done) == ("interrupted", 0)


def test_a_signal_that_comes_twice_at_once_is_one(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `timeout` sends it, to the process and to its group: what is under way still ends."""
    monkeypatch.setattr(job, "ONE_PRESS_S", 3600)
    slow = configured(elsewhere, {"alpha": ("60ms",)})
    rows, before = write_rows(tmp_path / "rows.jsonl", numbered(30)), elsewhere.requests.total

    cut = run(order(slow, rows, output, concurrency=4), Interrupting(1, presses=2))

    assert (cut.why, cut.tally.failed) == ("interrupted", 0)
    assert elsewhere.requests.total - before == len(written(output)) < 30


def test_a_batch_ends_when_its_time_is_over(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """What is under way goes on to its end."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(20))

    cut = run(order(config, rows, output, concurrency=2, max_time_s=0.001))

    assert cut.why == "time"
    assert cut.tally.done == len(written(output)) < 20


def test_a_source_that_takes_its_time_is_not_waited_for_at_the_end(
    config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Rows are asked as they come, and Ctrl-C is heard while none comes."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(3))
    comes = threading.Event()

    def slow() -> Iterator[Any]:
        yield from read_rows(rows)
        comes.wait(60)

    made = replace(order(config, rows, output), rows=slow, is_slow=True, source="")
    cut = run(made, Interrupting(3))
    comes.set()

    assert (cut.why, cut.tally.answered) == ("interrupted", 3)
    assert run(replace(made, rows=lambda: read_rows(rows))).tally.found == 3


def test_a_full_disk_ends_the_batch_and_nothing_is_answered_twice(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what was under way just then is asked again once there is room."""
    rows, before = write_rows(tmp_path / "rows.jsonl", numbered(20)), elsewhere.requests.total
    real, count = os.write, 0

    def write(descriptor: int, content: bytes) -> int:
        nonlocal count
        count += b'"row"' in content
        if count > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content)

    monkeypatch.setattr(parts.os, "write", write)
    with pytest.raises(BatchError, match=r"no space left.*run the same command again"):
        run(order(config, rows, output, concurrency=2))
    monkeypatch.undo()

    assert len(written(output)) == 6
    run(order(config, rows, output))
    assert len(answers(output)) == 20
    assert elsewhere.requests.total - before <= 20 + 2


def test_another_process_at_the_same_output_is_refused(
    config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Before it has asked anything."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(3))

    with PartsFolder(output).lock(), pytest.raises(BatchInUse, match=f"process {os.getpid()}"):
        run(order(config, rows, output))


@pytest.mark.parametrize("model", ["alpha", "all"])
def test_a_cap_holds_to_the_nano_dollar_and_raised_the_batch_goes_on(
    elsewhere: Simulator, output: Path, tmp_path: Path, model: str
) -> None:
    """One model or a panel of three: no row is begun that could not be paid for to its end."""
    config = priced(configured(elsewhere))
    count = 24 if model == "alpha" else 14
    rows = write_rows(tmp_path / "rows.jsonl", numbered(count))
    free_of_limits = run(order(config, rows, tmp_path / "all.jsonl", model=model))
    whole = free_of_limits.tally.spent_nanousd
    cap = whole * 6 // 7

    cut = run(order(config, rows, output, model=model, concurrency=4, max_cost_nanousd=cap))

    assert cut.why == "budget"
    assert "may cost" in cut.message
    assert 0 < cut.tally.spent_nanousd <= cap
    assert cut.tally.spent_nanousd == sum(one.cost_nanousd for one in written(output))
    assert {one.status for one in written(output)} == {"complete"}
    done, before = cut.tally.done, elsewhere.requests.total
    assert 0 < done < count

    if model == "alpha":  # what was spent is known from the parts as well
        for kept in PartsFolder(output).path.glob("ledger.db*"):
            kept.unlink()
    same = run(order(config, rows, output, model=model, max_cost_nanousd=cap))
    assert same.why == "budget"
    assert same.tally.found == done
    assert same.tally.spent_nanousd <= cap

    more = run(order(config, rows, output, model=model, max_cost_nanousd=4 * whole))
    assert more.is_complete
    assert more.tally.found >= done
    if model == "alpha":  # a panel's members see each other's words behind fences of chance
        assert answers(output) == answers(tmp_path / "all.jsonl")
    assert more.tally.spent_nanousd == sum(one.cost_nanousd for one in written(output))
    calls = 1 if model == "alpha" else 7
    assert elsewhere.requests.total - before == calls * (count - done)


def test_a_cap_needs_prices(elsewhere: Simulator, output: Path, tmp_path: Path) -> None:
    """Where nobody knows what a call costs, none is made."""
    config = configured(elsewhere)
    unknown = config.models["alpha"].model_copy(update={"model": "nobody-knows-me"})
    config = config.model_copy(update={"models": {**config.models, "alpha": unknown}})
    rows, before = write_rows(tmp_path / "rows.jsonl", numbered(3)), elsewhere.requests.total

    with pytest.raises(UnknownPrice, match=r"price of 'alpha' is not known; write"):
        run(order(config, rows, output, max_cost_nanousd=NANO))

    assert elsewhere.requests.total == before


def test_a_budget_of_everybody_ends_the_batch_as_its_own_does(
    elsewhere: Simulator, output: Path, tmp_path: Path
) -> None:
    """Rows that it leaves no room for are not failed: they are left."""
    window = WindowConfig(scope="global", every="month", calls=5, money_usd=Decimal(5))
    config = priced(configured(elsewhere, budgets=BudgetsConfig(windows=(window,))))
    rows = write_rows(tmp_path / "rows.jsonl", numbered(12))

    cut = run(order(config, rows, output, concurrency=2))

    assert (cut.why, cut.tally.answered, cut.tally.failed) == ("budget", 5, 0)
    assert "all runs for a month" in cut.message


def test_a_row_waits_for_a_model_that_is_left_alone(
    elsewhere: Simulator, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of a provider's fails some rows, and not all that are left, one after another."""
    failing = configured(
        elsewhere, {"alpha": ("e500",)}, breaker=BreakerConfig(failures=2, open_s=3600)
    )
    rows, before = write_rows(tmp_path / "rows.jsonl", numbered(30)), elsewhere.requests.total
    waits: list[float] = []
    real = Answerer._wait

    async def wait(self: Answerer, delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        await real(self, delay_s)

    monkeypatch.setattr(Answerer, "_wait", wait)
    cut = run(order(failing, rows, output, concurrency=1))

    assert (cut.why, cut.tally.failed) == ("interrupted", 2)
    assert elsewhere.requests.total - before == 2
    assert waits[0] > 1


def test_what_is_in_the_cache_is_answered_without_litellm(
    elsewhere: Simulator, output: Path, tmp_path: Path
) -> None:
    """A batch that asks nothing new loads nothing that asks."""
    cache = CacheConfig(folder=str(tmp_path / "cache"))
    config = configured(elsewhere, cache=cache)
    rows = write_rows(tmp_path / "rows.jsonl", numbered(3))
    run(order(config, rows, output))
    before = elsewhere.requests.total
    told = config.model_dump(mode="json", exclude_defaults=True)
    for model in told["models"].values():
        model["api_key"] = "simulated-key"
    (tmp_path / "config.json").write_text(json.dumps(told))

    program = (
        "import json, sys; from pathlib import Path\n"
        "from orchestrator.config import OrchestratorConfig\n"
        "from orchestrator.batch.job import run_batch; from tests import batching as b\n"
        "folder = Path(sys.argv[1])\n"
        "config = OrchestratorConfig.model_validate_json((folder / 'config.json').read_text())\n"
        "made = b.order(config, folder / 'rows.jsonl', folder / 'cached.jsonl')\n"
        "result = run_batch(made, b.Watching())\n"
        "print(result.tally.answered, 'litellm' in sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert ended.stdout.split() == ["3", "False"]
    assert elsewhere.requests.total == before
