"""What a batch would ask and cost, told from its first rows; nobody is asked."""

import asyncio
import json
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from orchestrator.amounts import Amount, usd
from orchestrator.batch.job import Order
from orchestrator.batch.outcome import Failure
from orchestrator.batch.rows import BadRow
from orchestrator.budget import Quote
from orchestrator.cli.notes import warn
from orchestrator.cli.text import count, one_line
from orchestrator.config import RequestConfig
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.prompts import conversation

SHOWN = 3  # rows that are rendered
QUOTED = 50  # rows whose cost is reckoned; the others are taken to be like them
WIDTH = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A row that was looked at: its question and quote, or what is wrong with it."""

    line: int
    request: RequestConfig | None = None
    quote: Quote | None = None
    problem: str = ""


def foretell(order: Order, *, as_json: bool) -> None:
    """Show the first rows, and what all of them would come to."""
    looked = asyncio.run(_look(order))
    if as_json:
        click.echo(json.dumps(_as_object(order, looked), indent=2))
        return
    for one in looked[:SHOWN]:
        click.echo(f"Line {one.line}: {_shown(one)}")
    quotes = [one.quote for one in looked if one.quote is not None]
    problems = [f"line {one.line}: {one.problem}" for one in looked if one.problem]
    for problem in problems[:SHOWN]:
        warn(problem)
    if len(problems) > SHOWN:
        warn(f"{count(len(problems) - SHOWN, 'row')} more of the first {len(looked)} ask nothing")
    rows = len(looked) if order.total is None else order.total
    if order.total is None and len(looked) == QUOTED:
        warn(f"nobody knows how many rows there are; these are figures of the first {QUOTED}")
    click.echo(f"{count(rows, 'row')}, reckoned from {len(quotes)}")
    for name, amount in _sums(quotes, rows, len(looked)).items():
        money = usd(amount.money_nanousd)
        calls, tokens = count(amount.calls, "call"), count(amount.tokens, "token")
        click.echo(f"  {name:<9} {calls}, {tokens}, {money}")
    unknown = sorted({name for quote in quotes for name in quote.unknown_prices})
    if unknown:
        warn(f"the price of {', '.join(unknown)} is not known and is missing in the sums")


async def _look(order: Order) -> list[Looked]:
    config = order.config.model_copy(update={"ledger": None, "cache": None})
    looked = []
    async with EnhancedOrchestrator(config) as engine:
        for row in islice(order.rows(), QUOTED):
            if isinstance(row, BadRow):
                looked.append(Looked(line=row.line, problem=row.problem))
                continue
            question = order.ask(row)
            if isinstance(question, Failure):
                problem = question.message.removeprefix(f"Line {row.line}: ")
                looked.append(Looked(line=row.line, problem=problem))
                continue
            quote = await engine.quote(question.request)
            looked.append(Looked(line=row.line, request=question.request, quote=quote))
    return looked


def _shown(one: Looked) -> str:
    if one.request is None:
        return f"not asked: {one.problem}"
    told = conversation(one.request)
    return " | ".join(
        f"{message['role']}: {one_line(str(message.get('content')), WIDTH)}" for message in told
    )


def _sums(quotes: list[Quote], rows: int, looked: int) -> dict[str, Amount]:
    """What all rows come to, if those that were not looked at are like the others."""
    return {
        name: _scaled(
            sum((getattr(quote, name).amount for quote in quotes), Amount()), rows, looked
        )
        for name in ("expected", "full", "worst")
    }


def _scaled(amount: Amount, rows: int, looked: int) -> Amount:
    if looked == 0:
        return amount
    return Amount(
        money_nanousd=-(-amount.money_nanousd * rows // looked),
        tokens=-(-amount.tokens * rows // looked),
        calls=-(-amount.calls * rows // looked),
        time_ms=-(-amount.time_ms * rows // looked),
    )


def _as_object(order: Order, looked: list[Looked]) -> dict[str, Any]:
    quotes = [one.quote for one in looked if one.quote is not None]
    rows = len(looked) if order.total is None else order.total
    sums = _sums(quotes, rows, len(looked))
    return {
        "rows": order.total,
        "reckoned_from": len(looked),
        "problems": [{"line": one.line, "problem": one.problem} for one in looked if one.problem],
        "first": [
            {"line": one.line, "messages": list(conversation(one.request))}
            for one in looked[:SHOWN]
            if one.request is not None
        ],
        **{
            name: {
                "calls": amount.calls,
                "tokens": amount.tokens,
                "money_nanousd": amount.money_nanousd,
            }
            for name, amount in sums.items()
        },
    }
