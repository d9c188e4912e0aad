"""`batch`: every row of a file answered, told how far it has come, and gone on with."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from adapters.config import LLMProvider
from orchestrator.batch.job import Order
from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import Heading, Index, PartsFolder, Place, Scanned
from orchestrator.batch.work import Tally
from orchestrator.cli.batch_progress import (
    JsonLines,
    LiveLine,
    LogLines,
    Pace,
    Silent,
    changes,
    line,
    to_come,
)
from orchestrator.clock import FakeClock
from orchestrator.simulator import Simulator
from tests.batching import numbered, write_rows
from tests.faces import simulated_elsewhere

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Simulator]:
    with simulated_elsewhere() as running:
        yield running


def configured(simulator: Simulator, path: Path, *directives: str) -> Path:
    base = simulator.base_url(LLMProvider.OPENAI, *directives)
    path.write_text(
        "models:\n"
        "  gpt: {provider: openai, model: gpt-5-mini, api_key: k, max_tokens: 400,"
        f" api_base: {base}, price: {{input_usd: 1, output_usd: 10}}}}\n"
        "retry: {attempts: 1}\n"
        "breaker: {failures: 1000, calls: 1000}\n"
    )
    return path


@pytest.fixture
def batch(call: Call, elsewhere: Simulator, tmp_path: Path) -> Call:
    """`batch(*words)` over six rows, as `orchestrator batch` would do it."""
    rows = write_rows(tmp_path / "rows.jsonl", numbered(6))
    config = configured(elsewhere, tmp_path / "c.yaml")

    def run(*words: str, config: Path = config, **more: Any) -> Result:
        fixed = ("-o", str(tmp_path / "out.jsonl"), "-c", str(config), "-m", "gpt")
        return call("batch", str(rows), *fixed, "--workers", "1", *words, **more)

    return run


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_is_answered_and_said_once(batch: Call, tmp_path: Path) -> None:
    """The output in the order of the input; again, there is nothing to do."""
    result = batch()
    again = batch()

    assert (result.exit_code, result.stdout) == (0, "")
    assert "6 rows · $0." in result.stderr
    told = written(tmp_path / "out.jsonl")
    assert [one["position"] for one in told] == list(range(6))
    assert all(one["answer"] and one["calls"] == 1 for one in told)
    assert again.exit_code == 0
    assert again.stderr.startswith("Nothing to do: ")


def test_a_finished_batch_loads_nothing_that_could_run_it(batch: Call, tmp_path: Path) -> None:
    """Neither the engine nor what it reads its configuration with."""
    batch()
    words = [
        "batch",
        str(tmp_path / "rows.jsonl"),
        *("-o", str(tmp_path / "out.jsonl"), "-c", str(tmp_path / "c.yaml"), "-m", "gpt"),
        *("--workers", "1"),
    ]
    program = (
        "import sys; from orchestrator.cli import main\n"
        "try: main(sys.argv[1:], prog_name='orchestrator')\n"
        "except SystemExit as end: print(end.code)\n"
        "print([one for one in ('litellm', 'pydantic', 'sqlalchemy') if one in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )

    assert ended.stderr.startswith("Nothing to do: ")
    assert ended.stdout.splitlines() == ["0", "[]"]


def test_what_it_came_to_as_json(batch: Call) -> None:
    """For programs: the same keys whether it ran or had nothing to do."""
    told = json.loads(batch("--json").stdout)
    again = json.loads(batch("--json").stdout)
    looked = json.loads(batch("--json", "--concurrency", "7").stdout)

    assert (told["complete"], told["total"], told["answered"], told["failed"]) == (True, 6, 6, 0)
    assert told["summary"]["rows"] == 6
    assert again.keys() < told.keys()
    for one in (again, looked):
        assert (one["total"], one["done"], one["found"], one["answered"]) == (6, 6, 6, 0)
        assert (one["spent_nanousd"], one["parts"]) == (told["spent_nanousd"], told["parts"])
        assert (one["failed"], one["summary"]) == (0, None)


def test_failed_rows_are_told_and_asked_again_on_demand(
    batch: Call, elsewhere: Simulator, tmp_path: Path
) -> None:
    """Exit code 1, as long as there are some."""
    broken = configured(elsewhere, tmp_path / "broken.yaml", "e500")
    failed = batch(config=broken)
    left = batch(config=broken)
    mended = configured(elsewhere, tmp_path / "broken.yaml")
    retried = batch("--retry-failed", config=mended)

    assert (failed.exit_code, left.exit_code, retried.exit_code) == (1, 1, 0)
    assert "6 of them failed (--retry-failed asks them again)" in failed.stderr
    assert "Warning: ProviderUnavailable 6 times; the first: Line 1: " in failed.stderr
    assert left.stderr.startswith("Nothing to do: ")
    assert {one["status"] for one in written(tmp_path / "out.jsonl")} == {"complete"}


def test_the_cap_ends_it_and_the_way_on_is_said(batch: Call, tmp_path: Path) -> None:
    """Exit code 3; no output yet, but all that was paid for is kept."""
    cut = batch("--max-cost", "0.005", "--concurrency", "1")

    assert cut.exit_code == 3
    assert "The batch may cost $0.005" in cut.stderr
    assert "this goes on with the rest: " in cut.stderr
    assert not (tmp_path / "out.jsonl").exists()

    more = batch("--max-cost", "1")
    assert more.exit_code == 0
    assert "going on with" in more.stderr
    assert len(written(tmp_path / "out.jsonl")) == 6


def test_changed_rows_and_options_are_said_aloud(batch: Call, tmp_path: Path) -> None:
    """Before anything is asked."""
    batch()
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "Another?"}, *numbered(6)[1:]])
    changed = batch()
    other = batch("--system", "Be brief.")

    assert "the input has changed since" in changed.stderr
    assert "7 outcomes came of other options or another configuration" in other.stderr
    assert (changed.exit_code, other.exit_code) == (0, 0)


def test_a_dry_run_asks_nobody(batch: Call, elsewhere: Simulator, tmp_path: Path) -> None:
    """It shows the first rows, and what all would cost."""
    before = elsewhere.requests.total

    result = batch("--dry-run")
    told = json.loads(batch("--dry-run", "--json").stdout)

    assert "Line 1: user: Say the number 0." in result.stdout
    assert "6 rows, reckoned from 6" in result.stdout
    assert told["full"]["calls"] == 6
    assert told["worst"]["money_nanousd"] >= told["full"]["money_nanousd"] > 0
    assert elsewhere.requests.total == before
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_a_dry_run_says_once_what_is_wrong_with_a_row(batch: Call) -> None:
    """Where it is, and how many more there are."""
    result = batch("--dry-run", "--template", "{{ text }}")
    told = json.loads(batch("--dry-run", "--json", "--template", "{{ text }}").stdout)

    assert "Line 1: not asked: a template failed" in result.stdout
    assert "line 1: a template failed" in result.stderr
    assert "3 rows more of the first 6 ask nothing" in result.stderr
    assert told["problems"][5]["problem"].startswith("a template failed")


def test_a_last_line_without_an_end_is_counted(batch: Call, tmp_path: Path) -> None:
    """It is a row, and one is told beforehand how many there are."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().rstrip("\n"))

    told = json.loads(batch("--dry-run", "--json").stdout)

    assert told["rows"] == 6


