"""One run followed from its first event to its last: what is written where."""

import asyncio
import warnings
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from adapters import StreamBroken
from orchestrator.cli import store
from orchestrator.cli.answers import AnswerStream
from orchestrator.cli.asking import follow
from orchestrator.cli.failures import explain
from orchestrator.cli.live import Silent
from orchestrator.cli.prompting import _completer
from orchestrator.config import RequestConfig
from orchestrator.events import Event, RunFailed, TextDelta, TextReset


def run(engine: Any) -> AsyncGenerator[Event, None]:
    events: AsyncGenerator[Event, None] = engine.stream_request(RequestConfig(prompt="Why?"))
    return events


class Seen(Silent):
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def show(self, event: Any) -> None:
        self.events.append(event)

    def make_room(self) -> None:
        self.events.append("room")


async def test_a_streamed_answer_is_written_as_it_comes(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The watcher makes room once, before the first piece."""
    watcher = Seen()
    response = await follow(run(made.replay(made.events())), watcher, stream=AnswerStream())

    assert capsys.readouterr().out == "Because of Rayleigh scattering.\n"
    assert response == made.response()
    assert watcher.events.count("room") == 1
    assert isinstance(watcher.events[watcher.events.index("room") - 1], TextDelta)


async def test_a_withdrawn_text_is_said_to_be_withdrawn(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands on the screen cannot be taken back, only called what it is."""
    events = made.events()
    events[12:12] = [TextDelta(text="Well, "), TextReset(cause="StreamBroken: cut\n")]
    await follow(run(made.replay(events)), Silent(), stream=AnswerStream())
    out, err = capsys.readouterr()

    assert out == "Well, \nBecause of Rayleigh scattering.\n"
    assert err == ("[the text so far is withdrawn (StreamBroken: cut); another answer follows]\n")


async def test_what_breaks_off_leaves_a_whole_line(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error that follows begins on its own line."""
    broken = [TextDelta(text="Well, "), StreamBroken("cut", partial_text="Well, ")]
    with pytest.raises(StreamBroken):
        await follow(run(made.replay(broken)), Silent(), stream=AnswerStream())

    assert capsys.readouterr().out == "Well, \n"


async def test_a_failed_run_is_named_with_its_error(made: Any) -> None:
    """`show` explains what one line cannot."""
    receipt = made.receipt(status="failed", content="")
    failed = RunFailed(error="StreamBroken", message="cut", receipt=receipt)
    events = [*made.events()[:5], failed, StreamBroken("cut", partial_text="")]
    begun: list[str] = []
    with pytest.raises(StreamBroken) as raised:
        await follow(run(made.replay(events)), Silent(), begun=begun.append)

    assert begun == ["run-0001"]
    assert raised.value.__notes__ == ["`orchestrator show 0001` explains it"]
    assert explain(raised.value).message == "cut; `orchestrator show 0001` explains it"
    assert store.load("0001").receipt == receipt


async def test_a_cancelled_run_closes_its_stream(made: Any) -> None:
    """Closing the stream is what closes the connections below."""
    closed = asyncio.Event()

    async def waiting() -> AsyncGenerator[Event, None]:
        try:
            yield made.events()[0]
            await asyncio.Event().wait()
        finally:
            closed.set()

    begun = asyncio.Event()

    class Noticing(Silent):
        def show(self, event: Any) -> None:
            begun.set()

    with warnings.catch_warnings():
        task = asyncio.create_task(follow(waiting(), Noticing()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert closed.is_set()


def test_the_tabulator_key_completes_commands_and_names() -> None:
    """In a conversation as in a shell."""
    complete = _completer(["/models", "/use", "gpt"])

    assert [complete("/", place) for place in range(3)] == ["/models", "/use", None]
