"""`orchestrator ask`: one question, one answer on stdout, everything else on stderr."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from orchestrator.cli import options, store
from orchestrator.cli.answers import FORMATS, AnswerStream, Format, print_answer
from orchestrator.cli.asking import Engine, follow, keep, print_status, warn_of_shortfalls
from orchestrator.cli.failures import FAILED, Failure, explain
from orchestrator.cli.live import Watcher, watcher
from orchestrator.cli.naming import library
from orchestrator.cli.notes import note
from orchestrator.cli.progress import SIMULATED, expectation, shortfalls
from orchestrator.cli.requesting import request_of, request_options
from orchestrator.cli.setting import Setting, choose, open_engine
from orchestrator.cli.text import program
from orchestrator.config import RequestConfig, config_hash
from orchestrator.errors import InvalidRun
from orchestrator.events import Event
from orchestrator.responses import OrchestratorResponse

EPILOG = """\b
Examples:
  orchestrator ask "Why is the sky blue?"
  orchestrator ask "Why is the sky blue?" -m gpt
  orchestrator ask "Rate this plan" --pattern debate --max-cost 0.10 < plan.md
  orchestrator ask "List three risks" -m gpt -m claude --synthesizer claude
  orchestrator ask "Is 221 prime?" --schema answer.json --json | jq .content
  orchestrator ask --resume 3f9a

\b
The answer goes to stdout, progress and warnings to stderr. On a terminal the answer streams as
it is written. `orchestrator plan` tells what the same words would cost.

