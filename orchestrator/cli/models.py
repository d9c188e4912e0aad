"""`orchestrator models`: what is configured and what of it can be called."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from adapters import ModelConfig
from orchestrator.cli import naming, options
from orchestrator.cli.explain import Listing, print_page
from orchestrator.cli.keys import Key, key_of
from orchestrator.config import OrchestratorConfig, find_config, load_config

EPILOG = """\b
Examples:
  orchestrator models
  orchestrator models --config team.yaml
  orchestrator models --json | jq '.models[] | select(.key_present | not) | .name'
"""


@click.command(epilog=EPILOG)
@options.json_option
@options.config_option
def command(as_json: bool, config_path: Path | None) -> None:
    """List the configured models, routes and panels.

    For every deployment: provider and model, which variable its key comes from and whether it is
    set (✓ or ✗), its weight in choosing a synthesizer, and its price. Any name in the first column
    can be given to `ask -m`.
    """
    path = find_config(config_path)
    config = load_config(path)
    if as_json:
        click.echo(json.dumps(as_object(config, path), indent=2))
        return
    print_page(Listing(_models_table(config)))
    if config.routes or config.panels:
        print_page("", Listing(_groups_table(config), elastic=frozenset(["who"])))
    click.echo(f"configured in {path}", err=True)


def as_object(config: OrchestratorConfig, path: Path) -> dict[str, Any]:
    """The listing for a program."""
    return {
        "file": str(path),
        "models": [_model_object(name, model) for name, model in config.models.items()],
        "routes": [
            {"name": name, **route.model_dump(mode="json")} for name, route in config.routes.items()
        ],
        "panels": [
            {"name": name, **panel.model_dump(mode="json")} for name, panel in config.panels.items()
        ],
    }


def price_line(model: ModelConfig) -> str:
    """What a million tokens cost, in words."""
    if model.price is None:
        return "list price"
    if model.price == "free":
        return "free"
    return f"${model.price.input_usd} in, ${model.price.output_usd} out per 1M tokens"


def _model_object(name: str, model: ModelConfig) -> dict[str, Any]:
    key = key_of(model, deployment=name)
    price = model.price if model.price is None or model.price == "free" else None
    return {
        "name": name,
        "provider": model.provider.value,
        "model": model.model,
        "api_base": model.api_base,
        "weight": model.weight,
        "key_source": key.source,
        "key_present": key.present,
        "price": model.price.model_dump(mode="json")
        if model.price is not None and model.price != "free"
        else price,
        "context_tokens": model.context_tokens,
        "max_tokens": model.max_tokens,
    }


def _models_table(config: OrchestratorConfig) -> Table:
    table = _table("model", "asks for", "key", "weight", "price")
    for name, model in config.models.items():
        key = key_of(model, deployment=name)
        table.add_row(
            Text(name, style="bold"),
            f"{model.provider.value}/{model.model}",
            key_text(key),
            f"{model.weight:g}",
            price_line(model),
        )
    return table


def key_text(key: Key) -> Text:
    """The variable, and whether it is set; green or red."""
    mark, style = ("✓", "green") if key.present else ("✗", "red")
    return Text(f"{mark} {key.source}", style=style)


def _groups_table(config: OrchestratorConfig) -> Table:
    table = _table("route or panel", "kind", "who", "pattern", "synthesizer")
    for name, route in config.routes.items():
        table.add_row(Text(name, style="bold"), "route", naming.route_line(route), "", "")
    for name, panel in config.panels.items():
        table.add_row(
            Text(name, style="bold"),
            "panel",
            ", ".join(panel.members),
            panel.pattern,
            panel.synthesizer or "by weight",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != "who")
    return table
