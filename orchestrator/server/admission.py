"""How many requests are under way, whether more are let in, and how the last of them are ended."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.clock import Clock
from orchestrator.wire.errors import Refused

CUT_S = 2.0  # what is cut off may take that long to say so
AGAIN_S = 1  # after that long a refused caller may have more luck


class Admission:
    """Counts requests in and out.

    Args:
        most: How many may be under way.
        changed: Is told how many are, whenever that has changed.

    Attributes:
        in_flight: How many are.
        is_draining: Whether no more are let in, because the server is to end.
        is_cut: Whether those under way were ended, too.
    """

    def __init__(self, most: int, changed: Callable[[int], object] = lambda _: None) -> None:
        self._most = most
        self._changed = changed
        self.in_flight = 0
        self.is_draining = False
        self.is_cut = False
        self._cuts: set[Callable[[], object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Let one in, and out again.

        Raises:
            Refused: there are too many, or the server is to end.
        """
        if self.is_draining:
            raise shutting_down()
        if self.in_flight >= self._most:
            raise _unavailable("Too many requests are being answered", "overloaded")
        self.in_flight += 1
        self._changed(self.in_flight)
        self._empty.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._changed(self.in_flight)
            if not self.in_flight:
                self._empty.set()

    @contextmanager
    def cuttable(self, cut: Callable[[], object]) -> Iterator[None]:
        """Know how to end what is waited for inside, should all be cut off."""
        self._cuts.add(cut)
        if self.is_cut:
            cut()
        try:
            yield
        finally:
            self._cuts.discard(cut)

    async def drain(self, clock: Clock, limit_s: float) -> None:
        """Let nobody in any more, and wait until all are out; past the limit they are cut off."""
        self.is_draining = True
        empty = asyncio.ensure_future(self._empty.wait())
        try:
            if not await clock.first_done({empty}, limit_s):
                self.cut()
                await clock.first_done({empty}, CUT_S)
        finally:
            empty.cancel()

    def cut(self) -> None:
        """End whatever is under way now; whoever asked is told why."""
        self.is_draining = self.is_cut = True
        for cut in self._cuts:
            cut()


def shutting_down() -> Refused:
    """What is said to who comes too late, or is not done in time."""
    return _unavailable("The server is shutting down", "shutting_down")


def _unavailable(why: str, code: str) -> Refused:
    return Refused(
        f"{why}; try again in a second",
        status=503,
        kind="server_error",
        code=code,
        headers={"retry-after": str(AGAIN_S)},
    )