\b
Exit code 0: there is an answer (a warning says if it is degraded, partial, cut or declined;
--strict makes that 1). 1: no answer. 2: usage or configuration. 3: it does not fit the budget.
130: interrupted; --resume goes on with it.
"""

# What goes with --resume: everything else was said when the run began.
_WITH_RESUME = frozenset(
    ("resume", "form", "as_json", "no_stream", "receipt_path", "strict", "quiet", "config_path")
)


@click.command(epilog=EPILOG)
@request_options
@click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    help="What the run is counted under by `orchestrator usage --by tag`. May be repeated.",
)
@click.option("--no-cache", is_flag=True, help="Neither take an answer from the cache nor keep it.")
@click.option("--refresh", is_flag=True, help="Ask anew, and keep that in the cache.")
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=store.complete_unfinished,
    help="Go on with a run that was interrupted: nothing it has paid for is paid for again.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="text: the answer alone (default). markdown: a document with question, answer and "
    "members. json: everything.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option(
    "--receipt",
    "receipt_path",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the receipt here too.",
)
@click.option(
    "--strict", is_flag=True, help="Exit with 1 for any answer that a warning comes with."
)
@options.quiet_option
@options.simulate_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Ask a panel (or one model) a question.

    The PROMPT is an argument, or comes from stdin. With both, stdin is the material that the
    prompt is about and is appended to it. Without -m or --panel the first panel of the
    configuration answers. If the packaged configuration is in use and none of its keys is set,
    the embedded simulator answers, and says so.
    """
    form = _form(given["form"], as_json=given["as_json"])
    if given["receipt_path"] is not None and not given["receipt_path"].parent.is_dir():
        raise click.UsageError(f"--receipt: there is no folder {given['receipt_path'].parent}")
    question = _resumed(ctx, given) if given["resume"] is not None else _asked(given)
    streams = form == "text" and not given["no_stream"] and sys.stdout.isatty()
    begun: list[str] = []
    try:
        response = asyncio.run(
            _run(question, streams=streams, quiet=given["quiet"], begun=begun.append)
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*map(_how_to_go_on, filter(store.is_kept, begun))) from None
    _report(response, form, given, simulated=question.setting.simulated, printed=streams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be done: a new run, or `resumes` an interrupted one of that id."""

    setting: Setting
    request: RequestConfig
    resumes: str = ""

    def put_to(self, engine: Engine) -> AsyncGenerator[Event, None]:
        if self.resumes:
            return engine.resume_request(self.resumes)
        return engine.stream_request(self.request)


def _asked(given: dict[str, Any]) -> Question:
    if given["no_cache"] and given["refresh"]:
        raise click.UsageError("give --no-cache or --refresh, not both")
    cache = "off" if given["no_cache"] else "refresh" if given["refresh"] else "use"
    request = request_of(given, cache=cache, tags=given["tags"])
    setting = choose(given["config_path"], simulate=given["simulate"])
    fitted = setting.fit(request)
    for line in (setting.note,) if setting.simulated else fitted.notes:
        note(line)
    return Question(setting=setting, request=fitted.request)


def _resumed(ctx: click.Context, given: dict[str, Any]) -> Question:
    """The run to go on with. It keeps what was asked, so nothing of that can be said again."""
    for param in ctx.command.params:
        was_said = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if was_said and param.name not in _WITH_RESUME:
            said = param.opts[0] if isinstance(param, click.Option) else "the prompt"
            raise click.UsageError(f"--resume goes on with what was asked; leave out {said}")
    kept = store.load(given["resume"])
    told = store.short(kept.run_id)
    if kept.record is None or kept.receipt is not None:
        raise InvalidRun(f"run {told} has ended; `{program()} show {told}` shows what it came to")
    opening = kept.record.opening
    was_simulated = SIMULATED in opening.request.notes
    setting = choose(given["config_path"], simulate=was_simulated)
    if setting.simulated and not was_simulated:
        raise InvalidRun(f"run {told} asked real models, and no key of one is set")
    if setting.simulated:
        note(setting.note)
    elif config_hash(setting.config, library(setting.config).digest) != opening.config_hash:
        note("the configuration has changed since; calls that it changes are paid for again")
    return Question(setting=setting, request=opening.request, resumes=kept.run_id)


async def _run(
    question: Question, *, streams: bool, quiet: bool, begun: Callable[[str], None]
) -> OrchestratorResponse:
    stream = AnswerStream() if streams else None
    watching = watcher(quiet=quiet)
    async with open_engine(question.setting) as engine:
        await _foretell(question, engine, watching)
        return await follow(question.put_to(engine), watching, stream=stream, begun=begun)


async def _foretell(question: Question, engine: Engine, watching: Watcher) -> None:
    """Say what is to be expected, where it can be seen. What stands against it, the run tells."""
    if question.resumes or question.setting.simulated or not watching.is_live:
        return
    with contextlib.suppress(Exception):
        watching.expect(expectation(await engine.quote(question.request)))


def _how_to_go_on(run_id: str) -> str:
    return f"`{program()} ask --resume {store.short(run_id)}` goes on with it"


def _report(
    response: OrchestratorResponse,
    form: Format,
    given: dict[str, Any],
    *,
    simulated: bool,
    printed: bool,
) -> None:
    # The receipt first: a reader that closes the pipe must not cost it.
    also = given["receipt_path"]
    written = also is None or keep(response.receipt, also)
    saved = store.is_kept(response.receipt.run_id)
    if not printed:
        _print(response, form, simulated=simulated, saved=saved)
    warn_of_shortfalls(response)
    if not given["quiet"]:
        print_status(response)
    if not written or (given["strict"] and shortfalls(response)):
        sys.exit(FAILED)


def _print(response: OrchestratorResponse, form: Format, *, simulated: bool, saved: bool) -> None:
    try:
        print_answer(response, form, simulated=simulated)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk; what was paid for is not lost with it
        told = store.short(response.receipt.run_id)
        where = f"; `orchestrator show {told}` has it" if saved else ""
        raise Failure(f"the answer cannot be written: {explain(error).message}{where}") from error


def _form(form: Format | None, *, as_json: bool) -> Format:
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} contradict each other")
    return "json" if as_json else form or "text"
