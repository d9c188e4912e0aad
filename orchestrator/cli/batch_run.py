"""A batch as the words of a command line ask for it: run, watched, and told what it came to."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError
from rich.console import Console

from orchestrator.amounts import nanousd, usd
from orchestrator.batch.asking import Options, config_digest, question_of
from orchestrator.batch.deferring import batched, unfit
from orchestrator.batch.files import OutputError, need_place
from orchestrator.batch.job import Order, Result, run_batch, source_identity
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import PartsFolder
from orchestrator.batch.reading import open_rows
from orchestrator.batch.report import write_report
from orchestrator.batch.schemas import AnswerReader
from orchestrator.batch.showing import shown
from orchestrator.batch.sources import InputError, Source, source_of
from orchestrator.batch.summary import Summary
from orchestrator.batch.work import AnyRow, Tally
from orchestrator.batch.writing import target_of, write_outcomes
from orchestrator.blocking import LoopThread
from orchestrator.cli import naming
from orchestrator.cli.batch_plan import foretell
from orchestrator.cli.batch_progress import Silent, as_object, watcher
from orchestrator.cli.failures import BUDGET, FAILED, INTERRUPTED, Misuse, refuse
from orchestrator.cli.notes import note, warn
from orchestrator.cli.requesting import response_format_of
from orchestrator.cli.setting import LATENCY_S, Setting, choose
from orchestrator.cli.text import count, one_line, program, seconds
from orchestrator.config import (
    OrchestratorConfig,
    RequestConfig,
    find_config,
    packaged_configs,
    with_state,
)
from orchestrator.errors import PatternError
from orchestrator.garbage import collect_seldom
from orchestrator.patterns import Pattern
from orchestrator.simulator import Simulator, simulated

if TYPE_CHECKING:
    from orchestrator.batch.cluster import Place

WIDTH = 300  # of an error that is shown
CODES: Mapping[str, int] = {"budget": BUDGET, "time": BUDGET, "interrupted": INTERRUPTED}


def batch(given: dict[str, Any], stamp: str) -> int:
    """Do what the words of a command line say; the exit code.

    Args:
        given: What click made of the options.
        stamp: A digest of them.
    """
    try:
        return _batch(given, stamp)
    except (InputError, OutputError) as error:
        raise Misuse(str(error)) from error


def _batch(given: dict[str, Any], stamp: str) -> int:
    source = source_of(given["input"], given["form"])
    _check(source, given)
    place = _place(source, given)
    setting = choose(given["config_path"], simulate=given["simulate"])
    asked = _options(given, setting)
    if setting.simulated:
        note(setting.note)
    with _config(setting, place, given) as config:
        summary = Summary()
        order = replace(
            _order(given, source, asked, setting, config),
            write=partial(_write, given, summary),
            stamp=stamp,
            watched=_watched(given, setting),
        )
        if given["dry_run"]:
            if order.in_provider_batches:
                order = replace(order, config=batched(order.config))
            foretell(order, as_json=given["as_json"])
            return 0
        watching = watcher(given["progress"], order.max_cost_nanousd)
        try:
            result = _run(order, watching, place)
        finally:
            watching.close()
    _report(result, order, summary, given, watching.elapsed_s)
    return _code(result)


def _run(order: Order, watching: Silent, place: "Place | None") -> Result:
    collect_seldom()
    if place is None:
        return run_batch(order, watching)
    from orchestrator.batch.cluster import run_on

    return run_on(order, watching, place)


def _place(source: Source, given: Mapping[str, Any]) -> "Place | None":
    """Where rows are answered, if not here."""
    if given["cluster"] is None:
        return None
    from orchestrator.batch.cluster import check, place_of

    place = place_of(given["cluster"])
    some = [f"--{name}" for name in ("limit", "sample", "shuffle") if given[name] is not None]
    if given["workers"] is not None:
        some.append("--workers")
    if given["in_provider_batches"]:
        some.append("--provider-batch")
    if some:
        raise click.UsageError(
            f"--dask shares out all rows of a file in its own way; leave {', '.join(some)} out"
        )
    if given["simulate"] and not place.is_here:
        raise click.UsageError("the simulator is on this machine; --simulate takes --dask local")
    check(source)
    return place


def _write(
    given: Mapping[str, Any], summary: Summary, outcomes: Iterator[Outcome], path: Path
) -> None:
    """Write the output, and what it adds up to."""

    def counted() -> Iterator[Outcome]:
        for outcome in outcomes:
            summary.add(outcome)
            yield outcome

    write_outcomes(counted(), path, shape=given["shape"], replace=True)
    if given["report_path"] is not None:
        write_report(summary, given["report_path"], title=path.name, replace=True)


def _watched(given: Mapping[str, Any], setting: Setting) -> tuple[Path, ...]:
    """The files that have a say in what comes out, and where others would have one."""
    own = setting.config.patterns_dir
    folders = [packaged_configs() / "patterns", *([Path(own)] if own else [])]
    named = [given[name] for name in ("schema_path", "report_path") if given[name]]
    return (
        Path(given["input"]),
        setting.path,
        find_config(given["config_path"]),
        Path("orchestrator.yaml"),
        Path("configs/orchestrator.yaml"),
        Path(__file__),
        *named,
        *folders,
        *(path for folder in folders for path in sorted(folder.glob("*.yaml"))),
    )


def _check(source: Source, given: Mapping[str, Any]) -> None:
    """Refuse what cannot go well before anything is loaded."""
    output: Path = given["output"]
    try:
        target_of(output, shape=given["shape"])
    except InputError as error:
        raise click.UsageError(
            f"--output: nothing says what {output} is to be; let it end in .jsonl, .csv, .tsv or "
            ".parquet"
        ) from error
    if given["model"] and given["panel"]:
        raise click.UsageError("give -m or --panel, not both")
    if given["retry_failed"] and given["fresh"]:
        raise click.UsageError(
            "--retry-failed keeps what is answered and --fresh forgets it; give one of them"
        )
    if given["in_provider_batches"] and given["workers"]:
        raise click.UsageError("--workers ask rows themselves; leave it out with --provider-batch")
    if source.path is not None and not source.path.exists():
        raise click.UsageError(f"there is no file {source.path}")
    if source.path is not None and source.path.is_dir():
        raise click.UsageError(f"{source.path} is a folder; name a file in it")
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise click.UsageError("INPUT and --output are the same file; choose another output")
    if not output.parent.is_dir():
        raise click.UsageError(f"--output: there is no folder {output.parent}; create it")
    if output.exists() and not PartsFolder(output).path.is_dir() and not given["force"]:
        raise click.UsageError(
            f"{output} exists, and no batch has written it: there is no {output.name}.parts. "
            "Choose another output, or replace it with --force"
        )
    need_place(output, replace=True)
    _check_report(source, given)


def _check_report(source: Source, given: Mapping[str, Any]) -> None:
    """Refuse a page that could not be written in the end, or would take the place of an input."""
    report: Path | None = given["report_path"]
    if report is None:
        return
    if report.suffix.lower() not in {".html", ".htm"}:
        raise click.UsageError(f"--report draws a page of HTML; let {report} end in .html")
    read = [source.path, given["schema_path"], given["config_path"]]
    if any(path is not None and _is_same(report, Path(path)) for path in read):
        raise click.UsageError(f"--report: {report} is read for this batch; choose another file")
    need_place(report, replace=True)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


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
    if request.response_format is not None:
        AnswerReader(request.response_format)  # which refuses a schema that is none
    if request.model is not None:
        fitted = setting.fit(request)
        request = fitted.request
        for line in () if setting.simulated else fitted.notes:
            note(line)
    names = frozenset(naming.askable_names(setting.config))
    try:
        return Options(request=request, template=given["template"] or "", names=names)
    except PatternError as error:
        raise Misuse(f"--template cannot be used: {error}") from error


def _order(
    given: Mapping[str, Any],
    source: Source,
    asked: Options,
    setting: Setting,
    config: OrchestratorConfig,
) -> Order:
    patterns = naming.library(setting.config)
    if given["in_provider_batches"]:
        _need_plain(asked.request, setting.config, patterns)
    digest = config_digest(asked, setting.config, patterns)
    which = {name: given[name] for name in ("limit", "sample", "shuffle", "seed")}
    form = {name: given[name] for name in ("shape", "unordered", "receipts")}
    report: Path | None = given["report_path"]
    max_cost = given["max_cost_usd"]
    return Order(
        output=given["output"],
        rows=partial(_rows, source, given),
        source="" if source.path is None else source_identity(source.path),
        config=config,
        ask=partial(question_of, options=asked),
        config_digest=f"{digest}-simulated" if setting.simulated else digest,
        write=write_outcomes,
        shape=json.dumps([which, form, str(report), report is not None and report.exists()]),
        is_slow=source.path is None,
        concurrency=given["concurrency"],
        workers=given["workers"],
        max_cost_nanousd=None if max_cost is None else nanousd(max_cost),
        max_time_s=given["max_time_s"],
        retries_failed=given["retry_failed"],
        is_fresh=given["fresh"],
        is_unordered=given["unordered"],
        keeps_receipts=given["receipts"],
        in_provider_batches=given["in_provider_batches"],
        total=_total(source, given),
        file=None if source.path is None else replace(source, path=source.path.absolute()),
    )


def _need_plain(
    request: RequestConfig, config: OrchestratorConfig, patterns: Mapping[str, Pattern]
) -> None:
    """Refuse what no provider's batch can answer; rows that name their own models are seen to."""
    if request.model is None:
        return
    problem = unfit(request, config, patterns)
    if problem:
        raise Misuse(f"--provider-batch: {problem}")


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
        return min([*counts, _lines(source.path)])
    return None


