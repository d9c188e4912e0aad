"""What has come of rows is added up as it comes, in memory that does not grow."""

import io
import json
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from adapters.types import Usage
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.batch.showing import shown
from orchestrator.batch.summary import KINDS, OTHERS, Spread, Summary, agreement_of
from orchestrator.responses import Receipt, StageRecord
from tests.batch.outcomes import OUTCOMES


def summed(outcomes: Iterator[Outcome] | list[Outcome]) -> Summary:
    summary = Summary()
    for outcome in outcomes:
        summary.add(outcome)
    return summary


def some(count: int) -> Iterator[Outcome]:
    """Rows of a council, every tenth failed, every seventh like another."""
    chance = random.Random(5)
    for place in range(count):
        failure = Failure(kind=f"Kind{place % 3}", message="<no>") if place % 10 == 0 else None
        use = tuple(
            ModelUse(
                deployment=name,
                calls=2,
                failed=place % 2,
                prompt_tokens=10,
                completion_tokens=5,
                cost_nanousd=1_000_000,
                elapsed_s=2 * chance.lognormvariate(0, 1),
            )
            for name in ("gpt", "claude")
        )
        is_repeated = place % 7 == 3
        yield Outcome(
            position=place,
            line=place + 1,
            digest="d" * 32,
            status="failed" if failure else "complete",
            text="" if failure else "hi",
            use=() if is_repeated else use,
            failure=failure,
            elapsed_s=chance.lognormvariate(0, 1),
            at_s=1_000.0 + place,
            agreement=place % 4 / 3,
            is_repeated=is_repeated,
            ignored={"store": "no"} if place % 2 else {},
        )


def test_sums_are_exact() -> None:
    """Counts, tokens and nano-dollars are integers, and none is lost."""
    told = summed(some(700)).as_object()

    asked = sum(1 for place in range(700) if place % 7 != 3)
    assert told["rows"] == 700
    assert told["statuses"] == {"complete": 630, "failed": 70}
    assert sum(told["errors"].values()) == 70
    assert told["repeated"] == 100
    assert told["calls"] == 4 * asked
    assert told["cost_nanousd"] == 2_000_000 * asked
    assert (told["prompt_tokens"], told["completion_tokens"]) == (20 * asked, 10 * asked)
    assert told["deployments"]["gpt"]["rows"] == asked
    assert told["deployments"]["gpt"]["failed"] * 2 == told["failed_calls"]
    assert told["ignored"] == {"store": 350}
    assert told["agreement"]["rows"] == 700
    assert told["agreement"]["tenths"] == [175, 0, 0, 175, 0, 0, 175, 0, 0, 175]
    assert told["agreement"]["mean"] == pytest.approx(0.5)
    assert (told["first_at"], told["last_at"]) == (
        "1970-01-01T00:16:40+00:00", "1970-01-01T00:28:19+00:00",
    )  # fmt: skip


VALUES = st.lists(st.floats(0.0011, 80_000), min_size=1, max_size=60)


@settings(max_examples=50)
@given(VALUES, st.floats(0.01, 1))
def test_a_quantile_is_near_one_of_the_values_that_it_may_be(
    values: list[float], share: float
) -> None:
    """At most 2.5 % off, however many there are."""
    spread = Spread(least=0.001)
    for value in values:
        spread.add(value)
    values.sort()

    found = spread.quantile(share)

    at = share * len(values)
    possible = {values[min(max(round(at + off), 0), len(values) - 1)] for off in (-1, -0.5, 0)}
    assert any(found == pytest.approx(value, rel=0.026) for value in possible)
    assert found <= spread.most == values[-1]


def test_a_spread_of_nothing_is_nothing() -> None:
    """And values that are too small or too large to be told apart still count."""
    spread = Spread(least=1)
    assert (spread.mean, spread.quantile(0.5), spread.most) == (0, 0, 0)
    for value in (0, 0.5, 1e300):
        spread.add(value)

    assert spread.count == 3
    assert spread.quantile(0.5) == 0
    assert spread.quantile(1) > 1e20


def test_names_beyond_what_is_kept_are_counted_together() -> None:
    """Rows may fail for reasons that nobody has listed."""
    summary = summed(
        Outcome(
            position=place, line=1, digest="", status="failed",
            failure=Failure(kind=f"K{place}", message=""),
            use=(ModelUse(deployment=f"d{place}", calls=1),),
        )
        for place in range(KINDS + 9)
    )  # fmt: skip

    assert len(summary.errors) == len(summary.deployments) == KINDS + 1
    assert summary.errors[OTHERS] == summary.deployments[OTHERS].calls == 9


@settings(max_examples=20)
@given(st.lists(OUTCOMES, max_size=4))
def test_any_outcomes_make_a_summary_that_json_and_a_terminal_can_hold(
    outcomes: list[Outcome],
) -> None:
    """Whatever stands in them."""
    summary = summed(outcomes)
    console = Console(file=io.StringIO(), width=120)

    console.print(shown(summary))

    assert json.loads(json.dumps(summary.as_object(), allow_nan=False))["rows"] == len(outcomes)


def test_a_terminal_shows_a_line_a_deployment_and_what_failed() -> None:
    """With cost and latency."""
    console = Console(file=io.StringIO(), width=120)

    console.print(shown(summed(some(700))))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.split() for line in text.splitlines()]
    assert lines[0][:3] == ["deployment", "calls", "failed"]
    assert [line[0] for line in lines[1:3]] == ["claude", "gpt"]
    assert "$0.6" in lines[1]
    assert "700 rows: 630 complete, 70 failed (24 Kind0, 23 Kind" in text
    assert "100 repeated; $1.20" in text
    assert "half of the rows took" in text


def test_nothing_is_shown_of_nothing() -> None:
    """A batch without rows has a line."""
    console = Console(file=io.StringIO())
    console.print(shown(Summary()))

    assert console.file.getvalue().strip() == "0 rows; $0.00"  # type: ignore[attr-defined]


def receipt(*stages: StageRecord) -> Receipt:
    return Receipt(
        run_id="r", model="m", pattern="p", prompt="", seed=0, config_hash="", started_at="",
        elapsed_s=0, status="complete", causes=(), missing=(), calls=0, usage=Usage(),
        stages=stages, content="",
    )  # fmt: skip


def stage(combine: str, **outcome: object) -> StageRecord:
    return StageRecord(
        name="s", combine=combine, status="ok", started_s=0, elapsed_s=0, outcome=outcome
    )


def test_agreement_is_the_winners_part_of_all_drafts() -> None:
    """Those without a final answer agree with nobody; a run that counts nothing has none."""
    votes = stage("vote", votes={"4": 3, "5": 1}, unparsable=1)

    assert agreement_of(receipt(votes, stage("write", synthesizer="x"))) == 0.6
    assert agreement_of(receipt(stage("write"), stage("vote", votes={}))) is None
    assert agreement_of(receipt()) is None


def peak_bytes(rows: int) -> int:
    outcomes = list(some(100))
    tracemalloc.start()
    try:
        summed(outcomes[place % 100] for place in range(rows))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_the_outcomes_take_no_more_memory() -> None:
    """Once the buckets are there that they fall into."""
    peak_bytes(10)

    assert peak_bytes(2_000) <= peak_bytes(200) + 10_000
