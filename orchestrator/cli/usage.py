"""`orchestrator usage`: what was spent, by what, and what is left of the budgets."""

import asyncio
import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click
from rich.table import Table

from adapters.types import Usage
from orchestrator.amounts import DIMENSIONS, NANO, Amount, Scope, say, usd, whose
from orchestrator.cli import ledgers, options
from orchestrator.cli.explain import Listing, print_page
from orchestrator.cli.notes import note
from orchestrator.cli.text import one_line, program, seconds
from orchestrator.clock import SystemClock
from orchestrator.config import OrchestratorConfig, find_config, load_config
from orchestrator.ledger import By, Standing, UsageSum

EPILOG = """\b
Examples:
  orchestrator usage
  orchestrator usage --by day --since 7d
  orchestrator usage --by tag --since 2026-11-01 --until 2026-11-30
  orchestrator usage --json | jq '.total.cost_usd'

\b
The figures are those of the ledger, a file in the state folder unless `ledger:` in the
configuration says otherwise. A call counts to every one of its tags, and to no tag if it has
none. Days are those of UTC.
"""

_SPAN = re.compile(r"(\d{1,4})([mhdw])")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _moment(ctx: click.Context, param: click.Parameter, written: str | None) -> datetime | None:
    """`7d` is so long ago; a date is its beginning, or its end where it is the last one."""
    if written is None:
        return None
    written = written.strip()
    span = _SPAN.fullmatch(written)
    if span:
        return SystemClock().now() - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise click.BadParameter(
            f"{written!r} is neither a time ago, such as 7d or 12h, nor a date such as 2026-11-01"
        ) from error
    if param.name == "until" and _DAY.fullmatch(written):
        moment += timedelta(days=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command(epilog=EPILOG)
@click.option(
    "--by",
    type=click.Choice(get_args(By)),
    default="model",
    show_default=True,
    help="What to add up by.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=_moment,
    help="From when on: 90m, 12h, 7d or 4w ago, or a date such as 2026-11-01.",
)
@click.option("--until", metavar="TIME", callback=_moment, help="Until when; a date is included.")
@click.option("--tenant", metavar="NAME", help="Of this tenant alone.")
@options.json_option
@options.config_option
def command(
    by: By,
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Tell what was spent, and what is left of the budgets.

    Adds up calls, tokens, money and time by model, deployment, pattern, tag, tenant or day, and
    shows the windows of `budgets:` that are open now: what is spent of each, what is held for
    calls that are under way, and the limit.
    """
    config = load_config(find_config(config_path))
    wanted = Wanted(by=by, since=since, until=until, tenant=tenant)
    found = asyncio.run(_look(config, wanted))
    if as_json:
        click.echo(json.dumps(_as_object(found, wanted), indent=2))
        return
    _print(found, wanted)
    if found.sums:
        click.echo(f"counted in {ledgers.name_of(config)}", err=True)
    else:
        note(f'nothing was spent in that time; {program()} ask "..." is how it begins')


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be added up."""

    by: By
    since: datetime | None
    until: datetime | None
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What the ledger says."""

    sums: Sequence[UsageSum]
    total: UsageSum
    standings: Sequence[Standing]


async def _look(config: OrchestratorConfig, wanted: Wanted) -> Found:
    scopes = ledgers.open_windows(config, wanted.tenant)
    period: dict[str, Any] = {
        "since": wanted.since,
        "until": wanted.until,
        "tenant": wanted.tenant,
    }
    async with ledgers.opened(config) as ledger:
        if ledger is None:
            return Found((), _total(()), [_untouched(scope) for scope in scopes])
        sums = await ledger.usage(wanted.by, **period)
        # By tag, a call may count several times or not at all.
        every = sums if wanted.by != "tag" else await ledger.usage("day", **period)
        return Found(sums, _total(every), await ledger.standing(scopes))


def _untouched(scope: Scope) -> Standing:
    return Standing(scope=scope, spent=Amount(), held=Amount())


def _total(sums: Sequence[UsageSum]) -> UsageSum:
    return UsageSum(
        name="",
        calls=sum(one.calls for one in sums),
        failed=sum(one.failed for one in sums),
        usage=sum((one.usage for one in sums), Usage()),
        cost_nanousd=sum(one.cost_nanousd for one in sums),
        unpriced=sum(one.unpriced for one in sums),
        over_bound=sum(one.over_bound for one in sums),
        recovered=sum(one.recovered for one in sums),
        elapsed_ms=sum(one.elapsed_ms for one in sums),
    )


def _as_object(found: Found, wanted: Wanted) -> dict[str, Any]:
    """What was spent and what is left, for a program."""
    return {
        "by": wanted.by,
        "since": wanted.since.isoformat() if wanted.since else None,
        "until": wanted.until.isoformat() if wanted.until else None,
        "tenant": wanted.tenant,
        "usage": [_sum_object(one) for one in found.sums],
        "total": _sum_object(found.total),
        "windows": [_standing_object(standing) for standing in found.standings],
    }


def _sum_object(one: UsageSum) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "cost_usd": one.cost_nanousd / NANO}


def _standing_object(standing: Standing) -> dict[str, Any]:
    scope = standing.scope
    return {
        "scope": scope.kind,
        "name": scope.name,
        "every": scope.every,
        "limits": {
            dimension: {
                "limit": limit,
                "spent": getattr(standing.spent, dimension),
                "held": getattr(standing.held, dimension),
            }
            for dimension in DIMENSIONS
            if (limit := getattr(scope.caps, dimension)) is not None
        },
    }


def _print(found: Found, wanted: Wanted) -> None:
    if found.sums:
        print_page(Listing(_sums_table(found, wanted)))
    if found.sums and found.standings:
        click.echo()
    if found.standings:
        print_page(Listing(_windows_table(found.standings)))


def _sums_table(found: Found, wanted: Wanted) -> Table:
    table = _table(wanted.by, "calls", "failed", "tokens", "cost", "time")
    for one in found.sums:
        table.add_row(*_sum_cells(one_line(one.name, 60) or "-", one))
    table.add_section()
    table.add_row(*_sum_cells("in all", found.total), style="bold")
    return table


def _sum_cells(name: str, one: UsageSum) -> tuple[str, ...]:
    return (
        name,
        f"{one.calls:,}",
        f"{one.failed:,}" if one.failed else "-",
        f"{one.usage.total_tokens:,}" + ("~" if one.usage.estimated else ""),
        usd(one.cost_nanousd) + (f" + {one.unpriced:,} unknown" if one.unpriced else ""),
        seconds(one.elapsed_ms / 1000),
    )


def _windows_table(standings: Sequence[Standing]) -> Table:
    table = _table("budget of", "spent", "held", "limit", "left")
    for standing in standings:
        scope = standing.scope
        for dimension in DIMENSIONS:
            limit = getattr(scope.caps, dimension)
            if limit is None:
                continue
            spent, held = (getattr(one, dimension) for one in (standing.spent, standing.held))
            cells = (spent, held, limit, max(0, limit - spent - held))
            table.add_row(_whose(scope), *(say(dimension, cell) for cell in cells))
    return table


def _whose(scope: Scope) -> str:
    told = whose(scope)
    if scope.kind == "key" and not scope.name:
        told = told.replace("key ''", "runs without a key")
    return one_line(told, 80)


def _table(name: str, *figures: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table
