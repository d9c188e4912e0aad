"""`orchestrator plan`: what a question would cost, stage by stage, before anybody is asked."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.amounts import say, usd, whose
from orchestrator.budget import Estimate, Quote
from orchestrator.cli import ledgers, naming, options
from orchestrator.cli.explain import Listing, print_page, safe
from orchestrator.cli.notes import note, warn
from orchestrator.cli.requesting import request_of, request_options
from orchestrator.cli.setting import Setting, choose
from orchestrator.cli.text import count, one_line, seconds
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import BudgetExceeded, UnknownPrice
from orchestrator.ledger import Ledger
from orchestrator.limits import run_time_s
from orchestrator.quoting import quote
from orchestrator.resolve import resolve

EPILOG = """\b
Examples:
  orchestrator plan "Why is the sky blue?"
  orchestrator plan "Rate this plan" --pattern debate < plan.md
  orchestrator plan "List three risks" --panel council --max-cost 0.05
  orchestrator plan "Why?" --json | jq .full.amount.money_nanousd

\b
expected    a guess from usual lengths of answers
full        every call made once and answered at its full length: what a budget must hold
worst case  every retry, fallback and hedge that the configuration allows, all of it failing

\b
Exit code 0: it fits. 2: usage or configuration. 3: it does not fit, whatever gives way.
"""

CASES = {"expected": "expected", "full": "full", "worst": "worst case"}


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run would cost and whether it may.

    Attributes:
        quote: As it would run; of one that fits nowhere, as it was asked.
        limit: The budget that it did not fit into as it was asked.
        refusal: Why it may not run at all.
    """

    quote: Quote
    limit: BudgetExceeded | None = None
    refusal: BudgetExceeded | None = None


@click.command(epilog=EPILOG)
@request_options
@options.json_option
@options.simulate_option
@options.config_option
def command(as_json: bool, **given: Any) -> None:
    """Tell what a question would cost, and ask nobody.

    Takes the words that `ask` takes, and tells for every stage how many calls it would make and
    what tokens, money and time they would take: as expected, at their full length, and in the
    worst case. Prices are those of the configuration, or the list prices of the models. If the run
    would not fit its budget as it is asked, it is said what would give way.
    """
    request = request_of(given)
    setting = choose(given["config_path"], simulate=given["simulate"])
    fitted = setting.fit(request)
    for line in (setting.note,) if setting.simulated else fitted.notes:
        note(line)
    planned = asyncio.run(_plan(setting, fitted.request))
    if as_json:
        click.echo(json.dumps(_as_object(planned), indent=2))
    else:
        print_page(*_page(planned))
        for line in _remarks(planned):
            warn(line)
    if planned.refusal is not None:
        raise planned.refusal


async def _plan(setting: Setting, request: RequestConfig) -> Planned:
    """The quote, against what is left of the budgets; a ledger is not made for it."""
    config = setting.config
    async with ledgers.opened(None if setting.simulated else config) as ledger:
        config = config.model_copy(update={"ledger": None, "cache": None})
        try:
            return Planned(await _quote(config, request, ledger, shrink=False))
        except BudgetExceeded as error:
            limit = error
        try:
            return Planned(await _quote(config, request, ledger), limit)
        except BudgetExceeded as refusal:
            return Planned(_unfitted(config, request), limit, refusal)


async def _quote(
    config: OrchestratorConfig,
    request: RequestConfig,
    ledger: Ledger | None,
    *,
    shrink: bool = True,
) -> Quote:
    if not shrink:
        budgets = config.budgets.model_copy(update={"shrink": ()})
        config = config.model_copy(update={"budgets": budgets})
    async with EnhancedOrchestrator(config, ledger=ledger) as engine:
        return await engine.quote(request)


def _unfitted(config: OrchestratorConfig, request: RequestConfig) -> Quote:
    """The quote of a run as it was asked, whatever its budget."""
    patterns = naming.library(config)
    target = resolve(request, config, patterns)
    pattern = patterns[target.pattern] if target.pattern else None
    return quote(target, pattern, request, config, time_s=run_time_s(config, request))