def _lines(path: Path) -> int:
    """How many lines a file has; a last one may have no end."""
    count, piece = 0, b"\n"
    with path.open("rb") as file:
        for piece in iter(partial(file.read, 2**20), b""):
            count += piece.count(b"\n")
    return count + (not piece.endswith(b"\n"))


@contextmanager
def _config(
    setting: Setting, place: "Place | None", given: Mapping[str, Any]
) -> Iterator[OrchestratorConfig]:
    """The configuration to run on, and the simulator below it if there is one."""
    if not setting.simulated:
        yield _with_state(setting.config, place, is_capped=given["max_cost_usd"] is not None)
        return
    thread, simulator = LoopThread(), Simulator()
    thread.run(simulator.start())
    try:
        config = simulated(setting.config, simulator, spread_s=LATENCY_S)
        yield config.model_copy(update={"ledger": None, "cache": None})
    finally:
        thread.run(simulator.aclose())
        thread.stop()


def _with_state(
    config: OrchestratorConfig, place: "Place | None", *, is_capped: bool
) -> OrchestratorConfig:
    """The configuration with all that is kept from one run to the next, as far as that goes."""
    if place is None or place.is_here:
        return with_state(config)
    from orchestrator.batch.cluster import fitted

    if config.cache is not None:
        note("the cache is left out: its files are not for several machines")
    return fitted(config, place, is_capped=is_capped)


