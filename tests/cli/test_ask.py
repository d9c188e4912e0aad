"""`ask`: the answer on stdout and nothing else there; everything else on stderr; a receipt."""

import json
import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from orchestrator.cli import setting, store
from orchestrator.cli.progress import SIMULATED
from orchestrator.config import RequestConfig
from orchestrator.errors import BudgetExceeded, DeadlineExceeded, QuorumNotMet, UnknownModel
from orchestrator.events import BudgetShrunk, RunStarted

Call = Callable[..., Result]
ANSWER = "Because of Rayleigh scattering.\n"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, team: Path) -> Callable[[Any], Any]:
    """Make this the orchestrator that the command line gets."""
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(team))
    for name in ("TEAM_OPENAI_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "a key")

    def plant(engine: Any) -> Any:
        monkeypatch.setattr(setting, "make_orchestrator", lambda config: engine)
        return engine

    return plant


def test_stdout_carries_the_answer_and_nothing_else(call: Call, made: Any, plant: Any) -> None:
    """So that it can be piped."""
    plant(made.replay(made.events()))
    result = call("ask", "Why is the sky blue?")

    assert result.exit_code == 0
    assert result.stdout == ANSWER
    assert "answer: gpt answered, 20 tokens" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "complete · 2 of 3 members · 4 calls · 60 tokens · $0.0123 · 1.00 s · "
        "orchestrator show 0001"
    )


def test_quiet_leaves_only_warnings(call: Call, made: Any, plant: Any) -> None:
    """Scripts want silence, not secrecy."""
    plant(made.replay(made.events()))
    assert call("ask", "hi", "--quiet").stderr == ""

    lesser = made.response(made.receipt(status="degraded", causes=("quorum not met",)))
    plant(made.replay(made.events(lesser)))
    assert call("ask", "hi", "--quiet").stderr == (
        "Warning: the answer is degraded: quorum not met\nWarning: missing: claude\n"
    )


def test_every_option_reaches_the_request(call: Call, made: Any, plant: Any) -> None:
    """One field each."""
    engine = plant(made.replay(made.events()))
    words = ("--system", "be brief", "--panel", "council", "--pattern", "debate", "--seed", "9")
    more = ("--synthesizer", "gpt", "--max-tokens", "50", "--temperature", "0.5", "--no-cache")
    caps = ("--max-time", "12.5", "--max-cost", "$0.05", "--max-calls", "9", "--tag", "x")
    assert call("ask", "hi", *words, *more, *caps).exit_code == 0

    assert engine.requests == [
        RequestConfig(
            prompt="hi",
            system="be brief",
            model="council",
            pattern="debate",
            synthesizer="gpt",
            max_tokens=50,
            temperature=0.5,
            seed=9,
            time_s=12.5,
            max_cost_usd=Decimal("0.05"),
            max_calls=9,
            tags=("x",),
            cache="off",
        )
    ]
    assert engine.closed


def test_refreshing_asks_anew_and_keeps_that(call: Call, made: Any, plant: Any) -> None:
    """By default the cache is used, where the configuration has one."""
    engine = plant(made.replay(made.events()))
    call("ask", "hi")
    call("ask", "hi", "--refresh")

    assert [request.cache for request in engine.requests] == ["use", "refresh"]