def test_a_template_a_report_and_progress_for_programs(batch: Call, tmp_path: Path) -> None:
    """All of what the options promise in one run."""
    result = batch(
        *("--template", "Repeat: {{ prompt }}", "--report", str(tmp_path / "report.html")),
        *("--progress", "json", "--limit", "4", "--unordered", "--receipts"),
    )

    events = [json.loads(said) for said in result.stderr.splitlines() if said.startswith("{")]
    assert result.exit_code == 0
    assert events[0] == {"event": "found", "rows": 0, "notes": []}
    assert [(one["event"], one["done"]) for one in events[-2:]] == [("progress", 4), ("ended", 4)]
    told = written(tmp_path / "out.jsonl")
    assert len(told) == 4
    assert all(one["receipt"]["prompt"].startswith("Repeat: Say") for one in told)
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--panel", "x"], "give -m or --panel, not both"),
        (["-o", "{folder}/nowhere/out.jsonl"], "there is no folder"),
        (["-o", "{folder}/rows.jsonl"], "are the same file"),
        (["-o", "{folder}/out.jsonl.gz"], "is not compressed"),
        (["-o", "{folder}/out.docx"], "let it end in .jsonl"),
        (["--concurrency", "0"], "--concurrency"),
        (["-m", "gtp"], "did you mean 'gpt'"),
        (["--schema", "{folder}/schema.json"], "The schema is no JSON Schema"),
        (["--report", "{folder}/nowhere/r.html"], "there is no such folder"),
        (["--report", "{folder}/rows.jsonl"], "let {folder}/rows.jsonl end in .html"),
        (["--report", "{folder}/out.jsonl"], "let {folder}/out.jsonl end in .html"),
        (["--report", "{folder}/same.html"], "is read for this batch"),
        (["--report", "{folder}/link.html"], "is a link, and is left alone"),
        (["-o", "{folder}/link.html", "--force"], "nothing says what"),
        (["-o", "{folder}/link.jsonl"], "is a link, and is left alone"),
        (["--retry-failed", "--fresh"], "give one of them"),
        (["--max-time", "nan"], "'nan' is no number of seconds"),
        (["--template", "{{{{ prompt"], "--template cannot be used: the template, line 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_asked(
    batch: Call, elsewhere: Simulator, tmp_path: Path, words: list[str], said: str
) -> None:
    """Exit code 2, with what to do about it."""
    (tmp_path / "schema.json").write_text('{"type": "nothing"}')
    (tmp_path / "same.html").hardlink_to(tmp_path / "rows.jsonl")
    for name in ("link.html", "link.jsonl"):
        (tmp_path / name).symlink_to("elsewhere")
    before = elsewhere.requests.total

    result = batch(*(word.format(folder=tmp_path) for word in words))

    assert result.exit_code == 2
    assert said.format(folder=tmp_path) in " ".join(result.stderr.split())
    assert elsewhere.requests.total == before
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6


