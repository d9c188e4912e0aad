"""`orchestrator batch`: the same of every row of a file, resumable at any moment."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from orchestrator.amounts import nanousd, usd
from orchestrator.batch.asking import Options, config_digest, question_of
from orchestrator.batch.files import OutputError
from orchestrator.batch.job import Order, Result, run_batch, source_identity
from orchestrator.batch.parts import PartsFolder
from orchestrator.batch.reading import open_rows
from orchestrator.batch.sources import InputError, Source, source_of
from orchestrator.batch.work import AnyRow, Tally
from orchestrator.batch.writing import write_outcomes
from orchestrator.blocking import LoopThread
from orchestrator.cli import naming, options
from orchestrator.cli.batch_plan import foretell
from orchestrator.cli.batch_progress import as_object, watcher
from orchestrator.cli.failures import BUDGET, FAILED, INTERRUPTED, Misuse, refuse
from orchestrator.cli.notes import note, warn
from orchestrator.cli.requesting import max_cost_option, response_format_of
from orchestrator.cli.setting import LATENCY_S, Setting, choose
from orchestrator.cli.text import count, program, seconds
from orchestrator.config import OrchestratorConfig, RequestConfig, with_state
from orchestrator.simulator import Simulator, simulated

EPILOG = """\b
Examples:
  orchestrator batch questions.jsonl -o answers.jsonl -m gpt
  orchestrator batch reviews.csv -o labels.csv --template "Sentiment of: {{ text }}" -m fast
  orchestrator batch rows.jsonl -o out.jsonl --panel council --max-cost 5 --dry-run
  orchestrator batch rows.jsonl -o out.jsonl --retry-failed

\b
INPUT is JSONL, CSV, TSV, text lines or Parquet, compressed or not, or - for stdin. A row is asked
by its `prompt`, its `messages` or its OpenAI `body`, or by --template over its columns. Answers
are kept in OUTPUT.parts as they come; the same command again goes on where it stopped, whatever
stopped it, and asks nothing twice.

\b
Exit code 0: every row has an answer. 1: some rows failed (--retry-failed asks them again).
2: usage or configuration. 3: a limit of money or time is reached. 130: interrupted.
"""
CODES: Mapping[str, int] = {"budget": BUDGET, "time": BUDGET, "interrupted": INTERRUPTED}


@click.command(epilog=EPILOG)
@click.argument("input", metavar="INPUT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where answers go once every row has one: .jsonl, .csv, .tsv or .parquet.",
)
@options.model_option(multiple=False)
@options.panel_option
@options.pattern_option
@click.option("-s", "--system", metavar="TEXT", help="Instructions before every row.")
@click.option("--template", metavar="TEXT", help="The prompt, over a row's columns: {{ name }}.")
@click.option(
    "--schema",
    "schema_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Ask for JSON that follows this JSON Schema; what does not is asked once more.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Length limit of every answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Randomness, 0 to 2.")
@click.option("--seed", type=int, help="Seed of runs, and of --sample.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="For `usage --by tag`.")
@click.option("--format", "form", metavar="NAME", help="What INPUT is, where no suffix says it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N rows only.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="N rows, drawn by --seed.")
@click.option("--shuffle", type=int, metavar="SEED", help="Ask in another order.")
@click.option(
    "--shape",
    type=click.Choice(["flat", "openai"]),
    default="flat",
    show_default=True,
    help="What a line of OUTPUT looks like; openai is that of its batches.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    help="How many rows are under way at a time.",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), help="In how many processes. Default: one a core."
)
@max_cost_option
@click.option(
    "--max-time",
    "max_time_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Ask nothing more after that; what is under way is still answered.",
)
@click.option("--retry-failed", is_flag=True, help="Ask the rows again that have failed.")
@click.option("--fresh", is_flag=True, help="Forget what was asked before, and begin anew.")
@click.option("--force", is_flag=True, help="Replace an OUTPUT that is of something else.")
@click.option(
    "--dry-run", is_flag=True, help="Show first rows and what all would cost; ask nobody."
)
@click.option("--unordered", is_flag=True, help="Write answers in the order in which they came.")
@click.option("--receipts", is_flag=True, help="Keep the receipt of every row with it.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="How it is told on stderr how far it has come.",
)
@options.json_option
@options.simulate_option
@options.config_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Ask the same of every row of a file, and lose nothing."""
    try:
        _batch(ctx, given)
    except (InputError, OutputError) as error:
        raise Misuse(str(error)) from error


def _batch(ctx: click.Context, given: dict[str, Any]) -> None:
    source = source_of(given["input"], given["form"])
    _check(source, given)
    setting = choose(given["config_path"], simulate=given["simulate"])
    asked = _options(given, setting)
    if setting.simulated:
        note(setting.note)
    with _config(setting) as config:
        order = _order(given, source, asked, setting, config)
        if given["dry_run"]:
            foretell(order, as_json=given["as_json"])
            return
        watching = watcher(given["progress"], order.max_cost_nanousd)
        try:
            result = run_batch(order, watching)
        finally:
            watching.close()
    _report(result, order, as_json=given["as_json"], elapsed_s=watching.elapsed_s)
    ctx.exit(_code(result))


def _check(source: Source, given: Mapping[str, Any]) -> None:
    """Refuse what cannot go well before anything is loaded."""
    output: Path = given["output"]
    if given["model"] and given["panel"]:
        raise click.UsageError("give -m or --panel, not both")
    if source.path is not None and not source.path.exists():
        raise click.UsageError(f"there is no file {source.path}")
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise click.UsageError("INPUT and --output are the same file; choose another output")
    if not output.parent.is_dir():
        raise click.UsageError(f"--output: there is no folder {output.parent}; create it")
    if output.exists() and not PartsFolder(output).path.is_dir() and not given["force"]:
        raise click.UsageError(
            f"{output} exists, and no batch has written it: there is no {output.name}.parts. "
            "Choose another output, or replace it with --force"
        )