@pytest.mark.parametrize(
    ("words", "model", "members"),
    [
        ((), None, None),
        (("-m", "gpt"), "gpt", None),
        (("-m", "debate/council"), "debate/council", None),
        (("-m", "gpt", "-m", "claude"), None, ("gpt", "claude")),
        (("--panel", "council", "-m", "gpt", "-m", "claude"), "council", ("gpt", "claude")),
    ],
)
def test_one_name_is_asked_and_several_make_a_panel(
    call: Call, made: Any, plant: Any, words: tuple[str, ...], model: Any, members: Any
) -> None:
    """`-m` once names who is asked, several times it names the members."""
    engine = plant(made.replay(made.events()))
    call("ask", "hi", *words)

    assert (engine.requests[0].model, engine.requests[0].members) == (model, members)


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (("hi",), "", "hi"),
        ((), "from a pipe\n", "from a pipe\n"),
        (("-",), "from a pipe", "from a pipe"),
        (("summarise",), "a long text", "summarise\n\na long text"),
        (("summarise",), "  \n", "summarise"),
    ],
)
def test_a_prompt_comes_from_the_argument_and_from_stdin(
    call: Call, made: Any, plant: Any, words: tuple[str, ...], stdin: str, prompt: str
) -> None:
    """With both, stdin is the material."""
    engine = plant(made.replay(made.events()))
    call("ask", *words, stdin=stdin)

    assert engine.requests[0].prompt == prompt


