"""Rows asked in their providers' own batches come out as all others do, at half the price."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapters.config import LLMProvider, ModelConfig
from orchestrator.batch import job, work
from orchestrator.batch.asking import Question
from orchestrator.batch.job import Order, Result, run_batch
from orchestrator.batch.outcome import Failure
from orchestrator.batch.parts import PartsFolder
from orchestrator.batch.rows import Row
from orchestrator.batch.submitted import Journal
from orchestrator.batch.work import Tally
from orchestrator.cli import main
from orchestrator.config import (
    BudgetsConfig,
    CacheConfig,
    OrchestratorConfig,
    RequestConfig,
    WindowConfig,
)
from orchestrator.errors import BatchError
from orchestrator.simulator import Simulator, simulated
from orchestrator.simulator.batches import SimulatedBatch
from orchestrator.simulator.directives import Plan
from tests.batching import Watching, answers, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere

WORST = 900_000  # nano-dollars, about, of a row of `limited`


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


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", numbered(6))


@pytest.fixture
def submitted(elsewhere: Simulator) -> list[SimulatedBatch]:
    """The batches of one test."""
    elsewhere.batches.all.clear()
    return elsewhere.batches.all


def run(made: Order, watching: Watching | None = None) -> Result:
    return run_batch(made, watching or Watching())


def asked(config: OrchestratorConfig, rows: Path, output: Path, **more: Any) -> Order:
    return order(config, rows, output, in_provider_batches=True, **more)


def treated(config: OrchestratorConfig, simulator: Simulator, *how: str) -> OrchestratorConfig:
    return simulated(config, simulator, directives={"alpha": how})


def limited(config: OrchestratorConfig) -> OrchestratorConfig:
    models = {
        name: model.model_copy(update={"max_tokens": 400}) for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def without_cost(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "cost": None} for one in told]


def journal_of(output: Path) -> Journal:
    return Journal(PartsFolder(output).path)


def cut_journal(output: Path, word: str) -> None:
    """As if the process had been killed just before it wrote such a line; half of it is there."""
    path = PartsFolder(output).path / "submitted.jsonl"
    before, found, after = path.read_bytes().partition(b'{"' + word.encode())
    assert found
    path.write_bytes(before + found + after[:5])


class Interrupting(Watching):
    """Presses Ctrl-C once a batch is under way at its provider."""

    def show(self, tally: Tally) -> None:
        super().show(tally)
        if not self.stops and any("in_progress" in state for state in tally.batches.values()):
            self.stops.append("interrupted")
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(elsewhere: Simulator, made: Order) -> Result:
    """A run that is left while its batch is with the provider, which then comes to its end."""
    config = treated(made.config, elsewhere, "batchstays")
    result = run(replace(made, config=config), Interrupting())
    for batch in elsewhere.batches.all:
        batch.plan = Plan()
    return result


def test_answers_are_those_of_a_live_batch_at_half_the_price(
    config: OrchestratorConfig, output: Path, tmp_path: Path, submitted: list[SimulatedBatch]
) -> None:
    """Broken and repeated rows included; one batch is submitted for all of them."""
    rows = write_rows(tmp_path / "rows.jsonl", [*numbered(6), "no json\n", *numbered(2)])

    result = run(asked(config, rows, output))
    run(order(config, rows, tmp_path / "live.jsonl"))

    batched, live = answers(output), answers(tmp_path / "live.jsonl")
    assert without_cost(batched) == without_cost(live)
    assert [2 * one["cost"] for one in batched] == pytest.approx(
        [one["cost"] for one in live], abs=2
    )
    assert result.tally.spent_nanousd == sum(one["cost"] for one in batched) > 0
    assert [len(batch.lines) for batch in submitted] == [6]
    assert journal_of(output).read().batches == ()


def named(row: Row) -> Question | Failure:
    return Question(
        request=RequestConfig(prompt=str(row.fields["prompt"]), model=str(row.fields["model"]))
    )


def test_rows_go_to_the_provider_that_they_name_and_others_are_refused(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    output: Path,
    tmp_path: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """A custom host is asked as openai is; panels, routes and other providers are not."""
    host = ModelConfig(
        provider=LLMProvider.CUSTOM,
        model="own",
        price="free",
        api_base=elsewhere.base_url(LLMProvider.CUSTOM),
    )
    models = config.models | {"own": host}
    config = config.model_copy(update={"models": models})
    given = [
        {"prompt": "Say so.", "model": name} for name in ("alpha", "own", "beta", "way", "all")
    ]
    rows = write_rows(tmp_path / "rows.jsonl", [*given, {"prompt": "Or so.", "model": "own"}])

    run(asked(config, rows, output, ask=named))

    told = answers(output)
    assert [one["status"] for one in told] == ["complete", "complete", *["failed"] * 3, "complete"]
    assert {one["failure"] for one in told[2:5]} == {"InvalidRow"}
    assert sorted((batch.base.split("/")[1], len(batch.lines)) for batch in submitted) == [
        ("custom", 2),
        ("openai", 1),
    ]


def test_interrupted_the_batch_goes_on_at_its_provider_and_is_collected_later(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Meanwhile nobody can pay for its rows a second time by asking them one by one."""
    made = asked(config, rows, output)
    left = interrupted(elsewhere, made)
    with pytest.raises(BatchError, match=r"6 rows .* go on with --provider-batch"):
        run(order(config, rows, output))

    result = run(made)

    assert (left.why, left.is_complete) == ("interrupted", False)
    assert submitted[0].id in left.message
    assert [one["status"] for one in answers(output)] == ["complete"] * 6
    assert (result.tally.answered, len(submitted)) == (6, 1)
    assert journal_of(output).read().batches == ()


