"""One run as the command line sees it: events to the watcher, the answer to stdout."""

import asyncio
import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Protocol

import click

from orchestrator.breaker import BreakerState
from orchestrator.budget import Quote
from orchestrator.cli import store
from orchestrator.cli.answers import AnswerStream
from orchestrator.cli.failures import explain
from orchestrator.cli.live import Watcher
from orchestrator.cli.notes import warn
from orchestrator.cli.progress import closing_line, shortfalls, withdrawal
from orchestrator.cli.text import program
from orchestrator.config import RequestConfig
from orchestrator.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, TextReset
from orchestrator.responses import OrchestratorResponse, Receipt


class Engine(Protocol):
    """What the command line needs of an orchestrator."""

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]: ...

    def resume_request(self, run_id: str) -> AsyncGenerator[Event, None]: ...

    async def quote(self, request: RequestConfig) -> Quote: ...

    def breakers(self) -> Mapping[str, BreakerState]: ...


async def follow(
    events: AsyncGenerator[Event, None],
    watcher: Watcher,
    *,
    stream: AnswerStream | None = None,
    begun: Callable[[str], None] = lambda _: None,
) -> OrchestratorResponse:
    """Follow a run to its end and return the response.

    Args:
        events: The run.
        watcher: Is shown every event.
        stream: Where to write the answer as it comes; None keeps it for the end.
        begun: Is told the run's id as soon as it has one.
    """
    response: OrchestratorResponse | None = None
    with _whole_lines(stream), watcher, _quiet_when_cancelled(), _naming_the_run() as failed:
        async with aclosing(events):
            async for event in events:
                watcher.show(event)
                match event:
                    case RunStarted():
                        begun(event.run_id)
                    case RunFailed():
                        failed.append(event.receipt)
                    case RunFinished():
                        response = event.response
                    case _ if stream is not None:
                        _pass_on(event, watcher, stream)
    assert response is not None, "a run ends with RunFinished or with an error"
    return response


@contextmanager
def _naming_the_run() -> Iterator[list[Receipt]]:
    """Say with the error of a run where its receipt is. Whoever has that puts it into the list."""
    failed: list[Receipt] = []
    try:
        yield failed
    except Exception as error:
        for receipt in failed:
            if store.is_kept(receipt.run_id):
                error.add_note(f"`{program()} show {store.short(receipt.run_id)}` explains it")
        raise


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


def keep(receipt: Receipt, path: Path) -> bool:
    """Write a receipt to a file; a disk that refuses is said aloud and costs nobody the answer."""
    try:
        store.write_private(path, store.as_text(receipt).encode())
    except (OSError, ValueError) as error:
        warn(f"the receipt could not be saved: {explain(error).message}")
        return False
    return True


def warn_of_shortfalls(response: OrchestratorResponse) -> None:
    """Say on stderr why an answer is not all it was meant to be."""
    for line in shortfalls(response):
        warn(line)


def print_status(response: OrchestratorResponse) -> None:
    """The last line of a run, on stderr; on a terminal it stands apart from the answer."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        click.echo(err=True)
    run_id = response.receipt.run_id
    then = f"{program()} show {store.short(run_id)}"
    then = then if store.is_kept(run_id) else "receipt not saved"
    click.echo(f"{closing_line(response)} · {then}", err=True)
