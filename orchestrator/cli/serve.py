"""`orchestrator serve`: the gateway."""

import importlib.util
import sys
from pathlib import Path

import click

from orchestrator.cli import options
from orchestrator.cli.failures import FAILED, Misuse
from orchestrator.cli.notes import warn
from orchestrator.cli.text import count
from orchestrator.config import find_config

EPILOG = """\b
Examples:
  orchestrator serve
  orchestrator serve --port 0 --config team.yaml
  orchestrator serve --host 0.0.0.0 --workers 2

\b
The configuration and its patterns are read again when they change, and for SIGHUP. Requests
under way end as they began; on a mistake the last good configuration stays, and the log says
where it is.

\b
SIGTERM and Ctrl-C let requests under way end, for `server.drain_s` at most; twice ends at once.
Exit code 0: ended so. 1: a worker could not start. 2: cannot be served as asked for.
"""
UNCAPPED = (
    "nothing limits what calls cost in a day; a window of `budgets.windows` with money_usd does, "
    "or keys made with --usd-per-day"
)
NEEDED = ("fastapi", "prometheus_client", "uvicorn", "watchfiles")


@click.command(epilog=EPILOG)
@options.config_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--workers",
    "processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="In how many processes.",
)
@click.option(
    "--keys",
    "keys_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The gateway's keys. Default: keys.json among the orchestrator's own files.",
)
def command(
    config_path: Path | None, host: str, port: int, processes: int, keys_path: Path | None
) -> None:
    """Serve the configured models to programs that know OpenAI's API.

    Point a client to http://HOST:PORT/v1. On this machine everybody is let in until a first key
    is made (`orchestrator keys create NAME`); to be reached from others takes a key.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Misuse(
            f"{', '.join(missing)} is not installed; "
            "`pip install 'llm-orchestrator-gateway[server,fast]'` installs what serving needs"
        )
    from orchestrator.server import run, workers
    from orchestrator.server.keys import KeyFile, KeysError

    path = find_config(config_path)
    try:
        planned = run.plan(path, host=host, keys=keys_path, workers=processes)
        listening = run.listen(planned.host, port)
        known = KeyFile(planned.keys).list()
    except (run.CannotServe, KeysError) as error:
        raise Misuse(str(error)) from error
    usable = sum(key.revoked is None for key in known)
    who = f"{count(usable, 'key')} in {planned.keys}" if known else "no key is asked for"

    def say() -> None:
        shown = f"[{planned.host}]" if ":" in planned.host else planned.host
        address = f"http://{shown}:{listening.getsockname()[1]}/v1"
        told = [f"Serving {address}", who, f"configuration {path}"]
        if processes > 1:
            told.append(count(processes, "worker"))
        click.echo(" · ".join(told), err=True)

    if not planned.is_capped:
        warn(UNCAPPED)
    with listening:
        if processes == 1:
            run.serve(planned, listening, started=say)
        elif not workers.supervise(planned, listening, started=say):
            sys.exit(FAILED)
