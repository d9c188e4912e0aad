"""One run as the command line sees it: events to the watcher, the answer to stdout, a receipt."""

import asyncio
import dataclasses
import sys
import warnings
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Protocol

import click

from orchestrator.cli import store
from orchestrator.cli.answers import AnswerStream
from orchestrator.cli.failures import explain
from orchestrator.cli.live import Watcher
from orchestrator.cli.notes import warn
from orchestrator.cli.progress import closing_line, shortfalls, withdrawal
from orchestrator.cli.text import program
from orchestrator.config import RequestConfig
from orchestrator.events import Event, RunFinished, TextDelta, TextReset
from orchestrator.responses import OrchestratorResponse


class Engine(Protocol):
    """What a run needs of an orchestrator."""

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]: ...


async def follow(
    engine: Engine,
    request: RequestConfig,
    watcher: Watcher,
    *,
    stream: AnswerStream | None = None,
    notes: tuple[str, ...] = (),
) -> OrchestratorResponse:
    """Run a request to its end and return the response.

    Args:
        engine: The orchestrator.
        request: What to ask.
        watcher: Is shown every event.
        stream: Where to write the answer as it comes; None keeps it for the end.
        notes: What the receipt is to say about the run besides what the engine knows.
    """
    response: OrchestratorResponse | None = None
    with _whole_lines(stream), watcher, _quiet_when_cancelled():
        async with aclosing(engine.stream_request(request)) as events:
            async for event in events:
                watcher.show(event)
                if isinstance(event, RunFinished):
                    response = event.response
                elif stream is not None:
                    _pass_on(event, watcher, stream)
    assert response is not None, "a run ends with RunFinished or with an error"
    return annotate(response, notes) if notes else response


@contextmanager
def _whole_lines(stream: AnswerStream | None) -> Iterator[None]:
    """What follows an answer, or what is left of one that broke off, begins on its own line."""
    try:
        yield
    finally:
        if stream is not None:
            stream.finish()


@contextmanager
def _quiet_when_cancelled() -> Iterator[None]:
    """Ctrl-C can leave coroutines that litellm made and never began: no news to who pressed it."""
    try:
        yield
    except asyncio.CancelledError:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise


def _pass_on(event: Event, watcher: Watcher, stream: AnswerStream) -> None:
    match event:
        case TextDelta():
            if not stream.wrote:
                watcher.make_room()
            stream.write(event.text)
        case TextReset() if stream.wrote:
            stream.finish()
            click.echo(f"[{withdrawal(event)}]", err=True)
        case _:
            pass


def annotate(response: OrchestratorResponse, notes: tuple[str, ...]) -> OrchestratorResponse:
    """The same response, with more notes in its receipt."""
    receipt = response.receipt
    noted = dataclasses.replace(receipt, notes=(*notes, *receipt.notes))
    return dataclasses.replace(response, receipt=noted)


def keep(response: OrchestratorResponse, also: Path | None = None) -> bool:
    """Save the receipt; a disk that refuses is said aloud and costs nobody the answer."""
    try:
        store.save(response.receipt)
        if also is not None:
            store.write_private(also, response.receipt.to_json())
    except (OSError, ValueError) as error:
        warn(f"the receipt could not be saved: {explain(error).message}")
        return False
    return True


def warn_of_shortfalls(response: OrchestratorResponse) -> None:
    """Say on stderr why an answer is not all it was meant to be."""
    for line in shortfalls(response):
        warn(line)


def print_status(response: OrchestratorResponse, *, saved: bool) -> None:
    """The last line of a run, on stderr; on a terminal it stands apart from the answer."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        click.echo(err=True)
    then = f"{program()} show {store.short(response.receipt.run_id)}"
    click.echo(f"{closing_line(response)} · {then if saved else 'receipt not saved'}", err=True)
