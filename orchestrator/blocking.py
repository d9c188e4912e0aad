"""One event loop in a thread of its own, for those who do not await: the same code, waited for.

There is one a process, begun when it is first needed. It survives that many threads use it, that
the process forks (the child begins its own), and that the interpreter ends: what was to be closed
is closed then, though not waited for for ever.
"""

import asyncio
import atexit
import concurrent.futures
import os
import selectors
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
Closer = Callable[[], Coroutine[Any, Any, None]]

_inherited: list[AbstractEventLoop] = []  # loops of the parent: to collect one would close it

EXIT_S = 3.0  # what closing everything may take at the interpreter's end, together


class LoopThread:
    """An event loop that goes on beside whoever calls.

    >>> thread = LoopThread()
    >>> async def answer() -> int:
    ...     return 42
    >>> thread.run(answer())
    42
    >>> thread.stop()
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # collecting garbage may come back to it
        self._is_over = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._loop: AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers: set[Closer] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """In the child of a fork: nothing of the parent's thread is here, but its loop's memory.

        The kernel's list of what the loop listens to is one for both processes: a connection that
        the child dropped would be taken off it for the parent as well.
        """
        if self._loop is not None:
            self._selector.close()
            _inherited.append(self._loop)
        self._lock = threading.RLock()  # collecting garbage may come back to it
        self._begin()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the loop, and wait for what it comes to.

        Whoever waits can be interrupted (Ctrl-C): then the work is cancelled.
        """
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            if self._is_over and threading.current_thread().daemon:
                threading.Event().wait()  # the interpreter ends, and this thread with it

    def submit(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Begin it in the loop."""
        if self.is_current():
            work.close()
            raise RuntimeError(
                "This is the event loop's own thread, which must not wait for itself; "
                "use the asynchronous client here"
            )
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def finish(self, make: Closer, *, waits: bool = True) -> None:
        """Have something ended, and wait for that where one can.

        Whatever thread collects garbage may come here, the loop's own one included, and at the
        very end of the interpreter, when there is no loop any more and nothing left to end.
        """
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            return
        if self.is_current():
            task = loop.create_task(make())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            return
        ending = self.submit(make())
        if waits:
            with suppress(concurrent.futures.CancelledError):
                ending.result()

    def is_current(self) -> bool:
        """Whether this is the loop's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def at_exit(self, closer: Closer) -> None:
        """Have something closed at the interpreter's end; once, however often this is said."""
        self._running()
        self._closers.add(closer)

    def forget_closer(self, closer: Closer) -> None:
        """It is closed already."""
        self._closers.discard(closer)

    def exit(self) -> None:
        """The interpreter ends: whoever still waits in a daemon thread has nobody to tell."""
        self._is_over = True
        self.stop()

    def stop(self) -> None:
        """Close what is to be closed, end the loop and its thread. It may be begun again."""
        with self._lock:
            loop, thread, closers = self._loop, self._thread, list(self._closers)
            pid = self._pid
            self._begin()
        if loop is None or thread is None or pid != os.getpid() or not thread.is_alive():
            return
        with suppress(TimeoutError, RuntimeError):
            asyncio.run_coroutine_threadsafe(_close_all(closers), loop).result(EXIT_S + 1)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(EXIT_S)

    def _running(self) -> AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._selector = _Selector()
                loop = self._loop = asyncio.SelectorEventLoop(self._selector)
                self._thread = threading.Thread(
                    target=_serve, args=(loop,), name="orchestrator-loop", daemon=True
                )
                self._thread.start()
            return self._loop


class _Selector(selectors.DefaultSelector):
    """One that, once closed, has nothing left to take off."""

    def get_map(self) -> Any:
        return super().get_map() or {}


def _serve(loop: AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _close_all(closers: Sequence[Closer]) -> None:
    """Close them all at once; what goes wrong then helps nobody any more."""
    closing = [asyncio.ensure_future(closer()) for closer in closers]
    if closing:
        _, late = await asyncio.wait(closing, timeout=EXIT_S)
        for one in late:
            one.cancel()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=1.0)
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await asyncio.get_running_loop().shutdown_asyncgens()
    for one in closing:
        if one.done() and not one.cancelled():
            one.exception()


THREAD = LoopThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=THREAD.forget)
atexit.register(THREAD.exit)
