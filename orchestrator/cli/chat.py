"""`orchestrator chat`: a conversation with a panel, turn by turn."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import click

from adapters import ProviderError
from orchestrator.cli import naming, options
from orchestrator.cli.answers import AnswerStream, print_answer
from orchestrator.cli.asking import Engine, follow, print_status, warn_of_shortfalls
from orchestrator.cli.conversation import SLASHED, Conversation, Names, Step, obey
from orchestrator.cli.failures import FAILED, explain
from orchestrator.cli.live import watcher
from orchestrator.cli.notes import note
from orchestrator.cli.prompting import ReadLine, open_lines
from orchestrator.cli.setting import Setting, choose, open_engine
from orchestrator.cli.text import neutralise
from orchestrator.errors import OrchestratorError, UnknownModel
from orchestrator.responses import OrchestratorResponse

EPILOG = """\b
Examples:
  orchestrator chat
  orchestrator chat -m gpt
  orchestrator chat --panel council --pattern debate --max-cost 0.10
  printf 'Hello\\nAnd in French?\\n' | orchestrator chat -m gpt

\b
In a conversation /help lists the commands. Ctrl-C during an answer cancels it; at the prompt
Ctrl-C or Ctrl-D leaves. A line that ends in a backslash goes on in the next one.
"""


@click.command(epilog=EPILOG)
@options.model_option(multiple=False)
@options.panel_option
@options.pattern_option
@click.option(
    "-s", "--system", metavar="TEXT", help="Instructions that every model is given first."
)
@options.max_cost_option
@options.quiet_option
@options.simulate_option
@options.config_option
def command(
    model: str | None,
    panel: str | None,
    pattern: str | None,
    system: str | None,
    max_cost_usd: Decimal | None,
    quiet: bool,
    simulate: bool,
    config_path: Path | None,
) -> None:
    """Talk with a panel (or one model) turn by turn.

    Every turn is a run of its own, with a receipt and a budget; the conversation so far goes with
    it. Slash commands change the model or the pattern on the way. Answers go to stdout; where
    stdin is no terminal, every line of it is a turn.
    """
    if model and panel:
        raise click.UsageError("give -m or --panel, not both")
    setting = choose(config_path, simulate=simulate)
    names = Names(
        config=setting.config,
        models=naming.model_names(setting.config),
        patterns=naming.pattern_names(setting.config),
    )
    conversation = Conversation(
        model=model or panel, pattern=pattern, system=system, max_cost_usd=max_cost_usd
    )
    if objection := names.objection(conversation):
        raise UnknownModel(objection)
    if setting.note:
        note(setting.note)
    if sys.stdin.isatty():
        click.echo("/help lists the commands, Ctrl-D leaves.", err=True)
    words = [*SLASHED, *names.models, *names.patterns]
    with open_lines(words) as read_line, _running_engine(setting) as (runner, engine):
        chat = Chat(runner, engine, setting, names, quiet=quiet)
        failed = chat.talk(conversation, read_line)
    if failed and not sys.stdin.isatty():
        sys.exit(FAILED)


@contextlib.contextmanager
def _running_engine(setting: Setting) -> Iterator[tuple[asyncio.Runner, Engine]]:
    """An engine on a loop that lives as long as the conversation and runs during turns only."""
    with asyncio.Runner() as runner:
        opening = open_engine(setting)
        engine = runner.run(opening.__aenter__())
        try:
            yield runner, engine
        finally:
            runner.run(opening.__aexit__(None, None, None))


class Chat:
    """Reads a line, obeys or asks, prints, until the user leaves."""

    def __init__(
        self,
        runner: asyncio.Runner,
        engine: Engine,
        setting: Setting,
        names: Names,
        *,
        quiet: bool,
    ) -> None:
        self._runner = runner
        self._engine = engine
        self._setting = setting
        self._names = names
        self._quiet = quiet

    def talk(self, conversation: Conversation, read_line: ReadLine) -> int:
        """Talk until the user leaves; returns how many lines failed."""
        failed = 0
        with contextlib.suppress(KeyboardInterrupt):  # during a turn it means something else
            while (line := _next_line(read_line)) is not None:
                if line.startswith("/"):
                    step = obey(line, conversation, self._names)
                    conversation = step.conversation
                    failed += not _carry_out(step)
                    if step.leave:
                        break
                elif line:
                    answered = self._turn(conversation, line)
                    failed += answered is None
                    conversation = answered or conversation
        if sys.stdin.isatty():
            click.echo(err=True)
        return failed

    def _turn(self, conversation: Conversation, prompt: str) -> Conversation | None:
        """The conversation after one more turn; None if there is no answer."""
        try:
            response = self._runner.run(self._answer(conversation, prompt))
        except KeyboardInterrupt:
            click.echo("\nCancelled; the turn is forgotten.", err=True)
            return None
        except (OrchestratorError, ProviderError, OSError) as error:
            click.echo(f"Error: {explain(error).message}", err=True)
            return None
        warn_of_shortfalls(response)
        if not self._quiet:
            print_status(response)
        return conversation.after(prompt, response.content)

    async def _answer(self, conversation: Conversation, prompt: str) -> OrchestratorResponse:
        stream = AnswerStream() if sys.stdout.isatty() else None
        fitted = self._setting.fit(conversation.request(prompt))
        events = self._engine.stream_request(fitted.request)
        response = await follow(events, watcher(quiet=self._quiet), stream=stream)
        if stream is None:
            print_answer(response, "text", simulated=self._setting.simulated)
        return response


def _next_line(read_line: ReadLine) -> str | None:
    """What the user says next; None when the user leaves."""
    try:
        return read_line().strip()
    except EOFError:
        return None


def _carry_out(step: Step) -> bool:
    """Say or write what a slash command came to; whether it worked."""
    if step.said:
        click.echo(neutralise(step.said, terminal=True), err=True)
    if step.save_as is None:
        return not step.failed
    path = Path(step.save_as).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(neutralise(step.conversation.as_markdown(), terminal=False))
    except OSError as error:
        click.echo(f"Error: {explain(error).message}", err=True)
        return False
    click.echo(f"saved as {path}", err=True)
    return True
