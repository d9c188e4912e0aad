"""`chat`: a conversation as a value, and the loop around it."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from orchestrator.cli import setting, store
from orchestrator.cli.conversation import COMMANDS, Conversation, Names, Turn, obey
from orchestrator.config import OrchestratorConfig
from orchestrator.errors import QuorumNotMet

Call = Callable[..., Result]
ANSWER = "Because of Rayleigh scattering."
CONFIG = OrchestratorConfig.model_validate(
    {
        "models": {"gpt": {"provider": "openai", "model": "gpt-5-mini"}},
        "panels": {"council": {"members": ["gpt"]}},
    }
)
NAMES = Names(
    config=CONFIG,
    models={"council": "gpt · compare", "gpt": "openai/gpt-5-mini"},
    patterns={"compare": "side by side", "debate": "argue"},
)
TALK = Conversation(model="gpt", turns=(Turn("hello", "hi"),))


def test_a_request_carries_the_whole_conversation() -> None:
    """Models remember nothing by themselves."""
    request = Conversation(
        model="gpt", pattern="debate", system="be kind", turns=(Turn("hello", "hi"),)
    ).request("and now?")

    assert [message["content"] for message in request.messages or ()] == ["hello", "hi", "and now?"]
    assert (request.model, request.pattern, request.system) == ("gpt", "debate", "be kind")
    assert request.prompt is None


def test_help_lists_every_slash_command() -> None:
    """The list is made from the table."""
    said = obey("/help", TALK, NAMES).said

    assert all(f"/{name}" in said for name in COMMANDS)


@pytest.mark.parametrize("name", ["council", "gpt", "debate/council"])
def test_use_changes_who_is_talked_to_and_keeps_what_was_said(name: str) -> None:
    """Half a conversation can go to another model."""
    after = obey(f"/use {name}", TALK, NAMES).conversation

    assert (after.model, after.turns) == (name, TALK.turns)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("/use gtp", "did you mean 'gpt'?"),
        ("/use debte/council", "did you mean 'debate'?"),
        ("/pattern debat", "did you mean 'debate'?"),
        ("/modles", "did you mean '/models'?"),
        ("/", "/help lists them"),
    ],
)
def test_a_slip_changes_nothing_and_names_what_was_meant(line: str, meant: str) -> None:
    """The conversation is as it was."""
    step = obey(line, TALK, NAMES)

    assert step.failed
    assert meant in step.said
    assert step.conversation == TALK


def test_a_pattern_can_be_chosen_listed_and_dropped() -> None:
    """`none` is the panel's own."""
    chosen = obey("/pattern debate", TALK, NAMES).conversation

    assert chosen.pattern == "debate"
    assert "* debate" in obey("/pattern", chosen, NAMES).said
    assert obey("/pattern none", chosen, NAMES).conversation.pattern is None


def test_what_was_said_can_be_read_and_forgotten() -> None:
    """History is the conversation, not the keyboard's."""
    assert obey("/history", TALK, NAMES).said == "## hello\n\nhi"
    assert obey("/clear", TALK, NAMES).conversation.turns == ()
    assert obey("/save", Conversation(), NAMES).failed
    assert obey("/save", TALK, NAMES).save_as == "chat.md"
    assert obey("/quit", TALK, NAMES).leave


def test_a_long_question_stands_whole_in_the_document() -> None:
    """A heading is too short for it."""
    text = Conversation(turns=(Turn("one\ntwo", "answer"),)).as_markdown()

    assert text == "## one two\n\none\ntwo\n\nanswer\n"


@pytest.fixture
def engine(made: Any, monkeypatch: pytest.MonkeyPatch, team: Path) -> Any:
    """An orchestrator that gives the same answer to everything."""
    engine = made.replay(made.events())
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(team))
    monkeypatch.setattr(setting, "make_orchestrator", lambda config: engine)
    return engine


def test_piped_lines_are_turns(call: Call, engine: Any) -> None:
    """Answers on stdout, nothing else there."""
    result = call("chat", "-q", stdin="hello\n\nand\\\nnow?\n")

    assert result.exit_code == 0
    assert result.stdout == f"{ANSWER}\n{ANSWER}\n"
    assert [message["content"] for message in engine.requests[1].messages] == [
        "hello",
        ANSWER,
        "and\nnow?",
    ]
    assert engine.closed


def test_every_turn_leaves_a_receipt(call: Call, engine: Any) -> None:
    """Also a conversation can be explained."""
    assert "orchestrator show 0001" in call("chat", stdin="hello\n").stderr
    assert store.latest().run_id == "run-0001"


def test_quit_ends_the_conversation(call: Call, engine: Any) -> None:
    """What follows is not asked."""
    result = call("chat", stdin="/quit\nhello\n")

    assert result.exit_code == 0
    assert engine.requests == []


def test_a_failed_turn_does_not_end_the_conversation(call: Call, made: Any, engine: Any) -> None:
    """But a script learns of it from the exit code."""
    engine.events = [QuorumNotMet("1 of 3 members answered")]
    result = call("chat", stdin="hello\n/models\nhello again\n")

    assert result.exit_code == 1
    assert result.stderr.count("Error: 1 of 3 members answered") == 2
    assert "council" in result.stderr
    assert len(engine.requests[1].messages) == 1


def test_a_conversation_is_saved_and_never_written_over(
    call: Call, engine: Any, tmp_path: Path
) -> None:
    """A file that is there is somebody's."""
    path = tmp_path / "talk.md"
    assert call("chat", stdin=f"hello\n/save {path}\n").exit_code == 0
    assert path.read_text() == f"## hello\n\n{ANSWER}\n"

    again = call("chat", stdin=f"hello again\n/save {path}\n")
    assert again.exit_code == 1
    assert "file exists" in again.stderr
    assert "hello again" not in path.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "gtp"), "did you mean 'gpt'?"),
        (("--pattern", "debat"), "did you mean 'debate'?"),
        (("-m", "gpt", "--panel", "council"), "not both"),
    ],
)
def test_a_wrong_name_is_refused_at_the_door(
    call: Call, engine: Any, words: tuple[str, ...], said: str
) -> None:
    """Before the first line is typed."""
    result = call("chat", *words, stdin="hello\n")

    assert result.exit_code == 2
    assert said in result.stderr


def test_an_interrupted_answer_is_forgotten_and_the_talk_goes_on(
    call: Call, made: Any, engine: Any
) -> None:
    """Ctrl-C takes back the turn, not the conversation."""
    events = made.events()

    async def interrupted_once(request: Any) -> Any:
        engine.requests.append(request)
        if len(engine.requests) == 1:
            raise KeyboardInterrupt
        for event in events:
            yield event

    engine.stream_request = interrupted_once
    result = call(
        "chat",
        stdin="hello\nhello again\n",
    )

    assert "Cancelled" in result.stderr
    assert result.stdout == f"{ANSWER}\n"
    assert len(engine.requests[1].messages) == 1


def test_every_turn_has_the_same_budget(call: Call, engine: Any) -> None:
    """--max-cost is for an answer, not for the conversation."""
    call("chat", "--max-cost", "0.05", stdin="hello\nand now?\n")

    assert [request.max_cost_usd for request in engine.requests] == [Decimal("0.05")] * 2
