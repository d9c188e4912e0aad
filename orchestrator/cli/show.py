"""`orchestrator show`: a past run, explained from what was written down of it."""

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from orchestrator.amounts import usd
from orchestrator.cli import store
from orchestrator.cli.answers import print_text
from orchestrator.cli.explain import (
    UNDER_WAY,
    UNFINISHED,
    Listing,
    print_page,
    receipt_view,
    unfinished_view,
)
from orchestrator.cli.failures import Failure
from orchestrator.cli.notes import note, warn
from orchestrator.cli.progress import spent
from orchestrator.cli.store import Kept
from orchestrator.cli.text import one_line, program
from orchestrator.errors import InvalidRun
from orchestrator.journal import Record
from orchestrator.prompts import conversation, question_text

LISTED = 20
ELASTIC = frozenset(("asked", "question"))  # columns that give way on a narrow screen

EPILOG = """\b
Examples:
  orchestrator show                 the last run
  orchestrator show 3f9a --drafts   a run by the beginning of its id, with every draft
  orchestrator show 3f9a --answer   its answer again, as `ask` printed it
  orchestrator show --list          recent runs, newest first
  orchestrator show --json | jq .stages
"""


@click.command(epilog=EPILOG)
@click.argument("run", required=False, shell_complete=store.complete_runs)
@click.option("--drafts", is_flag=True, help="Also print what every model wrote in every stage.")
@click.option("--answer", is_flag=True, help="Print the answer alone, as `ask` did.")
@click.option("--list", "as_list", is_flag=True, help=f"List the last {LISTED} runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def command(run: str | None, drafts: bool, answer: bool, as_list: bool, as_json: bool) -> None:
    """Explain a past run from its receipt.

    Shows who was asked and when, what came of each call, how drafts were ranked, voted on or
    merged, what was missing and why, tokens, money and time. RUN is the id that the run printed,
    or the beginning of it; without it the last run is shown. Of a run that was interrupted, the
    calls it has paid for are shown, and how to go on with it.
    """
    if answer and as_json:
        raise click.UsageError("--answer prints text, --json the receipt; give one of them")
    if as_list:
        _print_list(list(_recent()), as_json=as_json)
        return
    kept = store.load(run) if run else store.latest()
    if answer:
        _print_answer(kept)
    elif kept.receipt is None:
        _print_unfinished(kept, drafts=drafts, as_json=as_json)
    elif as_json:
        click.echo(store.as_text(kept.receipt), nl=False)
    else:
        print_page(receipt_view(kept.receipt, drafts=drafts))


def _print_answer(kept: Kept) -> None:
    if kept.receipt is None:
        raise InvalidRun(f"run {store.short(kept.run_id)} has no answer yet; {_what_next(kept)}")
    if kept.receipt.status == "failed":
        causes = "; ".join(kept.receipt.causes)
        raise Failure(f"run {store.short(kept.run_id)} came to no answer: {causes}")
    print_text(kept.receipt.content)


def _print_unfinished(kept: Kept, *, drafts: bool, as_json: bool) -> None:
    record = _record(kept)
    if as_json:
        click.echo(json.dumps({**_row(kept), "paid": list(_paid(record))}, indent=2))
    else:
        print_page(unfinished_view(record, _status(kept), drafts=drafts))
    note(_what_next(kept))


def _what_next(kept: Kept) -> str:
    if _status(kept) == UNDER_WAY:
        return "another process is at it"
    return f"`{program()} ask --resume {store.short(kept.run_id)}` goes on with it"


def _status(kept: Kept) -> str:
    if kept.receipt is not None:
        return kept.receipt.status
    return UNDER_WAY if store.journal().is_in_use(kept.run_id) else UNFINISHED


def _record(kept: Kept) -> Record:
    assert kept.record is not None, "what has no receipt has a journal"
    return kept.record


def _paid(record: Record) -> Iterator[dict[str, Any]]:
    for call in record.calls:
        yield {
            "deployment": call.deployment,
            "model": call.completion.model,
            "finish_reason": call.completion.finish_reason,
            "total_tokens": call.completion.usage.total_tokens,
            "cost_nanousd": call.cost_nanousd,
            "text": call.completion.text,
        }


def _recent() -> Iterator[Kept]:
    """The last runs; one that cannot be read is named and passed over."""
    for path in store.paths()[:LISTED]:
        try:
            yield store.read(path)
        except InvalidRun as error:
            warn(str(error))


def _print_list(found: list[Kept], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_row(kept) for kept in found], indent=2))
        return
    if not found:
        raise InvalidRun('no run yet; try `orchestrator ask "..."` or `orchestrator demo`')
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("run", "when (UTC)", "status", "cost", "asked", "question"):
        table.add_column(name, no_wrap=name not in ELASTIC)
    for kept in found:
        row = _row(kept)
        table.add_row(
            store.short(row["run_id"]),
            row["started_at"][:16].replace("T", " "),
            row["status"],
            _cost(kept),
            _cut("/".join(part for part in (row["pattern"], row["model"]) if part), 30),
            _cut(row["prompt"], 100),
        )
    print_page(Listing(table, elastic=ELASTIC))
    if any(_status(kept) == UNFINISHED for kept in found):
        note(f"`{program()} ask --resume RUN` goes on with an unfinished run")


def _cut(text: str, width: int) -> Text:
    """A cell that gives way to the others."""
    return Text(one_line(text, width), no_wrap=True, overflow="ellipsis")


def _cost(kept: Kept) -> str:
    return spent(kept.receipt) if kept.receipt else f"{usd(_paid_nanousd(_record(kept)))} so far"


def _paid_nanousd(record: Record) -> int:
    return sum(call.cost_nanousd or 0 for call in record.calls)


def _row(kept: Kept) -> dict[str, Any]:
    receipt = kept.receipt
    if receipt is not None:
        return {
            "run_id": receipt.run_id,
            "started_at": receipt.started_at,
            "model": receipt.model,
            "pattern": receipt.pattern,
            "status": receipt.status,
            "cost_nanousd": receipt.cost_nanousd,
            "prompt": receipt.prompt,
        }
    record = _record(kept)
    request = record.opening.request
    return {
        "run_id": kept.run_id,
        "started_at": record.opening.started_at,
        "model": request.model or "",
        "pattern": request.pattern or "",
        "status": _status(kept),
        "cost_nanousd": _paid_nanousd(record),
        "prompt": question_text(conversation(request)),
    }
