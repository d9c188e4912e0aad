"""`orchestrator ask`: one question, one answer on stdout, everything else on stderr."""

import asyncio
import contextlib
import json
import select
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from orchestrator.cli import options
from orchestrator.cli.answers import FORMATS, AnswerStream, Format, print_answer
from orchestrator.cli.asking import follow, keep, print_status, warn_of_shortfalls
from orchestrator.cli.failures import FAILED, Failure, explain, refuse
from orchestrator.cli.fitting import Fitted
from orchestrator.cli.live import watcher
from orchestrator.cli.notes import note
from orchestrator.cli.progress import shortfalls
from orchestrator.cli.setting import Setting, choose, open_engine
from orchestrator.cli.store import short
from orchestrator.config import RequestConfig
from orchestrator.responses import OrchestratorResponse

NOTE_AFTER_S = 2.0  # of a stdin that is open and silent

EPILOG = """\b
Examples:
  orchestrator ask "Why is the sky blue?"
  orchestrator ask "Why is the sky blue?" -m gpt
  orchestrator ask "Rate this plan" --pattern debate < plan.md
  orchestrator ask "List three risks" -m gpt -m claude --synthesizer claude
  orchestrator ask "Is 221 prime?" --schema answer.json --json | jq .content

\b
The answer goes to stdout, progress and warnings to stderr. On a terminal the answer streams as
it is written. Exit code 0: there is an answer (a warning says if it is degraded, partial, cut or
declined; --strict makes that 1). 1: no answer. 2: usage or configuration. 130: interrupted.
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", required=False)
@options.model_option(multiple=True)
@options.panel_option
@options.pattern_option
@options.synthesizer_option
@click.option(
    "-s", "--system", metavar="TEXT", help="Instructions that every model is given first."
)
@click.option(
    "-f",
    "--file",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Append a UTF-8 text file to the prompt. May be repeated.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Length limit of every answer, tokens."
)
@click.option("--temperature", type=click.FloatRange(0, 2), help="Randomness, 0 to 2.")
@click.option("--seed", type=int, help="Seed of the run's shuffles, and of models that take one.")
@click.option(
    "--time",
    "time_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="The run's deadline; the best answer so far is given then. Default: timeouts.run_s.",
)
@click.option(
    "--schema",
    "schema_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Ask for JSON that follows this JSON Schema.",
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
def command(**given: Any) -> None:
    """Ask a panel (or one model) a question.

    The PROMPT is an argument, or comes from stdin. With both, stdin is the material that the
    prompt is about and is appended to it. Without -m or --panel the first panel of the
    configuration answers. If the packaged configuration is in use and none of its keys is set,
    the embedded simulator answers, and says so.
    """
    form = _form(given["form"], as_json=given["as_json"])
    if given["receipt_path"] is not None and not given["receipt_path"].parent.is_dir():
        raise click.UsageError(f"--receipt: there is no folder {given['receipt_path'].parent}")
    request = _request(given)
    setting = choose(given["config_path"], simulate=given["simulate"])
    fitted = setting.fit(request)
    for line in (setting.note,) if setting.simulated else fitted.notes:
        note(line)
    streams = form == "text" and not given["no_stream"] and sys.stdout.isatty()
    response = asyncio.run(_run(setting, fitted, streams=streams, quiet=given["quiet"]))
    _report(response, form, given, simulated=setting.simulated, printed=streams)


async def _run(
    setting: Setting, fitted: Fitted, *, streams: bool, quiet: bool
) -> OrchestratorResponse:
    stream = AnswerStream() if streams else None
    async with open_engine(setting, quiet=quiet) as engine:
        return await follow(
            engine, fitted.request, watcher(quiet=quiet), stream=stream, notes=fitted.notes
        )


def _report(
    response: OrchestratorResponse,
    form: Format,
    given: dict[str, Any],
    *,
    simulated: bool,
    printed: bool,
) -> None:
    # The receipt first: a reader that closes the pipe must not cost it.
    saved = keep(response, given["receipt_path"])
    if not printed:
        _print(response, form, simulated=simulated, saved=saved)
    warn_of_shortfalls(response)
    if not given["quiet"]:
        print_status(response, saved=saved)
    unsaved = given["receipt_path"] is not None and not saved
    if unsaved or (given["strict"] and shortfalls(response)):
        sys.exit(FAILED)


def _print(response: OrchestratorResponse, form: Format, *, simulated: bool, saved: bool) -> None:
    try:
        print_answer(response, form, simulated=simulated)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk; what was paid for is not lost with it
        where = f"; `orchestrator show {short(response.receipt.run_id)}` has it" if saved else ""
        raise Failure(f"the answer cannot be written: {explain(error).message}{where}") from error


def _form(form: Format | None, *, as_json: bool) -> Format:
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} contradict each other")
    return "json" if as_json else form or "text"


def _request(given: dict[str, Any]) -> RequestConfig:
    models: tuple[str, ...] = given["models"]
    panel: str | None = given["panel"]
    if len(models) == 1 and panel:
        raise click.UsageError("give -m or --panel; several -m replace the members of --panel")
    try:
        return RequestConfig(
            prompt=_prompt(given["prompt"], given["files"]),
            system=given["system"],
            model=models[0] if len(models) == 1 else panel,
            members=models if len(models) > 1 else None,
            pattern=given["pattern"],
            synthesizer=given["synthesizer"],
            response_format=_response_format(given["schema_path"]),
            max_tokens=given["max_tokens"],
            temperature=given["temperature"],
            seed=given["seed"],
            time_s=given["time_s"],
        )
    except ValidationError as error:
        refuse(error)


def _prompt(argument: str | None, files: tuple[Path, ...]) -> str:
    """The prompt: the argument, then every file, then stdin if something is piped in."""
    parts = [argument] if argument and argument.strip() not in ("", "-") else []
    parts += [f"{path.name}:\n\n{_decode(path.read_bytes(), str(path))}" for path in files]
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    parts += [piped] if piped.strip() else []
    if not parts:
        raise click.UsageError('no prompt; try: orchestrator ask "Why is the sky blue?"')
    return "\n\n".join(parts)


def _read_stdin() -> str:
    with contextlib.suppress(OSError, ValueError):  # stdin may be no file, or not a waiting one
        if not select.select([sys.stdin], [], [], NOTE_AFTER_S)[0]:
            note("reading stdin until it ends; < /dev/null leaves it out.")
    return _decode(sys.stdin.buffer.read(), "stdin")


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 text (byte {error.start})") from error


def _response_format(path: Path | None) -> dict[str, object] | None:
    """OpenAI's `response_format` for a file that holds a JSON Schema, or is one already."""
    if path is None:
        return None
    try:
        schema = json.loads(path.read_bytes())
    except ValueError as error:
        raise click.BadParameter(f"{path} is not JSON: {error}", param_hint="--schema") from error
    if not isinstance(schema, dict):
        raise click.BadParameter(f"{path} holds no JSON object", param_hint="--schema")
    if schema.get("type") in ("json_schema", "json_object"):
        return schema
    title = str(schema.get("title") or path.stem)
    name = "".join(letter if letter.isalnum() else "_" for letter in title)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
