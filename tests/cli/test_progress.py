"""Progress: the board folded from events, the lines of a log, the closing words."""

import dataclasses
from typing import Any

import pytest
from rich.console import Console
from rich.spinner import Spinner

from adapters import Usage
from orchestrator.cli.live import LiveBoard, LogLines, Silent, draw, watcher
from orchestrator.cli.progress import (
    SIMULATED,
    Board,
    closing_line,
    log_line,
    shortfalls,
    spent,
)
from orchestrator.events import (
    AdapterLoading,
    AttemptFinished,
    AttemptFollows,
    AttemptStarted,
    BudgetShrunk,
    StageStarted,
    TextReset,
)
from orchestrator.responses import MemberResponse


def drawn(board: Board) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(draw(board, Spinner("dots")))
    return console.export_text()


def test_the_board_shows_every_member_of_the_running_stage(made: Any) -> None:
    """Who is still being waited for is what a waiting user wants to know."""
    board = Board()
    for event in made.events()[:8]:
        board.apply(event)
    picture = drawn(board)

    assert "council · compare · 3 members" in picture
    assert "✓ gpt" in picture
    assert "20 tokens" in picture
    assert "gemini" in picture
    assert "waiting" in picture
    assert "· write" in picture


def test_the_board_shows_a_failure_with_its_cause(made: Any) -> None:
    """A red cross alone explains nothing."""
    board = Board()
    for event in made.events()[:9]:
        board.apply(event)

    assert "RateLimited: slow down" in drawn(board)


def test_an_ended_stage_is_one_line(made: Any) -> None:
    """The board stays small enough for a small terminal."""
    board = Board()
    for event in made.events()[:11]:
        board.apply(event)
    picture = drawn(board)

    assert "✓ answer" in picture
    assert "gemini" not in picture


def test_rounds_of_one_stage_are_kept_apart() -> None:
    """A debate repeats a stage; its second round starts from nothing."""
    board = Board()
    board.apply(StageStarted(stage="debate", index=0, total=2, members=("gpt",)))
    board.apply(
        AttemptFinished(
            stage="debate",
            member="gpt",
            deployment="gpt",
            usable=True,
            finish_reason="stop",
            usage=Usage(),
            elapsed_s=1,
        )
    )
    board.apply(StageStarted(stage="debate", index=1, total=2, members=("gpt",)))

    assert [stage.answered for stage in board.stages] == [1, 0]


def test_withdrawn_text_is_not_counted(made: Any) -> None:
    """The board counts the answer that stands."""
    board = Board()
    for event in made.events():
        board.apply(event)
    written = board.written
    board.apply(TextReset(cause="StreamBroken"))

    assert (written, board.written) == (31, 0)


def test_the_log_has_a_line_for_what_matters(made: Any) -> None:
    """Where stderr is a file, progress is a log."""
    lines = [line for line in map(log_line, made.events()) if line]

    assert lines == [
        "run run-0001: council · compare: asking gpt, gemini, claude",
        "stage answer (1 of 2) begins",
        "answer: gpt answered, 20 tokens, 0.40 s",
        "answer: gemini answered, 20 tokens, 0.40 s",
        "answer: claude failed after 0.40 s: RateLimited: slow down",
        "stage answer ok in 0.50 s: 2 of 3",
        "stage write (2 of 2) begins",
        "write: gpt answered, 20 tokens, 0.50 s",
        "stage write ok in 0.50 s",
    ]


def test_a_providers_message_cannot_forge_lines_of_the_log(made: Any) -> None:
    """An error message is text from outside like any other."""
    failed = dataclasses.replace(made.events()[8], message="x\n\x1b[2Jstage write ok in 0 s")

    assert log_line(failed) == (
        "answer: claude failed after 0.40 s: RateLimited: x [2Jstage write ok in 0 s"
    )


def test_the_closing_line_counts_members_calls_and_tokens(made: Any) -> None:
    """The one line everybody reads."""
    response = made.response()

    assert closing_line(response) == (
        "complete · 2 of 3 members · 4 calls · 60 tokens · $0.0123 · 1.00 s"
    )


def test_estimated_tokens_are_called_estimated(made: Any) -> None:
    """A figure of ours is not passed off as the provider's."""
    response = made.response(made.receipt(usage=Usage(prompt_tokens=1, estimated=True)))

    assert "1 token (partly estimated)" in closing_line(response)


def test_a_lesser_answer_is_announced_with_its_causes(made: Any) -> None:
    """Degraded is said, never hidden."""
    response = made.response(made.receipt(status="degraded", causes=("quorum not met", "late")))

    assert shortfalls(made.response()) == []
    assert shortfalls(response) == [
        "the answer is degraded: quorum not met",
        "late",
        "missing: claude",
    ]


