"""Cancel a piece of work at its n-th suspension, in whichever of its tasks that is."""

import asyncio
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from types import CoroutineType, coroutine
from typing import Any, Literal

Who = Literal["the caller", "the caller, twice", "whoever waits"]
WHO: tuple[Who, ...] = ("the caller", "the caller, twice", "whoever waits")


@dataclass
class Cancelling:
    """Counts how often a task, or one that it has started, waits; cancels somebody at one of them.

    Attributes:
        at: At which of them.
        who: Who is cancelled: the task that was started first, or the one that waits.
        count: How many there have been.
        caller: The task that was started first.
    """

    at: int
    who: Who
    count: int = 0
    caller: "Task[Any] | None" = None

    def suspended(self) -> None:
        self.count += 1
        if self.who == "whoever waits":
            waiting = asyncio.current_task()
            if self.count == self.at and waiting is not None:
                waiting.cancel()
        elif self.caller is not None:
            again = self.who == "the caller, twice" and self.count == self.at + 1
            if self.count == self.at or again:
                self.caller.cancel()


_cancelling: ContextVar[Cancelling | None] = ContextVar("_cancelling", default=None)


async def cancel_at(
    at: int, who: Who, work: Callable[[], Coroutine[Any, Any, Any]]
) -> tuple[bool, BaseException | None]:
    """Do this and cancel somebody at that suspension; whether it came so far, and its error."""
    loop = asyncio.get_running_loop()
    found = Cancelling(at, who)
    token = _cancelling.set(found)
    loop.set_task_factory(_counting_task)
    try:
        found.caller = asyncio.create_task(work())
        await asyncio.wait({found.caller})
    finally:
        loop.set_task_factory(None)
        _cancelling.reset(token)
    if found.caller.cancelled():
        return True, asyncio.CancelledError()
    return found.count >= at, found.caller.exception()


def _counting_task(
    loop: AbstractEventLoop, work: Any, *, context: Context | None = None
) -> "Task[Any]":
    """Makes tasks as the loop does; those begun by what is watched are watched too.

    What closes a generator that is garbage was begun by nobody, whoever runs at that moment.
    """
    found = _cancelling.get()
    if found is None or not isinstance(work, CoroutineType):
        return Task(work, loop=loop, context=context)
    counted = _counted(work, found)
    counted.__qualname__ = work.__qualname__
    return Task(counted, loop=loop, context=context)


async def _counted(work: Coroutine[Any, Any, Any], found: Cancelling) -> Any:
    try:
        return await _steps(work, found)
    finally:
        work.close()


@coroutine
def _steps(work: Coroutine[Any, Any, Any], found: Cancelling) -> Generator[Any, Any, Any]:
    """Run a coroutine as a task would, and take note of every suspension."""
    go_on: Callable[[Any], Any] = work.send
    value: Any = None
    while True:
        try:
            waited_for = go_on(value)
        except StopIteration as end:
            return end.value
        found.suspended()
        try:
            value, go_on = (yield waited_for), work.send
        except BaseException as error:  # noqa: BLE001 - whatever the task is told, it is told on
            value, go_on = error, work.throw
