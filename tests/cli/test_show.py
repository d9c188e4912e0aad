"""`show`: a run explained from its receipt."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from orchestrator.cli import store
from orchestrator.responses import StageRecord

Call = Callable[..., Result]


def test_the_last_run_is_explained(call: Call, made: Any) -> None:
    """Who was asked, what came of it, what it took, how it was decided, what was missing."""
    store.save(made.receipt(status="degraded", causes=("quorum not met",), notes=("a note",)))
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
        "Because of Rayleigh scattering.",
        "a note",
    ):
        assert said in shown
    assert "draft of gpt" not in shown


def test_drafts_are_shown_on_request(call: Call, made: Any) -> None:
    """What every model wrote on the way."""
    store.save(made.receipt())

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
    store.save(made.receipt(stages=(stage,)))
    shown = call("show").stdout

    assert all(line in shown for line in said)
    assert "empty" not in shown


def test_a_models_text_cannot_repaint_the_screen(call: Call, made: Any) -> None:
    """Neither markup of rich nor escapes of the terminal."""
    store.save(made.receipt(content="[bold red]x[/] \x1b[2Jy", prompt="\x1b]0;z\x07?"))
    shown = call("show").stdout

    assert "[bold red]x[/] [2Jy" in shown
    assert "\x1b" not in shown


def test_json_is_the_receipt(call: Call, made: Any) -> None:
    """Whole, for programs."""
    store.save(made.receipt())

    assert json.loads(call("show", "--json").stdout) == json.loads(made.receipt().to_json())


def test_runs_are_listed_newest_first(call: Call, made: Any) -> None:
    """A damaged one is named and passed over."""
    for name in ("older", "newer"):
        store.save(made.receipt(run_id=f"2026-{name}"))
    (store.directory() / "broken.json").write_text("{}")
    result = call("show", "--list")

    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["newer", "older"]
    assert "broken.json is no receipt" in result.stderr
    rows = json.loads(call("show", "--list", "--json").stdout)
    assert [row["run_id"] for row in rows] == ["2026-newer", "2026-older"]


def test_without_any_run_the_way_to_one_is_shown(call: Call) -> None:
    """The first thing a new user types may be this."""
    for words in (("show",), ("show", "--list")):
        result = call(*words)
        assert result.exit_code == 2
        assert "orchestrator demo" in result.stderr


def test_an_unknown_run_is_a_usage_error(call: Call, made: Any) -> None:
    """With the way to the list."""
    store.save(made.receipt())
    result = call("show", "zzz")

    assert result.exit_code == 2
    assert "orchestrator show --list" in result.stderr
