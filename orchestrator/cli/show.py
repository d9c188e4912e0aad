"""`orchestrator show`: a past run, explained from its receipt."""

import json
from collections.abc import Iterator

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli import store
from orchestrator.cli.explain import Listing, print_page, receipt_view
from orchestrator.cli.notes import warn
from orchestrator.cli.text import one_line
from orchestrator.errors import InvalidRun
from orchestrator.responses import Receipt

LISTED = 20
ELASTIC = frozenset(("asked", "question"))  # columns that give way on a narrow screen

EPILOG = """\b
Examples:
  orchestrator show                 the last run
  orchestrator show 3f9a --drafts   a run by the beginning of its id, with every draft
  orchestrator show --list          recent runs, newest first
  orchestrator show --json | jq .stages
"""


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of the last runs, as they are told."""
    names = (store.short(path.stem) for path in store.paths()[:LISTED])
    return [name for name in names if name.startswith(incomplete)]


@click.command(epilog=EPILOG)
@click.argument("run", required=False, shell_complete=_complete)
@click.option("--drafts", is_flag=True, help="Also print what every model wrote in every stage.")
@click.option("--list", "as_list", is_flag=True, help=f"List the last {LISTED} runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def command(run: str | None, drafts: bool, as_list: bool, as_json: bool) -> None:
    """Explain a past run from its receipt.

    Shows who was asked and when, what came of each call, how drafts were ranked, voted on or
    merged, what was missing and why, tokens and time. RUN is the id that the run printed, or the
    beginning of it; without it the last run is shown.
    """
    if as_list:
        _print_list(list(_recent()), as_json=as_json)
        return
    receipt = store.load(run) if run else store.latest()
    if as_json:
        click.echo(json.dumps(json.loads(receipt.to_json()), indent=2))
        return
    print_page(receipt_view(receipt, drafts=drafts))


def _recent() -> Iterator[Receipt]:
    """The last receipts; one that cannot be read is named and passed over."""
    for path in store.paths()[:LISTED]:
        try:
            yield store.read(path)
        except InvalidRun as error:
            warn(str(error))


def _print_list(found: list[Receipt], *, as_json: bool) -> None:
    if as_json:
        rows = [_row(receipt) for receipt in found]
        click.echo(json.dumps(rows, indent=2))
        return
    if not found:
        raise InvalidRun('no run yet; try `orchestrator ask "..."` or `orchestrator demo`')
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("run", "when (UTC)", "status", "asked", "question"):
        table.add_column(name, no_wrap=name not in ELASTIC)
    for receipt in found:
        row = _row(receipt)
        table.add_row(
            store.short(row["run_id"]),
            row["started_at"][:16].replace("T", " "),
            row["status"],
            _cut("/".join(part for part in (row["pattern"], row["model"]) if part), 30),
            _cut(receipt.prompt, 100),
        )
    print_page(Listing(table, elastic=ELASTIC))


def _cut(text: str, width: int) -> Text:
    """A cell that gives way to the others."""
    return Text(one_line(text, width), no_wrap=True, overflow="ellipsis")


def _row(receipt: Receipt) -> dict[str, str]:
    return {
        "run_id": receipt.run_id,
        "started_at": receipt.started_at,
        "model": receipt.model,
        "pattern": receipt.pattern,
        "status": receipt.status,
        "prompt": receipt.prompt,
    }
