"""The sixteen faults of the README's table: our half of it still holds."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.simulator import Simulator
from tests.benchmarks.rescues import BEGIN, END, FAULTS, Bench, Fault, ours

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
FILTERED = "ContentFiltered"


def published() -> dict[str, tuple[str, int]]:
    """What the README says of each fault: what became of it, in how many attempts."""
    table = README.partition(BEGIN)[2].partition(END)[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    return {row[0]: (row[1], int(row[2])) for row in rows}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Simulator() as simulator:
        made = Bench(simulator)
        await made.begin()
        yield made


def test_the_table_is_of_these_faults() -> None:
    """None is left out of it, and none in it is not measured any more."""
    assert [*published()] == [fault.name for fault in FAULTS]
    assert len(FAULTS) == 16


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_comes_to_what_the_table_says(bench: Bench, fault: Fault) -> None:
    """A whole answer, or for the content filter a clean error."""
    row = await ours(bench, fault)

    outcome, attempts = published()[fault.name]
    assert row.attempts == attempts
    if fault.counts:
        counted, due = map(int, re.findall(r"\d+", row.outcome))
        assert counted >= due
    else:
        assert row.outcome == outcome
        ten = f"{fault.calls} of {fault.calls} whole"
        assert outcome in (ten if fault.calls > 1 else "whole", FILTERED)
        assert (outcome == FILTERED) is (fault.name == "content filter")