def _as_object(planned: Planned) -> dict[str, Any]:
    """The plan for a program: the quote, and how it stands to the budgets."""
    told: dict[str, Any] = json.loads(planned.quote.to_json())
    limit = planned.refusal or planned.limit
    return {
        "fits": planned.refusal is None,
        "limit": None if limit is None else _limit_object(limit),
        **told,
    }


def _limit_object(limit: BudgetExceeded) -> dict[str, Any]:
    scope, dimension = limit.scope, limit.dimension
    known: dict[str, Any] = {"message": str(limit)}
    if scope is None or dimension is None:
        return known
    return known | {
        "scope": scope.kind,
        "name": scope.name if scope.kind != "run" else "",
        "every": scope.every,
        "dimension": dimension,
        "limit": getattr(scope.caps, dimension),
        "spent": getattr(limit.spent, dimension),
        "held": getattr(limit.held, dimension),
        "needed": getattr(limit.needed, dimension),
    }


def _page(planned: Planned) -> Iterator[RenderableType]:
    run, plan = planned.quote, planned.quote.plan
    about = (run.model or "a panel of its own", run.pattern, count(len(plan.members), "member"))
    yield Text(" · ".join(filter(None, about)), style="bold")
    yield safe(f"asks {one_line(', '.join(plan.members), 400)}")
    if plan.synthesizers:
        yield safe(f"written by {one_line(plan.synthesizers[0], 64)}")
    yield ""
    yield Listing(_table(run))


def _table(run: Quote) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage", no_wrap=True, style="bold")
    table.add_column("", no_wrap=True)
    for name in ("calls", "tokens", "money", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in run.stages:
        unknown = any(
            call.full_nanousd is None for ask in stage.asks for row in ask.options for call in row
        )
        for number, (case, said) in enumerate(CASES.items()):
            name = "" if number else stage.name
            table.add_row(name, said, *_cells(getattr(stage, case), unknown=unknown))
    table.add_section()
    for number, (case, said) in enumerate(CASES.items()):
        cells = _cells(getattr(run, case), unknown=bool(run.unknown_prices))
        table.add_row("" if number else "in all", said, *cells, style="bold")
    return table


def _cells(estimate: Estimate, *, unknown: bool) -> tuple[str, ...]:
    amount = estimate.amount
    money = usd(amount.money_nanousd)
    if unknown:
        money = f"{money} + ?" if amount.money_nanousd else "?"
    return (f"{amount.calls:,}", f"{amount.tokens:,}", money, seconds(estimate.elapsed_s))


def _remarks(planned: Planned) -> Iterator[str]:
    """What is to be known about the figures."""
    run = planned.quote
    if run.unknown_prices:
        yield (
            f"the price of {', '.join(run.unknown_prices)} is not known and is missing in the "
            "sums; write price: {input_usd: ..., output_usd: ...}, or price: free"
        )
    if run.unlimited:
        yield (
            f"nobody knows how long answers of {', '.join(run.unlimited)} can be; "
            "they are counted at budgets.max_tokens"
        )
    if planned.limit is not None and planned.refusal is None:
        yield f"as it is asked, it does not fit: {_excess(planned.limit)}"
        yield f"so it would be shrunk: {'; '.join(run.shrunk)}"


def _excess(limit: BudgetExceeded) -> str:
    """`the budget of a run is $0.05 ($0.00 spent, $0.00 held), and it needs up to $0.21`."""
    scope, dimension = limit.scope, limit.dimension
    if scope is None or dimension is None or isinstance(limit, UnknownPrice):
        return str(limit)
    cap, spent, held, needed = (
        say(dimension, getattr(amount, dimension))
        for amount in (scope.caps, limit.spent, limit.held, limit.needed)
    )
    return (
        f"the budget of {whose(scope)} is {cap} ({spent} spent, {held} held), "
        f"and it needs up to {needed}"
    )
