"""Rows that are asked in their providers' own batches come out as all others do, at half the price."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.batch.job import Order, Result, run_batch
from orchestrator.batch.submitted import Journal
from orchestrator.config import OrchestratorConfig
from orchestrator.simulator import Simulator
from tests.batching import Watching, answers, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere


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


def run(made: Order, watching: Watching | None = None) -> Result:
    return run_batch(made, watching or Watching())


def asked(config: OrchestratorConfig, rows: Path, output: Path, **more: Any) -> Order:
    return replace(order(config, rows, output, in_provider_batches=True), **more)


def without_cost(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "cost": None} for one in told]


def test_answers_are_those_of_a_live_batch_at_half_the_price(
    elsewhere: Simulator, config: OrchestratorConfig, output: Path, tmp_path: Path
) -> None:
    """Broken and repeated rows included; one batch is submitted for all of them."""
    given: list[Any] = [*numbered(6), "no json\n", *numbered(2)]
    rows = write_rows(tmp_path / "rows.jsonl", given)
    before = len(elsewhere.batches.all)

    result = run(asked(config, rows, output))
    run(order(config, rows, tmp_path / "live.jsonl"))

    batched, live = answers(output), answers(tmp_path / "live.jsonl")
    assert without_cost(batched) == without_cost(live)
    assert [2 * one["cost"] for one in batched] == pytest.approx(
        [one["cost"] for one in live], abs=2
    )
    assert result.tally.spent_nanousd == sum(one["cost"] for one in batched) > 0
    (submitted,) = elsewhere.batches.all[before:]
    assert len(submitted.lines) == 6
    assert Journal(output.with_name("out.jsonl.parts")).read().batches == ()