def test_files_follow_the_prompt(call: Call, made: Any, plant: Any, tmp_path: Path) -> None:
    """Each under its name."""
    engine = plant(made.replay(made.events()))
    (tmp_path / "a.txt").write_text("\ufeffalpha", encoding="utf-8")
    call("ask", "compare", "-f", str(tmp_path / "a.txt"))

    assert engine.requests[0].prompt == "compare\n\na.txt:\n\nalpha"


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        ((), "", "no prompt"),
        (("  ",), "", "no prompt"),
        ((), b"caf\xe9", "stdin is not UTF-8 text (byte 3)"),
        (("caf\udcff",), "", "the command line is not UTF-8 text"),
        (("hi", "--system", "caf\udcff"), "", "the command line is not UTF-8 text"),
        (("hi", "--json", "--format", "text"), "", "contradict"),
        (("hi", "-m", "gpt", "--panel", "council"), "", "-m or --panel"),
        (("hi", "--temperature", "3"), "", "0<=x<=2"),
        (("hi", "--max-cost", "cheap"), "", "'cheap' is no amount of US dollars"),
        (("hi", "--max-cost", "0"), "", "'0' is no amount of US dollars"),
        (("hi", "--max-cost", "nan"), "", "'nan' is no amount of US dollars"),
        (("hi", "--max-cost", "1e12"), "", "max_cost_usd: "),
        (("hi", "--no-cache", "--refresh"), "", "not both"),
        (("hi", "--tag", ""), "", "tags.0: "),
        (("--resume", "0001"), "", "no run '0001'"),
        (("hi", "--resume", "0001"), "", "leave out the prompt"),
        (("--resume", "0001", "-m", "gpt"), "", "leave out -m"),
        (("hi", "--receipt", "/does/not/exist/r.json"), "", "there is no folder /does/not/exist"),
        (("hi", "--config", "/does/not/exist.yaml"), "", "/does/not/exist.yaml"),
        (("hi", "--file", "/does/not/exist.txt"), "", "/does/not/exist.txt"),
        (("hi", "-m", "gptt"), "", "did you mean 'gpt'"),
        (("hi", "-m", "gptt", "--simulate"), "", "did you mean 'gpt'"),
        (("hi", "--pattern", "debat", "--simulate"), "", "did you mean 'debate'"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_asked(
    call: Call, made: Any, plant: Any, words: tuple[str, ...], stdin: Any, said: str
) -> None:
    """Exit code 2, one line, no call."""
    engine = plant(made.replay(made.events()))
    result = call("ask", *words, stdin=stdin)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert engine.requests == []


def test_a_broken_pattern_is_refused_before_an_engine_is_loaded(
    call: Call, made: Any, plant: Any, team: Path
) -> None:
    """With its place, and without the seconds that loading takes."""
    engine = plant(made.replay(made.events()))
    (team.parent / "mine").mkdir()
    (team.parent / "mine" / "own.yaml").write_text("name: own\n")
    team.write_text(f"{team.read_text()}patterns_dir: mine\n")
    result = call("ask", "hi", "--pattern", "own")

    assert result.exit_code == 2
    assert "own.yaml:1:1: " in result.stderr
    assert engine.requests == []


def test_json_carries_everything(call: Call, made: Any, plant: Any) -> None:
    """A program reads one object."""
    plant(made.replay(made.events()))
    result = call("ask", "hi", "--json")
    answer = json.loads(result.stdout)

    assert answer["content"] == ANSWER.strip()
    assert answer["status"] == "complete"
    assert answer["simulated"] is False
    assert answer["usage"]["total_tokens"] == 60
    assert [member["member"] for member in answer["members"]] == ["gpt", "gemini", "claude"]
    assert answer["members"][2]["error"] == "RateLimited"


def test_markdown_is_a_document(call: Call, made: Any, plant: Any) -> None:
    """Question, answer, who was asked, and what is wrong with it."""
    lesser = made.response(made.receipt(status="partial", causes=("time is up",), prompt="a | b"))
    plant(made.replay(made.events(lesser)))
    lines = call("ask", "hi", "--format", "markdown").stdout.splitlines()

    assert lines[0] == "# a | b"
    assert "> **partial**: time is up" in lines
    assert ANSWER.strip() in lines
    assert "| claude | anthropic/claude-haiku-4-5 | RateLimited | 30 | 0.40 s |" in lines


def test_escapes_of_a_model_do_not_reach_stdout(call: Call, made: Any, plant: Any) -> None:
    """Not even into a file: who prints it later would obey them."""
    plant(made.replay(made.events(made.response(made.receipt(content="a\x1b]0;title\x07b")))))

    assert call("ask", "hi").stdout == "a]0;titleb\n"


def test_half_a_character_costs_nobody_the_answer(call: Call, made: Any, plant: Any) -> None:
    """A model may send half a surrogate pair; JSON allows it."""
    plant(made.replay(made.events(made.response(made.receipt(content="a\ud83d")))))
    result = call("ask", "hi")

    assert result.exit_code == 0
    assert result.stdout.startswith("a")


def test_the_receipt_is_kept_and_copied(call: Call, made: Any, plant: Any, tmp_path: Path) -> None:
    """`show` finds it; --receipt puts one where it is wanted."""
    plant(made.replay(made.events()))
    copy = tmp_path / "receipt.json"
    call("ask", "hi", "--receipt", str(copy))

    assert store.latest().receipt == made.receipt()
    assert store.read(copy).receipt == made.receipt()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_receipt_that_cannot_be_kept_does_not_cost_the_answer(
    call: Call, made: Any, plant: Any, tmp_path: Path
) -> None:
    """It is said aloud; who asked for the file by name gets an exit code."""
    plant(made.replay([event for event in made.events() if not isinstance(event, RunStarted)]))
    result = call("ask", "hi")

    assert (result.exit_code, result.stdout) == (0, ANSWER)
    assert result.stderr.endswith("receipt not saved\n")
    refused = call("ask", "hi", "--receipt", f"{tmp_path}/{'x' * 300}.json")
    assert (refused.exit_code, refused.stdout) == (1, ANSWER)
    assert "the receipt could not be saved" in refused.stderr


def test_a_lesser_answer_is_an_answer_unless_strict(call: Call, made: Any, plant: Any) -> None:
    """Announced in either case."""
    lesser = made.response(made.receipt(status="degraded", causes=("quorum not met",)))
    plant(made.replay(made.events(lesser)))

    assert call("ask", "hi").exit_code == 0
    strict = call("ask", "hi", "--strict")
    assert strict.exit_code == 1
    assert strict.stdout == ANSWER
    assert "the answer is degraded: quorum not met" in strict.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QuorumNotMet("1 of 3 members answered"), 1),
        (DeadlineExceeded("no answer within 5 s"), 1),
        (BudgetExceeded("the budget of a run is $0.05"), 3),
        (UnknownModel("Unknown model 'gtp'; did you mean 'gpt'?"), 2),
    ],
)
def test_a_run_without_an_answer_fails_with_one_line(
    call: Call, made: Any, plant: Any, error: Exception, code: int
) -> None:
    """No traceback, no half answer on stdout."""
    plant(made.replay([*made.events()[:5], error]))
    result = call("ask", "hi")

    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith(f"Error: {error}")


