"""`show`: a run explained from its receipt."""

import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli import store
from orchestrator.cli.explain import AttemptsTable, Listing, when_utc
from orchestrator.config import runs_folder
from orchestrator.journal import Journal
from orchestrator.responses import StageRecord

Call = Callable[..., Result]


def test_the_last_run_is_explained(call: Call, made: Any) -> None:
    """Who was asked, what came of it, what it took, how it was decided, what was missing."""
    made.kept(made.receipt(status="degraded", causes=("quorum not met",), notes=("a note",)))
    shown = call("show").stdout

    for said in (
        "run-0001",
        "Why is the sky blue?",
        "degraded",
        "quorum not met",
        "openai/gpt-5-mini",
        "anthropic/claude-haiku-4-5",
        "claude: RateLimited (429): slow down",
        "synthesizer: gpt",
        "gpt as synthesizer",
        "█",
        "$0.0123",
        "$0.0041",
        "Because of Rayleigh scattering.",
        "a note",
        "configuration c0ffee",
    ):
        assert said in shown
    assert "draft of gpt" not in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_words_come_before_the_drawing(made: Any, width: int) -> None:
    """A model's name is broken only where nothing else gives way, and no line is too long."""
    receipt = made.receipt()
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(AttemptsTable(receipt.stages[0].attempts, receipt.elapsed_s))
    lines = console.export_text().splitlines()

    assert max(map(len, lines)) <= width
    assert any("anthropic/claude-haiku-4-5" in line for line in lines)
    assert any("█" in line for line in lines) == (width >= 100)


def test_a_long_question_gives_way_to_the_table() -> None:
    """Eighty columns are enough for a list of runs."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("question")
    table.add_row("0001", Text("why " * 50, no_wrap=True, overflow="ellipsis"))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Listing(table, elastic=frozenset(["question"])))

    assert [line[:10] for line in console.export_text().splitlines()] == [
        "run   ques",
        "0001  why ",
    ]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_a_narrow_screen_loses_no_column(width: int) -> None:
    """Where the table does not fit, its rows are told one below the other."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("model", "asks for", "key", "who"):
        table.add_column(name, no_wrap=name != "who")
    cells = ("claude", "anthropic/claude", "✗ ANTHROPIC_API_KEY", "gpt, gemini, mistral, command")
    table.add_row(*cells)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(Listing(table, elastic=frozenset(["who"])))
    lines = console.export_text().splitlines()

    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    assert [cell for cell in cells[:3] if cell not in shown] == []
    assert [word for word in cells[3].split(", ") if word not in shown] == []


def test_a_failure_is_told_once_in_its_stage(call: Call, made: Any) -> None:
    """The row of a call says what happened; the stage's causes add only what is new."""
    receipt = made.receipt()
    because = ("claude gave no answer: RateLimited: slow down", "2 usable of 3, quorum 3")
    stage = dataclasses.replace(receipt.stages[0], status="degraded", causes=because)
    made.kept(dataclasses.replace(receipt, stages=(stage,)))
    shown = call("show").stdout

    assert shown.count("slow down") == 1
    assert "because 2 usable of 3, quorum 3" in shown


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2026-11-22T17:15:49.652346+00:00", "2026-11-22 17:15:49 UTC"),
        ("2026-11-22T19:15:49+02:00", "2026-11-22 17:15:49 UTC"),
        ("yesterday\x1b[2J", "yesterday[2J"),
    ],
)
def test_a_time_is_written_for_people(written: str, said: str) -> None:
    """And one from another hand is at least harmless."""
    assert when_utc(written, "seconds") == said


def test_drafts_are_shown_on_request(call: Call, made: Any) -> None:
    """What every model wrote on the way."""
    made.kept(made.receipt())

    assert "draft of gemini" in call("show", "run-0001", "--drafts").stdout


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            {"ranking": ["b", "a"], "scores": {"a": 1.0, "b": 2.5}, "unparsable": 1},
            ["ranking: b, a", "scores: b 2.5, a 1", "unparsable: 1"],
        ),
        (
            {"winner": "42", "votes": {"41": 1, "42": 2}, "dissent": ["gpt"]},
            ["winner: 42", "votes: 42 2, 41 1", "dissent: gpt"],
        ),
        ({"picked": "gpt", "reason": "it is\nright"}, ["picked: gpt", "reason: it is right"]),
        ({"claims": [{"text": "x", "ok": True}], "empty": []}, ["claims: "]),
    ],
)
def test_every_kind_of_decision_is_told_in_words(
    call: Call, made: Any, outcome: dict[str, Any], said: list[str]
) -> None:
    """Nobody should have to read JSON to learn who won."""
    stage = StageRecord(
        name="decide", combine="rank", status="ok", started_s=0, elapsed_s=1, outcome=outcome
    )
    made.kept(made.receipt(stages=(stage,)))
    shown = call("show").stdout

    assert all(line in shown for line in said)
    assert "empty" not in shown


