"""The `orchestrator` command: which commands there are, and how a failure becomes an exit code."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from typing import IO, Any

import click

from orchestrator.cli.last_resort import redact_last_resort
from orchestrator.cli.text import did_you_mean

# One row a command: `module_of` says where it is, its click command is `command` there.
# The line is repeated here so that `orchestrator --help` imports none of them.
COMMANDS: Mapping[str, str] = {
    "demo": "Watch a panel of five providers answer, with no key and no network.",
    "ask": "Ask a panel (or one model) a question.",
    "chat": "Talk with a panel (or one model) turn by turn.",
    "batch": "Ask the same of every row of a file, and lose nothing.",
    "plan": "Tell what a question would cost, and ask nobody.",
    "show": "Explain a past run from its receipt.",
    "usage": "Tell what was spent, and what is left of the budgets.",
    "models": "List the configured models, routes and panels.",
    "patterns": "List the analysis patterns, or show one whole.",
    "cache": "Look into the cache of answers, or empty it.",
    "keys": "Make, list and revoke the keys that the gateway lets in.",
    "check": "Check a configuration file.",
    "schema": "Print the JSON Schema of the configuration file.",
    "import": "Turn a litellm proxy's configuration, or an older one, into ours.",
    "serve": "Serve the configured models to programs that know OpenAI's API.",
    "simulate": "Serve five providers' APIs on this machine, faults included.",
}

# Others are called like their commands; `import` is a word of Python's own.
_MODULES: Mapping[str, str] = {"import": "import_", "keys": "gateway_keys"}

PACKAGE = "llm-orchestrator-gateway"  # the distribution, as pip knows it
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

EPILOG = """\b
Examples:
  orchestrator demo
  orchestrator ask "What makes a good unit test?"
  git diff | orchestrator ask "Review this change" --panel council
  orchestrator plan "What makes a good unit test?" --max-cost 0.05
  orchestrator show

\b
Exit codes:
  0 ok · 1 some part failed · 2 usage or configuration · 3 budget · 130 interrupted

\b
Shell completion (bash; zsh and fish likewise):
  eval "$(orchestrator --completion bash)"
"""


def module_of(command: str) -> str:
    """Where a command is written down."""
    return f"orchestrator.cli.{_MODULES.get(command, command)}"


class CommandTable(click.Group):
    """A group whose commands are imported when they are called, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(module_of(cmd_name)).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {name!r}{did_you_mean(name, COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=line)
            for name, line in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, click.Abort) as interruption:
            how_to_go_on = str(interruption)
            click.echo(f"Interrupted; {how_to_go_on}" if how_to_go_on else "Interrupted.", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            from orchestrator.cli.failures import explain

            raise explain(error) from error


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    try:
        click.echo(f"orchestrator {importlib.metadata.version(PACKAGE)}")
    except importlib.metadata.PackageNotFoundError:
        click.echo("orchestrator, run from its source and not installed")
    ctx.exit()


def _print_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if not shell or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(main, {}, "orchestrator", "_ORCHESTRATOR_COMPLETE").source())
    ctx.exit()


@click.group(cls=CommandTable, context_settings=CONTEXT, epilog=EPILOG)
@click.option(
    "--debug",
    is_flag=True,
    envvar="ORCHESTRATOR_DEBUG",
    help="Show the Python traceback of an error. Also ORCHESTRATOR_DEBUG=1.",
)
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=_print_completion,
    help="Print the completion script of a shell, and exit.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, and exit.",
)
def main(debug: bool) -> None:
    """Ask several language models at once and get one answer.

    One question goes to a panel of models from several providers, through an analysis pattern,
    into one synthesised answer, with a receipt that explains how it came about.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        _never_fail_to_encode(getattr(sys, name))
    redact_last_resort()


def _never_fail_to_encode(stream: IO[str]) -> None:
    """An answer must not be lost because a terminal's encoding lacks one of its characters."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