def test_the_refusal_of_one_model_is_called_one(made: Any) -> None:
    """Its words are all there is to show; a panel says so in its status and causes."""
    alone = made.receipt(pattern="", missing=(), stages=())
    response = dataclasses.replace(
        made.response(),
        receipt=alone,
        model_responses={"gpt": MemberResponse(member="gpt", deployment="gpt")},
    )

    assert shortfalls(response) == ["gpt declined to answer; its words are given as they are"]
    assert shortfalls(made.response()) == []


def test_a_member_is_named_once_in_its_failure(made: Any) -> None:
    """An adapter's message begins with the deployment, which mostly is the member."""
    failed = dataclasses.replace(made.events()[8], message="claude: slow down")

    assert log_line(failed) == "answer: claude failed after 0.40 s: RateLimited: slow down"


def test_quiet_shows_nothing_and_a_file_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The board is for terminals."""
    assert isinstance(watcher(quiet=True), Silent)
    assert isinstance(watcher(quiet=False), LogLines)


def test_a_plain_screen_shows_no_log_within_the_answer(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log in a file goes on; on one screen the two would run into each other."""
    for on_screen, more in ((True, ""), (False, "stage write ok in 0.50 s\n")):
        log = LogLines(on_screen=on_screen)
        log.make_room()
        log.show(made.events()[-2])

        assert capsys.readouterr().err == more


def test_the_live_board_leaves_its_last_state_on_the_screen(made: Any) -> None:
    """What was done stays readable above the answer."""
    console = Console(width=100, force_terminal=True, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file, LiveBoard(console) as board:
        for event in made.events():
            board.show(event)
        board.make_room()

    assert "✓ write" in console.export_text().splitlines()[-2]


@pytest.mark.parametrize(
    ("how", "wait_s", "said"),
    [
        ("retry", 1.2, "retry in 1.20 s"),
        ("retry", 0.0, "retry at once"),
        ("fallback", 0.0, "fallback to claude"),
        ("continuation", 0.0, "continued by claude"),
        ("hedge", 0.0, "no answer within 2 s: asking claude as well"),
    ],
)
def test_what_follows_a_failure_is_said(made: Any, how: Any, wait_s: float, said: str) -> None:
    """In the log, and on the board until the next attempt has begun."""
    about = {"stage": "answer", "member": "claude"}
    follows = AttemptFollows(
        **about, deployment="claude", wait_s=wait_s, how=how, cause="no answer within 2 s"
    )
    board = Board()
    for event in (*made.events()[:9], follows):
        board.apply(event)

    assert log_line(follows) == f"answer: claude: {said}"
    assert said in drawn(board)
    board.apply(AttemptStarted(**about, deployment="claude", attempt=2))
    assert said not in drawn(board)


def test_a_member_whose_adapter_loads_is_said_to(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes seconds in which nothing else happens; one line is enough for all of them."""
    loading = AdapterLoading(stage="answer", member="gpt", deployment="gpt")
    loaded = dataclasses.replace(loading, is_done=True)
    board, log = Board(), LogLines()
    for event in (*made.events()[:3], loading, loading):
        board.apply(event)
        log.show(event)

    assert "loading the engine" in drawn(board)
    assert capsys.readouterr().err.count("loading the engine") == 1
    board.apply(loaded)
    assert log_line(loaded) is None
    assert "loading the engine" not in drawn(board)


def test_the_board_shows_what_gave_way_and_what_is_expected(made: Any) -> None:
    """Before the first call, where it can be seen."""
    board = Board()
    board.apply(made.events()[0])
    board.expected = "4 calls, about $0.01"
    board.apply(BudgetShrunk(steps=("not asked: mistral",)))

    assert "council · compare · 3 members · 4 calls, about $0.01" in drawn(board)
    assert "! not asked: mistral" in drawn(board)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "$0.0123"),
        ({"cost_nanousd": 0}, "$0.00"),
        ({"calls": 0, "cost_nanousd": 0}, "cached"),
        ({"calls": 0, "status": "failed"}, "nothing called"),
        ({"unpriced": ("gpt",)}, "~$0.0123"),
        ({"unpriced": ("gpt",), "cost_nanousd": 0}, "price unknown"),
        ({"usage": Usage(prompt_tokens=1, estimated=True)}, "~$0.0123"),
        ({"notes": (SIMULATED,)}, "simulated"),
    ],
)
def test_what_was_spent_is_said_as_exactly_as_it_is_known(
    made: Any, changes: dict[str, Any], said: str
) -> None:
    """A ~ stands for what was estimated, or is missing in the sum."""
    assert spent(made.receipt(**changes)) == said


def test_what_gave_way_is_told_once(made: Any) -> None:
    """A cause says it already where it made the answer a lesser one."""
    shrunk = {"shrunk": ("not asked: mistral",)}
    lesser = {"status": "degraded", "causes": ("budget: not asked: mistral",), "missing": ()}

    assert shortfalls(made.response(made.receipt(**shrunk))) == [
        "to fit the budget: not asked: mistral"
    ]
    assert shortfalls(made.response(made.receipt(**shrunk, **lesser))) == [
        "the answer is degraded: budget: not asked: mistral"
    ]
