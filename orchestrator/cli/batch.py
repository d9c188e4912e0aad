"""`orchestrator batch`: the same of every row of a file, resumable at any moment.

What runs it is loaded only where there is something to do.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import click

from orchestrator.batch.finished import folder_of, unchanged
from orchestrator.cli import options
from orchestrator.cli.text import count

EPILOG = """\b
Examples:
  orchestrator batch questions.jsonl -o answers.jsonl -m gpt
  orchestrator batch reviews.csv -o labels.csv --template "Sentiment of: {{ text }}" -m fast
  orchestrator batch rows.jsonl -o out.jsonl --panel council --max-cost 5 --dry-run
  orchestrator batch rows.jsonl -o out.jsonl --retry-failed
  orchestrator batch rows.jsonl -o out.jsonl -m gpt --provider-batch

\b
INPUT is JSONL, CSV, TSV, text lines or Parquet, compressed or not, or - for stdin. A row is asked
by its `prompt`, its `messages` or its OpenAI `body`, or by --template over its columns. Answers
are kept in OUTPUT.parts as they come; the same command again goes on where it stopped, whatever
stopped it, and asks nothing twice.

\b
Exit code 0: every row has an answer. 1: some rows failed (--retry-failed asks them again).
2: usage or configuration. 3: a limit of money or time is reached. 130: interrupted.
"""


def _time_value(ctx: click.Context, param: click.Parameter, limit_s: float | None) -> float | None:
    """Seconds; no range keeps out what is no number."""
    if limit_s is not None and math.isnan(limit_s):
        raise click.BadParameter("'nan' is no number of seconds above 0, such as 600")
    return limit_s


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
@click.option(
    "--dask",
    "cluster",
    metavar="ADDRESS",
    help="Share the rows out on a cluster: tcp://HOST:PORT of a Dask scheduler, or local[:N].",
)
@options.max_cost_option
@click.option(
    "--max-time",
    "max_time_s",
    type=click.FloatRange(min=0, min_open=True),
    callback=_time_value,
    metavar="SECONDS",
    help="Ask nothing more after that; what is under way is still answered.",
)
@click.option(
    "--provider-batch",
    "in_provider_batches",
    is_flag=True,
    help="Ask in the provider's own batches: half the price, within a day.",
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
    "--report",
    "report_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw what it came to on one page of HTML.",
)
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
# Nothing is said by it but that another configuration is meant; see `_stamp`.
@click.option("--default-config", envvar="ORCHESTRATOR_CONFIG", hidden=True)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Ask the same of every row of a file, and lose nothing."""
    stamp = _stamp(given)
    tally = None if given["fresh"] or given["dry_run"] else unchanged(given["output"], stamp)
    if tally is not None and not (given["retry_failed"] and tally["failed"]):
        ctx.exit(_nothing_to_do(tally, given))
    from orchestrator.cli.batch_run import batch

    ctx.exit(batch(given, stamp))


def _stamp(given: dict[str, Any]) -> str:
    """A digest of the words that this was started with, and of where; "" for stdin."""
    if given["input"] == "-":
        return ""
    told = {**given, **dict.fromkeys(("as_json", "progress", "retry_failed", "cluster"))}
    written = json.dumps([told, str(Path.cwd())], sort_keys=True, default=str)
    return hashlib.sha256(written.encode("utf-8", "replace")).hexdigest()


def _nothing_to_do(tally: dict[str, Any], given: dict[str, Any]) -> int:
    """Say so; the exit code."""
    rows = tally["found"] + tally["answered"] + tally["failed"]
    failed = tally["found_failed"] + tally["failed"]
    if given["as_json"]:
        about = {"total": rows, "done": rows, "found": rows, "answered": 0, "failed": failed}
        about["spent_nanousd"] = tally["spent_nanousd"]
        where = {"output": str(given["output"]), "parts": str(folder_of(given["output"]))}
        ended = {"complete": True, "why": "", "message": "", "elapsed_s": 0.0, "summary": None}
        click.echo(json.dumps(about | where | ended))
    else:
        some = f", {failed:,} of them failed (--retry-failed asks them again)" if failed else ""
        told = f"{given['output']} has all {count(rows, 'row')}{some}; --fresh begins anew"
        click.echo(f"Nothing to do: {told}", err=True)
    return 1 if failed else 0
