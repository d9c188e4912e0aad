"""The limits of one call that count content, not bytes: first content, gap, total."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from adapters.errors import About, ProviderTimeout
from adapters.types import Chunk, Limits


class Clocks:
    """The limits of one call that count content: first content, gap, total."""

    def __init__(self, about: About, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._about = about
        self._limits = limits
        now = self._loop.time()
        self._end = now + limits.total_s
        self._next_content = now + limits.first_content_s
        self._waiting_for = f"no content within {limits.first_content_s:g} s"

    def total(self) -> AbstractAsyncContextManager[None]:
        """Bounds a plain call."""
        return self._bound(self._end)

    def content(self) -> AbstractAsyncContextManager[None]:
        """Bounds one wait for content."""
        return self._bound(min(self._end, self._next_content))

    async def watch(self, pieces: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """The same pieces; `ProviderTimeout` when content stays away. Empty ones do not count."""
        while True:
            async with self.content():
                try:
                    chunk = await anext(pieces)
                except StopAsyncIteration:
                    return
            yield chunk
            if chunk.has_content:  # counted from here: a slow reader is not the provider's fault
                self._next_content = self._loop.time() + self._limits.gap_s
                self._waiting_for = f"no more content for {self._limits.gap_s:g} s"

    @asynccontextmanager
    async def _bound(self, when: float) -> AsyncIterator[None]:
        scope = asyncio.timeout_at(when)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            late = self._loop.time() >= self._end
            message = (
                f"not finished after {self._limits.total_s:g} s" if late else self._waiting_for
            )
            raise ProviderTimeout(message, **self._about) from error
