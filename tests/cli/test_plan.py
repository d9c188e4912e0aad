"""`plan`: what a question would cost, against what is left of the budgets, and nobody is asked."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.amounts import Amount, Caps, Scope
from orchestrator.ledger import Ledger

Call = Callable[..., Result]
PRICED = """\
models:
  gpt: {provider: openai, model: gpt-5-mini, api_key: k, max_tokens: 1000, price: {input_usd: 1, output_usd: 10}}
  claude: {provider: anthropic, model: claude-haiku-4-5, api_key: k, max_tokens: 1000, price: {input_usd: 1, output_usd: 10}}
  gemini: {provider: google, model: gemini-2.5-flash, api_key: k, max_tokens: 1000, price: {input_usd: 1, output_usd: 10}}
  odd: {provider: openai, model: nobody-knows-it, api_key: k}
panels:
  council: {members: [gpt, claude, gemini], pattern: compare, synthesizer: claude, quorum: 1}
budgets: {min_tokens: 16}
"""  # noqa: E501 - one model a line


@pytest.fixture
def priced(tmp_path: Path) -> Path:
    path = tmp_path / "priced.yaml"
    path.write_text(PRICED)
    return path


@pytest.fixture
def plan(call: Call, priced: Path) -> Call:
    """`plan "Why is the sky blue?"` with more words."""

    def run(*words: str) -> Result:
        return call("plan", "Why is the sky blue?", "-c", str(priced), *words)

    return run


def test_every_stage_and_the_whole_are_quoted(plan: Call) -> None:
    """As expected, at full length, and with every retry."""
    result = plan()
    lines = [line.split() for line in result.stdout.splitlines()]

    assert (result.exit_code, result.stderr) == (0, "")
    assert "council · compare · 3 members" in result.stdout
    assert [line[0] for line in lines if "expected" in line] == ["drafts", "answer", "in"]
    assert [line[-1] for line in lines if line][-1] == "s"
    assert "$0.0" in result.stdout


def test_the_quote_as_json_adds_up(plan: Call) -> None:
    """For programs, in integers."""
    told = json.loads(plan("--json").stdout)

    assert (told["fits"], told["limit"], told["shrunk"]) == (True, None, [])
    for case in ("expected", "full", "worst"):
        stages = [stage[case]["amount"] for stage in told["stages"]]
        whole = told[case]["amount"]
        for dimension in ("money_nanousd", "tokens", "calls"):
            assert sum(stage[dimension] for stage in stages) == whole[dimension]
    assert told["full"]["amount"]["calls"] == 4
    assert told["full"]["amount"]["money_nanousd"] <= told["worst"]["amount"]["money_nanousd"]


def test_what_would_give_way_is_told_with_the_limit(plan: Call) -> None:
    """Members first, down to the quorum; and against which budget."""
    result = plan("--max-cost", "0.04")
    told = json.loads(plan("--max-cost", "0.04", "--json").stdout)

    assert result.exit_code == 0
    assert "as it is asked, it does not fit: the budget of a run is $0.04" in result.stderr
    assert "so it would be shrunk: not asked: gemini" in result.stderr
    assert told["fits"] is True
    assert told["limit"]["dimension"] == "money_nanousd"
    assert told["limit"]["limit"] == 40_000_000 < told["limit"]["needed"]
    assert told["full"]["amount"]["money_nanousd"] <= 40_000_000
    assert told["plan"]["members"] == ["gpt", "claude"]


def test_what_does_not_fit_at_all_ends_with_3(plan: Call) -> None:
    """With what it would cost as it was asked, and the message that a run would give."""
    result = plan("--max-cost", "0.000001")
    as_json = plan("--max-cost", "0.000001", "--json")

    assert (result.exit_code, as_json.exit_code) == (3, 3)
    assert result.stderr.splitlines()[-1].startswith("Error: The budget of a run is $0.000001")
    assert "council · compare · 3 members" in result.stdout
    assert json.loads(as_json.stdout)["fits"] is False


def test_an_unknown_price_is_named(plan: Call) -> None:
    """Without a limit as a gap in the sum, with one as the reason for refusing."""
    free, capped = plan("-m", "odd"), plan("-m", "odd", "--max-cost", "1")

    assert free.exit_code == 0
    assert "?" in free.stdout
    assert "the price of odd is not known" in free.stderr
    assert "how long answers of odd can be" in free.stderr
    assert capped.exit_code == 3
    assert "'odd' is not known" in capped.stderr


def test_a_window_counts_what_was_spent_before(
    plan: Call, priced: Path, orchestrator_home: Path
) -> None:
    """The ledger is looked into; where there is none, none is made."""
    window = "  windows: [{scope: global, every: month, money_usd: 1}]\n"
    budgets = f"budgets:\n  min_tokens: 16\n{window}"
    priced.write_text(PRICED.replace("budgets: {min_tokens: 16}\n", budgets))

    assert plan().exit_code == 0
    assert not (orchestrator_home / "ledger.db").exists()
    asyncio.run(_spend(orchestrator_home / "ledger.db"))
    refused = plan()
    assert refused.exit_code == 3
    assert "The budget of all runs for a month is $1.00 ($1.00 spent" in refused.stderr


async def _spend(path: Path) -> None:
    path.parent.mkdir(parents=True)
    month = Scope(kind="global", every="month", caps=Caps(money_nanousd=10**9))
    async with Ledger(f"sqlite:///{path}") as ledger:
        spent = Amount(money_nanousd=999_999_999, calls=1)
        await ledger.settle(await ledger.reserve(spent, [month]), spent)


def test_wrong_words_are_refused_as_ask_refuses_them(plan: Call, call: Call) -> None:
    """A line that was planned can be asked."""
    assert "did you mean 'gpt'" in plan("-m", "gptt").stderr
    assert plan("-m", "gptt").exit_code == 2
    assert call("plan").exit_code == 2


def test_planning_calls_nobody_and_imports_no_litellm(priced: Path) -> None:
    """It answers at once, and with no key."""
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        f"try: main(['plan', 'Why?', '-c', {str(priced)!r}, '-f', {__file__!r}])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print([m for m in ('litellm', 'openai', 'aiohttp') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr.splitlines()[-1] == "[]"
