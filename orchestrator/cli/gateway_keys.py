"""`orchestrator keys`: whom the gateway lets in, as whom, and how much each may use."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from rich.table import Table

from orchestrator.cli import options
from orchestrator.cli.explain import Listing, print_page, when_utc
from orchestrator.cli.failures import refuse
from orchestrator.cli.notes import note
from orchestrator.cli.options import usd_value
from orchestrator.cli.text import one_line, program
from orchestrator.server.keys import KeyFile, KeyRecord, NewKey, keys_file

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

EPILOG = """\b
Examples:
  orchestrator keys create acme --models "fast,*/council" --rpm 60 --usd-per-day 5
  key=$(orchestrator keys create acme)
  orchestrator keys list
  orchestrator keys revoke 3f9a5c0d11e2

\b
A key is shown once, when it is made: only its SHA-256 is kept, in keys.json in the state folder
unless --keys names another file. A server that runs heeds a change at the next request. Keys of
one name share the money of a day, and the answers that are kept.
"""

keys_option = click.option(
    "--keys",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file of keys. Default: keys.json in the state folder.",
)
_COUNT = click.IntRange(min=1, max=10**15)


def _limit(name: str, field: str, help_text: str) -> Callable[[Decorated], Decorated]:
    return click.option(name, field, type=_COUNT, metavar="N", help=help_text)


@click.group(epilog=EPILOG)
def command() -> None:
    """Make, list and revoke the keys that the gateway lets in."""


@command.command("create")
@click.argument("name")
@click.option(
    "--models",
    metavar="NAMES",
    help='What it may ask for, with commas between: names, or patterns such as "*/council".',
)
@_limit("--rpm", "requests_per_minute", "Requests a minute.")
@_limit("--tpm", "tokens_per_minute", "Tokens a minute, prompts and answers.")
@click.option(
    "--usd-per-day",
    "money_usd_per_day",
    metavar="USD",
    callback=usd_value,
    help="The most its calls may cost on a day of UTC, in US dollars.",
)
@_limit("--streams", "open_streams", "Replies that may be streaming at a time. Default: 100.")
@options.json_option
@keys_option
def create(
    name: str, models: str | None, as_json: bool, path: Path | None, **limits: int | Decimal | None
) -> None:
    """Make a key for NAME. It alone is printed on stdout, this once."""
    given: dict[str, object] = {field: limit for field, limit in limits.items() if limit}
    if models is not None:
        given["models"] = _patterns(models)
    keys = _keys(path)
    try:
        made = keys.create(name, **given)
    except ValidationError as error:
        if error.errors()[0]["loc"] == ("tenant",):
            raise click.UsageError(
                "NAME is one line of 1 to 256 visible characters, such as acme or 'Team A'"
            ) from None
        refuse(error)
    _print_new(made, as_json=as_json)
    note(f"{_told(made.record)}; kept in {keys.path}, and shown this once")


@command.command("list")
@options.json_option
@keys_option
def show_all(as_json: bool, path: Path | None) -> None:
    """List the keys by their ids, with their limits; no key is kept that could be shown."""
    keys = _keys(path)
    found = keys.list()
    if as_json:
        click.echo(json.dumps([_as_object(record) for record in found], indent=2))
    elif found:
        print_page(Listing(_table(found), elastic=frozenset(("name", "models"))))
    else:
        note(f"no key in {keys.path}; {program()} keys create NAME makes one")


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@keys_option
def revoke(key_id: str, path: Path | None) -> None:
    """Take the key with this ID back: requests from now on are refused."""
    record = _keys(path).revoke(key_id)
    note(f"{_told(record)} is revoked")


def _keys(path: Path | None) -> KeyFile:
    return KeyFile(path or keys_file())


def _patterns(written: str) -> tuple[str, ...]:
    patterns = tuple(one.strip() for one in written.split(","))
    if not all(patterns):
        raise click.UsageError(
            f"--models {written!r} has an empty name; names stand with commas between: fast,gpt"
        )
    return patterns


def _print_new(made: NewKey, *, as_json: bool) -> None:
    told = json.dumps({"key": made.key, **_as_object(made.record)}, indent=2)
    click.echo(told if as_json else made.key)


def _told(record: KeyRecord) -> str:
    return f"key {record.id} of {one_line(record.tenant, 80)!r}"


def _as_object(record: KeyRecord) -> dict[str, Any]:
    """A key for a program, without what only the server needs."""
    kept = record.model_dump(mode="json", exclude={"sha256", "tenant"})
    return {"id": record.id, "name": record.tenant, **kept}


def _table(records: Sequence[KeyRecord]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("id", "name", "models"):
        table.add_column(name, no_wrap=True)
    for name in ("requests/min", "tokens/min", "$/day", "streams"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("created", "revoked"):
        table.add_column(name, no_wrap=True)
    for record in records:
        table.add_row(
            record.id,
            one_line(record.tenant, 60),
            one_line(", ".join(record.models) or "any", 60),
            _count(record.requests_per_minute),
            _count(record.tokens_per_minute),
            "-" if record.money_usd_per_day is None else f"{record.money_usd_per_day:f}",
            _count(record.open_streams),
            _when(record.created),
            _when(record.revoked),
            style="dim" if record.revoked else None,
        )
    return table


def _count(limit: int | None) -> str:
    return "-" if limit is None else f"{limit:,}"


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else when_utc(moment.isoformat(), "minutes")
