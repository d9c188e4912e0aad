"""`orchestrator simulate`: the simulator as a server, for rehearsing a configuration."""

import asyncio
import errno
from pathlib import Path

import click
from pydantic import SecretStr, ValidationError

from adapters import LLMProvider
from orchestrator.cli.failures import Misuse, refuse
from orchestrator.simulator import FAULTS, LatencyConfig, Simulator, SimulatorConfig
from orchestrator.simulator.directives import UnknownDirective, parse_directives

EPILOG = """\b
Examples:
  orchestrator simulate --port 8090
  orchestrator simulate --latency 0.4 --fault gpt-5-mini=cutmid --log requests.jsonl
  orchestrator simulate --fault '*=flap3' --seed 7
  orchestrator simulate --list-faults

\b
A model name may carry faults of its own: gpt-5-mini--cutmid--200ms answers after 200 ms and
breaks off in the middle. --host with an address that others can reach needs --key.
"""


@click.command(epilog=EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed, the same answers."
)
@click.option(
    "--latency",
    "latency_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Median time before an answer begins.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="MODEL=FAULT",
    help="Misbehave for a model, or for every one: '*=e500'. May be repeated.",
)
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Append one JSON line for every request.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Accept this key and no other. May be repeated. Default: every key is accepted.",
)
@click.option("--list-faults", is_flag=True, help="List what --fault takes, and exit.")
def command(
    host: str,
    port: int,
    seed: int,
    latency_s: float,
    faults: tuple[str, ...],
    log_path: Path | None,
    keys: tuple[str, ...],
    list_faults: bool,
) -> None:
    """Serve five providers' APIs on this machine, faults included.

    Speaks the chat protocols of OpenAI, Anthropic, Google, Cohere and Mistral, and that of any
    OpenAI-compatible server, plain and streamed. Answers are seeded and made up. Point `api_base`
    of a deployment to an address below, or use `ask --simulate`, which does so by itself.
    """
    if list_faults:
        _print_faults()
        return
    try:
        config = SimulatorConfig(
            host=host,
            port=port,
            seed=seed,
            latency={"*": LatencyConfig(median_s=latency_s)} if latency_s else {},
            faults=_by_model(faults),
            log_path=log_path,
            keys=tuple(SecretStr(key) for key in keys) or None,
        )
    except ValidationError as error:
        refuse(error)
    try:
        asyncio.run(_serve(config))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise Misuse(
            f"port {port} of {host} is in use; give another --port (0 takes a free one)"
        ) from error


async def _serve(config: SimulatorConfig) -> None:
    async with Simulator(config) as simulator:
        for provider in LLMProvider:
            click.echo(f"{provider.value:<10} {simulator.base_url(provider)}")
        click.echo("These are values for api_base. Ctrl-C stops.", err=True)
        await asyncio.Event().wait()


def _by_model(faults: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for fault in faults:
        model, equals, directive = fault.partition("=")
        if not (model and equals and directive):
            raise click.BadParameter(
                f"{fault!r} is not MODEL=FAULT, as in gpt-5-mini=cutmid", param_hint="--fault"
            )
        try:
            parse_directives((directive,))
        except UnknownDirective as error:
            raise click.BadParameter(
                f"{error}; --list-faults lists them", param_hint="--fault"
            ) from error
        found[model] = (*found.get(model, ()), directive)
    return found


def _print_faults() -> None:
    width = max(len(name) for name in FAULTS)
    for name, fault in FAULTS.items():
        size = f" ({name}8: 8 {fault.sized})" if fault.sized else ""
        click.echo(f"{name:<{width}}  {fault.description}{size}")
    click.echo(
        "\nAlso: 200ms (latency), gap50ms (between pieces), cutat100 (cut after 100 bytes), "
        "flap3 (every third request), first2 (the first two); of batches: batchfails, "
        "batchexpires, batchstays, polls7 (looks until it is over)",
    )
