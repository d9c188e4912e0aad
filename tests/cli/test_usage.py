"""`usage`: what the ledger says was spent, and what is left of the budgets."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result

from adapters import Usage
from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.ledger import Ledger, UsageEntry

Call = Callable[..., Result]
NOW = datetime.now(UTC)
DAY = Scope(kind="global", every="day", caps=Caps(money_nanousd=20 * 10**9))
BUDGETS = """\
budgets:
  windows:
    - {scope: global, every: day, money_usd: 20}
    - {scope: key, every: month, calls: 10}
    - {scope: deployment, name: gpt, every: hour, tokens: 5000}
"""


def entry(model: str, cents: int | None, days_ago: int = 0, **more: object) -> UsageEntry:
    return UsageEntry(
        deployment="gpt",
        provider="openai",
        model=model,
        status="ok",
        usage=Usage(prompt_tokens=100, completion_tokens=50),
        cost_nanousd=None if cents is None else cents * 10**7,
        at=NOW - timedelta(days=days_ago),
        elapsed_ms=1500,
        **more,  # type: ignore[arg-type]
    )


ENTRIES = (
    entry("gpt-5-mini", 1, tags=("nightly", "eu")),
    entry("gpt-5-mini", 2, days_ago=10, tenant="acme"),
    entry("claude-haiku-4-5", 5, tags=("nightly",)),
    entry("qwen3", None),
)


async def _fill(path: Path) -> None:
    path.parent.mkdir(parents=True)
    async with Ledger(f"sqlite:///{path}") as ledger:
        for one in ENTRIES:
            await ledger.record(one)
        spent = Amount(money_nanousd=3 * 10**9, tokens=10, calls=1)
        await ledger.settle(await ledger.reserve(spent, [DAY]), spent)


@pytest.fixture
def spent(team: Path, orchestrator_home: Path) -> Path:
    """A configuration with budgets, and a ledger in which something is spent."""
    team.write_text(team.read_text() + BUDGETS)
    asyncio.run(_fill(orchestrator_home / "ledger.db"))
    return team


def rows(result: Result) -> dict[str, list[str]]:
    """The first table, by its first column."""
    table = result.stdout.split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in table[1:] if line.strip()}


def test_usage_is_added_up_by_model_with_a_total(call: Call, spent: Path) -> None:
    """The dearest first; what has no known price is counted beside the sum."""
    result = call("usage", "-c", str(spent))

    assert result.exit_code == 0
    assert list(rows(result)) == ["claude-haiku-4-5", "gpt-5-mini", "qwen3", "in"]
    assert rows(result)["gpt-5-mini"] == ["2", "-", "300", "$0.03", "3.00", "s"]
    assert "$0.00 + 1 unknown" in result.stdout
    assert "$0.08 + 1 unknown" in result.stdout
    assert "counted in ledger" in result.stderr


def test_the_open_windows_are_shown_with_what_is_left(call: Call, spent: Path) -> None:
    """Spent, held, the limit, and the rest, in the unit of the limit."""
    shown = " ".join(call("usage", "-c", str(spent)).stdout.split())

    assert "all runs for a day $3.00 $0.00 $20.00 $17.00" in shown
    assert "runs without a key for a month 0 calls 0 calls 10 calls 10 calls" in shown
    assert "deployment 'gpt' for an hour 0 tokens 0 tokens 5,000 tokens 5,000 tokens" in shown


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--by", "tag"), ["nightly", "eu"]),
        (("--by", "tenant", "--tenant", "acme"), ["acme"]),
        (("--by", "deployment"), ["gpt"]),
        (("--since", "7d"), ["claude-haiku-4-5", "gpt-5-mini", "qwen3"]),
        (("--until", "7d", "--by", "model"), ["gpt-5-mini"]),
        (("--by", "day"), sorted({f"{one.at:%Y-%m-%d}" for one in ENTRIES})),
        (("--until", f"{NOW:%Y-%m-%d}", "--since", f"{NOW:%Y-%m-%d}"), None),
    ],
)
def test_what_is_added_up_can_be_chosen(
    call: Call, spent: Path, words: tuple[str, ...], names: list[str] | None
) -> None:
    """By what, from when, until when (that day included), of whom."""
    told = json.loads(call("usage", "-c", str(spent), "--json", *words).stdout)

    assert [one["name"] for one in told["usage"]] == (
        names or ["claude-haiku-4-5", "gpt-5-mini", "qwen3"]
    )


def test_a_total_by_tag_counts_every_call_once(call: Call, spent: Path) -> None:
    """Of two tags a call counts to both; in all it counts once, and so does one without any."""
    told = json.loads(call("usage", "-c", str(spent), "--json", "--by", "tag").stdout)

    assert [one["calls"] for one in told["usage"]] == [2, 1]
    assert (told["total"]["calls"], told["total"]["cost_usd"]) == (4, 0.08)


def test_json_has_the_windows(call: Call, spent: Path) -> None:
    """In integers, by dimension."""
    (day, *others) = json.loads(call("usage", "-c", str(spent), "--json").stdout)["windows"]

    assert (day["scope"], day["every"]) == ("global", "day")
    assert day["limits"] == {"money_nanousd": {"limit": 20 * 10**9, "spent": 3 * 10**9, "held": 0}}
    assert {window["scope"] for window in others} == {"key", "deployment"}


def test_looking_makes_no_ledger(call: Call, team: Path, orchestrator_home: Path) -> None:
    """Nothing was spent, and nothing is written; the budgets are there all the same."""
    team.write_text(team.read_text() + BUDGETS)
    result = call("usage", "-c", str(team))

    assert result.exit_code == 0
    assert "all runs for a day" in result.stdout
    assert "nothing was spent" in result.stderr
    assert not orchestrator_home.exists()


@pytest.mark.parametrize("written", ["yesterday", "7", "d7", "2026-13-01", "99999d"])
def test_a_time_that_is_none_is_refused(call: Call, team: Path, written: str) -> None:
    """With two that are."""
    result = call("usage", "-c", str(team), "--since", written)

    assert result.exit_code == 2
    assert "such as 7d" in result.stderr


def test_a_broken_ledger_is_named(call: Call, team: Path, orchestrator_home: Path) -> None:
    """It is never taken for an empty one."""
    orchestrator_home.mkdir()
    (orchestrator_home / "ledger.db").write_bytes(b"not a database" * 1000)
    result = call("usage", "-c", str(team))

    assert result.exit_code == 1
    assert "ledger.db" in result.stderr


def test_usage_imports_no_litellm(team: Path) -> None:
    """Who only looks should not wait."""
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        f"try: main(['usage', '-c', {str(team)!r}])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print([m for m in ('litellm', 'openai', 'aiohttp') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.splitlines()[-1] == "[]"
