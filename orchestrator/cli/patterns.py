"""`orchestrator patterns`: the ways from several drafts to one answer."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.cli import naming, options
from orchestrator.cli.explain import print_page
from orchestrator.cli.text import did_you_mean
from orchestrator.config import find_config, load_config
from orchestrator.errors import UnknownModel
from orchestrator.patterns import Pattern

EPILOG = """\b
Examples:
  orchestrator patterns
  orchestrator patterns debate
  orchestrator ask "Is P = NP likely?" --pattern debate
"""


@click.command(epilog=EPILOG)
@click.argument("name", required=False, shell_complete=options.complete_patterns)
@options.json_option
@options.config_option
def command(name: str | None, as_json: bool, config_path: Path | None) -> None:
    """List the analysis patterns, or show one whole.

    In the number of calls N is the size of the panel and q the number of questions a stage
    raises. A pattern is one YAML file; `patterns_dir` in the configuration adds more.
    """
    library = naming.library(load_config(find_config(config_path)))
    if name is not None and name not in library:
        known = did_you_mean(name, library) or f"; there are: {', '.join(library)}"
        raise UnknownModel(f"Unknown pattern {name!r}{known}")
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
    stages = pattern.stages
    seated = sum(stage.rounds for stage in stages if stage.each == "panel")
    items = sum(stage.rounds for stage in stages if stage.each == "items")
    single = sum(stage.rounds for stage in stages if stage.by)
    first = stages[0]
    if first.roles:  # one seat a role, whatever the panel's size
        single, seated = single + seated * len(first.roles), 0
    seat = f"max(N, {first.samples})" if first.samples else "N"
    terms = (_term(seated, seat), _term(items, "q"), str(single or ""))
    formula = " + ".join(term for term in terms if term)
    return f"at most {formula}" if any(stage.unless for stage in stages) else formula


def _term(factor: int, symbol: str) -> str:
    if factor < 2:
        return symbol if factor else ""
    return f"{factor} {symbol}" if "(" in symbol else f"{factor}{symbol}"


def _table(patterns: list[Pattern]) -> Table:
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for pattern in patterns:
        stages = " → ".join(
            stage.name + (f" ×{stage.rounds}" if stage.rounds > 1 else "")
            for stage in pattern.stages
        )
        about = Text(f"{stages} · {calls(pattern)} calls", style="dim")
        table.add_row(pattern.name, Group(pattern.description, about))
    return table
