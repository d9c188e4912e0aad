"""MockAdapter: an adapter whose answers are written down. Needs no network and no litellm."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from random import Random

from adapters._embedding import read_vectors
from adapters.base import BaseAdapter
from adapters.config import LLMProvider, ModelConfig
from adapters.errors import ProviderError, ProviderTimeout, StreamBroken
from adapters.types import (
    Chunk,
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    Limits,
    Logprob,
    ToolCall,
    Usage,
    collect,
)
from adapters.types import ToolCallDelta as Delta

DIMENSIONS = 8  # of a vector, where nobody says


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One scripted answer.

    `delay_s` comes before the first content, `gap_s` between two pieces. `cut_after` breaks the
    stream off after that many characters, with `error` if there is one; without `cut_after`,
    `error` is raised instead of an answer. `usage` is reported as it stands, true or not.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Logprob, ...] = ()  # told with the first piece of the text
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
    usage: Usage | None = None
    model: str | None = None  # the one that says it answered, if it is not the one asked
    delay_s: float = 0.0
    gap_s: float = 0.0
    cut_after: int | None = None
    error: ProviderError | None = None


Script = Sequence[Reply | str | ProviderError] | Callable[[CompletionRequest], Reply | str]


class MockAdapter(BaseAdapter):
    """Answers from a script, in order, the last one again and again; or from a function.

    >>> import asyncio
    >>> adapter = MockAdapter(["Paris."])
    >>> asyncio.run(adapter.generate("Capital of France?"))
    'Paris.'

    Attributes:
        requests: Every request it was given, oldest first.
        embedded: Every request for embeddings, likewise.
    """

    def __init__(
        self,
        script: Script = ("mock answer",),
        *,
        config: ModelConfig | None = None,
        deployment: str = "mock",
        chunk_characters: int = 8,
        sleep: Callable[[float], object] = asyncio.sleep,
    ) -> None:
        super().__init__(
            config
            or ModelConfig(
                provider=LLMProvider.CUSTOM, model="mock", api_base="http://mock.invalid/v1"
            ),
            deployment=deployment,
        )
        self.requests: list[CompletionRequest] = []
        self.embedded: list[EmbeddingRequest] = []
        self._script = script
        self._chunk_characters = chunk_characters
        self._sleep = sleep

    def is_available(self) -> bool:
        return True

    def _next_reply(self, request: CompletionRequest) -> Reply:
        position = len(self.requests)
        self.requests.append(request)
        if callable(self._script):
            entry: Reply | str | ProviderError = self._script(request)
        else:
            entry = self._script[min(position, len(self._script) - 1)]
        if isinstance(entry, ProviderError):
            return Reply(error=entry)
        return Reply(text=entry) if isinstance(entry, str) else entry

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        return await collect(self.stream(request, limits=limits))

    async def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        reply = self._next_reply(request)
        model = reply.model or self.config.model
        first = f"no content within {limits.first_content_s:g} s"
        await self._wait(reply.delay_s, limits.first_content_s, first)
        if reply.error is not None and reply.cut_after is None:
            raise reply.error
        if reply.reasoning:
            yield Chunk(reasoning=reply.reasoning, model=model)
        text = reply.text if reply.cut_after is None else reply.text[: reply.cut_after]
        for start in range(0, len(text), self._chunk_characters):
            if start:
                more = f"no more content for {limits.gap_s:g} s"
                await self._wait(reply.gap_s, limits.gap_s, more)
            piece = text[start : start + self._chunk_characters]
            yield Chunk(text=piece, model=model, logprobs=() if start else reply.logprobs)
        if reply.cut_after is not None:
            raise self._cut(reply, text)
        for index, call in enumerate(reply.tool_calls):
            yield Chunk(
                tool_calls=(
                    Delta(index=index, id=call.id, name=call.name, arguments=call.arguments),
                )
            )
        yield Chunk(
            finish_reason=reply.finish_reason,
            usage=reply.usage or self._count(request, reply),
            model=model,
            stop_sequence=reply.stop_sequence,
        )

    async def embed(self, request: EmbeddingRequest, *, limits: Limits = Limits()) -> Embeddings:
        """Vectors that depend on their inputs alone. Of the script only its errors are used."""
        position = len(self.embedded)
        self.embedded.append(request)
        if not callable(self._script):
            entry = self._script[min(position, len(self._script) - 1)]
            if isinstance(entry, ProviderError):
                raise entry
        found = [_vector(one, request.dimensions or DIMENSIONS) for one in request.inputs]
        return Embeddings(
            vectors=read_vectors(found, request),
            model=self.config.model,
            usage=Usage(prompt_tokens=sum(map(_words, request.inputs))),
        )

    async def _wait(self, seconds: float, limit_s: float, message: str) -> None:
        if seconds > limit_s:
            raise ProviderTimeout(message, **self.named())
        if seconds:
            waiting = self._sleep(seconds)
            if asyncio.iscoroutine(waiting):
                await waiting

    def _cut(self, reply: Reply, text: str) -> ProviderError:
        if reply.error is not None:
            return reply.error
        error = StreamBroken("the stream ended before its end", partial_text=text, **self.named())
        error.usage = reply.usage
        return error

    def _count(self, request: CompletionRequest, reply: Reply) -> Usage:
        words = sum(len(str(message.get("content", "")).split()) for message in request.messages)
        return Usage(prompt_tokens=words, completion_tokens=len(reply.text.split()))


def _vector(of: str | Sequence[int], dimensions: int) -> list[float]:
    """Numbers between -1 and 1 that look like chance, each one that 32 bits can hold."""
    rng = Random(repr(of))
    return [rng.randrange(-1024, 1025) / 1024 for _ in range(dimensions)]


def _words(of: str | Sequence[int]) -> int:
    return len(of.split()) if isinstance(of, str) else len(of)