def test_a_models_text_cannot_repaint_the_screen(call: Call, made: Any) -> None:
    """Neither markup of rich nor escapes of the terminal."""
    made.kept(made.receipt(content="[bold red]x[/] \x1b[2Jy", prompt="\x1b]0;z\x07?"))
    shown = call("show").stdout

    assert "[bold red]x[/] [2Jy" in shown
    assert "\x1b" not in shown


def test_json_is_the_receipt(call: Call, made: Any) -> None:
    """Whole, for programs."""
    made.kept(made.receipt())

    assert call("show", "--json").stdout == store.as_text(made.receipt())
    assert json.loads(store.as_text(made.receipt())) == json.loads(made.receipt().to_json())


def test_runs_are_listed_newest_first(call: Call, made: Any) -> None:
    """A damaged one is named and passed over."""
    for day, name in enumerate(("older", "newer"), 20):
        made.kept(made.receipt(run_id=f"202611{day}-{name}"))
    (runs_folder() / "broken.json").write_text("{}")
    result = call("show", "--list")

    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["newer", "older"]
    assert "broken.json holds no run" in result.stderr
    rows = json.loads(call("show", "--list", "--json").stdout)
    assert [row["run_id"] for row in rows] == ["20261121-newer", "20261120-older"]


def test_without_any_run_the_way_to_one_is_shown(call: Call) -> None:
    """The first thing a new user types may be this."""
    for words in (("show",), ("show", "--list")):
        result = call(*words)
        assert result.exit_code == 2
        assert "orchestrator demo" in result.stderr


def test_an_unknown_run_is_a_usage_error(call: Call, made: Any) -> None:
    """With the way to the list."""
    made.kept(made.receipt())
    result = call("show", "zzz")

    assert result.exit_code == 2
    assert "orchestrator show --list" in result.stderr


def test_the_answer_is_given_again_as_it_was(call: Call, made: Any) -> None:
    """The very bytes, for a pipe; of a run without one it is said why."""
    made.kept(made.receipt(content="One\n\ttwo \u2603 \x1b[2Jthree"))
    made.kept(made.receipt(run_id="run-0002", status="failed", causes=("all were down",)))
    made.kept(made.receipt(run_id="run-0003"), ended=False)

    assert call("show", "0001", "--answer").stdout == "One\n\ttwo \u2603 [2Jthree\n"
    failed, unfinished = (call("show", run, "--answer") for run in ("0002", "0003"))
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "came to no answer: all were down" in failed.stderr
    assert (unfinished.exit_code, unfinished.stdout) == (2, "")
    assert "`orchestrator ask --resume 0003` goes on with it" in unfinished.stderr
    assert call("show", "--answer", "--json").exit_code == 2


def test_a_run_that_has_not_ended_shows_what_it_has_paid_for(call: Call, made: Any) -> None:
    """And how to go on with it."""
    made.kept(made.receipt(), made.call("A first draft."), ended=False)
    shown, as_json = call("show", "--drafts"), json.loads(call("show", "--json").stdout)

    for said in ("unfinished", "Why is the sky blue?", "gpt-5-mini", "$0.0041", "A first draft."):
        assert said in shown.stdout
    assert "`orchestrator ask --resume 0001` goes on with it" in shown.stderr
    assert (as_json["status"], as_json["cost_nanousd"]) == ("unfinished", 4_100_000)
    assert [paid["text"] for paid in as_json["paid"]] == ["A first draft."]
    listed = call("show", "--list")
    assert "unfinished  $0.0041 so far" in listed.stdout
    assert "`orchestrator ask --resume RUN`" in listed.stderr


def test_a_run_under_way_is_not_called_interrupted(call: Call, made: Any) -> None:
    """Another process is at it."""
    path = made.kept(ended=False)
    run = Journal(path.parent).resume("run-0001")
    shown = call("show")
    run.close()

    assert "under way" in shown.stdout
    assert "another process is at it" in shown.stderr


def test_where_an_answer_is_from_and_what_gave_way_is_marked(call: Call, made: Any) -> None:
    """Who reads a receipt is to know why it cost what it did."""
    attempts = (
        made.attempt("gpt", source="cache"),
        made.attempt("claude", source="journal", continues=True),
        made.attempt("gemini", over_bound=True, cost_nanousd=None),
    )
    stage = dataclasses.replace(made.receipt().stages[0], attempts=attempts)
    told = {"shrunk": ("not asked: mistral",), "unpriced": ("gemini",), "tags": ("nightly",)}
    made.kept(made.receipt(stages=(stage,), **told))
    shown = " ".join(call("show").stdout.split())

    for said in (
        "ok · cached",
        "ok · paid for before · continued",
        "ok · over its bound",
        "~$0.0123 (price not known: gemini)",
        "not asked: mistral",
        "nightly",
    ):
        assert said in shown


def test_a_failed_run_is_explained(call: Call, made: Any) -> None:
    """Its receipt says why there is no answer, and it ends there."""
    made.kept(made.receipt(status="failed", causes=("all were down",), content="", calls=0))
    shown = call("show").stdout

    assert "failed" in shown
    assert "all were down" in shown
    assert "nothing called" in shown
    assert "answer ──" not in shown