def test_an_output_of_something_else_is_replaced_on_demand_only(
    batch: Call, tmp_path: Path
) -> None:
    """--force says so."""
    (tmp_path / "out.jsonl").write_text("mine")

    refused = batch()
    kept = (tmp_path / "out.jsonl").read_text()
    forced = batch("--force")

    assert (refused.exit_code, kept, forced.exit_code) == (2, "mine", 0)
    assert "no batch has written it" in " ".join(refused.stderr.split())
    assert len(written(tmp_path / "out.jsonl")) == 6


def test_another_process_at_it_is_refused(batch: Call, tmp_path: Path) -> None:
    """With its number, and exit code 2."""
    with PartsFolder(tmp_path / "out.jsonl").lock():
        result = batch()

    assert result.exit_code == 2
    assert "is in use: process" in result.stderr


def test_a_line_says_how_far_it_has_come() -> None:
    """What is not known, or not the case, is left out."""
    tally = Tally(found=10, answered=20, failed=1, total=100, in_flight=8, spent_nanousd=5 * 10**8)
    tally.breakers = {"gpt": "open"}

    assert line(Tally(), Pace()) == "0 rows · $0.00 · 0.0 rows/s · 0 in flight"
    assert line(tally, Pace(2.0, 34.5), 10**9) == (
        "31/100 rows · 1 failed · $0.5 of $1.00 · 2.0 rows/s · 34.5 s left · 8 in flight · gpt open"
    )
    assert "0 rows · $0.00 · 3.0 rows/min · 10 h 0 min left" in line(Tally(), Pace(0.05, 36_000))


def test_a_line_names_the_busiest_models_it_has_room_for() -> None:
    """Without any room it says how many rows there are, and last of all where calls cannot go."""
    calls = {"claude": 7, "gpt-5-mini": 12, "gemini": 7}
    tally = Tally(answered=4, in_flight=20, calls_in_flight=calls, breakers={"gpt": "open"})
    whole = line(tally, Pace(2.0))

    assert whole == (
        "4 rows · $0.00 · 2.0 rows/s · "
        "20 in flight (gpt-5-mini 12 · claude 7 · gemini 7) · gpt open"
    )
    assert [line(tally, Pace(2.0), None, width) for width in (99, 84, 60, 45, 30)] == [
        whole,
        "4 rows · $0.00 · 2.0 rows/s · 20 in flight (gpt-5-mini 12 · claude 7 · …) · gpt open",
        "4 rows · $0.00 · 2.0 rows/s · 20 in flight · gpt open",
        "4 rows · $0.00 · 20 in flight · gpt open",
        "4 rows · $0.00 · gpt open",
    ]


@settings(max_examples=30, deadline=None)
@given(
    calls=st.dictionaries(st.text(min_size=1, max_size=9), st.integers(1, 999), max_size=6),
    width=st.integers(60, 200),
)
def test_no_names_make_a_line_wider_than_the_terminal(calls: dict[str, int], width: int) -> None:
    """Whatever they are, in cells of a terminal; what is known of all models stays."""
    told = line(Tally(in_flight=20, calls_in_flight=calls), Pace(2.0), None, width)

    assert cell_len(told) <= width
    assert told.startswith("0 rows · $0.00 · 2.0 rows/s · 20 in flight")


def paces(done: Callable[[int], Tally], seconds: int) -> list[Pace]:
    """How fast it is said to go, second by second."""
    clock = FakeClock()
    silent, said = Silent(None, clock), []
    for second in range(seconds):
        said.append(silent._pace(done(second)))
        clock.advance(1)
    return said


def test_the_rate_is_that_of_the_last_minute() -> None:
    """Neither a fast hour before nor the time until the first row is asked counts."""

    def done(second: int) -> Tally:
        asked = max(0, second - 100)
        answered = min(asked, 3600) * 10 + max(0, asked - 3600)
        return Tally(
            found=500, read=500 + answered, answered=answered, total=50_000, in_flight=asked > 0
        )

    said = paces(done, 4000)

    assert said[100] == Pace(0.0, None)
    assert said[110].rows_per_s == pytest.approx(10)
    assert said[3700].rows_per_s == pytest.approx(10)
    assert said[3999].rows_per_s == pytest.approx(1)
    assert said[3999].left_s == pytest.approx(50_000 - 500 - 36_299, abs=1)


