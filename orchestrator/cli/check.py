"""`orchestrator check`: a configuration file, judged before it is used."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import naming, options
from orchestrator.cli.failures import FAILED, USAGE
from orchestrator.cli.keys import key_of
from orchestrator.cli.models import known_price, price_line
from orchestrator.cli.text import count, one_line
from orchestrator.config import OrchestratorConfig, find_config, load_config, warnings
from orchestrator.errors import ConfigError, PatternError
from orchestrator.quoting import worst_cases

EPILOG = """\b
Examples:
  orchestrator check
  orchestrator check team.yaml
  orchestrator check --strict --json > report.json

\b
Exit code 0: usable. 1: usable, but --strict and something is worth a warning. 2: not usable;
every mistake is listed as file:line:col.
"""


@click.command(epilog=EPILOG)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, missing keys included.")
@options.json_option
@options.config_option
def command(file: Path | None, strict: bool, as_json: bool, config_path: Path | None) -> None:
    """Check a configuration file.

    Reads FILE (or the configuration that the other commands would use) and every pattern it can
    name, and reports all mistakes at once. Then says for each deployment whether its key is set
    and where its price comes from. No provider is called and no key is printed.
    """
    if file is not None and config_path is not None:
        raise click.UsageError("give FILE or --config, not both")
    path = find_config(file or config_path)
    try:
        config = load_config(path)
        naming.library(config).load_all()
    except (ConfigError, PatternError) as error:
        if not as_json:
            raise
        click.echo(json.dumps({"file": str(path), "ok": False, "problems": list(error.problems)}))
        sys.exit(USAGE)
    found = report(config)
    if as_json:
        click.echo(json.dumps({"file": str(path), "ok": True, "problems": [], **found}, indent=2))
    else:
        _print(path, config, found)
    if strict and (found["warnings"] or not all(row["key_present"] for row in found["models"])):
        sys.exit(FAILED)


def report(config: OrchestratorConfig) -> dict[str, Any]:
    """What is to be known about a configuration that can be used."""
    patterns = naming.library(config)
    rows = []
    for name, model in config.models.items():
        key, price = key_of(model, deployment=name), price_line(model)
        rows.append(
            {
                "name": name,
                "key": key.line,
                "key_present": key.present,
                "price": f"{price} per 1M tokens" if price.startswith("$") else price,
                "price_known": known_price(model) is not None,
            }
        )
    return {
        "models": rows,
        "routes": list(config.routes),
        "panels": list(config.panels),
        "patterns": list(patterns),
        "warnings": [*warnings(config), *worst_cases(config, patterns)],
    }


def _print(path: Path, config: OrchestratorConfig, found: dict[str, Any]) -> None:
    counted = ", ".join(
        count(len(found[section]), section[:-1])
        for section in ("models", "routes", "panels", "patterns")
    )
    click.echo(f"{path}: ok: {counted}")
    width = max(len(name) for name in config.models)
    for row in found["models"]:
        mark = click.style("✓", fg="green") if row["key_present"] else click.style("✗", fg="red")
        click.echo(f"  {mark} {row['name']:<{width}}  {row['key']} · price: {row['price']}")
    for warning in found["warnings"]:
        click.echo(click.style(f"  ! {one_line(warning, 400)}", fg="yellow"))
    missing = sum(not row["key_present"] for row in found["models"])
    if missing:
        click.echo(f"{count(missing, 'model')} cannot be called until the key is set.")