def test_a_batch_whose_id_was_never_heard_is_found_again(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Killed between the submission and its record, the process finds it by its tag."""
    made = asked(config, rows, output)
    interrupted(elsewhere, made)
    cut_journal(output, "submitted")

    run(made)

    assert [one["status"] for one in answers(output)] == ["complete"] * 6
    assert len(submitted) == 1


def test_what_was_planned_and_never_submitted_is_submitted(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Killed before the submission, the process asks those rows as if nothing had been."""
    made = asked(config, rows, output)
    interrupted(elsewhere, made)
    cut_journal(output, "submitted")
    submitted.clear()

    run(made)

    assert [one["status"] for one in answers(output)] == ["complete"] * 6
    assert [len(batch.lines) for batch in submitted] == [6]


def test_killed_while_it_collects_it_reads_the_rest_of_the_same_batch(
    config: OrchestratorConfig, rows: Path, output: Path, submitted: list[SimulatedBatch]
) -> None:
    """What was written down stays, and is not paid for a second time."""
    made = asked(config, rows, output)
    whole = run(made)
    before = answers(output)
    cut_journal(output, "ended")
    folder = PartsFolder(output)
    folder.mark.unlink()
    (part,) = folder.paths()
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:4]))

    result = run(made)

    assert answers(output) == before
    assert (result.tally.found, result.tally.answered, len(submitted)) == (3, 3, 1)
    assert result.tally.spent_nanousd == whole.tally.spent_nanousd
    assert journal_of(output).read().batches == ()


