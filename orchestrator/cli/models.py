"""`orchestrator models`: what is configured and what of it can be called."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from adapters import ModelConfig
from adapters.config import RatesConfig
from adapters.prices import Price, Schedule, price_of
from adapters.types import EmbeddingRequest
from orchestrator.cli import naming, options
from orchestrator.cli.breakers import LeftAlone, left_alone
from orchestrator.cli.explain import Listing, print_page
from orchestrator.cli.keys import Key, key_of
from orchestrator.cli.text import one_line, seconds
from orchestrator.clock import SystemClock
from orchestrator.config import OrchestratorConfig, find_config, load_config, public_address

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
    set (✓ or ✗), its weight in choosing a synthesizer, its price for a million tokens and its
    rates. Any name in the first column can be given to `ask -m`. A deployment that a running
    command leaves alone because it failed too often is told of, with the reason and the time of
    the next try.
    """
    path = find_config(config_path)
    config = load_config(path)
    breakers = left_alone(path)
    if as_json:
        click.echo(json.dumps(as_object(config, path, breakers), indent=2))
        return
    print_page(Listing(_models_table(config)))
    if config.routes or config.panels:
        print_page("", Listing(_groups_table(config), elastic=frozenset(["who"])))
    if breakers:
        print_page("", Listing(_breakers_table(breakers), elastic=frozenset(["why"])))
    click.echo(f"configured in {path}", err=True)


def as_object(
    config: OrchestratorConfig, path: Path, breakers: Sequence[LeftAlone]
) -> dict[str, Any]:
    """The listing for a program."""
    return {
        "file": str(path),
        "models": [
            {**_model_object(name, model), "breakers": _breaker_objects(name, breakers)}
            for name, model in config.models.items()
        ],
        "routes": [
            {"name": name, **route.model_dump(mode="json")} for name, route in config.routes.items()
        ],
        "panels": [
            {"name": name, **panel.model_dump(mode="json")} for name, panel in config.panels.items()
        ],
    }


def price_line(model: ModelConfig) -> str:
    """What a million tokens cost, in few words; of a model with tiers, the first."""
    if model.price == "free":
        return "free"
    rates = _rates(model)
    if rates is None:
        return "unknown"
    more = "" if len(rates) == 1 else ", more if long"
    return f"${_dollars(rates[0].input)} in, ${_dollars(rates[0].output)} out{more}"


def known_price(model: ModelConfig) -> Price | None:
    """Of its completions, or, where it makes none, of its embeddings."""
    return price_of(model) or price_of(model, request=EmbeddingRequest(inputs=()))


def _rates(model: ModelConfig) -> Schedule | None:
    price = known_price(model)
    return None if price is None else price.schedules[0]


def _dollars(pico: int) -> str:
    """Dollars for a million tokens, of pico-dollars for one: `0.25`, `15`."""
    return f"{Decimal(pico).scaleb(-6).normalize():f}"


def rates_line(rates: RatesConfig) -> str:
    """How fast a deployment may be called: `500/min, 200,000 tokens/min, 50 at once`."""
    parts = (
        (rates.requests_per_minute, "{:,}/min"),
        (rates.tokens_per_minute, "{:,} tokens/min"),
        (rates.concurrency, "{:,} at once"),
    )
    return ", ".join(form.format(number) for number, form in parts if number is not None)


def _price_object(model: ModelConfig) -> dict[str, str] | str | None:
    """US dollars for a million tokens, as text: JSON has no decimals."""
    if model.price == "free":
        return "free"
    rates = _rates(model)
    if rates is None:
        return None
    return {
        "input_usd": _dollars(rates[0].input),
        "output_usd": _dollars(rates[0].output),
        "cached_input_usd": _dollars(rates[0].cached),
        "source": "list" if model.price is None else "configuration",
    }


def _breaker_objects(name: str, breakers: Sequence[LeftAlone]) -> list[dict[str, Any]]:
    return [
        {
            "pid": one.pid,
            "state": one.state,
            "why": one.why,
            "since": one.since.isoformat(),
            "probe_at": one.probe_at.isoformat() if one.probe_at else None,
        }
        for one in breakers
        if one.deployment == name
    ]


def _model_object(name: str, model: ModelConfig) -> dict[str, Any]:
    key = key_of(model, deployment=name)
    return {
        "name": name,
        "provider": model.provider.value,
        "model": model.model,
        "api_base": public_address(model.api_base),
        "weight": model.weight,
        "key_source": key.source,
        "key_present": key.present,
        "price": _price_object(model),
        "rates": model.rates.model_dump(mode="json"),
        "context_tokens": model.context_tokens,
        "max_tokens": model.max_tokens,
    }


def _models_table(config: OrchestratorConfig) -> Table:
    has_rates = any(rates_line(model.rates) for model in config.models.values())
    more = ("rates",) if has_rates else ()
    table = _table("model", "asks for", "key", "weight", "price of 1M tokens", *more)
    for name, model in config.models.items():
        key = key_of(model, deployment=name)
        table.add_row(
            Text(name, style="bold"),
            f"{model.provider.value}/{model.model}",
            key_text(key),
            f"{model.weight:g}",
            price_line(model),
            *([rates_line(model.rates)] if has_rates else []),
        )
    return table


def _breakers_table(breakers: Sequence[LeftAlone]) -> Table:
    now = SystemClock().now()
    table = _table("left alone", "state", "why", "next probe", "by process")
    for one in breakers:
        wait_s = one.probe_in_s(now)
        table.add_row(
            Text(one_line(one.deployment, 64), style="bold"),
            one.state.replace("_", " "),
            one_line(one.why, 120),
            f"in {seconds(wait_s)}" if wait_s else "with the next call",
            str(one.pid),
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
        table.add_column(name, overflow="fold", no_wrap=name not in {"who", "why"})
    return table