def _code(result: Result) -> int:
    if not result.is_complete:
        return CODES.get(result.why, FAILED)
    return FAILED if result.tally.all_failed else 0


def _report(
    result: Result, order: Order, summary: Summary, given: Mapping[str, Any], elapsed_s: float
) -> None:
    """Tell what it came to: to people, or to programs on either stream."""
    told = as_object(result.tally) | {
        "output": str(order.output) if result.is_complete else None,
        "parts": str(PartsFolder(order.output).path),
        "complete": result.is_complete,
        "why": result.why,
        "message": result.message,
        "elapsed_s": round(elapsed_s, 3),
        "summary": summary.as_object() if summary.rows else None,
    }
    if given["as_json"]:
        click.echo(json.dumps(told))
    if given["progress"] == "json":
        click.echo(json.dumps({"event": "ended", **told}), err=True)
    elif result.is_complete:
        if summary.rows and sys.stderr.isatty():
            Console(stderr=True).print(shown(summary))
        if summary.errors:
            warn(_why_some_failed(summary))
        click.echo(_whole(result, order, elapsed_s), err=True)
    else:
        _tell_how_to_go_on(result, order)


def _tell_how_to_go_on(result: Result, order: Order) -> None:
    if result.message:
        warn(result.message)
    of = "" if result.tally.total is None else f" of {result.tally.total:,}"
    raised = "with a higher limit, " if result.why == "budget" else ""
    click.echo(
        f"Stopped: {result.tally.done:,}{of} rows are done and kept in {order.output}.parts; "
        f"{raised}this goes on with the rest: {_same_command()}",
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


def _why_some_failed(summary: Summary) -> str:
    """What there was of errors, and the first of them in words; the output has all of them."""
    kinds = ", ".join(f"{kind} {times:,} times" for kind, times in summary.errors.most_common(3))
    return f"{kinds}; the first: {one_line(summary.first_failure, WIDTH)}"


def _failures(tally: Tally) -> str:
    if not tally.all_failed:
        return ""
    return f", {tally.all_failed:,} of them failed (--retry-failed asks them again)"


def _same_command() -> str:
    """What to type to go on."""
    return shlex.join(
        [program(), *(word for word in sys.argv[1:] if word not in {"--fresh", "--force"})]
    )