def _options(given: Mapping[str, Any], setting: Setting) -> Options:
    """What is the same for all rows."""
    try:
        request = RequestConfig(
            system=given["system"],
            model=given["model"] or given["panel"],
            pattern=given["pattern"],
            response_format=response_format_of(given["schema_path"]),
            max_tokens=given["max_tokens"],
            temperature=given["temperature"],
            seed=given["seed"],
            tags=given["tags"],
        )
    except ValidationError as error:
        refuse(error)
    if request.model is not None:
        fitted = setting.fit(request)
        request = fitted.request
        for line in () if setting.simulated else fitted.notes:
            note(line)
    names = frozenset(naming.askable_names(setting.config))
    return Options(request=request, template=given["template"] or "", names=names)


def _order(
    given: Mapping[str, Any],
    source: Source,
    asked: Options,
    setting: Setting,
    config: OrchestratorConfig,
) -> Order:
    patterns = naming.library(setting.config)
    digest = config_digest(asked, setting.config, patterns)
    which = {name: given[name] for name in ("limit", "sample", "shuffle", "seed")}
    form = {name: given[name] for name in ("shape", "unordered", "receipts")}
    max_cost = given["max_cost_usd"]
    return Order(
        output=given["output"],
        rows=partial(_rows, source, given),
        source="" if source.path is None else source_identity(source.path),
        config=config,
        ask=partial(question_of, options=asked),
        config_digest=f"{digest}-simulated" if setting.simulated else digest,
        write=partial(write_outcomes, shape=given["shape"], replace=True),
        shape=json.dumps(which | form),
        is_slow=source.path is None,
        concurrency=given["concurrency"],
        workers=given["workers"],
        max_cost_nanousd=None if max_cost is None else nanousd(max_cost),
        max_time_s=given["max_time_s"],
        retries_failed=given["retry_failed"],
        is_fresh=given["fresh"],
        is_unordered=given["unordered"],
        keeps_receipts=given["receipts"],
        total=_total(source, given),
    )


def _rows(source: Source, given: Mapping[str, Any]) -> Iterator[AnyRow]:
    return open_rows(
        source,
        limit=given["limit"],
        sample=given["sample"],
        seed=given["seed"] or 0,
        shuffle=given["shuffle"],
    )


def _total(source: Source, given: Mapping[str, Any]) -> int | None:
    """How many rows there are, where lines can be counted; empty ones are found out later."""
    counts: list[int] = [given[name] for name in ("limit", "sample") if given[name] is not None]
    if source.path is not None and source.form in {"jsonl", "text"} and not source.packing:
        with source.path.open("rb") as lines:
            counts.append(
                sum(piece.count(b"\n") for piece in iter(partial(lines.read, 2**20), b""))
            )
        return min(counts)
    return None


@contextmanager
def _config(setting: Setting) -> Iterator[OrchestratorConfig]:
    """The configuration to run on, and the simulator below it if there is one."""
    if not setting.simulated:
        yield with_state(setting.config)
        return
    thread, simulator = LoopThread(), Simulator()
    thread.run(simulator.start())
    try:
        config = simulated(setting.config, simulator, spread_s=LATENCY_S)
        yield config.model_copy(update={"ledger": None, "cache": None})
    finally:
        thread.run(simulator.aclose())
        thread.stop()


def _code(result: Result) -> int:
    if not result.is_complete:
        return CODES.get(result.why, FAILED)
    return FAILED if result.tally.all_failed else 0


def _report(result: Result, order: Order, *, as_json: bool, elapsed_s: float) -> None:
    if as_json:
        told = as_object(result.tally) | {
            "output": str(order.output) if result.is_complete else None,
            "parts": str(PartsFolder(order.output).path),
            "complete": result.is_complete,
            "why": result.why,
            "message": result.message,
            "elapsed_s": round(elapsed_s, 3),
        }
        click.echo(json.dumps(told))
    if result.is_complete:
        click.echo(_whole(result, order, elapsed_s), err=True)
        return
    if result.message:
        warn(result.message)
    of = "" if result.tally.total is None else f" of {result.tally.total:,}"
    more = "; with a higher limit" if result.why == "budget" else ""
    click.echo(
        f"Stopped: {result.tally.done:,}{of} rows are done and kept in {order.output}.parts"
        f"{more}, this goes on with the rest: {_same_command()}",
        err=True,
    )


def _whole(result: Result, order: Order, elapsed_s: float) -> str:
    """What a finished batch has come to."""
    tally = result.tally
    if result.was_finished:
        return (
            f"Nothing to do: {order.output} has all {count(tally.done, 'row')}"
            f"{_failures(tally)}; --fresh begins anew"
        )
    parts = (
        f"{count(tally.done, 'row')}{_failures(tally)}",
        f"{tally.repeated:,} of them repeated" if tally.repeated else "",
        usd(tally.spent_nanousd),
        seconds(elapsed_s),
        str(order.output),
    )
    return " · ".join(part for part in parts if part)


def _failures(tally: Tally) -> str:
    if not tally.all_failed:
        return ""
    return f", {tally.all_failed:,} of them failed (--retry-failed asks them again)"


def _same_command() -> str:
    """What to type to go on."""
    return shlex.join(
        [program(), *(word for word in sys.argv[1:] if word not in {"--fresh", "--force"})]
    )