def test_rows_that_expire_fail_and_are_asked_again_when_that_is_wanted(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Only those, in another batch; those that were answered in time are kept."""
    first = run(asked(treated(config, elsewhere, "batchexpires"), rows, output))
    failed = [one for one in answers(output) if one["status"] == "failed"]

    second = run(asked(config, rows, output, retries_failed=True))

    assert (first.tally.failed, second.tally.answered, second.tally.all_failed) == (3, 3, 0)
    assert {(one["failure"], one["cost"]) for one in failed} == {("ProviderUnavailable", 0)}
    assert [len(batch.lines) for batch in submitted] == [6, 3]


@pytest.mark.parametrize(
    ("how", "failure"), [("batchfails", "RateLimited"), ("e500", "ProviderUnavailable")]
)
def test_what_fails_at_the_provider_fails_as_it_would_live(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    how: str,
    failure: str,
) -> None:
    """The whole batch or its lines: every row has its error, and none costs anything."""
    result = run(asked(treated(config, elsewhere, how), rows, output))

    assert {(one["failure"], one["cost"]) for one in answers(output)} == {(failure, 0)}
    assert (result.is_complete, result.tally.failed) == (True, 6)


@pytest.mark.parametrize("concurrency", [1, 64])
def test_the_cap_holds_the_worst_case_of_what_is_with_a_provider(
    concurrency: int,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Rows without room wait for what comes back; when nothing can come back, it stops."""
    made = asked(limited(config), rows, output, concurrency=concurrency)
    stopped = run(replace(made, max_cost_nanousd=WORST // 4))

    result = run(replace(made, max_cost_nanousd=2 * WORST))

    assert (stopped.why, stopped.tally.spent_nanousd, stopped.is_complete) == ("budget", 0, False)
    assert "raise --max-cost" in stopped.message
    assert result.is_complete
    assert 0 < result.tally.spent_nanousd <= 2 * WORST
    assert len(submitted) > 1
    assert sum(len(batch.lines) for batch in submitted) == 6


def test_rows_that_wait_for_equal_ones_do_not_keep_these_from_being_submitted(
    monkeypatch: pytest.MonkeyPatch,
    config: OrchestratorConfig,
    output: Path,
    tmp_path: Path,
) -> None:
    """However many they are, and however few rows may be under way at a time."""
    monkeypatch.setattr(work, "WAITING", 2)
    monkeypatch.setattr(job, "MOST_ROWS", 3)
    rows = write_rows(tmp_path / "rows.jsonl", [*numbered(1) * 5, *numbered(8)])

    result = run(asked(config, rows, output))

    assert [one["status"] for one in answers(output)] == ["complete"] * 13
    assert result.tally.repeated == 5


def test_rows_that_changed_meanwhile_are_asked_anew_and_both_are_counted(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    tmp_path: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """What came of the old ones was paid for, and counts against the cap for ever."""
    interrupted(elsewhere, asked(config, rows, output))
    write_rows(rows, [*numbered(5), {"prompt": "Something else."}])

    result = run(asked(config, rows, output))

    unused_nanousd = journal_of(output).read().unused_nanousd
    assert [one["status"] for one in answers(output)] == ["complete"] * 6
    assert [len(batch.lines) for batch in submitted] == [6, 1]
    assert unused_nanousd > 0
    again = run(asked(config, rows, output, shape="other"))
    assert again.tally.spent_nanousd == result.tally.spent_nanousd + unused_nanousd


def test_begun_anew_what_is_with_a_provider_is_cancelled(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """It would be answered, and paid for, for nobody."""
    interrupted(elsewhere, asked(config, rows, output))

    run(asked(config, rows, output, is_fresh=True))

    assert [batch.state for batch in submitted] == ["cancelled", "completed"]
    assert [one["status"] for one in answers(output)] == ["complete"] * 6


@pytest.mark.parametrize("reason", ["unreachable", "renamed"])
def test_what_cannot_be_cancelled_is_not_forgotten(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
    reason: str,
) -> None:
    """It would be paid for and nobody would know: nothing begins anew before that is seen to."""
    interrupted(elsewhere, asked(config, rows, output))
    models = dict(config.models)
    alpha = models.pop("alpha")
    if reason == "unreachable":
        models["alpha"] = alpha.model_copy(update={"api_base": "http://127.0.0.1:9/v1"})

    with pytest.raises(BatchError, match=rf"{submitted[0].id}.* cannot be cancelled.* --fresh"):
        run(asked(config.model_copy(update={"models": models}), rows, output, is_fresh=True))

    assert [one.id for one in journal_of(output).read().batches] == [submitted[0].id]
    assert len(submitted) == 1


def test_what_has_ended_at_its_provider_need_not_be_cancelled(
    elsewhere: Simulator,
    config: OrchestratorConfig,
    rows: Path,
    output: Path,
    submitted: list[SimulatedBatch],
) -> None:
    """Nor what the provider has forgotten: there is nothing left to pay for."""
    interrupted(elsewhere, asked(config, rows, output))
    submitted.clear()

    run(asked(config, rows, output, is_fresh=True))

    assert [batch.state for batch in submitted] == ["completed"]


def test_other_options_do_not_take_over_what_is_with_a_provider(
    elsewhere: Simulator, config: OrchestratorConfig, rows: Path, output: Path
) -> None:
    """Its answers are to other questions, and it is told what can be done."""
    interrupted(elsewhere, asked(config, rows, output))

    with pytest.raises(BatchError, match=r"other options .* --fresh"):
        run(asked(config, rows, output, config_digest="other"))


def test_a_host_without_batches_is_told_apart_from_a_wrong_key(
    elsewhere: Simulator, config: OrchestratorConfig, rows: Path, output: Path
) -> None:
    """Nothing is asked, and nothing stays behind that would be looked for."""
    host = ModelConfig(
        provider=LLMProvider.CUSTOM,
        model="own",
        price="free",
        api_base=elsewhere.base_url(LLMProvider.MISTRAL),
    )
    config = config.model_copy(update={"models": {"own": host}})

    with pytest.raises(BatchError, match="has no files for batches"):
        run(asked(config, rows, output, model="own"))
    assert journal_of(output).read().batches == ()


def test_windows_of_the_budget_are_refused(
    config: OrchestratorConfig, rows: Path, output: Path
) -> None:
    """Nobody can hold of a day's money what may be spent on the next one."""
    window = WindowConfig(scope="global", every="day", calls=1000)
    budgets = BudgetsConfig(windows=(window,))

    with pytest.raises(BatchError, match=r"budgets\.windows"):
        run(asked(config.model_copy(update={"budgets": budgets}), rows, output))


def test_equal_calls_of_different_rows_are_all_answered_and_cached_ones_are_not_asked(
    config: OrchestratorConfig, output: Path, tmp_path: Path, submitted: list[SimulatedBatch]
) -> None:
    """With a cache, one call may stand for several; each row has its answer all the same."""
    config = config.model_copy(update={"cache": CacheConfig(folder=str(tmp_path / "cache"))})
    given = [{"prompt": "Say one thing.", "note": number} for number in range(5)]
    rows = write_rows(tmp_path / "rows.jsonl", given)

    run(asked(config, rows, output))
    count = len(submitted)
    run(asked(config, rows, tmp_path / "again.jsonl"))

    for path in (output, tmp_path / "again.jsonl"):
        assert [one["status"] for one in answers(path)] == ["complete"] * 5
    assert len(submitted) == count


@pytest.mark.parametrize(
    ("name", "why"),
    [("council", "several models"), ("fast", "is a route"), ("claude", "anthropic")],
)
def test_the_command_refuses_what_no_batch_can_answer(
    tmp_path: Path, rows: Path, name: str, why: str
) -> None:
    """Before a row is read, with what can be asked instead."""
    path = tmp_path / "orchestrator.yaml"
    path.write_text(
        "models:\n"
        "  gpt: {provider: openai, model: gpt-5-mini, api_key: none}\n"
        "  claude: {provider: anthropic, model: claude-haiku-4-5, api_key: none}\n"
        "routes: {fast: {models: [gpt, claude]}}\n"
        "panels: {council: {members: [gpt, claude], synthesizer: gpt}}\n"
    )
    words = ["batch", str(rows), "-o", str(tmp_path / "out.jsonl"), "-m", name]

    result = CliRunner().invoke(main, [*words, "--config", str(path), "--provider-batch"])

    assert result.exit_code == 2
    assert "--provider-batch: " in result.stderr
    assert why in result.stderr
