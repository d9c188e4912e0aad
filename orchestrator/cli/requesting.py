"""A run as the words of a command line ask for it: the prompt, who answers, within which limits."""

import contextlib
import json
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from orchestrator.cli import options
from orchestrator.cli.failures import refuse
from orchestrator.cli.notes import note
from orchestrator.config import RequestConfig

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

NOTE_AFTER_S = 2.0  # of a stdin that is open and silent


# What a run can be asked with, in the order in which help shows it.
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("prompt", required=False),
    options.model_option(multiple=True),
    options.panel_option,
    options.pattern_option,
    options.synthesizer_option,
    click.option(
        "-s", "--system", metavar="TEXT", help="Instructions that every model is given first."
    ),
    click.option(
        "-f",
        "--file",
        "files",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        multiple=True,
        metavar="FILE",
        help="Append a UTF-8 text file to the prompt. May be repeated.",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(min=1), help="Length limit of every answer, tokens."
    ),
    options.max_cost_option,
    click.option(
        "--max-time",
        "--time",
        "time_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="The run's deadline; the best answer so far is given then. Default: timeouts.run_s.",
    ),
    click.option(
        "--max-calls", type=click.IntRange(min=1), help="The most calls, retries included."
    ),
    click.option("--temperature", type=click.FloatRange(0, 2), help="Randomness, 0 to 2."),
    click.option(
        "--seed", type=int, help="Seed of the run's shuffles, and of models that take one."
    ),
    click.option(
        "--schema",
        "schema_path",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Ask for JSON that follows this JSON Schema.",
    ),
)


def request_options(command: Decorated) -> Decorated:
    """The argument and the options that say what is asked, of whom, within which limits."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_of(given: Mapping[str, Any], **more: Any) -> RequestConfig:
    """The run that is asked for, once stdin has been read.

    Args:
        given: What click made of the options above.
        more: Other fields of the request.
    """
    models: tuple[str, ...] = given["models"]
    panel: str | None = given["panel"]
    if len(models) == 1 and panel:
        raise click.UsageError("give -m or --panel; several -m replace the members of --panel")
    for said in (given["prompt"], given["system"], *more.get("tags", ())):
        _need_utf8(said or "")
    try:
        return RequestConfig(
            prompt=_prompt(given["prompt"], given["files"]),
            system=given["system"],
            model=models[0] if len(models) == 1 else panel,
            members=models if len(models) > 1 else None,
            pattern=given["pattern"],
            synthesizer=given["synthesizer"],
            response_format=response_format_of(given["schema_path"]),
            max_tokens=given["max_tokens"],
            temperature=given["temperature"],
            seed=given["seed"],
            time_s=given["time_s"],
            max_cost_usd=given["max_cost_usd"],
            max_calls=given["max_calls"],
            **more,
        )
    except ValidationError as error:
        refuse(error)


def _need_utf8(said: str) -> None:
    """Refuse what no JSON carries: Python keeps foreign bytes of a command line as half letters."""
    try:
        said.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(
            f"the command line is not UTF-8 text (character {error.start} of {said[:20]!a})"
        ) from error


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


def response_format_of(path: Path | None) -> dict[str, object] | None:
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
