"""Options that several commands share, and how the shell completes the names they take."""

import contextlib
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from orchestrator.errors import OrchestratorError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(names: str) -> Completer:
    """Complete names out of the configuration; a broken one completes to nothing, silently.

    What reads it is loaded for that only.
    """

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from orchestrator.cli import naming
        from orchestrator.config import find_config, load_config

        with contextlib.suppress(OrchestratorError, OSError):
            config = load_config(find_config(ctx.params.get("config_path")))
            return [
                CompletionItem(name, help=line)
                for name, line in getattr(naming, names)(config).items()
                if name.startswith(incomplete) and ("/" in incomplete or "/" not in name)
            ]
        return []

    return complete


complete_patterns = _completer("pattern_names")
config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    is_eager=True,  # so that it is known when other options are completed
    help="The configuration. Default: $ORCHESTRATOR_CONFIG, else orchestrator.yaml or "
    "configs/orchestrator.yaml in this folder, else the one that comes with the package.",
)
simulate_option = click.option(
    "--simulate",
    is_flag=True,
    help="Ask the embedded simulator instead of the providers: no key, no network, no cost.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
pattern_option = click.option(
    "--pattern",
    metavar="NAME",
    shell_complete=complete_patterns,
    help="The analysis pattern, instead of the panel's own. `orchestrator patterns` lists them.",
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="No progress and no closing line; warnings stay."
)


def model_option(*, multiple: bool) -> Callable[[Decorated], Decorated]:
    """`-m NAME`, once or several times."""
    ad_hoc = " Several -m make a panel of their own." if multiple else ""
    return click.option(
        "-m",
        "--model",
        "models" if multiple else "model",
        metavar="NAME",
        multiple=multiple,
        shell_complete=_completer("askable_names"),
        help=f"Who answers: a deployment, a route, a panel, or pattern/panel.{ad_hoc}",
    )


panel_option = click.option(
    "--panel",
    metavar="NAME",
    shell_complete=_completer("panel_names"),
    help="The panel to ask. Default: the first one of the configuration.",
)
synthesizer_option = click.option(
    "--synthesizer",
    metavar="NAME",
    shell_complete=_completer("deployment_names"),
    help="The deployment that writes the final answer, instead of the panel's own.",
)


def usd_value(ctx: click.Context, param: click.Parameter, written: str | None) -> Decimal | None:
    """An amount of dollars, with or without the sign before it."""
    if written is None:
        return None
    try:
        dollars = Decimal(written.strip().removeprefix("$"))
    except InvalidOperation:
        dollars = Decimal(0)
    if not (dollars.is_finite() and dollars > 0):
        raise click.BadParameter(f"{written!r} is no amount of US dollars above 0, such as 0.05")
    return dollars


max_cost_option = click.option(
    "--max-cost",
    "max_cost_usd",
    metavar="USD",
    callback=usd_value,
    help="The most it may cost, in US dollars. No call is made that could exceed it.",
)
