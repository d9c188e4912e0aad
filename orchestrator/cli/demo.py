"""`orchestrator demo`: the main job, whole, on this machine alone."""

import asyncio
import json

import click
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from orchestrator.cli import options
from orchestrator.cli.answers import as_object, first_drafts
from orchestrator.cli.asking import follow, warn_of_shortfalls
from orchestrator.cli.explain import AttemptsTable, print_page, safe
from orchestrator.cli.fitting import Fitted
from orchestrator.cli.live import watcher
from orchestrator.cli.progress import closing_line, cost
from orchestrator.cli.setting import Setting, open_engine, packaged
from orchestrator.cli.store import is_kept
from orchestrator.cli.text import program
from orchestrator.config import RequestConfig, load_config
from orchestrator.responses import OrchestratorResponse

QUESTION = "Should a team of three run its own Kubernetes cluster?"
PANEL = "council"
SEED = 7

EPILOG = """\b
Examples:
  orchestrator demo
  orchestrator demo "What makes a good unit test?" --pattern debate
  orchestrator demo --json | jq .members
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", default=QUESTION)
@options.pattern_option
@options.json_option
@options.quiet_option
def command(prompt: str, pattern: str | None, as_json: bool, quiet: bool) -> None:
    """Watch a panel of five providers answer, with no key and no network.

    Starts the simulator on this machine and asks it one question through everything that a real
    run goes through: six adapters, litellm, five wire formats, the engine, an analysis pattern
    and the synthesis. Only the models are missing, so the words mean nothing; the rest is real.
    """
    path = packaged()
    setting = Setting(config=load_config(path), path=path, simulated=True)
    request = RequestConfig(prompt=prompt, model=PANEL, pattern=pattern, seed=SEED)
    fitted = setting.fit(request)
    response = asyncio.run(_run(setting, fitted, quiet=quiet))
    if as_json:
        click.echo(json.dumps(as_object(response, simulated=True), indent=2))
    else:
        print_page(screen(response))
    warn_of_shortfalls(response)


async def _run(setting: Setting, fitted: Fitted, *, quiet: bool) -> OrchestratorResponse:
    async with open_engine(setting) as engine:
        return await follow(engine.stream_request(fitted.request), watcher(quiet=quiet))


def screen(response: OrchestratorResponse) -> RenderableType:
    """What the demo leaves on the screen."""
    receipt = response.receipt
    this = program()
    then = [
        ("call by call", f"{this} show" if is_kept(receipt.run_id) else ""),
        ("what it would cost", f'{this} plan "..."'),
        ("your question", f'{this} ask "..." --simulate'),
        ("real models", f'OPENAI_API_KEY=... {this} ask "..." -m gpt'),
    ]
    width = max(len(said) for said, _ in then)
    return Group(
        "",
        safe(receipt.prompt),
        "",
        AttemptsTable(first_drafts(receipt), receipt.elapsed_s),
        "",
        Rule(f"one answer, by the pattern {receipt.pattern}", align="left", style="dim"),
        Padding(safe(response.content.strip()), (1, 2)),
        Rule(style="dim"),
        Text(closing_line(response), style="bold"),
        Text(
            "The models were simulated, so the words mean nothing; adapters, protocols and "
            f"pattern are the real ones. Of real models it would have cost {cost(receipt)}.",
            style="dim",
        ),
        "",
        *(Text(f"{said:<{width}}  {what}") for said, what in then if what),
    )