def test_a_schema_file_becomes_a_response_format(
    call: Call, made: Any, plant: Any, tmp_path: Path
) -> None:
    """A bare JSON Schema is wrapped; a response_format is passed on as it is."""
    engine = plant(made.replay(made.events()))
    bare, whole, broken = (tmp_path / name for name in ("my answer.json", "b.json", "c.json"))
    bare.write_text('{"type": "object"}')
    whole.write_text('{"type": "json_object"}')
    broken.write_text('{"type":')
    for path in (bare, whole):
        call("ask", "hi", "--schema", str(path))
    refused = call("ask", "hi", "--schema", str(broken))

    assert [request.response_format for request in engine.requests] == [
        {"type": "json_schema", "json_schema": {"name": "my_answer", "schema": {"type": "object"}}},
        {"type": "json_object"},
    ]
    assert refused.exit_code == 2
    assert "c.json is not JSON" in refused.stderr


def test_an_interrupted_run_is_gone_on_with(call: Call, made: Any, plant: Any) -> None:
    """By the beginning of its id; what was asked stands in its journal."""
    engine = plant(made.replay([event for event in made.events() if type(event) is not RunStarted]))
    made.kept(ended=False)
    result = call("ask", "--resume", "00", "--json")

    assert result.exit_code == 0
    assert engine.resumed == ["run-0001"]
    assert engine.requests == []
    assert json.loads(result.stdout)["content"] == ANSWER.strip()
    assert "Note: the configuration has changed since" in result.stderr


def test_a_run_that_has_ended_is_not_gone_on_with(call: Call, made: Any, plant: Any) -> None:
    """It is shown."""
    engine = plant(made.replay(made.events()))
    made.kept()
    result = call("ask", "--resume", "0001")

    assert result.exit_code == 2
    assert "`orchestrator show 0001` shows what it came to" in result.stderr
    assert engine.resumed == []


def test_a_simulated_run_is_gone_on_with_simulated(
    call: Call, made: Any, plant: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And a real one is never finished by the simulator."""
    plant(made.replay([event for event in made.events() if type(event) is not RunStarted]))
    made.kept(ended=False, notes=(SIMULATED,))
    made.kept(made.receipt(run_id="run-0002"), ended=False)

    assert json.loads(call("ask", "--resume", "0001", "--json").stdout)["simulated"] is True
    monkeypatch.delenv("ORCHESTRATOR_CONFIG")
    for name in ("TEAM_OPENAI_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    refused = call("ask", "--resume", "0002")
    assert refused.exit_code == 2
    assert "asked real models, and no key of one is set" in refused.stderr


def test_who_was_left_out_stands_in_the_request(
    call: Call, made: Any, plant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt says so even if the run is interrupted and gone on with."""
    engine = plant(made.replay(made.events()))
    monkeypatch.delenv("GEMINI_API_KEY")
    result = call("ask", "hi")

    assert engine.requests[0].notes == ("not asked, because no key is set: gemini",)
    assert engine.requests[0].members == ("gpt", "claude")
    assert "Note: not asked, because no key is set: gemini" in result.stderr


def test_a_run_that_was_shrunk_says_so(call: Call, made: Any, plant: Any) -> None:
    """While it goes on, and as a warning at its end."""
    shrunk = made.response(made.receipt(shrunk=("not asked: gemini",)))
    events = made.events(shrunk)
    events.insert(1, BudgetShrunk(steps=("not asked: gemini",)))
    plant(made.replay(events))
    result = call("ask", "hi")

    assert "to fit the budget: not asked: gemini" in result.stderr.splitlines()
    assert "Warning: to fit the budget: not asked: gemini" in result.stderr
    assert call("ask", "hi", "--strict").exit_code == 1
    assert json.loads(call("ask", "hi", "--json").stdout)["shrunk"] == ["not asked: gemini"]
