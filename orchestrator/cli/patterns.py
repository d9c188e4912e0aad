"""`orchestrator patterns`: the ways from several drafts to one answer."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from orchestrator.cli import naming, options
from orchestrator.cli.explain import print_page
from orchestrator.cli.text import did_you_mean
from orchestrator.config import find_config, load_config
from orchestrator.errors import UnknownModel
from orchestrator.patterns import Pattern, Stage

EPILOG = """\b
Examples:
  orchestrator patterns
  orchestrator patterns debate
  orchestrator ask "Is P = NP likely?" --pattern debate
"""


@click.command(epilog=EPILOG)
@click.argument("name", required=False)
@options.json_option
@options.config_option
def command(name: str | None, as_json: bool, config_path: Path | None) -> None:
    """List the analysis patterns, or show one whole.

    In the number of calls N is the size of the panel and q the number of questions a stage
    raises. A pattern is one YAML file; `patterns_dir` in the configuration adds more.
    """
    library = naming.library(load_config(find_config(config_path)))
    if name is not None and name not in library:
        raise UnknownModel(f"unknown pattern {name!r}{did_you_mean(name, library)}")
    if name is not None and not as_json:
        click.echo(library.path(name).read_text(encoding="utf-8"), nl=False)
        click.echo(f"\n# from {library.path(name)}", err=True)
        return
    wanted = [library[name]] if name else list(library.load_all().values())
    if as_json:
        found = [as_object(pattern) for pattern in wanted]
        click.echo(json.dumps(found[0] if name else found, indent=2))
        return
    print_page(_table(wanted))


def as_object(pattern: Pattern) -> dict[str, Any]:
    """A pattern for a program."""
    return {**pattern.model_dump(mode="json"), "calls": calls(pattern)}


def calls(pattern: Pattern) -> str:
    """How many calls a run makes, as a formula: `2N + 1`."""
    terms: Counter[str] = Counter()
    for stage in pattern.stages:
        symbol, factor = _calls_of(stage)
        terms[symbol] += factor * stage.rounds
    ordered = [(symbol, terms[symbol]) for symbol in ("N", "q", "") if terms[symbol]]
    formula = " + ".join(
        f"{factor if factor > 1 or not symbol else ''}{symbol}" for symbol, factor in ordered
    )
    early = any(stage.unless for stage in pattern.stages)
    return f"at most {formula}" if early else formula


def _calls_of(stage: Stage) -> tuple[str, int]:
    if stage.each == "panel":
        return "N", stage.samples or 1
    if stage.each == "items":
        return "q", 1
    return "", 1 if stage.by else 0


def _table(patterns: list[Pattern]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="dim")
    for column in ("pattern", "what it does", "stages", "calls"):
        table.add_column(column, overflow="fold")
    for pattern in patterns:
        stages = " → ".join(
            stage.name + (f" ×{stage.rounds}" if stage.rounds > 1 else "")
            for stage in pattern.stages
        )
        table.add_row(Text(pattern.name, style="bold"), pattern.description, stages, calls(pattern))
    return table
