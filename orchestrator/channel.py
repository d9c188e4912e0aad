"""From the tasks of a run to whoever listens: events in order, and the text they add up to."""

import asyncio

from adapters.types import Chunk, CompletionFold, FinishReason, Logprob, ToolCall
from orchestrator.clock import give_way
from orchestrator.events import Event, ReasoningDelta, TextDelta, TextReset, ToolCallsDelta

EVENTS_WAITING = 256  # more than this, and whoever streams text waits for the listener


class Channel:
    """Events on their way to one listener. Putting never waits; `room` does.

    Without a listener nothing is kept.
    """

    def __init__(self, *, has_listener: bool = True) -> None:
        self._has_listener = has_listener
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        if not self._has_listener:
            return
        self._events.put_nowait(event)
        if self._events.qsize() >= EVENTS_WAITING:
            self._room.clear()

    @property
    def is_full(self) -> bool:
        """Whether the listener is far behind; what it can do without is better left out."""
        return not (self._has_listener and self._room.is_set())

    def close(self) -> None:
        """No more events will come."""
        self._events.put_nowait(None)

    async def room(self) -> None:
        """Let the listener have what was put; wait while it is far behind."""
        if not self._has_listener:
            return
        if self._room.is_set():
            await give_way()  # else a burst would be with us before its first word is heard
        else:
            await self._room.wait()

    async def get(self) -> Event | None:
        """The next event; None when there are no more."""
        event = await self._events.get()
        if self._events.qsize() < EVENTS_WAITING:
            self._room.set()
        return event


class Delivery:
    """The answer as it is handed out: what was put into the channel since the last reset."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._fold = CompletionFold()
        self._started = False
        self._is_joined = False

    @property
    def has_begun(self) -> bool:
        """Whether the listener has seen a part of the answer that still stands."""
        return self._started

    @property
    def content(self) -> str:
        return self._fold.text

    @property
    def reasoning(self) -> str:
        return self._fold.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return self._fold.tool_calls

    @property
    def logprobs(self) -> tuple[Logprob, ...]:
        """Of the whole answer, or none: they end where another model goes on with it."""
        return () if self._is_joined else self._fold.logprobs

    @property
    def finish_reason(self) -> FinishReason:
        return self._fold.finish_reason or "stop"

    @property
    def stop_sequence(self) -> str | None:
        return self._fold.stop_sequence

    async def add(self, chunk: Chunk) -> None:
        """Hand on a piece of the answer."""
        self._fold.add(chunk)
        self._started = self._started or chunk.has_content
        if chunk.reasoning:
            self._channel.put(ReasoningDelta(text=chunk.reasoning))
        if chunk.text or chunk.logprobs:
            self._channel.put(TextDelta(text=chunk.text, logprobs=chunk.logprobs))
        if chunk.tool_calls:
            self._channel.put(ToolCallsDelta(tool_calls=chunk.tool_calls))
        await self._channel.room()

    def join(self) -> None:
        """Another attempt goes on with what was handed out."""
        self._is_joined = True

    def withdraw(self, cause: str) -> None:
        """Take back what was handed out; nothing happens if nothing was."""
        if self._started:
            self._channel.put(TextReset(cause=cause))
        self._fold = CompletionFold()
        self._started = self._is_joined = False

    def replace(self, text: str, finish_reason: FinishReason, cause: str) -> None:
        """Make this text the whole answer, whatever was handed out before."""
        self.withdraw(cause)
        self._fold.add(Chunk(text=text, finish_reason=finish_reason))
        self._started = bool(text)
        if text:
            self._channel.put(TextDelta(text=text))