def test_a_rate_of_slow_rows_looks_further_back() -> None:
    """A row every two minutes is not none a second; when nothing ends any more, it falls."""

    def done(second: int) -> Tally:
        return Tally(answered=min(second, 7200) // 120, total=100, in_flight=4)

    said = paces(done, 10_000)

    assert all(one.rows_per_s == pytest.approx(1 / 120, rel=0.06) for one in said[3600:7200:7])
    assert said[9999].rows_per_s < 1 / 200


def test_rows_that_have_an_outcome_take_no_time() -> None:
    """Those that come later in the input are not to be asked; of changed rows nobody knows."""
    retrying = Tally(total=1000, read=100, found=90, answered=10)

    assert to_come(retrying, kept=890) == 100
    assert to_come(retrying) == 900
    assert to_come(replace(retrying, changed=1), kept=890) == 900
    assert to_come(replace(retrying, total=None), kept=890) is None
    assert to_come(Tally(total=10), kept=5000) == 0


def test_once_it_is_to_stop_what_is_under_way_is_all_that_is_left() -> None:
    """Nobody waits for the rest of the input."""
    clock = FakeClock()
    silent = Silent(None, clock)
    silent._pace(Tally())
    clock.advance(10)
    tally = Tally(answered=20, total=1000, in_flight=8)
    before = silent._pace(tally)
    silent.stopping("time", tally)

    assert (before.left_s, silent._pace(tally).left_s) == (490.0, 4.0)


def test_log_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Not with every row."""
    clock = FakeClock()
    lines = LogLines(None, clock)

    for _ in range(25):
        clock.advance(1)
        lines.show(Tally(answered=3, calls_in_flight={"gpt": 2}, breakers={"claude": "half_open"}))

    told = capsys.readouterr().err
    assert told.count("3 rows ") == told.count("in flight (gpt 2) · claude half_open\n") == 2


def test_json_lines_say_why_it_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """And how far it has come."""
    tally = Tally(answered=3, in_flight=2, calls_in_flight={"gpt": 2}, breakers={"claude": "open"})
    JsonLines(7, FakeClock()).stopping("budget", tally)

    told = json.loads(capsys.readouterr().err)
    assert (told["event"], told["why"], told["done"]) == ("stopping", "budget", 3)
    assert told["cap_nanousd"] == 7
    assert (told["calls_in_flight"], told["breakers"]) == ({"gpt": 2}, {"claude": "open"})


def test_a_terminal_has_one_line_that_is_redrawn() -> None:
    """And keeps the last state of it."""
    screen = io.StringIO()
    live = LiveLine(Console(file=screen, force_terminal=True, width=120), None, FakeClock())

    live.show(Tally(answered=1))
    live.show(Tally(answered=2, calls_in_flight={"gpt": 2}, breakers={"claude": "open"}))
    live.close()

    assert screen.getvalue().count("\n") == 1
    assert "2 rows" in screen.getvalue()
    assert "0 in flight (gpt 2) · claude open" in screen.getvalue()


@pytest.mark.parametrize(("retries_failed", "left"), [(False, 95), (True, 96)])
def test_outcomes_of_before_are_not_time_that_is_left(
    tmp_path: Path, *, retries_failed: bool, left: int
) -> None:
    """Unless they are failures that are asked for again."""
    clock, index = FakeClock(), Index()
    for position, status in enumerate(("complete", "failed", "complete", "complete", "complete")):
        outcome = Outcome(position=position, line=1, digest="d", status=status)  # type: ignore[arg-type]
        index.add(outcome, Place(1, position))
    silent = Silent(None, clock)
    order = replace(nothing(tmp_path), retries_failed=retries_failed)

    silent.found(Scanned(index), order, source_changed=False)
    silent._pace(Tally(total=110))
    clock.advance(10)
    pace = silent._pace(Tally(total=110, read=10, answered=10))

    assert (pace.rows_per_s, pace.left_s) == (1.0, left)


def nothing(folder: Path) -> Order:
    return Order(
        output=folder / "o",
        rows=lambda: iter(()),
        source="s",
        config=None,  # type: ignore[arg-type]
        ask=None,  # type: ignore[arg-type]
        config_digest="c",
        write=lambda outcomes, path: None,
    )


def test_damage_is_said(tmp_path: Path) -> None:
    """A line that cannot be read any more costs a call."""
    heading = Heading(batch="b", config="c", source="s")
    scanned = Scanned(Index(), heading=heading, broken=1)

    said = changes(scanned, nothing(tmp_path), source_changed=False)

    assert said == [
        f"1 line in {tmp_path / 'o'}.parts cannot be read any more; their rows are asked again"
    ]
